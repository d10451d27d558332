//! One run, from where its journal stands to its end.

use super::{House, Stop, ask, journal::Journal, lead::Term};
use nhi_bus::{
    cx::Cx,
    plans::{self, PlansError},
    timers,
};
use nhi_decide::{
    next::{self, Asked, Effects, Found, Next, TaskNow, TaskRow, next},
    sight::Sight,
    verify::Verified,
};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    guest::GuestIdentity,
    key::Key,
    plan::{Ends, Plan, Target},
    plans::PlansKey,
    run::{DeadMan, DeadManState, Freeze, Leg, Mark, RunState},
};
use nhi_pve::Operator;
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::OwnedSemaphorePermit;

/// What was seen longer ago does not allow a call: it is looked at again.
const FRESH: Duration = Duration::from_secs(5);
/// Pause of a run that may not send now.
const PAUSE: Duration = Duration::from_secs(1);

/// Carries one run out.
pub(super) struct Carrier {
    pub(super) house: Arc<House>,
    pub(super) journal: Journal,
    stop: Cx,
    term: Term,
    learned: Learned,
    /// When it was asked last whether it may start.
    told: Instant,
    /// The switch whose timer was set before the first call.
    armed: Option<DeadMan>,
    /// The turn at the node of the step in hand.
    turn: Option<(String, OwnedSemaphorePermit)>,
    /// When the scanner is asked for a pass again, and the pause after that.
    pub(super) pass_due: Option<Instant>,
    pub(super) pass_pause: Option<Duration>,
    /// The revision of the first pass that began after the last step.
    pub(super) seen_from: Option<u64>,
}

/// What was found out since the journal's last line.
struct Learned {
    since: Timestamp,
    sight: Option<Sight>,
    /// When that look was over.
    looked: Option<Instant>,
    task: Option<Asked<TaskNow>>,
    tasks: Option<Asked<Vec<TaskRow>>>,
    verified: Option<(Verified, u64)>,
}

