//! Every kind of step, and everything that can happen to its one call: it fails before, it fails after, its answer is
//! lost, it is repeated, its actuator is killed, its undo is repeated. One effect each, and the truth told.

use crate::{
    builds::{BUILDS, COPY, SPARE},
    house::{Actuator, House, upid},
    steps::{MIXED, RUNNER, SANDBOX, STAGING, Wish, impatient, key, kind_of, plan},
    truth,
};
use futures::{FutureExt as _, future::join_all};
use nhi_bus::plans::PlansChange;
use nhi_decide::verify::{Verified, verify};
use nhi_model::{
    Timestamp,
    guest::GuestKind,
    plan::{Ends, OnFailure, Plan, Step},
    plans::PlansKey,
    run::{Entry, Lease, Leg, Mark, Run, RunState},
};
use nhi_pve::{Write, WriteMethod};
use nhi_sim::{Breakage, Fault, Match};
use std::{collections::BTreeMap, panic::AssertUnwindSafe};

/// One house and one actuator for many runs.
struct Stage {
    house: House,
    actuator: Option<Actuator>,
    plans: u32,
}

impl Stage {
    async fn open() -> Self {
        let house = House::open().await;
        let actuator = Some(house.actuator().await);
        Self { house, actuator, plans: 0 }
    }

    fn plan(&mut self, wishes: &[Wish], on_failure: OnFailure) -> Plan {
        self.plans += 1;
        self.house.lab.reset();
        impatient(plan(&format!("p-{:06}", self.plans), wishes, on_failure))
    }

    /// Carries a plan out in a world where one thing goes wrong.
    async fn run(&self, plan: &Plan, fault: Option<Fault>) -> Run {
        let fault = fault.map(|fault| self.house.lab.set_fault(fault).unwrap());
        let id = self.house.apply(plan).await;
        let run = self.house.over(&id).await;
        if let Some(fault) = fault {
            self.house.lab.clear_fault(fault).unwrap();
        }
        self.end(plan, run).await
    }

    async fn end(&self, plan: &Plan, run: Run) -> Run {
        self.house.check(plan, &run).await;
        if matches!(run.state, RunState::NeedsHuman { .. }) {
            self.house.acknowledge(&run.id).await;
        }
        run
    }

    /// Whether facts of a step are so in the lab.
    fn is_so(&self, plan: &Plan, facts: &[nhi_model::fact::Fact]) -> bool {
        let plan = Plan { expects: facts.to_vec(), ..plan.clone() };
        let sight = self.house.lab.with_lab(|lab| truth::look(lab, Timestamp::now()));
        verify(&plan, &sight) == Verified::Done
    }

    /// Of each guest the plan makes, and of no other, the run keeps what tells it from a later one with its number.
    fn knows_what_it_made(&self, plan: &Plan, run: &Run) {
        let made = plan.targets.iter().filter(|target| target.identity.is_none());
        let vmids: Vec<u32> = made.map(|target| target.vmid).collect();
        assert_eq!(
            run.made.keys().cloned().collect::<Vec<_>>(),
            vmids.iter().map(|vmid| key(*vmid)).collect::<Vec<_>>()
        );
        for vmid in vmids {
            let kept = &run.made[&key(vmid)];
            let config = self.house.lab.with_lab(|lab| lab.guests[&vmid].config.clone());
            let (line, told) = match kind_of(vmid) {
                GuestKind::Qemu => ("smbios1", kept.uuid.clone()),
                GuestKind::Lxc => ("rootfs", kept.rootfs.clone()),
            };
            let told = told.expect("it is told by what does not change");
            assert!(config[line].to_lowercase().contains(&told.to_lowercase()), "{told} {config:#?}");
        }
    }

    fn effects_of(&self, step: &Step) -> usize {
        let Ends::Task { kinds, vmid, .. } = &step.ends else { return 0 };
        self.house.tasks().get(&(kinds[0].clone(), vmid.to_string())).map_or(0, Vec::len)
    }
}

fn task_of(step: &Step) -> Option<(String, u32)> {
    match &step.ends {
        Ends::Task { kinds, vmid, .. } => Some((kinds[0].clone(), *vmid)),
        Ends::Answer {} => None,
    }
}

