//! The floor in Proxmox itself: roles, grants, pools and registered tags that make Proxmox refuse the actuator's token
//! what it must never do, and what differs from it. It runs no command; a person does, as root.
//!
//! What Proxmox's rights are like, and why the floor is as it is:
//! - a grant on a deeper path *replaces* what comes from above, so `PVEAuditor` on `/vms/101` makes 101 untouchable;
//! - but roles on a pool are *merged* into its members, so a protected guest stays out of granted pools;
//! - a token with privilege separation has what *both* it and its user have, so each grant is made twice;
//! - `VM.Snapshot` allows rollbacks too, and `VM.Allocate` both making and destroying;
//! - on version 8 the guest agent is behind `VM.Monitor`, which also runs programs in the guest: it is left out.

mod check;
mod floor;
mod privileges;

use nhi_model::{intent::Operation, policy::Policy};
use std::collections::{BTreeMap, BTreeSet};

pub use check::{Check, Finding, check};
pub use floor::{Command, Floor, plan};
pub use privileges::privileges;

/// Major and minor version of Proxmox VE.
pub type Version = (u32, u32);

/// `/access/permissions` of a token: path → privilege → whether it holds below that path too. Proxmox leaves out paths
/// on which nothing holds; who asked for such a path alone puts it in with no privileges.
pub type Permissions = BTreeMap<String, BTreeMap<String, bool>>;

/// What both tokens are meant to be able to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Version of Proxmox VE.
    pub version: Version,
    /// The scanner's token, `user@realm!name`.
    pub scan: String,
    /// The actuator's token.
    pub act: String,
    /// What the actuator may do to every guest that is not protected.
    pub everywhere: BTreeSet<Operation>,
    /// What it may do besides to guests in its pools.
    pub in_pools: BTreeSet<Operation>,
    /// Its pools: guests are made and destroyed there and nowhere else.
    pub pools: BTreeSet<String>,
    /// Guests outside the pools that may be copied.
    pub templates: BTreeSet<u32>,
    /// Storages for disks of new guests and for backups.
    pub storages: BTreeSet<String>,
    /// Zones whose bridges new guests may use.
    pub zones: BTreeSet<String>,
    /// Guests it may not touch.
    pub protected: BTreeSet<u32>,
    /// Tags that protect, so that only who may change the datacenter takes them off.
    pub tags: BTreeSet<String>,
    /// Whether the scanner may see backups, which takes rights that could make some.
    pub sees_backups: bool,
}

impl Options {
    /// Power, snapshots and backups everywhere, the rest in the pool `lab`; what policy never lets anybody do is left
    /// out.
    pub fn usual(version: Version, policy: &Policy) -> Self {
        let never = policy.operations.never.clone().unwrap_or_default();
        let all: BTreeSet<Operation> = Operation::ALL.into_iter().filter(|o| !never.contains(o)).collect();
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Self {
            version,
            scan: "nhi-scan@pve!mesh".to_owned(),
            act: "nhi-act@pve!mesh".to_owned(),
            everywhere: all.iter().copied().filter(|operation| is_usual(*operation)).collect(),
            in_pools: all,
            pools: set(&["lab"]),
            templates: BTreeSet::new(),
            storages: set(&["local-lvm"]),
            zones: set(&["localnetwork"]),
            protected: BTreeSet::new(),
            tags: policy.protected.tags.clone(),
            sees_backups: false,
        }
    }
}

/// Whether an operation leaves a guest what it is.
const fn is_usual(operation: Operation) -> bool {
    match operation {
        Operation::Start
        | Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Resume
        | Operation::Snapshot
        | Operation::SnapshotDelete
        | Operation::Rollback
        | Operation::Backup => true,
        Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Destroy
        | Operation::Migrate
        | Operation::Resize
        | Operation::Set => false,
    }
}

/// One word of a command line, whatever it holds.
fn word(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./@:".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The user of a token.
fn user(token: &str) -> &str {
    token.split_once('!').map_or(token, |(user, _)| user)
}
