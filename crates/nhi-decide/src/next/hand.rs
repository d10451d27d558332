//! The step a run has in hand: what to ask, what to send, and what follows from the answers.

use super::{
    Found, Next, Pace, TaskNow, after,
    place::{At, NOT_AS_EXPECTED, NOT_TAKEN, PRECONDITION, REFUSED, Stage, TASK_FAILED, is_untouched},
    wait,
};
use crate::{
    clean,
    fact::{Holds, holds, sentence},
    sight::Sight,
};
use nhi_model::{
    Timestamp,
    fact::Fact,
    plan::{Ends, Plan, Repeat, Step},
    run::{Entry, Mark, TaskExit},
};
use std::{collections::BTreeSet, time::Duration};

/// Tries of one call: the second one only when the first was proved not to be taken.
const TRIES_MAX: u32 = 2;
/// How long a task may take that a call starts although it usually ends with its answer.
const UNEXPECTED_TASK_SECONDS_MAX: u32 = 600;

pub(super) struct Hand<'a> {
    pub(super) plan: &'a Plan,
    pub(super) journal: &'a [Entry],
    pub(super) at: At<'a>,
    pub(super) found: &'a Found<'a>,
    pub(super) pace: &'a Pace,
    pub(super) now: Timestamp,
}

/// Whether several facts hold.
enum All {
    Yes,
    /// This one does not.
    No(String),
    /// None is known not to, and this one cannot be told.
    Unknown(String),
}

impl All {
    const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

fn all(facts: &[Fact], sight: &Sight) -> All {
    let mut unknown = None;
    for fact in facts {
        match holds(fact, sight) {
            Holds::Yes => {}
            Holds::No { found } => return All::No(format!("not so: {} ({found})", sentence(fact))),
            Holds::Unknown { why } => {
                unknown.get_or_insert_with(|| format!("it cannot be told whether {}: {why}", sentence(fact)));
            }
        }
    }
    unknown.map_or(All::Yes, All::Unknown)
}

impl Hand<'_> {
    pub(super) fn next(&self) -> Next {
        match &self.at.stage {
            Stage::Fresh { tries } if *tries >= TRIES_MAX => {
                self.failed(NOT_TAKEN, format!("Proxmox did not take the call, {tries} times"))
            }
            Stage::Fresh { tries } => self.send(*tries),
            Stage::Lost { attempt, begun } => self.lost(*attempt, *begun),
            Stage::Refused { attempt, status, text } => self.refused(*attempt, *status, text),
            Stage::Follows { upid } => self.follow(upid),
            Stage::Answered => self.read_back(),
            Stage::EndedBadly { exit, upid } => self.ended_badly(exit, upid),
            Stage::Done { .. } | Stage::Failed { .. } | Stage::Unknown { .. } => {
                unreachable!("a step that is closed is in nobody's hand")
            }
        }
    }

    fn step(&self) -> &Step {
        self.at.step
    }

    /// Before the call: what was seen just now decides.
    fn send(&self, tries: u32) -> Next {
        let Some(sight) = self.found.sight else { return self.look() };
        let first = is_untouched(self.journal);
        if first {
            match all(&self.plan.requires, sight) {
                All::Yes => {}
                All::No(why) => return self.not_so(tries, Duration::ZERO, why),
                All::Unknown(why) => return self.failed_after(self.pace.patience, PRECONDITION, why),
            }
        }
        if self.at.half_way && self.is_as_before_the_failure(sight) {
            return self.journal(Mark::AlreadySo {});
        }
        if self.step().repeat == Repeat::Harmless && self.shows(sight) {
            return self.journal(Mark::AlreadySo {});
        }
        match all(&self.step().before, sight) {
            All::Yes => Next::Send { leg: self.at.leg, step: self.at.index, attempt: tries + 1 },
            All::No(why) if first => self.not_so(tries, Duration::ZERO, why),
            // The end of the step before may take a moment to show: its lock stays for seconds.
            All::No(why) => self.not_so(tries, self.pace.read_back, why),
            All::Unknown(why) => self.failed_after(self.pace.patience, PRECONDITION, why),
        }
    }

    /// What must hold before the call does not. After a try this may be that one's work, come late: then it is not said
    /// that nothing was done.
    fn not_so(&self, tries: u32, most: Duration, why: String) -> Next {
        if tries == 0 {
            return self.failed_after(most, PRECONDITION, why);
        }
        self.unknown_after(most, format!("try {tries} was not taken, and then it was {why}"))
    }

    /// Whether the step that failed half way left the guest as it was, so that there is nothing to take back.
    fn is_as_before_the_failure(&self, sight: &Sight) -> bool {
        let failed = &self.plan.steps[self.at.index];
        telling(failed).next().is_some()
            && all(&failed.before, sight).is_yes()
            && matches!(all(&failed.after, sight), All::No(_))
    }

