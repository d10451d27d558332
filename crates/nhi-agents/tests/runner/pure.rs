//! Random schedules without sockets: `next` decides, the lab's own rules answer, and everything that can be lost is:
//! calls, answers, tasks, nodes, and whoever carries the run out.

use crate::{
    dice::{Dice, schedules},
    steps::{RUNNER, Wish, everything, plan, run_of},
    truth,
};
use nhi_decide::{
    next::{self, Asked, Found, Next, Pace, TaskNow, TaskRow, next},
    sight::Sight,
    verify::{Verified, verify},
};
use nhi_model::{
    Timestamp,
    plan::{OnFailure, Plan, Step},
    run::{Entry, Leg, Mark, Run, RunState, TaskExit},
};
use nhi_sim::{Credentials, Fault, Identities, Lab, PveVersion, Request, Secret, Stage, TokenSecret};
use std::{collections::BTreeMap, time::Duration};

const START_MS: i64 = 1_795_377_600_000;
/// The real one, asking less often: a task that hangs is followed for minutes.
const PACE: Pace = Pace { poll: Duration::from_secs(4), ..Pace::REAL };
/// More than any run takes: a schedule that needs more does not end.
const TURNS_MAX: usize = 20_000;

/// A call on its way, and whose it is.
struct Flying {
    at_ms: i64,
    leg: Leg,
    index: usize,
}

struct World {
    lab: Lab,
    act: Credentials,
    dice: Dice,
    plan: Plan,
    run: Run,
    /// Tasks and answers that Proxmox gave for each step, forward and back: what took effect, or tried to.
    taken: BTreeMap<(bool, usize), u32>,
    flying: Vec<Flying>,
    /// Switched off at this time.
    faults: Vec<(i64, u64)>,
    /// Something happened after which nobody could know.
    ambiguous: bool,
    deaths: u32,
}

/// What the process in charge knows. It dies with it.
struct Mind {
    since: Timestamp,
    sight: Option<Sight>,
    task: Option<Asked<TaskNow>>,
    tasks: Option<Asked<Vec<TaskRow>>>,
    verified: Option<(Verified, u64)>,
}

impl Mind {
    const fn empty(since: Timestamp) -> Self {
        Self { since, sight: None, task: None, tasks: None, verified: None }
    }

