//! A few lines of Proxmox: what each call does to the lab, and what Proxmox refuses by itself. Written from its
//! documentation and not from the planner, so that a plan can be tried on it.

use crate::lab::{Inmate, Lab, now};
use nhi_decide::sight::SnapshotSight;
use nhi_model::{
    guest::{GuestKind, GuestStatus},
    plan::{ApiCall, Method},
};

/// Does what a call does; the error is Proxmox's refusal.
pub(crate) fn call(lab: &mut Lab, call: &ApiCall) -> Result<(), String> {
    let parts: Vec<&str> = call.path.split('/').skip(1).collect();
    for name in call.params.keys() {
        assert!(!["force", "skiplock", "forceStop"].contains(&name.as_str()), "{call}");
    }
    match (call.method, parts.as_slice()) {
        (Method::Post, ["nodes", node, "vzdump"]) => backup(lab, node, call),
        (Method::Post, ["nodes", node, kind @ ("qemu" | "lxc")]) => create(lab, node, kind, call),
        (method, ["nodes", node, kind, vmid, rest @ ..]) => {
            let vmid: u32 = vmid.parse().map_err(|_| format!("no number in {call}"))?;
            let guest = lab.guests.get(&vmid).ok_or_else(|| format!("{vmid} does not exist"))?;
            if guest.node != *node || guest.kind.as_str() != *kind {
                return Err(format!("{kind} {vmid} is not on {node}"));
            }
            let lock = guest.config.get("lock").cloned();
            if let Some(lock) = lock.filter(|lock| lock != "suspended" || rest.first() != Some(&"status")) {
                return Err(format!("{vmid} is locked ({lock})"));
            }
            of_guest(lab, vmid, method, rest, call)
        }
        _ => Err(format!("no such method: {call}")),
    }
}

fn of_guest(lab: &mut Lab, vmid: u32, method: Method, rest: &[&str], call: &ApiCall) -> Result<(), String> {
    let name = call.params.get("snapname").cloned().unwrap_or_default();
    match (method, rest) {
        (Method::Post, ["status", word]) => power(guest(lab, vmid), word, call),
        (Method::Post, ["clone"]) => clone(lab, vmid, call),
        (Method::Post, ["migrate"]) => migrate(guest(lab, vmid), call),
        (Method::Put, ["config"]) => config(guest(lab, vmid), call),
        (Method::Put, ["resize"]) => resize(guest(lab, vmid), call),
        (Method::Delete, []) => destroy(lab, vmid, call),
        (Method::Post, ["snapshot"]) => snapshot(guest(lab, vmid), name),
        (Method::Delete, ["snapshot", name]) => {
            let guest = guest(lab, vmid);
            let at =
                guest.snapshots.iter().position(|known| known.name == *name).ok_or("no such snapshot")?;
            let gone = guest.snapshots.remove(at);
            for other in guest.snapshots.iter_mut().filter(|other| other.parent.as_deref() == Some(name)) {
                other.parent.clone_from(&gone.parent);
            }
            if guest.config.get("parent").is_some_and(|parent| parent == name) {
                guest.config.remove("parent");
                guest.config.extend(gone.parent.map(|parent| ("parent".to_owned(), parent)));
            }
            Ok(())
        }
        (Method::Post, ["snapshot", name, "rollback"]) => rollback(guest(lab, vmid), name, call),
        _ => Err(format!("no such method: {call}")),
    }
}

fn guest(lab: &mut Lab, vmid: u32) -> &mut Inmate {
    lab.guests.get_mut(&vmid).unwrap()
}

fn power(guest: &mut Inmate, word: &str, call: &ApiCall) -> Result<(), String> {
    let is = guest.status;
    guest.status = match (word, is) {
        ("start", GuestStatus::Stopped | GuestStatus::Suspended) if !guest.flag("template") => {
            guest.config.remove("lock");
            GuestStatus::Running
        }
        ("stop", GuestStatus::Running | GuestStatus::Paused) => GuestStatus::Stopped,
        ("shutdown", GuestStatus::Running) => GuestStatus::Stopped,
        ("reboot", GuestStatus::Running) => GuestStatus::Running,
        ("reset", GuestStatus::Running) if guest.kind == GuestKind::Qemu => GuestStatus::Running,
        ("suspend", GuestStatus::Running) if guest.kind == GuestKind::Qemu => {
            if call.params.contains_key("todisk") {
                guest.config.insert("lock".to_owned(), "suspended".to_owned());
                GuestStatus::Suspended
            } else {
                GuestStatus::Paused
            }
        }
        ("resume", GuestStatus::Paused | GuestStatus::Suspended) => {
            guest.config.remove("lock");
            GuestStatus::Running
        }
        _ => return Err(format!("{word} of a guest that is {is:?}")),
    };
    if matches!(word, "stop" | "shutdown" | "reboot") {
        guest.take_over();
    }
    Ok(())
}

fn config(guest: &mut Inmate, call: &ApiCall) -> Result<(), String> {
    let mut params = call.params.clone();
    params.remove("digest");
    let removed = params.remove("delete").unwrap_or_default();
    // What a running virtual machine has to be started anew for is pending, and not in the configuration.
    let waits =
        |field: &str| guest.kind == GuestKind::Qemu && guest.is_up() && matches!(field, "cores" | "memory");
    let removed = removed.split(',').filter(|field| !field.is_empty()).map(|field| (field.to_owned(), None));
    let set = params.into_iter().map(|(field, line)| (field, Some(line)));
    let (later, now): (Vec<_>, Vec<_>) = removed.chain(set).partition(|(field, _)| waits(field));
    for (field, line) in now {
        match line {
            Some(line) => drop(guest.config.insert(field, line)),
            None => drop(guest.config.remove(&field)),
        }
    }
    guest.pending.extend(later);
    Ok(())
}

