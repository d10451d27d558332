//! One guest from its row in a node's list and from what it was asked by itself.

use super::{
    BackupPlaces,
    rights::{rights, sees_backups},
};
use crate::proxmox::answers::{AddressAnswer, Answer, Answers, GuestAnswers};
use nhi_decide::observation::{GuestRef, GuestSight, NodeSight, Part};
use nhi_model::{
    Timestamp,
    guest::{Address, AddressSource, Backups, Guest, GuestIdentity, GuestKind, GuestStatus, Ha, Nic},
    live::Gauges,
    source::Coverage,
};
use nhi_pve::{
    Kind, PveError, Rows,
    config::GuestConfig,
    guest::{self as pve, Interface, NodeGuest},
    node::BackupVolume,
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

/// What is looked up for each guest, made once a pass.
pub(super) struct Lists<'a> {
    index: BTreeMap<GuestRef, &'a pve::GuestResource>,
    /// HA groups; `None` when they were not read, so that a failed call does not look like a guest that left
    /// its group.
    groups: Option<BTreeMap<GuestRef, Option<String>>>,
    backups: BackupPlaces,
    /// Whether storages may be left out of the lists.
    hides_storages: bool,
}

impl<'a> Lists<'a> {
    pub(super) fn of(answers: &'a Answers) -> Self {
        let rows = answers.resources.iter().flat_map(|index| &index.guests);
        let index = rows.map(|row| (GuestRef { kind: super::kind(row.kind), vmid: row.vmid }, row)).collect();
        let told = answers.permissions.as_ref().ok().map(rights);
        Self {
            index,
            groups: ha_groups(answers),
            backups: super::backup_places(answers),
            hides_storages: told.is_none_or(|rights| !rights.sees_all_storages),
        }
    }
}

/// A guest as its node lists it, with whatever else was asked.
pub(super) fn listed(answers: &Answers, lists: &Lists<'_>, node: &str, row: &NodeGuest) -> GuestSight {
    let guest = GuestRef { kind: super::kind(row.kind), vmid: row.vmid };
    let mut sight = GuestSight {
        guest: blank(guest, &answers.cluster, node),
        read: BTreeSet::from([Part::List]),
        unread_config: None,
        tells_pause: guest.kind == GuestKind::Lxc || row.qmpstatus.is_some(),
    };
    let record = &mut sight.guest;
    record.name = row.name.clone().unwrap_or_default();
    record.status = status(row);
    record.template = row.template;
    record.tags = row.tags.iter().cloned().collect();
    record.lock = row.lock.clone();
    record.cpus = row.usage.maxcpu.and_then(whole_processors);
    record.memory_bytes = row.usage.maxmem;
    record.disk_bytes = disk_bytes(answers, guest, row);
    membership(lists, guest, &mut sight);
    backups(answers, lists, guest, &mut sight);
    if let Some(asked) = answers.guests.get(&guest).filter(|asked| asked.node == node) {
        take(asked, &mut sight);
    }
    sight
}

/// Adds guests that were asked by themselves and are on no list of this pass.
pub(super) fn add_lone_sights(answers: &Answers, nodes: &mut BTreeMap<String, NodeSight>) {
    for (guest, asked) in &answers.guests {
        if answers.nodes.contains_key(&asked.node) {
            continue;
        }
        let mut sight = GuestSight {
            guest: blank(*guest, &answers.cluster, &asked.node),
            read: BTreeSet::new(),
            unread_config: None,
            tells_pause: false,
        };
        take(asked, &mut sight);
        if sight.read.is_empty() && sight.unread_config.is_none() {
            continue;
        }
        // Not one of the nodes that were to be read, so its coverage says nothing.
        let lone = nodes.entry(asked.node.clone()).or_insert_with(|| NodeSight {
            coverage: Coverage::Complete,
            record: None,
            lists: BTreeSet::new(),
            guests: Vec::new(),
            storages: Vec::new(),
        });
        lone.guests.push(sight);
    }
}

