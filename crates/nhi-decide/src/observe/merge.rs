//! One guest from what is known and what was seen. Parts that were not read keep what is known.

use super::bounds;
use crate::{
    clean,
    observation::{GuestSight, IndexRow, Part},
};
use nhi_model::{
    Timestamp,
    guest::{AddressSource, Backups, Guest, GuestIdentity, GuestKind, GuestStatus},
};
use std::collections::BTreeSet;

/// Where and when a guest was seen.
pub(super) struct Scene<'a> {
    pub(super) cluster: &'a str,
    pub(super) node: &'a str,
    pub(super) at: Timestamp,
    /// Whether the place was whole in sight before, so that a guest that nobody knew is a new one.
    pub(super) watched: bool,
}

/// The guest after a sight of it.
pub(super) fn merge(known: Option<Guest>, sight: &GuestSight, scene: &Scene<'_>) -> Guest {
    let seen = &bounds::bounded(&sight.guest).0;
    let read = |part| sight.read.contains(&part);
    let watched = scene.watched || known.is_some();
    let same = known.filter(|known| !(read(Part::Config) && is_another(known, seen)));
    let mut guest = same.unwrap_or_else(|| {
        let mut new = blank(seen.kind, scene.cluster, seen.vmid);
        new.identity.first_seen = watched.then_some(scene.at);
        new
    });
    scene.node.clone_into(&mut guest.node);
    if read(Part::List) {
        let paused = guest.status == GuestStatus::Paused;
        take_list(&mut guest, seen);
        if paused && guest.status == GuestStatus::Running && !sight.tells_pause {
            guest.status = GuestStatus::Paused;
        }
    }
    if read(Part::Membership) {
        guest.pool.clone_from(&seen.pool);
        guest.ha.clone_from(&seen.ha);
    }
    if read(Part::Config) {
        let digest = guest.config_digest.take();
        take_config(&mut guest, seen);
        // Another digest may mean another number of snapshots: one that was not counted again is not known.
        if !read(Part::Snapshots) && differ(digest.as_ref(), guest.config_digest.as_ref()) == Some(true) {
            guest.snapshots = None;
        }
    }
    if read(Part::Addresses) {
        take_addresses(&mut guest, seen);
    }
    if read(Part::Snapshots) {
        guest.snapshots = seen.snapshots.or(guest.snapshots);
    }
    if read(Part::Backups) {
        guest.backups = seen.backups.clone();
    } else if read(Part::BackupTraces) {
        take_traces(&mut guest, &seen.backups);
    }
    settle(&mut guest);
    guest
}

/// A guest of which only the index told, on a node that was not seen. Its status there may be minutes old.
pub(super) fn from_index(row: &IndexRow, cluster: &str) -> Guest {
    let mut guest = blank(row.kind, cluster, row.vmid);
    guest.node.clone_from(&row.node);
    if let Some(name) = &row.name {
        name_it(&mut guest, name);
    }
    guest.tags.clone_from(&row.tags);
    guest.pool.clone_from(&row.pool);
    guest.lock.clone_from(&row.lock);
    let mut guest = bounds::bounded(&guest).0;
    settle(&mut guest);
    guest
}

/// Whether the number now belongs to another guest.
///
/// An edited SMBIOS uuid (same creation time) and a root disk that moved to another storage (same network
/// cards) are still the same guest. A container made again under the same number has the same volume's name,
/// so its cards decide where it has some. vmgenid changes on rollback and decides nothing.
pub(super) fn is_another(known: &Guest, seen: &Guest) -> bool {
    let (before, after) = (&known.identity, &seen.identity);
    if let Some(other) = differ(before.created.as_ref(), after.created.as_ref()) {
        return other;
    }
    match known.kind {
        GuestKind::Qemu => differ(before.uuid.as_ref(), after.uuid.as_ref()) == Some(true),
        GuestKind::Lxc => {
            let (had, has) = (macs(known), macs(seen));
            if had.is_empty() || has.is_empty() {
                differ(before.rootfs.as_ref(), after.rootfs.as_ref()) == Some(true)
            } else {
                had.is_disjoint(&has)
            }
        }
    }
}

/// Whether the list may show another guest than the known one, and the configuration that would tell was not read.
/// A guest that is told without a name keeps its own.
pub(super) fn may_be_another(known: &Guest, sight: &GuestSight) -> bool {
    let name = clean::text(&sight.guest.name, clean::NAME_CHARS_MAX);
    let read = |part| sight.read.contains(&part);
    let renamed = read(Part::List) && !name.is_empty() && name != known.name;
    renamed && !read(Part::Config) && known.protection.is_some()
}

/// Whether both are the same guest beyond doubt, even if everything around it has another name now.
pub(super) fn is_surely_same(known: &Guest, seen: &Guest) -> bool {
    match known.kind {
        GuestKind::Qemu => differ(known.identity.uuid.as_ref(), seen.identity.uuid.as_ref()) == Some(false),
        GuestKind::Lxc => !macs(known).is_disjoint(&macs(seen)),
    }
}

