//! Work on what exists: making, copying, removing guests, snapshots, moves between nodes, backups, disks.

use super::{
    Lab,
    guest::{
        Guest, Kind, Power, disks_of, format_size, is_disk_key, size_of_disk, volid_of, with_disk_option,
    },
    login::Who,
    service_id,
    task::{Build, Migration, PowerAct, Work},
    work::Finished,
};
use serde_json::json;

impl Lab {
    /// What the worker looks at first, and the `lock:` line it writes.
    pub(super) fn begin_build(&mut self, upid: &str, build: &Build) -> Result<(), String> {
        match build {
            Build::Create { guest, pool, .. } => self.reserve(guest, pool.as_deref(), "create"),
            Build::Clone { source, guest, pool, .. } => {
                self.unlocked_guest(upid, *source)?;
                self.reserve(guest, pool.as_deref(), "clone")
            }
            Build::Destroy { vmid, .. } => self.unlocked_guest(upid, *vmid).map(|_| ()),
            Build::Snapshot { vmid, name, .. } => self.begin_snapshot(upid, *vmid, name),
            Build::DeleteSnapshot { vmid, name } => {
                let guest = self.unlocked_guest(upid, *vmid)?;
                if !guest.snapshots.contains_key(name) {
                    return Err(format!("snapshot '{name}' does not exist"));
                }
                self.set_lock(*vmid, "snapshot-delete");
                Ok(())
            }
            Build::Rollback { vmid, name, .. } => self.begin_rollback(upid, *vmid, name),
            Build::Migrate(migration) => self.begin_migration(upid, migration),
            Build::Backup(backup) => {
                self.begin_backup(upid, backup);
                Ok(())
            }
            Build::Template { vmid } => {
                let guest = self.unlocked_guest(upid, *vmid)?;
                if guest.power.is_up() {
                    return Err("you can't convert a VM to template if VM is running".to_owned());
                }
                Ok(())
            }
            Build::Resize { vmid, .. } | Build::Configure { vmid, .. } | Build::MoveDisk { vmid, .. } => {
                self.unlocked_guest(upid, *vmid).map(|_| ())
            }
            Build::RemoveVolume { key } => match self.volumes.get(key) {
                Some(volume) if volume.protected => {
                    Err(format!("can't remove protected volume '{}'", volume.volid))
                }
                Some(_) => Ok(()),
                None => Err(format!("volume '{}' does not exist", key.1)),
            },
        }
    }

    pub(super) fn finish_build(&mut self, upid: &str, build: &Build) -> Result<Finished, String> {
        match build {
            Build::Create { guest, volumes, start, .. } => {
                self.place(guest, volumes);
                if *start {
                    let kind = if guest.kind == Kind::Qemu { "qmstart" } else { "vzstart" };
                    let work = Work::Power { vmid: guest.vmid, act: PowerAct::Start };
                    let user =
                        Who { id: self.tasks.get(upid).map_or_else(String::new, |task| task.user.clone()) };
                    self.fork(&guest.node, kind, &guest.vmid.to_string(), &user, work);
                }
            }
            Build::Clone { guest, volumes, .. } => self.place(guest, volumes),
            Build::Destroy { vmid, purge, force, unreferenced } => {
                return self.finish_destroy(upid, *vmid, *purge, *force, *unreferenced);
            }
            Build::Snapshot { vmid, name, description, with_memory } => {
                self.take_snapshot(*vmid, name, description, *with_memory);
            }
            Build::DeleteSnapshot { vmid, name } => self.delete_snapshot(*vmid, name),
            Build::Rollback { vmid, name, start } => self.finish_rollback(upid, *vmid, name, *start)?,
            Build::Migrate(migration) => self.finish_migration(migration),
            Build::Backup(backup) => return Ok(self.finish_backup(upid, backup)),
            Build::Template { vmid } => {
                self.guest_of(upid, *vmid)?;
                self.make_template(*vmid);
            }
            Build::Resize { vmid, disk, size_bytes } => {
                self.guest_of(upid, *vmid)?;
                self.resize(*vmid, disk, *size_bytes);
            }
            Build::Configure { vmid, change } => {
                self.guest_of(upid, *vmid)?;
                self.apply_change(*vmid, change);
            }
            Build::MoveDisk { vmid, disk, storage, delete } => {
                self.guest_of(upid, *vmid)?;
                self.move_disk(*vmid, disk, storage, *delete);
            }
            Build::RemoveVolume { key } => drop(self.volumes.remove(key)),
        }
        Ok(Finished::Over("OK".to_owned()))
    }

