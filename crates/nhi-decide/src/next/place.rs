//! Where a run stands, from its plan and its journal alone.

use nhi_model::{
    Timestamp,
    plan::{Ends, OnFailure, Plan, Step},
    run::{Entry, Leg, Mark, Run, RunState, TaskExit},
};

/// Where a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// In or before this step.
    Step(At<'a>),
    /// All steps are done.
    Verify,
    /// There is nothing more to do.
    End(RunState),
}

/// A step that is not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<'a> {
    pub(super) leg: Leg,
    pub(super) index: usize,
    pub(super) step: &'a Step,
    pub(super) stage: Stage<'a>,
    /// On the way back: the step that this takes back failed half way, so perhaps there is nothing to take back.
    pub(super) half_way: bool,
}

/// How far a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage<'a> {
    /// Nothing that counts was sent: so many tries were proved not to be taken.
    Fresh { tries: u32 },
    /// The call was to be sent, and nobody knows whether it was taken.
    Lost { attempt: u32, begun: Timestamp },
    /// Proxmox refused this try.
    Refused { attempt: u32, status: u16, text: &'a str },
    /// Its task is followed.
    Follows { upid: &'a str },
    /// Proxmox said that it is done.
    Answered,
    /// Its task ended otherwise than well.
    EndedBadly { exit: &'a TaskExit, upid: &'a str },
    /// It is done.
    Done { ours: bool },
    /// It failed.
    Failed { code: &'a str, text: &'a str },
    /// Nobody can tell.
    Unknown { text: &'a str },
}

/// The stage of one step, from its lines. What closes a step closes it for good.
fn stage<'a>(journal: &'a [Entry], leg: Leg, index: usize, step: &Step) -> Stage<'a> {
    let mut stage = Stage::Fresh { tries: 0 };
    let (mut tries, mut taken, mut begun) = (0, false, Timestamp::MIN);
    let mut task = "";
    for entry in journal.iter().filter(|entry| entry.leg == leg && entry.step == index) {
        stage = match &entry.mark {
            Mark::Begun { attempt } => {
                (tries, begun) = ((*attempt).max(tries), entry.at);
                Stage::Lost { attempt: tries, begun }
            }
            Mark::AnswerLost { .. } => Stage::Lost { attempt: tries, begun },
            Mark::Sent { upid: None } => {
                taken = true;
                Stage::Answered
            }
            Mark::Sent { upid: Some(upid) } | Mark::Adopted { upid } => {
                (taken, task) = (true, upid.as_str());
                Stage::Follows { upid }
            }
            Mark::Refused { status, text } => Stage::Refused { attempt: tries, status: *status, text },
            Mark::NotTaken {} => Stage::Fresh { tries },
            Mark::Ended { exit: TaskExit::Ok {} | TaskExit::Warnings { .. } } => Stage::Answered,
            Mark::Ended { exit } => Stage::EndedBadly { exit, upid: task },
            // A call that ends with its answer leaves no task to prove whose the effect is.
            Mark::Seen {} => {
                return Stage::Done { ours: taken || (tries > 0 && step.ends == Ends::Answer {}) };
            }
            Mark::AlreadySo {} => return Stage::Done { ours: false },
            Mark::Failed { code, text } => return Stage::Failed { code, text },
            Mark::Unknown { text } => return Stage::Unknown { text },
        };
    }
    stage
}

pub(super) fn place<'a>(plan: &'a Plan, journal: &'a [Entry]) -> Place<'a> {
    for (index, step) in plan.steps.iter().enumerate() {
        match stage(journal, Leg::Forward, index, step) {
            Stage::Done { .. } => {}
            Stage::Unknown { text } => {
                return Place::End(RunState::NeedsHuman { text: sentence(plan, index, text) });
            }
            Stage::Failed { code, text } => return back(plan, journal, index, code, text),
            open @ (Stage::Fresh { .. }
            | Stage::Lost { .. }
            | Stage::Refused { .. }
            | Stage::Follows { .. }
            | Stage::Answered
            | Stage::EndedBadly { .. }) => {
                let leg = Leg::Forward;
                return Place::Step(At { leg, index, step, stage: open, half_way: false });
            }
        }
    }
    Place::Verify
}

