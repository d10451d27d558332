//! Tasks: their UPIDs, their log, and the work they carry. What the work *does* is in [`super::work`].

use super::guest::{Config, Guest};
use super::storage::Volume;

/// A task of a node.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub upid: String,
    /// The node that runs it.
    pub node: String,
    /// Process id of the worker.
    pub pid: u32,
    /// Start of that process, in ticks.
    pub process_start: u64,
    /// When it began, seconds.
    pub started_s: i64,
    /// `qmstart`, `vzdump`, …
    pub kind: &'static str,
    /// What it is about: a vmid, a storage, a node, or nothing.
    pub id: String,
    /// Who asked: `user@realm` or `user@realm!token`.
    pub user: String,
    /// What it does.
    pub work: Work,
    /// How far it is.
    pub stage: Stage,
    /// Lines of its log.
    pub log: Vec<String>,
    /// Why it will fail, found when it began.
    pub failure: Option<String>,
    /// What it will say of itself though its work is done.
    pub verdict: Option<String>,
}

/// How far a task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The worker waits for the guest's lock file.
    Waiting,
    /// It runs.
    Running,
    /// It is over.
    Ended {
        /// `OK`, `WARNINGS: n`, `unexpected status` or the error.
        status: String,
        /// When, seconds.
        at_s: i64,
    },
}

/// What a task does to the lab.
#[derive(Clone, Debug)]
pub enum Work {
    /// To a guest's process.
    Power {
        /// The guest.
        vmid: u32,
        /// What.
        act: PowerAct,
    },
    /// To guests, disks and backups.
    Build(Build),
    /// Something outside the model that only takes time.
    Idle,
}

/// Work on a guest's process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PowerAct {
    /// Power on.
    Start,
    /// Pull the plug.
    Stop,
    /// Ask the guest to go down; with `force`, kill it when it does not.
    Shutdown {
        /// How long it may take.
        timeout_s: u64,
        /// Kill it after that.
        force: bool,
    },
    /// Ask it to go down and start it again.
    Reboot {
        /// How long going down may take.
        timeout_s: u64,
    },
    /// The reset button.
    Reset,
    /// Halt the processors, or write the memory out and end.
    Suspend {
        /// Write the memory out and end the process.
        to_disk: bool,
    },
    /// Go on.
    Resume,
    /// File a request with the HA manager. The guest follows later.
    HaRequest(HaWant),
}

/// Work on what exists.
#[derive(Clone, Debug)]
pub enum Build {
    /// Make a guest.
    Create { guest: Box<Guest>, volumes: Vec<Volume>, pool: Option<String>, start: bool },
    /// Copy a guest.
    Clone { source: u32, guest: Box<Guest>, volumes: Vec<Volume>, pool: Option<String> },
    /// Remove a guest.
    Destroy { vmid: u32, purge: bool, force: bool, unreferenced: bool },
    /// Take a snapshot.
    Snapshot { vmid: u32, name: String, description: String, with_memory: bool },
    /// Remove a snapshot.
    DeleteSnapshot { vmid: u32, name: String },
    /// Return to a snapshot.
    Rollback { vmid: u32, name: String, start: bool },
    /// Move a guest to another node.
    Migrate(Migration),
    /// Back guests up, the first of the list now.
    Backup(Backup),
    /// Turn a guest into a template.
    Template { vmid: u32 },
    /// Grow a disk.
    Resize { vmid: u32, disk: String, size_bytes: u64 },
    /// Change the configuration, asynchronously.
    Configure { vmid: u32, change: ConfigChange },
    /// Move a disk to another storage.
    MoveDisk { vmid: u32, disk: String, storage: String, delete: bool },
    /// Remove a volume.
    RemoveVolume { key: (String, String) },
}

/// A move to another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// The guest.
    pub vmid: u32,
    /// Where to.
    pub target: String,
    /// While it runs.
    pub online: bool,
    /// With a stop and a start.
    pub restart: bool,
    /// Local disks too, while it runs.
    pub with_local_disks: bool,
    /// The storage its disks come to lie on.
    pub storage: Option<String>,
}

/// A backup run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Guests still to do.
    pub vmids: Vec<u32>,
    /// Where to.
    pub storage: String,
    /// `snapshot`, `suspend`, `stop`.
    pub mode: String,
    /// `zstd`, `gzip`, `lzo`, `0`.
    pub compress: String,
    /// The notes template.
    pub notes: String,
    /// Spared by pruning.
    pub protected: bool,
    /// Whether the first of the list carries this run's lock.
    pub holds_lock: bool,
    /// Whether one of those before failed.
    pub failed: bool,
}

/// What the HA manager was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaWant {
    /// Run.
    Started,
    /// Do not run.
    Stopped,
    /// Run on this node.
    Node(String),
}

