//! The arguments of what changes the lab: `nhi guest …`, `nhi plan …`, `nhi freeze`. Each becomes an intent with the
//! same shape as the endpoint's; nothing is checked here that the planner checks.

use clap::{Args, Subcommand};
use nhi_model::{
    call::At,
    intent::{GuestRef, Intent, NewGuest, Settings},
    plan::{Digest, PlanId},
};
use std::collections::BTreeSet;

/// What every command that makes a plan takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The plan")]
pub(crate) struct Planning {
    /// Stop when the plan is made, and show it
    #[arg(long)]
    pub dry_run: bool,
    /// Carry the plan out in a simulated copy of the lab first
    #[arg(long)]
    pub rehearse: bool,
    /// Take it back so many minutes after it is done, unless `nhi plan confirm` comes before
    #[arg(long, value_name = "MINUTES")]
    pub undo_after: Option<u32>,
    /// Why; whoever approves reads it
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// How it goes on from there
    #[command(flatten)]
    pub applying: Applying,
}

/// What every command that applies a plan takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "How it goes on")]
pub(crate) struct Applying {
    /// Do not ask; the plan that was just made is meant
    #[arg(long, short = 'y')]
    pub yes: bool,
    /// The guest's name, typed instead of asked for: a destroy needs it
    #[arg(long = "confirm-name", value_name = "NAME")]
    pub typed_name: Option<String>,
    /// Wait until it is done and seen (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub wait: bool,
    /// Return as soon as it was taken
    #[arg(long, overrides_with = "wait")]
    pub no_wait: bool,
}

/// Which guest.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// NUMBER, NAME, CLUSTER/NUMBER, CLUSTER/NAME or tag:TAG
    #[arg(value_parser = GuestRef::parse)]
    pub guest: GuestRef,
}

/// `nhi guest …`
#[derive(Debug, Subcommand)]
pub(crate) enum Guest {
    /// List guests
    List {
        /// Only with this tag
        #[arg(long)]
        tag: Option<String>,
        /// Only on this node
        #[arg(long)]
        node: Option<String>,
        /// Only in this status
        #[arg(long)]
        status: Option<String>,
    },
    #[command(flatten)]
    Act(Box<GuestAct>),
}

