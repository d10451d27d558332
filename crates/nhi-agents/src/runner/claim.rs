//! How a run becomes ours: its start, bound to a lease on every guest it writes to, or the rest of it after the
//! actuator that had it died; one of which nothing was taken yet is given back, and starts by all that a start asks. A run
//! that has to wait is told why, and one that may not start any more ends here.

use super::{
    House, Word,
    journal::{Journal, ended, lease_keys, let_go, new_op},
    lead::Term,
};
use crate::{lab::known, turns};
use nhi_bus::{
    audit::{self, AuditError},
    cx::Cx,
    past::{self, PastError},
    plans::{self, PlansChange, PlansError, PlansSnapshot, Row},
};
use nhi_decide::{next::is_untouched, plan, stale, switch::disarm};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    call::At,
    fault::Fault,
    key::Key,
    plan::{Plan, PlanRecord},
    plans::PlansKey,
    refusal::Refusal,
    run::{Freeze, Lease, Run, RunId, RunState},
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the view may take to show what was written.
const SHOWN: Duration = Duration::from_secs(10);

/// Why a run could not be claimed. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClaimError {
    #[error("write what is acted on")]
    Plans(#[from] PlansError),
    #[error("write the audit log")]
    Audit(#[from] AuditError),
    #[error("read what the plan was made on")]
    Past(#[from] PastError),
    #[error("go on with a run whose plan is missing, or not the one that was applied; look at its guests")]
    Plan,
    #[error("learn whether it may start: {}", .0.message)]
    NotJudged(Fault),
    #[error("compare the lab with what the plan was made on: the state is not current")]
    NotCurrent,
}

/// Claims a run, and says when it was asked whether it may start; `None` when it has to wait, is over, or somebody else was
/// faster.
pub(super) async fn claim(
    house: &House,
    cx: &Cx,
    term: &Term,
    id: &RunId,
) -> Result<Option<(Journal, Instant)>, ClaimError> {
    let (run, plan) = (PlansKey::Run(id.clone()), PlansKey::Plan(id.plan()));
    let (row, record) =
        tokio::try_join!(plans::get::<Run>(&house.bus, &run), plans::get::<PlanRecord>(&house.bus, &plan))?;
    let Some(row) = row else { return Ok(None) };
    let record = record.map(|record| record.value).filter(|record| record.plan.id == row.value.plan);
    // The digest is of all there is: what is carried out is what was applied, to the letter.
    let Some(record) = record.filter(|one| plan::digest(&one.plan) == row.value.digest) else {
        tracing::error!(
            agent = "act",
            req = id.as_str(),
            "run's plan is missing or another: nothing is done"
        );
        if !matches!(row.value.state, RunState::Waiting { .. }) {
            return Err(ClaimError::Plan);
        }
        let text = "its plan is missing, or not the one that was applied; nothing was done".to_owned();
        refuse(house, term, row, RunState::Failed { text }).await?;
        return Ok(None);
    };
    let claimed = match &row.value.state {
        RunState::Waiting { .. } => start(house, term, &record, row).await?,
        RunState::Running {} | RunState::Compensating {} | RunState::Verifying {} => {
            if is_untouched(&row.value.journal) {
                let why = "no call of it has left yet, and it is looked at anew".to_owned();
                give_back(house, &record.plan, row.revision, row.value, why).await?;
                return Ok(None);
            }
            take_over(house, term, row).await?
        }
        RunState::Done { .. }
        | RunState::Failed { .. }
        | RunState::Compensated { .. }
        | RunState::NeedsHuman { .. }
        | RunState::Cancelled { .. } => None,
    };
    let Some(Claim { revision, last, run, told }) = claimed else { return Ok(None) };
    // Nothing was asked for yet. What stands before the claim is known when the view shows the claim: who had the
    // guests may have left them unclear, and another claim may not go together with this one.
    if is_untouched(&run.journal) {
        let kept = house.shown(last).await?;
        if let Some(why) = turns::claimed_too_late(&record, &run, &kept, Timestamp::now()) {
            give_back(house, &record.plan, revision, run, why).await?;
            return Ok(None);
        }
    }
    let plan = record.plan;
    tracing::info!(agent = "act", req = id.as_str(), plan = plan.id.as_str(), "run claimed");
    Ok(Some((Journal::of(&house.bus, cx, term, Arc::new(plan), revision, run), told)))
}

/// A run that is ours.
struct Claim {
    /// Of its record.
    revision: u64,
    /// Of the last row that was written with it.
    last: u64,
    run: Run,
    /// When it was asked whether it may start.
    told: Instant,
}

async fn start(
    house: &House,
    term: &Term,
    record: &PlanRecord,
    row: Row<Run>,
) -> Result<Option<Claim>, ClaimError> {
    let plan = &record.plan;
    let RunState::Waiting { not_before, .. } = row.value.state else { return Ok(None) };
    let told = Instant::now();
    // Before the first call it is asked again whether everything is stopped.
    let frozen = plans::get::<Freeze>(&house.bus, &PlansKey::Freeze);
    let (row, frozen) = tokio::join!(if_it_may(house, term, record, row), frozen);
    let Some(row) = row? else { return Ok(None) };
    let now = Timestamp::now();
    if not_before.is_some_and(|moment| moment > now) {
        return Ok(None);
    }
    let why = frozen?
        .map(|row| turns::stopped(&row.value))
        .or_else(|| house.hindrance(record, &row.value, &house.plans.read()));
    if let Some(why) = why {
        tell(house, row, why).await?;
        return Ok(None);
    }
    let changes = changes_since(house, plan).await?;
    if !changes.is_empty() {
        let text = format!("what the plan relied on has changed: {}", changes.join("; "));
        refuse(house, term, row, RunState::Failed { text }).await?;
        return Ok(None);
    }
    // Whoever has the post now decides.
    if !term.may_send() {
        return Ok(None);
    }
    let Row { revision: expected, value: mut run, .. } = row;
    let (key, holder) = (PlansKey::Run(run.id.clone()), term.holder(now));
    let lease = Lease { run: run.id.clone(), generation: holder.generation, at: now };
    (run.state, run.holder) = (RunState::Running {}, Some(holder));
    let mut batch = vec![PlansChange::put(key, expected, &run)];
    batch.extend(lease_keys(plan).into_iter().map(|key| PlansChange::put(key, 0, &lease)));
    match plans::commit(&house.bus, &new_op(), now, &batch).await {
        Ok(last) => Ok(Some(Claim { revision: last - (batch.len() as u64 - 1), last, run, told })),
        // Whoever was faster shows in the view, which starts the next try.
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A run that waits, when it may start now; one that may not is put off, or ends.
async fn if_it_may(
    house: &House,
    term: &Term,
    record: &PlanRecord,
    row: Row<Run>,
) -> Result<Option<Row<Run>>, ClaimError> {
    match house.word(record, &row.value).await {
        Ok(Word::Start) => return Ok(Some(row)),
        Ok(Word::NotBefore(moment)) => put_off(house, row, moment).await?,
        Ok(Word::Never(refusal)) => {
            let (req, code) = (row.value.id.as_str(), refusal.code.as_str());
            tracing::info!(agent = "act", req, err = code, "run ends before its start");
            refuse(house, term, row, RunState::Failed { text: never(&refusal) }).await?;
        }
        Err(fault) => {
            tell(house, row, format!("whether it may start cannot be told: {}", fault.message)).await?;
            return Err(ClaimError::NotJudged(fault));
        }
    }
    Ok(None)
}

/// Gives a claim back before anything was done with it.
async fn give_back(
    house: &House,
    plan: &Plan,
    expected: u64,
    mut run: Run,
    why: String,
) -> Result<(), ClaimError> {
    (run.state, run.holder) = (RunState::Waiting { reason: why, not_before: None }, None);
    let mut batch = vec![PlansChange::put(PlansKey::Run(run.id.clone()), expected, &run)];
    batch.extend(let_go(&house.bus, plan, &run.id).await?);
    let written = plans::commit(&house.bus, &new_op(), Timestamp::now(), &batch).await;
    Ok(ignore_conflict(written)?)
}

/// The rest of a run whose actuator died, or lost its post.
async fn take_over(house: &House, term: &Term, row: Row<Run>) -> Result<Option<Claim>, ClaimError> {
    let Row { revision, value: mut run, .. } = row;
    let now = Timestamp::now();
    run.holder = Some(term.holder(now));
    let change = PlansChange::put(PlansKey::Run(run.id.clone()), revision, &run);
    match plans::commit(&house.bus, &new_op(), now, &[change]).await {
        Ok(revision) => Ok(Some(Claim { revision, last: revision, run, told: Instant::now() })),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl House {
    /// What is said of a run, now.
    async fn word(&self, record: &PlanRecord, run: &Run) -> Result<Word, Fault> {
        (self.judge)(record.clone(), run.clone()).await
    }

    /// Whether a run that was claimed, and waited since before its first call, may still start: for all that is asked of one
    /// that waits.
    pub(super) async fn may_still_start(&self, run: &Run) -> Result<bool, ClaimError> {
        let record = plans::get::<PlanRecord>(&self.bus, &PlansKey::Plan(run.plan.clone())).await?;
        let record = record.ok_or(ClaimError::Plan)?.value;
        let word = self.word(&record, run).await.map_err(ClaimError::NotJudged)?;
        let late = turns::claimed_too_late(&record, run, &self.plans.read(), Timestamp::now());
        Ok(word == Word::Start && late.is_none() && changes_since(self, &record.plan).await?.is_empty())
    }

    /// What keeps a run from starting, as far as the view knows.
    pub(super) fn hindrance(&self, record: &PlanRecord, run: &Run, kept: &PlansSnapshot) -> Option<String> {
        let cluster = &record.plan.cluster;
        if !self.operators.contains_key(cluster) {
            return Some(format!("the actuator that acts has no access to cluster {cluster}"));
        }
        turns::hindrance(record, run, kept, Timestamp::now())
    }

    /// What acting remembers, once it has a revision.
    async fn shown(&self, revision: u64) -> Result<Arc<PlansSnapshot>, ClaimError> {
        let mut changed = self.plans.changed();
        let shown = async {
            loop {
                let kept = self.plans.read();
                if kept.revision >= revision && kept.stale.is_none() {
                    return kept;
                }
                // The view lives as long as this house.
                drop(changed.changed().await);
            }
        };
        tokio::time::timeout(SHOWN, shown).await.map_err(|_| ClaimError::NotCurrent)
    }
}

fn never(refusal: &Refusal) -> String {
    format!("policy no longer lets it start: {refusal}")
}

fn at(moment: Timestamp) -> String {
    format!("policy lets it start at {moment:.0}")
}

/// Its hour is over, or another one now.
async fn put_off(house: &House, row: Row<Run>, moment: Timestamp) -> Result<(), PlansError> {
    let Row { revision, value: mut run, .. } = row;
    let state = RunState::Waiting { reason: at(moment), not_before: Some(moment) };
    if run.state == state {
        return Ok(());
    }
    run.state = state;
    ignore_conflict(put(house, revision, &run).await)
}

/// Tells a run what it waits for.
async fn tell(house: &House, row: Row<Run>, why: String) -> Result<(), PlansError> {
    let Row { revision, value: mut run, .. } = row;
    let RunState::Waiting { reason, .. } = &mut run.state else { return Ok(()) };
    if *reason == why {
        return Ok(());
    }
    *reason = why;
    ignore_conflict(put(house, revision, &run).await)
}

/// Ends a run that did not start.
async fn refuse(house: &House, term: &Term, row: Row<Run>, state: RunState) -> Result<(), ClaimError> {
    let Row { revision, value: mut run, .. } = row;
    // Whoever has the post now decides.
    if !term.may_send() {
        return Ok(());
    }
    audit::append(&house.bus, AuditKind::RunEnded, Some(&run.by), ended(&run, &state)).await?;
    (run.state, run.ended_at) = (state, Some(Timestamp::now()));
    disarm(&mut run);
    match put(house, revision, &run).await {
        Ok(_) => Ok(()),
        // It did not end so: somebody cancelled it, or starts it. The last word about it is true.
        Err(error) if error.is_conflict() => {
            let Some(row) = plans::get::<Run>(&house.bus, &PlansKey::Run(run.id)).await? else {
                return Ok(());
            };
            let details = ended(&row.value, &row.value.state);
            audit::append(&house.bus, AuditKind::RunEnded, Some(&run.by), details).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

async fn put(house: &House, expected: u64, run: &Run) -> Result<u64, PlansError> {
    let change = PlansChange::put(PlansKey::Run(run.id.clone()), expected, run);
    plans::commit(&house.bus, &new_op(), Timestamp::now(), &[change]).await
}

fn ignore_conflict(written: Result<u64, PlansError>) -> Result<(), PlansError> {
    match written {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// What matters of what changed since the plan was made.
async fn changes_since(house: &House, plan: &Plan) -> Result<Vec<String>, ClaimError> {
    let state = house.view.read();
    if state.stale.is_some() || state.revision < plan.revision {
        return Err(ClaimError::NotCurrent);
    }
    let entry = |key: &Key| state.records.get_key_value(key);
    let is_as_read = |(key, read): (&Key, &u64)| match entry(key) {
        Some((_, now)) => now.revision == *read && now.stored.stale.is_none(),
        None => *read == 0,
    };
    if plan.reads.iter().all(is_as_read) {
        return Ok(Vec::new());
    }
    let select: Vec<String> = plan.reads.keys().map(|key| key.as_str().to_owned()).collect();
    let then = match past::state_at(&house.bus, At::Revision(plan.revision), &select).await {
        Ok(past) => past.records,
        Err(error @ PastError::Expired { .. }) => return Ok(vec![error.to_string()]),
        Err(error) => return Err(error.into()),
    };
    let now = known(plan.reads.keys().filter_map(entry));
    Ok(stale::changes(plan, &known(then.iter()), &now))
}
