//! What was seen of one cluster at one moment: live, for planning and acting, or as the scanner's records have it,
//! for verifying. It draws no conclusions; [`crate::fact`] and [`crate::plan`] do.

use crate::observe::Known;
use nhi_model::{
    Timestamp,
    guest::{Backups, Guest, GuestIdentity, GuestKind, GuestStatus},
    key::{Key, Section},
    lab::{Node, NodeStatus, Storage},
};
use std::collections::{BTreeMap, BTreeSet};

/// What was seen of one cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Sight {
    /// The cluster.
    pub cluster: String,
    /// When it was looked, UTC.
    pub at: Timestamp,
    /// Whether the cluster has its quorum; `None` when nobody could tell. A stand-alone host has.
    pub quorate: Option<bool>,
    /// Nodes by name. One that is not here was not looked at.
    pub nodes: BTreeMap<String, NodeSight>,
    /// Guests by key.
    pub guests: BTreeMap<Key, GuestSight>,
    /// Storages by node and name.
    pub storages: BTreeMap<(String, String), StorageSight>,
    /// Whether a guest that is not in `guests` is not there. A live look says nothing of what it did not look at;
    /// the records have every guest, and lose one only when it is proved to be gone.
    pub absent_is_gone: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSight {
    /// Whether it answers.
    pub online: bool,
    /// Free memory, bytes.
    pub memory_free_bytes: Option<u64>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestSight {
    /// It is there.
    Seen(Box<Seen>),
    /// No guest of this number is on any node, and each was asked.
    Gone,
    /// It could not be seen.
    Unseen {
        /// Why, one sentence.
        why: String,
    },
}

/// A guest that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
    /// The node it is on.
    pub node: String,
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub status: GuestStatus,
    /// Lock held on it.
    pub lock: Option<String>,
    /// Whether it is a template.
    pub template: bool,
    /// HA state; `None` when HA does not manage it.
    pub ha: Option<String>,
    /// What tells it from a later guest with its number.
    pub identity: GuestIdentity,
    /// Its configuration, every line as text, without `digest`. Of a record: the lines it knows.
    pub config: BTreeMap<String, String>,
    /// Whether `config` has every line, so that one that is missing is not there.
    pub config_whole: bool,
    /// Proxmox's digest of the configuration; never of a record.
    pub digest: Option<String>,
    /// Its snapshots; `None` when they were not listed.
    pub snapshots: Option<Vec<SnapshotSight>>,
    /// How many snapshots it has, where only that is known.
    pub snapshot_count: Option<u32>,
    /// Virtual processors as its node's list has them; records only.
    pub processors: Option<u32>,
    /// Whether Proxmox says that it can make snapshots of it.
    pub can_snapshot: Option<bool>,
    /// When its newest visible backup was made, UTC.
    pub newest_backup: Option<Timestamp>,
    /// What Proxmox says of moving it; `None` when it was not asked.
    pub migrate: Option<MigrateSight>,
    /// Resource pool.
    pub pool: Option<String>,
}

/// A snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotSight {
    /// Its name.
    pub name: String,
    /// The one it was made after.
    pub parent: Option<String>,
    /// When it was made, UTC.
    pub at: Option<Timestamp>,
    /// The configuration it keeps; read only for rollbacks.
    pub config: Option<BTreeMap<String, String>>,
}

/// What Proxmox says of moving a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateSight {
    /// Nodes it may go to; `None` when Proxmox does not say (containers before 9.1).
    pub allowed: Option<BTreeSet<String>>,
    /// Nodes it may not go to, and why.
    pub refused: BTreeMap<String, String>,
    /// Whether disks lie on the node itself and have to be copied.
    pub local_disks: bool,
    /// Devices of the node that it uses.
    pub local_resources: Vec<String>,
}

/// A storage as one node has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageSight {
    /// Proxmox's type (`lvmthin`, `zfspool`, `dir`, …).
    pub kind: Option<String>,
    /// What it may hold.
    pub content: BTreeSet<String>,
    /// Whether several nodes share it.
    pub shared: bool,
    /// Whether it is reachable.
    pub active: bool,
    /// Free room, bytes.
    pub free_bytes: Option<u64>,
}

impl Sight {
    /// A sight in which nothing was looked at yet.
    pub const fn nothing(cluster: String, at: Timestamp) -> Self {
        Self {
            cluster,
            at,
            quorate: None,
            nodes: BTreeMap::new(),
            guests: BTreeMap::new(),
            storages: BTreeMap::new(),
            absent_is_gone: false,
        }
    }

    /// What the scanner's records say of a cluster. A stale record is unseen.
    pub fn of_records(cluster: &str, at: Timestamp, records: &BTreeMap<Key, Known>) -> Self {
        let mut sight = Self::nothing(cluster.to_owned(), at);
        sight.absent_is_gone = true;
        for (key, known) in records {
            match key.section() {
                Section::Vm | Section::Lxc => {
                    if is_of(key, cluster) {
                        sight.guests.insert(key.clone(), guest_of_record(known));
                    }
                }
                Section::Node => {
                    if known.stale.is_none()
                        && let Some(node) = known.typed::<Node>().filter(|node| node.cluster == cluster)
                    {
                        let online = node.status == NodeStatus::Online;
                        sight.nodes.insert(node.node, NodeSight { online, memory_free_bytes: None });
                    }
                }
                Section::Storage => {
                    if known.stale.is_none()
                        && let Some(storage) = known.typed::<Storage>().filter(|row| row.cluster == cluster)
                    {
                        let (name, seen) = storage_of_record(storage);
                        sight.storages.insert(name, seen);
                    }
                }
                Section::Source
                | Section::Host
                | Section::Gpu
                | Section::Docker
                | Section::Project
                | Section::Provider
                | Section::Graph
                | Section::Alert => {}
            }
        }
        sight
    }

