//! What becomes of a dead man's switch: who took its run back already, and whether a failed try to take it back is the
//! last word. It plans nothing; [`crate::plan`] does.

use crate::{
    fact::{Holds, holds, sentence},
    sight::Sight,
};
use nhi_model::{
    Timestamp,
    fact::Fact,
    identity::IdentityName,
    intent::Intent,
    plan::{Plan, PlanId, PlanRecord},
    refusal::{Refusal, RefusalCode},
    run::{DeadMan, DeadManState, Run, RunState},
};

/// The detail of a refusal that comes from what a guest is like now: its status.
pub(crate) const STATUS: &str = "status";

/// A plan that takes another one back, and was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undo {
    /// It.
    pub plan: PlanId,
    /// Whether its run is done; else it is under way.
    pub is_done: bool,
}

/// Whether a run is taken back unless somebody confirms it.
pub fn is_armed(run: &Run) -> bool {
    run.dead_man.as_ref().is_some_and(|switch| switch.state == DeadManState::Armed {})
}

/// The run, confirmed.
pub fn confirmed(run: &Run, by: &IdentityName, at: Timestamp) -> Run {
    let state = DeadManState::Confirmed { by: by.clone(), at };
    let dead_man = run.dead_man.as_ref().map(|switch| DeadMan { due: switch.due, state });
    Run { dead_man, ..run.clone() }
}

/// What takes a plan back already, among all that were applied. One that failed does not, nor one that somebody asked for
/// and that waits: it may wait for long, and be cancelled.
pub fn undo_of<'a>(plan: &PlanId, applied: impl Iterator<Item = (&'a PlanRecord, &'a Run)>) -> Option<Undo> {
    let done = |run: &Run| matches!(run.state, RunState::Done { .. });
    let waits = |run: &Run| matches!(run.state, RunState::Waiting { .. });
    let counts = |record: &PlanRecord, run: &Run| {
        done(run) || (!run.state.is_over() && (record.request.is_none() || !waits(run)))
    };
    applied
        .filter(|(record, run)| undoes(&record.plan.intent, plan) && counts(record, run))
        .max_by_key(|(_, run)| done(run))
        .map(|(record, run)| Undo { plan: record.plan.id.clone(), is_done: done(run) })
}

/// The run, which ended before anything of it was done: there is nothing to take back.
pub fn disarm(run: &mut Run) {
    if let Some(switch) = run.dead_man.as_mut().filter(|switch| switch.state == DeadManState::Armed {}) {
        switch.state = DeadManState::Disarmed {};
    }
}

fn undoes(intent: &Intent, plan: &PlanId) -> bool {
    if let Intent::All { of } = intent {
        return of.iter().any(|one| undoes(one, plan));
    }
    matches!(intent, Intent::Undo { plan: of } | Intent::LabUp { plan: Some(of) } if of == plan)
}

/// Why a run's work is no longer there to be taken back. That a guest runs or not tells nothing: it may have stopped
/// because of what the run did.
pub fn changed_since(plan: &Plan, run: &Run, sight: &Sight) -> Option<Refusal> {
    let RunState::Done { .. } = run.state else { return None };
    let left = plan.expects.iter().filter(|fact| !matches!(fact, Fact::Status { .. }));
    left.into_iter().find_map(|fact| {
        let Holds::No { found } = holds(fact, sight) else { return None };
        let message = format!("it is not any more as {} left it: {}, but {found}", plan.id, sentence(fact));
        Some(Refusal::new(RefusalCode::NotPossible, message, "Look at it, and plan what is wanted."))
    })
}

/// Whether a refusal to take a run back is the last word: no later try can change it. What is not possible only because
/// of what a guest is like now (it is paused, it lies on a node that lacks its storage) may be so later, so that is not.
pub fn is_final(refusal: &Refusal) -> bool {
    use RefusalCode::{NotPossible, NothingToDo, OtherGuest, UnknownGuest};
    let passes = || refusal.details.contains_key(STATUS);
    matches!(refusal.code, NothingToDo | OtherGuest | UnknownGuest)
        || (refusal.code == NotPossible && !passes())
}
