//! Streams of messages and the states they may show.

use super::*;
use crate::store::written::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, OPERATION};
use crate::view::Snapshot;
use async_nats::HeaderMap;
use bytes::Bytes;
use nhi_model::subject::STATE_BUCKET;

/// A batch as `(id, place, is_last)`.
type Batch = Option<(&'static str, u64, bool)>;

fn message(sequence: u64, key: &str, body: &str, batch: Batch) -> Written {
    let mut headers = HeaderMap::new();
    if let Some((id, place, is_last)) = batch {
        headers.insert(BATCH_ID, id);
        headers.insert(BATCH_SEQUENCE, place.to_string());
        if is_last {
            headers.insert(BATCH_COMMIT, "1");
        }
    }
    if body.is_empty() {
        headers.insert(OPERATION, "DEL");
    }
    Written {
        subject: format!("$KV.{STATE_BUCKET}.{key}"),
        sequence,
        time: Timestamp::UNIX_EPOCH,
        headers,
        payload: Bytes::from(body.to_owned()),
    }
}

fn value(record: u64) -> String {
    format!(r#"{{"v":1,"op":"o","at":"2026-01-01T00:00:00Z","record":{record}}}"#)
}

fn put(sequence: u64, key: &str, record: u64, batch: Batch) -> Written {
    message(sequence, key, &value(record), batch)
}

/// The records as `key=value` in one line.
fn shown(fold: &Fold<Snapshot>) -> String {
    let rows = fold.whole.records.iter().map(|(key, entry)| format!("{key}={}", entry.stored.record));
    rows.collect::<Vec<_>>().join(" ")
}

fn filled(messages: Vec<Written>) -> Fold<Snapshot> {
    let mut fold = Fold::<Snapshot>::new(messages.last().map_or(0, |m| m.sequence));
    fold.finish_filling();
    for message in messages {
        fold.take(message);
    }
    assert!(fold.is_filled());
    fold
}

#[test]
fn an_empty_bucket_is_whole_at_once() {
    assert!(Fold::<Snapshot>::new(0).finish_filling());
}

#[test]
fn a_batch_is_held_back_until_it_ends() {
    let mut fold = filled(vec![put(1, "host.a", 1, None), put(2, "host.b", 1, None)]);
    assert!(!fold.take(put(3, "host.a", 2, Some(("x", 1, false)))));
    assert_eq!((shown(&fold).as_str(), fold.whole.revision), ("host.a=1 host.b=1", 2));
    assert!(fold.is_open());
    assert!(fold.take(message(4, "host.b", "", Some(("x", 2, true)))));
    assert_eq!((shown(&fold).as_str(), fold.whole.revision), ("host.a=2", 4));
}

#[test]
fn filling_in_the_middle_of_a_batch_waits_for_its_end() {
    // The list was made when two of three were written; host.c still has its old value.
    let mut fold = Fold::<Snapshot>::new(4);
    assert!(!fold.take(put(2, "host.c", 1, None)));
    assert!(!fold.take(put(3, "host.a", 2, Some(("x", 1, false)))));
    assert!(!fold.take(put(4, "host.b", 2, Some(("x", 2, false)))), "half a batch must not be shown");
    assert!(fold.take(put(5, "host.c", 2, Some(("x", 3, true)))));
    assert_eq!((shown(&fold).as_str(), fold.whole.revision), ("host.a=2 host.b=2 host.c=2", 5));
}

#[test]
fn filling_tolerates_a_list_newer_than_its_resume() {
    // The list was made at 5 but the delivery goes on from 3: host.a's value before is in neither part.
    let mut fold = Fold::<Snapshot>::new(6);
    assert!(!fold.take(put(2, "host.b", 1, None)));
    assert!(!fold.take(put(5, "host.a", 5, None)));
    assert!(!fold.take(put(4, "host.a", 4, None)));
    assert!(!fold.take(put(5, "host.a", 5, None)));
    assert!(fold.take(put(6, "host.b", 6, None)));
    assert_eq!(shown(&fold), "host.a=5 host.b=6");
    assert!(!fold.take(put(6, "host.b", 6, None)), "a repeated message is no news");
}

#[test]
fn a_batch_without_end_is_taken_when_the_next_message_comes() {
    let mut fold = filled(vec![put(1, "host.a", 1, None)]);
    assert!(!fold.take(put(2, "host.a", 2, Some(("x", 1, false)))));
    assert!(!fold.take(put(3, "host.b", 3, Some(("y", 1, false)))) || fold.whole.revision == 2);
    assert_eq!(shown(&fold), "host.a=2");
    assert!(fold.settle());
    assert_eq!((shown(&fold).as_str(), fold.whole.revision), ("host.a=2 host.b=3", 3));
    assert!(!fold.settle());
}

#[test]
fn what_cannot_be_read_is_kept_apart() {
    let mut fold = filled(vec![put(1, "host.a", 1, None)]);
    assert!(fold.take(message(2, "host.a", r#"{"v":9,"shape":"new"}"#, None)));
    assert!(fold.take(message(3, "host.b", "\u{0}", None)));
    assert!(fold.take(message(4, "no.such.section", &value(1), None)));
    assert_eq!(shown(&fold), "");
    let kept: Vec<&str> = fold.whole.quarantined.keys().map(String::as_str).collect();
    assert_eq!(kept, ["host.a", "host.b", "no.such.section"]);
    assert!(fold.whole.quarantined["host.a"].contains("schema version 9"), "{:?}", fold.whole.quarantined);
    fold.take(put(5, "host.a", 5, None));
    fold.take(message(6, "host.b", "", None));
    fold.take(message(7, "no.such.section", "", None));
    assert_eq!((shown(&fold).as_str(), fold.whole.quarantined.len()), ("host.a=5", 0));
}

#[test]
fn removed_last_messages_do_not_hold_up_the_first_state() {
    let mut fold = Fold::<Snapshot>::new(9);
    assert!(!fold.take(put(3, "host.a", 1, None)));
    assert!(fold.idle());
    assert_eq!(fold.whole.revision, 9);
}
