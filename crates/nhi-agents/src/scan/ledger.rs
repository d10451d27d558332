//! Where a source's findings go: the state bucket, all or nothing, and the gauges. It refuses rather than
//! decide on a state that may be old, and never repeats a refused write: the next pass looks again.

use crate::alerts::{self, Problem};
use nhi_bus::{
    connect::Bus,
    store::{self, CommitError},
    view::{LiveView, Snapshot, StoreChange, View},
};
use nhi_decide::{
    change::{Change, What},
    live as gauges,
    observe::{Known, unconfigured},
};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    identity::Agent,
    key::{Key, Section},
    source::{Coverage, Source},
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// How long the view may take to show what we wrote ourselves.
const CATCH_UP: Duration = Duration::from_secs(5);

/// One source's way to the store.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    bus: Bus,
    view: View,
    live: LiveView,
    /// Revision of our own last commit: the view is behind until it shows it.
    written: u64,
    events: watch::Receiver<Option<StoreChange>>,
}

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Revision of the state after it.
    pub(super) revision: u64,
    /// Messages written.
    pub(super) messages: u32,
}

/// Why findings were not written. None of these is an error of the lab.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// What is known may be old, so nothing is decided on it.
    #[error("the state is not sound: {reason}")]
    Unsound {
        /// Why, one sentence.
        reason: String,
    },
    /// Somebody wrote between looking and writing.
    #[error("{key} moved while the pass ran: it was expected at revision {expected} and stands at {found}")]
    Conflict {
        /// The record.
        key: Key,
        /// The revision the decision was made on.
        expected: u64,
        /// The revision that stands there; 0 when there is nothing.
        found: u64,
    },
    /// The store refused.
    #[error("{reason}")]
    Store {
        /// Why.
        reason: String,
    },
}

impl Ledger {
    pub(super) fn new(bus: Bus, view: View, live: LiveView) -> Self {
        let events = view.events();
        Self { bus, view, live, written: 0, events }
    }

    /// Whether the store was rolled back or made anew since the last question: what a source remembers of its
    /// own writes is void then.
    pub(super) fn store_changed(&mut self) -> bool {
        let changed = self.events.has_changed().unwrap_or(false);
        if changed {
            self.events.mark_unchanged();
            self.written = 0;
        }
        changed
    }

