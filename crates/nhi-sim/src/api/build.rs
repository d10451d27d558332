//! Making, restoring, cloning and destroying guests.

use super::{
    ApiError, Call, Outcome,
    config::{check_option_rights, check_tag_rights, options_of},
    route::{Check, Route, delete, post},
};
use crate::lab::{
    Lab, first_mac,
    guest::{Agent, Config, Guest, Interface, Kind, Power},
    task::{Build, Work},
};
use serde_json::json;
use std::collections::BTreeMap;

const ALLOCATE: Check = Check::All("/vms/{vmid}", &["VM.Allocate"]);
const CLONE: Check = Check::All("/vms/{vmid}", &["VM.Clone"]);
const CREATE_QEMU: &str =
    "@qemu + vmid:v! archive start:b pool storage unique:b bwlimit:i live-restore:b ha-managed:b";
const CREATE_LXC: &str = "@lxc + vmid:v! ostemplate:s! password ssh-public-keys restore:b start:b pool storage unique:b \
    bwlimit:i force:b ignore-unpack-errors:b ha-managed:b";

pub(super) const ROUTES: &[Route] = &[
    post("/nodes/{node}/qemu", Check::Anyone, CREATE_QEMU, |lab, call| create(lab, call, Kind::Qemu)),
    post("/nodes/{node}/lxc", Check::Anyone, CREATE_LXC, |lab, call| create(lab, call, Kind::Lxc)),
    post(
        "/nodes/{node}/qemu/{vmid}/clone",
        CLONE,
        "newid:v! name description pool snapname:c target:n full:b storage format:e(raw|qcow2|vmdk) bwlimit:i",
        |lab, call| clone(lab, call, Kind::Qemu),
    ),
    post(
        "/nodes/{node}/lxc/{vmid}/clone",
        CLONE,
        "newid:v! hostname description pool snapname:c target:n full:b storage bwlimit:i",
        |lab, call| clone(lab, call, Kind::Lxc),
    ),
    delete(
        "/nodes/{node}/qemu/{vmid}",
        ALLOCATE,
        "purge:b destroy-unreferenced-disks:b skiplock:b",
        |lab, call| destroy(lab, call, Kind::Qemu),
    ),
    delete(
        "/nodes/{node}/lxc/{vmid}",
        ALLOCATE,
        "purge:b destroy-unreferenced-disks:b force:b",
        |lab, call| destroy(lab, call, Kind::Lxc),
    ),
];

/// VM.Allocate on the new number, or on the pool it goes into.
fn may_allocate(lab: &Lab, call: &Call<'_>, vmid: u32) -> Result<(), ApiError> {
    let on_number = lab.may(&call.who.id, &format!("/vms/{vmid}"), &["VM.Allocate"]);
    let on_pool = call
        .text("pool")
        .is_some_and(|pool| lab.may(&call.who.id, &format!("/pool/{pool}"), &["VM.Allocate"]));
    if on_number || on_pool { Ok(()) } else { Err(ApiError::permission_bare()) }
}

fn known_pool(lab: &Lab, call: &Call<'_>) -> Result<Option<String>, ApiError> {
    match call.text("pool") {
        Some(pool) if !lab.pools.contains_key(pool) => Err(ApiError::die(format!("no such pool '{pool}'"))),
        other => Ok(other.map(str::to_owned)),
    }
}

fn taken(lab: &Lab, kind: Kind, vmid: u32) -> Option<ApiError> {
    let other = lab.guests.get(&vmid)?;
    let (noun, other_noun) = (kind.noun(), other.kind.noun());
    Some(ApiError::die(format!(
        "unable to create {noun} {vmid} - {other_noun} {vmid} already exists on node '{}'",
        other.node
    )))
}

