//! A backup run: one guest after the other, each locked while it is its turn.

use super::{
    Lab,
    guest::Power,
    task::{Backup, Build, Work},
    work::Finished,
};

impl Lab {
    pub(super) fn begin_backup(&mut self, upid: &str, backup: &Backup) {
        let Some(vmid) = backup.vmids.first() else { return };
        let first = match self.unlocked_guest(upid, *vmid) {
            Ok(guest) => Ok(guest.kind),
            Err(reason) => Err(reason),
        };
        match first {
            Ok(kind) => {
                self.log(upid, &format!("INFO: Starting Backup of VM {vmid} ({})", kind.word()));
                self.set_lock(*vmid, "backup");
                self.note_backup(upid, |backup| backup.holds_lock = true);
            }
            Err(reason) => {
                self.log(upid, &format!("ERROR: Backup of VM {vmid} failed - {reason}"));
                self.note_backup(upid, |backup| {
                    backup.failed = true;
                    backup.holds_lock = false;
                });
            }
        }
    }

    fn note_backup(&mut self, upid: &str, change: impl FnOnce(&mut Backup)) {
        if let Some(task) = self.tasks.get_mut(upid)
            && let Work::Build(Build::Backup(backup)) = &mut task.work
        {
            change(backup);
        }
    }

    pub(super) fn finish_backup(&mut self, upid: &str, backup: &Backup) -> Finished {
        let own = backup.vmids.first().and_then(|vmid| self.guests.get(vmid)).filter(|_| backup.holds_lock);
        if let Some(guest) = own.cloned() {
            let mut clean = guest.clone();
            clean.config.remove("lock");
            let mut volume = self.backup_volume(&clean, &backup.storage, &backup.compress, self.now_s());
            volume.protected = backup.protected;
            volume.notes = backup
                .notes
                .replace("{{guestname}}", &guest.name())
                .replace("{{vmid}}", &guest.vmid.to_string());
            let key = self.volume_key(&guest.node, &volume.volid);
            self.log(upid, &format!("INFO: creating archive '{}'", volume.volid));
            self.volumes.insert(key, volume);
            self.clear_lock(guest.vmid);
            if backup.mode == "stop"
                && let Power::Running { pid, .. } = guest.power
            {
                let since_ms = self.now_ms;
                if let Some(guest) = self.guests.get_mut(&guest.vmid) {
                    guest.power = Power::Running { since_ms, pid };
                }
            }
            self.log(upid, &format!("INFO: Finished Backup of VM {}", guest.vmid));
        }
        self.note_backup(upid, |backup| {
            backup.vmids.remove(0);
        });
        let rest = match self.tasks.get(upid).map(|task| &task.work) {
            Some(Work::Build(Build::Backup(rest))) => rest.clone(),
            _ => return Finished::Over("unexpected status".to_owned()),
        };
        if rest.vmids.is_empty() {
            return Finished::Over(if rest.failed { "job errors" } else { "OK" }.to_owned());
        }
        self.begin_backup(upid, &rest);
        Finished::More
    }
}