    /// Puts the configuration file of a guest in the making into place.
    fn reserve(&mut self, guest: &Guest, pool: Option<&str>, lock: &str) -> Result<(), String> {
        if let Some(other) = self.guests.get(&guest.vmid) {
            return Err(format!(
                "unable to create {noun} {vmid} - {other_noun} {vmid} already exists on node '{node}'",
                noun = guest.kind.noun(),
                vmid = guest.vmid,
                other_noun = other.kind.noun(),
                node = other.node
            ));
        }
        let mut guest = guest.clone();
        // The disks come at the end: a worker that dies leaves a locked guest without them.
        guest.config.retain(|key, _| !is_disk_key(guest.kind, key));
        guest.config.insert("lock".to_owned(), lock.to_owned());
        if let Some(pool) = pool {
            self.pool_of_guest.insert(guest.vmid, pool.to_owned());
        }
        self.statistics.guests.remove(&guest.vmid);
        self.guests.insert(guest.vmid, guest);
        Ok(())
    }

    fn place(&mut self, guest: &Guest, volumes: &[super::storage::Volume]) {
        for volume in volumes {
            let key = self.volume_key(&guest.node, &volume.volid);
            self.volumes.insert(key, volume.clone());
        }
        let mut guest = guest.clone();
        guest.config.remove("lock");
        self.guests.insert(guest.vmid, guest);
    }

    /// What stands against removing a guest, checked when it is asked and again by the worker.
    pub(crate) fn check_destroy(&self, guest: &Guest, purge: bool, force: bool) -> Result<(), String> {
        let (noun, vmid) = (guest.kind.noun(), guest.vmid);
        if guest.flag("protection") {
            return Err(format!("can't remove {noun} {vmid} - protection mode enabled"));
        }
        if !purge {
            if self.ha.contains_key(&service_id(guest.kind, vmid)) {
                return Err(format!(
                    "unable to remove {noun} {vmid} - used in HA resources and purge parameter not set."
                ));
            }
            let of_guest = |id: &&String| id.split('-').next() == Some(vmid.to_string().as_str());
            if let Some(job) = self.replication_jobs.keys().find(of_guest) {
                return Err(format!(
                    "There is a replication job '{job}' for guest '{vmid}' - Please remove that first."
                ));
            }
        }
        if guest.power.is_up() && !force {
            return Err(match guest.kind {
                Kind::Qemu => format!("VM {vmid} is running - destroy failed"),
                Kind::Lxc => format!("unable to destroy CT {vmid} - container is running"),
            });
        }
        Ok(())
    }

    /// A template whose disks others are linked to stays; only the worker looks.
    fn check_links(&self, guest: &Guest) -> Result<(), String> {
        for (_, value) in guest.disks().into_iter().filter(|_| guest.is_template()) {
            let volid = volid_of(&value);
            let name = volid.split_once(':').map_or("", |(_, name)| name);
            if self.volumes.values().any(|volume| volume.parent.as_deref() == Some(name)) {
                return Err(format!("base volume '{volid}' is still in use by linked clones"));
            }
        }
        Ok(())
    }

    fn finish_destroy(
        &mut self,
        upid: &str,
        vmid: u32,
        purge: bool,
        force: bool,
        unreferenced: bool,
    ) -> Result<Finished, String> {
        let guest = self.guest_of(upid, vmid)?.clone();
        self.check_destroy(&guest, purge, force)?;
        self.check_links(&guest)?;
        let mut stuck = 0;
        let used: Vec<String> = guest
            .disks()
            .into_iter()
            .chain(
                guest
                    .config
                    .iter()
                    .filter(|(key, _)| key.starts_with("unused"))
                    .map(|(k, v)| (k.clone(), v.clone())),
            )
            .map(|(_, value)| volid_of(&value).to_owned())
            .collect();
        let owned: Vec<(String, String)> = self
            .volumes
            .iter()
            .filter(|(_, volume)| {
                volume.vmid == Some(vmid) && matches!(volume.content.as_str(), "images" | "rootdir")
            })
            .filter(|(key, _)| unreferenced || used.contains(&key.1))
            .map(|(key, _)| key.clone())
            .collect();
        for key in owned {
            let storage = key.1.split(':').next().unwrap_or_default().to_owned();
            if self.storage_is_active(&storage, &guest.node) {
                self.log(upid, &format!("removing volume '{}'", key.1));
                self.volumes.remove(&key);
            } else {
                stuck += 1;
                self.log(
                    upid,
                    &format!(
                        "Could not remove disk '{}', check manually: storage '{storage}' is not online",
                        key.1
                    ),
                );
            }
        }
        self.forget_guest(&guest, purge);
        if purge {
            self.log(upid, &format!("purging {} {vmid} from related configurations..", guest.kind.noun()));
        }
        // A disk that cannot be removed is a warning: the guest is gone all the same.
        Ok(Finished::Over(if stuck == 0 { "OK".to_owned() } else { format!("WARNINGS: {stuck}") }))
    }

