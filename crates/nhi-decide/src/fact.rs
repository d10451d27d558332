//! Whether a statement about the lab holds in a sight of it. What was not seen neither holds nor fails.

use crate::{
    clean,
    sight::{GuestSight, Seen, Sight, tags},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestKind},
    key::{Key, Section},
};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It holds.
    Yes,
    /// It does not.
    No {
        /// What is so instead, a fragment (`it is stopped`).
        found: String,
    },
    /// It cannot be told.
    Unknown {
        /// Why, one sentence.
        why: String,
    },
}

impl Holds {
    /// Whether it holds.
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }
}

/// Whether a fact holds in a sight.
pub fn holds(fact: &Fact, sight: &Sight) -> Holds {
    match fact {
        Fact::Quorate {} => match sight.quorate {
            Some(true) => Holds::Yes,
            Some(false) => no("it has none"),
            None => unknown("nobody told whether the cluster has quorum"),
        },
        Fact::NodeOnline { node } => match sight.nodes.get(node) {
            Some(seen) if seen.online => Holds::Yes,
            Some(_) => no("it does not answer"),
            None => unknown(format!("node {node} was not looked at")),
        },
        Fact::Gone { guest } => match presence(guest, sight) {
            Presence::Seen(seen) => no(format!("{} is there, on node {}", label(seen), seen.node)),
            Presence::Gone => Holds::Yes,
            Presence::Unknown(why) => unknown(why),
        },
        Fact::Exists { guest }
        | Fact::SameGuest { guest, .. }
        | Fact::Named { guest, .. }
        | Fact::OnNode { guest, .. }
        | Fact::Status { guest, .. }
        | Fact::Unlocked { guest }
        | Fact::Unprotected { guest }
        | Fact::ConfigDigest { guest, .. }
        | Fact::Config { guest, .. }
        | Fact::DiskAtLeast { guest, .. }
        | Fact::Snapshot { guest, .. }
        | Fact::SnapshotCount { guest, .. }
        | Fact::Processors { guest, .. }
        | Fact::Template { guest, .. }
        | Fact::HaManaged { guest, .. }
        | Fact::BackupSince { guest, .. } => match presence(guest, sight) {
            Presence::Seen(seen) => of_guest(fact, seen),
            Presence::Gone => no("it is gone"),
            Presence::Unknown(why) => unknown(why),
        },
    }
}

enum Presence<'a> {
    Seen(&'a Seen),
    Gone,
    Unknown(String),
}

fn presence<'a>(guest: &Key, sight: &'a Sight) -> Presence<'a> {
    match sight.guests.get(guest) {
        Some(GuestSight::Seen(seen)) => Presence::Seen(seen),
        Some(GuestSight::Gone) => Presence::Gone,
        Some(GuestSight::Unseen { why }) => {
            Presence::Unknown(format!("{} was not seen: {why}", named(guest)))
        }
        None if sight.absent_is_gone => Presence::Gone,
        None => Presence::Unknown(format!("{} was not looked at", named(guest))),
    }
}

