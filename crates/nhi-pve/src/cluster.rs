//! What the cluster as a whole tells: version, own rights, quorum, the resource index, HA, pools, backups.

use crate::{
    fields::{Fields, as_flag},
    guest::{GuestKind, GuestResource},
    node::{NodeRow, StorageResource},
    rows::{Misshapen, Row, Rows, Unknown, many, one},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// `/version` of the node that answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Full version (`9.1.1`).
    pub version: String,
    /// Point release (`9.1`).
    pub release: Option<String>,
    /// Revision it was built from.
    pub repoid: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Version {
    /// The first number (`9`).
    pub fn major(&self) -> Option<u32> {
        self.version.split(['.', '-']).next()?.parse().ok()
    }
}

impl Row for Version {
    const WHAT: &'static str = "version";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = fields.take("console");
        Some(Self {
            version: fields.text("version")?,
            release: fields.text("release"),
            repoid: fields.text("repoid"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// `/access/permissions`: what the token itself may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Path → privilege → whether it holds below that path too.
    pub paths: BTreeMap<String, BTreeMap<String, bool>>,
}

impl Permissions {
    pub(crate) fn read(data: Value) -> Result<Self, Misshapen> {
        // Perl sends an empty list for an empty map now and then.
        if data.as_array().is_some_and(Vec::is_empty) {
            return Ok(Self::default());
        }
        let Value::Object(map) = data else {
            return Err(Misshapen { expected: "a map of paths" });
        };
        let paths = map.into_iter().map(|(path, privileges)| {
            let Value::Object(privileges) = privileges else {
                return (path, BTreeMap::new());
            };
            let held =
                privileges.into_iter().map(|(name, spreads)| (name, as_flag(&spreads).unwrap_or(false)));
            (path, held.collect())
        });
        Ok(Self { paths: paths.collect() })
    }

    /// What holds on this path (`/vms/101`), and whether it does below that too: what is said for the path itself
    /// counts, else what the nearest path above it says and spreads. A deeper entry replaces, it does not add.
    ///
    /// Proxmox leaves out a path on which nothing holds (`NoAccess` on one guest), so a yes from above is no promise
    /// for every path below.
    pub fn on(&self, path: &str) -> BTreeMap<&str, bool> {
        let mut at = path;
        loop {
            if let Some(privileges) = self.paths.get(at) {
                let held = privileges.iter().filter(|(_, spreads)| at == path || **spreads);
                return held.map(|(name, spreads)| (name.as_str(), *spreads)).collect();
            }
            at = match at.rsplit_once('/') {
                Some(("", _)) if at != "/" => "/",
                Some((above, _)) if !above.is_empty() => above,
                Some(_) | None => return BTreeMap::new(),
            };
        }
    }

    /// Whether the privilege holds on this path.
    pub fn allows(&self, path: &str, privilege: &str) -> bool {
        self.on(path).contains_key(privilege)
    }
}

/// `/cluster/status`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterStatus {
    /// The cluster; `None` on a stand-alone host.
    pub cluster: Option<ClusterRow>,
    /// Its nodes.
    pub nodes: Rows<ClusterNode>,
}

impl ClusterStatus {
    /// Whether a majority is there. A stand-alone host always is; `None` when the answer does not say.
    pub fn quorate(&self) -> Option<bool> {
        match &self.cluster {
            None => Some(true),
            Some(cluster) => cluster.quorate,
        }
    }

    /// Name of the node that answered.
    pub fn local(&self) -> Option<&str> {
        self.nodes.rows.iter().find(|node| node.local).map(|node| node.name.as_str())
    }

    pub(crate) fn read(data: Value, unknown: &mut Unknown) -> Result<Self, Misshapen> {
        let Value::Array(list) = data else {
            return Err(Misshapen { expected: "a list" });
        };
        let (clusters, others): (Vec<Value>, Vec<Value>) =
            list.into_iter().partition(|row| row["type"] == "cluster");
        let cluster = clusters.into_iter().next().map(|row| one(row, unknown)).transpose()?;
        Ok(Self { cluster, nodes: many(Value::Array(others), unknown)? })
    }
}

/// The cluster row of `/cluster/status`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterRow {
    /// Proxmox's name of the cluster.
    pub name: Option<String>,
    /// Whether a majority of nodes is there.
    pub quorate: Option<bool>,
    /// Number of nodes, the offline ones among them.
    pub nodes: Option<u32>,
    /// Version of corosync's configuration.
    pub version: Option<u64>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for ClusterRow {
    const WHAT: &'static str = "cluster";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("type"), fields.take("id"));
        Some(Self {
            name: fields.text("name"),
            quorate: fields.flag("quorate"),
            nodes: fields.small("nodes"),
            version: fields.whole("version"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A node row of `/cluster/status`.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterNode {
    /// Its name.
    pub name: String,
    /// Corosync's id of it; 0 on a stand-alone host.
    pub nodeid: Option<u32>,
    /// Its address inside the cluster.
    pub ip: Option<String>,
    /// Whether the cluster sees it; absent when it does not say.
    pub online: Option<bool>,
    /// Whether it is the node that answered.
    pub local: bool,
    /// Subscription level.
    pub level: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for ClusterNode {
    const WHAT: &'static str = "cluster-node";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = fields.take("id");
        if fields.text("type").is_some_and(|kind| kind != "node") {
            return None;
        }
        Some(Self {
            name: fields.text("name")?,
            nodeid: fields.small("nodeid"),
            ip: fields.text("ip"),
            online: fields.flag("online"),
            local: fields.flag("local").unwrap_or(false),
            level: fields.text("level"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// `/cluster/resources`: a cached index, filtered by rights in silence. It proves no absence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterResources {
    /// Guests.
    pub guests: Vec<GuestResource>,
    /// Nodes; always listed, without gauges where Sys.Audit is missing.
    pub nodes: Vec<NodeRow>,
    /// Storages, once per node, shared ones too.
    pub storages: Vec<StorageResource>,
    /// Names of pools.
    pub pools: Vec<String>,
    /// Rows of kinds that are not read here (`sdn`, `network`, newer ones).
    pub others: usize,
    /// Rows of known kinds that could not be read.
    pub unreadable: usize,
}

impl ClusterResources {
    pub(crate) fn read(data: Value, unknown: &mut Unknown) -> Result<Self, Misshapen> {
        let Value::Array(list) = data else {
            return Err(Misshapen { expected: "a list" });
        };
        let mut by_kind: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
        let mut read = Self::default();
        for row in list {
            match row["type"].as_str() {
                Some("qemu" | "lxc" | "openvz") => by_kind.entry("guest").or_default().push(row),
                Some("node") => by_kind.entry("node").or_default().push(row),
                Some("storage") => by_kind.entry("storage").or_default().push(row),
                Some("pool") => match row["pool"].as_str() {
                    Some(pool) => read.pools.push(pool.to_owned()),
                    None => read.unreadable += 1,
                },
                Some(_) => read.others += 1,
                None => read.unreadable += 1,
            }
        }
        let mut take = |kind| Value::Array(by_kind.remove(kind).unwrap_or_default());
        let guests = many(take("guest"), unknown)?;
        let nodes = many(take("node"), unknown)?;
        let storages = many(take("storage"), unknown)?;
        read.unreadable += guests.unreadable + nodes.unreadable + storages.unreadable;
        read.guests = guests.rows;
        read.nodes = nodes.rows;
        read.storages = storages.rows;
        read.pools.sort();
        Ok(read)
    }
}

/// The guest an HA service id (`vm:100`, `ct:101`) names.
fn guest_of_sid(sid: &str) -> Option<(GuestKind, u32)> {
    let (kind, vmid) = sid.split_once(':')?;
    let kind = match kind {
        "vm" => GuestKind::Qemu,
        "ct" => GuestKind::Lxc,
        _ => return None,
    };
    Some((kind, vmid.parse().ok()?))
}

/// `/cluster/ha/status/current`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HaStatus {
    /// What HA says about quorum; absent when it says nothing.
    pub quorate: Option<bool>,
    /// The node whose HA manager leads.
    pub master: Option<String>,
    /// Managed guests.
    pub services: Vec<HaService>,
    /// Service rows that could not be read.
    pub unreadable: usize,
}

impl HaStatus {
    pub(crate) fn read(data: Value, unknown: &mut Unknown) -> Result<Self, Misshapen> {
        let Value::Array(list) = data else {
            return Err(Misshapen { expected: "a list" });
        };
        let mut read = Self::default();
        let mut services = Vec::new();
        for row in list {
            match row["type"].as_str() {
                Some("quorum") => read.quorate = as_flag(&row["quorate"]),
                Some("master") => read.master = row["node"].as_str().map(str::to_owned),
                Some("service") => services.push(row),
                // `lrm` (one per node), `fencing`, and whatever comes.
                Some(_) => {}
                None => read.unreadable += 1,
            }
        }
        let services = many(Value::Array(services), unknown)?;
        read.unreadable += services.unreadable;
        read.services = services.rows;
        Ok(read)
    }
}

/// A managed guest in `/cluster/ha/status/current`.
#[derive(Clone, Debug, PartialEq)]
pub struct HaService {
    /// Service id (`vm:100`, `ct:101`).
    pub sid: String,
    /// The node it is on.
    pub node: Option<String>,
    /// State in words (`started`, `stopped`, `error`, `queued`, …).
    pub state: Option<String>,
    /// State as the cluster manager sees it.
    pub crm_state: Option<String>,
    /// State that is asked for.
    pub request_state: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl HaService {
    /// The guest it is.
    pub fn guest(&self) -> Option<(GuestKind, u32)> {
        guest_of_sid(&self.sid)
    }
}

impl Row for HaService {
    const WHAT: &'static str = "ha-service";

    fn read(fields: &mut Fields) -> Option<Self> {
        let id = fields.text("id");
        let _ = (fields.take("type"), fields.take("status"));
        let sid = fields.text("sid").or_else(|| Some(id?.strip_prefix("service:")?.to_owned()))?;
        Some(Self {
            sid,
            node: fields.text("node"),
            state: fields.text("state"),
            crm_state: fields.text("crm_state"),
            request_state: fields.text("request_state"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A row of `/cluster/ha/resources`: what HA is told to manage.
#[derive(Clone, Debug, PartialEq)]
pub struct HaResource {
    /// Service id (`vm:100`, `ct:101`).
    pub sid: String,
    /// State that is asked for (`started`, `stopped`, `disabled`, `ignored`).
    pub state: Option<String>,
    /// HA group (before Proxmox VE 9).
    pub group: Option<String>,
    /// How often HA moves it.
    pub max_relocate: Option<u32>,
    /// How often HA starts it again.
    pub max_restart: Option<u32>,
    /// Comment.
    pub comment: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl HaResource {
    /// The guest it is.
    pub fn guest(&self) -> Option<(GuestKind, u32)> {
        guest_of_sid(&self.sid)
    }
}

impl Row for HaResource {
    const WHAT: &'static str = "ha-resource";

    fn read(fields: &mut Fields) -> Option<Self> {
        let _ = (fields.take("type"), fields.take("digest"));
        Some(Self {
            sid: fields.text("sid")?,
            state: fields.text("state"),
            group: fields.text("group"),
            max_relocate: fields.small("max_relocate"),
            max_restart: fields.small("max_restart"),
            comment: fields.text("comment"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A row of `/pools`. Which guest is in which pool is told by `/cluster/resources`.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Its name.
    pub poolid: String,
    /// Comment.
    pub comment: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for Pool {
    const WHAT: &'static str = "pool";

    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self { poolid: fields.text("poolid")?, comment: fields.text("comment"), rest: Map::new() })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

/// A guest in `/cluster/backup-info/not-backed-up`: no backup *job* covers it. It says nothing about archives.
#[derive(Clone, Debug, PartialEq)]
pub struct NotBackedUp {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its number.
    pub vmid: u32,
    /// Its name, exactly as answered.
    pub name: Option<String>,
    /// What was not known or not readable.
    pub rest: Map<String, Value>,
}

impl Row for NotBackedUp {
    const WHAT: &'static str = "not-backed-up";

    fn read(fields: &mut Fields) -> Option<Self> {
        Some(Self {
            kind: GuestKind::parse(&fields.text("type")?)?,
            vmid: fields.small("vmid")?,
            name: fields.text("name"),
            rest: Map::new(),
        })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests;
