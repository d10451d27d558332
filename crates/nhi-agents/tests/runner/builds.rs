//! Steps that make, copy, remove, move, enlarge, take back and back up guests, shaped as the planner shapes them.

use crate::steps::{RUNNER, SECONDS_MAX, STAGING, Wish, key, node_of, status, step, tags};
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    intent::Operation,
    plan::{Ends, Method, Repeat, Step},
};

/// A stopped virtual machine that may go, and one that may move.
pub(crate) const SPARE: u32 = 109;
pub(crate) const MOVER: u32 = 110;
/// Numbers of guests that are made: a copy of [`RUNNER`], and a container.
pub(crate) const COPY: u32 = 190;
pub(crate) const MADE: u32 = 290;
/// A snapshot of [`STAGING`], what its tags were then, and what they are.
pub(crate) const EARLIER: (&str, &str, &str) = ("earlier", "lab;earlier", "lab");
/// Where [`MOVER`] goes.
const AWAY: &str = "pve2";
const GIB: u64 = 1 << 30;

/// All that makes more of a guest than a change, or less.
pub(crate) const BUILDS: [Wish; 7] = [
    Wish::Clone(RUNNER, COPY),
    Wish::Create(MADE),
    Wish::Destroy(SPARE),
    Wish::Migrate(MOVER),
    Wish::Resize(RUNNER, 48),
    Wish::Rollback(STAGING),
    Wish::Backup(RUNNER),
];

pub(crate) const fn is_made(vmid: u32) -> bool {
    matches!(vmid, COPY | MADE)
}

fn gone(vmid: u32) -> Fact {
    Fact::Gone { guest: key(vmid) }
}

fn unlocked(vmid: u32) -> Fact {
    Fact::Unlocked { guest: key(vmid) }
}

fn on_node(vmid: u32, node: &str) -> Fact {
    Fact::OnNode { guest: key(vmid), node: node.to_owned() }
}

fn named(vmid: u32) -> Fact {
    Fact::Named { guest: key(vmid), name: name(vmid) }
}

fn name(vmid: u32) -> String {
    format!("made-{vmid}")
}

fn set(step: &mut Step, params: &[(&str, &str)]) {
    step.call.params = params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
}

/// A guest that is there, as its node has it.
fn there(vmid: u32, doing: GuestStatus) -> Vec<Fact> {
    vec![on_node(vmid, node_of(vmid)), status(vmid, doing), unlocked(vmid)]
}

/// What makes a guest, with what removes it again.
fn born(vmid: u32, make: Step) -> Step {
    let mut remove = step(Operation::Destroy, vmid, Method::Delete, "", Some("destroy"));
    set(&mut remove, &[("destroy-unreferenced-disks", "0")]);
    let remove = Step {
        before: vec![named(vmid), status(vmid, GuestStatus::Stopped), unlocked(vmid)],
        after: vec![gone(vmid)],
        repeat: Repeat::Harmful,
        ..remove
    };
    let mut after = there(vmid, GuestStatus::Stopped);
    after.push(named(vmid));
    Step { before: vec![gone(vmid)], after, compensation: Some(Box::new(remove)), ..make }
}

pub(crate) fn clone(source: u32, vmid: u32) -> Step {
    let mut copy = step(Operation::Clone, source, Method::Post, "clone", Some("clone"));
    copy.guest = key(vmid);
    set(&mut copy, &[("newid", &vmid.to_string()), ("name", &name(vmid)), ("full", "1")]);
    let mut copy = born(vmid, copy);
    copy.before.extend([on_node(source, node_of(source)), unlocked(source)]);
    copy
}

/// A container.
pub(crate) fn create(vmid: u32) -> Step {
    let mut make = step(Operation::CreateLxc, vmid, Method::Post, "", Some("create"));
    make.call.path = format!("/nodes/{}/lxc", node_of(vmid));
    let image = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst";
    set(
        &mut make,
        &[
            ("vmid", &vmid.to_string()),
            ("hostname", &name(vmid)),
            ("ostemplate", image),
            ("rootfs", "local-zfs:8"),
            ("unprivileged", "1"),
        ],
    );
    born(vmid, make)
}

pub(crate) fn destroy(vmid: u32) -> Step {
    let mut remove = step(Operation::Destroy, vmid, Method::Delete, "", Some("destroy"));
    set(&mut remove, &[("destroy-unreferenced-disks", "0")]);
    Step {
        before: there(vmid, GuestStatus::Stopped),
        after: vec![gone(vmid)],
        repeat: Repeat::Harmful,
        ..remove
    }
}

pub(crate) fn migrate(vmid: u32) -> Step {
    let mut go = step(Operation::Migrate, vmid, Method::Post, "migrate", None);
    set(&mut go, &[("target", AWAY)]);
    Step {
        ends: Ends::Task { kinds: vec!["qmigrate".to_owned()], vmid, seconds_max: SECONDS_MAX },
        before: there(vmid, GuestStatus::Stopped),
        after: vec![on_node(vmid, AWAY), status(vmid, GuestStatus::Stopped)],
        ..go
    }
}

pub(crate) fn resize(vmid: u32, size_gib: u32) -> Step {
    let mut grow = step(Operation::Resize, vmid, Method::Put, "resize", None);
    set(&mut grow, &[("disk", "scsi0"), ("size", &format!("{size_gib}G"))]);
    let bytes = u64::from(size_gib) * GIB;
    Step {
        ends: Ends::Task { kinds: vec!["resize".to_owned()], vmid, seconds_max: SECONDS_MAX },
        before: vec![on_node(vmid, node_of(vmid)), unlocked(vmid)],
        after: vec![Fact::DiskAtLeast { guest: key(vmid), disk: "scsi0".to_owned(), bytes }],
        ..grow
    }
}

pub(crate) fn rollback(vmid: u32) -> Step {
    let (snapshot, then, now) = EARLIER;
    let below = format!("snapshot/{snapshot}/rollback");
    let back = step(Operation::Rollback, vmid, Method::Post, &below, Some("rollback"));
    let mut before = there(vmid, GuestStatus::Stopped);
    before.push(Fact::Snapshot { guest: key(vmid), name: snapshot.to_owned(), present: true });
    before.push(tags(vmid, now));
    let after = vec![status(vmid, GuestStatus::Stopped), tags(vmid, then)];
    Step { before, after, repeat: Repeat::Harmful, ..back }
}

pub(crate) fn backup(vmid: u32) -> Step {
    let mut save = step(Operation::Backup, vmid, Method::Post, "", None);
    save.call.path = format!("/nodes/{}/vzdump", node_of(vmid));
    let number = vmid.to_string();
    set(
        &mut save,
        &[("vmid", &number), ("storage", "nas"), ("mode", "snapshot"), ("compress", "zstd"), ("remove", "0")],
    );
    Step {
        ends: Ends::Task { kinds: vec!["vzdump".to_owned()], vmid, seconds_max: SECONDS_MAX },
        before: vec![on_node(vmid, node_of(vmid)), unlocked(vmid)],
        after: vec![unlocked(vmid)],
        repeat: Repeat::Harmful,
        ..save
    }
}
