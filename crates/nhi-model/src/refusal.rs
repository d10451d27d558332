//! Why a plan is not made or not carried out: stable codes, each with the HTTP-like number of its answer.

use crate::{
    fault::{Fault, FaultCode},
    key::Key,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Stable words. Programs and AI agents branch on them; `docs/acting.md` lists them with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// No guest is meant by that.
    UnknownGuest,
    /// Several are.
    AmbiguousGuest,
    /// There is no such cluster, node, storage, snapshot, disk, template, service, plan or run.
    Unknown,
    /// A value is out of its bounds, or not of its shape.
    BadValue,
    /// The thing cannot be done to a guest of this kind or in this state.
    NotPossible,
    /// Policy or Proxmox protects the guest.
    Protected,
    /// It is the machine the mesh itself runs on, or one it needs.
    Ourselves,
    /// Something that runs needs the guest.
    DependentsRunning,
    /// Disks of other guests are linked to it.
    LinkedClones,
    /// A lock is held on it.
    Locked,
    /// HA manages it, and the thing would fight with that.
    HaManaged,
    /// It runs, and the thing needs it stopped.
    Running,
    /// Rolling back would take protection, or a mark that protects, away.
    DropsProtection,
    /// The plan's base has changed.
    Stale,
    /// Another guest has the number now.
    OtherGuest,
    /// The plan or an approval is no longer valid.
    Expired,
    /// It was applied, rejected or cancelled already.
    Used,
    /// The digest is not the plan's.
    WrongDigest,
    /// An operator has to approve it first.
    NeedsApproval,
    /// Who asked cannot approve.
    SelfApproval,
    /// The guest's name has to be typed, and was not, or wrongly.
    NameNotTyped,
    /// Everything is stopped by an operator.
    Frozen,
    /// A limit of policy is reached.
    Quota,
    /// Policy never allows it.
    Never,
    /// The node does not answer.
    NodeOffline,
    /// The cluster has no quorum.
    NoQuorum,
    /// The actuator's token may not.
    NoRights,
    /// What is known of it is too old or incomplete to decide on.
    NotSeen,
    /// Another identity holds the guest.
    Held,
    /// Another run works on the guest.
    Busy,
    /// There is no free number, or no room.
    NoRoom,
    /// The rehearsal differs from what the plan expects.
    RehearsalDiffers,
    /// The plan is too large.
    TooManySteps,
    /// There is nothing to do.
    NothingToDo,
    /// The independent check found a fault in the plan: ours.
    Lint,
}

impl RefusalCode {
    /// All codes, in the order they are documented.
    pub const ALL: [Self; 35] = [
        Self::UnknownGuest,
        Self::AmbiguousGuest,
        Self::Unknown,
        Self::BadValue,
        Self::NotPossible,
        Self::Protected,
        Self::Ourselves,
        Self::DependentsRunning,
        Self::LinkedClones,
        Self::Locked,
        Self::HaManaged,
        Self::Running,
        Self::DropsProtection,
        Self::Stale,
        Self::OtherGuest,
        Self::Expired,
        Self::Used,
        Self::WrongDigest,
        Self::NeedsApproval,
        Self::SelfApproval,
        Self::NameNotTyped,
        Self::Frozen,
        Self::Quota,
        Self::Never,
        Self::NodeOffline,
        Self::NoQuorum,
        Self::NoRights,
        Self::NotSeen,
        Self::Held,
        Self::Busy,
        Self::NoRoom,
        Self::RehearsalDiffers,
        Self::TooManySteps,
        Self::NothingToDo,
        Self::Lint,
    ];

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownGuest => "unknown-guest",
            Self::AmbiguousGuest => "ambiguous-guest",
            Self::Unknown => "unknown",
            Self::BadValue => "bad-value",
            Self::NotPossible => "not-possible",
            Self::Protected => "protected",
            Self::Ourselves => "ourselves",
            Self::DependentsRunning => "dependents-running",
            Self::LinkedClones => "linked-clones",
            Self::Locked => "locked",
            Self::HaManaged => "ha-managed",
            Self::Running => "running",
            Self::DropsProtection => "drops-protection",
            Self::Stale => "stale",
            Self::OtherGuest => "other-guest",
            Self::Expired => "expired",
            Self::Used => "used",
            Self::WrongDigest => "wrong-digest",
            Self::NeedsApproval => "needs-approval",
            Self::SelfApproval => "self-approval",
            Self::NameNotTyped => "name-not-typed",
            Self::Frozen => "frozen",
            Self::Quota => "quota",
            Self::Never => "never",
            Self::NodeOffline => "node-offline",
            Self::NoQuorum => "no-quorum",
            Self::NoRights => "no-rights",
            Self::NotSeen => "not-seen",
            Self::Held => "held",
            Self::Busy => "busy",
            Self::NoRoom => "no-room",
            Self::RehearsalDiffers => "rehearsal-differs",
            Self::TooManySteps => "too-many-steps",
            Self::NothingToDo => "nothing-to-do",
            Self::Lint => "lint",
        }
    }

    /// The HTTP-like number of an answer with this code.
    pub const fn status(self) -> u16 {
        match self {
            Self::UnknownGuest | Self::Unknown => 404,
            Self::BadValue | Self::AmbiguousGuest | Self::TooManySteps | Self::NameNotTyped => 400,
            Self::Protected
            | Self::Ourselves
            | Self::DropsProtection
            | Self::NeedsApproval
            | Self::SelfApproval
            | Self::Never
            | Self::NoRights => 403,
            Self::NotPossible
            | Self::DependentsRunning
            | Self::LinkedClones
            | Self::Locked
            | Self::HaManaged
            | Self::Running
            | Self::Stale
            | Self::OtherGuest
            | Self::Used
            | Self::WrongDigest
            | Self::Held
            | Self::Busy
            | Self::NoRoom
            | Self::RehearsalDiffers
            | Self::NothingToDo => 409,
            Self::Expired => 410,
            Self::Quota => 429,
            Self::Frozen | Self::NodeOffline | Self::NoQuorum | Self::NotSeen => 503,
            Self::Lint => 500,
        }
    }
}

/// A refusal: a code, the reason in one sentence, and what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Stable word.
    pub code: RefusalCode,
    /// The reason, one sentence that names the guest and the values.
    pub message: String,
    /// What to do instead, one sentence.
    pub hint: String,
    /// The guest it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Key>,
    /// Identifying values (candidates, dependents, limits).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: RefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: hint.into(), guest: None, details: BTreeMap::new() }
    }

    /// The same about a guest.
    #[must_use]
    pub fn about(mut self, guest: &Key) -> Self {
        self.guest = Some(guest.clone());
        self
    }

    /// The same with one identifying value more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// As the answer of a call.
    pub fn fault(self) -> Fault {
        let mut fault = Fault::new(FaultCode::Conflict, self.message, self.hint);
        fault.code = self.code.as_str().to_owned();
        fault.details = self.details;
        if let Some(guest) = self.guest {
            fault.details.insert("guest".to_owned(), guest.as_str().into());
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_as_they_are_called() {
        for code in RefusalCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        let fault = Refusal::new(RefusalCode::Protected, "no", "do not").fault();
        assert_eq!((fault.code.as_str(), fault.status()), ("protected", 403));
    }
}
