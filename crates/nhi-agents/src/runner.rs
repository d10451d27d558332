//! Carries runs out: the half of the actuator that writes to Proxmox. What is done next is decided in
//! [`nhi_decide::next`]; here it is asked, sent, written down and waited for. It makes no plans, grants nothing, and
//! answers nobody.
//!
//! Invariants:
//! - of all actuators one acts ([`lead`]); nothing is sent when too little of its lease is left by its own clock;
//! - a call leaves only after its line is in the run's record and in the audit log, and only once per line;
//! - every write of a run's record is bound to its revision: an actuator that was taken over writes nothing more;
//! - a run holds a lease on each guest it writes to, taken in one batch with its start and let go in one with its end;
//! - what it counts on besides is nobody's to work on meanwhile, and of runs that wait for a guest the oldest is next
//!   ([`crate::turns`]);
//! - a run that waits starts only after a word of [`Judge`] at that moment; no word is no start;
//! - nobody but the scanner says that a run is done.
//!
//! A run that ends in [`RunState::NeedsHuman`] lets its leases go like any other; what it touched is kept from other
//! runs by its state, until an operator acknowledges it (`act.cancel`).

mod ask;
mod carry;
mod claim;
mod journal;
mod lead;

use self::{
    carry::Carrier,
    lead::{Post, Term},
};
use futures::future::BoxFuture;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    plans::{self, PlansSnapshot, PlansView},
    timers,
    view::View,
};
use nhi_decide::{next::Pace, switch::is_armed};
use nhi_model::{
    Timestamp,
    fault::Fault,
    plan::PlanRecord,
    plans::PlansKey,
    refusal::Refusal,
    run::{Run, RunId, RunState},
};
use nhi_pve::Operator;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

/// How long an actuator's lease lasts: it is renewed thrice in that time.
const LEASE: Duration = Duration::from_secs(15);
/// Runs that nobody has asked for yet are looked for this often, in case a change was not heard of.
const ROUND: Duration = Duration::from_secs(5);
/// A run that waits is judged this often, whatever it waits for: what may no longer start ends, and does not wait.
const JUDGED_EVERY: Duration = Duration::from_secs(2);
/// A run that could not be claimed rests this long.
const REST: Duration = Duration::from_millis(300);
/// One whose claim went wrong rests longer: mostly the bus has to come back first.
const TROUBLE: Duration = Duration::from_secs(2);
/// How long somebody may try to take a run that is due back before its timer is left to come again.
const TAKE_BACK: Duration = Duration::from_secs(10);
/// How far the server's clock may be before ours.
const CLOCKS_APART: Duration = Duration::from_secs(30);
/// Runs that are due and seen to at a time: one that cannot be taken back yet keeps no other waiting.
const DUE_MAX: usize = 16;

/// What is said of a run that waits, at the moment at which it could start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It may start.
    Start,
    /// It may not start before then.
    NotBefore(Timestamp),
    /// It may not start any more, and ends.
    Never(Refusal),
}

/// Asks for that word. A fault says that it cannot be told now: the run goes on waiting.
pub type Judge = Arc<dyn Fn(PlanRecord, Run) -> BoxFuture<'static, Result<Word, Fault>> + Send + Sync>;

/// A run that is over and was not confirmed in time. Dropping it says that it was tried to take it back, however that
/// went: the run's record tells.
#[derive(Debug)]
pub struct DueRun {
    /// Which.
    pub run: RunId,
    _tried: oneshot::Sender<()>,
}

/// What the runner needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this process among the actuators; no two that ever run have the same.
    pub instance: String,
    /// How long the lease of the one that acts lasts.
    pub lease: Duration,
    /// How long things may take.
    pub pace: Pace,
}

impl Options {
    /// The real ones.
    pub const fn real(instance: String) -> Self {
        Self { instance, lease: LEASE, pace: Pace::REAL }
    }
}

/// A runner that runs. Clones are the same one; it stops with its context.
#[derive(Clone)]
pub struct Runner {
    house: Arc<House>,
}

/// What all runs share.
struct House {
    bus: Bus,
    plans: PlansView,
    view: View,
    operators: Arc<BTreeMap<String, Operator>>,
    options: Options,
    judge: Judge,
    /// One call that changes something at a time, per cluster and node.
    nodes: Mutex<BTreeMap<(String, String), Arc<Semaphore>>>,
    nudged: Notify,
    due: Mutex<Option<mpsc::Sender<DueRun>>>,
}

/// Why a run is not carried on by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The context ends, or the lease is lost.
    Told,
    /// Another actuator has it.
    TakenOver,
}

