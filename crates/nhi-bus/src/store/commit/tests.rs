//! The parts of a commit that need no server. The rest is tested against one in `tests/store.rs`.

use super::*;
use serde_json::json;

fn at() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

fn op() -> OpId {
    OpId("op".to_owned())
}

fn put(key: Key, expected: u64) -> Change {
    Change { key, expected, what: What::Put { record: json!({ "name": "a" }), stale: None } }
}

fn puts(count: usize) -> Vec<Change> {
    (0..count).map(|number| put(Key::project(&format!("p{number:05}")), 0)).collect()
}

#[test]
fn our_own_mistakes_are_errors() {
    let twice = [put(Key::graph(), 0), put(Key::graph(), 1)];
    assert!(matches!(prepare(&op(), at(), &twice), Err(CommitError::Twice { .. })));
    let nothing = [Change { key: Key::graph(), expected: 0, what: What::Retire }];
    assert!(matches!(prepare(&op(), at(), &nothing), Err(CommitError::RetiresNothing { .. })));
    let record = json!("x".repeat(VALUE_BYTES_MAX));
    let large = [Change { key: Key::graph(), expected: 0, what: What::Put { record, stale: None } }];
    let error = prepare(&op(), at(), &large).unwrap_err();
    assert!(matches!(&error, CommitError::TooLarge { key, .. } if *key == Key::graph()), "{error}");
}

#[test]
fn batches_are_cut_by_number_and_by_size() {
    let lengths = |changes: &[Change]| -> Vec<(String, usize)> {
        let batches = prepare(&op(), at(), changes).unwrap();
        batches.iter().map(|batch| (batch.op.0.clone(), batch.messages.len())).collect()
    };
    assert!(lengths(&[]).is_empty());
    assert_eq!(lengths(&puts(1000)), [("op".to_owned(), 1000)]);
    let named = |number: usize, count| (format!("op-{number}"), count);
    assert_eq!(lengths(&puts(2001)), [named(1, 1000), named(2, 1000), named(3, 1)]);
    let large: Vec<Change> = puts(100)
        .into_iter()
        .map(|change| Change {
            what: What::Put { record: json!("x".repeat(VALUE_BYTES_MAX - 200)), stale: None },
            ..change
        })
        .collect();
    let lengths = lengths(&large);
    assert!(lengths.iter().all(|(_, count)| count * VALUE_BYTES_MAX <= BATCH_BYTES_MAX + VALUE_BYTES_MAX));
    assert_eq!(lengths.iter().map(|(_, count)| count).sum::<usize>(), 100);
}
