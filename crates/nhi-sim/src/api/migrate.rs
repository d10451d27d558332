//! Moving guests between nodes: what stands against it, and the move.

use super::{
    ApiError, Call, Outcome,
    route::{Check, Route, get, post},
};
use crate::lab::{
    Lab, PveVersion,
    guest::{Guest, Kind, volid_of},
    task::{Build, HaWant, Migration, PowerAct, Work},
};
use serde_json::{Map, Value, json};

const MAY: Check = Check::All("/vms/{vmid}", &["VM.Migrate"]);

pub(super) const ROUTES: &[Route] = &[
    get("/nodes/{node}/qemu/{vmid}/migrate", MAY, "target:n", check_virtual_machine).protected(),
    get("/nodes/{node}/lxc/{vmid}/migrate", MAY, "target:n", check_container).protected(),
    post(
        "/nodes/{node}/qemu/{vmid}/migrate",
        MAY,
        "target:n! online:b force:b migration_type migration_network with-local-disks:b targetstorage bwlimit:i with-conntrack-state:b",
        |lab, call| migrate(lab, call, Kind::Qemu),
    ),
    post(
        "/nodes/{node}/lxc/{vmid}/migrate",
        MAY,
        "target:n! online:b restart:b timeout:i target-storage bwlimit:i",
        |lab, call| migrate(lab, call, Kind::Lxc),
    ),
];

/// Storages a guest uses that a node does not have.
fn unavailable_storages(lab: &Lab, guest: &Guest, node: &str) -> Vec<String> {
    let mut missing: Vec<String> = guest
        .disks()
        .iter()
        .filter_map(|(_, value)| volid_of(value).split(':').next().map(str::to_owned))
        .filter(|storage| lab.storages.get(storage).is_some_and(|storage| !storage.is_on(node)))
        .collect();
    missing.sort();
    missing.dedup();
    missing
}

fn local_resources(guest: &Guest) -> Vec<&String> {
    guest
        .config
        .iter()
        .filter(|(key, value)| {
            (key.starts_with("hostpci") || key.starts_with("usb"))
                && !value.contains("mapping=")
                && *value != "spice"
        })
        .map(|(key, _)| key)
        .collect()
}

fn other_nodes(lab: &Lab, guest: &Guest) -> (Vec<String>, Map<String, Value>) {
    let mut allowed = Vec::new();
    let mut refused = Map::new();
    for node in lab.nodes.keys().filter(|node| **node != guest.node && lab.is_online(node)) {
        let missing = unavailable_storages(lab, guest, node);
        if missing.is_empty() {
            allowed.push(node.clone());
        } else {
            refused.insert(node.clone(), json!({"unavailable_storages": missing}));
        }
    }
    (allowed, refused)
}

fn check_virtual_machine(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let guest = lab.guest_at(call.node(), Kind::Qemu, call.vmid())?;
    let disks: Vec<Value> = guest
        .disks()
        .into_iter()
        .filter(|(_, value)| {
            let storage = volid_of(value).split(':').next().unwrap_or_default();
            lab.storages.get(storage).is_some_and(|storage| !storage.shared)
        })
        .map(|(key, value)| {
            let size = crate::lab::guest::size_of_disk(&value).unwrap_or(0);
            json!({"volid": volid_of(&value), "drivename": key, "size": size, "cdrom": 0, "is_unused": 0, "is_vmstate": 0, "is_tpmstate": 0, "is_attached": 1, "shared": 0, "replicate": 1})
        })
        .collect();
    let mut answer = json!({
        "running": u8::from(guest.power.is_up()), "local_disks": disks, "local_resources": local_resources(guest),
        "mapped-resources": [], "mapped-resource-info": {},
    });
    if lab.version >= PveVersion::V9_1 {
        answer["has-dbus-vmstate"] = json!(1);
    }
    // For a running guest PVE does not sort the nodes.
    if !guest.power.is_up() {
        let (allowed, refused) = other_nodes(lab, guest);
        answer["allowed_nodes"] = json!(allowed);
        answer["not_allowed_nodes"] = Value::Object(refused);
    }
    Ok(answer.into())
}

fn check_container(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    if lab.version < PveVersion::V9_1 {
        let message = format!(
            "Method 'GET /nodes/{}/lxc/{}/migrate' not implemented",
            call.var("node"),
            call.var("vmid")
        );
        return Err(ApiError::status(501, message));
    }
    let guest = lab.guest_at(call.node(), Kind::Lxc, call.vmid())?;
    let (allowed, refused) = other_nodes(lab, guest);
    Ok(json!({"running": u8::from(guest.power.is_up()), "allowed-nodes": allowed, "not-allowed-nodes": refused}).into())
}

fn migrate(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let target = call.text("target").unwrap_or_default().to_owned();
    if target == call.node() {
        return Err(ApiError::parameter("target", "target is local node."));
    }
    if !lab.nodes.contains_key(&target) {
        return Err(ApiError::die(format!("no such cluster node '{target}'")));
    }
    if let Some(name) =
        ["migration_type", "migration_network", "force"].iter().find(|name| call.params.contains_key(**name))
        && !call.who.is_root()
    {
        return Err(ApiError::parameter(name, "Only root may use this option."));
    }
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let (online, restart) = (call.flag("online"), call.flag("restart"));
    match (kind, guest.power.is_up()) {
        (Kind::Qemu, true) if !online => {
            return Err(ApiError::die("can't migrate running VM without --online"));
        }
        (Kind::Lxc, true) if !online && !restart => {
            return Err(ApiError::die("can't migrate running container without --online or --restart"));
        }
        _ => {}
    }
    if kind == Kind::Qemu && !local_resources(guest).is_empty() {
        let names: Vec<&str> = local_resources(guest).into_iter().map(String::as_str).collect();
        return Err(ApiError::die(format!(
            "can't migrate VM which uses local devices: {}",
            names.join(", ")
        )));
    }
    let storage =
        call.text("targetstorage").or_else(|| call.text("target-storage")).filter(|storage| *storage != "1");
    if let Some(storage) = storage {
        lab.require_any(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    let vmid = guest.vmid;
    let (name, work) = if lab.is_ha_managed(vmid) {
        ("hamigrate", Work::Power { vmid, act: PowerAct::HaRequest(HaWant::Node(target)) })
    } else {
        let migration = Migration {
            vmid,
            target,
            online,
            restart: restart && guest.power.is_up(),
            with_local_disks: call.flag("with-local-disks"),
            storage: storage.map(str::to_owned),
        };
        let name = if kind == Kind::Qemu { "qmigrate" } else { "vzmigrate" };
        (name, Work::Build(Build::Migrate(migration)))
    };
    Ok(json!(lab.fork(call.node(), name, &vmid.to_string(), &call.who, work)).into())
}