    fn forget_guest(&mut self, guest: &Guest, purge: bool) {
        let vmid = guest.vmid;
        self.guests.remove(&vmid);
        self.statistics.guests.remove(&vmid);
        self.pool_of_guest.remove(&vmid);
        // Access lists and firewall of the guest go always, asked or not.
        let own = format!("/vms/{vmid}");
        self.access.lists.retain(|path, _| *path != own && !path.starts_with(&format!("{own}/")));
        if !purge {
            return;
        }
        self.ha.remove(&service_id(guest.kind, vmid));
        self.replication_jobs.retain(|id, _| id.split('-').next() != Some(vmid.to_string().as_str()));
        for job in self.backup_jobs.values_mut() {
            for key in ["vmid", "exclude"] {
                let Some(list) = job.get(key).and_then(|value| value.as_str()).map(str::to_owned) else {
                    continue;
                };
                let rest: Vec<&str> = list.split(',').filter(|one| *one != vmid.to_string()).collect();
                if rest.is_empty() {
                    job.remove(key);
                } else {
                    job.insert(key.to_owned(), json!(rest.join(",")));
                }
            }
        }
    }

    fn begin_migration(&mut self, upid: &str, migration: &Migration) -> Result<(), String> {
        let guest = self.unlocked_guest(upid, migration.vmid)?;
        let is_up = guest.power.is_up();
        if !self.is_online(&migration.target) {
            return Err(format!("node '{}' is not online", migration.target));
        }
        if guest.kind == Kind::Lxc && is_up && !migration.restart {
            return Err("lxc live migration is currently not implemented".to_owned());
        }
        for (_, value) in guest.disks() {
            let volid = volid_of(&value);
            let Some(storage) = self.storages.get(volid.split(':').next().unwrap_or_default()) else {
                continue;
            };
            if storage.shared {
                continue;
            }
            if is_up && guest.kind == Kind::Qemu && !migration.with_local_disks {
                return Err(
                    "can't live migrate attached local disks without with-local-disks option".to_owned()
                );
            }
            let target = migration.storage.as_deref().unwrap_or(&storage.id);
            if !self.storages.get(target).is_some_and(|storage| storage.is_on(&migration.target)) {
                return Err(format!("storage '{target}' is not available on node '{}'", migration.target));
            }
        }
        self.set_lock(migration.vmid, "migrate");
        Ok(())
    }

    fn finish_migration(&mut self, migration: &Migration) {
        let vmid = migration.vmid;
        let (now_ms, pid) = (self.now_ms, self.next_pid());
        let Some(mut guest) = self.guests.get(&vmid).cloned() else { return };
        for (key, value) in guest.disks() {
            let old = volid_of(&value).to_owned();
            let Some(mut volume) = self.volumes.remove(&self.volume_key(&guest.node, &old)) else { continue };
            if volume.node.is_some() {
                volume.node = Some(migration.target.clone());
                if let Some(storage) = &migration.storage {
                    volume.volid = format!("{storage}:{}", volume.name());
                    guest.config.insert(key, value.replacen(&old, &volume.volid, 1));
                }
            }
            let key = self.volume_key(&migration.target, &volume.volid);
            self.volumes.insert(key, volume);
        }
        guest.node.clone_from(&migration.target);
        guest.config.remove("lock");
        guest.power = match guest.power {
            Power::Stopped => Power::Stopped,
            Power::Running { .. } if migration.restart => Power::Running { since_ms: now_ms, pid },
            Power::Running { since_ms, .. } => Power::Running { since_ms, pid },
            Power::Paused { since_ms, .. } => Power::Paused { since_ms, pid },
        };
        self.guests.insert(vmid, guest);
        self.wake_ha(vmid);
    }