fn blank(kind: Kind, vmid: u32, node: &str, config: Config) -> Guest {
    let mac = first_mac(&config);
    Guest {
        vmid,
        kind,
        node: node.to_owned(),
        config,
        pending: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        power: Power::Stopped,
        agent: Agent::Missing,
        interfaces: vec![
            Interface {
                name: "lo".to_owned(),
                mac: "00:00:00:00:00:00".to_owned(),
                addresses: vec!["127.0.0.1/8".to_owned(), "::1/128".to_owned()],
            },
            Interface {
                name: if kind == Kind::Qemu { "ens18" } else { "eth0" }.to_owned(),
                mac,
                // What the lab's DHCP server would give.
                addresses: vec![format!("192.168.10.{}/24", 150 + vmid % 100)],
            },
        ],
        ignores_shutdown: false,
        shown_digest: None,
    }
}

const NOT_OPTIONS: &[&str] = &[
    "vmid",
    "archive",
    "start",
    "pool",
    "storage",
    "unique",
    "bwlimit",
    "live-restore",
    "ha-managed",
    "ostemplate",
    "password",
    "ssh-public-keys",
    "restore",
    "force",
    "ignore-unpack-errors",
];

fn create(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let vmid = call.text("vmid").and_then(|text| text.parse().ok()).unwrap_or(0);
    let archive = match kind {
        Kind::Qemu => call.text("archive"),
        Kind::Lxc => call.text("ostemplate").filter(|_| call.flag("restore")),
    };
    if let Some(archive) = archive {
        let archive = archive.to_owned();
        return restore(lab, call, kind, vmid, &archive);
    }
    may_allocate(lab, call, vmid)?;
    let pool = known_pool(lab, call)?;
    let mut config = options_of(call, NOT_OPTIONS)?;
    if kind == Kind::Lxc {
        let template = call.text("ostemplate").unwrap_or_default();
        if !lab.volumes.contains_key(&lab.volume_key(call.node(), template)) {
            return Err(ApiError::die(format!("volume '{template}' does not exist")));
        }
        let storage = call.text("storage").unwrap_or("local");
        config.entry("rootfs".to_owned()).or_insert_with(|| format!("{storage}:4"));
        config.entry("hostname".to_owned()).or_insert_with(|| format!("CT{vmid}"));
    }
    check_option_rights(lab, &call.who, kind, vmid, pool.as_deref(), &config)?;
    check_tag_rights(lab, &call.who, "", config.get("tags").map_or("", String::as_str))?;
    if let Some(error) = taken(lab, kind, vmid) {
        return Err(error);
    }
    check_disk_storages(lab, call.node(), kind, &config)?;
    let made_s = lab.now_s();
    lab.complete_network(kind, &mut config);
    lab.fill_in(kind, &mut config, made_s);
    let (config, volumes) = lab.allocate(vmid, kind, call.node(), &config, made_s);
    let guest = Box::new(blank(kind, vmid, call.node(), config));
    let build = Build::Create { guest, volumes, pool, start: call.flag("start") };
    let name = if kind == Kind::Qemu { "qmcreate" } else { "vzcreate" };
    Ok(json!(lab.fork(call.node(), name, &vmid.to_string(), &call.who, Work::Build(build))).into())
}

fn check_disk_storages(lab: &Lab, node: &str, kind: Kind, config: &Config) -> Result<(), ApiError> {
    let content = if kind == Kind::Qemu { "images" } else { "rootdir" };
    for (_, value) in crate::lab::guest::disks_of(kind, config) {
        let storage = value.split(':').next().unwrap_or_default();
        let Some(definition) = lab.storages.get(storage) else { continue };
        if !definition.is_on(node) {
            return Err(ApiError::die(format!("storage '{storage}' is not available on node '{node}'")));
        }
        if !definition.holds(content) {
            return Err(ApiError::die(format!(
                "storage '{storage}' does not support content-type '{content}'"
            )));
        }
    }
    Ok(())
}

