//! What a node tells: itself, its storages, the backups on them, its tasks.

use crate::{
    fields::{Fields, as_number},
    rows::Row,
};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The `status` word of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    /// `online`.
    Online,
    /// `offline`.
    Offline,
    /// `unknown`, none, or a word we do not know.
    Unknown,
}

/// A node in `/nodes` or `/cluster/resources`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRow {
    /// Its name.
    pub node: String,
    /// Whether the cluster sees it.
    pub status: NodeStatus,
    /// Processor load, 0..1 of all processors.
    pub cpu: Option<f64>,
    /// Processors.
    pub maxcpu: Option<u32>,
    /// Memory used, bytes.
    pub mem: Option<u64>,
    /// Memory, bytes.
    pub maxmem: Option<u64>,
    /// Root file system used, bytes.
    pub disk: Option<u64>,
    /// Root file system, bytes.
    pub maxdisk: Option<u64>,
    /// Seconds since boot.
    pub uptime: Option<u64>,
    /// SHA-256 of its certificate, `AB:CD:…` (only `/nodes`).
    pub ssl_fingerprint: Option<String>,
    /// Subscription level; absent when there is none.
    pub level: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for NodeRow {
    const WHAT: &'static str = "node";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("type"), fields.take("id"), fields.take("cgroup-mode"));
        let status = match fields.text("status").as_deref() {
            Some("online") => NodeStatus::Online,
            Some("offline") => NodeStatus::Offline,
            Some(_) | None => NodeStatus::Unknown,
        };
        Some(Self {
            node: fields.text("node")?,
            status,
            cpu: fields.number("cpu"),
            maxcpu: fields.small("maxcpu"),
            mem: fields.whole("mem"),
            maxmem: fields.whole("maxmem"),
            disk: fields.whole("disk"),
            maxdisk: fields.whole("maxdisk"),
            uptime: fields.whole("uptime"),
            ssl_fingerprint: fields.text("ssl_fingerprint"),
            level: fields.text("level"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// `/nodes/{node}/status`.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeState {
    /// As Proxmox writes it (`pve-manager/9.1.1/2a5fa54a8503f96d`); see [`NodeState::pve_version`].
    pub pveversion: Option<String>,
    /// Kernel release (`6.17.2-1-pve`).
    pub kernel: Option<String>,
    /// Processor load, 0..1 of all processors.
    pub cpu: Option<f64>,
    /// Logical processors.
    pub cpus: Option<u32>,
    /// Physical cores.
    pub cores: Option<u32>,
    /// Sockets.
    pub sockets: Option<u32>,
    /// Name of the processor.
    pub cpu_model: Option<String>,
    /// Memory.
    pub memory: Space,
    /// Swap.
    pub swap: Space,
    /// Root file system.
    pub rootfs: Space,
    /// Load of 1, 5 and 15 minutes, processes.
    pub loadavg: Vec<f64>,
    /// Seconds since boot.
    pub uptime: Option<u64>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl NodeState {
    /// The version alone (`9.1.1`).
    pub fn pve_version(&self) -> Option<&str> {
        self.pveversion.as_deref()?.split('/').nth(1).filter(|version| !version.is_empty())
    }
}

/// Something that fills up, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Size, bytes.
    pub total: Option<u64>,
    /// Used, bytes.
    pub used: Option<u64>,
    /// Free, bytes.
    pub free: Option<u64>,
}

impl Space {
    fn read(fields: &mut Fields, key: &str) -> Self {
        let Some(mut fields) = fields.object(key) else {
            return Self::default();
        };
        Self { total: fields.whole("total"), used: fields.whole("used"), free: fields.whole("free") }
    }
}

impl Row for NodeState {
    const WHAT: &'static str = "node-status";

    fn read(fields: &mut Fields) -> Option<Self> {
        for uninteresting in ["boot-info", "cpuinfo-flags", "idle", "wait", "ksm"] {
            let _ = fields.take(uninteresting);
        }
        // "Linux 6.8.12-1-pve #1 SMP …" until Proxmox VE 8.1, an object beside it since.
        let older = fields.text("kversion").and_then(|text| text.split(' ').nth(1).map(str::to_owned));
        let kernel = fields.object("current-kernel").and_then(|mut kernel| kernel.text("release"));
        let mut cpuinfo = fields.object("cpuinfo");
        let mut info = |key: &str| cpuinfo.as_mut().and_then(|info| info.small(key));
        let (cpus, cores, sockets) = (info("cpus"), info("cores"), info("sockets"));
        let loadavg = fields.list("loadavg").unwrap_or_default();
        Some(Self {
            pveversion: fields.text("pveversion"),
            kernel: kernel.or(older),
            cpu: fields.number("cpu"),
            cpus,
            cores,
            sockets,
            cpu_model: cpuinfo.as_mut().and_then(|info| info.text("model")),
            memory: Space::read(fields, "memory"),
            swap: Space::read(fields, "swap"),
            rootfs: Space::read(fields, "rootfs"),
            loadavg: loadavg.iter().filter_map(as_number).take(3).collect(),
            uptime: fields.whole("uptime"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A storage as its node sees it (`/nodes/{node}/storage`).
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// Its name.
    pub storage: String,
    /// Type (`dir`, `lvmthin`, `zfspool`, `nfs`, `pbs`, …).
    pub kind: Option<String>,
    /// What it may hold (`images`, `rootdir`, `backup`, `iso`, …).
    pub content: BTreeSet<String>,
    /// Whether several nodes share it.
    pub shared: bool,
    /// Whether it is reachable now.
    pub active: Option<bool>,
    /// Whether it is switched on in the configuration.
    pub enabled: Option<bool>,
    /// Size, used and available, bytes.
    pub space: Space,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for Storage {
    const WHAT: &'static str = "storage";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = fields.take("used_fraction");
        let space =
            Space { total: fields.whole("total"), used: fields.whole("used"), free: fields.whole("avail") };
        Some(Self {
            storage: fields.text("storage")?,
            kind: fields.text("type"),
            content: fields.words("content"),
            shared: fields.flag("shared").unwrap_or(false),
            active: fields.flag("active"),
            enabled: fields.flag("enabled"),
            space,
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A storage in `/cluster/resources`, once per node: from statistics that may be 300 s old.
#[derive(Clone, Debug, PartialEq)]
pub struct StorageResource {
    /// Its name.
    pub storage: String,
    /// The node that sees it.
    pub node: String,
    /// Type (`dir`, `lvmthin`, …).
    pub kind: Option<String>,
    /// What it may hold.
    pub content: BTreeSet<String>,
    /// Whether several nodes share it.
    pub shared: bool,
    /// `available`, `unknown`, …
    pub status: Option<String>,
    /// Used, bytes.
    pub disk: Option<u64>,
    /// Size, bytes.
    pub maxdisk: Option<u64>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for StorageResource {
    const WHAT: &'static str = "resource-storage";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("type"), fields.take("id"));
        Some(Self {
            storage: fields.text("storage")?,
            node: fields.text("node")?,
            kind: fields.text("plugintype"),
            content: fields.words("content"),
            shared: fields.flag("shared").unwrap_or(false),
            status: fields.text("status"),
            disk: fields.whole("disk"),
            maxdisk: fields.whole("maxdisk"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A backup on a storage. The list is filtered by rights in silence (Datastore.AllocateSpace on the storage *and*
/// VM.Backup on the guest): an empty one is no proof that there are none.
#[derive(Clone, Debug, PartialEq)]
pub struct BackupVolume {
    /// Volume id (`backups:backup/vzdump-qemu-100-2026_01_01-02_00_00.vma.zst`).
    pub volid: String,
    /// The guest it is of.
    pub vmid: Option<u32>,
    /// `qemu` or `lxc`, where told.
    pub subtype: Option<String>,
    /// When it was made, seconds since 1970 UTC.
    pub ctime: Option<u64>,
    /// Size, bytes.
    pub size: Option<u64>,
    /// Format (`vma.zst`, `tar.zst`, `pbs-vm`, …).
    pub format: Option<String>,
    /// First line of its notes.
    pub notes: Option<String>,
    /// Whether it is kept from pruning.
    pub protected: bool,
    /// State of its last verification (Proxmox Backup Server only).
    pub verification: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for BackupVolume {
    const WHAT: &'static str = "backup";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("content"), fields.take("used"), fields.take("encrypted"));
        Some(Self {
            volid: fields.text("volid")?,
            vmid: fields.small("vmid"),
            subtype: fields.text("subtype"),
            ctime: fields.whole("ctime"),
            size: fields.whole("size"),
            format: fields.text("format"),
            notes: fields.text("notes"),
            protected: fields.flag("protected").unwrap_or(false),
            verification: fields.object("verification").and_then(|mut last| last.text("state")),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A task in a node's log (`/nodes/{node}/tasks`).
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its UPID.
    pub upid: String,
    /// The node it runs on.
    pub node: Option<String>,
    /// Type (`vzdump`, `qmstart`, …).
    pub kind: String,
    /// What it is about, mostly a vmid; absent for a job over several guests.
    pub id: Option<String>,
    /// Who started it.
    pub user: Option<String>,
    /// Start, seconds since 1970 UTC.
    pub starttime: u64,
    /// End, seconds since 1970 UTC; absent while it runs.
    pub endtime: Option<u64>,
    /// Exit status (`OK`, `WARNINGS: n`, or the error); `RUNNING` or absent while it runs.
    pub status: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Task {
    /// Whether it still runs.
    pub fn running(&self) -> bool {
        self.endtime.is_none() && self.status.as_deref().is_none_or(|status| status == "RUNNING")
    }

    /// Whether it ended well; warnings are well.
    pub fn succeeded(&self) -> bool {
        self.status.as_deref().is_some_and(|status| status == "OK" || status.starts_with("WARNINGS: "))
    }
}

impl Row for Task {
    const WHAT: &'static str = "task";

    fn read(fields: &mut Fields) -> Option<Self> {
        for uninteresting in ["pid", "pstart", "saved", "tokenid"] {
            let _ = fields.take(uninteresting);
        }
        Some(Self {
            upid: fields.text("upid")?,
            node: fields.text("node"),
            kind: fields.text("type")?,
            id: fields.text("id"),
            user: fields.text("user"),
            starttime: fields.whole("starttime")?,
            endtime: fields.whole("endtime"),
            status: fields.text("status"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A line of a task's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LogLine {
    /// Its number, from 1.
    pub number: u64,
    /// What it says; "" where it says nothing.
    pub text: String,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for LogLine {
    const WHAT: &'static str = "log-line";

    fn read(fields: &mut Fields) -> Option<Self> {
        let number = fields.whole("n")?;
        Some(Self { number, text: fields.text("t").unwrap_or_default(), rest: Map::new() })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests;
