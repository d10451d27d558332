//! The questions a run asks: of Proxmox, with the actuator's token, and of the scanner's records.

use super::{House, carry::Carrier};
use crate::look::{Wanted, look};
use nhi_bus::call::{Call, Timeout};
use nhi_decide::{
    clean,
    next::{self, Asked, TaskNow, TaskRow},
    sight::Sight,
    verify::{Verified, verify},
};
use nhi_model::{
    Timestamp,
    call::{ScanDone, ScanNow},
    fact::Fact,
    key::Key,
    plan::Plan,
    run::{Mark, RunId, TaskExit},
};
use nhi_pve::{Accepted, Kind, Operator, PveError, SendError, Upid, Write, WriteMethod};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// Longest text of Proxmox that is kept, characters.
const TEXT_CHARS_MAX: usize = 500;
/// How long the view may take to show what the scanner wrote.
const SHOWN: Duration = Duration::from_secs(10);
/// Pauses between two passes that one run asks the scanner for, the first and the longest.
const PASSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

impl Carrier {
    /// Looks at guests, live.
    pub(super) async fn look(&self, operator: &Operator, guests: BTreeSet<Key>) -> Sight {
        let plan = &self.journal.plan;
        let last = |key: &Key| {
            let target = plan.targets.iter().find(|target| target.guest == *key);
            target.map(|target| target.node.clone())
        };
        let backups = guests.iter().filter(|key| wants_backups(plan, key)).cloned().collect();
        let guests = guests.into_iter().map(|key| (key.clone(), last(&key))).collect();
        let wanted = Wanted { guests, backups, ..Wanted::default() };
        look(operator.reader(), &plan.cluster, &wanted, self.journal.clock.now()).await
    }

    /// How a task is.
    pub(super) async fn task(&self, operator: &Operator, upid: &str) -> Asked<TaskNow> {
        let at = self.journal.clock.now();
        let Ok(upid) = upid.parse::<Upid>() else {
            return Asked { at, answer: Err("its id is none".to_owned()) };
        };
        let answer = match operator.task(&upid).await {
            Ok(nhi_pve::TaskNow::Running) => Ok(TaskNow::Running),
            Ok(nhi_pve::TaskNow::Ended(text)) => Ok(TaskNow::Ended(next::exit(&text))),
            // Its node forgot it: how it ended is not known from it.
            Err(error) if *error.kind() == Kind::InvalidParameter => {
                Ok(TaskNow::Ended(TaskExit::Unexpected {}))
            }
            Err(error) => Err(error.text().to_owned()),
        };
        Asked { at, answer }
    }

    /// A node's tasks about a guest, with their times by our clock.
    pub(super) async fn tasks(
        &self,
        operator: &Operator,
        node: &str,
        vmid: u32,
        since: Timestamp,
    ) -> Asked<Vec<TaskRow>> {
        let at = self.journal.clock.now();
        let ahead_s = match operator.reader().node_clock(node).await {
            Ok(seconds) => i64::try_from(seconds).unwrap_or(0) - at.as_second(),
            Err(error) => {
                tracing::debug!(agent = "act", node, err = %error, "node's clock not read, taken for ours");
                0
            }
        };
        let since_s = u64::try_from(since.as_second() + ahead_s).unwrap_or(0);
        let answer = match operator.tasks_since(node, vmid, since_s).await {
            Ok(rows) if rows.unreadable > 0 => Err(format!("{} of its rows cannot be read", rows.unreadable)),
            Ok(rows) => {
                let known = self.house.tasks_of_others(&self.journal.run().id);
                let row = |row: nhi_pve::node::Task| {
                    let upid: Option<Upid> = row.upid.parse().ok();
                    let started_s = i64::try_from(row.starttime).unwrap_or(i64::MAX) - ahead_s;
                    TaskRow {
                        kind: row.kind,
                        vmid: upid.as_ref().and_then(Upid::vmid),
                        started: Timestamp::from_second(started_s).unwrap_or(Timestamp::MAX),
                        ours: upid.is_some_and(|upid| upid.user == operator.token())
                            && !known.contains(&row.upid),
                        upid: row.upid,
                    }
                };
                Ok(rows.into_iter().map(row).collect())
            }
            Err(error) => Err(error.text().to_owned()),
        };
        Asked { at, answer }
    }

