//! What a lab starts from: a description that can be built in code ([`Seed::demo`], [`Seed::large`]), read
//! from a JSON file of its own schema, or from Neural-Home's `state.json`. It holds no run-time state.

mod demo;
mod large;
mod of_lab;
mod state_json;

use crate::lab::{
    guest::{Agent, Kind},
    storage::Storage,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The whole description. As JSON this is the schema of a seed file; unknown keys are errors.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Name of the cluster. Absent: a stand-alone host.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Nodes; at least one. The first is the one that is asked.
    pub nodes: Vec<SeedNode>,
    /// Storages.
    #[serde(default)]
    pub storages: Vec<Storage>,
    /// Guests.
    #[serde(default)]
    pub guests: Vec<SeedGuest>,
    /// Comments of pools by name; guests name their pool themselves.
    #[serde(default)]
    pub pools: BTreeMap<String, String>,
    /// Files on storages that belong to no guest (ISO images, container templates).
    #[serde(default)]
    pub files: Vec<SeedFile>,
    /// Backup jobs by id, with PVE's own field names.
    #[serde(default)]
    pub backup_jobs: BTreeMap<String, BTreeMap<String, Value>>,
    /// Replication jobs by id (`103-0`), with PVE's own field names.
    #[serde(default)]
    pub replication_jobs: BTreeMap<String, BTreeMap<String, Value>>,
    /// Options of the data centre (`registered-tags`, …).
    #[serde(default)]
    pub options: BTreeMap<String, String>,
}

/// A node.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedNode {
    /// Its name.
    pub name: String,
    /// Its address in the cluster network.
    pub address: String,
    /// Processors.
    #[serde(default = "eight")]
    pub cpus: u32,
    /// Memory, GiB.
    #[serde(default = "thirty_two")]
    pub memory_gib: u32,
    /// Root file system, GiB.
    #[serde(default = "hundred")]
    pub disk_gib: u32,
    /// How long it has been up, seconds.
    #[serde(default = "a_month")]
    pub uptime_s: u32,
    /// Processor name.
    #[serde(default = "processor")]
    pub processor: String,
}

/// A guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedGuest {
    /// Its number, 100 or more.
    pub vmid: u32,
    /// `qemu` or `lxc`.
    pub kind: Kind,
    /// Its node.
    pub node: String,
    /// Its name.
    pub name: String,
    /// Whether it runs.
    #[serde(default)]
    pub running: bool,
    /// Whether it is a running virtual machine that was paused.
    #[serde(default)]
    pub paused: bool,
    /// How long it has been up, seconds.
    #[serde(default = "two_weeks")]
    pub uptime_s: u32,
    /// How long ago it was made, seconds.
    #[serde(default = "a_year")]
    pub age_s: u32,
    /// Lines of its configuration, with PVE's own names; anything missing that PVE always writes is filled in.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
    /// What is behind its agent channel.
    #[serde(default = "agent_running")]
    pub agent: Agent,
    /// Addresses of its first card, with prefix length.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Its pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// Its HA state (`started`, `stopped`, …), if it is managed.
    #[serde(default)]
    pub ha: Option<String>,
    /// Snapshots, oldest first, each the parent of the next.
    #[serde(default)]
    pub snapshots: Vec<SeedSnapshot>,
    /// Backups.
    #[serde(default)]
    pub backups: Vec<SeedBackup>,
    /// The template it was linked from.
    #[serde(default)]
    pub linked_to: Option<u32>,
    /// Copied from a real one: nothing is filled in, every line is as it stands in `config`, and disks are the volumes
    /// that these lines name.
    #[serde(default)]
    pub verbatim: bool,
    /// The digest its configuration shows until it changes; made of the lines when absent.
    #[serde(default)]
    pub digest: Option<String>,
    /// Changes that wait for its next start; `null` for a line that goes.
    #[serde(default)]
    pub pending: BTreeMap<String, Value>,
}

