//! The lab itself: everything a Proxmox VE cluster would remember, changed only by calls and by time that
//! is told to it. Pure and synchronous: no clock, no network, no randomness but its own seeded sequence.

pub mod access;
mod adopt;
mod build;
pub mod edit;
pub mod fault;
pub mod guest;
mod ha;
pub mod login;
pub mod stats;
pub mod storage;
pub mod task;
mod work;
mod work_backup;
mod work_build;
mod work_power;
mod work_snapshot;

use access::{Access, Privileges};
use fault::{Fault, Faults};
use guest::{Guest, Kind};
use login::Session;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stats::Statistics;
use std::collections::BTreeMap;
use storage::{Storage, Volume};
use task::Task;

pub(crate) use build::first_mac;
pub use build::{Identities, TokenSecret};

/// Which Proxmox VE the lab pretends to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PveVersion {
    /// 8.2: error texts only in the reason phrase, `VM.Monitor`, HA groups, resource type `sdn`.
    #[serde(rename = "8.2")]
    V8_2,
    /// 9.1: error texts in the body too, guest agent privileges, HA rules, resource type `network`.
    #[serde(rename = "9.1")]
    V9_1,
}

impl PveVersion {
    /// Its number.
    pub const fn release(self) -> &'static str {
        match self {
            Self::V8_2 => "8.2",
            Self::V9_1 => "9.1",
        }
    }

    /// `release` with the patch level.
    pub const fn full(self) -> &'static str {
        match self {
            Self::V8_2 => "8.2.4",
            Self::V9_1 => "9.1.1",
        }
    }
}

/// A hypervisor.
#[derive(Clone, Debug, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Number in the cluster, from 1.
    pub number: u32,
    /// Its address.
    pub address: String,
    /// Processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Root file system, bytes.
    pub disk_bytes: u64,
    /// When it was switched on, lab time.
    pub booted_ms: i64,
    /// Processor name.
    pub processor: String,
    /// SHA-256 of its certificate, `AB:CD:…`; empty until a transport made one.
    pub fingerprint: String,
    /// Its certificate.
    #[serde(skip)]
    pub certificate_pem: String,
    /// Validity of the certificate, seconds.
    pub certificate_valid_s: (i64, i64),
}

/// A guest under the HA manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HaResource {
    /// `vm:102`.
    pub sid: String,
    /// `started`, `stopped`, `disabled`, `ignored`.
    pub wanted: String,
    /// What the manager says about it (`started`, `stopped`, `error`, `migrate`, …).
    pub state: String,
    /// Fields as they were given (`max_restart`, `comment`, …).
    pub fields: BTreeMap<String, String>,
}

/// Something that happens at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A worker got the guest's lock file.
    Begin(String),
    /// A worker is done.
    End(String),
    /// A worker gives up waiting for the lock file.
    GiveUp(String),
    /// The HA manager looks at a service.
    HaAct(String),
    /// A node has been away long enough to be fenced.
    Fence(String),
}

/// The lab. Its parts are public for tests that want to look or to interfere behind the API's back.
#[derive(Debug)]
pub struct Lab {
    /// The release it pretends to be.
    pub version: PveVersion,
    /// Name of the cluster; a stand-alone host has none.
    pub cluster: Option<String>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// Guests by number.
    pub guests: BTreeMap<u32, Guest>,
    /// Storages by name.
    pub storages: BTreeMap<String, Storage>,
    /// Volumes by node (empty on shared storage) and id.
    pub volumes: BTreeMap<(String, String), Volume>,
    /// Comments of pools by name.
    pub pools: BTreeMap<String, String>,
    /// The pool of each guest.
    pub pool_of_guest: BTreeMap<u32, String>,
    /// The pool of each storage.
    pub pool_of_storage: BTreeMap<String, String>,
    /// Guests under the HA manager, by service id.
    pub ha: BTreeMap<String, HaResource>,
    /// Rules of the HA manager (9) or groups (8), by name.
    pub ha_rules: BTreeMap<String, BTreeMap<String, Value>>,
    /// Backup jobs by id.
    pub backup_jobs: BTreeMap<String, BTreeMap<String, Value>>,
    /// Replication jobs by id.
    pub replication_jobs: BTreeMap<String, BTreeMap<String, Value>>,
    /// Options of the data centre.
    pub options: BTreeMap<String, String>,
    /// Users and rights.
    pub access: Access,
    /// What goes wrong.
    pub faults: Faults,
    /// Tasks by UPID, running ones and those that ended.
    pub tasks: BTreeMap<String, Task>,
    /// UPIDs in the order they were made.
    pub task_order: Vec<String>,
    /// What pvestatd told last.
    pub statistics: Statistics,
    /// Length of a task unit.
    pub task_ms: u64,
    /// Failed logins do not tell their cause (9.1 since 2026-01).
    pub hides_login_cause: bool,
    pub(crate) sessions: BTreeMap<String, Session>,
    pub(crate) now_ms: i64,
    pub(crate) events: BTreeMap<(i64, u64), Event>,
    pub(crate) lock_files: BTreeMap<u32, String>,
    pub(crate) next_event: u64,
    pub(crate) random: u64,
    pub(crate) last_pid: u32,
}

impl Lab {
    /// Lab time, milliseconds since the epoch.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Lab time, seconds since the epoch.
    pub fn now_s(&self) -> i64 {
        self.now_ms.div_euclid(1000)
    }

