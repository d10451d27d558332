//! The dead man's switch: what nobody confirms is taken back, whatever happened to those who asked, and nothing else is.
//! Its minutes are shortened as HOME: the run's record and its timer are set to a sooner moment.

use crate::house::{House, SOON};
use nhi_bus::{
    audit,
    plans::{self, PlansChange},
    timers,
};
use nhi_model::{
    Timestamp,
    act::{ActCancel, ActConfirm, ActFreeze, ActFrozen, ActGot, ActHeld, ActHold, ActPlan, ActThaw},
    audit::AuditKind,
    call::AuditList,
    envelope::OpId,
    identity::Role,
    intent::GuestRef,
    plan::PlanId,
    plans::PlansKey,
    run::{DeadManState, Run, RunId, RunState},
};
use nhi_sim::{
    Fault, Match, PowerWord,
    lab::{edit::Edit, guest::Power},
};
use nhi_testkit::{Person, wait_for, wish};
use serde_json::{Value, json};
use std::{
    fs,
    time::{Duration, Instant},
};

const POLICY: &str = "
[operations]
automatic = [\"start\", \"shutdown\", \"stop\", \"set\", \"create-vm\", \"destroy\"]
";

/// What is to be taken back: 106 runs.
fn start() -> Value {
    json!({ "do": "start", "guest": "106" })
}

impl House {
    async fn switched() -> Self {
        Self::open(&json!({ "services": {} }), POLICY).await
    }

    /// Applies something that is to be confirmed, to its end.
    async fn unconfirmed(&self, by: &Person, intent: Value) -> Run {
        let record =
            by.ask(&ActPlan { undo_unless_confirmed_minutes: Some(30), ..wish(intent) }).await.unwrap();
        let run = by.end(&by.apply(&record, None).await.unwrap()).await;
        assert!(matches!(run.state, RunState::Done { .. }), "{run:?}");
        assert_eq!(run.dead_man.as_ref().unwrap().state, DeadManState::Armed {}, "{run:?}");
        run
    }

    /// The time is over.
    async fn bring_due(&self, run: &RunId) {
        let (home, due) = (self.nats.connect(&self.cx, "home").await, Timestamp::now());
        let key = PlansKey::Run(run.clone());
        wait_for("the record to be due", SOON, async || {
            let mut row = plans::get::<Run>(&home, &key).await.unwrap().ok_or("no run")?;
            row.value.dead_man.as_mut().unwrap().due = due;
            let change = PlansChange::put(key.clone(), row.revision, &row.value);
            let op = OpId(uuid::Uuid::new_v4().to_string());
            plans::commit(&home, &op, due, &[change]).await.map_err(|error| error.to_string())
        })
        .await;
        timers::arm(&home, run, due).await.unwrap();
    }

    fn switch(&self, run: &RunId) -> DeadManState {
        self.plans.read().runs[run].value.dead_man.as_ref().unwrap().state.clone()
    }

    /// The plan that the switch of a run fired, and what it says.
    async fn fired(&self, run: &RunId) -> (Option<PlanId>, String) {
        wait_for("the switch to fire", SOON, async || match self.switch(run) {
            DeadManState::Fired { plan, text } => Ok((plan, text)),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until a run was taken back.
    async fn taken_back(&self, run: &RunId) -> PlanId {
        let (plan, text) = self.fired(run).await;
        let plan = plan.expect(&text);
        wait_for("the undo to be done", SOON, async || {
            let kept = self.plans.read();
            let state = kept.runs.get(&plan.run()).map(|row| row.value.state.clone());
            if matches!(state, Some(RunState::Done { .. })) { Ok(()) } else { Err(format!("{state:?}")) }
        })
        .await;
        plan
    }

    /// Waits until no timer is left, armed or due.
    async fn timers_are_settled(&self) {
        let raw = self.nats.raw("home").await;
        wait_for("the timers to be settled", SOON, async || {
            let answer = raw.request("$JS.API.CONSUMER.INFO.NHI_TIMERS.act", "".into()).await.unwrap();
            let info: Value = serde_json::from_slice(&answer.payload).unwrap();
            let left = (info["num_pending"].as_u64(), info["num_ack_pending"].as_u64());
            if left == (Some(0), Some(0)) { Ok(()) } else { Err(info.to_string()) }
        })
        .await;
    }

    fn runs_106(&self) -> bool {
        self.lab.with_lab(|lab| matches!(lab.guests[&106].power, Power::Running { .. }))
    }

    fn edit(&self, vmid: u32, edit: Edit) {
        self.lab.with_lab(|lab| lab.edit(vmid, edit)).unwrap();
    }

    async fn told_due(&self) -> usize {
        let home = self.nats.connect(&self.cx, "home").await;
        let listed = audit::list(&home, &AuditList::default()).await.unwrap();
        listed.entries.iter().filter(|row| row.entry.kind == AuditKind::UndoDue).count()
    }
}

async fn confirm(by: &Person, plan: &PlanId) -> Result<ActGot, String> {
    by.call("confirm", &ActConfirm { plan: plan.clone() }).await.map_err(|fault| fault.code)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_confirms_is_taken_back_once_and_what_is_confirmed_stays() {
    let house = House::switched().await;
    let (agent, anna) =
        (house.person("aider", Role::Agent).await, house.person("anna", Role::Operator).await);
    let run = house.unconfirmed(&agent, start()).await;
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
    assert!(!house.runs_106());
    house.timers_are_settled().await;
    assert_eq!(house.told_due().await, 1);
    assert_eq!(confirm(&anna, &run.plan).await.unwrap_err(), "expired");

    let run = house.unconfirmed(&agent, start()).await;
    confirm(&anna, &run.plan).await.unwrap();
    // Told twice it is the same, and a timer that was not taken away means nothing.
    confirm(&anna, &run.plan).await.unwrap();
    house.bring_due(&run.id).await;
    house.timers_are_settled().await;
    assert!(matches!(house.switch(&run.id), DeadManState::Confirmed { .. }));
    assert!(house.runs_106());

    // One of before the run's end says nothing about the end's.
    let stopped = agent.carry_out(json!({ "do": "stop", "guest": "106" })).await.unwrap();
    assert_eq!(stopped.state.as_str(), "done", "{stopped:?}");
    let run = house.unconfirmed(&agent, start()).await;
    let home = house.nats.connect(&house.cx, "home").await;
    timers::arm(&home, &run.id, Timestamp::now()).await.unwrap();
    house.timers_are_settled().await;
    assert_eq!(house.switch(&run.id), DeadManState::Armed {});
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_back_by_hand_is_left_alone() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let run = house.unconfirmed(&agent, start()).await;
    let undo = agent.carry_out(json!({ "do": "undo", "plan": run.plan })).await.unwrap();
    assert_eq!(undo.state.as_str(), "done", "{undo:?}");
    let (plan, _) = house.fired(&run.id).await;
    assert_eq!(plan, Some(undo.plan));
    let again = agent.carry_out(start()).await.unwrap();
    assert_eq!(again.state.as_str(), "done", "{again:?}");
    house.bring_due(&run.id).await;
    house.timers_are_settled().await;
    assert!(house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_revoked_identity_nor_a_hold_nor_a_new_never_keeps_it() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let other = house.person("anna", Role::Operator).await;
    let run = house.unconfirmed(&agent, start()).await;
    let guest = GuestRef::parse("106").unwrap();
    let hold = ActHold { guest, minutes: 5, reason: "mine".to_owned() };
    other.call::<ActHeld>("hold", &hold).await.unwrap();
    fs::write(house.policy(), "[operations]\nnever = [\"stop\", \"shutdown\"]\n").unwrap();
    wait_for("the policy to hold", SOON, async || {
        let refused =
            other.plan(json!({ "do": "shutdown", "guest": "209" })).await.map_err(|fault| fault.code);
        if refused.as_ref().err().is_some_and(|code| code == "never") { Ok(()) } else { Err("not yet") }
    })
    .await;
    house.nats.revoke("aider").await;
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
    assert!(!house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_back_yet_is_told_and_tried_again() {
    let mut house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let run = house.unconfirmed(&agent, start()).await;
    let lock = [("lock".to_owned(), "backup".to_owned())].into();
    house.edit(106, Edit::Config { set: lock, delete: Vec::new() });
    house.bring_due(&run.id).await;
    let alert = format!("alert.act.undo-{}", run.id);
    house.shows("the alert", |state| state.records.keys().any(|key| key.as_str() == alert)).await;
    assert_eq!(house.switch(&run.id), DeadManState::Armed {});
    assert_eq!(house.told_due().await, 0);
    // Nobody acts while the lock goes; the timer is there when somebody does again.
    house.stop_acting().await;
    house.edit(106, Edit::Config { set: [].into(), delete: vec!["lock".to_owned()] });
    house.bring_due(&run.id).await;
    assert!(house.runs_106());
    house.act().await;
    house.taken_back(&run.id).await;
    assert!(!house.runs_106());
    house.shows("the alert to go", |state| !state.records.keys().any(|key| key.as_str() == alert)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_stands_still_is_waited_for() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let run = house.unconfirmed(&agent, start()).await;
    // Paused, it would not hear a shutdown.
    house.edit(106, Edit::Power { to: PowerWord::Paused });
    house.bring_due(&run.id).await;
    let said = house.alert_says(&run.id, "is paused").await;
    assert!(said.contains("cannot be taken back yet"), "{said}");
    assert_eq!(house.switch(&run.id), DeadManState::Armed {});
    house.edit(106, Edit::Power { to: PowerWord::Running });
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
    house.has_no_alert(&run.id).await;
    assert!(!house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_guest_with_the_number_and_the_name_is_not_destroyed() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let create = json!({ "do": "create-vm", "template": "9000", "new": { "name": "built" } });
    // The control: its own is.
    for is_replaced in [false, true] {
        let run = house.unconfirmed(&agent, create.clone()).await;
        let made = run.made.keys().next().expect("the guest was read back").clone();
        let vmid: u32 = made.tokens()[1].parse().unwrap();
        if is_replaced {
            let guest = json!({ "vmid": vmid, "kind": "qemu", "node": "pve1", "name": "built", "age_s": 0 });
            let guest = Box::new(serde_json::from_value(guest).unwrap());
            house.edit(vmid, Edit::Replace { guest });
        }
        house.bring_due(&run.id).await;
        if is_replaced {
            let (plan, text) = house.fired(&run.id).await;
            assert_eq!(plan, None, "{text}");
            assert!(text.contains("not the guest"), "{text}");
            house.alert_says(&run.id, "not the guest").await;
        } else {
            house.taken_back(&run.id).await;
        }
        assert_eq!(house.lab.with_lab(|lab| lab.guests.contains_key(&vmid)), is_replaced);
    }
}

impl House {
    /// Nothing stops any more.
    fn stops_fail(&self) -> [u64; 2] {
        ["qmstop", "qmshutdown"].map(|task| {
            let (task, error) = (task.to_owned(), "it hangs".to_owned());
            let fault = Fault::TaskFails { task, vmid: Some(106), error, times: None, done: false };
            self.lab.set_fault(fault).unwrap()
        })
    }

    /// The alert about a run says something.
    async fn alert_says(&self, run: &RunId, what: &str) -> String {
        let key = format!("alert.act.undo-{run}");
        let said = || {
            let state = self.view.read();
            let alert = state.records.iter().find(|(one, _)| one.as_str() == key);
            alert.map(|(_, entry)| entry.stored.record.to_string()).unwrap_or_default()
        };
        self.shows(what, |_| said().contains(what)).await;
        said()
    }

    async fn has_no_alert(&self, run: &RunId) {
        let key = format!("alert.act.undo-{run}");
        self.shows("the alert to go", |state| !state.records.keys().any(|one| one.as_str() == key)).await;
    }

    /// Waits until the undo that a switch fired failed; whether the next one is due later.
    async fn is_tried_again(&self, run: &RunId) -> bool {
        wait_for("the undo to fail", SOON, async || match self.switch(run) {
            DeadManState::Fired { text, .. } if text.contains("did not") => Ok(false),
            DeadManState::Armed {} if self.due(run) > Timestamp::now() => Ok(true),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    fn due(&self, run: &RunId) -> Timestamp {
        self.plans.read().runs[run].value.dead_man.as_ref().unwrap().due
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_fails_is_tried_again_and_told_when_that_is_no_use() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let faults = house.stops_fail();
    let run = house.unconfirmed(&agent, start()).await;
    house.bring_due(&run.id).await;
    assert!(house.is_tried_again(&run.id).await);
    let said = house.alert_says(&run.id, "failed").await;
    assert!(said.contains(run.plan.as_str()) && said.contains("the next try is at"), "{said}");
    for fault in faults {
        house.lab.clear_fault(fault).unwrap();
    }
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
    house.has_no_alert(&run.id).await;

    // It never works: then people are told, once, and one of them ends it.
    house.stops_fail();
    let run = house.unconfirmed(&agent, start()).await;
    let mut tries = 1;
    house.bring_due(&run.id).await;
    while house.is_tried_again(&run.id).await {
        tries += 1;
        house.bring_due(&run.id).await;
    }
    assert_eq!(tries, 5);
    let said = house.alert_says(&run.id, "stays as it is").await;
    assert!(said.contains(&format!("nhi plan confirm {}", run.plan)), "{said}");
    let home = house.nats.connect(&house.cx, "home").await;
    let listed = audit::list(&home, &AuditList::default()).await.unwrap();
    let told = listed.entries.iter().filter(|row| {
        let plan = row.entry.details.get("plan");
        row.entry.kind == AuditKind::PlanRefused && plan.is_some_and(|id| *id == run.plan.as_str())
    });
    assert_eq!(told.count(), 1);
    let anna = house.person("anna", Role::Operator).await;
    confirm(&anna, &run.plan).await.unwrap();
    house.has_no_alert(&run.id).await;
    assert!(house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_guests_than_may_be_destroyed_in_a_day_are_taken_back() {
    let house = House::switched().await;
    let anna = house.person("anna", Role::Operator).await;
    let create = |name| json!({ "do": "create-vm", "template": "9000", "new": { "name": name } });
    let creates = ["one", "two", "three"].map(create);
    let all = json!({ "do": "all", "of": creates });
    let run = house.unconfirmed(&anna, all).await;
    assert_eq!(run.made.len(), 3, "{run:?}");
    house.bring_due(&run.id).await;
    house.taken_back(&run.id).await;
    let is_there = |vmid: u32| house.lab.with_lab(|lab| lab.guests.contains_key(&vmid));
    assert!(!run.made.keys().any(|key| is_there(key.tokens()[1].parse().unwrap())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_somebody_asked_for_and_that_waits_keeps_nobody_from_it() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let other = house.person("anna", Role::Operator).await;
    let run = house.unconfirmed(&agent, start()).await;
    let now = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).hour();
    let quiet: Vec<i8> = (0..24).filter(|hour| *hour != (now + 3) % 24).collect();
    let policy = format!("{POLICY}never = [\"reboot\"]\n[hours]\nquiet = {quiet:?}\n");
    fs::write(house.policy(), policy).unwrap();
    wait_for("the policy to hold", SOON, async || {
        let refused = other.plan(json!({ "do": "reboot", "guest": "209" })).await.map_err(|fault| fault.code);
        if refused.as_ref().err().is_some_and(|code| code == "never") { Ok(()) } else { Err("not yet") }
    })
    .await;
    let undo = agent.plan(json!({ "do": "undo", "plan": run.plan })).await.unwrap();
    let waits = agent.apply(&undo, None).await.unwrap();
    assert!(matches!(waits.state, RunState::Waiting { not_before: Some(_), .. }), "{waits:?}");
    house.bring_due(&run.id).await;
    assert_ne!(house.taken_back(&run.id).await, undo.plan.id);
    assert!(!house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_person_calls_off_what_takes_a_run_back_and_that_confirms_it() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let anna = house.person("anna", Role::Operator).await;
    let run = house.unconfirmed(&agent, start()).await;
    // It waits, because everything does.
    let freeze = ActFreeze { reason: "party".to_owned() };
    anna.call::<ActFrozen>("freeze", &freeze).await.unwrap();
    house.bring_due(&run.id).await;
    let undo = house.fired(&run.id).await.0.unwrap();
    let cancel = ActCancel { plan: undo };
    assert_eq!(agent.call::<ActGot>("cancel", &cancel).await.unwrap_err().code, "no-rights");
    anna.call::<ActGot>("cancel", &cancel).await.unwrap();
    wait_for("the run to be confirmed", SOON, async || match house.switch(&run.id) {
        DeadManState::Confirmed { by, .. } if by.as_str() == "anna" => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    anna.call::<ActFrozen>("thaw", &ActThaw {}).await.unwrap();
    house.timers_are_settled().await;
    assert!(house.runs_106());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_a_no_nor_a_confirmation_counts_from_anybody_but_a_person() {
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let run = house.unconfirmed(&agent, start()).await;
    let open = agent.plan(json!({ "do": "shutdown", "guest": "209" })).await.unwrap();
    house.person("anna", Role::Operator).await;
    // HOME may speak in anybody's name: an agent's own call would not come here.
    let raw = house.nats.raw("home").await;
    let code = async |endpoint: &str, who: &str, plan: &PlanId| {
        let body = json!({ "plan": plan, "reason": "no" });
        let body = if endpoint == "confirm" { json!({ "plan": plan }) } else { body };
        let asked = raw.request(format!("nhi.act.{endpoint}.{who}"), body.to_string().into());
        let told: Value = serde_json::from_slice(&asked.await.unwrap().payload).unwrap();
        told["error"]["code"].as_str().map(str::to_owned)
    };
    for (endpoint, plan) in [("reject", &open.plan.id), ("confirm", &run.plan)] {
        assert_eq!(code(endpoint, "aider", plan).await.as_deref(), Some("no-rights"), "{endpoint}");
        // The control: what it asked for is still to be said.
        assert_eq!(house.switch(&run.id), DeadManState::Armed {});
        assert_eq!(code(endpoint, "anna", plan).await, None, "{endpoint}");
    }
    assert!(matches!(house.switch(&run.id), DeadManState::Confirmed { by, .. } if by.as_str() == "anna"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_undo_that_waits_for_a_guest_that_does_not_answer_keeps_no_other_waiting() {
    // How long a guest is waited for.
    const LOOK: Duration = Duration::from_secs(30);
    let house = House::switched().await;
    let agent = house.person("aider", Role::Agent).await;
    let stuck = house.unconfirmed(&agent, start()).await;
    let other = house.unconfirmed(&agent, json!({ "do": "start", "guest": "212" })).await;
    let on = Match { method: None, path: Some("/qemu/106/".to_owned()), ..Match::default() };
    house.lab.set_fault(Fault::Slow { on, ms: 120_000 }).unwrap();
    let reads = || house.lab.counts().by_guest.get(&106).map_or(0, |guest| guest.reads);
    let (before, began) = (reads(), Instant::now());
    house.bring_due(&stuck.id).await;
    wait_for("it to be looked at", SOON, async || if reads() > before { Ok(()) } else { Err(reads()) }).await;
    house.bring_due(&other.id).await;
    let (plan, text) = house.fired(&other.id).await;
    assert!(plan.is_some() && began.elapsed() < LOOK, "{text} {:?}", began.elapsed());
    // The control: nothing became of the first one meanwhile.
    assert_eq!(house.switch(&stuck.id), DeadManState::Armed {});
}
