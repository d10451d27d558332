//! A run's record, as its actuator writes it: each write is a compare-and-swap, so that an actuator that was taken over
//! writes nothing more, and is written down in the audit log too.
//!
//! Order: before a call the journal comes first and the audit log second, so that every entry `step.begun` is closed by
//! whoever reads the journal after a crash. After a call the audit log comes first: a crash in between repeats an entry,
//! and loses none. The claim goes to the audit log while the guests are looked at, and nothing else is written before it
//! is there. What cannot be written holds the run up; nothing is sent meanwhile.

use super::{Stop, lead::Term};
use nhi_bus::{
    audit,
    connect::Bus,
    cx::Cx,
    plans::{self, PlansChange, PlansError, Row},
};
use nhi_decide::{clean, next};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    envelope::OpId,
    guest::GuestIdentity,
    identity::IdentityName,
    key::Key,
    plan::{Plan, Step},
    plans::PlansKey,
    run::{DeadMan, DeadManState, Entry, Lease, Leg, Mark, Run, RunId, RunState},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use uuid::Uuid;

/// Pause before something that could not be written is written again.
const PAUSE: Duration = Duration::from_millis(250);
/// How long somebody who was told to stop still tries to write down what he did.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest value of a parameter in the audit log, characters.
const PARAMETER_CHARS_MAX: usize = 200;

/// The time as one run sees it: the wall's when it was taken, and from then on only forward.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    wall: Timestamp,
    since: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { wall: Timestamp::now(), since: Instant::now() }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.wall.checked_add(self.since.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

/// A run that this actuator has.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) plan: Arc<Plan>,
    pub(super) clock: Clock,
    bus: Bus,
    stop: Cx,
    term: Term,
    revision: u64,
    run: Run,
    /// Whether the audit log has the claim.
    claimed: watch::Receiver<bool>,
}

impl Journal {
    /// A run as it was claimed. The audit log is told of it, beside whatever is only read meanwhile.
    pub(super) fn of(bus: &Bus, stop: &Cx, term: &Term, plan: Arc<Plan>, revision: u64, run: Run) -> Self {
        let (bus, stop, term, clock) = (bus.clone(), stop.clone(), term.clone(), Clock::start());
        let (written, claimed) = watch::channel(false);
        let mut details = about(&run);
        details.insert("generation".to_owned(), run.holder.as_ref().map(|holder| holder.generation).into());
        let (log, told, by) = (bus.clone(), stop.clone(), run.by.clone());
        stop.spawn("claim", async move {
            if append(&log, &told, AuditKind::RunClaimed, &by, &details).await.is_ok() {
                written.send_replace(true);
            }
        });
        Self { plan, clock, bus, stop, term, revision, run, claimed }
    }

    /// Waits until the audit log has the claim.
    pub(super) async fn claim_is_told(&self) -> Result<(), Stop> {
        // Whoever writes it gives up only when it is told to stop.
        self.claimed.clone().wait_for(|is_written| *is_written).await.map(drop).map_err(|_| Stop::Told)
    }

    pub(super) fn run(&self) -> &Run {
        &self.run
    }

    /// The step of a line.
    pub(super) fn step(&self, leg: Leg, step: usize) -> &Step {
        step_of(&self.plan, leg, step)
    }

    /// Writes that a call will leave. False when it may not: the audit log did not take it.
    pub(super) async fn begin(
        &mut self,
        leg: Leg,
        step: usize,
        attempt: u32,
        dead_man: Option<DeadMan>,
    ) -> Result<bool, Stop> {
        let mark = Mark::Begun { attempt };
        self.line(leg, step, mark.clone(), dead_man, None).await?;
        let (kind, details) = (AuditKind::StepBegun, self.details(leg, step, &mark));
        match audit::append(&self.bus, kind, Some(&self.run.by), details).await {
            Ok(_) => Ok(true),
            Err(error) => {
                tracing::warn!(agent = "act", err = %error, "nothing is sent: the audit log does not take it");
                Ok(false)
            }
        }
    }

    /// Writes what is known of a step, and which guest it made.
    pub(super) async fn mark(
        &mut self,
        leg: Leg,
        step: usize,
        mark: Mark,
        made: Option<(Key, GuestIdentity)>,
    ) -> Result<(), Stop> {
        let details = self.details(leg, step, &mark);
        self.audit(kind_of(&mark), details).await?;
        self.line(leg, step, mark, None, made).await
    }