/// What is missing of a node when configurations of its guests were asked for and not had. The first guest's
/// reason stands for all, so that the text does not move with the number of them. A guest that left the node
/// since it was listed is no gap of the node.
pub(super) fn unread_configs(answers: &Answers, node: &str) -> Option<String> {
    let of_node = answers.guests.values().filter(|asked| asked.node == node);
    let mut failed = of_node.filter_map(|asked| asked.config.as_ref()?.as_ref().err());
    let error = failed.find(|error| !matches!(error.kind(), Kind::Gone))?;
    Some(super::because("configurations of its guests could not be read", error))
}

/// What a guest is doing. Only its node's own list is asked: the index may be minutes old.
pub(super) fn status(row: &NodeGuest) -> GuestStatus {
    match (&row.status, &row.qmpstatus) {
        (pve::GuestStatus::Stopped, _) if row.lock.as_deref() == Some("suspended") => GuestStatus::Suspended,
        (pve::GuestStatus::Stopped, _) => GuestStatus::Stopped,
        (pve::GuestStatus::Running, Some(pve::GuestStatus::Paused)) | (pve::GuestStatus::Paused, _) => {
            GuestStatus::Paused
        }
        (pve::GuestStatus::Running | pve::GuestStatus::Other(_), _) => GuestStatus::Running,
        (pve::GuestStatus::Unknown, _) => GuestStatus::Unknown,
    }
}

pub(super) fn gauges(usage: &pve::GuestUsage) -> Gauges {
    Gauges {
        cpu: usage.cpu,
        mem: usage.mem,
        memhost: usage.memhost,
        disk: usage.disk,
        netin: usage.netin,
        netout: usage.netout,
        diskread: usage.diskread,
        diskwrite: usage.diskwrite,
        uptime: usage.uptime,
        pid: usage.pid,
        pressure: pressure(&usage.pressure),
    }
}

