//! What a run does next, from its plan, its journal and what was found out since the journal's last line.
//!
//! It neither sends nor writes: it says exactly one thing to do, and whoever does it comes back with what came of it.
//! All that must survive a crash is in the journal; [`Found`] may be forgotten at any time, which costs a question.
//!
//! Rules:
//! - a call leaves only after [`Mark::Begun`] is written, and only when what must hold before it was just seen;
//! - a call whose answer was lost is not repeated until the node's task list and the guest both say, after the call's
//!   last possible moment, that it was not taken; and then once;
//! - a step is done when what it brings was seen, not when somebody said so;
//! - what cannot be told ends in [`RunState::NeedsHuman`], never in a guess.

mod hand;
mod place;

pub use self::place::{Effects, effects, in_hand, is_untouched, phase};

use self::{
    hand::Hand,
    place::{Place, place},
};
use crate::{clean, sight::Sight, verify::Verified};
use nhi_model::{
    Timestamp,
    key::Key,
    plan::Plan,
    run::{Leg, Mark, Run, RunState, TaskExit},
};
use std::{collections::BTreeSet, time::Duration};

/// How long things may take. All waits count from [`Found::since`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pause between two questions about the same thing.
    pub poll: Duration,
    /// After this a call whose answer was lost has been taken or never will be, where a second one does no harm.
    pub settle_harmless: Duration,
    /// The same where it does: longer than anything between us and the worker keeps a request.
    pub settle_harmful: Duration,
    /// How far a node's clock may be behind ours when its task list is searched.
    pub clock_skew: Duration,
    /// How long an effect may take to show after its task's end, at least: locks stay for seconds.
    pub read_back: Duration,
    /// How long something that cannot be told is asked for.
    pub patience: Duration,
    /// How long the scanner may take to see the outcome.
    pub verify: Duration,
}

impl Pace {
    /// The real one.
    pub const REAL: Self = Self {
        poll: Duration::from_millis(500),
        settle_harmless: Duration::from_secs(5),
        settle_harmful: Duration::from_secs(35),
        clock_skew: Duration::from_secs(60),
        read_back: Duration::from_secs(10),
        patience: Duration::from_secs(180),
        verify: Duration::from_secs(300),
    };
}

/// What was found out since the journal's last line. All of it is forgotten when a line is written or a wait is over.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// When who asks learned the journal's last line, by its own clock: never earlier than that line, whatever the
    /// clock of an actuator that died.
    pub since: Timestamp,
    /// The guests, live.
    pub sight: Option<&'a Sight>,
    /// The task that is followed.
    pub task: Option<&'a Asked<TaskNow>>,
    /// The node's task list.
    pub tasks: Option<&'a Asked<Vec<TaskRow>>>,
    /// What the scanner's records say, and their revision. Only records newer than the last step.
    pub verified: Option<(&'a Verified, u64)>,
}

impl Found<'_> {
    /// Nothing yet.
    pub const fn nothing(since: Timestamp) -> Self {
        Self { since, sight: None, task: None, tasks: None, verified: None }
    }
}

/// An answer of Proxmox, and when it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked<T> {
    /// When the question left.
    pub at: Timestamp,
    /// The answer, or why there is none, one sentence.
    pub answer: Result<T, String>,
}

/// How a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskNow {
    /// It goes on.
    Running,
    /// It ended.
    Ended(TaskExit),
}

/// A task in a node's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRow {
    /// Its id.
    pub upid: String,
    /// `qmstart`, `vzdump`, …
    pub kind: String,
    /// The guest it is about, where it is about one.
    pub vmid: Option<u32>,
    /// When it began, by the node's clock, UTC.
    pub started: Timestamp,
    /// Whether our token began it, and no other run's journal has it.
    pub ours: bool,
}

/// The one thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at these guests, their nodes and the cluster.
    Look(BTreeSet<Key>),
    /// Write a line.
    Journal {
        /// Which way.
        leg: Leg,
        /// Which step.
        step: usize,
        /// What.
        mark: Mark,
    },
    /// Write [`Mark::Begun`], send the step's call once, and write what came of it: [`Mark::Sent`], [`Mark::Refused`],
    /// [`Mark::AnswerLost`], or [`Mark::NotTaken`] when it never left.
    Send {
        /// Which way.
        leg: Leg,
        /// Which step.
        step: usize,
        /// Which try, from 1.
        attempt: u32,
    },
    /// Ask for this task.
    Follow {
        /// It.
        upid: String,
    },
    /// Read a node's task list.
    Search {
        /// The node.
        node: String,
        /// The guest its tasks are about.
        vmid: u32,
        /// Tasks that began at or after this.
        since: Timestamp,
    },
    /// Nothing before this moment; then ask again with nothing found.
    Wait {
        /// When.
        until: Timestamp,
    },
    /// Have the scanner look, and hold its records against what the plan expects.
    Verify,
    /// It is over.
    End(RunState),
    /// It was over.
    Over,
}

/// What to do next.
pub fn next(plan: &Plan, run: &Run, found: &Found<'_>, pace: &Pace, now: Timestamp) -> Next {
    if run.state.is_over() {
        return Next::Over;
    }
    match place(plan, &run.journal) {
        Place::End(state) => Next::End(state),
        Place::Verify => verified(found, pace, now),
        Place::Step(at) => Hand { plan, journal: &run.journal, at, found, pace, now }.next(),
    }
}

fn verified(found: &Found<'_>, pace: &Pace, now: Timestamp) -> Next {
    let Some((verified, revision)) = found.verified else { return Next::Verify };
    let over = after(found.since, pace.verify);
    match verified {
        Verified::Done => Next::End(RunState::Done { revision }),
        Verified::NotYet { .. } | Verified::Diverged { .. } if now < over => wait(now, over, pace),
        Verified::NotYet { unseen } => Next::End(RunState::NeedsHuman {
            text: format!(
                "every step was done and read back, and the scanner has not shown {} of what was expected; look at the \
                 scanner (nhi status) and at the guests",
                unseen.len()
            ),
        }),
        Verified::Diverged { differences, .. } => Next::End(RunState::Failed {
            text: format!(
                "every step was done and read back, and the scanner sees otherwise: {}",
                differences.join("; ")
            ),
        }),
    }
}

fn wait(now: Timestamp, until: Timestamp, pace: &Pace) -> Next {
    Next::Wait { until: after(now, pace.poll).min(until) }
}

fn after(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// How a task ended, from Proxmox's text.
pub fn exit(text: &str) -> TaskExit {
    if text == "OK" {
        return TaskExit::Ok {};
    }
    // Proxmox says nothing of a task whose end it has not written down.
    if matches!(text, "unexpected status" | "") {
        return TaskExit::Unexpected {};
    }
    match text.strip_prefix("WARNINGS: ") {
        Some(count) => TaskExit::Warnings { count: count.parse().unwrap_or(1) },
        None => TaskExit::Error { text: clean::text(text, clean::REASON_CHARS_MAX) },
    }
}

#[cfg(test)]
mod tests;
