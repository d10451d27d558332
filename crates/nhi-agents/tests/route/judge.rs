//! A model that says what a request is about, and what happens when it does not.

use crate::{
    counts::asked,
    house::{House, backend, question, quick},
};
use nhi_decide::{
    quota::{Per, Quota, What},
    route::{Judge, Rules, Selector, Settings},
};
use nhi_model::ai::UsageBy;
use nhi_sim::models::{Fault, On, Running};
use serde_json::json;

/// A judgement in the words of OpenAI's servers.
fn says(content: &str) -> Fault {
    let body = json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "j",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": content }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110 },
    });
    Fault::Status { code: 200, body: body.to_string() }
}

/// One who programs, one who talks, and a cloud that judges.
async fn house(judge: &Running, coder: &Running, talker: &Running) -> House {
    let mut judging = backend("judge", judge, "j");
    (judging.home, judging.quotas) = (false, vec![Quota::new(What::Tokens, Per::Day, 10_000)]);
    let backends = vec![judging, backend("coder", coder, "m"), backend("talker", talker, "m")];
    let only = |name: &str| vec![Selector::Backend(name.to_owned())];
    let rules = Rules { coding: only("coder"), simple: only("talker"), ..Rules::default() };
    let judge = Judge { models: vec!["judge/j".parse().unwrap()], deadline_ms: 1_000 };
    let house = House::new(Settings { backends, rules, judge, ..Settings::default() }).await;
    house.start().await;
    house.known().await;
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn a_judge_decides_and_its_failures_are_counted() {
    let (judge, coder, talker) = (quick("j").await, quick("m").await, quick("m").await);
    let house = house(&judge, &coder, &talker).await;
    let who = async |stream: bool| {
        let body = question("What is a heron?", stream);
        if stream {
            return house.read(body).await.origin().provider;
        }
        house.ask(body).await.unwrap()["nhi"]["provider"].as_str().unwrap().to_owned()
    };
    for stream in [false, true] {
        judge.set_fault_on(says("```json\n{\"cat\":\"CODING\",\"lang\":\"en\"}\n```"), On::times(1));
        assert_eq!(who(stream).await, "coder", "plain signs would say otherwise");
        judge.set_fault_on(says("{\"cat\":\"SIMPLE\"}"), On::times(1));
        assert_eq!(who(stream).await, "talker");
    }
    let lines = house.ledger(4).await;
    assert!(lines.iter().all(|line| !line.judge_failed && line.attempts == 1), "{lines:?}");
    assert!(lines.iter().all(|line| line.input_tokens > 100), "what it took counts: {lines:?}");
    assert_eq!(house.usage().await.quotas[0].used, 4 * 110);
    // Whatever goes wrong, plain signs decide, and soon.
    let faults = [
        says("CODING, I think"),
        Fault::ServerError {},
        Fault::SlowHeaders { ms: 60_000 },
        // Last: on a connection kept from the one before it would be asked once more.
        Fault::Dropped {},
    ];
    for fault in faults {
        judge.set_fault_on(fault.clone(), On::times(1));
        let before = std::time::Instant::now();
        assert_eq!(who(false).await, "talker", "{fault:?}");
        assert!(before.elapsed().as_secs() < 10, "{fault:?}: {:?}", before.elapsed());
    }
    let lines = house.ledger(8).await;
    assert!(lines[4..].iter().all(|line| line.judge_failed && line.attempts == 1), "{lines:?}");
    assert_eq!(house.usage_by(UsageBy::Caller).await.rows[0].judge_failed, 4);
    assert_eq!(asked(&judge), 8);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_home_is_judged_by_nobody_elsewhere() {
    let (judge, coder, talker) = (quick("j").await, quick("m").await, quick("m").await);
    let house = house(&judge, &coder, &talker).await;
    judge.set_fault(says("{\"cat\":\"CODING\"}"));
    let mut private = question("Dear diary, what is a heron?", false);
    private["nhi"] = json!({ "privacy": "home" });
    assert_eq!(house.ask(private).await.unwrap()["nhi"]["provider"], "talker");
    assert_eq!(asked(&judge), 0, "nothing of it went out");
    // The control: what may leave is judged there.
    assert_eq!(house.ask(question("What is a heron?", false)).await.unwrap()["nhi"]["provider"], "coder");
    assert_eq!(asked(&judge), 1);
    let lines = house.ledger(2).await;
    assert!(lines.iter().all(|line| !line.judge_failed), "who was not asked has not failed: {lines:?}");
    house.cx.close().await;
}
