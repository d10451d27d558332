//! Checkable statements about the lab: what a plan relies on, expects, and is verified by.

use crate::{
    guest::{GuestIdentity, GuestStatus},
    key::Key,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One statement about one cluster. It holds, does not, or cannot be told now; `nhi_decide::fact` says which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fact {
    /// The cluster has quorum, or is a stand-alone host.
    Quorate {},
    /// The node answers.
    NodeOnline {
        /// Its name.
        node: String,
    },
    /// The guest is there.
    Exists {
        /// Which.
        guest: Key,
    },
    /// No guest of this number is on any node, and all could be asked.
    Gone {
        /// Which.
        guest: Key,
    },
    /// It is still the guest that was meant, not a later one with its number.
    SameGuest {
        /// Which.
        guest: Key,
        /// What tells it from another. What is absent here is not compared.
        identity: GuestIdentity,
    },
    /// It has this name.
    Named {
        /// Which.
        guest: Key,
        /// The name.
        name: String,
    },
    /// It is on this node.
    OnNode {
        /// Which.
        guest: Key,
        /// The node.
        node: String,
    },
    /// It is doing this.
    Status {
        /// Which.
        guest: Key,
        /// What.
        status: GuestStatus,
    },
    /// No lock is held on it.
    Unlocked {
        /// Which.
        guest: Key,
    },
    /// Proxmox's protection flag is off.
    Unprotected {
        /// Which.
        guest: Key,
    },
    /// Its configuration is, byte for byte, the one that was read.
    ConfigDigest {
        /// Which.
        guest: Key,
        /// Proxmox's own digest.
        digest: String,
    },
    /// A line of its configuration has this value. Tags are compared as a set.
    Config {
        /// Which.
        guest: Key,
        /// The line's key (`cores`, `tags`, `scsi0`).
        field: String,
        /// Its value; absent means that the line is not there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
    },
    /// A disk is at least this large.
    DiskAtLeast {
        /// Of which guest.
        guest: Key,
        /// The disk's configuration key.
        disk: String,
        /// Bytes.
        bytes: u64,
    },
    /// It has, or has not, a snapshot of this name.
    Snapshot {
        /// Which.
        guest: Key,
        /// The snapshot.
        name: String,
        /// Whether it is there.
        present: bool,
    },
    /// It has so many snapshots; the scanner counts them and knows no names.
    SnapshotCount {
        /// Which.
        guest: Key,
        /// How many.
        count: u32,
    },
    /// It has so many virtual processors, as Proxmox lists it: sockets and cores are not told apart there.
    Processors {
        /// Which.
        guest: Key,
        /// How many.
        count: u32,
    },
    /// It is, or is not, a template.
    Template {
        /// Which.
        guest: Key,
        /// Whether it is.
        template: bool,
    },
    /// It is, or is not, managed by HA.
    HaManaged {
        /// Which.
        guest: Key,
        /// Whether it is.
        managed: bool,
    },
    /// There is a backup of it made at or after this moment.
    BackupSince {
        /// Of which guest.
        guest: Key,
        /// When, UTC.
        since: Timestamp,
    },
}

impl Fact {
    /// The guest it is about, when it is about one.
    pub const fn guest(&self) -> Option<&Key> {
        match self {
            Self::Quorate {} | Self::NodeOnline { .. } => None,
            Self::Exists { guest }
            | Self::Gone { guest }
            | Self::SameGuest { guest, .. }
            | Self::Named { guest, .. }
            | Self::OnNode { guest, .. }
            | Self::Status { guest, .. }
            | Self::Unlocked { guest }
            | Self::Unprotected { guest }
            | Self::ConfigDigest { guest, .. }
            | Self::Config { guest, .. }
            | Self::DiskAtLeast { guest, .. }
            | Self::Snapshot { guest, .. }
            | Self::SnapshotCount { guest, .. }
            | Self::Processors { guest, .. }
            | Self::Template { guest, .. }
            | Self::HaManaged { guest, .. }
            | Self::BackupSince { guest, .. } => Some(guest),
        }
    }
}
