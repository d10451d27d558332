//! What the messages of the state bucket mean. Pure.

use super::{Entry, Snapshot, watched::Whole};
use crate::store::written::Written;
use nhi_model::{
    envelope::{BadValue, Stale, Stored},
    key::Key,
    subject::{self, STATE_BUCKET},
};
use std::{error::Error, sync::Arc};

impl Whole for Snapshot {
    const BUCKET: &'static str = STATE_BUCKET;
    const CALLED: &'static str = "the state";

    fn apply(&mut self, written: &Written) {
        let prefix = subject::kv_all(STATE_BUCKET);
        let text = written.subject.strip_prefix(prefix.trim_end_matches('>')).unwrap_or(&written.subject);
        let key = match Key::parse(text) {
            Ok(key) => key,
            Err(bad) => {
                if written.is_delete() {
                    self.quarantined.remove(text);
                } else {
                    self.quarantined.insert(text.to_owned(), bad.to_string());
                }
                return;
            }
        };
        if written.is_delete() {
            self.records.remove(&key);
            self.quarantined.remove(text);
            return;
        }
        match Stored::parse(&key, &written.payload) {
            Ok(stored) => {
                self.quarantined.remove(text);
                let entry = Entry { revision: written.sequence, stored: Arc::new(stored) };
                self.records.insert(key, entry);
            }
            Err(bad) => {
                self.records.remove(&key);
                self.quarantined.insert(text.to_owned(), reason(&bad));
            }
        }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    fn stale(&self) -> Option<&Stale> {
        self.stale.as_ref()
    }

    fn set_stale(&mut self, stale: Option<Stale>) {
        self.stale = stale;
    }
}

/// An error and its cause in one sentence.
pub(crate) fn reason(bad: &BadValue) -> String {
    match bad.source() {
        Some(source) => format!("{bad}: {source}"),
        None => bad.to_string(),
    }
}