/// Whether two values differ; `None` when one is not known.
fn differ<T: PartialEq>(before: Option<&T>, after: Option<&T>) -> Option<bool> {
    before.zip(after).map(|(before, after)| before != after)
}

fn macs(guest: &Guest) -> BTreeSet<String> {
    guest.nics.values().filter_map(|nic| nic.mac.as_ref()).map(|mac| mac.to_ascii_lowercase()).collect()
}

/// A guest of which nothing is known but its number.
fn blank(kind: GuestKind, cluster: &str, vmid: u32) -> Guest {
    Guest {
        kind,
        cluster: cluster.to_owned(),
        vmid,
        name: nameless(kind, vmid),
        node: String::new(),
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
        nics: std::collections::BTreeMap::new(),
        volumes: std::collections::BTreeMap::new(),
        addresses: Vec::new(),
        address_source: AddressSource::NotRead,
        snapshots: None,
        backups: Backups::NotVisible,
        notes: None,
        config_digest: None,
        identity: GuestIdentity::default(),
    }
}

/// What Proxmox itself calls a guest without a name.
fn nameless(kind: GuestKind, vmid: u32) -> String {
    match kind {
        GuestKind::Qemu => format!("VM {vmid}"),
        GuestKind::Lxc => format!("CT{vmid}"),
    }
}

/// Takes a name, unless it is none.
fn name_it(guest: &mut Guest, raw: &str) {
    let name = clean::text(raw, clean::NAME_CHARS_MAX);
    if !name.is_empty() {
        guest.name = name;
    }
}

fn take_list(guest: &mut Guest, seen: &Guest) {
    name_it(guest, &seen.name);
    if seen.status != GuestStatus::Unknown {
        guest.status = seen.status;
    }
    guest.template = seen.template;
    guest.tags.clone_from(&seen.tags);
    guest.lock.clone_from(&seen.lock);
    guest.cpus = seen.cpus.or(guest.cpus);
    guest.memory_bytes = seen.memory_bytes.or(guest.memory_bytes);
    guest.disk_bytes = seen.disk_bytes.or(guest.disk_bytes);
}

fn take_config(guest: &mut Guest, seen: &Guest) {
    guest.protection = seen.protection.or(guest.protection);
    guest.onboot = seen.onboot.or(guest.onboot);
    guest.os.clone_from(&seen.os);
    guest.nics.clone_from(&seen.nics);
    guest.volumes.clone_from(&seen.volumes);
    guest.notes =
        seen.notes.as_ref().map(|raw| clean::block(raw, clean::NOTES_BYTES_MAX)).filter(|n| !n.is_empty());
    guest.config_digest.clone_from(&seen.config_digest);
    guest.identity = GuestIdentity { first_seen: guest.identity.first_seen, ..seen.identity.clone() };
}

/// A trace counts when it is newer than what is known, and of this guest: the number may have been another's. So it
/// waits until the configuration was read, which tells since when this one has it.
fn take_traces(guest: &mut Guest, seen: &Backups) {
    let known = match guest.backups {
        Backups::Newest { at, .. } => Some(at),
        Backups::None | Backups::NotVisible => None,
    };
    let since = guest.identity.created.max(guest.identity.first_seen);
    match seen {
        Backups::Newest { at, .. }
            if guest.protection.is_some() && known < Some(*at) && since <= Some(*at) =>
        {
            guest.backups = seen.clone();
        }
        Backups::Newest { .. } | Backups::None | Backups::NotVisible => {
            // Nothing that is seen so proves that there is none.
            if known.is_none() {
                guest.backups = Backups::NotVisible;
            }
        }
    }
}

/// A silent agent, or one we may not ask, does not take back the addresses it told before.
fn take_addresses(guest: &mut Guest, seen: &Guest) {
    match seen.address_source {
        AddressSource::AgentSilent | AddressSource::NoRight { .. } => {
            if !seen.addresses.is_empty() {
                guest.addresses.clone_from(&seen.addresses);
            }
        }
        AddressSource::GuestAgent
        | AddressSource::Interfaces
        | AddressSource::NotRunning
        | AddressSource::NoAgent
        | AddressSource::NotRead => guest.addresses.clone_from(&seen.addresses),
    }
    guest.address_source = seen.address_source.clone();
}

/// What must hold of every guest's record.
fn settle(guest: &mut Guest) {
    match guest.status {
        GuestStatus::Stopped | GuestStatus::Suspended => {
            guest.addresses.clear();
            guest.address_source = AddressSource::NotRunning;
        }
        GuestStatus::Running | GuestStatus::Paused | GuestStatus::Unknown => {
            if guest.address_source == AddressSource::NotRunning {
                guest.address_source = AddressSource::NotRead;
            }
        }
    }
    guest.addresses.sort();
    guest.addresses.dedup();
}
