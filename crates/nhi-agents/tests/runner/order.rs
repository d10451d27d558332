//! In which order runs get the guests they want, those they only count on among them, and what a person's claim does.

use crate::{
    house::House,
    steps::{CLUSTER, RUNNER, SANDBOX, STAGING, Wish, key, plan, record_of, run_of, sealed},
};
use nhi_bus::plans::PlansChange;
use nhi_model::{
    Timestamp,
    envelope::OpId,
    fact::Fact,
    guest::GuestStatus,
    identity::IdentityName,
    plan::{OnFailure, Plan, PlanRecord},
    plans::PlansKey,
    run::{Hold, Holder, Lease, Run, RunId, RunState},
};
use std::time::Duration;

fn of(id: &str, wishes: &[Wish]) -> Plan {
    plan(id, wishes, OnFailure::Stop)
}

/// The same, as long as a guest is stopped.
fn while_stopped(plan: Plan, vmid: u32) -> Plan {
    let mut plan = plan;
    plan.requires.push(Fact::Status { guest: key(vmid), status: GuestStatus::Stopped });
    sealed(plan)
}

impl House {
    async fn hold(&self, vmid: u32) -> u64 {
        let by = IdentityName::parse("anna").unwrap();
        let until = Timestamp::now() + Duration::from_secs(600);
        let hold = Hold { by, reason: "mine".to_owned(), until };
        let key = PlansKey::Hold { cluster: CLUSTER.to_owned(), vmid };
        self.put(&[PlansChange::put(key, 0, &hold)]).await
    }

    async fn release(&self, vmid: u32, revision: u64) {
        let key = PlansKey::Hold { cluster: CLUSTER.to_owned(), vmid };
        self.put(&[PlansChange::remove(key, revision)]).await;
    }

    /// Applies what somebody asked for.
    async fn apply_asked(&self, plan: &Plan) -> RunId {
        let record = PlanRecord { request: Some(OpId("asked".to_owned())), ..record_of(plan) };
        let run = run_of(plan);
        self.put(&[
            PlansChange::put(PlansKey::Plan(plan.id.clone()), 0, &record),
            PlansChange::put(PlansKey::Run(run.id.clone()), 0, &run),
        ])
        .await;
        run.id
    }

    /// Leaves a run as an actuator does that dies right after its claim.
    async fn leave_claimed(&self, plan: &Plan) -> RunId {
        let (run, at) = (run_of(plan), Timestamp::now());
        let holder = Some(Holder { actuator: "dead".to_owned(), generation: 1, until: at });
        let lease = Lease { run: run.id.clone(), generation: 1, at };
        let id = self.apply_as(plan, Run { state: RunState::Running {}, holder, ..run }).await;
        let key = |vmid| PlansKey::Lease { cluster: plan.cluster.clone(), vmid };
        let leases = plan.targets.iter().map(|target| PlansChange::put(key(target.vmid), 0, &lease));
        self.put(&leases.collect::<Vec<_>>()).await;
        id
    }

