//! What stands there afterwards tells what became of a batch. The rest is tested against a server in
//! `tests/store.rs` and `tests/plans.rs`.

use super::*;

fn at() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
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
fn what_is_found_tells_what_became_of_a_batch() {
    let op = OpId("op".to_owned());
    let messages = vec![
        Prepared::put("a".to_owned(), 0, b"{}".to_vec()),
        Prepared::put("b".to_owned(), 7, b"{}".to_vec()),
        Prepared::marker("c".to_owned(), 8, &op, at()),
    ];
    let batch = Batch { op, messages };
    let [a, b, c] = &batch.messages[..] else { panic!("three messages") };
    let check = |found: [Option<Written>; 3], expect: Judgement| assert_eq!(judge(&batch, &found), expect);
    let other = |message, sequence| Some(stored(message, sequence, "somebody else"));
    let ours = |message, sequence| Some(stored(message, sequence, "op"));

    check([ours(a, 10), ours(b, 11), ours(c, 12)], Judgement::Landed { revision: 12 });
    let rest = || batch.messages.clone();
    check([None, other(b, 7), other(c, 8)], Judgement::Again { rest: rest() });
    check(
        [None, other(b, 9), other(c, 8)],
        Judgement::Conflict { subject: b.subject.clone(), expected: 7, found: 9 },
    );
    check(
        [None, None, other(c, 8)],
        Judgement::Conflict { subject: b.subject.clone(), expected: 7, found: 0 },
    );
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