    /// The answer was lost, or whoever waited for it died.
    fn lost(&self, attempt: u32, begun: Timestamp) -> Next {
        let over = after(self.found.since, self.settle());
        if let Ends::Task { kinds, vmid, .. } = &self.step().ends {
            let since = begun.checked_sub(self.pace.clock_skew).unwrap_or(Timestamp::MIN);
            let search = Next::Search { node: self.step().node.clone(), vmid: *vmid, since };
            let Some(asked) = self.found.tasks else { return search };
            let rows = match &asked.answer {
                Ok(rows) => rows,
                Err(why) => {
                    let why = format!("the task list could not be read ({why})");
                    return self.unknown_after(self.settle() + self.pace.patience, why);
                }
            };
            let known: BTreeSet<&str> = self.journal.iter().filter_map(|entry| upid(&entry.mark)).collect();
            let mut ours = rows.iter().filter(|row| {
                row.ours
                    && row.vmid == Some(*vmid)
                    && kinds.contains(&row.kind)
                    && row.started >= since
                    && !known.contains(row.upid.as_str())
            });
            match (ours.next(), ours.next()) {
                (Some(row), None) => return self.journal(Mark::Adopted { upid: row.upid.clone() }),
                (Some(one), Some(other)) => {
                    let which = format!("both {} and {} may be its task", one.upid, other.upid);
                    return self.unknown(which);
                }
                (None, _) if asked.at < over => return wait(self.now, over, self.pace),
                (None, _) => {}
            }
        } else if self.now < over {
            return wait(self.now, over, self.pace);
        }
        match self.found.sight {
            Some(sight) if sight.at >= over => self.nobody_took(attempt, sight),
            Some(_) | None => self.look(),
        }
    }

    /// The call's last moment is past and no task of it is there: the guest has to say the same.
    fn nobody_took(&self, attempt: u32, sight: &Sight) -> Next {
        let step = self.step();
        if step.repeat == Repeat::Harmless && self.shows(sight) {
            return self.journal(Mark::Seen {});
        }
        // Where the outcome looks like the beginning (a reboot), the task list alone is the proof, and there has to be
        // one.
        let tells = telling(step).next().is_some();
        let is_proved = tells || step.repeat == Repeat::Harmless || step.ends != Ends::Answer {};
        match (all(&step.before, sight), all(&step.after, sight)) {
            (All::Unknown(why), _) | (All::Yes, All::Unknown(why)) => {
                self.unknown_after(self.settle() + self.pace.patience, why)
            }
            (All::Yes, All::No(_)) => self.journal(Mark::NotTaken {}),
            (All::Yes, All::Yes) if !tells && is_proved => self.journal(Mark::NotTaken {}),
            (All::Yes, All::Yes) => self.unknown(format!(
                "the answer to try {attempt} was lost, and what it was to bring is there without a trace of it"
            )),
            (All::No(why), _) => self.unknown(format!(
                "the answer to try {attempt} was lost, no task of it is there, and the guest is not as before: {why}"
            )),
        }
    }

    /// Nothing happened, unless the try before came late.
    fn refused(&self, attempt: u32, status: u16, text: &str) -> Next {
        let said = format!("Proxmox refused it with {status}: {text}");
        if attempt < 2 {
            return self.failed(REFUSED, said);
        }
        let Some(sight) = self.found.sight else { return self.look() };
        if self.step().repeat == Repeat::Harmless && self.shows(sight) {
            return self.journal(Mark::Seen {});
        }
        match all(&self.step().before, sight) {
            All::Yes => self.failed(REFUSED, said),
            All::Unknown(why) => self.unknown_after(self.pace.patience, format!("{said}; {why}")),
            All::No(why) => self.unknown(format!("{said}, and the guest is not as before: {why}")),
        }
    }

    fn follow(&self, upid: &str) -> Next {
        let Some(asked) = self.found.task else { return Next::Follow { upid: upid.to_owned() } };
        let seconds_max = match &self.step().ends {
            Ends::Task { seconds_max, .. } => *seconds_max,
            Ends::Answer {} => UNEXPECTED_TASK_SECONDS_MAX,
        };
        let most = Duration::from_secs(seconds_max.into());
        let over = after(self.found.since, most);
        match &asked.answer {
            Ok(TaskNow::Ended(exit)) => self.journal(Mark::Ended { exit: exit.clone() }),
            Ok(TaskNow::Running) if asked.at >= over => {
                self.journal(Mark::Ended { exit: TaskExit::Endless {} })
            }
            Ok(TaskNow::Running) => wait(self.now, over, self.pace),
            Err(why) => {
                let why = format!("Proxmox does not tell how task {upid} is ({why})");
                self.unknown_after(most + self.pace.patience, why)
            }
        }
    }

    /// Proxmox says that it is done; the guest has to show it.
    fn read_back(&self) -> Next {
        let Some(sight) = self.found.sight else { return self.look() };
        match all(&self.step().after, sight) {
            All::Yes => self.journal(Mark::Seen {}),
            All::No(why) => {
                let text = format!("Proxmox says that it is done, and it is {why}");
                self.failed_after(self.shows_within(), NOT_AS_EXPECTED, text)
            }
            All::Unknown(why) => self.unknown_after(self.shows_within() + self.pace.patience, why),
        }
    }

