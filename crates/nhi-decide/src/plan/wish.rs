//! Primitive wishes: what an intent comes down to, with its guests found, before anybody looks whether it can be.

use nhi_model::{
    Timestamp,
    guest::GuestIdentity,
    intent::{GuestRef, NewGuest, Operation, Settings},
    key::Key,
};

/// One of them.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// Something to be done to a guest.
    Deed(Deed),
    /// A guest to be made.
    Birth(Birth),
    /// The shutdown of these guests, in this order, but for what has to stay.
    Down(Vec<Key>),
    /// Nothing to be done; what is to be said about it.
    Note(String),
}

/// Something to be done to a guest.
#[derive(Clone, Debug)]
pub(super) struct Deed {
    /// Which.
    pub(super) guest: Key,
    /// What.
    pub(super) act: Act,
    /// How it was named, where that was by name.
    pub(super) asked: Option<GuestRef>,
    /// What it must still be, when something earlier is taken back.
    pub(super) guard: Option<Guard>,
    /// Whether nothing is said when nothing is to be done.
    pub(super) quiet: bool,
}

impl Deed {
    pub(super) const fn new(guest: Key, act: Act) -> Self {
        Self { guest, act, asked: None, guard: None, quiet: false }
    }
}

/// The guest as an earlier plan, or an earlier state, had it.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// What tells it from another; `None` for one that the plan made.
    pub(super) identity: Option<GuestIdentity>,
    /// Its name then; decides where there is no identity.
    pub(super) name: String,
    /// It was made at or after this moment.
    pub(super) made_since: Option<Timestamp>,
}

/// What can be done to a guest.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Start,
    /// Start it when this plan shut it down.
    StartAgain,
    Stop,
    Shutdown {
        timeout_s: Option<u32>,
    },
    Reboot,
    Reset,
    Suspend {
        to_disk: bool,
    },
    Resume,
    Destroy {
        purge: bool,
    },
    Snapshot {
        name: String,
        description: Option<String>,
        memory: bool,
    },
    SnapshotDelete {
        name: String,
    },
    Rollback {
        name: String,
        start: bool,
    },
    Migrate {
        node: String,
    },
    Resize {
        disk: String,
        size_gib: u64,
    },
    /// The settings, and how many processors it had where only that is known.
    Set {
        settings: Settings,
        processors: Option<u32>,
    },
    Backup {
        storage: Option<String>,
    },
}

impl Act {
    /// The word of policy for it.
    pub(super) const fn operation(&self) -> Operation {
        match self {
            Self::Start | Self::StartAgain => Operation::Start,
            Self::Stop => Operation::Stop,
            Self::Shutdown { .. } => Operation::Shutdown,
            Self::Reboot => Operation::Reboot,
            Self::Reset => Operation::Reset,
            Self::Suspend { .. } => Operation::Suspend,
            Self::Resume => Operation::Resume,
            Self::Destroy { .. } => Operation::Destroy,
            Self::Snapshot { .. } => Operation::Snapshot,
            Self::SnapshotDelete { .. } => Operation::SnapshotDelete,
            Self::Rollback { .. } => Operation::Rollback,
            Self::Migrate { .. } => Operation::Migrate,
            Self::Resize { .. } => Operation::Resize,
            Self::Set { .. } => Operation::Set,
            Self::Backup { .. } => Operation::Backup,
        }
    }
}

/// A guest to be made.
#[derive(Clone, Debug)]
pub(super) enum Birth {
    /// A virtual machine from scratch.
    Vm { new: NewGuest, iso: Option<String>, os: Option<String> },
    /// A container of a container template's file.
    Lxc { new: NewGuest, image: String, ip: Option<String>, gateway: Option<String> },
    /// A copy of a guest.
    Copy(Copy),
}

/// A copy of a guest.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) source: Key,
    pub(super) asked: Option<GuestRef>,
    pub(super) new: NewGuest,
    pub(super) full: bool,
    pub(super) snapshot: Option<String>,
    /// A container's address, when one was asked for.
    pub(super) ip: Option<String>,
    pub(super) gateway: Option<String>,
    /// What it is in the words of policy: making one of a template, or cloning.
    pub(super) operation: Operation,
}

impl Birth {
    pub(super) const fn new_guest(&self) -> &NewGuest {
        match self {
            Self::Vm { new, .. } | Self::Lxc { new, .. } => new,
            Self::Copy(copy) => &copy.new,
        }
    }
}
