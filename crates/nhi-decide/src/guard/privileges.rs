//! Which privileges of Proxmox an operation takes, and which no token of ours has any use for.

use super::Options;
use nhi_model::intent::Operation;
use std::collections::BTreeSet;

/// Privileges on the guest, beside `VM.Audit`.
pub const fn privileges(operation: Operation) -> &'static [&'static str] {
    match operation {
        Operation::Start
        | Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Resume => &["VM.PowerMgmt"],
        // A container's template is read with Datastore.Audit, an image is put in with VM.Config.CDROM.
        Operation::CreateVm => &[
            "VM.Allocate",
            "VM.Config.CDROM",
            "VM.Config.CPU",
            "VM.Config.Disk",
            "VM.Config.HWType",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
        ],
        Operation::CreateLxc => &[
            "VM.Allocate",
            "VM.Config.CPU",
            "VM.Config.Disk",
            "VM.Config.Memory",
            "VM.Config.Network",
            "VM.Config.Options",
        ],
        Operation::Clone => &["VM.Allocate", "VM.Clone"],
        Operation::Destroy => &["VM.Allocate"],
        Operation::Snapshot | Operation::SnapshotDelete | Operation::Rollback => &["VM.Snapshot"],
        Operation::Migrate => &["VM.Migrate"],
        Operation::Resize => &["VM.Config.Disk"],
        Operation::Set => &["VM.Config.CPU", "VM.Config.Memory", "VM.Config.Options"],
        Operation::Backup => &["VM.Backup"],
    }
}

/// Whether an operation takes room on a storage.
pub(super) const fn takes_room(operation: Operation) -> bool {
    match operation {
        Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Resize
        | Operation::Backup => true,
        Operation::Start
        | Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Resume
        | Operation::Destroy
        | Operation::Snapshot
        | Operation::SnapshotDelete
        | Operation::Rollback
        | Operation::Migrate
        | Operation::Set => false,
    }
}

/// The privileges of operations on a guest.
pub(super) fn of(operations: &BTreeSet<Operation>) -> BTreeSet<&'static str> {
    let taken = operations.iter().flat_map(|operation| privileges(*operation)).copied();
    taken.chain(["VM.Audit"]).collect()
}

/// What an operation of these needs a privilege for, in words.
pub(super) fn users_of(privilege: &str, operations: &BTreeSet<Operation>) -> String {
    let users = operations.iter().filter(|operation| privileges(**operation).contains(&privilege));
    let words: Vec<&str> = users.map(|operation| operation.as_str()).collect();
    if words.is_empty() { "looking at guests".to_owned() } else { words.join(", ") }
}

/// Whether a privilege only looks.
pub(super) fn looks(privilege: &str) -> bool {
    privilege.ends_with(".Audit")
}

/// What no token of ours may have anywhere: with it, the floor can be taken away or walked around.
pub(super) const DANGEROUS: &[(&str, &str)] = &[
    ("Datastore.Allocate", "it removes storages and any volume on them"),
    ("Group.Allocate", "it makes groups, and with them rights"),
    ("Mapping.Modify", "it gives guests the host's devices"),
    ("Permissions.Modify", "it gives itself every other right"),
    ("Pool.Allocate", "it moves guests into pools, and pools bring rights"),
    ("Realm.Allocate", "it adds ways to log in"),
    ("Realm.AllocateUser", "it adds users"),
    ("SDN.Allocate", "it changes the network of all guests"),
    ("Sys.Console", "it opens a shell on the host"),
    ("Sys.Incoming", "it takes guests from other clusters"),
    ("Sys.Modify", "it changes the host and takes off registered tags"),
    ("Sys.PowerMgmt", "it switches the host off"),
    ("User.Modify", "it changes users and their tokens"),
    ("VM.Console", "it opens the guest's screen"),
    ("VM.GuestAgent.FileRead", "it reads any file in the guest"),
    ("VM.GuestAgent.FileWrite", "it writes any file in the guest"),
    ("VM.GuestAgent.Unrestricted", "it runs programs in the guest"),
    ("VM.Monitor", "it runs programs in the guest"),
];

/// What the actuator may have on a path, at most.
pub(super) fn allowed(options: &Options, path: &str, pool_member: bool) -> BTreeSet<&'static str> {
    let mut out = BTreeSet::new();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["vms"] => out.extend(of(&options.everywhere)),
        ["vms", vmid] => {
            let vmid = vmid.parse::<u32>().ok();
            if vmid.is_some_and(|vmid| options.protected.contains(&vmid)) {
                return out;
            }
            out.extend(of(&options.everywhere));
            if vmid.is_some_and(|vmid| options.templates.contains(&vmid)) {
                out.insert("VM.Clone");
            }
            if pool_member {
                out.extend(of(&options.in_pools));
            }
        }
        ["pool", name @ ..] if options.pools.contains(&name.join("/")) => out.extend(of(&options.in_pools)),
        ["storage", name] if options.storages.contains(*name) => {
            out.insert("Datastore.AllocateSpace");
        }
        ["sdn", "zones", zone, ..] if options.zones.contains(*zone) => {
            out.insert("SDN.Use");
        }
        _ => {}
    }
    out
}

/// What the scanner may have on a path beside looking.
pub(super) fn allowed_to_scan(options: &Options, path: &str) -> BTreeSet<&'static str> {
    let below =
        |root: &str| path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/'));
    let mut out = BTreeSet::new();
    if options.sees_backups && below("/vms") {
        out.insert("VM.Backup");
    }
    if options.sees_backups && below("/storage") {
        out.insert("Datastore.AllocateSpace");
    }
    out
}
