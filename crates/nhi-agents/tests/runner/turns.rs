//! Whose turn it is: between actuators, between runs, and between people and runs.

use crate::{
    house::{Actuator, House, SOON},
    steps::{RUNNER, SANDBOX, STAGING, Wish, plan, run_of, sealed},
};
use nhi_bus::{
    cx::Cx,
    plans::{self, PlansChange},
    store::{self, StoreSettings},
    timers,
};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    identity,
    plan::{OnFailure, Plan},
    plans::PlansKey,
    run::{DeadMan, DeadManState, Freeze, Holder, Mark, Run, RunId, RunState},
};
use nhi_sim::{Fault, Match, PowerWord, lab::edit::Edit};
use nhi_testkit::{Fault as PathFault, Proxy, wait_for};
use std::{collections::BTreeMap, time::Duration};

const STOP: OnFailure = OnFailure::Stop;

/// Three steps on two nodes.
const THREE: [Wish; 3] = [Wish::Snapshot(RUNNER), Wish::Start(STAGING), Wish::Start(SANDBOX)];

impl House {
    /// Tasks take so long from now on.
    pub(crate) fn tasks_take(&self, ms: u64) {
        self.lab.with_lab(|lab| lab.task_ms = ms);
    }

    fn acting(&self) -> Option<String> {
        self.plans.read().actuator.as_ref().map(|row| row.value.actuator.clone())
    }

    pub(crate) async fn begun(&self, id: &RunId) {
        self.run_until(id, "a call to leave", |run| !run.journal.is_empty()).await;
    }

    pub(crate) async fn waits(&self, id: &RunId, why: &str) {
        let says = |run: &Run| matches!(&run.state, RunState::Waiting { reason, .. } if reason.contains(why));
        self.run_until(id, why, says).await;
    }

    /// Done; other runs may be under way.
    pub(crate) async fn ends_well(&self, id: &RunId) -> Run {
        let run = self.over(id).await;
        assert!(matches!(run.state, RunState::Done { .. }), "{run:#?}");
        run
    }

