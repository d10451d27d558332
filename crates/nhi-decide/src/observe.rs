//! From an observation to changes of the state: the only place that retires a record or marks it stale.
//!
//! It never reads a clock: all time comes with the observation. It writes nothing.

use crate::{
    change::Change,
    observation::{GuestRef, Observation},
};
use nhi_model::{envelope::Stale, key::Key};
use serde_json::Value;
use std::collections::BTreeMap;

/// A record as the state holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// Its revision.
    pub revision: u64,
    /// The record.
    pub record: Value,
    /// Why it may be out of date, when it may be.
    pub stale: Option<Stale>,
}

/// The changes an observation means for what is known. Each key occurs once; equal inputs give none.
///
/// `known` may hold the whole state; records of other clusters and writers are left alone.
pub fn changes(known: &BTreeMap<Key, Known>, seen: &Observation) -> Vec<Change> {
    let _ = (known, seen);
    Vec::new()
}

/// Known guests that the pass should have seen and did not, with the node to ask for their configuration.
///
/// Only an answer "does not exist" (put into [`Observation::gone`]) lets [`changes`] retire them.
pub fn missing(known: &BTreeMap<Key, Known>, seen: &Observation) -> Vec<(GuestRef, String)> {
    let _ = (known, seen);
    Vec::new()
}
