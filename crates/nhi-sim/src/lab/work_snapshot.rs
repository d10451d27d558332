//! Work on snapshots: taking, removing, returning to them.

use super::{
    Lab,
    guest::{Guest, Kind, Power, Snapshot, volid_of},
};

impl Lab {
    /// Why a guest cannot have snapshots, if it cannot.
    pub(crate) fn snapshot_obstacle(&self, guest: &Guest) -> Option<String> {
        let is_bind_mount = |(key, value): (&String, &String)| {
            guest.kind == Kind::Lxc && key.starts_with("mp") && value.starts_with('/')
        };
        if guest.config.iter().any(is_bind_mount) {
            return Some("snapshot feature is not available".to_owned());
        }
        guest.disks().iter().find_map(|(_, value)| {
            let volid = volid_of(value);
            let storage = self.storages.get(volid.split(':').next().unwrap_or_default())?;
            let format = if volid.ends_with(".qcow2") { "qcow2" } else { "raw" };
            (!storage.can_snapshot(format)).then(|| "snapshot feature is not available".to_owned())
        })
    }

    pub(super) fn begin_snapshot(&mut self, upid: &str, vmid: u32, name: &str) -> Result<(), String> {
        let guest = self.unlocked_guest(upid, vmid)?;
        if guest.is_template() {
            return Err("you can't take a snapshot if it's a template".to_owned());
        }
        if guest.snapshots.contains_key(name) {
            return Err(format!("snapshot name '{name}' already used"));
        }
        if let Some(obstacle) = self.snapshot_obstacle(guest) {
            return Err(obstacle);
        }
        self.set_lock(vmid, "snapshot");
        Ok(())
    }

    pub(super) fn take_snapshot(&mut self, vmid: u32, name: &str, description: &str, with_memory: bool) {
        let taken_s = self.now_s();
        let Some(guest) = self.guests.get_mut(&vmid) else { return };
        guest.config.remove("lock");
        let mut config = guest.config.clone();
        let parent = config.remove("parent");
        let with_memory = with_memory && guest.power.is_up();
        let snapshot = Snapshot { taken_s, parent, description: description.to_owned(), with_memory, config };
        guest.snapshots.insert(name.to_owned(), snapshot);
        guest.config.insert("parent".to_owned(), name.to_owned());
    }

    pub(super) fn delete_snapshot(&mut self, vmid: u32, name: &str) {
        let Some(guest) = self.guests.get_mut(&vmid) else { return };
        guest.config.remove("lock");
        let Some(removed) = guest.snapshots.remove(name) else { return };
        for snapshot in guest.snapshots.values_mut() {
            if snapshot.parent.as_deref() == Some(name) {
                snapshot.parent.clone_from(&removed.parent);
            }
        }
        if guest.line("parent") == name {
            match removed.parent {
                Some(parent) => drop(guest.config.insert("parent".to_owned(), parent)),
                None => drop(guest.config.remove("parent")),
            }
        }
    }

    pub(super) fn begin_rollback(&mut self, upid: &str, vmid: u32, name: &str) -> Result<(), String> {
        let guest = self.unlocked_guest(upid, vmid)?;
        if guest.is_template() {
            return Err("you can't rollback if VM is a template".to_owned());
        }
        let Some(snapshot) = guest.snapshots.get(name) else {
            return Err(format!("snapshot '{name}' does not exist"));
        };
        let is_newest = guest.snapshots.values().all(|other| other.taken_s <= snapshot.taken_s);
        if !is_newest {
            let linear = guest.disks().into_iter().find(|(_, value)| {
                let storage = volid_of(value).split(':').next().unwrap_or_default();
                self.storages
                    .get(storage)
                    .is_some_and(|storage| matches!(storage.kind.as_str(), "zfspool" | "lvm"))
            });
            if let Some((_, value)) = linear {
                return Err(format!(
                    "can't rollback, '{name}' is not most recent snapshot on '{}'",
                    volid_of(&value)
                ));
            }
        }
        // Protection is not looked at, and a running guest is stopped without asking it.
        self.set_lock(vmid, "rollback");
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.power = Power::Stopped;
        }
        Ok(())
    }

    pub(super) fn finish_rollback(
        &mut self,
        upid: &str,
        vmid: u32,
        name: &str,
        start: bool,
    ) -> Result<(), String> {
        self.guest_of(upid, vmid)?;
        let generation = self.next_uuid();
        let Some(guest) = self.guests.get_mut(&vmid) else { return Ok(()) };
        let Some(snapshot) = guest.snapshots.get(name).cloned() else {
            return Err(format!("snapshot '{name}' does not exist"));
        };
        let mut config = snapshot.config.clone();
        for (key, value) in &guest.config {
            if key == "description" || key.starts_with("unused") {
                config.insert(key.clone(), value.clone());
            }
        }
        config.remove("lock");
        config.insert("parent".to_owned(), name.to_owned());
        if guest.kind == Kind::Qemu {
            config.insert("vmgenid".to_owned(), generation);
        }
        guest.config = config;
        guest.pending.clear();
        if start || snapshot.with_memory {
            self.power_on(upid, vmid)?;
        } else {
            self.wake_ha(vmid);
        }
        Ok(())
    }
}
