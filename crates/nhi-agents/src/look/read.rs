//! Reads one guest that was found.

use super::{
    Look,
    find::{Found, guest_of, unseen},
};
use futures::future::join_all;
use nhi_decide::sight::{GuestSight, MigrateSight, Seen, SnapshotSight};
use nhi_model::{
    Timestamp,
    guest::{self as model, GuestIdentity},
    key::Key,
};
use nhi_pve::{
    GuestKind, GuestNow, Kind, PveError,
    config::GuestConfig,
    guest::{GuestStatus, Snapshot},
};
use serde_json::Value;
use std::collections::BTreeMap;

impl Look<'_> {
    /// One guest. It may move to another node while it is looked at; then it is looked for once more.
    pub(super) async fn guest(&self, key: &Key, last: Option<&str>) -> GuestSight {
        let Some((kind, vmid)) = guest_of(key) else {
            return unseen(format!("{key} is no guest"));
        };
        let mut moved = None;
        for _ in 0..2 {
            let found = match self.find(kind, vmid, last).await {
                Ok(found) => found,
                Err(sight) => return sight,
            };
            match self.read(key, kind, vmid, found).await {
                Ok(seen) => return GuestSight::Seen(Box::new(seen)),
                Err((node, error)) => {
                    self.note(&node, &error);
                    let why = format!("its status could not be read from node {node}: {}", error.text());
                    if *error.kind() != Kind::Gone {
                        return unseen(why);
                    }
                    moved = Some(why);
                }
            }
        }
        unseen(moved.unwrap_or_default())
    }

    async fn read(
        &self,
        key: &Key,
        kind: GuestKind,
        vmid: u32,
        found: Found,
    ) -> Result<Seen, (String, PveError)> {
        let Found { node, config } = found;
        let reader = self.reader;
        let (now, snapshots, can_snapshot, migrate, newest_backup) = tokio::join!(
            reader.guest_status(kind, &node, vmid),
            self.snapshots(key, kind, &node, vmid),
            reader.guest_feature(kind, &node, vmid, "snapshot"),
            self.migrate(key, kind, &node, vmid, &config),
            self.newest_backup(key, &node, vmid),
        );
        let now = match now {
            Ok(now) => now,
            Err(error) => return Err((node, error)),
        };
        let row = self.frame.row(kind, vmid);
        let hastate = || row.and_then(|row| row.hastate.clone()).unwrap_or_else(|| "managed".to_owned());
        let GuestNow { guest, ha } = now;
        Ok(Seen {
            kind: model_kind(kind),
            vmid,
            name: guest.name.clone().or_else(|| config.name()).unwrap_or_default(),
            status: status(&guest.status, guest.qmpstatus.as_ref(), guest.lock.as_deref()),
            lock: guest.lock.or_else(|| config.lock()),
            template: guest.template || config.template(),
            ha: ha.map(|state| if state.is_empty() { hastate() } else { state }),
            identity: identity(&config),
            config: lines(&config),
            config_whole: true,
            digest: config.digest(),
            snapshot_count: snapshots.as_ref().and_then(|list| u32::try_from(list.len()).ok()),
            snapshots,
            processors: None,
            can_snapshot: can_snapshot.ok(),
            newest_backup,
            migrate,
            pool: row.and_then(|row| row.pool.clone()),
            node,
        })
    }

    async fn snapshots(
        &self,
        key: &Key,
        kind: GuestKind,
        node: &str,
        vmid: u32,
    ) -> Option<Vec<SnapshotSight>> {
        let rows = self.reader.snapshots(kind, node, vmid).await.ok().filter(|rows| rows.unreadable == 0)?;
        let read = rows.into_iter().map(async |row: Snapshot| {
            let is_wanted = self.wanted.snapshot_configs.contains(&(key.clone(), row.name.clone()));
            let config = if is_wanted {
                self.reader.snapshot_config(kind, node, vmid, &row.name).await.ok()
            } else {
                None
            };
            SnapshotSight {
                name: row.name,
                parent: row.parent,
                at: row.snaptime.and_then(second),
                config: config.map(|config| lines(&config)),
            }
        });
        Some(join_all(read).await)
    }

    /// Where it could move. Containers could not be asked before Proxmox VE 9.1.
    async fn migrate(
        &self,
        key: &Key,
        kind: GuestKind,
        node: &str,
        vmid: u32,
        config: &GuestConfig,
    ) -> Option<MigrateSight> {
        if !self.wanted.migrate.contains(key) {
            return None;
        }
        let check = match self.reader.migrate_check(kind, node, vmid).await {
            Ok(check) => check,
            Err(error) if *error.kind() == Kind::NotImplemented => nhi_pve::MigrateCheck::default(),
            Err(_) => return None,
        };
        Some(MigrateSight {
            allowed: check.allowed,
            refused: check.refused,
            local_disks: !check.local_disks.is_empty()
                || kind == GuestKind::Lxc && self.has_local_volume(node, config),
            local_resources: check.local_resources,
        })
    }

    /// Whether a container has a volume on a storage of its node alone: its check does not tell.
    fn has_local_volume(&self, node: &str, config: &GuestConfig) -> bool {
        let storages = || self.frame.resources.iter().flat_map(|index| &index.storages);
        let is_shared = |source: &str| {
            let name = source.split(':').next().unwrap_or_default();
            storages().any(|row| row.storage == name && row.node == node && row.shared)
        };
        config.volumes().values().any(|volume| !volume.source.starts_with('/') && !is_shared(&volume.source))
    }

    /// When its newest visible backup was made; `None` proves nothing, because the lists are filtered by rights.
    async fn newest_backup(&self, key: &Key, node: &str, vmid: u32) -> Option<Timestamp> {
        if !self.wanted.backups.contains(key) {
            return None;
        }
        let rows = self.frame.resources.iter().flat_map(|index| &index.storages);
        let stores = rows.filter(|row| row.node == node && row.content.contains("backup"));
        let asked = stores.map(|row| self.reader.guest_backups(node, &row.storage, vmid));
        let listed = join_all(asked).await.into_iter().flatten().flatten();
        listed.filter(|volume| volume.vmid == Some(vmid)).filter_map(|volume| second(volume.ctime?)).max()
    }
}