impl Runner {
    /// Starts it. It acts once it holds the post, and stops with the context at the end of what it is doing.
    pub fn start(
        cx: &Cx,
        bus: Bus,
        plans: PlansView,
        view: View,
        operators: Arc<BTreeMap<String, Operator>>,
        options: Options,
        judge: Judge,
    ) -> Self {
        let post = Post::new(bus.clone(), options.instance.clone(), options.lease);
        let (nodes, nudged, due) = (Mutex::default(), Notify::new(), Mutex::default());
        let house = Arc::new(House { bus, plans, view, operators, options, judge, nodes, nudged, due });
        cx.spawn("runner", house.clone().serve(cx.clone(), post));
        Self { house }
    }

    /// There may be something to do.
    pub fn nudge(&self) {
        self.house.nudged.notify_one();
    }

    /// Runs that are over and were not confirmed in time, from now on; whoever asks last hears of them. Each comes again
    /// until its record says what became of it ([`DeadManState::Fired`] or [`DeadManState::Confirmed`]).
    pub fn due(&self) -> mpsc::Receiver<DueRun> {
        let (sender, receiver) = mpsc::channel(DUE_MAX);
        *self.house.due.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        receiver
    }
}

impl House {
    /// Waits for the post, acts while it is held, and waits again.
    async fn serve(self: Arc<Self>, cx: Cx, mut post: Post) {
        loop {
            let term = tokio::select! {
                () = cx.cancelled() => return,
                term = take(&mut post) => term,
            };
            tracing::info!(agent = "act", "this actuator acts");
            let acting = cx.child();
            acting.spawn("runs", self.clone().dispatch(acting.clone(), term.clone()));
            acting.spawn("due runs", self.clone().hand_out(acting.clone()));
            tokio::select! {
                () = cx.cancelled() => {}
                () = post.keep(&term) => tracing::warn!(agent = "act", "this actuator acts no more: its lease is lost"),
            }
            // What is being sent is written down before the post is left.
            acting.close().await;
            post.leave(&term).await;
        }
    }

    /// Starts whatever can go on, the oldest first.
    async fn dispatch(self: Arc<Self>, cx: Cx, term: Term) {
        let (ended, mut endings) = mpsc::unbounded_channel();
        let mut working: BTreeMap<RunId, Option<Instant>> = BTreeMap::new();
        let mut judged: BTreeMap<RunId, Instant> = BTreeMap::new();
        let mut changed = self.plans.changed();
        loop {
            working.retain(|_, rests_until| rests_until.is_none_or(|until| until > Instant::now()));
            let kept = self.plans.read();
            let mut open: Vec<&Run> = kept.runs.values().map(|row| &row.value).collect();
            open.retain(|run| !run.state.is_over() && !working.contains_key(&run.id));
            open.sort_by_key(|run| (run.at, run.id.clone()));
            judged.retain(|id, _| kept.runs.get(id).is_some_and(|row| waits(&row.value)));
            for run in open {
                let is_to_be_judged = waits(run)
                    && kept.stale.is_none()
                    && judged.get(&run.id).is_none_or(|at| at.elapsed() >= JUDGED_EVERY);
                if !is_to_be_judged && !self.may_go_on(run, &kept) {
                    continue;
                }
                judged.insert(run.id.clone(), Instant::now());
                working.insert(run.id.clone(), None);
                let carrier = self.clone().carry(cx.clone(), term.clone(), run.id.clone());
                let (ended, id) = (ended.clone(), run.id.clone());
                cx.spawn("run", async move {
                    let rest = carrier.await;
                    drop(ended.send((id, rest)));
                });
            }
            let resting = working.values().flatten().min().copied();
            // What came due and waits for something else is looked at when that changes.
            let due = kept.runs.values().filter_map(|row| due(&row.value.state));
            let due = due.filter(|moment| *moment > Timestamp::now()).min();
            let judge = judged.iter().filter(|(id, _)| !working.contains_key(*id));
            let judge = judge.map(|(_, at)| JUDGED_EVERY.saturating_sub(at.elapsed()).max(REST)).min();
            let round = due.map_or(ROUND, until).min(judge.unwrap_or(ROUND)).min(ROUND);
            let round = Instant::now() + round;
            tokio::select! {
                () = cx.cancelled() => return,
                _ = changed.changed() => {}
                () = self.nudged.notified() => {}
                Some((id, rest)) = endings.recv() => drop(working.insert(id, Some(Instant::now() + rest))),
                () = tokio::time::sleep_until(resting.map_or(round, |rest| rest.min(round)).into()) => {}
            }
        }
    }

    /// Whether a look at what is known says that a run could go on. The claim decides.
    fn may_go_on(&self, run: &Run, kept: &PlansSnapshot) -> bool {
        let Some(record) = kept.plans.get(&run.plan).map(|row| &row.value) else { return false };
        if kept.stale.is_some() {
            return false;
        }
        let RunState::Waiting { reason, not_before } = &run.state else {
            return self.operators.contains_key(&record.plan.cluster);
        };
        if not_before.is_some_and(|moment| moment > Timestamp::now()) {
            return false;
        }
        // When the reason it was told still holds, it has heard of it.
        self.hindrance(record, run, kept).is_none_or(|why| why != *reason)
    }