/// What changes guests. All of it makes a plan first.
#[derive(Debug, Subcommand)]
pub(crate) enum GuestAct {
    /// Switch on
    Start(Simple),
    /// Pull the plug
    Stop(Stopping),
    /// Ask the system inside to end
    Shutdown {
        #[command(flatten)]
        stopping: Stopping,
        /// Seconds to wait for it
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u32>,
    },
    /// Shut down and start again
    Reboot(Stopping),
    /// Pull the plug and start again (virtual machines)
    Reset(Simple),
    /// Pause, or suspend to disk (virtual machines)
    Suspend {
        #[command(flatten)]
        simple: Simple,
        /// To disk
        #[arg(long)]
        to_disk: bool,
    },
    /// Go on after a suspend
    Resume(Simple),
    /// Make a virtual machine or, with --lxc, a container
    #[command(after_help = "Example: nhi guest create --template 9000 --name mongodb --memory 4096\n\
                            It ends with the guest's number, node and address.")]
    Create(Box<Create>),
    /// Copy a guest
    Clone {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        new: Box<New>,
        /// Copy the disks where a link would be possible
        #[arg(long)]
        full: bool,
        /// Copy this snapshot
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
        #[command(flatten)]
        planning: Planning,
    },
    /// Remove a guest and its disks
    Destroy {
        #[command(flatten)]
        simple: Simple,
        /// Also remove it from backup jobs, HA and replication
        #[arg(long)]
        purge: bool,
    },
    /// Keep the present state under a name
    Snapshot {
        #[command(flatten)]
        which: Which,
        /// Name of the snapshot
        name: String,
        /// Notes
        #[arg(long)]
        description: Option<String>,
        /// With memory (virtual machines)
        #[arg(long)]
        memory: bool,
        #[command(flatten)]
        planning: Planning,
    },
    /// Remove a snapshot
    SnapshotDelete {
        #[command(flatten)]
        which: Which,
        /// Name of the snapshot
        name: String,
        #[command(flatten)]
        planning: Planning,
    },
    /// Go back to a snapshot
    Rollback {
        #[command(flatten)]
        which: Which,
        /// Name of the snapshot
        name: String,
        /// Start afterwards
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        planning: Planning,
    },
    /// Move to another node
    Migrate {
        #[command(flatten)]
        which: Which,
        /// Where to
        node: String,
        #[command(flatten)]
        planning: Planning,
    },
    /// Make a disk larger
    Resize {
        #[command(flatten)]
        which: Which,
        /// Configuration key of the disk (scsi0, rootfs)
        disk: String,
        /// Its size afterwards, GiB
        size_gib: u64,
        #[command(flatten)]
        planning: Planning,
    },
    /// Change the configuration
    Set {
        #[command(flatten)]
        which: Which,
        /// Processor cores
        #[arg(long)]
        cores: Option<u32>,
        /// Memory, MiB
        #[arg(long, value_name = "MIB")]
        memory: Option<u64>,
        /// All tags it shall have, with commas; empty removes all
        #[arg(long, value_name = "TAG,…")]
        tags: Option<String>,
        /// Start when its node boots
        #[arg(long)]
        onboot: Option<bool>,
        /// Notes; empty removes them
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        planning: Planning,
    },
    /// Make a backup now
    Backup {
        #[command(flatten)]
        which: Which,
        /// Storage it goes to
        #[arg(long)]
        storage: Option<String>,
        #[command(flatten)]
        planning: Planning,
    },
    /// Bring guests back to how they were at a moment: power, node and what can be set
    Return {
        /// Guests
        #[arg(required = true, value_parser = GuestRef::parse)]
        guests: Vec<GuestRef>,
        /// A revision, or a time such as 2026-01-31T14:00:00Z or 2h (ago)
        #[arg(long, value_name = "REVISION|TIME")]
        to: String,
        #[command(flatten)]
        planning: Planning,
    },
    /// Keep a guest for yourself: others' plans for it are refused meanwhile
    Hold {
        #[command(flatten)]
        which: Which,
        /// For how long, minutes
        #[arg(long, default_value_t = 30)]
        minutes: u32,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// End a hold
    Release(Which),
}

/// A guest and nothing else.
#[derive(Clone, Debug, Args)]
pub(crate) struct Simple {
    #[command(flatten)]
    pub which: Which,
    #[command(flatten)]
    pub planning: Planning,
}

/// What ends a guest's service.
#[derive(Clone, Debug, Args)]
pub(crate) struct Stopping {
    #[command(flatten)]
    pub which: Which,
    /// First shut down, in order, what runs and needs it
    #[arg(long)]
    pub with_dependents: bool,
    #[command(flatten)]
    pub planning: Planning,
}

/// What a new guest is to be.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The new guest")]
pub(crate) struct New {
    /// Its name
    #[arg(long)]
    pub name: String,
    /// Its number; by default the next free one of [act] vmid_range
    #[arg(long, value_name = "NUMBER")]
    pub vmid: Option<u32>,
    /// Its cluster, when there are several
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Its node; by default the template's
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Storage of its disks
    #[arg(long, value_name = "NAME")]
    pub storage: Option<String>,
    /// Its resource pool
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,
    /// Processor cores
    #[arg(long, value_name = "N")]
    pub cores: Option<u32>,
    /// Memory, MiB
    #[arg(long, value_name = "MIB")]
    pub memory: Option<u64>,
    /// Size of the first disk, GiB
    #[arg(long, value_name = "GIB")]
    pub disk: Option<u64>,
    /// Bridge of the first network card
    #[arg(long, value_name = "NAME")]
    pub bridge: Option<String>,
    /// A tag; may be given several times
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Notes
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// Start when its node boots
    #[arg(long, value_name = "BOOL")]
    pub onboot: Option<bool>,
    /// Leave it switched off
    #[arg(long)]
    pub no_start: bool,
}

/// `nhi guest create`
#[derive(Clone, Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    pub new: New,
    /// Template to clone: a guest, or with --lxc also STORAGE:vztmpl/FILE
    #[arg(long, value_name = "GUEST|VOLUME")]
    pub template: Option<String>,
    /// Make a container
    #[arg(long)]
    pub lxc: bool,
    /// Copy the template's disks instead of linking to them
    #[arg(long, conflicts_with = "lxc")]
    pub full: bool,
    /// Image in the drive, STORAGE:iso/FILE
    #[arg(long, value_name = "VOLUME", conflicts_with_all = ["lxc", "template"])]
    pub iso: Option<String>,
    /// Operating system type (l26, win11)
    #[arg(long, value_name = "TYPE", conflicts_with_all = ["lxc", "template"])]
    pub os: Option<String>,
    /// Address of a container: dhcp or 192.0.2.4/24
    #[arg(long, value_name = "ADDRESS", requires = "lxc")]
    pub ip: Option<String>,
    /// Gateway of a container with a fixed address
    #[arg(long, value_name = "ADDRESS", requires = "ip")]
    pub gateway: Option<String>,
    #[command(flatten)]
    pub planning: Planning,
}

