//! The active problems of one agent as `alert.<agent>.<id>` records: what to change so that the state shows
//! just these. It commits nothing; the agent does, with whatever else it writes.

use nhi_bus::view::Snapshot;
use nhi_decide::change::{Change, What};
use nhi_model::{
    Timestamp,
    alert::{Alert, Severity},
    identity::Agent,
    key::{Key, Section},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// A problem as an agent sees it. When it began is the record's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) hint: String,
    pub(crate) about: Option<Key>,
}

/// The changes after which the alerts of `agent` whose id is in `scope` are exactly `wanted`.
///
/// A problem that stays keeps its beginning and costs no write.
pub(crate) fn changes(
    snapshot: &Snapshot,
    agent: Agent,
    scope: impl Fn(&str) -> bool,
    wanted: &BTreeMap<String, Problem>,
    now: Timestamp,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for (id, problem) in wanted {
        let key = Key::alert(agent.as_str(), id);
        let known = snapshot.records.get(&key);
        let before: Option<Alert> = known.and_then(|entry| entry.stored.typed(&key).ok());
        let alert = Alert {
            severity: problem.severity,
            summary: problem.summary.clone(),
            hint: problem.hint.clone(),
            since: before.as_ref().map_or(now, |alert| alert.since),
            about: problem.about.clone(),
        };
        if before.as_ref() != Some(&alert) {
            let expected = known.map_or(0, |entry| entry.revision);
            changes.push(Change { key, expected, what: What::Put { record: record(&alert), stale: None } });
        }
    }
    for (key, entry) in &snapshot.records {
        if key.section() != Section::Alert {
            continue;
        }
        let [whose, id] = key.tokens().try_into().unwrap_or_default();
        if whose == agent.as_str() && scope(&id) && !wanted.contains_key(&id) {
            changes.push(Change { key: key.clone(), expected: entry.revision, what: What::Retire });
        }
    }
    changes
}

fn record(alert: &Alert) -> Value {
    serde_json::to_value(alert).expect("an alert has only text and times")
}