    /// Lets time pass: tasks end, the HA manager acts, statistics are told, each at its own moment. A time
    /// in the past changes nothing.
    pub fn advance_to(&mut self, until_ms: i64) {
        while let Some((&(at_ms, number), _)) = self.events.first_key_value() {
            if at_ms > until_ms {
                break;
            }
            self.tell_statistics(at_ms);
            self.now_ms = self.now_ms.max(at_ms);
            if let Some(event) = self.events.remove(&(at_ms, number)) {
                self.happen(event);
            }
        }
        self.tell_statistics(until_ms);
        self.now_ms = self.now_ms.max(until_ms);
    }

    /// Lets this much time pass.
    pub fn advance_by(&mut self, ms: u64) {
        self.advance_to(self.now_ms.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX)));
    }

    pub(crate) fn at(&mut self, at_ms: i64, event: Event) {
        self.next_event += 1;
        self.events.insert((at_ms.max(self.now_ms), self.next_event), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Begin(upid) => self.begin_task(&upid),
            Event::End(upid) => self.end_task(&upid),
            Event::GiveUp(upid) => self.give_up_task(&upid),
            Event::HaAct(sid) => self.ha_act(&sid),
            Event::Fence(node) => self.fence(&node),
        }
    }

    /// The next number of the lab's own sequence (splitmix64). The seed decides all of them.
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A new UUID of the lab's sequence.
    pub(crate) fn next_uuid(&mut self) -> String {
        let value = (u128::from(self.next_random()) << 64) | u128::from(self.next_random());
        uuid::Builder::from_random_bytes(value.to_be_bytes()).into_uuid().to_string()
    }

    /// A new hardware address with Proxmox's prefix.
    pub(crate) fn next_mac(&mut self) -> String {
        let value = self.next_random();
        format!("BC:24:11:{:02X}:{:02X}:{:02X}", value & 0xff, (value >> 8) & 0xff, (value >> 16) & 0xff)
    }

    pub(crate) fn next_pid(&mut self) -> u32 {
        self.last_pid = if self.last_pid > 4_000_000 { 1000 } else { self.last_pid + 7 };
        self.last_pid
    }

    /// Whether the cluster network reaches a node.
    pub fn is_online(&self, node: &str) -> bool {
        self.nodes.contains_key(node) && self.unreachable_code(node).is_none()
    }

    /// The status a proxied call to this node ends in, if it is cut off.
    pub(crate) fn unreachable_code(&self, node: &str) -> Option<u16> {
        self.faults.iter().find_map(|(_, fault)| match fault {
            Fault::NodeOffline { node: name, code, .. } if name == node => Some(*code),
            _ => None,
        })
    }

    /// Whether a majority of nodes is there.
    pub fn is_quorate(&self) -> bool {
        let online = self.nodes.keys().filter(|name| self.is_online(name)).count();
        !self.faults.any(|fault| matches!(fault, Fault::QuorumLost {})) && online * 2 > self.nodes.len()
    }

    /// Whether a storage answers on a node.
    pub fn storage_is_active(&self, storage: &str, on: &str) -> bool {
        !self.faults.any(|fault| {
            matches!(fault, Fault::StorageOffline { storage: id, node }
                if id == storage && node.as_deref().is_none_or(|node| node == on))
        })
    }

    /// What a principal may do on a path, faults included.
    pub fn privileges(&self, id: &str, path: &str) -> Privileges {
        let path = access::normal_path(path);
        let parts: Vec<&str> = path.split('/').skip(1).collect();
        let pool = match parts.as_slice() {
            ["vms", vmid, ..] => vmid.parse().ok().and_then(|vmid: u32| self.pool_of_guest.get(&vmid)),
            ["storage", id, ..] => self.pool_of_storage.get(*id),
            _ => None,
        };
        let mut privileges = self.access.privileges_on(id, &path, pool.map(String::as_str));
        for (_, fault) in self.faults.iter() {
            if let Fault::RightsLost { principal, path: below, privilege } = fault
                && (principal == id || id.split('!').next() == Some(principal))
                && below.as_deref().is_none_or(|below| is_below(&path, below))
            {
                match privilege {
                    Some(privilege) => drop(privileges.remove(privilege)),
                    None => privileges.clear(),
                }
            }
        }
        privileges
    }

    /// Whether a principal has one of these privileges on a path.
    pub fn may(&self, id: &str, path: &str, any_of: &[&str]) -> bool {
        let privileges = self.privileges(id, path);
        any_of.iter().any(|name| privileges.contains_key(*name))
    }

    /// The HA entry of a guest.
    pub(crate) fn ha_of(&self, vmid: u32) -> Option<&HaResource> {
        let kind = self.guests.get(&vmid)?.kind;
        self.ha.get(&service_id(kind, vmid))
    }

    /// Whether power commands go through the HA manager.
    pub(crate) fn is_ha_managed(&self, vmid: u32) -> bool {
        self.ha_of(vmid).is_some_and(|resource| resource.wanted != "ignored")
    }

    /// The key of a volume on a node.
    pub(crate) fn volume_key(&self, node: &str, volid: &str) -> (String, String) {
        let storage = volid.split(':').next().unwrap_or_default();
        let shared = self.storages.get(storage).is_some_and(|storage| storage.shared);
        (if shared { String::new() } else { node.to_owned() }, volid.to_owned())
    }
}

/// `vm:102`, `ct:201`.
pub(crate) fn service_id(kind: Kind, vmid: u32) -> String {
    format!("{}:{vmid}", kind.service_prefix())
}

fn is_below(path: &str, top: &str) -> bool {
    let top = access::normal_path(top);
    top == "/" || path == top || path.strip_prefix(&top).is_some_and(|rest| rest.starts_with('/'))
}
