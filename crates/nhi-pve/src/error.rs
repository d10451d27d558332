//! What can go wrong with a call, by kind. It does not say what follows from it for the lab.

mod classify;

pub(crate) use classify::{clean, of_answer};

use crate::trust::Fingerprint;
use std::collections::BTreeMap;

/// A call failed.
///
/// The message is one clear sentence with the remedy where there is one; branch on [`PveError::kind`], never on it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {}", parts.attempt(), parts.text)]
pub struct PveError {
    /// Boxed, because every answer's type would carry its size.
    pub(crate) parts: Box<Parts>,
}

/// What a failure is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The method, where something was to be changed.
    pub(crate) writes: Option<&'static str>,
    pub(crate) place: String,
    pub(crate) path: String,
    pub(crate) kind: Kind,
    pub(crate) status: Option<u16>,
    pub(crate) text: String,
    pub(crate) fields: BTreeMap<String, String>,
    pub(crate) certificate: Option<Fingerprint>,
}

impl Parts {
    fn attempt(&self) -> String {
        match self.writes {
            None => format!("read {} from {}", self.path, self.place),
            Some(method) => format!("send {method} {} to {}", self.path, self.place),
        }
    }
}

impl From<Parts> for PveError {
    fn from(parts: Parts) -> Self {
        Self { parts: Box::new(parts) }
    }
}

impl PveError {
    /// The same of a call that was to change something.
    pub(crate) fn of_write(mut self, method: &'static str) -> Self {
        self.parts.writes = Some(method);
        self
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> &Kind {
        &self.parts.kind
    }

    /// The address that was asked (`https://pve1:8006`), without credentials.
    pub fn place(&self) -> &str {
        &self.parts.place
    }

    /// The path that was asked (`/nodes/pve1/qemu`).
    pub fn path(&self) -> &str {
        &self.parts.path
    }

    /// HTTP status, where there was an answer.
    pub fn status(&self) -> Option<u16> {
        self.parts.status
    }

    /// What went wrong without where: cleaned of control characters and capped, still text from the lab.
    pub fn text(&self) -> &str {
        &self.parts.text
    }

    /// Proxmox's messages by parameter, cleaned and capped.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.parts.fields
    }

    /// The certificate that was refused.
    pub fn certificate(&self) -> Option<Fingerprint> {
        self.parts.certificate
    }
}

/// The kinds of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The guest's configuration is not on **that node**. It may have moved: look it up before saying deleted.
    Gone,
    /// A lock is held on the guest.
    Locked {
        /// The lock (`backup`, `migrate`, …).
        lock: String,
    },
    /// A lock file could not be had in time: try again.
    LockTimeout,
    /// The node is busy: try again.
    Busy,
    /// The guest has no agent configured.
    NoAgentConfigured,
    /// The guest's agent does not answer. Back off for this guest: each try occupies one of three workers.
    AgentNotRunning,
    /// The guest does not run.
    NotRunning,
    /// The cluster has no quorum.
    NoQuorum,
    /// A storage is offline, disabled or not available on that node.
    StorageUnavailable,
    /// There is no node of that name.
    NoSuchNode,
    /// A right is missing.
    PermissionDenied {
        /// The path it is missing on, where told.
        path: Option<String>,
        /// The privilege, or alternatives as Proxmox writes them (`A|B`), where told.
        privilege: Option<String>,
    },
    /// No node we asked can reach that node (595-599). Says nothing about its guests.
    NodeUnreachable {
        /// The node, or "" when the call was about none.
        node: String,
    },
    /// The token was refused by every address that answers. None of them is sent anything until the back-off is
    /// over or [`crate::Reader::reset`].
    Unauthorized,
    /// A parameter was refused (400).
    InvalidParameter,
    /// Proxmox's own protection flag stands against it.
    Protected,
    /// The guest runs, and may not.
    StillRunning,
    /// HA manages the guest, and that stands against it.
    HaManaged,
    /// There is a guest, disk or snapshot with this number or name already.
    AlreadyExists,
    /// The configuration is another than the one the digest was read from.
    Modified,
    /// The guest did not go down in time when it was asked to.
    ShutdownIgnored,
    /// Other guests' disks are linked to this one's.
    StillInUse,
    /// There is no snapshot of this name.
    NoSuchSnapshot,
    /// The guest's disks or devices cannot do this (no snapshots, no move).
    NotPossible,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke before the answer was whole.
    Connect,
    /// The certificate was refused, or TLS failed.
    Tls,
    /// Something answered that is not Proxmox VE (a proxy's page, a redirect, a captive portal).
    NotProxmox,
    /// The answer is larger than [`crate::Limits::body_bytes_max`].
    TooLarge,
    /// This Proxmox version does not have the call (501).
    NotImplemented,
    /// Proxmox answered with data of another shape than the call promises.
    Malformed,
    /// Anything else; the text says it.
    Other,
}

impl Kind {
    /// What kind of failure the exit text of a task tells; `node` is the one it ran on. Not for `OK` and its like.
    pub fn of_task_exit(text: &str, node: &str) -> Self {
        classify::of_text(text, node)
    }

    /// A stable word for logs and alerts.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Locked { .. } => "locked",
            Self::LockTimeout => "lock-timeout",
            Self::Busy => "busy",
            Self::NoAgentConfigured => "no-agent-configured",
            Self::AgentNotRunning => "agent-not-running",
            Self::NotRunning => "not-running",
            Self::NoQuorum => "no-quorum",
            Self::StorageUnavailable => "storage-unavailable",
            Self::NoSuchNode => "no-such-node",
            Self::PermissionDenied { .. } => "permission-denied",
            Self::NodeUnreachable { .. } => "node-unreachable",
            Self::Unauthorized => "unauthorized",
            Self::InvalidParameter => "invalid-parameter",
            Self::Protected => "protected",
            Self::StillRunning => "still-running",
            Self::HaManaged => "ha-managed",
            Self::AlreadyExists => "already-exists",
            Self::Modified => "modified",
            Self::ShutdownIgnored => "shutdown-ignored",
            Self::StillInUse => "still-in-use",
            Self::NoSuchSnapshot => "no-such-snapshot",
            Self::NotPossible => "not-possible",
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::NotProxmox => "not-proxmox",
            Self::TooLarge => "too-large",
            Self::NotImplemented => "not-implemented",
            Self::Malformed => "malformed",
            Self::Other => "other",
        }
    }
}
