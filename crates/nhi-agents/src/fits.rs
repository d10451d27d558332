//! One record that is too long must not keep a whole pass from being written: it is left out, what is known of it
//! is marked stale, and an alert names it. It writes nothing.

use crate::alerts::{self, Problem};
use nhi_bus::{store::VALUE_BYTES_MAX, view::Snapshot};
use nhi_decide::change::{Change, What};
use nhi_model::{
    Timestamp,
    alert::Severity,
    envelope::Stale,
    identity::Agent,
    key::{Key, Section},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Room that a record's envelope takes beside record and reason.
const ENVELOPE_BYTES: usize = 4 * 1024;
/// What the ids of these alerts begin with.
const ALERT: &str = "too-long_";
/// Said on a record whose newer version is too long.
const REASON: &str = "what was seen of it is too long to be written";

/// What can be written.
#[derive(Debug)]
pub(crate) struct Fitting {
    /// The changes, without those that are too long and with the alerts about them.
    pub(crate) changes: Vec<Change>,
    /// Records that are too long.
    pub(crate) too_long: BTreeSet<Key>,
}

/// Takes out of a decision what no commit would take. `settled` says of a record whether this pass would have
/// found it too long if it were; only then its alert goes.
pub(crate) fn fit(
    state: &Snapshot,
    changes: Vec<Change>,
    at: Timestamp,
    settled: impl Fn(&Key) -> bool,
) -> Fitting {
    let mut fitting = Vec::new();
    let mut wanted = BTreeMap::new();
    let mut too_long = BTreeSet::new();
    for change in changes {
        let Some(bytes) = excess(&change) else {
            fitting.push(change);
            continue;
        };
        wanted.insert(format!("{ALERT}{}", change.key), problem(&change, bytes));
        fitting.extend(instead(state, &change.key, at));
        too_long.insert(change.key);
    }
    let shown = state.records.keys().filter(|key| key.section() == Section::Alert);
    let over: BTreeSet<String> = shown
        .filter_map(|key| {
            let id = key.tokens().pop()?;
            Key::parse(id.strip_prefix(ALERT)?).ok().filter(|about| settled(about)).map(|_| id)
        })
        .collect();
    fitting.extend(alerts::changes(state, Agent::Scan, |id| over.contains(id), &wanted, at));
    Fitting { changes: fitting, too_long }
}

/// How long a change's record is, when that is too long.
fn excess(change: &Change) -> Option<usize> {
    let What::Put { record, stale } = &change.what else { return None };
    let bytes = serde_json::to_vec(record).map_or(usize::MAX, |json| json.len());
    let reason = stale.as_ref().map_or(0, |stale| 6 * stale.reason.len());
    (bytes.saturating_add(reason + ENVELOPE_BYTES) > VALUE_BYTES_MAX).then_some(bytes)
}

/// What is known stays, and is not called current.
fn instead(state: &Snapshot, key: &Key, at: Timestamp) -> Option<Change> {
    let entry = state.records.get(key)?;
    let since = entry.stored.stale.as_ref().map_or(at, |stale| stale.since);
    let stale = Some(Stale { reason: REASON.to_owned(), since });
    if entry.stored.stale == stale {
        return None;
    }
    let change = Change {
        key: key.clone(),
        expected: entry.revision,
        what: What::Put { record: entry.stored.record.clone(), stale },
    };
    // What stands there was taken once; a longer reason must not be what is too long now.
    excess(&change).is_none().then_some(change)
}

fn problem(change: &Change, bytes: usize) -> Problem {
    let name = match &change.what {
        What::Put { record, .. } => record.get("name").and_then(Value::as_str).unwrap_or_default(),
        What::Retire => "",
    };
    let name: String = name.chars().take(64).collect();
    let named = if name.is_empty() { String::new() } else { format!(" ({name})") };
    // In whole KiB, so that a byte more or less is no other alert.
    let kib = bytes.div_ceil(1024);
    Problem {
        severity: Severity::Warning,
        summary: format!(
            "{}{named} takes {kib} KiB as a record and {} are allowed, so it is not written",
            change.key,
            VALUE_BYTES_MAX / 1024
        ),
        hint: "Shorten its notes, tags or lists in Proxmox; everything else is written as usual.".to_owned(),
        about: Some(change.key.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::view::Entry;
    use nhi_model::{
        SCHEMA_VERSION,
        envelope::{OpId, Stored},
        guest::GuestKind,
    };
    use serde_json::json;
    use std::sync::Arc;

    fn vm(vmid: u32) -> Key {
        Key::guest(GuestKind::Qemu, "home", vmid)
    }

    fn put(vmid: u32, notes: usize) -> Change {
        let record = json!({"name": "chatty", "notes": "x".repeat(notes)});
        Change { key: vm(vmid), expected: 0, what: What::Put { record, stale: None } }
    }

    fn apply(state: &mut Snapshot, changes: &[Change]) {
        for change in changes {
            state.revision += 1;
            match &change.what {
                What::Put { record, stale } => {
                    let stored = Stored {
                        v: SCHEMA_VERSION,
                        op: OpId("op".to_owned()),
                        at: Timestamp::UNIX_EPOCH,
                        stale: stale.clone(),
                        record: record.clone(),
                    };
                    let bytes = serde_json::to_vec(&stored).unwrap().len();
                    assert!(bytes <= VALUE_BYTES_MAX, "a commit refuses {} with {bytes} bytes", change.key);
                    let entry = Entry { revision: state.revision, stored: Arc::new(stored) };
                    state.records.insert(change.key.clone(), entry);
                }
                What::Retire => drop(state.records.remove(&change.key)),
            }
        }
    }

    #[test]
    fn one_record_that_is_too_long_keeps_no_other_from_being_written() {
        let at = Timestamp::UNIX_EPOCH;
        let mut state = Snapshot::default();
        let first = fit(&state, vec![put(100, 10), put(101, 10)], at, |_| true);
        assert_eq!(first.changes.len(), 2);
        apply(&mut state, &first.changes);

        let pass = || vec![put(100, 300 * 1024), put(101, 20), put(102, VALUE_BYTES_MAX - 100)];
        let second = fit(&state, pass(), at, |_| true);
        assert_eq!(second.too_long, BTreeSet::from([vm(100), vm(102)]));
        apply(&mut state, &second.changes);
        assert_eq!(state.records[&vm(101)].stored.record["notes"], "x".repeat(20));
        assert_eq!(state.records[&vm(100)].stored.stale.as_ref().unwrap().reason, REASON);
        assert!(!state.records.contains_key(&vm(102)));
        let alert = &state.records[&Key::alert("scan", "too-long_vm.home.100")].stored.record;
        assert!(alert["summary"].as_str().unwrap().contains("vm.home.100 (chatty)"), "{alert}");

        // The same again writes nothing, a pass that looked elsewhere takes nothing back.
        let third = fit(&state, vec![put(100, 300 * 1024), put(102, 300 * 1024)], at, |_| true);
        let alerts = third.changes.iter().filter(|change| change.key == vm(100)).count();
        assert_eq!(alerts, 0, "{:?}", third.changes.iter().map(|change| &change.key).collect::<Vec<_>>());
        assert!(fit(&state, Vec::new(), at, |_| false).changes.is_empty());

        let healed = fit(&state, vec![put(100, 5)], at, |_| true);
        apply(&mut state, &healed.changes);
        assert!(state.records[&vm(100)].stored.stale.is_none());
        assert!(
            !state.records.keys().any(|key| key.section() == Section::Alert),
            "{:?}",
            state.records.keys()
        );
    }
}