impl Learned {
    const fn nothing(since: Timestamp) -> Self {
        Self { since, sight: None, looked: None, task: None, tasks: None, verified: None }
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

impl Carrier {
    pub(super) fn new(house: Arc<House>, stop: Cx, term: Term, journal: Journal, told: Instant) -> Self {
        let learned = Learned::nothing(journal.clock.now());
        let (armed, turn, pass_due, pass_pause, seen_from) = (None, None, None, None, None);
        Self { house, journal, stop, term, learned, told, armed, turn, pass_due, pass_pause, seen_from }
    }

    /// Goes on until the run is over, or is another's.
    pub(super) async fn run(mut self) -> Result<(), Stop> {
        let plan = self.journal.plan.clone();
        // A claim needs an operator; a run that is taken over waits for an actuator that has one.
        let Some(operator) = self.house.operators.get(&plan.cluster).cloned() else { return Err(Stop::Told) };
        loop {
            if self.stop.is_cancelled() {
                return Err(Stop::Told);
            }
            if let Some(node) = next::in_hand(&plan, self.journal.run()).map(|step| step.node.clone()) {
                self.take_turn(&node).await?;
            }
            let (now, found) = (self.journal.clock.now(), self.learned.found());
            match next(&plan, self.journal.run(), &found, &self.house.options.pace, now) {
                Next::Look(guests) => {
                    self.learned.sight = Some(unless(&self.stop, self.look(&operator, guests)).await?);
                    self.learned.looked = Some(Instant::now());
                }
                Next::Follow { upid } => {
                    self.learned.task = Some(unless(&self.stop, self.task(&operator, &upid)).await?);
                }
                Next::Search { node, vmid, since } => {
                    let asked = self.tasks(&operator, &node, vmid, since);
                    self.learned.tasks = Some(unless(&self.stop, asked).await?);
                }
                Next::Wait { until } => self.wait(until).await?,
                Next::Journal { leg, step, mark } => self.mark(leg, step, mark).await?,
                Next::Send { leg, step, attempt } => self.send(&operator, leg, step, attempt).await?,
                Next::Verify => self.verify().await?,
                Next::End(state) => return self.end(state).await,
                Next::Over => return Ok(()),
            }
        }
    }

    fn forget(&mut self) {
        self.learned = Learned::nothing(self.learned.since);
    }

    async fn wait(&mut self, until: Timestamp) -> Result<(), Stop> {
        let pause = until.duration_since(self.journal.clock.now()).try_into().unwrap_or_default();
        self.pause(pause).await
    }

    async fn pause(&mut self, pause: Duration) -> Result<(), Stop> {
        self.forget();
        self.leave_turn();
        unless(&self.stop, tokio::time::sleep(pause)).await
    }

    async fn mark(&mut self, leg: Leg, step: usize, mark: Mark) -> Result<(), Stop> {
        let made = self.made(leg, step).filter(|_| mark == Mark::Seen {});
        self.journal.mark(leg, step, mark, made).await?;
        self.learned = Learned::nothing(self.journal.clock.now());
        self.leave_turn();
        Ok(())
    }

    /// Lets others have the node, unless a call there is not closed.
    fn leave_turn(&mut self) {
        if next::in_hand(&self.journal.plan, self.journal.run()).is_none() {
            self.turn = None;
        }
    }

    /// What tells the guest of a step from a later one with its number, where the plan makes it.
    fn made(&self, leg: Leg, step: usize) -> Option<(Key, GuestIdentity)> {
        let guest = &self.journal.step(leg, step).guest;
        let is_born = |target: &Target| target.guest == *guest && target.identity.is_none();
        let born = leg == Leg::Forward && self.journal.plan.targets.iter().any(is_born);
        let identity = self.learned.sight.as_ref().filter(|_| born)?.seen(guest)?.identity.clone();
        (identity != GuestIdentity::default()).then(|| (guest.clone(), identity))
    }

    /// The turn at a node. False when it had to be waited for.
    async fn take_turn(&mut self, node: &str) -> Result<bool, Stop> {
        if self.turn.as_ref().is_some_and(|(held, _)| held == node) {
            return Ok(true);
        }
        self.turn = None;
        let turns = self.house.turn(&self.journal.plan.cluster, node);
        let (permit, at_once) = match turns.clone().try_acquire_owned() {
            Ok(permit) => (permit, true),
            Err(_) => {
                let permit = unless(&self.stop, turns.acquire_owned()).await?;
                (permit.expect("the turns at a node are never closed"), false)
            }
        };
        self.turn = Some((node.to_owned(), permit));
        Ok(at_once)
    }

    /// Sends a step's call, when nothing stands against it that came up since the guest was looked at.
    async fn send(&mut self, operator: &Operator, leg: Leg, step: usize, attempt: u32) -> Result<(), Stop> {
        // The claim's entry may have taken its time.
        unless(&self.stop, self.journal.claim_is_told()).await??;
        let of = self.journal.step(leg, step).clone();
        if !self.take_turn(&of.node).await? || !self.has_looked_lately() {
            self.forget();
            return Ok(());
        }
        let asked = Instant::now();
        if self.is_frozen().await {
            // Whoever claims it next gives it back.
            return if self.is_untouched() { Err(Stop::Told) } else { self.pause(PAUSE).await };
        }
        if !self.may_begin().await? {
            return self.pause(PAUSE).await;
        }
        if !self.term.may_send() {
            unless(&self.stop, self.term.renewed()).await?;
            self.forget();
            return Ok(());
        }
        let Ok(dead_man) = self.arm().await else { return self.pause(PAUSE).await };
        // All that took its time: what was seen and said is looked at anew.
        if asked.elapsed() >= FRESH || !self.has_looked_lately() {
            self.forget();
            return Ok(());
        }
        let asked = Instant::now();
        let is_written = self.journal.begin(leg, step, attempt, dead_man).await?;
        self.learned = Learned::nothing(self.journal.clock.now());
        let may_leave =
            is_written && asked.elapsed() < FRESH && self.term.may_send() && !self.stop.is_cancelled();
        let mark = if may_leave { ask::send(operator, &of).await } else { Mark::NotTaken {} };
        self.mark(leg, step, mark).await
    }

    /// Whether the first call may leave. Whoever claimed the run was told so, and it may have waited since: for its turn at
    /// the node, or while everything was stopped.
    async fn may_begin(&mut self) -> Result<bool, Stop> {
        if !self.is_untouched() || self.told.elapsed() < FRESH {
            return Ok(true);
        }
        let asked = Instant::now();
        match self.house.may_still_start(self.journal.run()).await {
            Ok(true) => {
                self.told = asked;
                Ok(true)
            }
            // Whoever claims it next gives it back, and says why.
            Ok(false) => Err(Stop::Told),
            Err(error) => {
                let id = self.journal.run().id.as_str();
                tracing::warn!(agent = "act", req = id, err = %error, "nothing is sent: whether it may start cannot be told");
                Ok(false)
            }
        }
    }

    /// Whether no call of it was taken yet.
    fn is_untouched(&self) -> bool {
        next::is_untouched(&self.journal.run().journal)
    }

    fn has_looked_lately(&self) -> bool {
        self.learned.looked.is_some_and(|looked| looked.elapsed() < FRESH)
    }

    /// Whether everything is stopped. What cannot be read is taken for a yes.
    async fn is_frozen(&self) -> bool {
        let freeze: Result<_, PlansError> = plans::get::<Freeze>(&self.house.bus, &PlansKey::Freeze).await;
        !matches!(freeze, Ok(None))
    }

    /// Before the first call of a run that is taken back unless somebody confirms it: nats-server has to have the
    /// message. It is due when the run can no longer be under way; the end of the run sets it anew.
    async fn arm(&mut self) -> Result<Option<DeadMan>, ()> {
        let run = self.journal.run();
        let Some(minutes) = self.journal.plan.undo_unless_confirmed_minutes else { return Ok(None) };
        if run.dead_man.is_some() || self.armed.is_some() {
            return Ok(self.armed.clone());
        }
        let due = self.in_minutes(minutes) + longest(&self.journal.plan) + self.house.options.pace.verify;
        if let Err(error) = timers::arm(&self.house.bus, &run.id, due).await {
            tracing::warn!(agent = "act", req = run.id.as_str(), err = %error, "nothing is sent: no timer was set");
            return Err(());
        }
        let mut details = super::journal::about(run);
        details.insert("due".to_owned(), due.to_string().into());
        self.journal.audit(AuditKind::UndoArmed, details).await.map_err(drop)?;
        self.armed = Some(DeadMan { due, state: DeadManState::Armed {} });
        Ok(self.armed.clone())
    }

    fn in_minutes(&self, minutes: u32) -> Timestamp {
        self.journal.clock.now() + Duration::from_secs(60 * u64::from(minutes))
    }

    /// Asks the scanner, and tells who follows the run what it has not shown yet.
    async fn verify(&mut self) -> Result<(), Stop> {
        let stop = self.stop.clone();
        let plan = self.journal.plan.clone();
        let nothing = || (Verified::NotYet { unseen: plan.expects.clone() }, 0);
        let (verified, revision) = unless(&stop, self.verified()).await?.unwrap_or_else(nothing);
        let unseen = match &verified {
            Verified::Done => Vec::new(),
            Verified::NotYet { unseen } | Verified::Diverged { unseen, .. } => unseen.clone(),
        };
        if verified != Verified::Done && self.journal.run().unseen != unseen {
            self.journal.write(|run| run.unseen.clone_from(&unseen)).await?;
        }
        self.learned.verified = Some((verified, revision));
        Ok(())
    }

    async fn end(&mut self, state: RunState) -> Result<(), Stop> {
        let dead_man = self.settle_dead_man().await?;
        self.journal.end(state, dead_man).await
    }

    /// What becomes of the dead man's switch: without anything to take back it is taken away, else it counts from now.
    async fn settle_dead_man(&self) -> Result<Option<DeadMan>, Stop> {
        let (run, plan, bus) = (self.journal.run(), &self.journal.plan, &self.house.bus);
        let minutes = plan.undo_unless_confirmed_minutes.unwrap_or(0);
        if !run.dead_man.as_ref().is_some_and(|one| one.state == DeadManState::Armed {}) {
            return Ok(None);
        }
        loop {
            let due = self.in_minutes(minutes);
            let settled = match next::effects(plan, &run.journal) {
                Effects::None | Effects::TakenBack => {
                    let state = DeadManState::Disarmed {};
                    timers::confirm(bus, &run.id).await.map(|_| DeadMan { due, state })
                }
                Effects::Some => {
                    let state = DeadManState::Armed {};
                    timers::arm(bus, &run.id, due).await.map(|_| DeadMan { due, state })
                }
            };
            match settled {
                Ok(dead_man) => return Ok(Some(dead_man)),
                Err(error) => {
                    tracing::warn!(agent = "act", req = run.id.as_str(), err = %error, "timer not set anew")
                }
            }
            unless(&self.stop, tokio::time::sleep(PAUSE)).await?;
        }
    }
}

/// The longest a plan can take.
fn longest(plan: &Plan) -> Duration {
    let step = |ends: &Ends, settle_s: u32| match ends {
        Ends::Answer {} => u64::from(settle_s),
        Ends::Task { seconds_max, .. } => u64::from(settle_s) + u64::from(*seconds_max),
    };
    Duration::from_secs(plan.steps.iter().map(|one| step(&one.ends, one.settle_s)).sum())
}

/// What a future gives, unless we are told to stop. Only for what may be dropped half way.
async fn unless<T>(stop: &Cx, future: impl Future<Output = T>) -> Result<T, Stop> {
    tokio::select! {
        () = stop.cancelled() => Err(Stop::Told),
        value = future => Ok(value),
    }
}