/// `nhi plan …`
#[derive(Debug, Subcommand)]
pub(crate) enum Plan {
    /// List plans, newest first
    List {
        /// Only those that wait for somebody or are under way
        #[arg(long)]
        open: bool,
        /// Only this identity's
        #[arg(long, value_name = "NAME")]
        by: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=500))]
        limit: u32,
    },
    /// Show a plan, its steps and its run
    Show {
        /// The plan's id
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
    },
    /// Make a plan of an intent as JSON; - reads it from standard input
    Make {
        /// The intent, as act.plan takes it: {"do":"start","guest":"105"}
        intent: String,
        #[command(flatten)]
        planning: Planning,
    },
    /// Bring a service of the dependency graph, and what it needs, up
    ServiceUp {
        /// The service
        service: String,
        #[command(flatten)]
        planning: Planning,
    },
    /// Shut the lab down in dependency order
    LabDown(Planning),
    /// Start what the last `lab-down` stopped, in order
    LabUp {
        /// The plan that shut it down; by default the last one
        #[arg(long, value_parser = PlanId::parse)]
        plan: Option<PlanId>,
        #[command(flatten)]
        planning: Planning,
    },
    /// Make a plan that takes back what another one did
    Undo {
        /// The plan to take back
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
        #[command(flatten)]
        planning: Planning,
    },
    /// Carry a plan out
    Apply {
        #[command(flatten)]
        decided: Decided,
        #[command(flatten)]
        applying: Applying,
    },
    /// Follow a plan's run until it ends
    Follow {
        /// The plan's id
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
    },
    /// Say yes to somebody else's plan
    Approve {
        #[command(flatten)]
        decided: Decided,
        /// The guest's name, typed: a destroy needs it
        #[arg(long = "confirm-name", value_name = "NAME")]
        typed_name: Option<String>,
    },
    /// Say no to a plan
    Reject {
        /// The plan's id
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
        /// Why
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take a plan back before it starts
    Cancel {
        /// The plan's id
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
    },
    /// Keep what a run did that would be taken back otherwise
    Confirm {
        /// The plan's id
        #[arg(value_parser = PlanId::parse)]
        plan: PlanId,
    },
}

/// A plan, and exactly which.
#[derive(Clone, Debug, Args)]
pub(crate) struct Decided {
    /// The plan's id
    #[arg(value_parser = PlanId::parse)]
    pub plan: PlanId,
    /// Its digest as it was shown; asked for on a terminal when absent
    #[arg(long, value_parser = Digest::parse)]
    pub digest: Option<Digest>,
}

impl New {
    fn guest(self) -> NewGuest {
        NewGuest {
            name: self.name,
            vmid: self.vmid,
            cluster: self.cluster,
            node: self.node,
            storage: self.storage,
            pool: self.pool,
            cores: self.cores,
            memory_mib: self.memory,
            disk_gib: self.disk,
            bridge: self.bridge,
            tags: self.tags.into_iter().collect(),
            description: self.description,
            onboot: self.onboot,
            start: !self.no_start,
        }
    }
}

