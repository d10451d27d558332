//! From Proxmox's answers to an observation. It draws no conclusion about what was not seen: it says so.

mod backups;
mod guest;
mod outline;
mod rights;
#[cfg(test)]
mod tests;

use super::answers::{Answer, Answers, NodeAnswers};
use nhi_decide::{
    observation::{GuestRef, GuestSight, IndexRow, List, NodeSight, Observation, Scope},
    observe::Known,
};
use nhi_model::{
    guest::{GuestKind, GuestStatus},
    key::Key,
    lab,
    live::{Gauges, StorageGauges},
    source::Coverage,
};
use nhi_pve::{
    Kind, PveError, Rows,
    cluster::{ClusterNode, ClusterResources, ClusterStatus},
    guest as pve, node as pve_node,
    node::NodeRow,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use rights::rights;

pub(crate) use backups::{BackupPlaces, backup_places};
pub(crate) use outline::Outline;
pub(crate) use rights::{may_see_backups, sees_every_backup};

/// The observation the answers of one pass amount to.
pub(crate) fn observation(answers: &Answers) -> Observation {
    let facts = NodeFacts::of(answers);
    let lists = guest::Lists::of(answers);
    let mut live = BTreeMap::new();
    let names = facts.names(answers).into_iter();
    let mut nodes: BTreeMap<String, NodeSight> = names
        .map(|name| {
            let sight = sight(answers, &facts, &lists, &name, &mut live);
            (name, sight)
        })
        .collect();
    guest::add_lone_sights(answers, &mut nodes);
    Observation {
        at: answers.at,
        cluster: answers.cluster.clone(),
        place: answers.place.clone(),
        scope: answers.scope.clone(),
        reach: reach(answers),
        quorate: answers.status.as_ref().ok().and_then(|status| status.quorate()),
        clustered: answers.status.as_ref().ok().map(|status| status.cluster.is_some()),
        rights: answers.permissions.as_ref().ok().map(rights),
        certificates: answers.certificates.clone(),
        detour: answers.detour.clone(),
        nodes,
        index: index(answers),
        gone: BTreeSet::new(),
        live,
    }
}

/// Whether the list of nodes was read, and when not, whether anything answered as Proxmox does.
fn reach(answers: &Answers) -> Coverage {
    let reason = match &answers.node_rows {
        Some(Ok(rows)) if rows.unreadable == 0 => return Coverage::Complete,
        Some(Ok(_)) => "the cluster's list of nodes has rows that cannot be read".to_owned(),
        Some(Err(error)) => because("the cluster's nodes could not be listed", error),
        None => match &answers.resources {
            Ok(_) => return Coverage::Complete,
            Err(error) => because("the cluster's index could not be read", error),
        },
    };
    let listed = matches!(answers.node_rows, Some(Ok(_)));
    let answered = answers.resources.is_ok() || answers.status.is_ok() || answers.permissions.is_ok();
    if answered || listed { Coverage::Partial { reason } } else { Coverage::Unseen { reason } }
}

/// A reason without times and counts, so that it does not change from pass to pass.
pub(crate) fn because(what: &str, error: &PveError) -> String {
    format!("{what}: {}", error.text())
}

/// What the lists of the whole cluster say about its nodes.
struct NodeFacts<'a> {
    rows: BTreeMap<&'a str, &'a NodeRow>,
    members: BTreeMap<&'a str, &'a ClusterNode>,
}

impl<'a> NodeFacts<'a> {
    fn of(answers: &'a Answers) -> Self {
        let mut facts = Self::of_index(&answers.resources, &answers.status);
        // Over the index's: only `/nodes` has fingerprints.
        let listed = answers.node_rows.iter().flatten().flat_map(|rows| &rows.rows);
        facts.rows.extend(listed.map(|row| (row.node.as_str(), row)));
        facts
    }