    /// Whether the first of two runs was over before the second one's first call.
    fn are_apart(&self, first: &RunId, second: &RunId) -> bool {
        let runs = &self.plans.read().runs;
        let begun = runs[second].value.journal.first().map(|entry| entry.at);
        runs[first].value.ended_at.unwrap() <= begun.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_waits_for_the_end_of_somebodys_claim() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    let hold = house.hold(STAGING).await;
    let asked = house.apply_asked(&of("p-0001", &[Wish::Start(STAGING), Wish::Start(SANDBOX)])).await;
    house.waits(&asked, "vm.home.106 is held by anna").await;
    assert_eq!(house.lab.counts().writes, 0);
    // It holds nobody up meanwhile, as it would when it waited for its turn only.
    let other = house.apply_asked(&of("p-0002", &[Wish::Tags(SANDBOX, "lab", "lab;x")])).await;
    house.over(&other).await;
    assert!(matches!(house.plans.read().runs[&asked].value.state, RunState::Waiting { .. }));
    house.release(STAGING, hold).await;
    house.ends_well(&asked).await;
    // What is taken back because nobody confirmed it does not ask.
    house.hold(RUNNER).await;
    let undo = house.apply(&of("p-0003", &[Wish::Stop(RUNNER)])).await;
    house.ends_well(&undo).await;
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_counts_on_nobody_works_on_meanwhile() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    for counts in [true, false] {
        house.lab.reset();
        house.tasks_take(400);
        let tail = u8::from(counts);
        let stop = of(&format!("p-100{tail}"), &[Wish::Snapshot(RUNNER), Wish::Stop(RUNNER)]);
        let stop = if counts { while_stopped(stop, STAGING) } else { stop };
        let start = of(&format!("p-200{tail}"), &[Wish::Start(STAGING)]);
        let stops = house.apply(&stop).await;
        house.begun(&stops).await;
        let starts = house.apply(&start).await;
        if counts {
            house.waits(&starts, &format!("run {stops} counts on vm.home.106")).await;
        }
        house.ends_well(&stops).await;
        house.ends_well(&starts).await;
        // The control: on its guests alone nobody could tell that they do not go together.
        assert_eq!(house.are_apart(&stops, &starts), counts, "{:#?}", house.plans.read().runs);
    }
    // The other way round what was counted on is not so any more: nothing is done.
    house.lab.reset();
    house.tasks_take(400);
    let starts = house.apply(&of("p-3001", &[Wish::Start(STAGING)])).await;
    house.begun(&starts).await;
    let stops = house.apply(&while_stopped(of("p-3002", &[Wish::Stop(RUNNER)]), STAGING)).await;
    house.waits(&stops, "works on vm.home.106, which this one counts on").await;
    house.ends_well(&starts).await;
    let run = house.over(&stops).await;
    assert!(matches!(run.state, RunState::Failed { .. }), "{run:#?}");
    assert_eq!(house.lab.counts().writes, 1);
    // Two that count on the same go together.
    house.lab.reset();
    house.tasks_take(400);
    let one = house.apply(&while_stopped(of("p-4001", &[Wish::Snapshot(RUNNER)]), STAGING)).await;
    house.begun(&one).await;
    let two = house.apply(&while_stopped(of("p-4002", &[Wish::Start(SANDBOX)]), STAGING)).await;
    house.ends_well(&two).await;
    house.ends_well(&one).await;
    assert!(!house.are_apart(&one, &two));
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_claims_that_do_not_go_together_the_later_is_given_back() {
    let house = House::open().await;
    house.tasks_take(300);
    // Nobody saw the other's claim before he wrote his own, and then both died.
    let first = while_stopped(of("p-0002", &[Wish::Snapshot(RUNNER), Wish::Stop(RUNNER)]), STAGING);
    let first = house.leave_claimed(&first).await;
    let second = house.leave_claimed(&of("p-0001", &[Wish::Start(STAGING)])).await;
    let actuator = house.actuator().await;
    house.waits(&second, "counts on vm.home.106").await;
    house.ends_well(&first).await;
    house.ends_well(&second).await;
    assert!(house.are_apart(&first, &second));
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guests_are_not_waited_for_for_ever() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    house.tasks_take(400);
    let first = house.apply(&of("p-0001", &[Wish::Snapshot(RUNNER)])).await;
    house.begun(&first).await;
    let both = house.apply(&of("p-0002", &[Wish::Tags(RUNNER, "ci;lab", "ci"), Wish::Start(SANDBOX)])).await;
    house.waits(&both, &format!("run {first} works on vm.home.107")).await;
    // The container is free, but somebody came first; what nobody waits for is taken at once.
    let younger = house.apply(&of("p-0003", &[Wish::Tags(SANDBOX, "lab", "lab;x")])).await;
    let free = house.apply(&of("p-0004", &[Wish::Tags(STAGING, "lab", "lab;x")])).await;
    house.waits(&younger, &format!("run {both} waits for lxc.home.212 and came first")).await;
    house.run_until(&free, "the claim", |run| run.holder.is_some()).await;
    assert!(matches!(house.plans.read().runs[&both].value.state, RunState::Waiting { .. }));
    house.ends_well(&both).await;
    house.over(&younger).await;
    assert!(house.are_apart(&both, &younger));
    house.ends_well(&free).await;
    drop(actuator);
    house.close().await;
}
