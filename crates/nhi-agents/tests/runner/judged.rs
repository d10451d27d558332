//! A run starts at somebody's word, given at that moment: not without one, not before its hour, and not at one that
//! was given to an actuator that died since.

use crate::{
    house::{House, SOON},
    steps::{CLUSTER, RUNNER, STAGING, Wish, key, plan, run_of, sealed},
};
use nhi_agents::runner::Word;
use nhi_bus::plans::PlansChange;
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    fault::{Fault, FaultCode},
    identity,
    plan::{OnFailure, Plan},
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::{Entry, Freeze, Holder, Lease, Leg, Mark, Run, RunId, RunState},
};
use nhi_testkit::wait_for;
use std::time::Duration;

const START: [Wish; 1] = [Wish::Start(STAGING)];

fn hour() -> Timestamp {
    Timestamp::now() + Duration::from_secs(3600)
}

fn never() -> Word {
    Word::Never(Refusal::new(RefusalCode::Never, "policy never lets anybody start", "Ask the owner."))
}

fn place(vmid: u32) -> (String, u32) {
    (CLUSTER.to_owned(), vmid)
}

fn line(mark: Mark) -> Entry {
    Entry { at: Timestamp::now(), step: 0, leg: Leg::Forward, mark }
}

impl House {
    /// Leaves a run of 106 as an actuator does that died between the claim and the first call.
    async fn leave_claimed_as(&self, plan: &Plan, run: Run) -> RunId {
        let now = Timestamp::now();
        let holder = Some(Holder { actuator: "dead".to_owned(), generation: 1, until: now });
        let lease = Lease { run: run.id.clone(), generation: 1, at: now };
        let key = PlansKey::Lease { cluster: plan.cluster.clone(), vmid: STAGING };
        self.put(&[PlansChange::put(key, 0, &lease)]).await;
        self.apply_as(plan, Run { state: RunState::Running {}, holder, ..run }).await
    }