    async fn line(
        &mut self,
        leg: Leg,
        step: usize,
        mark: Mark,
        dead_man: Option<DeadMan>,
        made: Option<(Key, GuestIdentity)>,
    ) -> Result<(), Stop> {
        let entry = Entry { at: self.clock.now(), step, leg, mark };
        let plan = self.plan.clone();
        self.write(move |run| {
            // It may be there: a write whose answer was lost, and somebody wrote something else since.
            if run.journal.last() != Some(&entry) {
                run.journal.push(entry.clone());
            }
            run.state = next::phase(&plan, &run.journal);
            run.dead_man = run.dead_man.take().or(dead_man.clone());
            if let Some((guest, identity)) = &made {
                run.made.entry(guest.clone()).or_insert_with(|| identity.clone());
            }
        })
        .await
    }

    /// Changes the record.
    pub(super) async fn write(&mut self, change: impl Fn(&mut Run)) -> Result<(), Stop> {
        self.commit(change, false).await
    }

    /// Ends the run: its leases go in the same batch.
    pub(super) async fn end(&mut self, state: RunState, dead_man: Option<DeadMan>) -> Result<(), Stop> {
        self.audit(AuditKind::RunEnded, ended(&self.run, &state)).await?;
        let now = self.clock.now();
        self.commit(
            |run| {
                run.state = state.clone();
                run.ended_at = Some(now);
                run.unseen.clear();
                // A confirmation that came meanwhile stays.
                if let (Some(armed), Some(new)) = (&mut run.dead_man, &dead_man)
                    && armed.state == (DeadManState::Armed {})
                {
                    armed.clone_from(new);
                }
            },
            true,
        )
        .await
    }

    async fn commit(&mut self, change: impl Fn(&mut Run), ends: bool) -> Result<(), Stop> {
        self.claim_is_told().await?;
        let mut retry = Retry::new(&self.stop);
        let mut op = new_op();
        loop {
            let mut run = self.run.clone();
            change(&mut run);
            run.holder = Some(self.term.holder(self.clock.now()));
            let mut changes = vec![PlansChange::put(PlansKey::Run(run.id.clone()), self.revision, &run)];
            let leases = if ends { let_go(&self.bus, &self.plan, &run.id).await } else { Ok(Vec::new()) };
            let written = match leases {
                Ok(leases) => {
                    changes.extend(leases);
                    plans::commit(&self.bus, &op, Timestamp::now(), &changes).await
                }
                Err(error) => Err(error),
            };
            match written {
                Ok(revision) => {
                    self.revision = revision - (changes.len() as u64 - 1);
                    self.run = run;
                    return Ok(());
                }
                Err(error) if error.is_conflict() => {
                    self.reload(&mut retry).await?;
                    op = new_op();
                }
                Err(error) => retry.pause(&error).await?,
            }
        }
    }

    /// Somebody else wrote: a confirmation is kept, and an actuator that took the run over has it.
    async fn reload(&mut self, retry: &mut Retry) -> Result<(), Stop> {
        let key = PlansKey::Run(self.run.id.clone());
        let row: Row<Run> = loop {
            match plans::get(&self.bus, &key).await {
                Ok(Some(row)) => break row,
                Ok(None) => return Err(Stop::TakenOver),
                Err(error) => retry.pause(&error).await?,
            }
        };
        if !self.term.is(row.value.holder.as_ref()) || row.value.state.is_over() {
            return Err(Stop::TakenOver);
        }
        (self.revision, self.run) = (row.revision, row.value);
        Ok(())
    }

    /// Appends to the audit log, however long it takes.
    pub(super) async fn audit(&self, kind: AuditKind, details: Details) -> Result<(), Stop> {
        self.claim_is_told().await?;
        append(&self.bus, &self.stop, kind, &self.run.by, &details).await
    }

