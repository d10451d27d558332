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

/// What the server would keep of a message.
fn stored(message: &Prepared, sequence: u64, op: &str) -> Written {
    let mut headers = message.headers.clone();
    let body = format!(r#"{{"v":1,"op":"{op}","at":"{}","record":1}}"#, at());
    if headers.get(OPERATION).is_some() {
        headers.insert(OP, op);
    }
    Written { subject: message.subject.clone(), sequence, time: at(), headers, payload: body.into() }
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

#[test]
fn what_is_found_tells_what_became_of_a_batch() {
    let changes = [
        put(Key::project("a"), 0),
        put(Key::project("b"), 7),
        Change { key: Key::project("c"), expected: 8, what: What::Retire },
    ];
    let batch = prepare(&op(), at(), &changes).unwrap().remove(0);
    let [a, b, c] = &batch.messages[..] else { panic!("three messages") };
    let check = |found: [Option<Written>; 3], expect: Judgement| assert_eq!(judge(&batch, &found), expect);
    let other = |message, sequence| Some(stored(message, sequence, "somebody else"));
    let ours = |message, sequence| Some(stored(message, sequence, "op"));

    check([ours(a, 10), ours(b, 11), ours(c, 12)], Judgement::Landed { revision: 12 });
    let rest = || batch.messages.clone();
    check([None, other(b, 7), other(c, 8)], Judgement::Again { rest: rest() });
    check(
        [None, other(b, 9), other(c, 8)],
        Judgement::Conflict { key: b.key.clone(), expected: 7, found: 9 },
    );
    check([None, None, other(c, 8)], Judgement::Conflict { key: b.key.clone(), expected: 7, found: 0 });
    check([ours(a, 10), ours(b, 11), other(c, 13)], Judgement::Landed { revision: 11 });
    // Torn by the server: the rest is written.
    check([ours(a, 10), ours(b, 11), other(c, 8)], Judgement::Again { rest: vec![c.clone()] });
    // The key was retired: "nothing there" means over its marker.
    let mut marker = stored(a, 5, "somebody else");
    marker.headers.insert(OPERATION, "DEL");
    let mut over = rest();
    over[0].over_marker = Some(5);
    check([Some(marker), other(b, 7), other(c, 8)], Judgement::Again { rest: over });
}
