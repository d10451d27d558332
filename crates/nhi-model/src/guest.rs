//! Guests: virtual machines and containers, as facts. Their gauges are in [`crate::live`].

use crate::key::Section;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, net::IpAddr};

/// QEMU virtual machine or LXC container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl GuestKind {
    /// The section of this kind's keys.
    pub const fn section(self) -> Section {
        match self {
            Self::Qemu => Section::Vm,
            Self::Lxc => Section::Lxc,
        }
    }

    /// Proxmox's own word: `qemu` or `lxc`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Lxc => "lxc",
        }
    }
}

/// What a guest is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GuestStatus {
    /// It runs.
    Running,
    /// It does not.
    Stopped,
    /// A virtual machine whose processors stand still (`qmpstatus` paused).
    Paused,
    /// Suspended to disk.
    Suspended,
    /// Seen, but its status never was.
    Unknown,
}

impl GuestStatus {
    /// The word as it stands in the record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::Suspended => "suspended",
            Self::Unknown => "unknown",
        }
    }
}

/// An address a guest was seen to have. Never guessed from a configuration that says `dhcp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Address {
    /// Interface name inside the guest.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Prefix length in bits, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<u8>,
    /// Hardware address, lower case, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// Where the addresses come from, or why there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum AddressSource {
    /// The QEMU guest agent answered.
    GuestAgent,
    /// The container's interfaces were read.
    Interfaces,
    /// The guest is not running.
    NotRunning,
    /// No guest agent is configured, so nothing inside can be seen.
    NoAgent,
    /// An agent is configured and does not answer; the addresses are the last ones it told.
    AgentSilent,
    /// The scanner's token may not ask.
    NoRight {
        /// The privilege that is missing.
        privilege: String,
    },
    /// Not asked yet.
    NotRead,
}

/// A network card as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Nic {
    /// Bridge it is plugged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Hardware address, lower case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// VLAN tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The `ip=` part of a container's card, as configured (`dhcp`, `192.0.2.4/24`). Not an observation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_config: Option<String>,
}

/// High availability, present only when the guest is managed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ha {
    /// Proxmox's HA state (`started`, `stopped`, `error`, …).
    pub state: String,
    /// HA group, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// What is known about backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Backups {
    /// The newest backup that was seen, in a storage or in the task log. Where storages may not be listed it may have
    /// been pruned since.
    Newest {
        /// When it was begun, UTC; of a job over several guests, when the job was.
        at: Timestamp,
        /// The storage it lies on, where that was seen.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage: Option<String>,
    },
    /// Backups are visible and there is none.
    None,
    /// The token cannot see backups, so nothing is claimed.
    NotVisible,
}

/// What tells a guest from another that later gets the same id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestIdentity {
    /// QEMU: SMBIOS uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// QEMU: vmgenid. It changes on rollback, so it supports and never decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmgenid: Option<String>,
    /// LXC: root file system volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// Creation time from the configuration's `meta`, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// When it was first seen, UTC, where everything was in sight before and it was not there, or another was: what
    /// is older and bears its number (a backup in a log) is another guest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Timestamp>,
}

/// A guest, under `vm.<cluster>.<vmid>` or `lxc.<cluster>.<vmid>`.
///
/// What is `None` was not seen yet; it is never a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Guest {
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Cluster it belongs to, by its name in the configuration.
    pub cluster: String,
    /// Its number.
    pub vmid: u32,
    /// Its name, cleaned of control characters and cut to 255 characters.
    pub name: String,
    /// The node it is on.
    pub node: String,
    /// What it is doing.
    pub status: GuestStatus,
    /// Whether it is a template.
    pub template: bool,
    /// Its tags, sorted.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Resource pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Lock held on it (`backup`, `migrate`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Proxmox's protection flag; `None` until its configuration was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protection: Option<bool>,
    /// Start at boot; `None` until its configuration was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onboot: Option<bool>,
    /// High availability, when managed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ha: Option<Ha>,
    /// Virtual processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Size of the root disk, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// Operating system type as configured (`l26`, `debian`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Network cards by configuration key (`net0`).
    #[serde(default)]
    pub nics: BTreeMap<String, Nic>,
    /// Volumes by configuration key (`scsi0`, `rootfs`, `mp0`): the volume id or host path alone.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
    /// Addresses seen inside, sorted.
    #[serde(default)]
    pub addresses: Vec<Address>,
    /// Where they come from.
    pub address_source: AddressSource,
    /// Number of snapshots; `None` when they were not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<u32>,
    /// Backups.
    pub backups: Backups,
    /// Configured description (notes), cut to 8 KiB. Text from the lab: data, never instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notes: Option<String>,
    /// Digest of the configuration that was read, for optimistic locking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
    /// What tells it from a later guest with the same id.
    #[serde(default)]
    pub identity: GuestIdentity,
}