/// A guest out of a backup, over an existing one with `force`.
fn restore(lab: &mut Lab, call: &Call<'_>, kind: Kind, vmid: u32, archive: &str) -> Outcome {
    may_allocate(lab, call, vmid).or_else(|error| {
        let over_own = call.flag("force") && lab.may(&call.who.id, &format!("/vms/{vmid}"), &["VM.Backup"]);
        if over_own { Ok(()) } else { Err(error) }
    })?;
    let pool = known_pool(lab, call)?;
    let key = lab.volume_key(call.node(), archive);
    let Some(volume) = lab.volumes.get(&key).filter(|volume| super::storage::may_see(lab, &call.who, volume))
    else {
        return Err(ApiError::die(format!("volume '{archive}' does not exist")));
    };
    let Some(mut config) = volume.saved_config.clone() else {
        return Err(ApiError::die("unable to restore: the archive holds no configuration"));
    };
    config.retain(|key, _| !matches!(key.as_str(), "parent" | "lock" | "template"));
    let noun = kind.noun();
    if let Some(old) = lab.guests.get(&vmid).cloned() {
        if !call.flag("force") {
            return taken(lab, kind, vmid).map_or_else(|| Err(ApiError::permission_bare()), Err);
        }
        if old.flag("protection") {
            return Err(ApiError::die(format!("unable to restore {noun} {vmid} - protection mode enabled")));
        }
        if old.power.is_up() {
            return Err(ApiError::die(format!(
                "unable to restore {noun} {vmid} - {} is running",
                noun.to_ascii_lowercase()
            )));
        }
        lab.volumes.retain(|_, volume| volume.vmid != Some(vmid) || volume.content == "backup");
        lab.guests.remove(&vmid);
    }
    config.extend(options_of(call, NOT_OPTIONS)?);
    let disks: Vec<(String, u64, String)> = crate::lab::guest::disks_of(kind, &config)
        .into_iter()
        .map(|(key, value)| {
            let own = value.split(':').next().unwrap_or_default().to_owned();
            let size_gib = crate::lab::guest::size_of_disk(&value).unwrap_or(1 << 30).div_ceil(1 << 30);
            (key, size_gib, call.text("storage").map_or(own, str::to_owned))
        })
        .collect();
    for (key, size_gib, storage) in disks {
        config.insert(key, format!("{storage}:{size_gib}"));
    }
    let made_s = lab.now_s();
    let (config, volumes) = lab.allocate(vmid, kind, call.node(), &config, made_s);
    let guest = Box::new(blank(kind, vmid, call.node(), config));
    let build = Build::Create { guest, volumes, pool, start: call.flag("start") };
    let name = if kind == Kind::Qemu { "qmrestore" } else { "vzrestore" };
    Ok(json!(lab.fork(call.node(), name, &vmid.to_string(), &call.who, Work::Build(build))).into())
}

fn clone(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let new = call.text("newid").and_then(|text| text.parse().ok()).unwrap_or(0);
    may_allocate(lab, call, new)?;
    let pool = known_pool(lab, call)?;
    let source = lab.guest_at(call.node(), kind, call.vmid())?.clone();
    let full = match call.text("full") {
        Some(_) => call.flag("full"),
        // Only a template can be linked to.
        None => !source.is_template(),
    };
    let storage = call.text("storage");
    if storage.is_some() && !full {
        return Err(ApiError::parameter("storage", "parameter 'storage' not allowed for linked clones"));
    }
    if !full && !source.is_template() {
        let drive = source.disks().first().map_or_else(String::new, |(key, _)| key.clone());
        return Err(ApiError::die(format!("Linked clone feature is not supported for drive '{drive}'")));
    }
    if let Some(error) = taken(lab, kind, new) {
        return Err(error);
    }
    let target = call.text("target").unwrap_or(call.node()).to_owned();
    check_clone_target(lab, &source, &target, call.node())?;
    let base = match call.text("snapname") {
        Some(name) => match source.snapshots.get(name) {
            Some(snapshot) => snapshot.config.clone(),
            None => return Err(ApiError::die(format!("snapshot '{name}' does not exist"))),
        },
        None if kind == Kind::Lxc && source.power.is_up() => {
            return Err(ApiError::die("Cannot do full clones on a running container without snapshots"));
        }
        None => source.config.clone(),
    };
    if !source.line("lock").is_empty() {
        return Err(ApiError::die(format!("{} is locked ({})", kind.noun(), source.line("lock"))));
    }
    for (_, value) in source.disks() {
        let own = value.split(':').next().unwrap_or_default();
        let path = format!("/storage/{}", storage.unwrap_or(own));
        lab.require_any(&call.who, &path, &["Datastore.AllocateSpace"])?;
    }
    let config = clone_config(lab, call, &source, new, base);
    check_tag_rights(lab, &call.who, "", config.get("tags").map_or("", String::as_str))?;
    let (config, volumes) = lab.copy_disks(&source, &config, new, &target, storage, full)?;
    let mut guest = blank(kind, new, &target, config);
    guest.agent = source.agent;
    let build = Build::Clone { source: source.vmid, guest: Box::new(guest), volumes, pool };
    let name = if kind == Kind::Qemu { "qmclone" } else { "vzclone" };
    Ok(json!(lab.fork(call.node(), name, &source.vmid.to_string(), &call.who, Work::Build(build))).into())
}

