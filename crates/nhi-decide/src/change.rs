//! What a decision wants written to the state bucket. It does not write.

use nhi_model::{envelope::Stale, key::Key};
use serde_json::Value;

/// One change of one record. A list of changes names a key once.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The record.
    pub key: Key,
    /// The revision the decision was made on; 0 when there must be none.
    pub expected: u64,
    /// What to do.
    pub what: What,
}

/// What to do with a record.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// Write it, fresh or marked stale.
    Put {
        /// The record.
        record: Value,
        /// Why it may be out of date.
        stale: Option<Stale>,
    },
    /// Take it out of the state: a delete marker, the versions before stay.
    Retire,
}