/// A checked change of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// Lines to set.
    pub set: Config,
    /// Lines to remove.
    pub delete: Vec<String>,
    /// Waiting changes to forget.
    pub revert: Vec<String>,
}

impl Work {
    /// Guests it is about.
    pub fn guests(&self) -> Vec<u32> {
        match self {
            Self::Power { vmid, .. } => vec![*vmid],
            Self::Build(build) => build.guests(),
            Self::Idle => Vec::new(),
        }
    }

    /// The guest whose lock *file* the worker holds to its end, so that others wait in vain. Long jobs
    /// (backup, migration, snapshots) write a `lock:` line instead and let the file go.
    pub fn lock_file_of(&self) -> Option<u32> {
        match self {
            Self::Power { vmid, act } => match act {
                PowerAct::Start
                | PowerAct::Stop
                | PowerAct::Shutdown { .. }
                | PowerAct::Reboot { .. }
                | PowerAct::Suspend { .. } => Some(*vmid),
                PowerAct::Reset | PowerAct::Resume | PowerAct::HaRequest(_) => None,
            },
            Self::Build(build) => build.lock_file_of(),
            Self::Idle => None,
        }
    }

    /// How long it takes, in units of the lab's task time.
    pub fn units(&self) -> f64 {
        match self {
            Self::Power { act, .. } => match act {
                PowerAct::HaRequest(_) => 0.2,
                PowerAct::Stop | PowerAct::Suspend { .. } | PowerAct::Resume | PowerAct::Reset => 0.5,
                PowerAct::Start => 1.0,
                PowerAct::Shutdown { .. } | PowerAct::Reboot { .. } => 2.0,
            },
            Self::Build(build) => build.units(),
            Self::Idle => 1.0,
        }
    }
}

impl Build {
    fn guests(&self) -> Vec<u32> {
        match self {
            Self::Destroy { vmid, .. }
            | Self::Snapshot { vmid, .. }
            | Self::DeleteSnapshot { vmid, .. }
            | Self::Rollback { vmid, .. }
            | Self::Template { vmid }
            | Self::Resize { vmid, .. }
            | Self::Configure { vmid, .. }
            | Self::MoveDisk { vmid, .. } => vec![*vmid],
            Self::Create { guest, .. } => vec![guest.vmid],
            Self::Clone { source, guest, .. } => vec![*source, guest.vmid],
            Self::Migrate(migration) => vec![migration.vmid],
            Self::Backup(backup) => backup.vmids.clone(),
            Self::RemoveVolume { .. } => Vec::new(),
        }
    }

    fn lock_file_of(&self) -> Option<u32> {
        match self {
            Self::Destroy { vmid, .. }
            | Self::Template { vmid }
            | Self::Resize { vmid, .. }
            | Self::Configure { vmid, .. }
            | Self::MoveDisk { vmid, .. } => Some(*vmid),
            Self::Clone { source, .. } => Some(*source),
            Self::Create { .. }
            | Self::Snapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::Rollback { .. }
            | Self::Migrate(_)
            | Self::Backup(_)
            | Self::RemoveVolume { .. } => None,
        }
    }

    fn units(&self) -> f64 {
        match self {
            Self::Destroy { .. }
            | Self::Snapshot { .. }
            | Self::DeleteSnapshot { .. }
            | Self::Template { .. }
            | Self::Resize { .. }
            | Self::Configure { .. }
            | Self::RemoveVolume { .. } => 1.0,
            Self::Rollback { .. } | Self::Create { .. } => 2.0,
            Self::Clone { .. } | Self::MoveDisk { .. } => 3.0,
            Self::Migrate(_) => 4.0,
            // Of each guest.
            Self::Backup(_) => 5.0,
        }
    }
}

/// Writes a UPID.
pub(crate) fn format_upid(task: &Task) -> String {
    format!(
        "UPID:{}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
        task.node, task.pid, task.process_start, task.started_s, task.kind, task.id, task.user
    )
}

/// Whether a text has the form of a UPID (PVE's own pattern).
pub(crate) fn is_upid(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let [head, node, pid, process_start, started, kind, id, user, tail] = parts.as_slice() else {
        return false;
    };
    let is_hex = |text: &str, lengths: &[usize]| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let no_space = |text: &str| !text.contains(char::is_whitespace);
    *head == "UPID"
        && tail.is_empty()
        && is_node_name(node)
        && is_hex(pid, &[8])
        && is_hex(process_start, &[8, 9])
        && is_hex(started, &[8])
        && !kind.is_empty()
        && !kind.contains('/')
        && !user.is_empty()
        && no_space(kind)
        && no_space(id)
        && no_space(user)
}

/// Whether a text can be a node's name.
pub(crate) fn is_node_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}
