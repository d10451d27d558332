//! What one pass saw of one Proxmox cluster: the only input from which the lab's records are changed.
//!
//! It tells what was *not* seen as carefully as what was: `None` and a part missing from [`GuestSight::read`]
//! mean "not read in this pass", never "empty". It draws no conclusion; [`crate::observe`] does.

use nhi_model::{
    Timestamp,
    guest::{Guest, GuestKind, GuestStatus},
    key::Key,
    lab::{Node, Storage},
    source::Coverage,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One pass over one cluster, or over a stand-alone host.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// When the pass began, UTC. It becomes the `since` of whatever the pass is the first to miss.
    pub at: Timestamp,
    /// The cluster, by its name in the configuration.
    pub cluster: String,
    /// The URL asked, without credentials.
    pub place: String,
    /// What the pass set out to read.
    pub scope: Scope,
    /// The cluster as a whole: `Complete` when the list of nodes was read, so that [`Self::nodes`] has an
    /// entry for each of them; `Unseen` when nothing answered as Proxmox does (unreachable, 401, HTML).
    pub reach: Coverage,
    /// Whether the cluster has its quorum; `None` when nobody could tell. A stand-alone host has.
    pub quorate: Option<bool>,
    /// Whether who answered belongs to a cluster; `Some(false)` on a stand-alone host, `None` when nobody could
    /// tell. A member that was separated, or whose cluster file system runs locally, is quorate all by itself.
    pub clustered: Option<bool>,
    /// The token's rights; `None` when they were not read in this pass.
    pub rights: Option<Rights>,
    /// The certificate at each address of the settings.
    pub certificates: BTreeMap<String, CertificateSight>,
    /// The address that is asked though it does not stand in the settings, because none of those speaks for the
    /// cluster; `None` while one of them does.
    pub detour: Option<Detour>,
    /// Each node the cluster lists, seen or not; in a targeted pass those that were read.
    pub nodes: BTreeMap<String, NodeSight>,
    /// The guest rows of `/cluster/resources`; `None` when it was not read. Hints only: its status may be
    /// minutes old, and a row proves that a guest exists, nothing else.
    pub index: Option<Vec<IndexRow>>,
    /// Guests whose configuration was asked for on one node, which answered that it does not exist.
    pub gone: BTreeSet<Gone>,
    /// Gauges by the key of the record they belong to, as [`nhi_model::live`] shapes them.
    pub live: BTreeMap<Key, Value>,
}

/// What a pass set out to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Full,
    /// Only these. Nodes and guests not named here are left exactly as they are known.
    Only {
        /// Nodes whose lists were asked for.
        nodes: BTreeSet<String>,
        /// Guests that were asked for one by one, wherever they are.
        guests: BTreeSet<GuestRef>,
    },
}

/// A guest within a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestRef {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
}

/// The rights of the token that asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Whether `VM.Audit` holds on every guest (`/` or `/vms`, nothing below takes it away).
    pub sees_all_guests: bool,
    /// Whether `Datastore.Audit` holds on every storage.
    pub sees_all_storages: bool,
    /// Privileges that are missing, each with what stays invisible without it.
    pub missing: BTreeMap<String, String>,
    /// Digest of the whole answer, so that a change of rights between two passes is noticed.
    pub digest: String,
}

/// The certificate at one address, as of the newest connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSight {
    /// Nothing was connected to since the scanner started.
    NotSeen,
    /// It is what the settings say.
    AsSet,
    /// It is not the pinned one, but the pinned authority signed it.
    Rotated {
        /// SHA-256 of it.
        fingerprint: String,
    },
}

/// An address that the cluster told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detour {
    /// The address, as a URL.
    pub address: String,
    /// The node behind it.
    pub node: String,
}

/// What was seen of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSight {
    /// How much of it was seen. The reason becomes the reason of what goes stale: keep it free of times
    /// and counts, or every pass writes it anew.
    pub coverage: Coverage,
    /// The node itself; `None` when nothing can be said about it. An offline node has a record that says so.
    pub record: Option<Node>,
    /// The lists that were read to their end: what they do not name was not on the node. A list missing here was
    /// not asked for when `coverage` is complete or the pass has a narrow scope, and failed otherwise.
    pub lists: BTreeSet<List>,
    /// Guests seen on it.
    pub guests: Vec<GuestSight>,
    /// Storages seen on it.
    pub storages: Vec<Storage>,
}

/// A list one node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum List {
    /// Its virtual machines.
    Qemu,
    /// Its containers.
    Lxc,
    /// Its storages.
    Storage,
}

/// A guest as it was seen on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSight {
    /// What was seen. Fields of parts that are not in `read` may hold anything. An empty name means that
    /// Proxmox told none.
    pub guest: Guest,
    /// The parts that were read in this pass; the others keep what is known.
    pub read: BTreeSet<Part>,
    /// Why its configuration, though asked for, could not be read; `None` when it was, or nobody asked.
    pub unread_config: Option<String>,
    /// Whether a paused machine would have shown as paused: the plain list of virtual machines calls it running.
    pub tells_pause: bool,
}

/// A part of a guest's record, by the call that tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// `/nodes/{n}/qemu` or `/lxc`: name, status, template, tags, lock, cpus, memory, disk. Virtual machines
    /// read without `full=1` do not tell whether they are paused ([`GuestSight::tells_pause`]).
    List,
    /// `/cluster/resources` or the pool and HA lists: pool, HA.
    Membership,
    /// `/config`: protection, onboot, os, nics, volumes, notes, digest, identity.
    Config,
    /// Guest agent or container interfaces: addresses and where they come from.
    Addresses,
    /// The list of snapshots: their number.
    Snapshots,
    /// The lists of backups, all of them: what they do not name is not there.
    Backups,
    /// What shows of backups where not all lists may be seen: the task logs, and the lists that may. It proves that
    /// there is one, never that there is none.
    BackupTraces,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 7] = [
        Self::List,
        Self::Membership,
        Self::Config,
        Self::Addresses,
        Self::Snapshots,
        Self::Backups,
        Self::BackupTraces,
    ];
}

/// A guest's row in `/cluster/resources`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
    /// The node it is on.
    pub node: String,
    /// Its status as the statistics had it; `Unknown` when they are too old.
    pub status: GuestStatus,
    /// Its name; absent together with a known status.
    pub name: Option<String>,
    /// Its tags; current even when the status is not.
    pub tags: Vec<String>,
    /// Its pool; current as well.
    pub pool: Option<String>,
    /// Its lock; current as well.
    pub lock: Option<String>,
}

/// A node's answer that a guest's configuration does not exist there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gone {
    /// Which guest.
    pub guest: GuestRef,
    /// The node that said so.
    pub node: String,
}

/// The key of a cluster's source record and of its gauges.
///
/// The prefix keeps a cluster named `projects` or `graph` apart from those sources.
pub fn source_key(cluster: &str) -> Key {
    Key::source(&format!("proxmox-{cluster}"))
}