    pub(crate) fn make_template(&mut self, vmid: u32) {
        let Some(mut guest) = self.guests.get(&vmid).cloned() else { return };
        for (key, value) in guest.disks() {
            let old = volid_of(&value).to_owned();
            let Some(mut volume) = self.volumes.remove(&self.volume_key(&guest.node, &old)) else { continue };
            volume.volid =
                old.replace(":vm-", ":base-").replace("/vm-", "/base-").replace(":subvol-", ":basevol-");
            guest.config.insert(key, value.replacen(&old, &volume.volid, 1));
            let key = self.volume_key(&guest.node, &volume.volid);
            self.volumes.insert(key, volume);
        }
        guest.config.insert("template".to_owned(), "1".to_owned());
        self.guests.insert(vmid, guest);
    }

    pub(crate) fn resize(&mut self, vmid: u32, disk: &str, size_bytes: u64) {
        let Some(guest) = self.guests.get_mut(&vmid) else { return };
        let Some(value) = guest.config.get_mut(disk) else { return };
        let volid = volid_of(value).to_owned();
        *value = with_disk_option(value, "size", &format_size(size_bytes));
        let node = guest.node.clone();
        let key = self.volume_key(&node, &volid);
        if let Some(volume) = self.volumes.get_mut(&key) {
            volume.size_bytes = size_bytes;
        }
    }

    fn move_disk(&mut self, vmid: u32, disk: &str, storage: &str, delete: bool) {
        let Some(mut guest) = self.guests.get(&vmid).cloned() else { return };
        let Some(value) = guest.config.get(disk).cloned() else { return };
        let old = volid_of(&value).to_owned();
        let Some(definition) = self.storages.get(storage) else { return };
        let format = definition.format(guest.kind == Kind::Qemu);
        let number = self.free_disk_number(vmid, &[]);
        let new = format!("{storage}:{}", definition.disk_name(vmid, number, format, false));
        let size = size_of_disk(&value).unwrap_or(0);
        let volume = self.disk_volume(&new, &guest.node, guest.kind, vmid, format, size, self.now_s());
        guest.config.insert(disk.to_owned(), value.replacen(&old, &new, 1));
        if delete {
            self.volumes.remove(&self.volume_key(&guest.node, &old));
        } else {
            let free =
                (0..).map(|number| format!("unused{number}")).find(|key| !guest.config.contains_key(key));
            guest.config.extend(free.map(|key| (key, old)));
        }
        let key = self.volume_key(&guest.node, &volume.volid);
        self.volumes.insert(key, volume);
        self.guests.insert(vmid, guest);
    }

    /// New volumes for a copy of a guest: its configuration with fresh volume ids, and the volumes.
    pub(crate) fn copy_disks(
        &self,
        source: &Guest,
        config: &super::guest::Config,
        vmid: u32,
        node: &str,
        storage: Option<&str>,
        full: bool,
    ) -> Result<(super::guest::Config, Vec<super::storage::Volume>), String> {
        let mut result = config.clone();
        let mut volumes = Vec::new();
        for (key, value) in disks_of(source.kind, config) {
            let old = volid_of(&value).to_owned();
            let own_storage = old.split(':').next().unwrap_or_default();
            let target = if full { storage.unwrap_or(own_storage) } else { own_storage };
            let Some(definition) = self.storages.get(target) else {
                return Err(format!("storage '{target}' does not exist"));
            };
            let is_vm = source.kind == Kind::Qemu;
            let format = definition.format(is_vm);
            let number = self.free_disk_number(vmid, &volumes);
            let mut name = definition.disk_name(vmid, number, format, false);
            let base = old.split_once(':').map_or("", |(_, name)| name);
            let is_linked = !full && definition.kind != "lvmthin";
            if is_linked {
                name = format!("{base}/{name}");
            }
            let new = format!("{target}:{name}");
            let size = size_of_disk(&value).unwrap_or(0);
            let mut volume = self.disk_volume(&new, node, source.kind, vmid, format, size, self.now_s());
            volume.parent = is_linked.then(|| base.to_owned());
            volumes.push(volume);
            result.insert(key, value.replacen(&old, &new, 1));
        }
        Ok((result, volumes))
    }
}
