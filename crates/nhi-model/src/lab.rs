//! The machines of the lab that are not guests: hypervisor nodes, their storages, reporting hosts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Whether a node answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NodeStatus {
    /// It answers.
    Online,
    /// The cluster says it does not, or a proxied call ended in 595-599.
    Offline,
    /// Nobody could tell.
    Unknown,
}

impl NodeStatus {
    /// The word as it stands in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Unknown => "unknown",
        }
    }
}

/// A hypervisor node, under `node.<cluster>.<node>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Node {
    /// Cluster it belongs to, by its name in the configuration.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// Whether it answers.
    pub status: NodeStatus,
    /// Its address inside the cluster, where the cluster tells it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Root file system, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Proxmox VE version of the node (`9.1.1`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pve_version: Option<String>,
    /// Kernel release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// SHA-256 of its certificate, `AB:CD:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssl_fingerprint: Option<String>,
    /// Subscription level, `""` when there is none.
    #[serde(default)]
    pub level: String,
}

/// A storage as one node sees it, under `storage.<cluster>.<node>.<storage>`. Totals are gauges: ZFS
/// moves them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Storage {
    /// Cluster.
    pub cluster: String,
    /// Node.
    pub node: String,
    /// Its name.
    pub storage: String,
    /// Proxmox's type (`dir`, `lvmthin`, `zfspool`, `nfs`, `pbs`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it may hold (`images`, `rootdir`, `backup`, `iso`, …), sorted.
    #[serde(default)]
    pub content: Vec<String>,
    /// Whether several nodes share it.
    pub shared: bool,
    /// Whether it is reachable now.
    pub active: Option<bool>,
    /// Whether it is switched on in the configuration.
    pub enabled: Option<bool>,
}

/// A machine that reports about itself, under `host.<host>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// Its identity.
    pub host: String,
    /// Operating system, as it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Version of `nhi` that reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Further facts it reports, at most 64.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
}
