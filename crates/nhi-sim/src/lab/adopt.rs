//! What a guest brings along when it comes from a seed: its snapshots, and the volumes its lines name.

use super::{
    Lab,
    build::plain,
    guest::{Config, Guest, Snapshot, is_disk_key, size_of_disk, volid_of},
    storage::Volume,
};
use crate::seed::{SeedGuest, SeedSnapshot};
use serde_json::Value;

/// Lines of a snapshot that belong to the moment it was taken, not to the configuration it returns to.
const OF_THE_MOMENT: &[&str] =
    &["snaptime", "parent", "digest", "vmstate", "runningcpu", "runningmachine", "running-nets-host-mtu"];

impl Lab {
    pub(super) fn add_snapshots(&self, guest: &mut Guest, seed: &SeedGuest) {
        let mut before: Option<String> = None;
        for snapshot in &seed.snapshots {
            let mut config = if snapshot.whole { Config::new() } else { guest.config.clone() };
            for (key, value) in &snapshot.config {
                match value {
                    Value::Null => config.remove(key),
                    value => config.insert(key.clone(), plain(value)),
                };
            }
            let entry = Snapshot {
                taken_s: self.now_s() - i64::from(snapshot.age_s),
                parent: if seed.verbatim { parent(snapshot) } else { before.clone() },
                description: snapshot.description.clone(),
                with_memory: snapshot.memory || config.contains_key("vmstate"),
                config: config
                    .into_iter()
                    .filter(|(key, _)| !OF_THE_MOMENT.contains(&key.as_str()))
                    .collect(),
            };
            guest.snapshots.insert(snapshot.name.clone(), entry);
            before = Some(snapshot.name.clone());
        }
        if let Some(newest) = before.filter(|_| !seed.verbatim) {
            guest.config.insert("parent".to_owned(), newest);
        }
    }

    /// Makes the volumes that a guest's lines name, and those of its snapshots.
    pub(super) fn adopt_volumes(&mut self, guest: &Guest, made_s: i64) {
        let configs = std::iter::once(&guest.config).chain(guest.snapshots.values().map(|one| &one.config));
        let named: Vec<Volume> =
            configs.flatten().filter_map(|(key, value)| self.named(guest, key, value, made_s)).collect();
        for volume in named {
            let key = self.volume_key(&guest.node, &volume.volid);
            // A detached disk's line tells no size; a snapshot's may.
            let size_bytes = volume.size_bytes;
            let known = self.volumes.entry(key).or_insert(volume);
            if known.size_bytes == 0 {
                known.size_bytes = size_bytes;
            }
        }
    }

    /// The volume a line names, if it is one of the guest's own on a storage there is.
    fn named(&self, guest: &Guest, key: &str, value: &str, made_s: i64) -> Option<Volume> {
        let is_disk = is_disk_key(guest.kind, key) && !value.contains("media=cdrom");
        if !is_disk && !key.starts_with("unused") {
            return None;
        }
        let volid = volid_of(value);
        let (storage, name) = volid.split_once(':')?;
        let storage = self.storages.get(storage)?;
        let format = match name.rsplit_once('.') {
            Some((_, "qcow2")) => "qcow2",
            Some((_, "vmdk")) => "vmdk",
            _ if name.contains("subvol-") => "subvol",
            _ => "raw",
        };
        let size_bytes = size_of_disk(value).unwrap_or(0);
        let mut volume =
            self.disk_volume(volid, &guest.node, guest.kind, guest.vmid, format, size_bytes, made_s);
        // `base-9000-disk-0/vm-106-disk-0`, or in folders `9000/base-9000-disk-0.qcow2/106/vm-106-disk-0.qcow2`.
        let parts: Vec<&str> = name.split('/').collect();
        volume.parent = match (storage.is_file_based(), &parts[..]) {
            (true, [folder, base, _, _]) => Some(format!("{folder}/{base}")),
            (false, [base, _]) => Some((*base).to_owned()),
            _ => None,
        };
        Some(volume)
    }
}

fn parent(snapshot: &SeedSnapshot) -> Option<String> {
    snapshot.parent.clone().or_else(|| snapshot.config.get("parent").map(plain))
}