    /// Why nothing can be written now; `None` when it can.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if !self.bus.is_up() {
            return Some(Refusal::Unsound { reason: "the mesh is not connected".to_owned() });
        }
        let snapshot = self.view.read();
        snapshot.stale.as_ref().map(|stale| Refusal::Unsound { reason: stale.reason.clone() })
    }

    /// The state, not older than our own last write.
    ///
    /// # Errors
    /// [`Refusal::Unsound`] when it may be out of date.
    pub(super) async fn state(&mut self) -> Result<Arc<Snapshot>, Refusal> {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let written = self.written;
        let mut revisions = self.view.changed();
        let shown = revisions.wait_for(|revision| *revision >= written);
        if tokio::time::timeout(CATCH_UP, shown).await.is_ok() {
            return Ok(self.view.read());
        }
        let reason = format!("revision {} was written and is not shown", self.written);
        // A store that was made anew counts from the beginning; the next pass takes what is there.
        self.written = 0;
        Err(Refusal::Unsound { reason })
    }

    /// The state as it is, for reading hints only.
    pub(super) fn hint(&self) -> Arc<Snapshot> {
        self.view.read()
    }

    /// Writes all changes, or none.
    ///
    /// # Errors
    /// [`Refusal`]; the next pass decides anew.
    pub(super) async fn commit(&mut self, state: &Snapshot, changes: &[Change]) -> Result<Written, Refusal> {
        if changes.is_empty() {
            return Ok(Written { revision: state.revision, messages: 0 });
        }
        let op = OpId(uuid::Uuid::now_v7().to_string());
        match store::commit(&self.bus, &op, Timestamp::now(), changes).await {
            Ok(done) => {
                self.written = done.revision;
                let messages = u32::try_from(done.messages).unwrap_or(u32::MAX);
                Ok(Written { revision: done.revision, messages })
            }
            Err(CommitError::Conflict { key, expected, found }) => {
                if is_mine_alone(&key) {
                    tracing::warn!(agent = "scan", key = %key, expected, found, "somebody else wrote the scanner's record");
                }
                Err(Refusal::Conflict { key, expected, found })
            }
            Err(error) => {
                let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
                Err(Refusal::Store { reason: format!("{error}{}", source.unwrap_or_default()) })
            }
        }
    }

    /// Whether the state shows an alert of the scanner.
    pub(super) fn has_alert(&self, id: &str) -> bool {
        self.view.read().records.contains_key(&Key::alert(Agent::Scan.as_str(), id))
    }

    /// Makes one alert of the scanner say what is true, in a commit of its own.
    ///
    /// # Errors
    /// [`Refusal`]; the caller comes back.
    pub(super) async fn alert(&mut self, id: &str, problem: Option<Problem>) -> Result<(), Refusal> {
        let state = self.state().await?;
        let wanted = problem.map(|problem| (id.to_owned(), problem)).into_iter().collect();
        let changes = alerts::changes(&state, Agent::Scan, |other| other == id, &wanted, Timestamp::now());
        self.commit(&state, &changes).await.map(drop)
    }

    /// Marks what is known of clusters that are not among the configured ones.
    ///
    /// # Errors
    /// [`Refusal`]; the caller comes back.
    pub(super) async fn mark_unconfigured(&mut self, configured: &BTreeSet<String>) -> Result<(), Refusal> {
        let state = self.state().await?;
        let changes = unconfigured::changes(&known(&state, |_| true), configured, Timestamp::now());
        self.commit(&state, &changes).await.map(drop)
    }

    /// Writes the gauges that are worth a message. Those that fail are written by the next pass.
    pub(super) async fn gauges(&self, seen: BTreeMap<Key, Value>, now: Timestamp) {
        let shown = self.live.read();
        let worth: Vec<_> = seen
            .into_iter()
            .filter(|(key, record)| gauges::worth_writing(shown.get(key), record, now))
            .map(|(key, record)| (key, gauges::envelope(record, now)))
            .collect();
        if worth.is_empty() {
            return;
        }
        if let Err(error) = store::put_live(&self.bus, &worth).await {
            tracing::debug!(agent = "scan", err = %error, "gauges not written");
        }
    }

    /// A gauge as it was last written, by whomever.
    pub(super) fn gauge(&self, key: &Key) -> Option<Value> {
        self.live.read().get(key).map(|live| live.record.clone())
    }
}

/// Whether nobody but the scanner's loops may write a record, and only one of them does.
fn is_mine_alone(key: &Key) -> bool {
    match key.section() {
        Section::Node
        | Section::Vm
        | Section::Lxc
        | Section::Storage
        | Section::Project
        | Section::Graph
        | Section::Source => true,
        Section::Alert | Section::Host | Section::Gpu | Section::Docker | Section::Provider => false,
    }
}

/// Records as decisions take them.
pub(super) fn known(snapshot: &Snapshot, mine: impl Fn(&Key) -> bool) -> BTreeMap<Key, Known> {
    let records = snapshot.records.iter().filter(|(key, _)| mine(key));
    records
        .map(|(key, entry)| {
            let known = Known {
                revision: entry.revision,
                record: entry.stored.record.clone(),
                stale: entry.stored.stale.clone(),
            };
            (key.clone(), known)
        })
        .collect()
}

/// What a source's record says after the changes.
pub(super) fn coverage(state: &Snapshot, changes: &[Change], source: &Key) -> Option<Coverage> {
    let changed = changes.iter().find(|change| change.key == *source).map(|change| &change.what);
    let record: Option<Source> = match changed {
        Some(What::Put { record, .. }) => Source::deserialize(record).ok(),
        Some(What::Retire) => None,
        None => state.records.get(source).and_then(|entry| entry.stored.typed(source).ok()),
    };
    record.map(|record| record.coverage)
}
