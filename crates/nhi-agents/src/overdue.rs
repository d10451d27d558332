//! Runs that nobody confirmed in time and that are not taken back: whether it is tried again, when, and the alerts about
//! them. It takes nothing back; the actuator does.

use crate::alerts::{self, Problem};
use nhi_bus::{connect::Bus, plans::PlansSnapshot, store, view::View};
use nhi_decide::switch::{is_armed, undo_of};
use nhi_model::{
    Timestamp,
    alert::Severity,
    envelope::OpId,
    identity::Agent,
    intent::Intent,
    plan::{Plan, PlanId, PlanRecord},
    run::{DeadManState, Run, RunId, RunState},
};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// What the ids of these alerts begin with; the run follows.
const UNDO: &str = "undo-";
/// Undos that are carried out for one run. One that could not even be planned is no try: nothing was done.
const TRIES_MAX: u32 = 5;
/// The pause after the first of them; each further one is four times as long, so that all take three quarters of an
/// hour: as long as a backup that locks a guest.
const PAUSE: Duration = Duration::from_secs(30);

/// What follows from an undo that was fired and did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is planned anew, on what is so then.
    Again {
        /// When.
        due: Timestamp,
    },
    /// It is left to people.
    GivenUp {
        /// Why, one sentence.
        text: String,
    },
}

/// What follows for a run whose undo was fired; nothing when that worked, is under way, or was called off.
pub(crate) fn failure(run: &Run, kept: &PlansSnapshot) -> Option<Failure> {
    let DeadManState::Fired { plan: Some(undo), .. } = &run.dead_man.as_ref()?.state else { return None };
    if undo_of(&run.plan, carried(kept)).is_some() {
        return None;
    }
    let of = &kept.runs.get(&undo.run())?.value;
    let (why, is_known) = match &of.state {
        RunState::Failed { text } | RunState::Compensated { text } => (text, true),
        RunState::NeedsHuman { text } => (text, false),
        RunState::Waiting { .. }
        | RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {}
        | RunState::Done { .. }
        | RunState::Cancelled { .. } => return None,
    };
    let tries = tries(&run.plan, kept).max(1);
    if is_known && tries < TRIES_MAX {
        return Some(Failure::Again { due: of.ended_at.unwrap_or(of.at) + PAUSE * 4_u32.pow(tries - 1) });
    }
    let text = format!("{undo} was to take it back and did not (try {tries} of {TRIES_MAX}): {why}");
    Some(Failure::GivenUp { text })
}

/// Undos of a plan that were carried out because nobody confirmed it.
fn fired<'a>(plan: &PlanId, kept: &'a PlansSnapshot) -> impl Iterator<Item = &'a Plan> {
    let undo = Intent::Undo { plan: plan.clone() };
    let plans = kept.plans.values().map(|row| &row.value);
    plans
        .filter(move |record| record.request.is_none() && record.plan.intent == undo)
        .map(|record| &record.plan)
}

fn tries(plan: &PlanId, kept: &PlansSnapshot) -> u32 {
    u32::try_from(fired(plan, kept).count()).unwrap_or(u32::MAX)
}

/// Why a run that is due again was not taken back the last time.
fn failed_before(run: &Run, kept: &PlansSnapshot) -> Option<String> {
    let due = run.dead_man.as_ref().filter(|_| is_armed(run))?.due;
    let last = fired(&run.plan, kept).max_by_key(|plan| plan.made_at)?;
    match &kept.runs.get(&last.id.run())?.value.state {
        RunState::Failed { text } | RunState::Compensated { text } => {
            Some(format!("{} failed: {text}; the next try is at {due:.0}", last.id))
        }
        RunState::NeedsHuman { .. }
        | RunState::Waiting { .. }
        | RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {}
        | RunState::Done { .. }
        | RunState::Cancelled { .. } => None,
    }
}

/// Why a run stays as it is although nobody confirmed it, when that is so for good.
pub(crate) fn lost(run: &Run, kept: &PlansSnapshot) -> Option<String> {
    match &run.dead_man.as_ref()?.state {
        DeadManState::Fired { plan: None, text } => {
            undo_of(&run.plan, carried(kept)).is_none().then(|| text.clone())
        }
        DeadManState::Fired { plan: Some(_), .. } => match failure(run, kept)? {
            Failure::GivenUp { text } => Some(text),
            Failure::Again { .. } => None,
        },
        DeadManState::Armed {} | DeadManState::Confirmed { .. } | DeadManState::Disarmed {} => None,
    }
}

/// All plans that were applied, with their runs.
pub(crate) fn carried(kept: &PlansSnapshot) -> impl Iterator<Item = (&PlanRecord, &Run)> {
    let plan = |run: &Run| kept.plans.get(&run.plan).map(|row| &row.value);
    kept.runs.values().filter_map(move |row| Some((plan(&row.value)?, &row.value)))
}

/// An alert is there from the first failure until the switch of its run is not armed any more, and where it was given up
/// until somebody confirms the run or takes it back. What cannot be written is the next call's.
pub(crate) async fn tell(bus: &Bus, view: &View, kept: &PlansSnapshot, troubles: &BTreeMap<RunId, String>) {
    let failed = kept.runs.values().filter_map(|row| {
        let text = failed_before(&row.value, kept)?;
        Some((row.value.id.clone(), text))
    });
    // What is wrong now says more than what was.
    let mut late: BTreeMap<RunId, String> = failed.collect();
    late.extend(troubles.clone());
    let late = late.iter().map(|(id, text)| {
        let plan = id.plan();
        let summary = format!("{plan} was not confirmed in time and cannot be taken back yet: {text}");
        let hint = format!("It is tried again. To keep what it did: nhi plan confirm {plan}.");
        problem(id, summary, hint)
    });
    let lost = kept.runs.values().filter_map(|row| {
        let (id, plan) = (&row.value.id, &row.value.plan);
        let text = lost(&row.value, kept)?;
        let summary = format!("{plan} was not confirmed in time and stays as it is: {text}");
        let hint = format!(
            "It is not tried again. Look at its guests, then plan {{\"do\":\"undo\",\"plan\":\"{plan}\"}}, or keep what it did: nhi plan confirm {plan}."
        );
        Some(problem(id, summary, hint))
    });
    let wanted: BTreeMap<String, Problem> = late.chain(lost).collect();
    // Another actuator may know more of one that is armed still.
    let is_over = |id: &str| {
        let run = id.strip_prefix(UNDO).and_then(|run| RunId::parse(run).ok());
        run.is_some_and(|run| !kept.runs.get(&run).is_some_and(|row| is_armed(&row.value)))
    };
    let now = Timestamp::now();
    let changes = alerts::changes(&view.read(), Agent::Act, is_over, &wanted, now);
    if changes.is_empty() {
        return;
    }
    if let Err(error) = store::commit(bus, &OpId(Uuid::now_v7().to_string()), now, &changes).await {
        tracing::debug!(agent = "act", err = %error, "alert about a run that is due not written");
    }
}

fn problem(run: &RunId, summary: String, hint: String) -> (String, Problem) {
    (format!("{UNDO}{run}"), Problem { severity: Severity::Critical, summary, hint, about: None })
}