    /// The guest, when it was seen.
    pub fn seen(&self, guest: &Key) -> Option<&Seen> {
        match self.guests.get(guest)? {
            GuestSight::Seen(seen) => Some(seen),
            GuestSight::Gone | GuestSight::Unseen { .. } => None,
        }
    }

    /// The guest, when it was seen, to be changed.
    pub fn seen_mut(&mut self, guest: &Key) -> Option<&mut Seen> {
        match self.guests.get_mut(guest)? {
            GuestSight::Seen(seen) => Some(seen),
            GuestSight::Gone | GuestSight::Unseen { .. } => None,
        }
    }
}

impl Seen {
    /// Its tags.
    pub fn tags(&self) -> BTreeSet<String> {
        self.config.get("tags").map(|line| tags(line)).unwrap_or_default()
    }

    /// Whether a line that is a switch is on; `None` when the line may be there and was not read.
    pub fn flag(&self, field: &str) -> Option<bool> {
        match self.config.get(field) {
            Some(line) => Some(is_on(line)),
            None => self.config_whole.then_some(false),
        }
    }
}

/// The tags of a configuration line, which separates them in three ways.
pub fn tags(line: &str) -> BTreeSet<String> {
    line.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Whether a configuration line that is a switch is on.
pub fn is_on(line: &str) -> bool {
    matches!(line, "1" | "yes" | "on" | "true")
}

fn is_of(key: &Key, cluster: &str) -> bool {
    key.tokens().first().is_some_and(|first| first == cluster)
}

fn guest_of_record(known: &Known) -> GuestSight {
    if let Some(stale) = &known.stale {
        return GuestSight::Unseen { why: stale.reason.clone() };
    }
    match known.typed::<Guest>() {
        Some(guest) => GuestSight::Seen(Box::new(seen_of_record(guest))),
        None => GuestSight::Unseen { why: "its record has another shape than this program knows".to_owned() },
    }
}

/// A guest as its record has it.
pub fn seen_of_record(guest: Guest) -> Seen {
    let config = lines_of_record(&guest);
    Seen {
        kind: guest.kind,
        vmid: guest.vmid,
        node: guest.node,
        name: guest.name,
        status: guest.status,
        lock: guest.lock,
        template: guest.template,
        ha: guest.ha.map(|ha| ha.state),
        identity: guest.identity,
        config,
        config_whole: false,
        digest: None,
        snapshots: None,
        snapshot_count: guest.snapshots,
        processors: guest.cpus,
        can_snapshot: None,
        newest_backup: match guest.backups {
            Backups::Newest { at, .. } => Some(at),
            Backups::None | Backups::NotVisible => None,
        },
        migrate: None,
        pool: guest.pool,
    }
}

/// The configuration lines a record knows. An empty one is known not to be there.
fn lines_of_record(guest: &Guest) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let mut line = |field: &str, value: String| {
        lines.insert(field.to_owned(), value);
    };
    line("tags", guest.tags.join(";"));
    if let Some(bytes) = guest.memory_bytes
        && bytes % MIB == 0
    {
        line("memory", (bytes / MIB).to_string());
    }
    let flag = |on| if on { "1" } else { "0" }.to_owned();
    // Protection is told by the configuration alone, so where it is known all of these are.
    if let Some(protection) = guest.protection {
        line("protection", flag(protection));
        line("onboot", flag(guest.onboot.unwrap_or(false)));
        line("description", guest.notes.clone().unwrap_or_default());
        let disks = guest.volumes.iter().filter(|(field, source)| is_disk(guest.kind, field, source));
        let only = if disks.clone().count() == 1 { guest.disk_bytes } else { None };
        for (field, source) in disks {
            // The record has one size: that of the disk it boots from.
            let known = if field == "rootfs" { guest.disk_bytes } else { only };
            let size = known.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
            line(field, format!("{source}{size}"));
        }
    }
    lines
}

const MIB: u64 = 1024 * 1024;

/// Whether a configuration line is a disk of the guest's own: no drive for images, no small firmware disk, no unused
/// volume.
pub fn is_disk(kind: GuestKind, field: &str, value: &str) -> bool {
    let numbered = |bus: &str| {
        field.strip_prefix(bus).is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match kind {
        GuestKind::Lxc => field == "rootfs" || numbered("mp"),
        GuestKind::Qemu => {
            let first = value.split(',').next().unwrap_or_default();
            let drive = value.split(',').any(|part| part == "media=cdrom");
            // A record keeps the volume alone: an image or an empty drive shows in its name.
            let image =
                first == "none" || first == "cdrom" || first.contains(":iso/") || first.contains("cloudinit");
            ["scsi", "virtio", "sata", "ide"].into_iter().any(numbered) && !drive && !image
        }
    }
}

fn storage_of_record(storage: Storage) -> ((String, String), StorageSight) {
    let seen = StorageSight {
        kind: storage.kind,
        content: storage.content.into_iter().collect(),
        shared: storage.shared,
        active: storage.active == Some(true) && storage.enabled != Some(false),
        free_bytes: None,
    };
    ((storage.node, storage.storage), seen)
}