const fn model_kind(kind: GuestKind) -> model::GuestKind {
    match kind {
        GuestKind::Qemu => model::GuestKind::Qemu,
        GuestKind::Lxc => model::GuestKind::Lxc,
    }
}

/// As the scanner has it, so that its records verify what was planned on this.
fn status(status: &GuestStatus, qmp: Option<&GuestStatus>, lock: Option<&str>) -> model::GuestStatus {
    match (status, qmp) {
        (GuestStatus::Stopped, _) if lock == Some("suspended") => model::GuestStatus::Suspended,
        (GuestStatus::Stopped, _) => model::GuestStatus::Stopped,
        (GuestStatus::Running, Some(GuestStatus::Paused)) | (GuestStatus::Paused, _) => {
            model::GuestStatus::Paused
        }
        (GuestStatus::Running | GuestStatus::Other(_), _) => model::GuestStatus::Running,
        (GuestStatus::Unknown, _) => model::GuestStatus::Unknown,
    }
}

fn identity(config: &GuestConfig) -> GuestIdentity {
    GuestIdentity {
        uuid: config.smbios_uuid(),
        vmgenid: config.vmgenid(),
        rootfs: config.volumes().get("rootfs").map(|volume| volume.source.clone()),
        created: config.created().and_then(second),
        ..GuestIdentity::default()
    }
}

/// Every line as text, without the digest, which is none.
fn lines(config: &GuestConfig) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Bool(on) => Some(if *on { "1" } else { "0" }.to_owned()),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => Some(value.to_string()),
    };
    let lines = config.raw().iter().filter(|(field, _)| *field != "digest");
    lines.filter_map(|(field, value)| Some((field.clone(), text(value)?))).collect()
}

fn second(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}