fn check_clone_target(lab: &Lab, source: &Guest, target: &str, here: &str) -> Result<(), ApiError> {
    if target == here {
        return Ok(());
    }
    if !lab.nodes.contains_key(target) {
        return Err(ApiError::die(format!("no such cluster node '{target}'")));
    }
    let is_local = |value: &str| {
        let storage = value.split(':').next().unwrap_or_default();
        lab.storages.get(storage).is_some_and(|storage| !storage.shared)
    };
    if source.disks().iter().any(|(_, value)| is_local(value)) {
        let noun = source.kind.noun();
        return Err(ApiError::die(format!(
            "can't clone {noun} to node '{target}' ({noun} uses local storage)"
        )));
    }
    Ok(())
}

/// The copy keeps protection and tags; identity, network addresses and history are its own.
fn clone_config(lab: &mut Lab, call: &Call<'_>, source: &Guest, new: u32, mut config: Config) -> Config {
    config.retain(|key, _| {
        !matches!(key.as_str(), "template" | "parent" | "lock" | "snaptime") && !key.starts_with("unused")
    });
    let own = call.text(source.kind.name_key()).map(str::to_owned);
    let name = own.unwrap_or_else(|| match source.kind {
        Kind::Qemu => format!(
            "Copy-of-{}",
            source.config.get("name").cloned().unwrap_or_else(|| format!("VM-{}", source.vmid))
        ),
        Kind::Lxc => source.name(),
    });
    config.insert(source.kind.name_key().to_owned(), name);
    if let Some(description) = call.text("description") {
        config.insert("description".to_owned(), description.to_owned());
    }
    if source.kind == Kind::Qemu {
        config.insert("smbios1".to_owned(), format!("uuid={}", lab.next_uuid()));
        config.insert("vmgenid".to_owned(), lab.next_uuid());
        let creator = source.line("meta").split(',').next().unwrap_or("creation-qemu=10.1.2").to_owned();
        config.insert("meta".to_owned(), format!("{creator},ctime={}", lab.now_s()));
    }
    for value in config.values_mut() {
        *value = value.replace(&format!("vm-{}-cloudinit", source.vmid), &format!("vm-{new}-cloudinit"));
    }
    for (key, value) in config.clone() {
        if key.starts_with("net") {
            let mac = lab.next_mac();
            let fresh: Vec<String> = value
                .split(',')
                .map(|part| match part.split_once('=') {
                    Some((name, old)) if old.len() == 17 && old.matches(':').count() == 5 => {
                        format!("{name}={mac}")
                    }
                    _ => part.to_owned(),
                })
                .collect();
            config.insert(key, fresh.join(","));
        }
    }
    config
}

fn destroy(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    if call.flag("skiplock") && !call.who.is_root() {
        return Err(ApiError::parameter("skiplock", "Only root may use this option."));
    }
    let (purge, force) = (call.flag("purge"), call.flag("force"));
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    lab.check_destroy(guest, purge, force)?;
    let vmid = guest.vmid;
    let build = Build::Destroy { vmid, purge, force, unreferenced: call.flag("destroy-unreferenced-disks") };
    let name = if kind == Kind::Qemu { "qmdestroy" } else { "vzdestroy" };
    Ok(json!(lab.fork(call.node(), name, &vmid.to_string(), &call.who, Work::Build(build))).into())
}
