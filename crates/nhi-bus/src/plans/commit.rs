//! Writing rows: everything that belongs to one step of acting lands in one atomic batch, or nothing does.

use super::{PlansError, stream, value};
use crate::{
    connect::Bus,
    store::batch::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, Batch, LandError, Prepared, deadline, land},
};
use nhi_model::{Timestamp, envelope::OpId, plans::PlansKey, subject};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// Largest row, bytes of JSON: a plan of 500 steps, and its run with the whole journal, fit.
pub const VALUE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A row to be written or removed.
#[derive(Clone, Debug, PartialEq)]
pub struct PlansChange {
    /// Which.
    pub key: PlansKey,
    /// The revision it was decided on; 0 means that there is no such row.
    pub expected: u64,
    /// Its new value; absent for one that goes.
    pub value: Option<Value>,
}

impl PlansChange {
    /// Writes a row.
    ///
    /// # Panics
    /// Never for types of `nhi-model`: they are JSON.
    pub fn put<T: Serialize>(key: PlansKey, expected: u64, value: &T) -> Self {
        let value = serde_json::to_value(value).expect("a row is made of JSON types");
        Self { key, expected, value: Some(value) }
    }

    /// Removes a row.
    pub const fn remove(key: PlansKey, expected: u64) -> Self {
        Self { key, expected, value: None }
    }
}

impl From<LandError> for PlansError {
    fn from(error: LandError) -> Self {
        match error {
            LandError::Conflict { subject, expected, found } => {
                let key = subject::plans_key_of(&subject).expect("the subject was made of a key");
                Self::Conflict { key, expected, found }
            }
            LandError::Refused { subject } => Self::Refused { subject },
            LandError::Disconnected => Self::Disconnected,
            LandError::Store(source) => Self::Store(source),
            LandError::Unknown { op, source } => Self::Unknown { op, source },
        }
    }
}

/// Writes rows in one atomic batch, and returns its revision; 0 when there is nothing to write. A row of the batch
/// has the revision of its own place in it: `revision - changes.len() + 1 + place`.
///
/// A change that expects nothing also succeeds on a row that was removed. An `op` that was committed before is
/// recognised, as long as nobody wrote the rows since, so that a lost answer is no conflict.
///
/// # Errors
/// [`PlansError`]. Not cancel safe: what was sent may be written.
pub async fn commit(bus: &Bus, op: &OpId, at: Timestamp, changes: &[PlansChange]) -> Result<u64, PlansError> {
    let messages = prepare(op, at, changes)?;
    if messages.is_empty() {
        return Ok(0);
    }
    let batch = Batch { op: op.clone(), messages };
    Ok(land(bus, &stream(), batch, deadline()).await?)
}

/// Everything that can be refused without asking the server is refused here, before the first message.
fn prepare(op: &OpId, at: Timestamp, changes: &[PlansChange]) -> Result<Vec<Prepared>, PlansError> {
    let mut keys = BTreeSet::new();
    let mut messages = Vec::with_capacity(changes.len());
    let mut bytes = 0;
    for PlansChange { key, expected, value } in changes {
        if !keys.insert(key) {
            return Err(PlansError::Twice { key: key.clone() });
        }
        let subject = subject::plans(key);
        let message = match value {
            Some(value) => Prepared::put(subject, *expected, value::write(op, at, value)),
            None if *expected == 0 => return Err(PlansError::RemovesNothing { key: key.clone() }),
            None => Prepared::marker(subject, *expected, op, at),
        };
        if message.body.len() > VALUE_BYTES_MAX {
            return Err(PlansError::TooLarge { key: key.clone(), bytes: message.body.len() });
        }
        bytes += message.body.len();
        messages.push(message);
    }
    if messages.len() > BATCH_MESSAGES_MAX || bytes > BATCH_BYTES_MAX {
        return Err(PlansError::TooMany { rows: messages.len(), bytes });
    }
    Ok(messages)
}
