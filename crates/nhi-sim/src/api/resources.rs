//! `/cluster/resources`: what the cluster *believes*, filtered by what the caller may see, in no order. The
//! counters come from pvestatd's rows; lock, tags and pool from the live configuration.

use super::{Call, Outcome};
use crate::lab::{
    Lab, PveVersion,
    guest::{Guest, Kind},
    login::Who,
    service_id,
};
use serde_json::{Map, Value, json};

pub(super) fn list(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let wanted = call.text("type").unwrap_or("");
    let takes = |kind: &str| wanted.is_empty() || wanted == kind;
    let mut rows = Vec::new();
    if takes("vm") {
        let seen = lab.guests.values().filter(|guest| sees_guest(lab, &call.who, guest));
        rows.extend(seen.map(|guest| guest_row(lab, guest)));
    }
    if takes("node") {
        rows.extend(lab.nodes.keys().map(|node| node_row(lab, &call.who, node)));
    }
    if takes("storage") {
        storage_rows(lab, &call.who, &mut rows);
    }
    if wanted.is_empty() {
        let seen =
            lab.pools.keys().filter(|pool| lab.may(&call.who.id, &format!("/pool/{pool}"), &["Pool.Audit"]));
        rows.extend(seen.map(|pool| json!({"id": format!("/pool/{pool}"), "pool": pool, "type": "pool"})));
    }
    if takes("sdn") || (wanted == "network" && lab.version >= PveVersion::V9_1) {
        network_rows(lab, &call.who, &mut rows);
    }
    shuffle(lab, &mut rows);
    Ok(Value::Array(rows).into())
}

/// Guests are listed for VM.Audit only; without it they are silently not there.
fn sees_guest(lab: &Lab, who: &Who, guest: &Guest) -> bool {
    lab.may(&who.id, &format!("/vms/{}", guest.vmid), &["VM.Audit"])
}

/// PVE's hash tables have no order; nobody may rely on one.
fn shuffle(lab: &mut Lab, rows: &mut [Value]) {
    for last in (1..rows.len()).rev() {
        let other = usize::try_from(lab.next_random() % (last as u64 + 1)).unwrap_or(0);
        rows.swap(last, other);
    }
}

fn guest_row(lab: &Lab, guest: &Guest) -> Value {
    let vmid = guest.vmid;
    let mut row = Map::from_iter([
        ("id".to_owned(), json!(format!("{}/{vmid}", guest.kind.word()))),
        ("vmid".to_owned(), json!(vmid)),
        ("node".to_owned(), json!(guest.node)),
        ("type".to_owned(), json!(guest.kind.word())),
        ("status".to_owned(), json!("unknown")),
    ]);
    let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    if let Some(told) = lab.believed_guest(vmid) {
        let gauges = &told.gauges;
        set("name", json!(told.name));
        set("status", json!(if told.running { "running" } else { "stopped" }));
        set("template", json!(u8::from(told.template)));
        set("maxcpu", json!(told.cpus));
        set("maxmem", json!(told.memory_bytes));
        set("maxdisk", json!(told.disk_bytes));
        set("uptime", json!(gauges.uptime_s));
        set("cpu", if told.running { json!(gauges.cpu) } else { json!(0) });
        set("mem", json!(gauges.memory_used));
        set("disk", json!(gauges.disk_used));
        set("netin", json!(gauges.net_in));
        set("netout", json!(gauges.net_out));
        set("diskread", json!(gauges.disk_read));
        set("diskwrite", json!(gauges.disk_written));
        if lab.version >= PveVersion::V9_1 && guest.kind == Kind::Qemu {
            set("memhost", json!(gauges.memory_used + gauges.memory_used / 20));
        }
    }
    for key in ["lock", "tags"] {
        if !guest.line(key).is_empty() {
            set(key, json!(guest.line(key)));
        }
    }
    if let Some(pool) = lab.pool_of_guest.get(&vmid) {
        set("pool", json!(pool));
    }
    if let Some(resource) = lab.ha.get(&service_id(guest.kind, vmid)) {
        set("hastate", json!(resource.state.split(':').next().unwrap_or_default()));
    }
    Value::Object(row)
}

/// A node is listed for everybody; its counters need Sys.Audit.
pub(super) fn node_row(lab: &Lab, who: &Who, node: &str) -> Value {
    let online = lab.is_online(node);
    let mut row = Map::from_iter([
        ("id".to_owned(), json!(format!("node/{node}"))),
        ("node".to_owned(), json!(node)),
        ("type".to_owned(), json!("node")),
        ("status".to_owned(), json!(if online { "online" } else { "offline" })),
    ]);
    let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    if lab.may(&who.id, &format!("/nodes/{node}"), &["Sys.Audit"])
        && let Some(definition) = lab.nodes.get(node)
    {
        set("level", json!(""));
        if let Some(told) = lab.believed_node(node) {
            set("uptime", json!(told.uptime_s));
            set("cpu", json!(told.cpu));
            set("maxcpu", json!(definition.cpus));
            set("mem", json!(told.memory_used));
            set("maxmem", json!(definition.memory_bytes));
            set("disk", json!(told.disk_used));
            set("maxdisk", json!(definition.disk_bytes));
        }
        set("cgroup-mode", json!(2));
    }
    Value::Object(row)
}

fn storage_rows(lab: &Lab, who: &Who, rows: &mut Vec<Value>) {
    for storage in lab.storages.values().filter(|storage| !storage.disabled) {
        if !lab.may(&who.id, &format!("/storage/{}", storage.id), &["Datastore.Audit"]) {
            continue;
        }
        // Once per node, also when shared.
        for node in lab.nodes.keys().filter(|node| storage.is_on(node)) {
            let told = lab.believed_storage(node, &storage.id);
            let mut row = json!({
                "id": format!("storage/{node}/{}", storage.id), "node": node, "storage": storage.id, "type": "storage",
                "plugintype": storage.kind, "content": storage.content, "shared": u8::from(storage.shared),
                "status": if told.is_some() { "available" } else { "unknown" },
            });
            if let Some((used, total)) = told {
                row["disk"] = json!(used);
                row["maxdisk"] = json!(total);
            }
            if let Some(pool) = lab.pool_of_storage.get(&storage.id) {
                row["pool"] = json!(pool);
            }
            rows.push(row);
        }
    }
}

fn network_rows(lab: &Lab, who: &Who, rows: &mut Vec<Value>) {
    if !lab.may(&who.id, "/sdn/zones/localnetwork", &["SDN.Audit"]) {
        return;
    }
    for node in lab.nodes.keys() {
        let status = if lab.is_online(node) { "ok" } else { "unknown" };
        rows.push(match lab.version {
            PveVersion::V8_2 => json!({
                "id": format!("sdn/{node}/localnetwork"), "node": node, "sdn": "localnetwork", "status": status, "type": "sdn",
            }),
            PveVersion::V9_1 => json!({
                "id": format!("network/{node}/zone/localnetwork"), "node": node, "network": "localnetwork",
                "network-type": "zone", "zone-type": "simple", "status": status, "type": "network",
            }),
        });
    }
}