fn of_guest(fact: &Fact, seen: &Seen) -> Holds {
    match fact {
        Fact::Exists { .. } => Holds::Yes,
        Fact::SameGuest { identity, .. } => same_guest(identity, seen),
        Fact::Named { name, .. } => check(seen.name == *name, || format!("it is named {:?}", seen.name)),
        Fact::OnNode { node, .. } => check(seen.node == *node, || format!("it is on node {}", seen.node)),
        Fact::Status { status, .. } => {
            check(seen.status == *status, || format!("it is {}", seen.status.as_str()))
        }
        Fact::Unlocked { .. } => match seen.lock.as_deref().filter(|lock| !lock.is_empty()) {
            None => Holds::Yes,
            Some(lock) => no(format!("it is locked ({lock})")),
        },
        Fact::Unprotected { .. } => match seen.flag("protection") {
            Some(on) => check(!on, || "Proxmox's protection flag is on".to_owned()),
            None => unknown("its protection flag was not read"),
        },
        Fact::ConfigDigest { digest, .. } => match &seen.digest {
            Some(found) => check(found == digest, || format!("its configuration is another now ({found})")),
            None => unknown("its configuration was not read"),
        },
        Fact::Config { field, value, .. } => line(field, value.as_deref(), seen),
        Fact::DiskAtLeast { disk, bytes, .. } => match seen.config.get(disk).map(|line| size_bytes(line)) {
            Some(Some(found)) => check(found >= *bytes, || format!("{disk} has {found} bytes")),
            Some(None) => unknown(format!("the size of {disk} is not told")),
            None if seen.config_whole => no(format!("it has no disk {disk}")),
            None => unknown(format!("{disk} was not read")),
        },
        Fact::Snapshot { name, present, .. } => match &seen.snapshots {
            None => unknown("its snapshots were not listed"),
            Some(list) => {
                let found = list.iter().any(|snapshot| snapshot.name == *name);
                check(found == *present, || if found { "it has it" } else { "it has it not" }.to_owned())
            }
        },
        Fact::SnapshotCount { count, .. } => match snapshot_count(seen) {
            None => unknown("its snapshots were not counted"),
            Some(found) => check(found == *count, || format!("it has {found}")),
        },
        Fact::Processors { count, .. } => match seen.processors {
            None => unknown("its processors were not listed"),
            Some(found) => check(found == *count, || format!("it has {found}")),
        },
        Fact::Template { template, .. } => {
            check(seen.template == *template, || if seen.template { "it is" } else { "it is not" }.to_owned())
        }
        Fact::HaManaged { managed, .. } => check(seen.ha.is_some() == *managed, || match &seen.ha {
            Some(state) => format!("HA manages it ({state})"),
            None => "HA does not manage it".to_owned(),
        }),
        Fact::BackupSince { since, .. } => match seen.newest_backup {
            Some(at) => check(at >= *since, || format!("its newest backup is of {at}")),
            None => unknown("no backup of it is visible"),
        },
        Fact::Quorate {} | Fact::NodeOnline { .. } | Fact::Gone { .. } => {
            unknown("it is no statement about one guest that is there")
        }
    }
}

/// Whether a guest is the one that was meant. vmgenid changes on rollback, so it is never compared.
pub(crate) fn same_guest(meant: &GuestIdentity, seen: &Seen) -> Holds {
    let found = &seen.identity;
    let mut unread = None;
    let pairs = [
        (
            "uuid",
            meant.uuid.as_ref().map(|v| v.to_ascii_lowercase()),
            found.uuid.as_ref().map(|v| v.to_ascii_lowercase()),
        ),
        ("root disk", meant.rootfs.clone(), found.rootfs.clone()),
        ("creation time", meant.created.map(|at| at.to_string()), found.created.map(|at| at.to_string())),
    ];
    for (what, meant, found) in pairs {
        match (meant, found) {
            (None, _) => {}
            (Some(meant), Some(found)) if meant == found => {}
            (Some(meant), Some(found)) => {
                return no(format!("it is another guest: its {what} is {found}, not {meant}"));
            }
            (Some(_), None) if seen.config_whole => {
                return no(format!("it is another guest: it has no {what}"));
            }
            (Some(_), None) => unread = Some(what),
        }
    }
    unread.map_or(Holds::Yes, |what| unknown(format!("its {what} was not read")))
}

fn line(field: &str, value: Option<&str>, seen: &Seen) -> Holds {
    let Some(found) = seen.config.get(field).map(String::as_str) else {
        if !seen.config_whole {
            return unknown(format!("the line {field} was not read"));
        }
        return check(normal(field, value).is_none(), || format!("there is no line {field}"));
    };
    check(normal(field, Some(found)) == normal(field, value), || format!("{field} is {found:?}"))
}

/// A line's value in the one form in which equal meanings are equal; `None` when it says what its absence says.
pub fn normal(field: &str, value: Option<&str>) -> Option<String> {
    let value = value?;
    match field {
        "tags" => {
            let set = tags(value);
            (!set.is_empty()).then(|| set.into_iter().collect::<Vec<_>>().join(";"))
        }
        "description" => Some(clean::block(value, clean::NOTES_BYTES_MAX)).filter(|text| !text.is_empty()),
        "onboot" | "protection" | "template" => crate::sight::is_on(value).then(|| "1".to_owned()),
        _ => Some(value.to_owned()).filter(|text| !text.is_empty()),
    }
}

