//! Changes under construction: what is already so is no change, a key is decided once, `since` outlives passes.
//! It does not decide what is true.

use crate::change::{Change, What};
use nhi_model::{
    Timestamp,
    alert::{Alert, Severity},
    envelope::Stale,
    key::{Key, Section},
};
use serde::{Serialize, de::DeserializeOwned};
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

impl Known {
    /// The record as its section's type; `None` when an older or newer program wrote another shape.
    pub(crate) fn typed<T: DeserializeOwned>(&self) -> Option<T> {
        T::deserialize(&self.record).ok()
    }
}

/// A problem as it was found just now.
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) hint: &'static str,
    pub(crate) about: Option<Key>,
}

/// The changes so far.
pub(crate) struct Draft<'a> {
    known: &'a BTreeMap<Key, Known>,
    at: Timestamp,
    changes: BTreeMap<Key, Change>,
}

impl<'a> Draft<'a> {
    pub(crate) const fn new(known: &'a BTreeMap<Key, Known>, at: Timestamp) -> Self {
        Self { known, at, changes: BTreeMap::new() }
    }

    /// The record is as given, and that was seen just now.
    pub(crate) fn fresh(&mut self, key: Key, record: &impl Serialize) {
        self.put(key, value_of(record), None);
    }

    /// The known record could not be seen. `since` of an earlier such pass stays.
    pub(crate) fn stale(&mut self, key: &Key, reason: &str) {
        if let Some(known) = self.known.get(key) {
            self.put(key.clone(), known.record.clone(), Some(self.unseen(key, reason)));
        }
    }

    /// A record that is not (or no longer wholly) seen.
    pub(crate) fn put_stale(&mut self, key: Key, record: &impl Serialize, reason: &str) {
        let stale = self.unseen(&key, reason);
        self.put(key, value_of(record), Some(stale));
    }

    /// The record's thing is gone.
    pub(crate) fn retire(&mut self, key: &Key) {
        if let Some(known) = self.known.get(key) {
            self.insert(Change { key: key.clone(), expected: known.revision, what: What::Retire });
        }
    }

    /// Writes the alerts that were found and retires those that `looked` says would have been found again.
    pub(crate) fn alerts(&mut self, found: BTreeMap<Key, Problem>, looked: impl Fn(&Key) -> bool) {
        for key in self.known.keys().filter(|key| key.section() == Section::Alert) {
            if !found.contains_key(key) && looked(key) {
                self.retire(key);
            }
        }
        for (key, problem) in found {
            let before: Option<Alert> = self.known.get(&key).and_then(Known::typed);
            let alert = Alert {
                severity: problem.severity,
                summary: problem.summary,
                hint: problem.hint.to_owned(),
                since: before.map_or(self.at, |alert| alert.since),
                about: problem.about,
            };
            self.fresh(key, &alert);
        }
    }

    /// The changes, each key once, in key order.
    pub(crate) fn finish(self) -> Vec<Change> {
        self.changes.into_values().collect()
    }

    fn unseen(&self, key: &Key, reason: &str) -> Stale {
        let before = self.known.get(key).and_then(|known| known.stale.as_ref());
        Stale { reason: reason.to_owned(), since: before.map_or(self.at, |stale| stale.since) }
    }

    fn put(&mut self, key: Key, record: Value, stale: Option<Stale>) {
        let known = self.known.get(&key);
        if known.is_some_and(|known| known.record == record && known.stale == stale) {
            return;
        }
        let expected = known.map_or(0, |known| known.revision);
        self.insert(Change { key, expected, what: What::Put { record, stale } });
    }

    fn insert(&mut self, change: Change) {
        let twice = self.changes.insert(change.key.clone(), change);
        assert!(twice.is_none(), "two decisions about one record: {twice:?}");
    }
}

fn value_of(record: &impl Serialize) -> Value {
    serde_json::to_value(record).expect("records have text keys and no failing serializer")
}