    /// Done, with one effect each and everything else as it should be.
    async fn done(&self, plan: &Plan, id: &RunId) -> Run {
        let run = self.ends_well(id).await;
        self.check(plan, &run).await;
        run
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_actuators_one_acts_and_the_other_takes_over() {
    let house = House::open().await;
    let mut actuators = [Some(house.actuator().await), Some(house.actuator().await)];
    let plan = plan("p-0001", &THREE, STOP);
    house.tasks_take(300);
    let id = house.apply(&plan).await;
    house.begun(&id).await;
    let first = house.acting().unwrap();
    let place = usize::from(first.ends_with('1'));
    actuators[place].take().unwrap().kill();
    let run = house.done(&plan, &id).await;
    let holder = run.holder.unwrap();
    assert!(holder.actuator != first && holder.generation == 2, "{first} {holder:?}");
    drop(actuators);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actuator_that_stops_in_order_leaves_the_post() {
    let house = House::open().await;
    let first = house.actuator().await;
    let plan = plan("p-0001", &THREE, STOP);
    house.tasks_take(200);
    let id = house.apply(&plan).await;
    house.begun(&id).await;
    let second = house.actuator().await;
    first.stop().await;
    // Asked of the server: a view may be behind.
    let post = plans::get::<Holder>(&house.home, &PlansKey::Actuator).await.unwrap().unwrap().value;
    assert!(post.until == Timestamp::UNIX_EPOCH || post.actuator.ends_with('1'), "{post:?}");
    house.done(&plan, &id).await;
    drop(second);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_actuator_that_was_taken_over_does_nothing_more() {
    let house = House::open().await;
    let cx = Cx::new();
    let path = Proxy::start(&cx, house.nats_address()).await.unwrap();
    let first = house.actuator_by(&path).await;
    house.until("the first one to act", |kept| kept.actuator.clone()).await;
    let second = house.actuator().await;
    house.tasks_take(300);
    let plan = plan("p-0001", &THREE, STOP);
    let id = house.apply(&plan).await;
    house.begun(&id).await;
    // It goes on living, and hears of nothing.
    path.set(PathFault::HalfOpen);
    let run = house.done(&plan, &id).await;
    assert_eq!(run.holder.unwrap().generation, 2);
    let writes = house.lab.counts().writes;
    path.set(PathFault::Pass);
    // When it is back it has nothing to say: the next run is the other's too.
    let next = self::plan("p-0002", &[Wish::Tags(RUNNER, "ci;lab", "ci")], STOP);
    let id = house.apply(&next).await;
    house.ends_well(&id).await;
    assert_eq!(house.lab.counts().writes, writes + 1);
    drop((first, second));
    house.close().await;
    cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_bus_holds_a_run_up_and_doubles_nothing() {
    let house = House::open().await;
    let cx = Cx::new();
    let path = Proxy::start(&cx, house.nats_address()).await.unwrap();
    let actuator = house.actuator_by(&path).await;
    let mut number = 0;
    for cut in [PathFault::Cut, PathFault::HalfOpen] {
        for wait_ms in [0, 30, 60] {
            number += 1;
            house.lab.reset();
            house.tasks_take(60);
            let plan = plan(&format!("p-{number:04}"), &THREE, STOP);
            let id = house.apply(&plan).await;
            house.begun(&id).await;
            let _over = house.is_over_within(&id, wait_ms).await;
            path.set(cut);
            // Longer than the lease: what it had to write down waits for it.
            let _not_over = house.is_over_within(&id, 700).await;
            path.set(PathFault::Pass);
            house.done(&plan, &id).await;
        }
    }
    drop(actuator);
    house.close().await;
    cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_freeze_lets_a_step_end_and_nothing_begin() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    house.tasks_take(300);
    let plan = plan("p-0001", &THREE, STOP);
    let id = house.apply(&plan).await;
    house.begun(&id).await;
    let freeze = Freeze { by: identity::owner(), reason: "party".to_owned(), since: Timestamp::now() };
    let revision = house.put(&[PlansChange::put(PlansKey::Freeze, 0, &freeze)]).await;
    let ended = |run: &Run| run.journal.last().is_some_and(|entry| entry.mark == Mark::Seen {});
    house.run_until(&id, "the step to end", ended).await;
    let other = self::plan("p-0002", &[Wish::Tags(STAGING, "lab", "lab;x")], STOP);
    let waiting = house.apply(&other).await;
    house.waits(&waiting, "owner has stopped everything: party").await;
    assert!(!house.is_over_within(&id, 500).await);
    assert_eq!(house.lab.counts().writes, 1, "only what was under way");
    house.put(&[PlansChange::remove(PlansKey::Freeze, revision)]).await;
    house.done(&plan, &id).await;
    house.ends_well(&waiting).await;
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_wait_for_guests_for_their_hour_and_for_nodes() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    house.tasks_take(200);
    // A guest that another run works on.
    let first = plan("p-0001", &[Wish::Snapshot(RUNNER), Wish::Start(STAGING)], STOP);
    let second = plan("p-0002", &[Wish::Tags(STAGING, "lab", "lab;x")], STOP);
    let third = plan("p-0003", &[Wish::Start(SANDBOX)], STOP);
    let one = house.apply(&first).await;
    house.begun(&one).await;
    let two = house.apply(&second).await;
    house.waits(&two, "run r-0001 works on vm.home.106").await;
    // Its hour.
    let moment = Timestamp::now() + Duration::from_millis(1500);
    let reason = "policy lets it start later".to_owned();
    let state = RunState::Waiting { reason, not_before: Some(moment) };
    let three = house.apply_as(&third, Run { state, ..run_of(&third) }).await;
    for id in [&one, &two, &three] {
        house.ends_well(id).await;
    }
    let begins = |id: &RunId| house.plans.read().runs[id].value.journal.first().unwrap().at;
    assert!(begins(&three) >= moment);
    assert!(begins(&two) >= house.plans.read().runs[&one].value.ended_at.unwrap());

    // A node takes one call at a time.
    house.lab.reset();
    house.tasks_take(200);
    let runs = [
        plan("p-0004", &[Wish::Snapshot(RUNNER)], STOP),
        plan("p-0005", &[Wish::Start(STAGING)], STOP),
        plan("p-0006", &[Wish::Start(SANDBOX)], STOP),
    ];
    let mut spans = Vec::new();
    for plan in &runs {
        house.apply(plan).await;
    }
    for plan in &runs {
        let run = house.ends_well(&plan.id.run()).await;
        spans.push((run.journal.first().unwrap().at, run.journal.last().unwrap().at));
    }
    let apart = |one: usize, other: usize| spans[one].1 <= spans[other].0 || spans[other].1 <= spans[one].0;
    assert!(apart(0, 1), "both on pve1: {spans:?}");
    assert!(!apart(0, 2) || !apart(1, 2), "the other node does not wait: {spans:?}");
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_since_the_plan_ends_a_run_before_its_first_call() {
    let house = House::open().await;
    let key = nhi_model::key::Key::parse("vm.home.106").unwrap();
    let view = nhi_bus::view::View::open(&house.cx, &house.home).await.unwrap();
    let snapshot = view.read();
    let mut old = plan("p-0001", &[Wish::Start(STAGING)], STOP);
    old.revision = snapshot.revision;
    old.reads = [(key.clone(), snapshot.records[&key].revision)].into();
    let old = sealed(old);
    house.lab.with_lab(|lab| {
        let lines = [("memory".to_owned(), "1234".to_owned())].into();
        lab.edit(STAGING, Edit::Config { set: lines, delete: Vec::new() }).unwrap();
    });
    let _done: nhi_model::call::ScanDone =
        nhi_bus::call::call(&house.home, "scan", "now", &nhi_model::call::ScanNow {}).await.unwrap();
    let actuator = house.actuator().await;
    let id = house.apply(&old).await;
    let run = house.over(&id).await;
    assert!(matches!(&run.state, RunState::Failed { text } if text.contains("has changed")), "{run:#?}");
    // And a plan that is not the one that was applied is not carried out.
    let other = plan("p-0002", &[Wish::Start(STAGING)], STOP);
    let id = house.apply_as(&other, Run { digest: old.digest().clone(), ..run_of(&other) }).await;
    let run = house.over(&id).await;
    assert!(matches!(&run.state, RunState::Failed { text } if text.contains("not the one")), "{run:#?}");
    assert_eq!(house.lab.counts().writes, 0);
    let last = plan("p-0003", &[Wish::Start(SANDBOX)], STOP);
    let after = house.apply(&last).await;
    house.done(&last, &after).await;
    assert_eq!(house.lab.counts().writes, 1);
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_that_the_audit_log_does_not_take() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    assert_eq!(house.jetstream("STREAM.DELETE.NHI_AUDIT").await["success"], true);
    let plan = plan("p-0001", &[Wish::Start(STAGING)], STOP);
    let id = house.apply(&plan).await;
    house.run_until(&id, "the claim", |run| run.holder.is_some()).await;
    assert!(!house.is_over_within(&id, 1000).await);
    assert_eq!(house.lab.counts().writes, 0);
    store::provision(&house.home, &StoreSettings { replicas: 1 }).await.unwrap();
    house.done(&plan, &id).await;
    drop(actuator);
    house.close().await;
}

fn with_dead_man(id: &str, wishes: &[Wish]) -> Plan {
    let plan = plan(id, wishes, OnFailure::Compensate);
    sealed(Plan { undo_unless_confirmed_minutes: Some(0), ..plan })
}

fn switch(run: &Run) -> DeadManState {
    run.dead_man.as_ref().expect("it was armed before the first call").state.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_confirms_is_handed_out_until_it_is_taken_back() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    // Taken back already: there is nothing to do.
    let failing = with_dead_man("p-0001", &[Wish::Start(SANDBOX), Wish::Start(STAGING)]);
    let fault = Fault::TaskFails {
        task: "qmstart".to_owned(),
        vmid: None,
        error: "it broke".to_owned(),
        times: Some(1),
        done: false,
    };
    house.lab.set_fault(fault).unwrap();
    let id = house.apply(&failing).await;
    let run = house.over(&id).await;
    assert!(matches!(run.state, RunState::Compensated { .. }), "{run:#?}");
    assert_eq!(switch(&run), DeadManState::Disarmed {});

    // Everybody dies when it is done.
    house.lab.reset();
    let plan = with_dead_man("p-0002", &[Wish::Start(SANDBOX)]);
    let id = house.apply(&plan).await;
    let run = house.done(&plan, &id).await;
    assert_eq!(switch(&run), DeadManState::Armed {});
    actuator.kill();
    let actuator = house.actuator().await;
    let mut due = actuator.runner.due();
    let first = tokio::time::timeout(SOON, due.recv()).await.unwrap().unwrap();
    assert_eq!(first.run, id);
    let fired = |run: &mut Run| {
        let text = "somebody takes it back".to_owned();
        run.dead_man.as_mut().unwrap().state = DeadManState::Fired { plan: None, text };
    };
    house.edit(&id, fired).await;
    drop(first);
    wait_for("the timer to be acknowledged", SOON, async || {
        let consumer = house.jetstream("CONSUMER.INFO.NHI_TIMERS.act").await;
        let pending = (consumer["num_pending"].as_u64(), consumer["num_ack_pending"].as_u64());
        if pending == (Some(0), Some(0)) { Ok(()) } else { Err(consumer.to_string()) }
    })
    .await;
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_before_the_timer_was_set_is_looked_at_anew_when_that_took_long() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    let on = Match { method: Some("GET".to_owned()), path: None, times: None, after: 0 };
    let slow = house.lab.set_fault(Fault::Slow { on, ms: 800 }).unwrap();
    let id = house.apply(&with_dead_man("p-0001", &[Wish::Start(STAGING)])).await;
    // While it looks at the guest the audit log goes away: the switch is set, and that cannot be written down.
    wait_for("the claim", SOON, async || {
        let claimed = house.audit_of(&id).await.iter().any(|entry| entry.kind == AuditKind::RunClaimed);
        claimed.then_some(())
    })
    .await;
    assert_eq!(house.jetstream("STREAM.DELETE.NHI_AUDIT").await["success"], true);
    wait_for("the timer", SOON, async || {
        let timers = house.jetstream("STREAM.INFO.NHI_TIMERS").await;
        if timers["state"]["messages"] == 1 { Ok(()) } else { Err(timers.to_string()) }
    })
    .await;
    house.lab.clear_fault(slow).unwrap();
    house.lab.with_lab(|lab| lab.edit(STAGING, Edit::Power { to: PowerWord::Running })).unwrap();
    assert!(!house.is_over_within(&id, 6000).await);
    store::provision(&house.home, &StoreSettings { replicas: 1 }).await.unwrap();
    let run = house.ends_well(&id).await;
    assert!(house.lab.counts().writes == 0 && run.journal[0].mark == Mark::AlreadySo {}, "{run:#?}");
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_of_a_run_before_the_audit_log_has_its_claim() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    assert_eq!(house.jetstream("STREAM.DELETE.NHI_AUDIT").await["success"], true);
    let id = house.apply(&plan("p-0001", &[Wish::Start(STAGING)], STOP)).await;
    house.run_until(&id, "the claim", |run| run.state == RunState::Running {}).await;
    // It looks at the guest meanwhile, and gets no further.
    assert!(!house.is_over_within(&id, 1500).await);
    store::provision(&house.home, &StoreSettings { replicas: 1 }).await.unwrap();
    let run = house.ends_well(&id).await;
    let marks: Vec<&Mark> = run.journal.iter().map(|entry| &entry.mark).collect();
    assert!(!marks.contains(&&Mark::NotTaken {}), "{marks:?}");
    let kinds: Vec<AuditKind> = house.audit_of(&id).await.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds[..2], [AuditKind::RunClaimed, AuditKind::StepBegun]);
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_cannot_be_taken_back_yet_keep_no_other_waiting() {
    let house = House::open().await;
    let (actuator, due) = (house.actuator().await, Timestamp::now());
    let mut handed_out = actuator.runner.due();
    for number in 0..6 {
        let plan = plan(&format!("p-000{number}"), &[Wish::Start(STAGING)], STOP);
        let dead_man = Some(DeadMan { due, state: DeadManState::Armed {} });
        let state = RunState::Done { revision: 1 };
        let id = house.apply_as(&plan, Run { state, dead_man, ended_at: Some(due), ..run_of(&plan) }).await;
        timers::arm(&house.home, &id, due).await.unwrap();
    }
    // One after the other, the third would not come before these come again.
    let all = async {
        let mut in_hand = BTreeMap::new();
        while in_hand.len() < 6 {
            let due = handed_out.recv().await.unwrap();
            in_hand.insert(due.run.clone(), due);
        }
        in_hand
    };
    let in_hand = tokio::time::timeout(Duration::from_secs(25), all).await.unwrap();
    assert!(in_hand.keys().all(|id| switch(&house.plans.read().runs[id].value) == DeadManState::Armed {}));
    drop(actuator);
    house.close().await;
}

impl Actuator {
    async fn stop(self) {
        self.cx.close().await;
    }
}