    /// What the scanner's records say, after a pass that began when the last step was over.
    pub(super) async fn verified(&mut self) -> Option<(Verified, u64)> {
        let last = self.journal.run().journal.last().map(|entry| entry.at);
        if self.pass_due.is_none_or(|due| due <= Instant::now()) {
            let pause = self.pass_pause.unwrap_or(PASSES.0);
            self.pass_due = Some(Instant::now() + pause);
            self.pass_pause = Some((pause * 2).min(PASSES.1));
            let done = match self.house.scan_now().await {
                Ok(done) => done,
                Err(error) => {
                    tracing::warn!(agent = "act", err = %error, "scanner does not look");
                    return None;
                }
            };
            let began = self.journal.clock.now() - Duration::from_millis(done.duration_ms);
            if last.is_some_and(|last| began < last) {
                // It joined a pass that was under way: the next one is ours.
                self.pass_due = None;
                self.pass_pause = Some(pause);
            } else {
                self.seen_from = Some(done.revision);
            }
            drop(tokio::time::timeout(SHOWN, self.house.state_has(done.revision)).await);
        }
        let state = self.house.view.read();
        let seen_from = self.seen_from?;
        if state.stale.is_some() || state.revision < seen_from {
            return None;
        }
        let plan = &self.journal.plan;
        let about: BTreeSet<&Key> = plan.expects.iter().filter_map(Fact::guest).collect();
        let records = state
            .records
            .iter()
            .filter(|(key, _)| about.contains(key) || key.section() == nhi_model::key::Section::Node);
        let sight = Sight::of_records(&plan.cluster, self.journal.clock.now(), &crate::lab::known(records));
        Some((verify(plan, &sight), state.revision))
    }
}

impl House {
    /// Tasks that stand in the journals of other runs.
    fn tasks_of_others(&self, mine: &RunId) -> BTreeSet<String> {
        let kept = self.plans.read();
        let runs = kept.runs.iter().filter(|(id, _)| *id != mine);
        runs.flat_map(|(_, row)| row.value.journal.iter().filter_map(|entry| task_of(&entry.mark).cloned()))
            .collect()
    }

    /// Waits until the view has a revision.
    async fn state_has(&self, revision: u64) {
        let mut changed = self.view.changed();
        while self.view.read().revision < revision {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    async fn scan_now(&self) -> Result<ScanDone, nhi_bus::call::CallError> {
        let body = serde_json::to_vec(&ScanNow {}).expect("an empty request is JSON");
        let call = Call::new(&self.bus, "scan", "now", body.into())?.timeout(Timeout::LONGEST);
        let answer = call.send(&self.bus).await?;
        serde_json::from_slice(&answer)
            .map_err(|source| nhi_bus::call::CallError::Malformed { subject: "scan.now".to_owned(), source })
    }
}

fn task_of(mark: &Mark) -> Option<&String> {
    match mark {
        Mark::Sent { upid } => upid.as_ref(),
        Mark::Adopted { upid } => Some(upid),
        Mark::Begun { .. }
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

fn wants_backups(plan: &Plan, key: &Key) -> bool {
    let undo = plan.steps.iter().filter_map(|step| step.compensation.as_deref());
    let facts = plan.steps.iter().chain(undo).flat_map(|step| step.before.iter().chain(&step.after));
    facts.chain(&plan.requires).any(|fact| matches!(fact, Fact::BackupSince { guest, .. } if guest == key))
}

/// Sends a step's call, once, and says what came of it.
pub(super) async fn send(operator: &Operator, step: &nhi_model::plan::Step) -> Mark {
    let method = match step.call.method {
        nhi_model::plan::Method::Post => WriteMethod::Post,
        nhi_model::plan::Method::Put => WriteMethod::Put,
        nhi_model::plan::Method::Delete => WriteMethod::Delete,
    };
    let write = Write { method, path: &step.call.path, params: &step.call.params, node: &step.node };
    match operator.send(&write).await {
        Ok(Accepted::Task(upid)) => Mark::Sent { upid: Some(upid.to_string()) },
        Ok(Accepted::Done) => Mark::Sent { upid: None },
        Err(SendError::NotSent(error)) => {
            tracing::warn!(agent = "act", node = step.node.as_str(), err = %error, "call did not leave");
            Mark::NotTaken {}
        }
        Err(SendError::Refused(error)) => {
            Mark::Refused { status: error.status().unwrap_or(0), text: text(&error) }
        }
        Err(SendError::Lost(error)) => Mark::AnswerLost { why: text(&error) },
    }
}

fn text(error: &PveError) -> String {
    let fields = error.fields().iter().map(|(name, text)| format!("; {name}: {text}"));
    clean::text(&format!("{}{}", error.text(), fields.collect::<String>()), TEXT_CHARS_MAX)
}