    fn found(&self) -> Found<'_> {
        Found {
            since: self.since,
            sight: self.sight.as_ref(),
            task: self.task.as_ref(),
            tasks: self.tasks.as_ref(),
            verified: self.verified.as_ref().map(|(verified, revision)| (verified, *revision)),
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::of(seed);
        let token = |id: &str| TokenSecret { id: id.to_owned(), secret: id.to_owned() };
        let (scan, act) = (token("nh-scan@pve!mesh"), token("nh-act@pve!mesh"));
        let authorization = Some(format!("PVEAPIToken={}={}", act.id, act.secret));
        let admin = ("root@pam".to_owned(), Secret("correct horse".to_owned()));
        let identities = Identities { scan, act, admin };
        let mut lab = Lab::new(&truth::seed(), PveVersion::V9_1, &identities, seed, START_MS);
        lab.task_ms = dice.pick(&[10, 400, 4000]);
        let mut wishes = everything();
        dice.shuffle(&mut wishes);
        wishes.truncate(usize::try_from(1 + dice.below(5)).unwrap());
        let on_failure = dice.pick(&[OnFailure::Compensate, OnFailure::Compensate, OnFailure::Stop]);
        let plan = plan("p-pure", &wishes, on_failure);
        let run = Run { state: RunState::Running {}, ..run_of(&plan) };
        let act = Credentials { authorization, ..Credentials::default() };
        let (taken, flying, faults) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { lab, act, dice, plan, run, taken, flying, faults, ambiguous: false, deaths: 0 }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.lab.now_ms()).unwrap()
    }

    /// Time passes; what was on its way arrives, what was broken is mended.
    fn pass_to(&mut self, until_ms: i64) {
        loop {
            let arrival = self.flying.iter().map(|call| call.at_ms).min();
            let mended = self.faults.iter().map(|(at_ms, _)| *at_ms).min();
            let Some(at_ms) = arrival.into_iter().chain(mended).min().filter(|at_ms| *at_ms <= until_ms)
            else {
                break;
            };
            self.lab.advance_to(at_ms);
            if let Some(place) = self.faults.iter().position(|(end_ms, _)| *end_ms == at_ms) {
                let (_, fault) = self.faults.remove(place);
                self.lab.clear_fault(fault);
            } else if let Some(place) = self.flying.iter().position(|call| call.at_ms == at_ms) {
                let call = self.flying.remove(place);
                let _nobody_listens = self.arrive(call.leg, call.index);
            }
        }
        self.lab.advance_to(until_ms);
    }

    fn step(&self, leg: Leg, index: usize) -> &Step {
        let forward = &self.plan.steps[index];
        if leg == Leg::Forward { forward } else { forward.compensation.as_deref().unwrap() }
    }

    /// A call arrives at Proxmox.
    fn arrive(&mut self, leg: Leg, index: usize) -> Mark {
        let call = self.step(leg, index).call.clone();
        let params = call.params.into_iter().map(|(name, value)| (name, value.into())).collect();
        let (method, path) = (call.method.as_str(), call.path.as_str());
        let request = Request { method, path, params, credentials: &self.act.clone(), via: "pve1" };
        let answer = self.lab.serve(request);
        match answer.status {
            200 => {
                *self.taken.entry((leg == Leg::Back, index)).or_default() += 1;
                let body = answer.body.unwrap_or_default();
                Mark::Sent { upid: body["data"].as_str().map(str::to_owned) }
            }
            status @ 595..=599 => Mark::AnswerLost { why: status.to_string() },
            status => Mark::Refused { status, text: answer.reason },
        }
    }

    /// The world between us and Proxmox does what it likes. `None`: we died before the answer.
    fn send(&mut self, leg: Leg, index: usize) -> Option<Mark> {
        self.break_something(leg, index);
        let lost = || Mark::AnswerLost { why: "cut".to_owned() };
        match self.dice.below(12) {
            0 => Some(Mark::NotTaken {}),
            1 => Some(lost()),
            2 => {
                self.arrive(leg, index);
                Some(lost())
            }
            // It sits in a queue while nobody waits for it any more.
            3 => {
                let harmless_ms = Pace::REAL.settle_harmless.as_millis() as u64 - 100;
                let at_ms = self.lab.now_ms() + i64::try_from(self.dice.below(harmless_ms)).unwrap();
                self.flying.push(Flying { at_ms, leg, index });
                if self.dice.once_in(2) { Some(lost()) } else { None }
            }
            4 => None,
            5 => {
                self.arrive(leg, index);
                None
            }
            6 => Some(Mark::Refused { status: 500, text: "not today".to_owned() }),
            _ => Some(self.arrive(leg, index)),
        }
    }

    /// Sometimes the task will fail, be killed, or hang, or the node loses its power.
    fn break_something(&mut self, leg: Leg, index: usize) {
        let step = self.step(leg, index).clone();
        let nhi_model::plan::Ends::Task { kinds, vmid, .. } = &step.ends else { return };
        let (task, vmid) = (kinds[0].clone(), Some(*vmid));
        let times = Some(1);
        let fault = match self.dice.below(14) {
            0 => Fault::TaskFails { task, vmid, error: "it broke".to_owned(), times, done: false },
            1 => Fault::TaskFails { task, vmid, error: "it broke at the end".to_owned(), times, done: true },
            2 => Fault::TaskFails { task, vmid, error: "unexpected status".to_owned(), times, done: true },
            3 => Fault::TaskFails { task, vmid, error: "unexpected status".to_owned(), times, done: false },
            4 if self.dice.once_in(4) => Fault::TaskHangs { task, vmid },
            5 if self.dice.once_in(3) => {
                Fault::NodeOffline { node: step.node.clone(), code: 595, power_cut: self.dice.once_in(2) }
            }
            _ => return,
        };
        self.ambiguous |= match &fault {
            Fault::TaskFails { error, .. } => error == "unexpected status",
            _ => true,
        };
        let lasts_ms = self.dice.pick(&[500, 20_000, 300_000, 3_600_000]);
        let fault = self.lab.set_fault(fault);
        self.faults.push((self.lab.now_ms() + lasts_ms, fault));
    }

    fn write(&mut self, leg: Leg, step: usize, mark: Mark) {
        let at = self.now();
        self.run.journal.push(Entry { at, step, leg, mark });
    }

    fn task(&self, upid: &str) -> Asked<TaskNow> {
        let task = &self.lab.tasks[upid];
        let answer = if !self.lab.is_online(&task.node) {
            Err("no route to host".to_owned())
        } else {
            Ok(match &task.stage {
                Stage::Waiting | Stage::Running => TaskNow::Running,
                Stage::Ended { status, .. } => TaskNow::Ended(next::exit(status)),
            })
        };
        Asked { at: self.now(), answer }
    }

    fn tasks(&self, node: &str) -> Asked<Vec<TaskRow>> {
        let row = |task: &nhi_sim::Task| TaskRow {
            upid: task.upid.clone(),
            kind: task.kind.to_owned(),
            vmid: task.id.parse().ok(),
            started: Timestamp::from_second(task.started_s).unwrap(),
            ours: task.user == "nh-act@pve!mesh",
        };
        let online = self.lab.is_online(node);
        let rows = self.lab.tasks.values().filter(|task| task.node == node).map(row);
        let answer = if online { Ok(rows.collect()) } else { Err("no route to host".to_owned()) };
        Asked { at: self.now(), answer }
    }

    /// Somebody else takes over, a while later.
    fn die(&mut self, mind: &mut Mind) {
        self.deaths += 1;
        let later_ms = i64::try_from(self.dice.below(60_000)).unwrap();
        self.pass_to(self.lab.now_ms() + later_ms);
        *mind = Mind::empty(self.now());
    }

    fn go(&mut self) {
        let mut mind = Mind::empty(self.now());
        for _ in 0..TURNS_MAX {
            if self.dice.once_in(30) && self.deaths < 40 {
                self.die(&mut mind);
            }
            match next(&self.plan, &self.run, &mind.found(), &PACE, self.now()) {
                Next::Look(_) => mind.sight = Some(truth::look(&self.lab, self.now())),
                Next::Follow { upid } => mind.task = Some(self.task(&upid)),
                Next::Search { node, .. } => mind.tasks = Some(self.tasks(&node)),
                Next::Wait { until } => {
                    self.pass_to(until.as_millisecond().max(self.lab.now_ms() + 1));
                    mind = Mind::empty(mind.since);
                }
                Next::Journal { leg, step, mark } => {
                    self.write(leg, step, mark);
                    mind = Mind::empty(self.now());
                }
                Next::Send { leg, step, attempt } => {
                    self.write(leg, step, Mark::Begun { attempt });
                    match self.send(leg, step) {
                        Some(mark) => self.write(leg, step, mark),
                        None => self.die(&mut mind),
                    }
                    mind = Mind::empty(self.now());
                }
                Next::Verify => {
                    let mut records = truth::look(&self.lab, self.now());
                    records.absent_is_gone = true;
                    mind.verified = Some((verify(&self.plan, &records), 1));
                }
                Next::End(state) => {
                    self.run.state = state;
                    return;
                }
                Next::Over => panic!("it was not over"),
            }
        }
        panic!("it does not end: {:#?}", self.run.journal);
    }

    fn check(&self) {
        assert!(self.flying.is_empty() || self.ambiguous, "it was over before its calls had arrived");
        for index in 0..self.plan.steps.len() {
            for leg in [Leg::Forward, Leg::Back] {
                self.check_step(leg, index);
            }
        }
        let now = truth::look(&self.lab, self.now());
        match &self.run.state {
            RunState::Done { .. } => assert_eq!(verify(&self.plan, &now), Verified::Done),
            // What was done is as it was, where anything takes it back.
            RunState::Compensated { .. } => {
                for (index, step) in
                    self.plan.steps.iter().enumerate().filter(|(_, step)| step.compensation.is_some())
                {
                    let taken = self.taken.contains_key(&(false, index));
                    let before = Plan { expects: step.before.clone(), ..self.plan.clone() };
                    let as_before = verify(&before, &now) == Verified::Done;
                    assert!(!taken || as_before || self.ambiguous, "{step:#?} is not taken back");
                }
            }
            RunState::NeedsHuman { text } => {
                assert!(
                    self.ambiguous || self.deaths > 0 || text.contains("Taking it back"),
                    "no reason: {text}"
                );
                assert!(text.contains("look at") || text.contains("Taking it back"), "{text}");
            }
            RunState::Failed { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// At most one effect, and the journal tells the truth about it.
    fn check_step(&self, leg: Leg, index: usize) {
        let taken = self.taken.get(&(leg == Leg::Back, index)).copied().unwrap_or(0);
        let marks: Vec<&Mark> = self.marks(leg, index).collect();
        assert!(taken <= 1, "{taken} effects of {leg:?} {index}: {marks:#?}");
        let upids: Vec<&String> = marks.iter().filter_map(|mark| upid(mark)).collect();
        assert!(upids.len() <= 1, "two tasks: {marks:#?}");
        match marks.last() {
            None | Some(Mark::AlreadySo {}) => assert_eq!(taken, 0, "{leg:?} {index}: {marks:#?}"),
            Some(Mark::Failed { code, .. })
                if matches!(code.as_str(), "precondition" | "refused" | "not-taken") =>
            {
                assert_eq!(taken, 0, "{leg:?} {index}: {marks:#?}");
            }
            Some(Mark::Failed { .. }) => {
                assert_eq!(taken, 1, "{leg:?} {index}: {marks:#?}");
                let step = self.step(leg, index);
                let after = Plan { expects: step.after.clone(), ..self.plan.clone() };
                let is_so = verify(&after, &truth::look(&self.lab, self.now())) == Verified::Done;
                let tells = step.after.iter().any(|fact| !step.before.contains(fact));
                assert!(!is_so || !tells || self.ambiguous, "it was done after all: {step:#?}");
            }
            Some(Mark::Seen {}) => assert!(taken == 1 || self.ambiguous, "{leg:?} {index}: {marks:#?}"),
            Some(Mark::Unknown { .. }) => {}
            other => panic!("not closed: {other:?}"),
        }
        for entry in self.run.journal.windows(2) {
            assert!(entry[0].at <= entry[1].at);
        }
    }

    fn marks(&self, leg: Leg, index: usize) -> impl Iterator<Item = &Mark> {
        let mine = move |entry: &&Entry| entry.leg == leg && entry.step == index;
        self.run.journal.iter().filter(mine).map(|entry| &entry.mark)
    }
}

fn upid(mark: &Mark) -> Option<&String> {
    match mark {
        Mark::Sent { upid } => upid.as_ref(),
        Mark::Adopted { upid } => Some(upid),
        _ => None,
    }
}

#[test]
fn thousands_of_schedules_have_one_effect_each() {
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    let count = schedules(4000, 100_000);
    for seed in 0..count {
        let mut world = World::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.go();
            world.check();
        }));
        assert!(outcome.is_ok(), "schedule {seed}: {:?}\n{:#?}", world.run.state, world.run.journal);
        *ends.entry(world.run.state.as_str()).or_default() += 1;
    }
    // A sample in which everything ends well shows nothing.
    if count >= 1000 {
        for end in ["done", "failed", "compensated", "needs-human"] {
            assert!(ends.get(end).is_some_and(|many| u64::from(*many) > count / 200), "{ends:?}");
        }
    }
}

/// The control: who repeats a call because nobody answered has two effects, and the check sees it.
#[test]
fn who_sends_again_blindly_is_found_out() {
    let mut world = World::new(1);
    world.plan = plan("p-pure", &[Wish::Reboot(RUNNER)], OnFailure::Stop);
    for attempt in 1..3 {
        world.write(Leg::Forward, 0, Mark::Begun { attempt });
        world.arrive(Leg::Forward, 0);
        world.pass_to(world.lab.now_ms() + 60_000);
    }
    world.write(Leg::Forward, 0, Mark::Ended { exit: TaskExit::Ok {} });
    world.write(Leg::Forward, 0, Mark::Seen {});
    world.run.state = RunState::Done { revision: 1 };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()));
    assert!(outcome.is_err());
}

/// Bounds of the real pace that other things rest on.
#[test]
fn the_real_pace_is_as_promised() {
    let pace = Pace::REAL;
    assert_eq!(
        (pace.settle_harmless, pace.settle_harmful),
        (Duration::from_secs(5), Duration::from_secs(35))
    );
    assert!(pace.patience > pace.settle_harmful);
}
