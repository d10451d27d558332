//! Planning on a large lab takes a bounded time. What it really takes is measured by `cargo bench -p nhi-tests --bench act`.

use crate::lab::{Lab, ct, id, intent, lab, now, vm, who};
use nhi_decide::{
    observe::Known,
    plan::{Prepared, Request, Scene},
    sight::Sight,
};
use nhi_model::{key::Key, policy::Policy, refusal::RefusalCode};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const GUESTS: u32 = 10_000;
const EDGES_EACH: u32 = 5;
/// Without optimisation, on a busy machine. With it one plan takes a few milliseconds.
const LONGEST: Duration = Duration::from_secs(5);

fn large() -> Lab {
    let guests = (0..GUESTS).map(|at| {
        let name = format!("guest-{at}");
        if at % 2 == 0 { vm(1000 + at, &name) } else { ct(1000 + at, &name) }
    });
    let mut lab = lab(guests);
    let graph: Map<String, Value> = (0..GUESTS)
        .map(|at| {
            // Neighbours in rows of a thousand, so that the first of a row is needed by all of it.
            let needs = (1..=EDGES_EACH)
                .filter_map(|step| at.checked_sub(step).filter(|other| other / 1000 == at / 1000));
            let needs: Vec<String> = needs.map(|other| format!("guest-{other}")).collect();
            (format!("guest-{at}"), json!({ "depends_on": needs }))
        })
        .collect();
    lab.graph = Value::Object(graph);
    lab
}

/// Whether a plan is made, and how long that takes: at first, and again on the same state.
fn timed(
    known: &BTreeMap<Key, Known>,
    sight: &Sight,
    policy: &Policy,
    asked: Value,
) -> (bool, [Duration; 2]) {
    let (by, none, holds, leases) = (who(), BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let asked = intent(asked);
    let prepared = Prepared::new(known, policy);
    let scene = Scene {
        now: now(),
        revision: 1,
        known,
        sight,
        policy,
        ourselves: &none,
        holds: &holds,
        leases: &leases,
        past: None,
    };
    let request = Request {
        id: id(),
        by: &by,
        intent: &asked,
        reason: None,
        vmids: &[],
        undo_unless_confirmed_minutes: None,
    };
    let mut made = false;
    let took = [(); 2].map(|()| {
        let began = Instant::now();
        made = prepared.needs(&asked, None).is_ok() && prepared.plan(&request, &scene).is_ok();
        began.elapsed()
    });
    (made, took)
}

#[test]
fn a_large_lab_is_planned_in_bounded_time() {
    let mut lab = large();
    let guest = lab.guests.get_mut(&1999).unwrap();
    *guest = guest.clone().stopped();
    let (known, sight) = (lab.known(), lab.sight());
    // What a thousand need is refused as that, without a look at each of them.
    let asked = intent(json!({"do": "shutdown", "guest": "guest-2000"}));
    assert!(Prepared::new(&known, &lab.policy).needs(&asked, None).unwrap().guests.len() < 100);
    assert_eq!(lab.plan_knowing(&asked, &known, &sight).unwrap_err().code, RefusalCode::DependentsRunning);
    for (asked, makes) in [
        (json!({"do": "start", "guest": "guest-999"}), true),
        // Needed by nobody, and by a thousand.
        (json!({"do": "shutdown", "guest": "guest-1999"}), true),
        (json!({"do": "shutdown", "guest": "guest-2000"}), false),
        (json!({"do": "shutdown", "guest": "guest-2000", "with_dependents": true}), false),
        (json!({"do": "shutdown", "guest": "guest-2990", "with_dependents": true}), true),
        (json!({"do": "destroy", "guest": "guest-999"}), true),
        (json!({"do": "service-up", "service": "guest-50"}), false),
        (json!({"do": "lab-down"}), false),
        (json!({"do": "start", "guest": "name:nosuch"}), false),
    ] {
        let text = asked.to_string();
        let (made, took) = timed(&known, &sight, &lab.policy, asked);
        println!("{took:?} {text}");
        assert_eq!(made, makes, "{text}");
        assert!(took.iter().all(|took| *took < LONGEST), "{text} took {took:?}");
    }
}