    fn of_index(resources: &'a Answer<ClusterResources>, status: &'a Answer<ClusterStatus>) -> Self {
        let rows = resources.iter().flat_map(|index| &index.nodes);
        let members = status.iter().flat_map(|status| &status.nodes.rows);
        Self {
            rows: rows.map(|row| (row.node.as_str(), row)).collect(),
            members: members.map(|row| (row.name.as_str(), row)).collect(),
        }
    }

    /// The nodes the observation is about.
    fn names(&self, answers: &Answers) -> BTreeSet<String> {
        match &answers.scope {
            Scope::Full => {
                self.rows.keys().chain(self.members.keys()).map(|name| (*name).to_owned()).collect()
            }
            Scope::Only { nodes, .. } => nodes.clone(),
        }
    }

    /// Whether the cluster says that the node is there; corosync's word goes before the statistics'.
    fn online(&self, name: &str) -> Option<bool> {
        let row = || match self.rows.get(name)?.status {
            pve_node::NodeStatus::Online => Some(true),
            pve_node::NodeStatus::Offline => Some(false),
            pve_node::NodeStatus::Unknown => None,
        };
        self.members.get(name).and_then(|member| member.online).or_else(row)
    }
}

/// Nodes worth asking: those the cluster does not call offline.
pub(crate) fn askable(answers: &Answers) -> BTreeSet<String> {
    let facts = NodeFacts::of(answers);
    let mut names = facts.names(answers);
    names.retain(|name| facts.online(name) != Some(false));
    names
}

fn sight(
    answers: &Answers,
    facts: &NodeFacts<'_>,
    lists: &guest::Lists<'_>,
    name: &str,
    live: &mut BTreeMap<Key, Value>,
) -> NodeSight {
    let asked = answers.nodes.get(name);
    let unreachable = asked.is_some_and(cannot_be_reached);
    let offline = facts.online(name) == Some(false);
    let record = node_record(answers, facts, name);
    let Some(asked) = asked.filter(|_| !offline && !unreachable) else {
        let reason = if offline {
            format!("node {name} is offline")
        } else if unreachable {
            // Its API alone may be down; whether the node is, its cluster says.
            format!("node {name} cannot be reached through {}", answers.place)
        } else {
            format!("node {name} was not asked")
        };
        let coverage = Coverage::Unseen { reason };
        return NodeSight {
            coverage,
            record,
            lists: BTreeSet::new(),
            guests: Vec::new(),
            storages: Vec::new(),
        };
    };
    let mut whole = BTreeSet::new();
    let mut gaps = Vec::new();
    take_list(&asked.qemu, List::Qemu, "its virtual machines", &mut whole, &mut gaps);
    take_list(&asked.lxc, List::Lxc, "its containers", &mut whole, &mut gaps);
    if let Some(storage) = &asked.storage {
        take_list(storage, List::Storage, "its storages", &mut whole, &mut gaps);
    }
    if let Some(Err(error)) = &asked.state
        && !is_denied(error)
    {
        gaps.push(because("its own state could not be read", error));
    }
    gaps.extend(guest::unread_configs(answers, name));
    let nothing = whole.is_empty() && asked.state.as_ref().is_none_or(|state| state.is_err());
    let coverage = match (gaps.is_empty(), nothing) {
        (true, _) => Coverage::Complete,
        (false, false) => Coverage::Partial { reason: gaps.join("; ") },
        (false, true) => Coverage::Unseen { reason: gaps.join("; ") },
    };
    node_gauges(answers, facts, name, live);
    let guests = guests(answers, lists, name, asked, live);
    let storages = storages(answers, name, asked, live);
    NodeSight { coverage, record, lists: whole, guests, storages }
}

/// Whether every answer says that the node cannot be reached through the one that was asked.
fn cannot_be_reached(asked: &NodeAnswers) -> bool {
    let gone = |error: &PveError| matches!(error.kind(), Kind::NodeUnreachable { .. });
    let state = asked.state.as_ref().is_none_or(|state| state.as_ref().is_err_and(gone));
    state && asked.qemu.as_ref().is_err_and(gone) && asked.lxc.as_ref().is_err_and(gone)
}

