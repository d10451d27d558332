//! Storages and the volumes on them. Space is bookkeeping only: a full storage is a fault, not a sum.

use serde::{Deserialize, Serialize};

/// A storage definition of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Its name.
    pub id: String,
    /// `dir`, `lvmthin`, `zfspool`, `nfs`, `pbs`, …
    pub kind: String,
    /// What it may hold, as PVE lists it (`images,rootdir`).
    pub content: String,
    /// Whether all nodes see the same one.
    #[serde(default)]
    pub shared: bool,
    /// Nodes it is limited to; empty means all.
    #[serde(default)]
    pub nodes: Vec<String>,
    /// Capacity, bytes.
    pub total_bytes: u64,
    /// Used besides the volumes the lab knows, bytes.
    #[serde(default)]
    pub used_bytes: u64,
    /// Switched off in the configuration.
    #[serde(default)]
    pub disabled: bool,
    /// Where it is: path, server or pool, for people.
    #[serde(default)]
    pub location: String,
}

impl Storage {
    /// Whether a node can use it.
    pub fn is_on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.iter().any(|name| name == node)
    }

    /// Whether it may hold this kind of content.
    pub fn holds(&self, content: &str) -> bool {
        self.content.split(',').any(|one| one == content)
    }

    /// Whether volumes are files in folders (their names have a path).
    pub fn is_file_based(&self) -> bool {
        matches!(self.kind.as_str(), "dir" | "nfs" | "cifs" | "btrfs")
    }

    /// Whether a snapshot of a volume here is possible, given the volume's format.
    pub fn can_snapshot(&self, format: &str) -> bool {
        match self.kind.as_str() {
            "zfspool" | "lvmthin" | "rbd" | "btrfs" => true,
            "dir" | "nfs" | "cifs" => format == "qcow2",
            _ => false,
        }
    }

    /// Format of a new disk.
    pub fn format(&self, virtual_machine: bool) -> &'static str {
        match (self.is_file_based(), virtual_machine) {
            (true, true) => "qcow2",
            (true, false) | (false, _) => match self.kind.as_str() {
                "zfspool" if !virtual_machine => "subvol",
                _ => "raw",
            },
        }
    }

    /// The volume name of a guest's disk.
    pub fn disk_name(&self, vmid: u32, number: u32, format: &str, base: bool) -> String {
        let stem = match (base, format) {
            (true, "subvol") => "basevol",
            (true, _) => "base",
            (false, "subvol") => "subvol",
            (false, _) => "vm",
        };
        if self.is_file_based() {
            format!("{vmid}/{stem}-{vmid}-disk-{number}.{format}")
        } else {
            format!("{stem}-{vmid}-disk-{number}")
        }
    }
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// `storage:name`.
    pub volid: String,
    /// The node whose local storage holds it; `None` on a shared one.
    pub node: Option<String>,
    /// `images`, `rootdir`, `backup`, `iso`, `vztmpl`, `snippets`.
    pub content: String,
    /// `raw`, `qcow2`, `subvol`, `iso`, `tzst`, `vma.zst`, `pbs-vm`, …
    pub format: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Its guest.
    pub vmid: Option<u32>,
    /// When it was made, seconds.
    pub made_s: i64,
    /// Free text on backups.
    pub notes: String,
    /// Whether pruning spares it.
    pub protected: bool,
    /// The base volume it was linked from, where the storage can tell.
    pub parent: Option<String>,
    /// The guest's configuration inside a backup.
    pub saved_config: Option<super::guest::Config>,
}

impl Volume {
    /// The storage part of its id.
    pub fn storage(&self) -> &str {
        self.volid.split_once(':').map_or("", |(storage, _)| storage)
    }

    /// The name part of its id.
    pub fn name(&self) -> &str {
        self.volid.split_once(':').map_or("", |(_, name)| name)
    }
}