/// `pressurecpusome` … as Neural-Home v3's rows have them: by resource, then `some` and `full`.
fn pressure(flat: &BTreeMap<String, f64>) -> Option<Value> {
    let mut out = Map::new();
    for (name, figure) in flat {
        let Some(name) = name.strip_prefix("pressure") else { continue };
        let split = name.strip_suffix("some").map(|part| (part, "some"));
        let Some((part, kind)) = split.or_else(|| name.strip_suffix("full").map(|part| (part, "full")))
        else {
            continue;
        };
        let entry = out.entry(part).or_insert_with(|| Value::Object(Map::new()));
        entry[kind] = Value::from(*figure);
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

/// Processors of a container may be a fraction; it keeps that many busy.
fn whole_processors(cpus: f64) -> Option<u32> {
    let whole = cpus.ceil();
    // A float that is no small whole number is no count of processors.
    (1.0..=4096.0).contains(&whole).then_some(whole as u32)
}

/// A running container's list tells the size of its file system, which ZFS moves; its configuration does not.
fn disk_bytes(answers: &Answers, guest: GuestRef, row: &NodeGuest) -> Option<u64> {
    match guest.kind {
        GuestKind::Qemu => row.usage.maxdisk,
        GuestKind::Lxc => {
            let config = answers.guests.get(&guest)?.config.as_ref()?.as_ref().ok()?;
            config.volumes().get("rootfs")?.size_bytes
        }
    }
}

/// Pool and HA: the index has both, where it has the guest.
fn membership(lists: &Lists<'_>, guest: GuestRef, sight: &mut GuestSight) {
    let (Some(groups), Some(row)) = (&lists.groups, lists.index.get(&guest)) else { return };
    let group = groups.get(&guest).cloned().flatten();
    sight.guest.pool.clone_from(&row.pool);
    sight.guest.ha = row.hastate.clone().map(|state| Ha { state, group });
    sight.read.insert(Part::Membership);
}

/// The HA groups; empty where the token may not see them or this version has none.
fn ha_groups(answers: &Answers) -> Option<BTreeMap<GuestRef, Option<String>>> {
    let rows = match answers.ha_resources.as_ref()? {
        Ok(rows) => rows,
        Err(error) => {
            let never = super::is_denied(error) || matches!(error.kind(), Kind::NotImplemented);
            return never.then(BTreeMap::new);
        }
    };
    let groups = rows.rows.iter().filter_map(|row| {
        let (kind, vmid) = row.guest()?;
        Some((GuestRef { kind: super::kind(kind), vmid }, row.group.clone()))
    });
    Some(groups.collect())
}

/// What is seen of a guest's backups. Only who may list every storage that may hold some can say that there is none.
fn backups(answers: &Answers, lists: &Lists<'_>, guest: GuestRef, sight: &mut GuestSight) {
    let Ok(permissions) = &answers.permissions else { return };
    let sees = |storage: &str| sees_backups(permissions, storage, guest.vmid);
    let listed = answers.backups.as_ref().map(|storages| listed_backup(storages, guest, sees));
    if lists.hides_storages || !lists.backups.storages.iter().all(|storage| sees(storage)) {
        if listed.is_none() && answers.backup_log.is_none() {
            return;
        }
        let listed = listed.and_then(|listed| listed.newest);
        sight.guest.backups = newer(listed, logged_backup(answers, guest)).unwrap_or(Backups::NotVisible);
        sight.read.insert(Part::BackupTraces);
        return;
    }
    // A storage that did not answer may hold the newest one.
    if let Some(listed) = listed.filter(|listed| listed.is_whole && lists.backups.all) {
        sight.guest.backups = newer(listed.newest, None).unwrap_or(Backups::None);
        sight.read.insert(Part::Backups);
    }
}

/// What the lists of backups say of one guest.
struct Listed {
    newest: Option<(Timestamp, Option<String>)>,
    /// Whether each could be read to its end.
    is_whole: bool,
}

fn listed_backup(
    storages: &BTreeMap<String, Answer<Rows<BackupVolume>>>,
    guest: GuestRef,
    sees: impl Fn(&str) -> bool,
) -> Listed {
    let mut listed = Listed { newest: None, is_whole: true };
    for (storage, answer) in storages.iter().filter(|(storage, _)| sees(storage)) {
        listed.is_whole &= answer.as_ref().is_ok_and(|volumes| volumes.unreadable == 0);
        let of_guest = answer.iter().flat_map(|volumes| &volumes.rows).filter(|volume| {
            volume.vmid == Some(guest.vmid)
                && volume.subtype.as_deref().is_none_or(|kind| kind == guest.kind.as_str())
        });
        let newest = of_guest.filter_map(|volume| second(volume.ctime?)).max();
        if let Some(at) = newest
            && listed.newest.as_ref().is_none_or(|(known, _)| *known < at)
        {
            listed.newest = Some((at, Some(storage.clone())));
        }
    }
    listed
}

fn logged_backup(answers: &Answers, guest: GuestRef) -> Option<(Timestamp, Option<String>)> {
    let at = *answers.backup_log.as_ref()?.get(&guest.vmid)?;
    Some((second(at)?, None))
}

/// The newer of two; when both began at once, the one of which more is known.
fn newer(
    listed: Option<(Timestamp, Option<String>)>,
    logged: Option<(Timestamp, Option<String>)>,
) -> Option<Backups> {
    let newest = match (listed, logged) {
        (Some(listed), Some(logged)) if logged.0 > listed.0 => Some(logged),
        (listed, logged) => listed.or(logged),
    };
    newest.map(|(at, storage)| Backups::Newest { at, storage })
}

fn second(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

fn take(asked: &GuestAnswers, sight: &mut GuestSight) {
    match &asked.config {
        Some(Ok(config)) => {
            take_config(config, &mut sight.guest);
            sight.read.insert(Part::Config);
        }
        Some(Err(error)) => sight.unread_config = Some(error.text().to_owned()),
        None => {}
    }
    if let Some(Ok(snapshots)) = &asked.snapshots
        && snapshots.unreadable == 0
    {
        sight.guest.snapshots = u32::try_from(snapshots.rows.len()).ok();
        sight.read.insert(Part::Snapshots);
    }
    if let Some((source, addresses)) = asked.addresses.as_ref().and_then(addresses) {
        sight.guest.address_source = source;
        sight.guest.addresses = addresses;
        sight.read.insert(Part::Addresses);
    }
}

fn take_config(config: &GuestConfig, guest: &mut Guest) {
    guest.protection = Some(config.protection());
    guest.onboot = Some(config.onboot());
    guest.os = config.ostype();
    guest.notes = config.description();
    guest.config_digest = config.digest();
    guest.nics = config
        .network_cards()
        .into_iter()
        .map(|(key, card)| {
            let nic = Nic { bridge: card.bridge, mac: card.mac, vlan: card.vlan, ip_config: card.ip };
            (key, nic)
        })
        .collect();
    let volumes = config.volumes();
    guest.identity = GuestIdentity {
        uuid: config.smbios_uuid(),
        vmgenid: config.vmgenid(),
        rootfs: volumes.get("rootfs").map(|volume| volume.source.clone()),
        created: config.created().and_then(second),
        first_seen: None,
    };
    guest.volumes = volumes.into_iter().map(|(key, volume)| (key, volume.source)).collect();
}

/// What an answer says about addresses; `None` when it says nothing (a busy node, a guest that just stopped).
fn addresses(answer: &AddressAnswer) -> Option<(AddressSource, Vec<Address>)> {
    match answer {
        AddressAnswer::NoAgent => Some((AddressSource::NoAgent, Vec::new())),
        AddressAnswer::Agent(Ok(rows)) => Some((AddressSource::GuestAgent, visible(&rows.rows))),
        AddressAnswer::Container(Ok(Some(rows))) => Some((AddressSource::Interfaces, visible(&rows.rows))),
        AddressAnswer::Container(Ok(None)) => None,
        AddressAnswer::Agent(Err(error)) => refused(error, "VM.GuestAgent.Audit"),
        AddressAnswer::Container(Err(error)) => refused(error, "VM.Audit"),
    }
}

fn refused(error: &PveError, usual: &str) -> Option<(AddressSource, Vec<Address>)> {
    let source = match error.kind() {
        Kind::NoAgentConfigured => AddressSource::NoAgent,
        Kind::AgentNotRunning => AddressSource::AgentSilent,
        Kind::PermissionDenied { privilege, .. } => {
            let privilege = privilege.clone().unwrap_or_else(|| usual.to_owned());
            AddressSource::NoRight { privilege }
        }
        Kind::Gone
        | Kind::Locked { .. }
        | Kind::LockTimeout
        | Kind::Busy
        | Kind::NotRunning
        | Kind::NoQuorum
        | Kind::StorageUnavailable
        | Kind::NoSuchNode
        | Kind::NodeUnreachable { .. }
        | Kind::Unauthorized
        | Kind::InvalidParameter
        | Kind::Protected
        | Kind::StillRunning
        | Kind::HaManaged
        | Kind::AlreadyExists
        | Kind::Modified
        | Kind::ShutdownIgnored
        | Kind::StillInUse
        | Kind::NoSuchSnapshot
        | Kind::NotPossible
        | Kind::Timeout
        | Kind::Connect
        | Kind::Tls
        | Kind::NotProxmox
        | Kind::TooLarge
        | Kind::NotImplemented
        | Kind::Malformed
        | Kind::Other => return None,
    };
    Some((source, Vec::new()))
}

/// The addresses others can reach: not the loopback's, and not link-local ones, which come and go with every
/// bridge port of a container host.
fn visible(interfaces: &[Interface]) -> Vec<Address> {
    let mut out = Vec::new();
    for interface in interfaces {
        for found in &interface.addresses {
            let hidden = match found.address {
                IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
                IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local() || v6.is_unspecified(),
            };
            if !hidden {
                out.push(Address {
                    interface: interface.name.clone(),
                    address: found.address,
                    prefix: found.prefix,
                    mac: interface.mac.clone(),
                });
            }
        }
    }
    out.sort();
    out.dedup();
    out
}

fn blank(guest: GuestRef, cluster: &str, node: &str) -> Guest {
    Guest {
        kind: guest.kind,
        cluster: cluster.to_owned(),
        vmid: guest.vmid,
        name: String::new(),
        node: node.to_owned(),
        status: GuestStatus::Unknown,
        template: false,
        tags: Vec::new(),
        pool: None,
        lock: None,
        protection: None,
        onboot: None,
        ha: None,
        cpus: None,
        memory_bytes: None,
        disk_bytes: None,
        os: None,
        nics: BTreeMap::new(),
        volumes: BTreeMap::new(),
        addresses: Vec::new(),
        address_source: AddressSource::NotRead,
        snapshots: None,
        backups: Backups::NotVisible,
        notes: None,
        config_digest: None,
        identity: GuestIdentity::default(),
    }
}
