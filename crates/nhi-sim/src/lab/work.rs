//! How tasks begin, wait, end and fail. What each kind of work checks and changes is beside: power in
//! [`super::work_power`], everything else in [`super::work_build`].

use super::{
    Event, Lab,
    guest::Guest,
    login::Who,
    task::{Build, PowerAct, Stage, Task, Work, format_upid},
};

/// How long a worker waits for a guest's lock file before it gives up.
const LOCK_FILE_WAIT_MS: i64 = 10_000;
/// Finished tasks that stay in the index; PVE rotates at about as many.
const TASKS_KEPT_MAX: usize = 1000;

/// What a worker found when it looked at its task.
pub(super) enum Begun {
    /// It takes the usual time.
    Usual,
    /// It takes this long.
    Takes(u64),
}

/// What comes after a worker's step.
pub(super) enum Finished {
    /// The task is over; the text is its exit status.
    Over(String),
    /// It goes on with its next part.
    More,
}

impl Lab {
    /// Starts a worker and returns its UPID. Nothing is known yet about its success: locks, power and most
    /// other conditions are looked at by the worker.
    pub(crate) fn fork(&mut self, node: &str, kind: &'static str, id: &str, who: &Who, work: Work) -> String {
        let pid = self.next_pid();
        let mut task = Task {
            upid: String::new(),
            node: node.to_owned(),
            pid,
            process_start: u64::try_from(self.now_ms / 10 % 0xffff_ffff).unwrap_or(0),
            started_s: self.now_s(),
            kind,
            id: id.to_owned(),
            user: who.id.clone(),
            work,
            stage: Stage::Waiting,
            log: Vec::new(),
            failure: None,
            verdict: None,
        };
        task.upid = format_upid(&task);
        let upid = task.upid.clone();
        let holder = task.work.lock_file_of().and_then(|vmid| self.lock_files.get(&vmid));
        let must_wait = holder.is_some();
        self.tasks.insert(upid.clone(), task);
        self.task_order.push(upid.clone());
        self.forget_old_tasks();
        if must_wait {
            self.log(&upid, "trying to acquire lock...");
            self.at(self.now_ms + LOCK_FILE_WAIT_MS, Event::GiveUp(upid.clone()));
        } else {
            self.begin_task(&upid);
        }
        upid
    }

    fn forget_old_tasks(&mut self) {
        while self.task_order.len() > TASKS_KEPT_MAX {
            let ended = |upid: &String| {
                self.tasks.get(upid).is_none_or(|task| matches!(task.stage, Stage::Ended { .. }))
            };
            let Some(place) = self.task_order.iter().position(ended) else { return };
            let upid = self.task_order.remove(place);
            self.tasks.remove(&upid);
        }
    }

    pub(super) fn log(&mut self, upid: &str, line: &str) {
        if let Some(task) = self.tasks.get_mut(upid) {
            task.log.push(line.to_owned());
        }
    }

    pub(super) fn begin_task(&mut self, upid: &str) {
        let Some(task) = self.tasks.get_mut(upid) else { return };
        if task.stage != Stage::Waiting {
            return;
        }
        task.stage = Stage::Running;
        let (kind, work) = (task.kind, task.work.clone());
        let about = work.guests();
        let held = work.lock_file_of();
        if let Some(vmid) = held {
            self.lock_files.insert(vmid, upid.to_owned());
        }
        let injected = self.faults.task_error(kind, &about);
        if let (Some((error, true)), Some(task)) = (&injected, self.tasks.get_mut(upid)) {
            task.verdict = Some(error.clone());
        }
        let begun = match injected {
            Some((error, false)) => Err(error),
            Some((_, true)) | None => self.begin_work(upid, &work),
        };
        let usual_ms = (work.units() * self.task_ms as f64).round() as u64;
        let after_ms = match begun {
            Ok(Begun::Usual) => usual_ms,
            Ok(Begun::Takes(ms)) => ms,
            Err(failure) => {
                if let Some(task) = self.tasks.get_mut(upid) {
                    task.failure = Some(failure);
                }
                // A worker that fails its checks is gone almost at once.
                (usual_ms / 10).min(100)
            }
        };
        if !self.faults.task_hangs(kind, &about) {
            self.at(
                self.now_ms.saturating_add(i64::try_from(after_ms).unwrap_or(i64::MAX)),
                Event::End(upid.to_owned()),
            );
        }
    }

