//! What somebody wants done to the lab, before anybody has looked whether it can be. It names guests as people do
//! and decides nothing.

use crate::{call::At, guest::GuestKind, key::Key, plan::PlanId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeSet, fmt};

/// Longest text that names a guest, bytes.
pub const REFERENCE_BYTES_MAX: usize = 300;
/// Intents one [`Intent::All`] may hold, all levels together.
pub const INTENTS_MAX: usize = 500;

/// A guest as people name it: `105`, `mongodb`, `home/105`, `home/mongodb`, `name:105`, `tag:media`, or a state key
/// such as `vm.home.105`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct GuestRef(String);

/// What a [`GuestRef`] means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A number, perhaps of a named cluster.
    Vmid {
        /// The cluster, where it is said.
        cluster: Option<String>,
        /// The number.
        vmid: u32,
    },
    /// A name, perhaps in a named cluster. Names are not unique in Proxmox.
    Name {
        /// The cluster, where it is said.
        cluster: Option<String>,
        /// The name.
        name: String,
    },
    /// All guests with this tag.
    Tag(String),
    /// One record.
    Key(Key),
}

/// Why a text names no guest.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} names no guest: {why}")]
pub struct BadReference {
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl GuestRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// [`BadReference`] when the text cannot name a guest.
    pub fn parse(text: &str) -> Result<Self, BadReference> {
        let made = Self(text.to_owned());
        match reference(text) {
            Ok(_) => Ok(made),
            Err(why) => Err(BadReference { text: text.chars().take(80).collect(), why }),
        }
    }

    /// The reference to one record.
    pub fn key(key: &Key) -> Self {
        Self(key.as_str().to_owned())
    }

    /// As written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What it means.
    pub fn reference(&self) -> Reference {
        reference(&self.0).expect("a GuestRef is only made by parse and key, which checked it")
    }
}

fn reference(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > REFERENCE_BYTES_MAX {
        return Err("it is longer than any name");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("it has spaces or control characters; say the number");
    }
    if let Some(tag) = text.strip_prefix("tag:") {
        return if tag.is_empty() { Err("the tag is missing") } else { Ok(Reference::Tag(tag.to_owned())) };
    }
    if let Ok(key) = Key::parse(text)
        && [GuestKind::Qemu, GuestKind::Lxc].iter().any(|kind| key.section() == kind.section())
    {
        return Ok(Reference::Key(key));
    }
    let (cluster, rest) = match text.split_once('/') {
        Some(("", _)) => return Err("the cluster before the slash is missing"),
        Some((cluster, rest)) => (Some(cluster.to_owned()), rest),
        None => (None, text),
    };
    if rest.contains('/') || rest.is_empty() {
        return Err("it is not NUMBER, NAME, CLUSTER/NUMBER, CLUSTER/NAME or tag:TAG");
    }
    if let Some(name) = rest.strip_prefix("name:") {
        return if name.is_empty() {
            Err("the name is missing")
        } else {
            Ok(Reference::Name { cluster, name: name.to_owned() })
        };
    }
    if rest.bytes().all(|b| b.is_ascii_digit()) {
        return match rest.parse() {
            Ok(vmid) => Ok(Reference::Vmid { cluster, vmid }),
            Err(_) => Err("no guest has so high a number"),
        };
    }
    Ok(Reference::Name { cluster, name: rest.to_owned() })
}

impl fmt::Display for GuestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GuestRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for GuestRef {
    fn schema_name() -> Cow<'static, str> {
        "GuestRef".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "minLength": 1,
            "maxLength": REFERENCE_BYTES_MAX,
            "description": "a guest: NUMBER, NAME, CLUSTER/NUMBER, CLUSTER/NAME, name:NAME, tag:TAG, or a state key"
        })
    }
}

/// One thing that can be done to a guest. Policy speaks of these words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Switch on.
    Start,
    /// Pull the plug.
    Stop,
    /// Ask the system inside to end.
    Shutdown,
    /// Shut down and start again.
    Reboot,
    /// Pull the plug and start again; virtual machines only.
    Reset,
    /// Pause, or suspend to disk.
    Suspend,
    /// Go on after a suspend.
    Resume,
    /// Make a virtual machine.
    CreateVm,
    /// Make a container.
    CreateLxc,
    /// Copy a guest.
    Clone,
    /// Remove a guest and its disks.
    Destroy,
    /// Keep the present state of disks and configuration.
    Snapshot,
    /// Remove a snapshot.
    SnapshotDelete,
    /// Go back to a snapshot.
    Rollback,
    /// Move to another node.
    Migrate,
    /// Make a disk larger.
    Resize,
    /// Change the configuration.
    Set,
    /// Make a backup now.
    Backup,
}