    fn details(&self, leg: Leg, step: usize, mark: &Mark) -> Details {
        let mut details = about(&self.run);
        let mut tell = |name: &str, value: Value| drop(details.insert(name.to_owned(), value));
        let of = self.step(leg, step);
        tell("step", step.into());
        tell("leg", json(&leg));
        tell("guest", of.guest.as_str().into());
        tell("node", of.node.as_str().into());
        if let Mark::Begun { .. } = mark {
            tell("digest", self.run.digest.as_str().into());
            tell("call", format!("{} {}", of.call.method.as_str(), of.call.path).into());
            let short = |(name, value): (&String, &String)| {
                (name.clone(), clean::text(value, PARAMETER_CHARS_MAX).into())
            };
            tell("parameters", Value::Object(of.call.params.iter().map(short).collect()));
        } else {
            let begun = self.run.journal.iter().rev().find_map(|entry| match entry.mark {
                Mark::Begun { attempt } if entry.leg == leg && entry.step == step => Some(attempt),
                _ => None,
            });
            tell("attempt", begun.into());
        }
        if let Value::Object(fields) = json(mark) {
            for (name, value) in fields {
                tell(if name == "mark" { "outcome" } else { &name }, value);
            }
        }
        details
    }
}

/// Ids and sizes of an audit entry.
pub(super) type Details = BTreeMap<String, Value>;

/// Which run an audit entry is about.
pub(super) fn about(run: &Run) -> Details {
    let name = |name: &str, value: &str| (name.to_owned(), Value::from(value));
    [name("run", run.id.as_str()), name("plan", run.plan.as_str())].into()
}

/// How a run ended.
pub(super) fn ended(run: &Run, state: &RunState) -> Details {
    let mut details = about(run);
    details.insert("state".to_owned(), state.as_str().into());
    if let Value::Object(fields) = json(state) {
        details.extend(fields.into_iter().filter(|(name, _)| name != "is"));
    }
    details
}

fn json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("marks and states are made of JSON types")
}

fn kind_of(mark: &Mark) -> AuditKind {
    match mark {
        Mark::Begun { .. } => AuditKind::StepBegun,
        Mark::Sent { .. }
        | Mark::Refused { .. }
        | Mark::AnswerLost { .. }
        | Mark::Adopted { .. }
        | Mark::NotTaken {} => AuditKind::StepSent,
        Mark::Ended { .. } => AuditKind::StepEnded,
        Mark::Seen {} | Mark::AlreadySo {} | Mark::Failed { .. } | Mark::Unknown { .. } => {
            AuditKind::StepReadBack
        }
    }
}

/// The step of a line.
pub(super) fn step_of(plan: &Plan, leg: Leg, step: usize) -> &Step {
    let forward = &plan.steps[step];
    match leg {
        Leg::Forward => forward,
        Leg::Back => forward.compensation.as_deref().expect("only what has a compensation is taken back"),
    }
}

/// The leases a plan's run needs.
pub(super) fn lease_keys(plan: &Plan) -> Vec<PlansKey> {
    let key = |vmid| PlansKey::Lease { cluster: plan.cluster.clone(), vmid };
    plan.targets.iter().map(|target| key(target.vmid)).collect()
}

/// What a run holds, to be let go.
pub(super) async fn let_go(bus: &Bus, plan: &Plan, run: &RunId) -> Result<Vec<PlansChange>, PlansError> {
    let mut changes = Vec::new();
    for key in lease_keys(plan) {
        if let Some(row) = plans::get::<Lease>(bus, &key).await?
            && row.value.run == *run
        {
            changes.push(PlansChange::remove(key, row.revision));
        }
    }
    Ok(changes)
}

pub(super) fn new_op() -> OpId {
    OpId(Uuid::now_v7().to_string())
}

/// Appends to the audit log, until told to stop.
async fn append(
    bus: &Bus,
    stop: &Cx,
    kind: AuditKind,
    by: &IdentityName,
    details: &Details,
) -> Result<(), Stop> {
    let mut retry = Retry::new(stop);
    loop {
        match audit::append(bus, kind, Some(by), details.clone()).await {
            Ok(_) => return Ok(()),
            Err(error) => retry.pause(&error).await?,
        }
    }
}

/// Tries something again until told to stop, and a moment longer.
struct Retry {
    stop: Cx,
    told: Option<Instant>,
}

impl Retry {
    fn new(stop: &Cx) -> Self {
        Self { stop: stop.clone(), told: None }
    }

    async fn pause(&mut self, error: &(dyn std::error::Error + Send + Sync)) -> Result<(), Stop> {
        tracing::debug!(agent = "act", err = %error, "run's record or audit entry not written, again");
        if self.stop.is_cancelled() && self.told.get_or_insert_with(Instant::now).elapsed() > LAST_WORDS {
            return Err(Stop::Told);
        }
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }
}