    pub(super) fn end_task(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid) else { return };
        if task.stage != Stage::Running {
            return;
        }
        let work = task.work.clone();
        let status = match task.failure.clone() {
            Some(failure) => failure,
            None => match self.finish_work(upid, &work) {
                Ok(Finished::Over(status)) => task_verdict(self.tasks.get(upid)).unwrap_or(status),
                Ok(Finished::More) => {
                    let after_ms = (work.units() * self.task_ms as f64).round() as i64;
                    self.at(self.now_ms + after_ms, Event::End(upid.to_owned()));
                    return;
                }
                Err(failure) => failure,
            },
        };
        self.conclude(upid, &status);
    }

    pub(super) fn give_up_task(&mut self, upid: &str) {
        let Some(task) = self.tasks.get(upid) else { return };
        if task.stage != Stage::Waiting {
            return;
        }
        let guest = task.work.lock_file_of().and_then(|vmid| self.guests.get(&vmid));
        let status = guest.map_or_else(|| "can't lock file - got timeout".to_owned(), lock_file_timeout);
        self.conclude(upid, &status);
    }

    /// Writes down how a task ended and lets the next one in.
    fn conclude(&mut self, upid: &str, status: &str) {
        let at_s = self.now_s();
        let Some(task) = self.tasks.get_mut(upid) else { return };
        match status {
            "OK" => task.log.push("TASK OK".to_owned()),
            warnings if warnings.starts_with("WARNINGS: ") => task.log.push(format!("TASK {warnings}")),
            "unexpected status" => {}
            error => task.log.push(format!("TASK ERROR: {error}")),
        }
        task.stage = Stage::Ended { status: status.to_owned(), at_s };
        let held = task.work.lock_file_of();
        if let Some(vmid) = held
            && self.lock_files.get(&vmid).is_some_and(|holder| holder == upid)
        {
            self.lock_files.remove(&vmid);
            self.let_next_in(vmid);
        }
    }

    fn let_next_in(&mut self, vmid: u32) {
        let next = self.task_order.iter().find(|upid| {
            self.tasks
                .get(*upid)
                .is_some_and(|task| task.stage == Stage::Waiting && task.work.lock_file_of() == Some(vmid))
        });
        if let Some(next) = next.cloned() {
            self.at(self.now_ms, Event::Begin(next));
        }
    }

    /// Kills a worker: its own `lock:` line goes, what it was making is thrown away.
    pub(crate) fn abort_task(&mut self, upid: &str, status: &str) {
        let Some(task) = self.tasks.get(upid) else { return };
        let (work, was_running) = (task.work.clone(), task.stage == Stage::Running && task.failure.is_none());
        if matches!(task.stage, Stage::Ended { .. }) {
            return;
        }
        if was_running {
            self.undo_begin(&work);
        }
        self.conclude(upid, status);
    }

    /// Lets tasks go on that a fault kept from ending.
    pub(crate) fn release_hung(&mut self, kind: &str) {
        let hung: Vec<String> = self
            .tasks
            .values()
            .filter(|task| task.kind == kind && task.stage == Stage::Running)
            .map(|task| task.upid.clone())
            .filter(|upid| !self.events.values().any(|event| *event == Event::End(upid.clone())))
            .collect();
        for upid in hung {
            self.at(self.now_ms, Event::End(upid));
        }
    }

    fn undo_begin(&mut self, work: &Work) {
        let own_lock = match work {
            Work::Power { vmid, act: PowerAct::Suspend { to_disk: true } } => Some((*vmid, "suspending")),
            Work::Power { .. } | Work::Idle => None,
            Work::Build(build) => match build {
                Build::Create { guest, .. } | Build::Clone { guest, .. } => {
                    self.guests.remove(&guest.vmid);
                    self.pool_of_guest.remove(&guest.vmid);
                    None
                }
                Build::Snapshot { vmid, .. } => Some((*vmid, "snapshot")),
                Build::DeleteSnapshot { vmid, .. } => Some((*vmid, "snapshot-delete")),
                Build::Rollback { vmid, .. } => Some((*vmid, "rollback")),
                Build::Migrate(migration) => Some((migration.vmid, "migrate")),
                Build::Backup(backup) => backup.vmids.first().map(|vmid| (*vmid, "backup")),
                Build::Destroy { .. }
                | Build::Template { .. }
                | Build::Resize { .. }
                | Build::Configure { .. }
                | Build::MoveDisk { .. }
                | Build::RemoveVolume { .. } => None,
            },
        };
        if let Some((vmid, lock)) = own_lock
            && let Some(guest) = self.guests.get_mut(&vmid)
            && guest.line("lock") == lock
        {
            guest.config.remove("lock");
        }
    }

    /// Everything on a node dies at once.
    pub(crate) fn cut_power(&mut self, node: &str) {
        let died: Vec<String> = self
            .tasks
            .values()
            .filter(|task| task.node == node && !matches!(task.stage, Stage::Ended { .. }))
            .map(|task| task.upid.clone())
            .collect();
        for upid in died {
            // The worker had no time to clean up: its lock lines stay, as they do on a real node.
            self.conclude(&upid, "unexpected status");
        }
        for guest in self.guests.values_mut().filter(|guest| guest.node == node) {
            guest.power = super::guest::Power::Stopped;
        }
    }

    /// A node comes back from a power cut: uptime starts anew, guests with `onboot` start.
    pub(crate) fn boot(&mut self, node: &str) {
        let now_ms = self.now_ms;
        if let Some(node) = self.nodes.get_mut(node) {
            node.booted_ms = now_ms;
        }
        let on_boot: Vec<(u32, super::guest::Kind)> = self
            .guests
            .values()
            .filter(|guest| guest.node == node && guest.flag("onboot") && !guest.is_template())
            .map(|guest| (guest.vmid, guest.kind))
            .collect();
        let root = Who { id: "root@pam".to_owned() };
        for (vmid, kind) in on_boot {
            let task = if kind == super::guest::Kind::Qemu { "qmstart" } else { "vzstart" };
            self.fork(node, task, &vmid.to_string(), &root, Work::Power { vmid, act: PowerAct::Start });
        }
    }

    fn begin_work(&mut self, upid: &str, work: &Work) -> Result<Begun, String> {
        match work {
            Work::Power { vmid, act } => self.begin_power(upid, *vmid, act),
            Work::Build(build) => self.begin_build(upid, build).map(|()| Begun::Usual),
            Work::Idle => Ok(Begun::Usual),
        }
    }

    fn finish_work(&mut self, upid: &str, work: &Work) -> Result<Finished, String> {
        match work {
            Work::Power { vmid, act } => {
                self.finish_power(upid, *vmid, act).map(|()| Finished::Over("OK".to_owned()))
            }
            Work::Build(build) => self.finish_build(upid, build),
            Work::Idle => Ok(Finished::Over("OK".to_owned())),
        }
    }

    /// A guest on the node the worker runs on; it may have moved away or been removed meanwhile.
    pub(super) fn guest_of(&self, upid: &str, vmid: u32) -> Result<&Guest, String> {
        let node = self.tasks.get(upid).map_or("", |task| task.node.as_str());
        self.guests.get(&vmid).filter(|guest| guest.node == node).ok_or_else(|| {
            let folder = self.guests.get(&vmid).map_or("qemu-server", |guest| guest.kind.folder());
            format!("Configuration file 'nodes/{node}/{folder}/{vmid}.conf' does not exist")
        })
    }

    /// A guest that nobody has locked.
    pub(super) fn unlocked_guest(&self, upid: &str, vmid: u32) -> Result<&Guest, String> {
        let guest = self.guest_of(upid, vmid)?;
        match guest.line("lock") {
            "" => Ok(guest),
            lock => Err(format!("{} is locked ({lock})", guest.kind.noun())),
        }
    }

    pub(super) fn set_lock(&mut self, vmid: u32, lock: &str) {
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.config.insert("lock".to_owned(), lock.to_owned());
        }
    }

    pub(super) fn clear_lock(&mut self, vmid: u32) {
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.config.remove("lock");
        }
    }
}

fn task_verdict(task: Option<&Task>) -> Option<String> {
    task.and_then(|task| task.verdict.clone())
}

/// What a worker says that waited for a guest's lock file in vain.
pub(crate) fn lock_file_timeout(guest: &Guest) -> String {
    match guest.kind {
        super::guest::Kind::Qemu => {
            format!("can't lock file '/var/lock/qemu-server/lock-{}.conf' - got timeout", guest.vmid)
        }
        super::guest::Kind::Lxc => {
            format!("can't lock file '/run/lock/lxc/pve-config-{}.lock' - got timeout", guest.vmid)
        }
    }
}