/// The size a disk's line tells, bytes.
pub fn size_bytes(line: &str) -> Option<u64> {
    let text = line.split(',').find_map(|part| part.strip_prefix("size="))?;
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        "T" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

fn snapshot_count(seen: &Seen) -> Option<u32> {
    match &seen.snapshots {
        Some(list) => u32::try_from(list.len()).ok(),
        None => seen.snapshot_count,
    }
}

/// A fact in words.
pub fn sentence(fact: &Fact) -> String {
    let not = |yes: bool| if yes { "" } else { "not " };
    match fact {
        Fact::Quorate {} => "the cluster has quorum".to_owned(),
        Fact::NodeOnline { node } => format!("node {node} answers"),
        Fact::Exists { guest } => format!("{} is there", named(guest)),
        Fact::Gone { guest } => format!("{} is on no node", named(guest)),
        Fact::SameGuest { guest, .. } => format!("{} is still the guest that was meant", named(guest)),
        Fact::Named { guest, name } => format!("{} is named {name:?}", named(guest)),
        Fact::OnNode { guest, node } => format!("{} is on node {node}", named(guest)),
        Fact::Status { guest, status } => format!("{} is {}", named(guest), status.as_str()),
        Fact::Unlocked { guest } => format!("{} is not locked", named(guest)),
        Fact::Unprotected { guest } => format!("Proxmox's protection flag of {} is off", named(guest)),
        Fact::ConfigDigest { guest, .. } => {
            format!("the configuration of {} is the one that was read", named(guest))
        }
        Fact::Config { guest, field, value: Some(value) } => {
            format!("{field} of {} is {:?}", named(guest), clean::text(value, 80))
        }
        Fact::Config { guest, field, value: None } => format!("{} has no line {field}", named(guest)),
        Fact::DiskAtLeast { guest, disk, bytes } => {
            format!("{disk} of {} has at least {bytes} bytes", named(guest))
        }
        Fact::Snapshot { guest, name, present } => {
            format!("{} has {}a snapshot {name}", named(guest), not(*present))
        }
        Fact::SnapshotCount { guest, count } => format!("{} has {count} snapshots", named(guest)),
        Fact::Processors { guest, count } => format!("{} has {count} virtual processors", named(guest)),
        Fact::Template { guest, template } => format!("{} is {}a template", named(guest), not(*template)),
        Fact::HaManaged { guest, managed } => format!("{} is {}managed by HA", named(guest), not(*managed)),
        Fact::BackupSince { guest, since } => format!("{} has a backup of {since} or later", named(guest)),
    }
}

/// A guest in words, from its key alone: `VM 105`.
pub fn named(guest: &Key) -> String {
    let number = guest.tokens().pop().unwrap_or_default();
    match guest.section() {
        Section::Vm => format!("VM {number}"),
        Section::Lxc => format!("CT {number}"),
        Section::Node
        | Section::Storage
        | Section::Source
        | Section::Host
        | Section::Gpu
        | Section::Docker
        | Section::Project
        | Section::Provider
        | Section::Graph
        | Section::Alert => guest.to_string(),
    }
}

/// A guest in words: `VM 105 (mongodb)`.
pub fn label(seen: &Seen) -> String {
    let kind = match seen.kind {
        GuestKind::Qemu => "VM",
        GuestKind::Lxc => "CT",
    };
    format!("{kind} {} ({})", seen.vmid, clean::text(&seen.name, 64))
}

fn check(right: bool, found: impl FnOnce() -> String) -> Holds {
    if right { Holds::Yes } else { Holds::No { found: found() } }
}

fn no(found: impl Into<String>) -> Holds {
    Holds::No { found: found.into() }
}

fn unknown(why: impl Into<String>) -> Holds {
    Holds::Unknown { why: why.into() }
}

#[cfg(test)]
mod tests;