impl Create {
    /// The intent and how it goes on; a sentence when the arguments contradict each other.
    fn intent(self) -> Result<(Intent, Planning), String> {
        let Self { new, template, lxc, full, iso, os, ip, gateway, planning } = self;
        let new = new.guest();
        let intent = if lxc {
            let template =
                template.ok_or("a container needs --template: STORAGE:vztmpl/FILE or a template guest")?;
            Intent::CreateLxc { new, template, ip, gateway }
        } else {
            let template =
                template.map(|text| GuestRef::parse(&text).map_err(|e| e.to_string())).transpose()?;
            Intent::CreateVm { new, template, full, iso, os }
        };
        Ok((intent, planning))
    }
}

/// What a command of [`GuestAct`] asks for.
pub(crate) enum Asked {
    /// A plan.
    Plan(Box<Intent>, Planning),
    /// A claim.
    Hold { guest: GuestRef, minutes: u32, reason: String },
    /// The end of one.
    Release(GuestRef),
}

impl GuestAct {
    /// What it asks for. `moment` reads a revision or time.
    ///
    /// # Errors
    /// One sentence, when the arguments contradict each other.
    pub(crate) fn asked(self, moment: impl Fn(&str) -> Result<At, String>) -> Result<Asked, String> {
        let (intent, planning) = match self {
            Self::Start(Simple { which, planning }) => (Intent::Start { guest: which.guest }, planning),
            Self::Stop(Stopping { which, with_dependents, planning }) => {
                (Intent::Stop { guest: which.guest, with_dependents }, planning)
            }
            Self::Shutdown { stopping: Stopping { which, with_dependents, planning }, timeout } => {
                (Intent::Shutdown { guest: which.guest, with_dependents, timeout_s: timeout }, planning)
            }
            Self::Reboot(Stopping { which, with_dependents, planning }) => {
                (Intent::Reboot { guest: which.guest, with_dependents }, planning)
            }
            Self::Reset(Simple { which, planning }) => (Intent::Reset { guest: which.guest }, planning),
            Self::Suspend { simple: Simple { which, planning }, to_disk } => {
                (Intent::Suspend { guest: which.guest, to_disk }, planning)
            }
            Self::Resume(Simple { which, planning }) => (Intent::Resume { guest: which.guest }, planning),
            Self::Create(create) => create.intent()?,
            Self::Clone { which, new, full, snapshot, planning } => {
                (Intent::Clone { guest: which.guest, new: new.guest(), full, snapshot }, planning)
            }
            Self::Destroy { simple: Simple { which, planning }, purge } => {
                (Intent::Destroy { guest: which.guest, purge }, planning)
            }
            Self::Snapshot { which, name, description, memory, planning } => {
                (Intent::Snapshot { guest: which.guest, name, description, memory }, planning)
            }
            Self::SnapshotDelete { which, name, planning } => {
                (Intent::SnapshotDelete { guest: which.guest, name }, planning)
            }
            Self::Rollback { which, name, start, planning } => {
                (Intent::Rollback { guest: which.guest, name, start }, planning)
            }
            Self::Migrate { which, node, planning } => {
                (Intent::Migrate { guest: which.guest, node }, planning)
            }
            Self::Resize { which, disk, size_gib, planning } => {
                (Intent::Resize { guest: which.guest, disk, size_gib }, planning)
            }
            Self::Set { which, cores, memory, tags, onboot, description, planning } => {
                let tags = tags.map(|text| words(&text));
                let settings = Settings { cores, memory_mib: memory, tags, onboot, description };
                (Intent::Set { guest: which.guest, settings }, planning)
            }
            Self::Backup { which, storage, planning } => {
                (Intent::Backup { guest: which.guest, storage }, planning)
            }
            Self::Return { guests, to, planning } => (Intent::Return { guests, to: moment(&to)? }, planning),
            Self::Hold { which, minutes, reason } => {
                return Ok(Asked::Hold { guest: which.guest, minutes, reason });
            }
            Self::Release(which) => return Ok(Asked::Release(which.guest)),
        };
        Ok(Asked::Plan(Box::new(intent), planning))
    }
}

fn words(text: &str) -> BTreeSet<String> {
    text.split([',', ';']).map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}