/// A snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedSnapshot {
    /// Its name.
    pub name: String,
    /// Age, seconds.
    pub age_s: u32,
    /// Free text.
    #[serde(default)]
    pub description: String,
    /// Lines that differed from the guest's present configuration; `null` for a line it did not have.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
    /// `config` has every line of that moment, not only those that differed.
    #[serde(default)]
    pub whole: bool,
    /// The snapshot before it, of a guest that is `verbatim`; else it is the one before it in the list.
    #[serde(default)]
    pub parent: Option<String>,
    /// With memory.
    #[serde(default)]
    pub memory: bool,
}

/// A backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedBackup {
    /// Where.
    pub storage: String,
    /// Age, seconds.
    pub age_s: u32,
    /// Spared by pruning.
    #[serde(default)]
    pub protected: bool,
}

/// A file on a storage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeedFile {
    /// `storage:iso/name.iso`, `storage:vztmpl/name.tar.zst`.
    pub volid: String,
    /// The node, on a local storage.
    #[serde(default)]
    pub node: Option<String>,
    /// Bytes.
    pub size_bytes: u64,
}

const fn eight() -> u32 {
    8
}

const fn thirty_two() -> u32 {
    32
}

const fn hundred() -> u32 {
    100
}

const fn a_month() -> u32 {
    30 * 86_400
}

const fn two_weeks() -> u32 {
    14 * 86_400
}

const fn a_year() -> u32 {
    365 * 86_400
}

fn processor() -> String {
    "Intel(R) N100".to_owned()
}

const fn agent_running() -> Agent {
    Agent::Running
}

/// Why a seed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// Not JSON of the schema.
    #[error("the seed is not valid: {reason}; see docs/simulator.md for its schema")]
    Syntax {
        /// What the parser says, with line and column.
        reason: String,
    },
    /// It contradicts itself.
    #[error("the seed is not consistent: {reason}")]
    Inconsistent {
        /// What is wrong, naming it.
        reason: String,
    },
}

impl Seed {
    /// Reads a seed file: its own schema, or a `state.json` of Neural-Home (recognised by `infrastructure`).
    pub fn from_json(text: &str) -> Result<Self, SeedError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| SeedError::Syntax { reason: error.to_string() })?;
        let seed = if value.get("infrastructure").is_some() {
            state_json::seed(&value)?
        } else {
            serde_json::from_value(value).map_err(|error| SeedError::Syntax { reason: error.to_string() })?
        };
        seed.check()?;
        Ok(seed)
    }

    /// A believable home: three nodes, about twenty guests.
    pub fn demo() -> Self {
        demo::seed()
    }

    /// Many nodes and guests, for measurements.
    pub fn large(nodes: u32, guests: u32) -> Self {
        large::seed(nodes, guests)
    }

    /// Checks what the lab will rely on.
    pub fn check(&self) -> Result<(), SeedError> {
        let wrong = |reason: String| Err(SeedError::Inconsistent { reason });
        if self.nodes.is_empty() {
            return wrong("it has no node".to_owned());
        }
        if let Some(node) = self.nodes.iter().find(|node| !crate::lab::task::is_node_name(&node.name)) {
            return wrong(format!("{:?} cannot be the name of a node", node.name));
        }
        if self.cluster.is_none() && self.nodes.len() > 1 {
            return wrong("a stand-alone host has one node; name a cluster for more".to_owned());
        }
        let mut seen = std::collections::BTreeSet::new();
        for guest in &self.guests {
            if guest.vmid < 100 {
                return wrong(format!("guest {} has a number below 100", guest.vmid));
            }
            if !seen.insert(guest.vmid) {
                return wrong(format!("the number {} is used twice", guest.vmid));
            }
            if !self.nodes.iter().any(|node| node.name == guest.node) {
                return wrong(format!(
                    "guest {} is on node {:?}, which is not there",
                    guest.vmid, guest.node
                ));
            }
        }
        Ok(())
    }
}