pub(crate) fn is_denied(error: &PveError) -> bool {
    matches!(error.kind(), Kind::PermissionDenied { .. })
}

fn take_list<T>(
    answer: &Answer<Rows<T>>,
    list: List,
    what: &str,
    lists: &mut BTreeSet<List>,
    gaps: &mut Vec<String>,
) {
    match answer {
        Ok(rows) if rows.unreadable == 0 => {
            lists.insert(list);
        }
        Ok(_) => gaps.push(format!("{what} were listed with rows that cannot be read")),
        Err(error) => gaps.push(because(&format!("{what} could not be listed"), error)),
    }
}

fn node_record(answers: &Answers, facts: &NodeFacts<'_>, name: &str) -> Option<lab::Node> {
    let row = facts.rows.get(name);
    let member = facts.members.get(name);
    let asked = answers.nodes.get(name);
    let state = asked.and_then(|asked| asked.state.as_ref()).and_then(|state| state.as_ref().ok());
    let status = match facts.online(name) {
        Some(false) => lab::NodeStatus::Offline,
        Some(true) => lab::NodeStatus::Online,
        // Nobody says so, but it answered.
        None if asked.is_some_and(|asked| asked.qemu.is_ok() || asked.lxc.is_ok()) => lab::NodeStatus::Online,
        None => lab::NodeStatus::Unknown,
    };
    Some(lab::Node {
        cluster: answers.cluster.clone(),
        node: name.to_owned(),
        status,
        address: member.and_then(|member| member.ip.clone()),
        cpus: row.and_then(|row| row.maxcpu).or_else(|| state?.cpus),
        memory_bytes: row.and_then(|row| row.maxmem).or_else(|| state?.memory.total),
        disk_bytes: row.and_then(|row| row.maxdisk).or_else(|| state?.rootfs.total),
        pve_version: state.and_then(|state| state.pve_version()).map(str::to_owned),
        kernel: state.and_then(|state| state.kernel.clone()),
        ssl_fingerprint: row.and_then(|row| row.ssl_fingerprint.clone()),
        level: member.and_then(|m| m.level.clone()).or_else(|| row?.level.clone()).unwrap_or_default(),
    })
}

fn node_gauges(answers: &Answers, facts: &NodeFacts<'_>, name: &str, live: &mut BTreeMap<Key, Value>) {
    let row = facts.rows.get(name);
    let state = answers.nodes.get(name).and_then(|asked| asked.state.as_ref()?.as_ref().ok());
    if row.is_none() && state.is_none() {
        return;
    }
    let gauges = Gauges {
        cpu: state.and_then(|state| state.cpu).or_else(|| row?.cpu),
        mem: state.and_then(|state| state.memory.used).or_else(|| row?.mem),
        disk: state.and_then(|state| state.rootfs.used).or_else(|| row?.disk),
        uptime: state.and_then(|state| state.uptime).or_else(|| row?.uptime),
        ..Gauges::default()
    };
    live.insert(Key::node(&answers.cluster, name), value(&gauges));
}

fn guests(
    answers: &Answers,
    lists: &guest::Lists<'_>,
    node: &str,
    asked: &NodeAnswers,
    live: &mut BTreeMap<Key, Value>,
) -> Vec<GuestSight> {
    let rows = asked.qemu.iter().chain(asked.lxc.iter()).flat_map(|rows| &rows.rows);
    rows.map(|row| {
        let key = Key::guest(kind(row.kind), &answers.cluster, row.vmid);
        live.insert(key, value(&guest::gauges(&row.usage)));
        guest::listed(answers, lists, node, row)
    })
    .collect()
}

