//! Events as they are written out. Every one is whole, so that pieces can be joined anywhere between them.

use super::replay::Replay;
use bytes::Bytes;
use nhi_bus::feed::Commit;
use nhi_model::Timestamp;
use serde_json::{Value, json};

/// One event.
pub(super) fn event(name: &str, id: Option<u64>, data: &Value) -> Bytes {
    // JSON without spaces has no line breaks.
    let id = id.map(|id| format!("id: {id}\n")).unwrap_or_default();
    format!("event: {name}\n{id}data: {data}\n\n").into()
}

pub(super) fn resync(reason: &str) -> Bytes {
    event("resync", None, &json!({ "reason": reason }))
}

/// One record of a `state` event.
pub(super) fn record(key: &str, record: &Value, stale: &Value, at: Option<Timestamp>) -> Value {
    let mut row = json!({ "key": key, "record": record, "at": at });
    if !stale.is_null() {
        row["stale"] = stale.clone();
    }
    row
}

pub(super) fn state(revision: u64, records: Vec<Value>) -> Bytes {
    event("state", Some(revision), &json!({ "revision": revision, "records": records }))
}

pub(super) fn commit(commit: &Commit) -> Bytes {
    let rows = commit.records.iter().map(|(key, stored)| match stored {
        Some(stored) => record(key.as_str(), &stored.record, &json!(stored.stale), Some(stored.at)),
        None => record(key.as_str(), &Value::Null, &Value::Null, commit.at),
    });
    state(commit.revision, rows.collect())
}

pub(super) fn change(name: &str, key: &str, value: &Value) -> Bytes {
    event(name, None, &json!({ "key": key, "value": value }))
}

/// What a listener hears first. Its id never runs ahead of what was sent: a connection that breaks right after it must
/// not lose what comes next.
pub(super) fn greeting(revision: u64, after: Option<u64>, replay: &Replay) -> Bytes {
    let hello = json!({ "revision": revision, "at": Timestamp::now() });
    let (id, rest) = match replay {
        Replay::Nothing => (Some(revision), Bytes::new()),
        Replay::Since(state) => (after, state.clone()),
        Replay::Impossible(reason) => (None, event("resync", Some(revision), &json!({ "reason": reason }))),
    };
    [event("hello", id, &hello), rest].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_runs_ahead_of_what_was_sent() {
        let ids = |replay: &Replay| {
            let text = String::from_utf8(greeting(9, Some(5), replay).to_vec()).unwrap();
            text.lines()
                .filter(|line| line.starts_with("id") || line.starts_with("event"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(ids(&Replay::Nothing), "event: hello id: 9");
        assert_eq!(ids(&Replay::Since(state(9, vec![]))), "event: hello id: 5 event: state id: 9");
        assert_eq!(ids(&Replay::Impossible("old".to_owned())), "event: hello event: resync id: 9");
    }

    #[test]
    fn an_event_stays_one_whatever_it_holds() {
        let nasty = json!({"text": "a\n\nevent: state\r\ndata: {}"});
        let text = String::from_utf8(change("live", "vm.home.1", &nasty).to_vec()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(text.starts_with("event: live\ndata: {") && text.ends_with("}\n\n"), "{text}");
    }
}