fn fails(step: &Step, error: &str, done: bool) -> Option<Fault> {
    let (task, vmid) = task_of(step)?;
    Some(Fault::TaskFails { task, vmid: Some(vmid), error: error.to_owned(), times: Some(1), done })
}

fn breaks(step: &Step, answer: Breakage) -> Fault {
    let on = Match {
        method: Some(step.call.method.as_str().to_owned()),
        path: Some(step.call.path.clone()),
        times: Some(1),
        after: 0,
    };
    Fault::Http { on, answer }
}

/// The same for what takes a step back; a change's undo goes to the same place as the change.
fn breaks_undo(step: &Step, answer: Breakage) -> Fault {
    let undo = step.compensation.as_deref().unwrap();
    let mut fault = breaks(undo, answer);
    if let Fault::Http { on, .. } = &mut fault
        && undo.call.path == step.call.path
        && undo.call.method == step.call.method
    {
        on.after = 1;
    }
    fault
}

fn is_done(run: &Run) -> bool {
    matches!(run.state, RunState::Done { .. })
}

fn code(run: &Run, leg: Leg, step: usize) -> Option<String> {
    run.journal.iter().find_map(|entry| match &entry.mark {
        Mark::Failed { code, .. } if entry.leg == leg && entry.step == step => Some(code.clone()),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_goes_well_or_fails() {
    goes_well_or_fails(&MIXED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_goes_well_or_fails() {
    join_all(BUILDS.chunks(2).map(goes_well_or_fails)).await;
}

async fn goes_well_or_fails(wishes: &[Wish]) {
    let mut stage = Stage::open().await;
    for wish in wishes.iter().copied() {
        let plan = stage.plan(&[wish], OnFailure::Stop);
        let step = plan.steps[0].clone();
        let run = stage.run(&plan, None).await;
        assert!(is_done(&run), "{run:#?}");
        assert!(stage.is_so(&plan, &step.after), "{wish:?}");
        let tells = step.after.iter().any(|fact| !step.before.contains(fact));

        // It fails before it has done anything.
        let plan = stage.plan(&[wish], OnFailure::Stop);
        if let Some(fault) = fails(&step, "it broke", false) {
            let run = stage.run(&plan, Some(fault)).await;
            assert!(matches!(&run.state, RunState::Failed { text } if text.contains("it broke")), "{run:#?}");
            assert_eq!(code(&run, Leg::Forward, 0).as_deref(), Some("task-failed"));
            assert!(stage.is_so(&plan, &step.before));
        }
        // It fails after it has done everything.
        let plan = stage.plan(&[wish], OnFailure::Stop);
        if let Some(fault) = fails(&step, "it broke at the end", true) {
            let run = stage.run(&plan, Some(fault)).await;
            assert_eq!(is_done(&run), tells, "what shows is believed, what does not is not: {run:#?}");
            assert!(stage.is_so(&plan, &step.after));
        }
        // Its worker is killed, after and before.
        let plan = stage.plan(&[wish], OnFailure::Stop);
        if let Some(fault) = fails(&step, "unexpected status", true) {
            let run = stage.run(&plan, Some(fault)).await;
            assert_eq!(is_done(&run), tells, "{run:#?}");
            assert_eq!(matches!(run.state, RunState::NeedsHuman { .. }), !tells, "{run:#?}");
        }
        let plan = stage.plan(&[wish], OnFailure::Stop);
        if let Some(fault) = fails(&step, "unexpected status", false) {
            let run = stage.run(&plan, Some(fault)).await;
            assert_eq!(matches!(run.state, RunState::Failed { .. }), tells, "{run:#?}");
            assert!(stage.is_so(&plan, &step.before));
        }
    }
    stage.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_is_lost() {
    let lost = [
        Breakage::DropBefore {},
        Breakage::DropAfter {},
        Breakage::Truncate {},
        Breakage::Html { status: 200 },
        Breakage::Status { code: 596, message: "Connection timed out".to_owned() },
    ];
    answer_is_lost(&MIXED, &lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_answer_is_lost() {
    let lost = [Breakage::DropBefore {}, Breakage::DropAfter {}];
    join_all(BUILDS.chunks(2).map(|wishes| answer_is_lost(wishes, &lost))).await;
}

async fn answer_is_lost(wishes: &[Wish], lost: &[Breakage]) {
    let mut stage = Stage::open().await;
    for wish in wishes.iter().copied() {
        for answer in lost {
            let plan = stage.plan(&[wish], OnFailure::Stop);
            let step = plan.steps[0].clone();
            let run = stage.run(&plan, Some(breaks(&step, answer.clone()))).await;
            assert!(is_done(&run), "{wish:?} {answer:?}: {run:#?}");
            assert!(
                run.journal.iter().any(|entry| matches!(entry.mark, Mark::AnswerLost { .. })),
                "{run:#?}"
            );
            assert!(stage.is_so(&plan, &step.after));
            assert_eq!(stage.effects_of(&step), usize::from(task_of(&step).is_some()), "{wish:?} {answer:?}");
        }
        // Refused is not lost: nothing is sent again.
        let plan = stage.plan(&[wish], OnFailure::Stop);
        let refused = Breakage::Status { code: 500, message: "not today".to_owned() };
        let run = stage.run(&plan, Some(breaks(&plan.steps[0], refused))).await;
        assert_eq!(code(&run, Leg::Forward, 0).as_deref(), Some("refused"), "{run:#?}");
        assert_eq!(stage.house.lab.counts().writes, 1);
    }
    stage.house.close().await;
}

/// What a crash leaves: the run as it was when its last line said that a call would be sent.
fn cut_at_begun(run: &mut Run, leg: Leg) {
    let is_begun = |entry: &Entry| entry.leg == leg && matches!(entry.mark, Mark::Begun { .. });
    let end = run.journal.iter().rposition(is_begun).unwrap();
    run.journal.truncate(end + 1);
    if leg == Leg::Forward {
        run.made.clear();
    }
    run.state = if leg == Leg::Forward { RunState::Running {} } else { RunState::Compensating {} };
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_met_again_after_a_crash() {
    let breakages = [None, Some(Breakage::DropAfter {}), Some(Breakage::DropBefore {})];
    is_met_again(&MIXED, &breakages).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_is_met_again_after_a_crash() {
    let breakages = [None, Some(Breakage::DropBefore {})];
    join_all(BUILDS.chunks(2).map(|wishes| is_met_again(wishes, &breakages))).await;
}

async fn is_met_again(wishes: &[Wish], breakages: &[Option<Breakage>]) {
    let mut stage = Stage::open().await;
    for wish in wishes.iter().copied() {
        let plan = stage.plan(&[wish], OnFailure::Stop);
        let step = plan.steps[0].clone();
        let first = stage.run(&plan, None).await;
        let writes = stage.house.lab.counts().writes;
        stage.house.edit(&first.id, |run| cut_at_begun(run, Leg::Forward)).await;
        let again = stage.house.over(&first.id).await;
        let again = stage.end(&plan, again).await;
        assert!(is_done(&again), "{again:#?}");
        assert_eq!(stage.house.lab.counts().writes, writes, "it was sent again");
        let tasks =
            |run: &Run| run.journal.iter().filter_map(|entry| upid(&entry.mark).cloned()).collect::<Vec<_>>();
        assert_eq!(tasks(&first), tasks(&again));
        assert!(stage.is_so(&plan, &step.after));
        stage.knows_what_it_made(&plan, &first);
        stage.knows_what_it_made(&plan, &again);

        // Killed while the answer is on its way, or the request.
        for breakage in breakages {
            let plan = stage.plan(&[wish], OnFailure::Stop);
            let path = Some(step.call.path.clone());
            let on =
                Match { method: Some(step.call.method.as_str().to_owned()), path, times: Some(1), after: 0 };
            stage.house.lab.set_fault(Fault::Slow { on, ms: 200 }).unwrap();
            if let Some(answer) = breakage {
                stage.house.lab.set_fault(breaks(&step, answer.clone())).unwrap();
            }
            let id = stage.house.apply(&plan).await;
            stage.house.run_until(&id, "the first line", |run| !run.journal.is_empty()).await;
            stage.actuator.take().unwrap().kill();
            stage.actuator = Some(stage.house.actuator().await);
            let run = stage.house.over(&id).await;
            let run = stage.end(&plan, run).await;
            if code(&run, Leg::Forward, 0).as_deref() == Some("not-taken") {
                // It was killed before it sent anything, and then the request was lost: twice is enough.
                assert_eq!(stage.effects_of(&step), 0);
                continue;
            }
            assert!(is_done(&run), "{wish:?}: {run:#?}");
            assert!(stage.is_so(&plan, &step.after));
            assert_eq!(stage.effects_of(&step), usize::from(task_of(&step).is_some()));
            stage.knows_what_it_made(&plan, &run);
        }
    }
    stage.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_that_is_met_again_after_a_crash_or_goes_wrong() {
    let mut stage = Stage::open().await;
    for wish in [
        Wish::Snapshot(RUNNER),
        Wish::Start(STAGING),
        Wish::Tags(RUNNER, "ci;lab", "ci"),
        Wish::Reboot(RUNNER),
        Wish::Clone(RUNNER, COPY),
        Wish::Destroy(SPARE),
    ] {
        let wishes = [wish, Wish::Start(SANDBOX)];
        let fails_second = |plan: &Plan| fails(&plan.steps[1], "it broke", false);
        let plan = stage.plan(&wishes, OnFailure::Compensate);
        let first = stage.run(&plan, fails_second(&plan)).await;
        if plan.steps[0].compensation.is_none() {
            assert!(
                matches!(&first.state, RunState::Failed { text } if text.contains("It stays")),
                "{first:#?}"
            );
            continue;
        }
        assert!(matches!(first.state, RunState::Compensated { .. }), "{first:#?}");
        assert!(stage.is_so(&plan, &plan.steps[0].before));
        let writes = stage.house.lab.counts().writes;
        stage.house.edit(&first.id, |run| cut_at_begun(run, Leg::Back)).await;
        let again = stage.house.over(&first.id).await;
        let again = stage.end(&plan, again).await;
        assert!(matches!(again.state, RunState::Compensated { .. }), "{again:#?}");
        assert_eq!(stage.house.lab.counts().writes, writes, "it was sent again");

        // Its answer is lost.
        for answer in [Breakage::DropBefore {}, Breakage::DropAfter {}] {
            let plan = stage.plan(&wishes, OnFailure::Compensate);
            stage.house.lab.set_fault(breaks_undo(&plan.steps[0], answer)).unwrap();
            let run = stage.run(&plan, fails_second(&plan)).await;
            assert!(matches!(run.state, RunState::Compensated { .. }), "{run:#?}");
            assert!(stage.is_so(&plan, &plan.steps[0].before));
        }
        // It cannot be done: a person has to look, and the guest stays out of reach until then.
        let plan = stage.plan(&wishes, OnFailure::Compensate);
        let refused = Breakage::Status { code: 500, message: "not today".to_owned() };
        stage.house.lab.set_fault(breaks_undo(&plan.steps[0], refused)).unwrap();
        let fault = stage.house.lab.set_fault(fails_second(&plan).unwrap()).unwrap();
        let id = stage.house.apply(&plan).await;
        let stuck = stage.house.over(&id).await;
        stage.house.lab.clear_fault(fault).unwrap();
        assert!(matches!(stuck.state, RunState::NeedsHuman { .. }), "{stuck:#?}");
        stage.house.check(&plan, &stuck).await;
        stage.plans += 1;
        let next = self::plan(
            &format!("p-{:06}", stage.plans),
            &[Wish::Tags(wish.vmid(), "x", "y")],
            OnFailure::Stop,
        );
        let waiting = stage.house.apply(&next).await;
        let says = |run: &Run| matches!(&run.state, RunState::Waiting { reason, .. } if reason.contains("not known"));
        stage.house.run_until(&waiting, "to be told why it waits", says).await;
        stage.house.acknowledge(&stuck.id).await;
        let run = stage.house.over(&waiting).await;
        assert_eq!(code(&run, Leg::Forward, 0).as_deref(), Some("precondition"), "{run:#?}");
    }
    stage.house.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_told_is_said_to_be_unknown() {
    let mut stage = Stage::open().await;
    // A task that does not end.
    let plan = stage.plan(&[Wish::Start(STAGING)], OnFailure::Compensate);
    let fault = Fault::TaskHangs { task: "qmstart".to_owned(), vmid: None };
    let run = stage.run(&plan, Some(fault)).await;
    let RunState::NeedsHuman { text } = &run.state else { panic!("{run:#?}") };
    assert!(text.contains("look at task UPID:pve1:") && text.contains("vm.home.106"), "{text}");

    // Its answer is lost, and its node is gone before anybody can ask.
    let plan = stage.plan(&[Wish::Start(SANDBOX)], OnFailure::Compensate);
    let cut = Fault::NodeOffline { node: "pve3".to_owned(), code: 595, power_cut: true };
    stage.house.lab.set_fault(breaks(&plan.steps[0], Breakage::DropAfter {})).unwrap();
    let id = stage.house.apply(&plan).await;
    let is_lost = |run: &Run| run.journal.iter().any(|entry| matches!(entry.mark, Mark::AnswerLost { .. }));
    stage.house.run_until(&id, "the answer to be lost", is_lost).await;
    let run = stage.run_after(&plan, &id, cut).await;
    assert!(matches!(&run.state, RunState::NeedsHuman { .. } | RunState::Failed { .. }), "{run:#?}");

    // Nothing required holds: nothing is written.
    let plan = stage.plan(&[Wish::Start(STAGING), Wish::Start(SANDBOX)], OnFailure::Compensate);
    let fault = Fault::NodeOffline { node: "pve1".to_owned(), code: 595, power_cut: false };
    let run = stage.run(&plan, Some(fault)).await;
    assert!(matches!(run.state, RunState::Failed { .. }), "{run:#?}");
    assert_eq!(stage.house.lab.counts().writes, 0);
    let plan = stage.plan(&[Wish::Start(SANDBOX)], OnFailure::Compensate);
    let run = stage.run(&plan, Some(Fault::QuorumLost {})).await;
    assert!(matches!(&run.state, RunState::Failed { text } if text.contains("quorum")), "{run:#?}");
    assert_eq!(stage.house.lab.counts().writes, 0);
    stage.house.close().await;
}

/// The controls: what all these tests rest on sees a second effect, a guest that is not let go, and an audit log that
/// says something else than the journal.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_found_out() {
    let mut stage = Stage::open().await;
    let plan = stage.plan(&[Wish::Reboot(RUNNER)], OnFailure::Stop);
    let run = stage.run(&plan, None).await;
    let is_found_out = async |run: &Run| {
        let check = AssertUnwindSafe(stage.house.check(&plan, run)).catch_unwind();
        check.await.is_err()
    };
    assert!(!is_found_out(&run).await);
    let unknown = Run { state: RunState::NeedsHuman { text: "no".to_owned() }, ..run.clone() };
    assert!(is_found_out(&unknown).await, "the audit log says that it is done");
    let mut shorter = run.clone();
    shorter.journal.pop();
    assert!(is_found_out(&shorter).await, "the audit log has another last word");
    let lease = Lease { run: run.id.clone(), generation: 1, at: Timestamp::now() };
    let key = PlansKey::Lease { cluster: "home".to_owned(), vmid: RUNNER };
    let revision = stage.house.put(&[PlansChange::put(key.clone(), 0, &lease)]).await;
    stage.house.until("the lease", |kept| (!kept.leases.is_empty()).then_some(())).await;
    assert!(is_found_out(&run).await, "a lease is left");
    stage.house.put(&[PlansChange::remove(key, revision)]).await;
    stage.house.until("no lease", |kept| kept.leases.is_empty().then_some(())).await;
    let operator = stage.house.operator();
    let (path, params) = (&plan.steps[0].call.path, BTreeMap::new());
    operator.send(&Write { method: WriteMethod::Post, path, params: &params, node: "pve1" }).await.unwrap();
    assert!(is_found_out(&run).await, "it was rebooted twice");
    stage.house.close().await;
}

impl Stage {
    /// The end of a run that is under way, when something more goes wrong.
    async fn run_after(&self, plan: &Plan, id: &nhi_model::run::RunId, fault: Fault) -> Run {
        let fault = self.house.lab.set_fault(fault).unwrap();
        let run = self.house.over(id).await;
        self.house.lab.clear_fault(fault).unwrap();
        self.end(plan, run).await
    }
}
