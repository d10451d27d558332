//! Compound intents, policy's own steps, and tasks that end otherwise than plainly, carried out: what the simulator was
//! asked, in which order, and what became of it.

use crate::house::{House, SOON};
use nhi_bus::{
    call::{Call, Frame, stream},
    connect::Bus,
};
use nhi_model::{
    act::{ActApplied, ActRun, RunFrame},
    identity::Role,
    run::{Mark, Run, RunState, TaskExit},
};
use nhi_sim::{Fault, lab::guest::Power};
use nhi_testkit::{Person, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// 206 needs 203, that 208, and that 105: neither the order of their numbers nor of their names, on three nodes.
const DOWN: [u32; 4] = [206, 203, 208, 105];

fn graph() -> Value {
    json!({ "services": {
        "photos": { "depends_on": ["reverse-proxy"] },
        "reverse-proxy": { "depends_on": ["mariadb"], "required_by": ["photos"] },
        "mariadb": { "depends_on": ["vpn-gateway"], "required_by": ["reverse-proxy"] },
        "vpn-gateway": { "required_by": ["mariadb"] },
    }})
}

impl House {
    /// What was asked of the lab since, method and last two segments: `POST 106 start`.
    fn asked_since(&self, seen: usize) -> Vec<(String, u32, String)> {
        let log = self.lab.counts().write_log;
        let rows = log.iter().skip(seen).map(|write| {
            assert_eq!(write.status, 200, "{write:?}");
            let mut segments = write.path.split('/').skip(4);
            let vmid = segments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
            (write.method.clone(), vmid, segments.collect::<Vec<_>>().join("/"))
        });
        rows.collect()
    }

    fn asked(&self) -> usize {
        self.lab.counts().write_log.len()
    }

    /// The guests of these calls, which have to be all of one kind.
    fn guests_asked(&self, seen: usize, what: &str) -> Vec<u32> {
        let asked = self.asked_since(seen);
        assert!(asked.iter().all(|(method, _, below)| method == "POST" && below == what), "{asked:?}");
        asked.into_iter().map(|(_, vmid, _)| vmid).collect()
    }

    fn is_up(&self, vmid: u32) -> bool {
        self.lab.with_lab(|lab| !matches!(lab.guests[&vmid].power, Power::Stopped))
    }

    fn up(&self) -> Vec<u32> {
        let all = self.lab.with_lab(|lab| lab.guests.keys().copied().collect::<Vec<_>>());
        all.into_iter().filter(|vmid| self.is_up(*vmid)).collect()
    }

    fn lines(&self, vmid: u32) -> BTreeMap<String, String> {
        self.lab.with_lab(|lab| lab.guests[&vmid].config.clone())
    }

    fn snapshots(&self, vmid: u32) -> BTreeMap<String, BTreeMap<String, String>> {
        self.lab.with_lab(|lab| {
            let snapshots = lab.guests[&vmid].snapshots.iter();
            snapshots.map(|(name, kept)| (name.clone(), kept.config.clone())).collect()
        })
    }

    fn now(&self, applied: &ActApplied) -> Run {
        self.plans.read().runs[&applied.run].value.clone()
    }
}

async fn done(by: &Person, intent: Value) -> Run {
    let run = by.carry_out(intent).await.unwrap();
    assert!(matches!(run.state, RunState::Done { .. }), "{run:#?}");
    run
}

/// Those of `order` that are in `guests`, in their order there.
fn of(order: &[u32], guests: &[u32]) -> Vec<u32> {
    guests.iter().copied().filter(|vmid| order.contains(vmid)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lab_goes_down_and_comes_up_in_the_order_of_what_needs_what() {
    let house = House::open(&graph(), "").await;
    let anna = house.person("anna", Role::Operator).await;
    let before = house.up();
    done(&anna, json!({ "do": "lab-down" })).await;
    let down = house.guests_asked(0, "status/shutdown");
    assert_eq!(of(&DOWN, &down), DOWN);
    // What is protected, and what we run on, stays; everything else that ran was asked once.
    let mut went: Vec<u32> = before.iter().copied().filter(|vmid| !house.is_up(*vmid)).collect();
    assert_eq!(house.up(), [100, 101, 201, 207]);
    let mut once = down.clone();
    once.sort_unstable();
    went.sort_unstable();
    assert_eq!(once, went);

    // A service and what it needs, and nothing else.
    let seen = house.asked();
    done(&anna, json!({ "do": "service-up", "service": "reverse-proxy" })).await;
    assert_eq!(house.guests_asked(seen, "status/start"), [105, 208, 203]);

    // The rest, in the reverse order; what ran before runs again, and what did not does not.
    let seen = house.asked();
    done(&anna, json!({ "do": "lab-up" })).await;
    let up = house.guests_asked(seen, "status/start");
    let rest: Vec<u32> = down.iter().rev().copied().filter(|vmid| ![105, 208, 203].contains(vmid)).collect();
    assert_eq!(up, rest);
    assert_eq!(house.up(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_go_back_to_how_a_revision_had_them() {
    let house = House::plain().await;
    let anna = house.person("anna", Role::Operator).await;
    let then = house.view.read().revision;
    done(&anna, json!({ "do": "set", "guest": "106", "settings": { "tags": ["lab", "changed"], "memory_mib": 2048 } })).await;
    done(&anna, json!({ "do": "start", "guest": "212" })).await;
    done(&anna, json!({ "do": "shutdown", "guest": "209" })).await;
    done(&anna, json!({ "do": "set", "guest": "107", "settings": { "description": "stays" } })).await;
    let seen = house.asked();
    let back = json!({ "do": "return", "guests": ["106", "212", "209"], "to": { "revision": then } });
    done(&anna, back.clone()).await;
    assert_eq!((house.is_up(212), house.is_up(209)), (false, true));
    let lines = house.lines(106);
    assert_eq!((lines["tags"].as_str(), lines["memory"].as_str()), ("lab", "4096"));
    // Down first, then what is set, then up; and who was not named is left.
    let asked: Vec<(u32, String)> =
        house.asked_since(seen).into_iter().map(|(_, vmid, below)| (vmid, below)).collect();
    let told: Vec<(u32, &str)> = asked.iter().map(|(vmid, below)| (*vmid, below.as_str())).collect();
    assert_eq!(told, [(212, "status/shutdown"), (106, "config"), (209, "status/start")]);
    assert_eq!(house.lines(107)["description"], "stays");
    // The control: it is so now, and nothing is left to go back to.
    assert_eq!(anna.plan(back).await.unwrap_err().code, "nothing-to-do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_policy_wants_kept_first_is_kept_first() {
    let policy = "[operations]\nautomatic = [\"set\", \"start\", \"snapshot\"]\n[caution]\nsnapshot_before = [\"set\"]\n";
    let house = House::open(&json!({ "services": {} }), policy).await;
    let aider = house.person("aider", Role::Agent).await;
    let set = |tag: &str| json!({ "do": "set", "guest": "106", "settings": { "tags": [tag] } });
    let run = done(&aider, set("one")).await;
    let asked = house.asked_since(0);
    let told: Vec<(&str, &str)> =
        asked.iter().map(|(method, _, below)| (method.as_str(), below.as_str())).collect();
    assert_eq!(told, [("POST", "snapshot"), ("PUT", "config")]);
    let kept = house.snapshots(106);
    let name = format!("nhi-{}", run.plan.as_str().trim_start_matches("p-"));
    assert_eq!(kept[&name]["tags"], "lab", "{kept:#?}");
    assert_eq!(house.lines(106)["tags"], "one");

    // Where it cannot be kept, it is not changed.
    let fails = Fault::TaskFails {
        task: "qmsnapshot".to_owned(),
        vmid: Some(106),
        error: "no space left".to_owned(),
        times: Some(1),
        done: false,
    };
    house.lab.set_fault(fails).unwrap();
    let seen = house.asked();
    let run = aider.carry_out(set("two")).await.unwrap();
    assert!(matches!(&run.state, RunState::Failed { text } if text.contains("no space left")), "{run:#?}");
    let asked = house.asked_since(seen);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!((house.lines(106)["tags"].as_str(), house.snapshots(106).len()), ("one", 1));

    // The control: what policy does not name is done at once.
    let seen = house.asked();
    done(&aider, json!({ "do": "start", "guest": "212" })).await;
    assert_eq!(house.asked_since(seen).len(), 1);
    assert!(house.snapshots(212).is_empty());
}

/// Everything that is said to who follows a run.
async fn told(bus: &Bus, applied: &ActApplied) -> Vec<RunFrame> {
    let body = serde_json::to_vec(&ActRun { run: applied.run.clone() }).unwrap();
    let call = Call::new(bus, "act", "run", body.into()).unwrap();
    let mut frames = stream(bus, call).await.unwrap();
    let mut told = Vec::new();
    while let Some(frame) = frames.next().await {
        let (Frame::Part(bytes) | Frame::Whole(bytes)) = frame.unwrap();
        told.push(serde_json::from_slice(&bytes).unwrap());
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_ends_with_warnings_is_done_and_told_as_such() {
    let house = House::plain().await;
    let anna = house.person("anna", Role::Operator).await;
    let warns = Fault::TaskFails {
        task: "qmstart".to_owned(),
        vmid: Some(106),
        error: "WARNINGS: 2".to_owned(),
        times: Some(1),
        done: true,
    };
    house.lab.set_fault(warns).unwrap();
    let bus = house.nats.connect(&house.cx, "anna").await;
    for (guest, warnings) in [("106", Some(2)), ("212", None)] {
        let record = anna.plan(json!({ "do": "start", "guest": guest })).await.unwrap();
        let applied = anna.apply(&record, None).await.unwrap();
        let frames = told(&bus, &applied).await;
        let run = house.now(&applied);
        assert!(matches!(run.state, RunState::Done { .. }), "{run:#?}");
        let exit = warnings.map_or(TaskExit::Ok {}, |count| TaskExit::Warnings { count });
        assert!(run.journal.iter().any(|entry| entry.mark == Mark::Ended { exit: exit.clone() }), "{run:#?}");
        let says = frames.iter().any(|frame| frame.said.ends_with("its task ended with 2 warnings"));
        assert_eq!(says, warnings.is_some(), "{frames:#?}");
    }
    assert!(house.is_up(106) && house.is_up(212));
    assert_eq!(house.asked(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_ha_is_followed_until_the_guest_is_there() {
    let house = House::plain().await;
    let anna = house.person("anna", Role::Operator).await;
    done(&anna, json!({ "do": "stop", "guest": "211" })).await;
    assert!(!house.is_up(211));
    // HA takes its time: its own worker does not come to an end.
    let fault =
        house.lab.set_fault(Fault::TaskHangs { task: "vzstart".to_owned(), vmid: Some(211) }).unwrap();
    let record = anna.plan(json!({ "do": "start", "guest": "211" })).await.unwrap();
    let applied = anna.apply(&record, None).await.unwrap();
    let of_ha = |kind: &str| {
        house.lab.with_lab(|lab| {
            let mut tasks = lab.tasks.values().filter(|task| task.kind == kind && task.id == "211");
            tasks.next_back().map(|task| task.user.clone())
        })
    };
    wait_for("HA to begin", SOON, async || of_ha("vzstart").ok_or("nothing")).await;
    assert_eq!(of_ha("vzstart").unwrap(), "root@pam");
    assert_eq!(of_ha("hastart").unwrap(), house.lab.act_token.id);
    // Our task is long over and went well, and nobody says that the guest runs.
    let run = wait_for("our task to be over", SOON, async || {
        let run = house.now(&applied);
        let is_over = run.journal.iter().any(|entry| entry.mark == Mark::Ended { exit: TaskExit::Ok {} });
        if is_over { Ok(run) } else { Err(format!("{run:?}")) }
    })
    .await;
    assert!(!house.is_up(211));
    assert_eq!(run.state, RunState::Running {}, "{run:#?}");
    assert!(!run.journal.iter().any(|entry| entry.mark == Mark::Seen {}), "{run:#?}");
    house.lab.clear_fault(fault).unwrap();
    let run = anna.end(&applied).await;
    assert!(matches!(run.state, RunState::Done { .. }), "{run:#?}");
    assert!(house.is_up(211));
    assert_eq!(house.asked(), 2, "one stop and one start");
}