/// A step failed: what was done is taken back, the last one first, when the plan says so.
fn back<'a>(plan: &'a Plan, journal: &'a [Entry], failed: usize, code: &str, text: &str) -> Place<'a> {
    let failure = sentence(plan, failed, text);
    if plan.on_failure == OnFailure::Stop {
        return Place::End(RunState::Failed { text: failure });
    }
    let half_way = matches!(code, TASK_FAILED | NOT_AS_EXPECTED);
    let (mut taken_back, mut stays) = (0, Vec::new());
    for (index, step) in plan.steps.iter().enumerate().take(failed + 1).rev() {
        let done = stage(journal, Leg::Forward, index, step) == Stage::Done { ours: true };
        let may_be_left = done || index == failed && half_way;
        if !may_be_left {
            continue;
        }
        let Some(undo) = &step.compensation else {
            if done {
                stays.push(step.what.as_str());
            }
            continue;
        };
        match stage(journal, Leg::Back, index, undo) {
            // A step that failed half way and had left nothing is not taken back by finding that.
            Stage::Done { ours } => taken_back += usize::from(done || ours),
            Stage::Failed { text, .. } | Stage::Unknown { text } => {
                let text = format!("{failure}. Taking it back stopped at \"{}\": {text}", undo.what);
                return Place::End(RunState::NeedsHuman { text });
            }
            open @ (Stage::Fresh { .. }
            | Stage::Lost { .. }
            | Stage::Refused { .. }
            | Stage::Follows { .. }
            | Stage::Answered
            | Stage::EndedBadly { .. }) => {
                let (leg, half_way) = (Leg::Back, index == failed);
                return Place::Step(At { leg, index, step: undo, stage: open, half_way });
            }
        }
    }
    let text = if stays.is_empty() { failure } else { format!("{failure}. It stays: {}", stays.join("; ")) };
    let state = if taken_back > 0 { RunState::Compensated { text } } else { RunState::Failed { text } };
    Place::End(state)
}

/// Codes of [`Mark::Failed`].
pub(super) const PRECONDITION: &str = "precondition";
pub(super) const REFUSED: &str = "refused";
pub(super) const TASK_FAILED: &str = "task-failed";
pub(super) const NOT_AS_EXPECTED: &str = "not-as-expected";
pub(super) const NOT_TAKEN: &str = "not-taken";

fn sentence(plan: &Plan, index: usize, text: &str) -> String {
    let what = plan.steps.get(index).map_or("", |step| step.what.as_str());
    format!("step {} of {} (\"{what}\"): {text}", index + 1, plan.steps.len())
}

/// The state a run that is not over is in, from its journal.
pub fn phase(plan: &Plan, journal: &[Entry]) -> RunState {
    match place(plan, journal) {
        Place::Step(At { leg: Leg::Forward, .. }) => RunState::Running {},
        Place::Step(At { leg: Leg::Back, .. }) => RunState::Compensating {},
        Place::Verify => RunState::Verifying {},
        Place::End(_) if journal.iter().any(|entry| entry.leg == Leg::Back) => RunState::Compensating {},
        Place::End(_) => RunState::Running {},
    }
}

/// Whether no call of a run was taken: each that was to leave is known not to have been.
pub fn is_untouched(journal: &[Entry]) -> bool {
    let mut lines = journal.iter().map(|entry| &entry.mark);
    while let Some(mark) = lines.next() {
        if matches!(mark, Mark::Begun { .. }) && lines.next() != Some(&Mark::NotTaken {}) {
            return false;
        }
    }
    true
}

/// The step a run is in the middle of: its call was perhaps sent, and it is not closed. Its node is taken until then.
pub fn in_hand<'a>(plan: &'a Plan, run: &'a Run) -> Option<&'a Step> {
    match place(plan, &run.journal) {
        Place::Step(At { stage: Stage::Fresh { .. }, .. }) | Place::Verify | Place::End(_) => None,
        Place::Step(at) => Some(at.step),
    }
}

/// What a run has done to the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effects {
    /// Nothing: no call was taken.
    None,
    /// Something was, and all of it was taken back.
    TakenBack,
    /// Something was, or may have been.
    Some,
}

/// What a run has done to the lab, by its journal.
pub fn effects(plan: &Plan, journal: &[Entry]) -> Effects {
    let mut effects = Effects::None;
    for (index, step) in plan.steps.iter().enumerate() {
        match stage(journal, Leg::Forward, index, step) {
            Stage::Fresh { .. } | Stage::Refused { .. } | Stage::Done { ours: false } => continue,
            Stage::Failed { code, .. } if !matches!(code, TASK_FAILED | NOT_AS_EXPECTED) => continue,
            Stage::Failed { .. } | Stage::Done { ours: true } => {}
            Stage::Lost { .. }
            | Stage::Follows { .. }
            | Stage::Answered
            | Stage::EndedBadly { .. }
            | Stage::Unknown { .. } => return Effects::Some,
        }
        match step.compensation.as_deref().map(|undo| stage(journal, Leg::Back, index, undo)) {
            Some(Stage::Done { .. }) => effects = Effects::TakenBack,
            Some(_) | None => return Effects::Some,
        }
    }
    effects
}