fn storages(
    answers: &Answers,
    node: &str,
    asked: &NodeAnswers,
    live: &mut BTreeMap<Key, Value>,
) -> Vec<lab::Storage> {
    let rows = asked.storage.iter().flatten().flat_map(|rows| &rows.rows);
    rows.map(|row| {
        let space = StorageGauges { total: row.space.total, used: row.space.used, avail: row.space.free };
        live.insert(Key::storage(&answers.cluster, node, &row.storage), value(&space));
        lab::Storage {
            cluster: answers.cluster.clone(),
            node: node.to_owned(),
            storage: row.storage.clone(),
            kind: row.kind.clone(),
            content: row.content.iter().cloned().collect(),
            shared: row.shared,
            active: row.active,
            enabled: row.enabled,
        }
    })
    .collect()
}

/// The index; `None` when it was not read to its end: a row that cannot be read may be anybody's.
fn index(answers: &Answers) -> Option<Vec<IndexRow>> {
    let index = answers.resources.as_ref().ok().filter(|index| index.unreadable == 0)?;
    Some(index.guests.iter().map(index_row).collect())
}

/// A guest's row of the index.
pub(crate) fn index_row(row: &pve::GuestResource) -> IndexRow {
    IndexRow {
        kind: kind(row.kind),
        vmid: row.vmid,
        node: row.node.clone(),
        status: match &row.status {
            pve::GuestStatus::Running | pve::GuestStatus::Other(_) => GuestStatus::Running,
            pve::GuestStatus::Stopped => GuestStatus::Stopped,
            pve::GuestStatus::Paused => GuestStatus::Paused,
            pve::GuestStatus::Unknown => GuestStatus::Unknown,
        },
        name: row.name.clone(),
        tags: row.tags.iter().cloned().collect(),
        pool: row.pool.clone(),
        lock: row.lock.clone(),
    }
}

/// Proxmox's kind of guest as ours.
pub(crate) const fn kind(kind: pve::GuestKind) -> GuestKind {
    match kind {
        pve::GuestKind::Qemu => GuestKind::Qemu,
        pve::GuestKind::Lxc => GuestKind::Lxc,
    }
}

/// Our kind of guest as Proxmox's.
pub(crate) const fn pve_kind(kind: GuestKind) -> pve::GuestKind {
    match kind {
        GuestKind::Qemu => pve::GuestKind::Qemu,
        GuestKind::Lxc => pve::GuestKind::Lxc,
    }
}

/// The guests the nodes' lists name, with the node and whether each runs.
pub(crate) fn listed(nodes: &BTreeMap<String, NodeAnswers>) -> BTreeMap<GuestRef, (String, bool)> {
    let mut out = BTreeMap::new();
    for (node, asked) in nodes {
        for row in asked.qemu.iter().chain(asked.lxc.iter()).flat_map(|rows| &rows.rows) {
            let runs = guest::status(row) == GuestStatus::Running;
            let guest = GuestRef { kind: kind(row.kind), vmid: row.vmid };
            // A guest that moves is on two lists; where it runs is where it can be asked.
            if runs || !out.contains_key(&guest) {
                out.insert(guest, (node.clone(), runs));
            }
        }
    }
    out
}

fn value(gauges: &impl Serialize) -> Value {
    serde_json::to_value(gauges).expect("gauges are plain numbers")
}

/// Keeps a node's disk size as it is known while it moves by less than a fiftieth: a root file system on ZFS
/// grows and shrinks with its neighbours, and a size that moves every minute is no fact.
pub(crate) fn steady(known: &BTreeMap<Key, Known>, seen: &mut Observation) {
    for (name, sight) in &mut seen.nodes {
        let known = known.get(&Key::node(&seen.cluster, name));
        let before = known.and_then(|known| known.record.get("disk_bytes")).and_then(Value::as_u64);
        if let Some((record, before)) = sight.record.as_mut().zip(before)
            && record.disk_bytes.is_some_and(|now| now.abs_diff(before) < before / 50)
        {
            record.disk_bytes = Some(before);
        }
    }
}