impl Operation {
    /// All operations, in the order they are documented.
    pub const ALL: [Self; 18] = [
        Self::Start,
        Self::Stop,
        Self::Shutdown,
        Self::Reboot,
        Self::Reset,
        Self::Suspend,
        Self::Resume,
        Self::CreateVm,
        Self::CreateLxc,
        Self::Clone,
        Self::Destroy,
        Self::Snapshot,
        Self::SnapshotDelete,
        Self::Rollback,
        Self::Migrate,
        Self::Resize,
        Self::Set,
        Self::Backup,
    ];

    /// The word in policy, commands and plans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Shutdown => "shutdown",
            Self::Reboot => "reboot",
            Self::Reset => "reset",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::CreateVm => "create-vm",
            Self::CreateLxc => "create-lxc",
            Self::Clone => "clone",
            Self::Destroy => "destroy",
            Self::Snapshot => "snapshot",
            Self::SnapshotDelete => "snapshot-delete",
            Self::Rollback => "rollback",
            Self::Migrate => "migrate",
            Self::Resize => "resize",
            Self::Set => "set",
            Self::Backup => "backup",
        }
    }

    /// Whether the guest does not serve while or after it.
    pub const fn interrupts(self) -> bool {
        match self {
            Self::Stop
            | Self::Shutdown
            | Self::Reboot
            | Self::Reset
            | Self::Suspend
            | Self::Destroy
            | Self::Rollback
            | Self::Migrate => true,
            Self::Start
            | Self::Resume
            | Self::CreateVm
            | Self::CreateLxc
            | Self::Clone
            | Self::Snapshot
            | Self::SnapshotDelete
            | Self::Resize
            | Self::Set
            | Self::Backup => false,
        }
    }

    /// Whether it makes a guest that was not there.
    pub const fn creates(self) -> bool {
        matches!(self, Self::CreateVm | Self::CreateLxc | Self::Clone)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a new guest is to be, beyond what its template or Proxmox says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGuest {
    /// Its name: a DNS name.
    pub name: String,
    /// Its number; absent means the next free one of our range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmid: Option<u32>,
    /// Cluster; needed only when there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Node; absent means the template's, or the online one with most free memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Storage of its disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// Resource pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Processor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cores: Option<u32>,
    /// Memory, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_mib: Option<u64>,
    /// Size of the first disk, GiB. A template's disk is grown to it, never shrunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub disk_gib: Option<u64>,
    /// Bridge of the first network card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tags: BTreeSet<String>,
    /// Notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Start when its node boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onboot: Option<bool>,
    /// Start it when it is made.
    #[serde(default)]
    pub start: bool,
}

/// What of a configuration is to change. At least one field must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Processor cores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub cores: Option<u32>,
    /// Memory, MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub memory_mib: Option<u64>,
    /// All tags it shall have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeSet<String>>,
    /// Start when its node boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onboot: Option<bool>,
    /// Notes; empty removes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What somebody wants done. `do` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Intent {
    /// Switch guests on.
    Start {
        /// Which; a tag means several.
        guest: GuestRef,
    },
    /// Pull the plug.
    Stop {
        /// Which.
        guest: GuestRef,
        /// Whether to shut down first, in order, what runs and needs it.
        #[serde(default)]
        with_dependents: bool,
    },
    /// Ask the system inside to end.
    Shutdown {
        /// Which.
        guest: GuestRef,
        /// Whether to shut down first, in order, what runs and needs it.
        #[serde(default)]
        with_dependents: bool,
        /// Seconds to wait for it; absent means Proxmox's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        timeout_s: Option<u32>,
    },
    /// Shut down and start again.
    Reboot {
        /// Which.
        guest: GuestRef,
        /// Whether to shut down first and start afterwards what runs and needs it.
        #[serde(default)]
        with_dependents: bool,
    },
    /// Pull the plug and start again; virtual machines only.
    Reset {
        /// Which.
        guest: GuestRef,
    },
    /// Pause a virtual machine, or suspend it to disk.
    Suspend {
        /// Which.
        guest: GuestRef,
        /// To disk, so that it uses no memory.
        #[serde(default)]
        to_disk: bool,
    },
    /// Go on after a suspend.
    Resume {
        /// Which.
        guest: GuestRef,
    },
    /// Make a virtual machine.
    CreateVm {
        /// What it is to be.
        new: NewGuest,
        /// The template it is cloned from; absent means from scratch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        template: Option<GuestRef>,
        /// Copy the template's disks instead of linking to them.
        #[serde(default)]
        full: bool,
        /// ISO image in the drive, `STORAGE:iso/FILE`; only from scratch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        iso: Option<String>,
        /// Operating system type (`l26`, `win11`, …); only from scratch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        os: Option<String>,
    },
    /// Make a container.
    CreateLxc {
        /// What it is to be.
        new: NewGuest,
        /// The container template it is made of: a guest that is a template, or `STORAGE:vztmpl/FILE`.
        template: String,
        /// Address of its first card: `dhcp` or `192.0.2.4/24`; absent means dhcp.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ip: Option<String>,
        /// Gateway, when the address is fixed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<String>,
    },
    /// Copy a guest.
    Clone {
        /// Which.
        guest: GuestRef,
        /// What the copy is to be.
        new: NewGuest,
        /// Copy the disks, where a link would be possible.
        #[serde(default)]
        full: bool,
        /// Copy this snapshot, not the present state.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<String>,
    },
    /// Remove a guest and its disks.
    Destroy {
        /// Which: exactly one.
        guest: GuestRef,
        /// Also remove it from backup jobs, HA and replication.
        #[serde(default)]
        purge: bool,
    },
    /// Keep the present state.
    Snapshot {
        /// Which.
        guest: GuestRef,
        /// Name: `[A-Za-z][A-Za-z0-9_-]{1,39}`.
        name: String,
        /// Notes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        description: Option<String>,
        /// With memory; virtual machines only.
        #[serde(default)]
        memory: bool,
    },
    /// Remove a snapshot.
    SnapshotDelete {
        /// Of which guest.
        guest: GuestRef,
        /// Its name.
        name: String,
    },
    /// Go back to a snapshot.
    Rollback {
        /// Which: exactly one.
        guest: GuestRef,
        /// To which snapshot.
        name: String,
        /// Start it afterwards.
        #[serde(default)]
        start: bool,
    },
    /// Move to another node.
    Migrate {
        /// Which.
        guest: GuestRef,
        /// Where to.
        node: String,
    },
    /// Make a disk larger.
    Resize {
        /// Which: exactly one.
        guest: GuestRef,
        /// The disk's configuration key (`scsi0`, `rootfs`).
        disk: String,
        /// Its size afterwards, GiB.
        #[schemars(range(min = 1))]
        size_gib: u64,
    },
    /// Change the configuration.
    Set {
        /// Which.
        guest: GuestRef,
        /// To what.
        settings: Settings,
    },
    /// Make a backup now.
    Backup {
        /// Which.
        guest: GuestRef,
        /// Storage it goes to; absent means the only one that takes backups.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        storage: Option<String>,
    },
    /// Bring a service of the dependency graph, and what it needs, up in order.
    ServiceUp {
        /// The service.
        service: String,
    },
    /// Shut the lab down in dependency order. What is protected or is ourselves stays.
    LabDown {},
    /// Start, in dependency order, what the last shutdown of the lab stopped.
    LabUp {
        /// The plan that shut it down; absent means the last one that was done.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        plan: Option<PlanId>,
    },
    /// Bring guests back to how they were: power, node, and what can be set.
    Return {
        /// Which.
        guests: Vec<GuestRef>,
        /// When.
        to: At,
    },
    /// Take back what a plan did.
    Undo {
        /// The plan.
        plan: PlanId,
    },
    /// Several things, in this order.
    All {
        /// The things.
        of: Vec<Intent>,
    },
}

impl Intent {
    /// The word after `do`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Shutdown { .. } => "shutdown",
            Self::Reboot { .. } => "reboot",
            Self::Reset { .. } => "reset",
            Self::Suspend { .. } => "suspend",
            Self::Resume { .. } => "resume",
            Self::CreateVm { .. } => "create-vm",
            Self::CreateLxc { .. } => "create-lxc",
            Self::Clone { .. } => "clone",
            Self::Destroy { .. } => "destroy",
            Self::Snapshot { .. } => "snapshot",
            Self::SnapshotDelete { .. } => "snapshot-delete",
            Self::Rollback { .. } => "rollback",
            Self::Migrate { .. } => "migrate",
            Self::Resize { .. } => "resize",
            Self::Set { .. } => "set",
            Self::Backup { .. } => "backup",
            Self::ServiceUp { .. } => "service-up",
            Self::LabDown {} => "lab-down",
            Self::LabUp { .. } => "lab-up",
            Self::Return { .. } => "return",
            Self::Undo { .. } => "undo",
            Self::All { .. } => "all",
        }
    }
}

#[cfg(test)]
mod tests;