    /// Claims a run and carries it out; how long it rests when that ended before it was over.
    async fn carry(self: Arc<Self>, cx: Cx, term: Term, id: RunId) -> Duration {
        let outcome = match claim::claim(&self, &cx, &term, &id).await {
            Ok(Some((journal, told))) => Carrier::new(self, cx, term, journal, told).run().await,
            Ok(None) => return REST,
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(agent = "act", req = id.as_str(), err = %error, source, "run not claimed yet");
                return TROUBLE;
            }
        };
        match outcome {
            Ok(()) => tracing::info!(agent = "act", req = id.as_str(), "run is over"),
            Err(Stop::Told) => {
                tracing::info!(agent = "act", req = id.as_str(), "run is left to the next actuator")
            }
            Err(Stop::TakenOver) => tracing::warn!(agent = "act", req = id.as_str(), "run was taken over"),
        }
        REST
    }

    /// The turn at a node.
    fn turn(&self, cluster: &str, node: &str) -> Arc<Semaphore> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = nodes.entry((cluster.to_owned(), node.to_owned()));
        turn.or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }

    /// Hands out the runs whose timers are due, several at a time.
    async fn hand_out(self: Arc<Self>, cx: Cx) {
        let mut timers = loop {
            match timers::due(&cx, &self.bus).await {
                Ok(timers) => break timers,
                Err(error) => {
                    tracing::warn!(agent = "act", err = %error, "due timers cannot be waited for yet")
                }
            }
            tokio::select! {
                () = cx.cancelled() => return,
                () = tokio::time::sleep(ROUND) => {}
            }
        };
        let places = Arc::new(Semaphore::new(DUE_MAX));
        loop {
            let place = tokio::select! {
                () = cx.cancelled() => return,
                place = places.clone().acquire_owned() => place.expect("the places are never closed"),
            };
            let Some(timer) = timers.next().await else { return };
            let (house, stop) = (self.clone(), cx.clone());
            cx.spawn("due run", async move {
                let run = timer.run.clone();
                let is_settled = tokio::select! {
                    () = stop.cancelled() => false,
                    is_settled = house.is_settled(&run) => is_settled,
                };
                if is_settled && let Err(error) = timer.ack().await {
                    tracing::debug!(agent = "act", req = run.as_str(), err = %error, "due timer not acknowledged");
                }
                drop(place);
            });
        }
    }

    /// Whether nothing is left to do about a due timer. One that is not comes again.
    async fn is_settled(&self, id: &RunId) -> bool {
        let key = PlansKey::Run(id.clone());
        let run = match plans::get::<Run>(&self.bus, &key).await {
            Ok(Some(row)) => row.value,
            Ok(None) => return true,
            Err(_) => return false,
        };
        let Some(due) = run.dead_man.as_ref().filter(|_| is_armed(&run)).map(|switch| switch.due) else {
            return true;
        };
        // The run ended since, and its end set another moment. That timer has to be there before this one goes.
        if due > Timestamp::now() {
            let is_later = until(due) > CLOCKS_APART;
            return is_later && timers::arm(&self.bus, id, due).await.is_ok();
        }
        let desk = self.due.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(desk) = desk.filter(|_| run.state.is_over()) else { return false };
        let (tried, was_tried) = oneshot::channel();
        if desk.try_send(DueRun { run: run.id, _tried: tried }).is_err() {
            return false;
        }
        // However it went, the record tells.
        drop(tokio::time::timeout(TAKE_BACK, was_tried).await);
        let now = plans::get::<Run>(&self.bus, &key).await;
        now.is_ok_and(|row| row.is_none_or(|row| !is_armed(&row.value)))
    }
}

const fn waits(run: &Run) -> bool {
    matches!(run.state, RunState::Waiting { .. })
}

fn due(state: &RunState) -> Option<Timestamp> {
    match state {
        RunState::Waiting { not_before, .. } => *not_before,
        RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {}
        | RunState::Done { .. }
        | RunState::Failed { .. }
        | RunState::Compensated { .. }
        | RunState::NeedsHuman { .. }
        | RunState::Cancelled { .. } => None,
    }
}

fn until(moment: Timestamp) -> Duration {
    moment.duration_since(Timestamp::now()).try_into().unwrap_or_default()
}

/// Asks for the post until it is ours.
async fn take(post: &mut Post) -> Term {
    loop {
        match post.take().await {
            Ok(Some(term)) => return term,
            Ok(None) => {}
            Err(error) => tracing::debug!(agent = "act", err = %error, "actuator's post not taken yet"),
        }
        tokio::time::sleep(post.beat()).await;
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("instance", &self.house.options.instance).finish_non_exhaustive()
    }
}
