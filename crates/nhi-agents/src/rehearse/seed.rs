//! The present lab as the simulator takes it: guests that were looked at live with every line of their configuration,
//! the others as the records have them. Pure.

#[cfg(test)]
mod tests;

use nhi_decide::{
    observe::Known,
    sight::{GuestSight, Seen, Sight, SnapshotSight},
};
use nhi_model::{
    Timestamp,
    guest::{Guest, GuestKind, GuestStatus},
    key::{Key, Section},
    lab::{Node, Storage},
    plan::Plan,
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A storage has room in a copy: whether the real one has is not asked here.
const STORAGE_BYTES: u64 = 4 << 40;
/// A file that only has to be there, bytes.
const FILE_BYTES: u64 = 1 << 20;
/// Address of a node whose own is not known: one of those kept for documentation.
const ADDRESS: &str = "192.0.2";

/// The description.
#[derive(Debug)]
pub(super) struct Seed {
    pub(super) text: String,
    /// Guests in it, and their nodes.
    pub(super) keys: BTreeMap<Key, String>,
    pub(super) is_pve8: bool,
}

/// Describes the plan's cluster.
pub(super) fn of(plan: &Plan, sight: &Sight, known: &BTreeMap<Key, Known>) -> Seed {
    let nodes: BTreeMap<String, Node> = records::<Node>(known, Section::Node)
        .map(|(_, node)| node)
        .filter(|node| node.cluster == plan.cluster)
        .map(|node| (node.node.clone(), node))
        .collect();
    let is_pve8 = nodes.values().any(|node| node.pve_version.as_deref().is_some_and(|v| v.starts_with("8.")));
    let mut guests = Vec::new();
    let mut keys = BTreeMap::new();
    for (key, guest) in records::<Guest>(known, Section::Vm).chain(records::<Guest>(known, Section::Lxc)) {
        if guest.cluster != plan.cluster || !nodes.contains_key(&guest.node) {
            continue;
        }
        let (node, described) = match sight.guests.get(key) {
            Some(GuestSight::Seen(seen)) => (seen.node.clone(), of_sight(seen, sight.at)),
            // It is not there now, whatever the records say.
            Some(GuestSight::Gone) => continue,
            Some(GuestSight::Unseen { .. }) | None => (guest.node.clone(), of_record(&guest)),
        };
        keys.insert(key.clone(), node);
        guests.push(described);
    }
    let document = json!({
        "cluster": (nodes.len() > 1).then_some(&plan.cluster),
        "nodes": nodes.values().enumerate().map(node_row).collect::<Vec<_>>(),
        "storages": storages(known, plan),
        "guests": guests,
        "pools": pools(known, plan),
        "files": files(plan),
    });
    Seed { text: document.to_string(), keys, is_pve8 }
}

fn records<T: DeserializeOwned>(
    known: &BTreeMap<Key, Known>,
    section: Section,
) -> impl Iterator<Item = (&Key, T)> {
    let of_section = known.iter().filter(move |(key, _)| key.section() == section);
    of_section.filter_map(|(key, known)| Some((key, T::deserialize(&known.record).ok()?)))
}

fn node_row((number, node): (usize, &Node)) -> Value {
    const GIB: u64 = 1 << 30;
    let address = node.address.clone().unwrap_or_else(|| format!("{ADDRESS}.{}", number + 1));
    json!({
        "name": node.node,
        "address": address,
        "cpus": node.cpus.unwrap_or(8),
        "memory_gib": node.memory_bytes.map_or(64, |bytes| (bytes / GIB).max(1)),
    })
}

fn storages(known: &BTreeMap<Key, Known>, plan: &Plan) -> Vec<Value> {
    let mut rows: BTreeMap<String, (Storage, BTreeSet<String>)> = BTreeMap::new();
    for (_, storage) in records::<Storage>(known, Section::Storage) {
        if storage.cluster == plan.cluster {
            let node = storage.node.clone();
            rows.entry(storage.storage.clone()).or_insert((storage, BTreeSet::new())).1.insert(node);
        }
    }
    let row = |(id, (storage, nodes)): (&String, &(Storage, BTreeSet<String>))| {
        json!({
            "id": id,
            "kind": storage.kind.as_deref().unwrap_or("dir"),
            "content": storage.content.join(","),
            "shared": storage.shared,
            "total_bytes": STORAGE_BYTES,
            "used_bytes": 0,
            "nodes": nodes,
            "disabled": storage.enabled == Some(false),
        })
    };
    rows.iter().map(row).collect()
}

fn pools(known: &BTreeMap<Key, Known>, plan: &Plan) -> BTreeMap<String, String> {
    let guests = records::<Guest>(known, Section::Vm).chain(records::<Guest>(known, Section::Lxc));
    let named = guests.filter(|(_, guest)| guest.cluster == plan.cluster).filter_map(|(_, guest)| guest.pool);
    let asked = plan.steps.iter().filter_map(|step| step.call.params.get("pool").cloned());
    named.chain(asked).map(|pool| (pool, String::new())).collect()
}

/// Images and container templates that the plan names.
fn files(plan: &Plan) -> Vec<Value> {
    let values = plan.steps.iter().flat_map(|step| step.call.params.values().map(move |value| (step, value)));
    values
        .filter_map(|(step, value)| {
            let volume = value.split(',').next()?;
            let (_, rest) = volume.split_once(':')?;
            let is_file = rest.starts_with("iso/") || rest.starts_with("vztmpl/");
            is_file.then(|| json!({ "volid": volume, "node": step.node, "size_bytes": FILE_BYTES }))
        })
        .collect()
}

/// A guest as it was seen: every line, every snapshot and the digest as they stand.
fn of_sight(seen: &Seen, at: Timestamp) -> Value {
    let mut guest = base(seen.kind, seen.vmid, &seen.name, &seen.node, seen.status);
    guest["verbatim"] = json!(true);
    guest["config"] = json!(seen.config);
    guest["digest"] = json!(seen.digest);
    guest["pool"] = json!(seen.pool);
    guest["ha"] = json!(seen.ha);
    let mut snapshots: Vec<&SnapshotSight> = seen.snapshots.iter().flatten().collect();
    snapshots.sort_by_key(|snapshot| snapshot.at);
    guest["snapshots"] = snapshots.into_iter().map(|snapshot| of_snapshot(snapshot, at)).collect();
    guest
}

/// A snapshot. One whose configuration was not read stands with the present one: nothing goes back to it.
fn of_snapshot(snapshot: &SnapshotSight, now: Timestamp) -> Value {
    let age_s = snapshot.at.map_or(0, |at| now.as_second().saturating_sub(at.as_second()));
    json!({
        "name": snapshot.name,
        "age_s": u32::try_from(age_s.max(0)).unwrap_or(u32::MAX),
        "parent": snapshot.parent,
        "whole": snapshot.config.is_some(),
        "config": snapshot.config.as_ref().map(|config| json!(config)).unwrap_or_else(|| json!({})),
    })
}

fn of_record(guest: &Guest) -> Value {
    const MIB: u64 = 1 << 20;
    let mut config = Map::new();
    let mut set = |field: &str, value: Option<Value>| {
        if let Some(value) = value {
            config.insert(field.to_owned(), value);
        }
    };
    set("memory", guest.memory_bytes.map(|bytes| (bytes / MIB).to_string().into()));
    set("cores", guest.cpus.map(|cpus| cpus.to_string().into()));
    set("tags", (!guest.tags.is_empty()).then(|| guest.tags.join(";").into()));
    set("protection", guest.protection.filter(|on| *on).map(|_| "1".into()));
    set("onboot", guest.onboot.filter(|on| *on).map(|_| "1".into()));
    set("template", guest.template.then(|| "1".into()));
    for (field, volume) in guest.volumes.iter().filter(|(_, volume)| volume.contains(':')) {
        set(field, Some(format!("{volume},size=8G").into()));
    }
    let mut row = base(guest.kind, guest.vmid, &guest.name, &guest.node, guest.status);
    row["config"] = config.into();
    row["pool"] = json!(guest.pool);
    row["ha"] = json!(guest.ha.as_ref().map(|ha| &ha.state));
    row
}

fn base(kind: GuestKind, vmid: u32, name: &str, node: &str, status: GuestStatus) -> Value {
    json!({
        "vmid": vmid,
        "kind": kind.as_str(),
        "node": node,
        "name": name,
        "running": matches!(status, GuestStatus::Running | GuestStatus::Paused),
        "paused": status == GuestStatus::Paused,
    })
}
