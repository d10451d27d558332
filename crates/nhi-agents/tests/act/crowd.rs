//! Three identities at once: one changes guests in a conversation, one makes guests, one stops and starts things. Nothing
//! is done twice, nothing stays undecided, and whoever has to wait or is refused is told why.

use crate::house::{House, NUMBERS};
use nhi_model::{identity::Role, run::Run};
use nhi_testkit::Person;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// What refusals among honest neighbours may say. When making a guest was refused, there is none to destroy; when
/// destroying one was, there are two of the name.
const NEIGHBOURLY: [&str; 10] = [
    "busy",
    "stale",
    "held",
    "nothing-to-do",
    "not-possible",
    "quota",
    "conflict",
    "locked",
    "unknown-guest",
    "ambiguous-guest",
];

/// How long they go on; the whole minute with `NHI_FULL=1`.
fn how_long() -> Duration {
    let full = std::env::var("NHI_FULL").is_ok_and(|value| value == "1");
    Duration::from_secs(if full { 60 } else { 8 })
}

const POLICY: &str = "
[operations]
automatic = [\"start\", \"snapshot\", \"snapshot-delete\", \"set\", \"clone\", \"create-vm\", \"shutdown\", \"stop\", \"destroy\"]
[limits]
destroys_per_day = 1000
plans_per_minute = 1000
applies_per_hour = 1000
";

async fn turns(person: Person, wishes: Vec<Value>, until: Instant) -> (usize, Vec<Run>) {
    let (mut refused, mut runs) = (0, Vec::new());
    for wish in wishes.iter().cycle() {
        if Instant::now() >= until {
            return (refused, runs);
        }
        match person.carry_out(wish.clone()).await {
            Ok(run) => runs.push(run),
            Err(fault) => {
                assert!(NEIGHBOURLY.contains(&fault.code.as_str()), "{wish}: {fault}");
                assert!(!fault.hint.is_empty(), "{fault}");
                refused += 1;
            }
        }
    }
    unreachable!("the wishes never end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_work_at_once() {
    let house = House::open(&json!({ "services": {} }), POLICY).await;
    let until = Instant::now() + how_long();
    let one = house.person("aider", Role::Agent).await;
    let two = house.person("interpreter", Role::Agent).await;
    let three = house.person("antigravity", Role::Agent).await;
    let changes = vec![
        json!({ "do": "set", "guest": "106", "settings": { "description": "one" } }),
        json!({ "do": "set", "guest": "106", "settings": { "description": "two" } }),
        json!({ "do": "set", "guest": "212", "settings": { "tags": ["lab", "busy"] } }),
        json!({ "do": "set", "guest": "212", "settings": { "tags": ["lab"] } }),
    ];
    let builds = vec![
        json!({ "do": "create-vm", "template": "9000", "new": { "name": "built", "tags": ["built"] } }),
        json!({ "do": "destroy", "guest": "built" }),
    ];
    let stops = vec![
        json!({ "do": "start", "guest": "106" }),
        json!({ "do": "start", "guest": "212" }),
        json!({ "do": "stop", "guest": "106" }),
        json!({ "do": "stop", "guest": "212" }),
    ];
    let (a, b, c) =
        tokio::join!(turns(one, changes, until), turns(two, builds, until), turns(three, stops, until));
    let mut ends = BTreeSet::new();
    for (who, (refused, runs)) in [("changes", &a), ("builds", &b), ("stops", &c)] {
        assert!(!runs.is_empty(), "{who} got nothing done, {refused} times refused");
        for run in runs {
            assert!(run.state.is_over(), "{who}: {run:?}");
            // A neighbour that was faster makes a run fail before its first call; never half way.
            assert!(["done", "failed"].contains(&run.state.as_str()), "{who}: {run:?}");
            ends.insert(run.state.as_str());
        }
    }
    assert!(ends.contains("done"));
    let kept = house.plans.read();
    assert!(kept.leases.is_empty(), "leases are left: {:?}", kept.leases);
    assert!(kept.runs.values().all(|row| row.value.state.is_over()), "a run is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_comes_back_with_its_guest_gone() {
    let house = House::open(&json!({ "services": {} }), POLICY).await;
    let aider = house.person("aider", Role::Agent).await;
    // More often than there are numbers; the plans that took them are all still within their time.
    for _ in NUMBERS.0..=NUMBERS.1 + 1 {
        let new = json!({ "name": "built", "tags": ["built"] });
        for wish in [
            json!({ "do": "create-vm", "template": "9000", "new": new }),
            json!({ "do": "destroy", "guest": "built" }),
        ] {
            let run = aider.carry_out(wish).await.unwrap();
            assert_eq!(run.state.as_str(), "done", "{run:?}");
        }
    }
}