    /// A task that failed may have done all of its work, a part, or nothing.
    fn ended_badly(&self, exit: &TaskExit, upid: &str) -> Next {
        let (said, is_verdict) = match exit {
            TaskExit::Endless {} => return self.unknown(format!("task {upid} does not end")),
            TaskExit::Error { text } => (format!("its task ended with: {text}"), true),
            TaskExit::Unexpected {} => ("its task was killed (unexpected status)".to_owned(), false),
            TaskExit::Ok {} | TaskExit::Warnings { .. } => return self.read_back(),
        };
        let Some(sight) = self.found.sight else { return self.look() };
        let before = all(&self.step().before, sight);
        if self.shows(sight) && (self.step().repeat == Repeat::Harmless || !before.is_yes()) {
            return self.journal(Mark::Seen {});
        }
        let tells = telling(self.step()).next().is_some();
        let outcome = all(&self.step().after, sight);
        match (before, outcome) {
            (All::Unknown(why), _) | (_, All::Unknown(why)) => {
                self.unknown_after(self.shows_within() + self.pace.patience, format!("{said}; {why}"))
            }
            (All::Yes, _) if is_verdict => {
                self.failed(TASK_FAILED, format!("{said}; the guest is as before"))
            }
            (All::Yes, _) if tells => {
                self.failed_after(self.shows_within(), TASK_FAILED, format!("{said}; the guest is as before"))
            }
            (All::No(why), _) if is_verdict => {
                self.failed_after(self.shows_within(), TASK_FAILED, format!("{said}; it is {why}"))
            }
            (All::Yes | All::No(_), _) => self.unknown_after(self.shows_within(), said),
        }
    }

    /// Whether the guest shows what the step brings, and that is more than was so before.
    fn shows(&self, sight: &Sight) -> bool {
        telling(self.step()).next().is_some() && all(&self.step().after, sight).is_yes()
    }

    fn settle(&self) -> Duration {
        match self.step().repeat {
            Repeat::Harmless => self.pace.settle_harmless,
            Repeat::Harmful => self.pace.settle_harmful,
        }
    }

    fn shows_within(&self) -> Duration {
        Duration::from_secs(self.step().settle_s.into()).max(self.pace.read_back)
    }

    fn look(&self) -> Next {
        let (step, failed) = (self.step(), &self.plan.steps[self.at.index]);
        let mut facts: Vec<&Fact> = step.before.iter().chain(&step.after).collect();
        if self.at.half_way {
            facts.extend(failed.before.iter().chain(&failed.after));
        }
        if is_untouched(self.journal) {
            facts.extend(&self.plan.requires);
        }
        let about = facts.into_iter().filter_map(Fact::guest).cloned();
        Next::Look(about.chain([step.guest.clone()]).collect())
    }

    fn journal(&self, mark: Mark) -> Next {
        Next::Journal { leg: self.at.leg, step: self.at.index, mark }
    }

    fn failed(&self, code: &str, text: String) -> Next {
        self.journal(Mark::Failed {
            code: code.to_owned(),
            text: clean::text(&text, clean::REASON_CHARS_MAX),
        })
    }

    fn unknown(&self, text: String) -> Next {
        let (step, task) = (self.step(), self.journal.iter().rev().find_map(|entry| self.task(entry)));
        let task = task.map(|upid| format!("task {upid}, ")).unwrap_or_default();
        let mut text = clean::text(&text, clean::REASON_CHARS_MAX);
        text.push_str(&format!(
            ". The outcome is unknown; look at {task}node {} and guest {}",
            step.node, step.guest
        ));
        self.journal(Mark::Unknown { text })
    }

    fn task<'e>(&self, entry: &'e Entry) -> Option<&'e str> {
        let mine = entry.leg == self.at.leg && entry.step == self.at.index;
        upid(&entry.mark).filter(|_| mine)
    }

    /// Waits so long for it to be otherwise.
    fn failed_after(&self, most: Duration, code: &str, text: String) -> Next {
        let over = after(self.found.since, most);
        if self.now < over { wait(self.now, over, self.pace) } else { self.failed(code, text) }
    }

    fn unknown_after(&self, most: Duration, text: String) -> Next {
        let over = after(self.found.since, most);
        if self.now < over { wait(self.now, over, self.pace) } else { self.unknown(text) }
    }
}

/// What a step brings that was not demanded before it: only that tells whether it was done.
fn telling(step: &Step) -> impl Iterator<Item = &Fact> {
    step.after.iter().filter(|fact| !step.before.contains(fact))
}

fn upid(mark: &Mark) -> Option<&str> {
    match mark {
        Mark::Sent { upid: Some(upid) } | Mark::Adopted { upid } => Some(upid),
        Mark::Sent { upid: None }
        | Mark::Begun { .. }
        | Mark::Refused { .. }
        | Mark::AnswerLost { .. }
        | Mark::NotTaken {}
        | Mark::Ended { .. }
        | Mark::Seen {}
        | Mark::AlreadySo {}
        | Mark::Failed { .. }
        | Mark::Unknown { .. } => None,
    }
}