fn resize(guest: &mut Inmate, call: &ApiCall) -> Result<(), String> {
    let (disk, size) = (&call.params["disk"], &call.params["size"]);
    let line = guest.config.get(disk).ok_or("no such disk")?;
    let had = nhi_decide::fact::size_bytes(line).ok_or("no size")?;
    let wanted = nhi_decide::fact::size_bytes(&format!("x,size={size}")).ok_or("bad size")?;
    if wanted < had {
        return Err("shrinking disks is not supported".to_owned());
    }
    let line = line.split(',').filter(|part| !part.starts_with("size=")).collect::<Vec<_>>().join(",");
    guest.config.insert(disk.clone(), format!("{line},size={size}"));
    Ok(())
}

fn snapshot(guest: &mut Inmate, name: String) -> Result<(), String> {
    if guest.flag("template") || guest.snapshots.iter().any(|known| known.name == name) {
        return Err("cannot snapshot".to_owned());
    }
    let config = Some(guest.config.clone());
    let parent = guest.config.insert("parent".to_owned(), name.clone());
    guest.snapshots.push(SnapshotSight { name, parent, at: Some(now()), config });
    Ok(())
}

fn rollback(guest: &mut Inmate, name: &str, call: &ApiCall) -> Result<(), String> {
    let snapshot = guest.snapshots.iter().find(|known| known.name == name).ok_or("no such snapshot")?;
    let mut config = snapshot.config.clone().unwrap_or_default();
    // A snapshot has a description of its own; the guest keeps its.
    config.remove("description");
    config.insert("parent".to_owned(), name.to_owned());
    config.extend(guest.config.get("description").map(|text| ("description".to_owned(), text.clone())));
    guest.config = config;
    guest.pending.clear();
    let start = call.params.contains_key("start");
    guest.status = if start { GuestStatus::Running } else { GuestStatus::Stopped };
    Ok(())
}

fn migrate(guest: &mut Inmate, call: &ApiCall) -> Result<(), String> {
    let wanted = match guest.kind {
        GuestKind::Qemu => "online",
        GuestKind::Lxc => "restart",
    };
    if guest.is_up() && !call.params.contains_key(wanted) {
        return Err("can't migrate running guest".to_owned());
    }
    call.params["target"].clone_into(&mut guest.node);
    Ok(())
}

fn destroy(lab: &mut Lab, vmid: u32, call: &ApiCall) -> Result<(), String> {
    let guest = &lab.guests[&vmid];
    assert_eq!(call.params["destroy-unreferenced-disks"], "0");
    if guest.flag("protection") || guest.is_up() || guest.ha.is_some() {
        return Err("protected, running or in HA".to_owned());
    }
    lab.guests.remove(&vmid);
    Ok(())
}

fn clone(lab: &mut Lab, vmid: u32, call: &ApiCall) -> Result<(), String> {
    let new: u32 = call.params["newid"].parse().map_err(|_| "bad id")?;
    if lab.guests.contains_key(&new) {
        return Err("already exists".to_owned());
    }
    let source = lab.guests[&vmid].clone();
    let full = call.params.contains_key("full");
    if !full && (!source.flag("template") || call.params.contains_key("storage")) {
        return Err("linked clone is not possible".to_owned());
    }
    let mut copy =
        Inmate { vmid: new, status: GuestStatus::Stopped, ha: None, snapshots: Vec::new(), ..source };
    copy.pending.clear();
    for field in ["template", "parent", "lock"] {
        copy.config.remove(field);
    }
    let title = copy.title();
    copy.config.insert(title.to_owned(), call.params[title].clone());
    copy.config.insert(copy.disk().to_owned(), format!("local-lvm:vm-{new}-disk-0,size=32G"));
    copy.uuid = copy.uuid.map(|_| format!("10000000-0000-4000-8000-{new:012}"));
    copy.pool = call.params.get("pool").cloned();
    if let Some(node) = call.params.get("target") {
        node.clone_into(&mut copy.node);
    }
    copy.backup = None;
    lab.guests.insert(new, copy);
    Ok(())
}

fn create(lab: &mut Lab, node: &str, kind: &str, call: &ApiCall) -> Result<(), String> {
    let vmid: u32 = call.params["vmid"].parse().map_err(|_| "bad id")?;
    if lab.guests.contains_key(&vmid) {
        return Err("already exists".to_owned());
    }
    let base = if kind == "qemu" { crate::lab::vm(vmid, "x") } else { crate::lab::ct(vmid, "x") };
    let mut made = base.stopped().on(node);
    made.config.clear();
    for (field, value) in &call.params {
        if !["vmid", "pool", "ostemplate", "storage"].contains(&field.as_str()) {
            made.config.insert(field.clone(), value.clone());
        }
    }
    made.pool = call.params.get("pool").cloned();
    lab.guests.insert(vmid, made);
    Ok(())
}

fn backup(lab: &mut Lab, node: &str, call: &ApiCall) -> Result<(), String> {
    assert_eq!(call.params["remove"], "0", "older backups stay");
    let vmid: u32 = call.params["vmid"].parse().map_err(|_| "bad id")?;
    let guest = lab.guests.get_mut(&vmid).filter(|guest| guest.node == node).ok_or("not on this node")?;
    guest.backup = Some(now());
    Ok(())
}