    async fn is_put_off(&self, id: &RunId) -> Run {
        let now = Timestamp::now();
        let later =
            |run: &Run| matches!(run.state, RunState::Waiting { not_before: Some(at), .. } if at > now);
        self.run_until(id, "the run to be put off", later).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_word_is_no_start_and_the_last_word_counts() {
    let house = House::open().await;
    let fault = Fault::new(FaultCode::Unavailable, "the identities cannot be read", "Ask again.");
    house.says(Err(fault)).await;
    let actuator = house.actuator().await;
    let plan = plan("p-0001", &START, OnFailure::Stop);
    let id = house.apply(&plan).await;
    house.waits(&id, "cannot be told: the identities cannot be read").await;
    house.says(Ok(Word::NotBefore(hour()))).await;
    house.is_put_off(&id).await;
    assert_eq!(house.lab.counts().writes, 0);
    // It is over at once, not when its hour comes.
    house.says(Ok(never())).await;
    let run = house.over(&id).await;
    assert!(
        matches!(&run.state, RunState::Failed { text } if text.contains("never lets anybody")),
        "{run:?}"
    );
    let audit = house.audit_of(&id).await;
    let ends: Vec<_> = audit.iter().filter(|entry| entry.kind == AuditKind::RunEnded).collect();
    assert!(ends.len() == 1 && ends[0].details["state"] == "failed", "{audit:#?}");
    assert!(house.plans.read().leases.is_empty());
    assert_eq!(house.lab.counts().writes, 0);
    // The control: at a word it starts.
    house.says(Ok(Word::Start)).await;
    let plan = self::plan("p-0002", &START, OnFailure::Stop);
    let id = house.apply(&plan).await;
    house.ends_well(&id).await;
    assert_eq!(house.lab.counts().writes, 1);
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_claimed_and_not_begun_is_judged_again_by_who_takes_it_over() {
    let house = House::open().await;
    let not_left = [Mark::Begun { attempt: 1 }, Mark::NotTaken {}];
    let words = [(never(), false), (Word::NotBefore(hour()), true), (never(), true), (Word::Start, true)];
    for (number, (word, has_tried)) in words.into_iter().enumerate() {
        let plan = plan(&format!("p-000{number}"), &START, OnFailure::Stop);
        let mut run = run_of(&plan);
        if has_tried {
            // A first try that did not leave is none.
            run.journal = not_left.iter().cloned().map(line).collect();
        }
        let id = house.leave_claimed_as(&plan, run).await;
        house.says(Ok(word.clone())).await;
        let actuator = house.actuator().await;
        match word {
            Word::NotBefore(_) => drop(house.is_put_off(&id).await),
            Word::Never(_) => assert_eq!(house.over(&id).await.state.as_str(), "failed"),
            Word::Start => drop(house.ends_well(&id).await),
        }
        house.until("the lease to be let go", |kept| kept.leases.is_empty().then_some(())).await;
        assert_eq!(house.lab.counts().writes, u64::from(number == 3), "{number}");
        // The next one is to have the guest to itself.
        house.says(Ok(never())).await;
        house.over(&id).await;
        actuator.kill();
    }
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_what_was_not_begun_compares_the_lab_with_the_plan() {
    let house = House::open().await;
    // It was made before the guest was known.
    let reads = [(key(STAGING), 0)].into();
    let changed = Plan { reads, revision: 1, ..plan("p-0001", &START, OnFailure::Stop) };
    let changed = sealed(changed);
    let id = house.leave_claimed_as(&changed, run_of(&changed)).await;
    let actuator = house.actuator().await;
    let run = house.over(&id).await;
    assert!(
        matches!(&run.state, RunState::Failed { text } if text.contains("relied on has changed")),
        "{run:?}"
    );
    assert_eq!(house.lab.counts().writes, 0);
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_had_to_wait_for_its_turn_at_a_node_is_judged_again_before_its_first_call() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    // Both guests are on one node, and the first one's task takes longer than a word is good for.
    house.tasks_take(6500);
    let first = house.apply(&plan("p-0001", &START, OnFailure::Stop)).await;
    house.begun(&first).await;
    let second = house.apply(&plan("p-0002", &[Wish::Snapshot(RUNNER)], OnFailure::Stop)).await;
    house.run_until(&second, "the claim", |run| run.state == RunState::Running {}).await;
    house.says(Ok(Word::NotBefore(hour()))).await;
    house.ends_well(&first).await;
    let run = house.is_put_off(&second).await;
    assert!(run.journal.is_empty(), "{run:?}");
    assert_eq!(house.lab.counts().writes, 1);
    assert!(house.plans.read().leases.is_empty());
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_calls_a_run_off_while_an_actuator_ends_it_has_the_last_word() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    let plan = plan("p-0001", &START, OnFailure::Stop);
    let (id, mut word) = house.is_asked_about(&plan).await;
    // It has read the run, and what it will write is about that one.
    let called_off = RunState::Cancelled { by: identity::owner() };
    house.edit(&id, |run| (run.state, run.ended_at) = (called_off.clone(), Some(Timestamp::now()))).await;
    *word = Ok(never());
    drop(word);
    wait_for("the audit log to have the truth last", SOON, async || {
        let audit = house.audit_of(&id).await;
        let ends = audit.iter().filter(|entry| entry.kind == AuditKind::RunEnded);
        let ends: Vec<_> = ends.map(|entry| entry.details["state"].clone()).collect();
        if ends == ["failed", "cancelled"] { Ok(()) } else { Err(ends) }
    })
    .await;
    assert_eq!(house.over(&id).await.state, called_off);
    assert_eq!((house.lab.counts().writes, house.plans.read().leases.len()), (0, 0));
    drop(actuator);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_freeze_stops_before_its_first_call_gives_its_guests_back() {
    let house = House::open().await;
    let actuator = house.actuator().await;
    // Both guests are on one node: the second run has its lease, and waits for its turn.
    house.tasks_take(1500);
    let first = house.apply(&plan("p-0001", &START, OnFailure::Stop)).await;
    house.begun(&first).await;
    let second = house.apply(&plan("p-0002", &[Wish::Snapshot(RUNNER)], OnFailure::Stop)).await;
    house.run_until(&second, "the claim", |run| run.state == RunState::Running {}).await;
    house.until("its lease", |kept| kept.leases.contains_key(&place(RUNNER)).then_some(())).await;
    let freeze = Freeze { by: identity::owner(), reason: "party".to_owned(), since: Timestamp::now() };
    let revision = house.put(&[PlansChange::put(PlansKey::Freeze, 0, &freeze)]).await;
    house.waits(&second, "owner has stopped everything: party").await;
    let run = house.plans.read().runs[&second].value.clone();
    assert!(run.journal.is_empty() && run.holder.is_none(), "{run:?}");
    house
        .until("its lease to be let go", |kept| (!kept.leases.contains_key(&place(RUNNER))).then_some(()))
        .await;
    house.ends_well(&first).await;
    assert_eq!(house.lab.counts().writes, 1);
    // The control: it takes the guest again, and goes on.
    house.put(&[PlansChange::remove(PlansKey::Freeze, revision)]).await;
    house.ends_well(&second).await;
    assert_eq!(house.lab.counts().writes, 2);
    drop(actuator);
    house.close().await;
}
