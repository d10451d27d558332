//! What may be done, by whom, when and how much: `infrastructure/policy.toml` as types. Reading the file, with its
//! lines, is `nhi_decide::policy`'s; what follows from it is the gate's.

use crate::{
    identity::{IdentityName, Role},
    intent::{GuestRef, Operation},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The policy. Every field may be missing from the file; [`Policy::default`] is the safe one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// IANA name of the zone all hours are in (`Europe/Rome`); absent means UTC, and a warning when hours are given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// Guests nothing may happen to that could harm them.
    pub protected: Protected,
    /// Which guests carry a service of the dependency graph; one that is not here is carried by the guest of its name.
    pub services: BTreeMap<String, Vec<GuestRef>>,
    /// What is automatic, needs approval, or is never done, for everybody.
    pub operations: Rules,
    /// The same for a role; it can only be stricter about `never`.
    pub roles: BTreeMap<Role, Rules>,
    /// The same for one identity.
    pub identities: BTreeMap<IdentityName, Rules>,
    /// How approval works.
    pub approval: ApprovalRules,
    /// How much may happen.
    pub limits: Limits,
    /// When it may happen.
    pub hours: Hours,
    /// What is done for safety beside what was asked for.
    pub caution: Caution,
}

/// Protected guests. Protection means destroy, stop, shutdown, reboot, reset, suspend, rollback, migrate, resize and
/// changes of the configuration; starting, snapshots and backups stay possible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Protected {
    /// By number, name or tag.
    pub guests: Vec<GuestRef>,
    /// By tag: a guest that has one of these.
    pub tags: BTreeSet<String>,
    /// Whether Proxmox's own flag protects as well.
    pub flag: bool,
}

impl Default for Protected {
    fn default() -> Self {
        let tags = ["critical", "nh-critical", "protected"].map(str::to_owned).into();
        Self { guests: Vec::new(), tags, flag: true }
    }
}

/// What may be done how. An operation that stands nowhere needs approval. `never` beats `approval` beats `automatic`
/// within one table; a `never` anywhere beats everything elsewhere; otherwise the identity's table beats the role's,
/// and that the common one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Done without anybody's approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automatic: Option<BTreeSet<Operation>>,
    /// Done when an operator has approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<BTreeSet<Operation>>,
    /// Never done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub never: Option<BTreeSet<Operation>>,
}

/// How approval works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ApprovalRules {
    /// A plan can be applied for so long after it was made, minutes.
    pub plan_minutes: u32,
    /// An approval counts for so long, minutes.
    pub approval_minutes: u32,
    /// Operations that need two people.
    pub two_people: BTreeSet<Operation>,
}

impl Default for ApprovalRules {
    fn default() -> Self {
        Self { plan_minutes: 60, approval_minutes: 10, two_people: BTreeSet::new() }
    }
}

/// How much may happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Guests one plan may write to.
    pub guests_per_plan: u32,
    /// Steps one plan may have.
    pub steps_per_plan: u32,
    /// Guests destroyed in 24 hours, by everybody together.
    pub destroys_per_day: u32,
    /// Plans one agent may make in a minute.
    pub plans_per_minute: u32,
    /// Plans one agent may apply in an hour. People are not limited.
    pub applies_per_hour: u32,
    /// Runs of one agent at a time.
    pub runs_at_once: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            guests_per_plan: 10,
            steps_per_plan: 100,
            destroys_per_day: 2,
            plans_per_minute: 30,
            applies_per_hour: 30,
            runs_at_once: 3,
        }
    }
}

/// When it may happen, in [`Policy::time_zone`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hours {
    /// Hours in which guests that carry no service with hours of its own may be interrupted; empty means any.
    pub restart_safe: BTreeSet<u8>,
    /// Hours in which nothing starts that an agent asked for (`22` to `7` is `[22, 23, 0, 1, 2, 3, 4, 5, 6]`).
    pub quiet: BTreeSet<u8>,
}

/// What is done for safety.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Caution {
    /// Operations before which a snapshot is made where the storage can.
    pub snapshot_before: BTreeSet<Operation>,
    /// A destroy needs a backup not older than this, hours; absent means it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup_before_destroy_hours: Option<u32>,
    /// Operations whose plans are rehearsed in the simulated lab first.
    pub rehearse: BTreeSet<Operation>,
    /// Operations that are taken back unless somebody confirms them within so many minutes.
    pub undo_unless_confirmed_minutes: BTreeMap<Operation, u32>,
}

impl Default for Caution {
    fn default() -> Self {
        Self {
            snapshot_before: [Operation::Rollback].into(),
            backup_before_destroy_hours: None,
            rehearse: BTreeSet::new(),
            undo_unless_confirmed_minutes: BTreeMap::new(),
        }
    }
}

/// What runs without approval when the file does not say.
pub const AUTOMATIC_DEFAULT: &[Operation] = &[Operation::Start, Operation::Snapshot];
