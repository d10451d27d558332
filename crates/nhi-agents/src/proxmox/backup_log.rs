//! What the task logs of a cluster's nodes tell about backups, kept from pass to pass. It asks nothing, and knows no
//! guest: whose a backup is that bears a number is decided elsewhere.

use nhi_pve::{
    Rows, TaskQuery,
    node::{LogLine, Task},
};
use std::collections::BTreeMap;

/// Tasks taken from one answer. A node's log holds about a thousand, of all types together.
const TASKS_MAX: u32 = 500;
/// How far before the newest known task the next question begins, seconds: a task that ends is on no list for a
/// moment.
const OVERLAP_S: u64 = 3600;
/// How far ahead a node's clock may be before what it tells is not believed, seconds.
const AHEAD_MAX_S: u64 = 86_400;
/// Lines of a job's log that are read: large machines write a hundred each.
pub(crate) const LINES_MAX: u32 = 5000;
/// Jobs over several guests whose logs wait, per node: one log is read a pass, and the newest tell most.
const JOBS_MAX: usize = 8;
/// How often a log is asked for that cannot be had.
const TRIES_MAX: u32 = 3;
/// How a job's log says that a guest's turn ended well.
const FINISHED: &str = "INFO: Finished Backup of VM ";

/// All that was told so far.
#[derive(Debug, Default)]
pub(crate) struct BackupLog {
    nodes: BTreeMap<String, NodeLog>,
}

#[derive(Debug, Default)]
struct NodeLog {
    /// Start of the newest task that was told to have ended, seconds since 1970.
    newest_s: Option<u64>,
    /// Start of the oldest that ran when the log was last read.
    running_s: Option<u64>,
    /// Start of the newest backup by the guest's number.
    backups: BTreeMap<u32, u64>,
    /// Jobs over several guests by start and UPID.
    jobs: BTreeMap<(u64, String), Job>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Job {
    /// Its log is to be read; it was asked for so often.
    Waits { tries: u32 },
    /// Nothing more is to be learned from it.
    Done,
}

impl BackupLog {
    /// What to ask a node.
    pub(crate) fn query(&self, node: &str) -> TaskQuery<'static> {
        let since = self.nodes.get(node).and_then(NodeLog::since_s);
        TaskQuery { since, kind: Some("vzdump"), limit: TASKS_MAX }
    }

    /// Takes a node's answer.
    pub(crate) fn take(&mut self, node: &str, tasks: &Rows<Task>, now_s: u64) {
        let log = self.nodes.entry(node.to_owned()).or_default();
        log.running_s = None;
        for task in tasks.rows.iter().filter(|task| task.kind == "vzdump") {
            let start_s = task.starttime;
            if start_s > now_s.saturating_add(AHEAD_MAX_S) {
                continue;
            }
            if task.running() {
                log.running_s = Some(log.running_s.map_or(start_s, |known| known.min(start_s)));
                continue;
            }
            log.newest_s = log.newest_s.max(Some(start_s));
            match &task.id {
                Some(id) => {
                    if let (Ok(vmid), true) = (id.parse(), task.succeeded()) {
                        log.note(vmid, start_s);
                    }
                }
                // Some of its guests may have gone well even if the job did not.
                None => {
                    log.jobs.entry((start_s, task.upid.clone())).or_insert(Job::Waits { tries: 0 });
                }
            }
        }
        log.forget_old_jobs();
    }

    /// The job of a node whose log is to be read now.
    pub(crate) fn next_job(&self, node: &str) -> Option<String> {
        let jobs = self.nodes.get(node)?.jobs.iter().rev();
        jobs.filter(|(_, job)| **job != Job::Done).map(|((_, upid), _)| upid.clone()).next()
    }

    /// Takes a job's log. That a guest is not in it proves nothing.
    pub(crate) fn take_job(&mut self, node: &str, upid: &str, lines: &Rows<LogLine>) {
        let Some(log) = self.nodes.get_mut(node) else { return };
        let Some(start_s) = log.finish(upid) else { return };
        for line in &lines.rows {
            let number = line.text.strip_prefix(FINISHED).and_then(|rest| rest.split(' ').next());
            if let Some(vmid) = number.and_then(|number| number.parse().ok()) {
                log.note(vmid, start_s);
            }
        }
    }

    /// A job's log could not be had.
    pub(crate) fn job_failed(&mut self, node: &str, upid: &str) {
        let Some(log) = self.nodes.get_mut(node) else { return };
        for ((_, of), job) in &mut log.jobs {
            if let (true, Job::Waits { tries }) = (of == upid, &job) {
                *job = if tries + 1 < TRIES_MAX { Job::Waits { tries: tries + 1 } } else { Job::Done };
            }
        }
    }

    /// When the newest backup of each guest began, by its number, seconds since 1970. Of a job over several guests
    /// that is when the job began: nobody's backup is called newer than it is.
    pub(crate) fn newest(&self) -> BTreeMap<u32, u64> {
        let mut newest = BTreeMap::new();
        for (vmid, at) in self.nodes.values().flat_map(|log| &log.backups) {
            let known = newest.entry(*vmid).or_insert(*at);
            *known = (*known).max(*at);
        }
        newest
    }
}

impl NodeLog {
    fn since_s(&self) -> Option<u64> {
        let since = self.newest_s?.saturating_sub(OVERLAP_S);
        Some(self.running_s.map_or(since, |running| running.min(since)))
    }

    fn note(&mut self, vmid: u32, start_s: u64) {
        let known = self.backups.entry(vmid).or_insert(start_s);
        *known = (*known).max(start_s);
    }

    fn finish(&mut self, upid: &str) -> Option<u64> {
        let ((start_s, _), job) = self.jobs.iter_mut().find(|((_, of), _)| of == upid)?;
        *job = Job::Done;
        Some(*start_s)
    }

    /// Keeps the newest that wait, and those that are done as long as they are told again.
    fn forget_old_jobs(&mut self) {
        let since_s = self.since_s().unwrap_or(0);
        let waiting = self.jobs.iter().rev().filter(|(_, job)| **job != Job::Done);
        let oldest = waiting.take(JOBS_MAX).last().map(|(key, _)| key.clone());
        self.jobs.retain(|key, job| match job {
            Job::Done => key.0 >= since_s,
            Job::Waits { .. } => oldest.as_ref().is_none_or(|oldest| key >= oldest),
        });
    }
}

#[cfg(test)]
mod tests;
