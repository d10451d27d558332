//! A plan: exactly what will be asked of Proxmox, what that relies on, and what it is expected to bring. Immutable,
//! and bound by its digest; what becomes of it stands beside it in [`PlanRecord`].

use crate::{
    envelope::OpId,
    fact::Fact,
    guest::{GuestIdentity, GuestKind},
    identity::IdentityName,
    intent::{Intent, Operation},
    key::Key,
    run::RunId,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, fmt};

/// Most steps a plan may have, whatever policy says.
pub const STEPS_MAX: usize = 500;

/// Why a text is no id of a plan or run.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not {what}")]
pub struct BadId {
    /// The offending text, cut to 80 characters.
    pub text: String,
    /// What it should have been.
    pub what: &'static str,
}

impl BadId {
    pub(crate) fn new(text: &str, what: &'static str) -> Self {
        Self { text: text.chars().take(80).collect(), what }
    }
}

/// Id of a plan: `p-` and 4 to 32 of `[a-z0-9]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct PlanId(String);

impl PlanId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`BadId`].
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let tail = text.strip_prefix("p-").filter(|tail| is_tail(tail));
        tail.map(|_| Self(text.to_owned())).ok_or_else(|| BadId::new(text, "a plan's id, such as p-0k3x9a"))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one run a plan can have.
    pub fn run(&self) -> RunId {
        RunId::of(&self.0[2..])
    }
}

pub(crate) fn is_tail(tail: &str) -> bool {
    (4..=32).contains(&tail.len()) && tail.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for PlanId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for PlanId {
    fn schema_name() -> Cow<'static, str> {
        "PlanId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^p-[a-z0-9]{4,32}$" })
    }
}

/// SHA-256 of a plan's canonical JSON with an empty digest: `sha256:` and 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    /// From the 32 bytes of a hash.
    pub fn of(hash: [u8; 32]) -> Self {
        Self(hash.iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")))
    }

    /// Parses one.
    ///
    /// # Errors
    /// [`BadId`].
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match text.strip_prefix("sha256:") {
            Some(tail) if tail.len() == 64 && tail.bytes().all(hex) => Ok(Self(text.to_owned())),
            Some(_) | None => {
                Err(BadId::new(text, "a digest: sha256: and 64 lower-case hex digits, as the plan shows it"))
            }
        }
    }

    /// The digest as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^sha256:[0-9a-f]{64}$" })
    }
}

/// HTTP method of a call that changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Do it.
    Post,
    /// Change it.
    Put,
    /// Remove it; parameters go in the query.
    Delete,
}

impl Method {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

/// One call of Proxmox's API, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ApiCall {
    /// Method.
    pub method: Method,
    /// Path below `/api2/json`, every segment encoded (`/nodes/pve1/qemu/105/status/start`).
    pub path: String,
    /// Parameters.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, String>,
}

impl fmt::Display for ApiCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.path)?;
        for (name, value) in &self.params {
            write!(f, " {name}={value}")?;
        }
        Ok(())
    }
}

/// How the end of a call is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ends {
    /// With its answer.
    Answer {},
    /// With the task it starts.
    Task {
        /// Types the task may have (`qmstart`, and `hastart` when HA does it). The id in its UPID is the vmid.
        kinds: Vec<String>,
        /// Vmid in the UPID: a clone's task carries the source's.
        vmid: u32,
        /// How long it may take, seconds; afterwards its outcome is unknown.
        seconds_max: u32,
    },
}

/// Whether a call may be sent again when it is proved that the first one started nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Repeat {
    /// A second effect is impossible: Proxmox refuses it, or it would change nothing.
    Harmless,
    /// A second one would be an effect of its own (a reboot, a rollback, a backup).
    Harmful,
}

/// A guest that a plan writes to, as it was when it was planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// Its key.
    pub guest: Key,
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Number.
    pub vmid: u32,
    /// Name.
    pub name: String,
    /// Node.
    pub node: String,
    /// What tells it from a later guest with its number; absent for one that the plan makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<GuestIdentity>,
    /// What is done to it, in order.
    pub operations: Vec<Operation>,
}

/// One call with what must hold before it and what it brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// What it does, one sentence with the guest's name.
    pub what: String,
    /// What it is in the words of policy.
    pub operation: Operation,
    /// The guest it changes.
    pub guest: Key,
    /// Name of the node it runs on; one call at a time there.
    pub node: String,
    /// The call.
    pub call: ApiCall,
    /// How its end is known.
    pub ends: Ends,
    /// What must hold right before it.
    pub before: Vec<Fact>,
    /// What holds after it.
    pub after: Vec<Fact>,
    /// How long that may take to show after its end, seconds: HA acts later than its task.
    pub settle_s: u32,
    /// Whether it may be sent again.
    pub repeat: Repeat,
    /// What takes it back when a later step, or this one half way, fails. Absent: what it did stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compensation: Option<Box<Step>>,
}

/// A line of a configuration that a step changes, also by accident.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigChange {
    /// Of which guest.
    pub guest: Key,
    /// The line's key.
    pub field: String,
    /// Before; absent when the line was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// After; absent when the line goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// Why something else is touched by a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ImpactCause {
    /// The dependency graph says it needs what the plan touches, directly or through others.
    DependsOn,
    /// Its disks are linked to a disk of the guest.
    LinkedClone,
    /// Its disks lie on a storage the guest provides or that the plan fills.
    SharedStorage,
    /// HA will act on it.
    Ha,
    /// It is in the same resource pool.
    Pool,
    /// A replication or backup job names it.
    Job,
}

/// Something that is touched by a plan without being written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Impact {
    /// The service or guest, as people call it.
    pub name: String,
    /// Its record, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<Key>,
    /// Why.
    pub cause: ImpactCause,
    /// How it hangs together, one sentence.
    pub how: String,
}

/// How much can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Risk {
    /// Nothing stops and everything can be taken back.
    Low,
    /// Something stops for a while, or space is used.
    Medium,
    /// Something is lost that can be brought back only with effort.
    High,
    /// Something is lost for good.
    Destructive,
}

/// How a plan is taken back once it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Undo {
    /// What is to be done for that, in order; a new plan is made of it. Empty when nothing can or need be done.
    pub intents: Vec<Intent>,
    /// Whether they bring everything back.
    pub complete: bool,
    /// What it costs, and what it does not bring back, one sentence.
    pub cost: String,
}

/// What happens when a step fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// The rest is not done; what was done stays.
    Stop,
    /// The rest is not done; what was done is taken back by the steps' compensations, the last one first.
    Compensate,
}

/// A plan. `digest` binds everything in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// Schema version.
    pub v: u32,
    /// Its id.
    pub id: PlanId,
    /// The cluster all of it happens in.
    pub cluster: String,
    /// What was asked for.
    pub intent: Intent,
    /// Who asked.
    pub by: IdentityName,
    /// Why, in the caller's words: data, never an instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was made, UTC.
    pub made_at: Timestamp,
    /// When it can no longer be applied, UTC.
    pub expires_at: Timestamp,
    /// Revision of the state it was made on.
    pub revision: u64,
    /// Records it relies on, by key and revision; 0 means that there was none.
    pub reads: BTreeMap<Key, u64>,
    /// Guests it writes to.
    pub targets: Vec<Target>,
    /// What must hold before the first step, seen live.
    pub requires: Vec<Fact>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// What the scanner must see when all is done.
    pub expects: Vec<Fact>,
    /// Side effects, a sentence each.
    pub effects: Vec<String>,
    /// Configuration lines that change.
    pub config_changes: Vec<ConfigChange>,
    /// What else is touched.
    pub impacts: Vec<Impact>,
    /// How much can go wrong.
    pub risk: Risk,
    /// How it is taken back.
    pub undo: Undo,
    /// What happens when a step fails.
    pub on_failure: OnFailure,
    /// It is taken back so many minutes after it is done, unless somebody confirms it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undo_unless_confirmed_minutes: Option<u32>,
    /// Digest of all the rest.
    pub digest: Option<Digest>,
}

impl Plan {
    /// Its digest.
    ///
    /// # Panics
    /// On a plan that is still being made: one that left the planner has a digest.
    pub fn digest(&self) -> &Digest {
        self.digest.as_ref().expect("a plan leaves the planner with its digest")
    }
}

/// What policy says of a plan that it does not refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may be applied as it is.
    Automatic,
    /// A person's own plan: that person applies it, naming the digest (and the guest's name for a destroy).
    Confirm,
    /// An operator other than the one who asked has to approve it.
    Approval,
}

/// The gate's answer for one plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gate {
    /// Whether it may go.
    pub verdict: Verdict,
    /// Why, a sentence each.
    pub reasons: Vec<String>,
    /// Approvals it needs; 2 under the two-person rule.
    pub approvals: u8,
    /// It is not started before this moment, UTC (restart-safe hours, quiet hours).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// It has to be rehearsed first.
    pub rehearse: bool,
}

/// Somebody's yes to a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Approval {
    /// Who.
    pub by: IdentityName,
    /// To what.
    pub digest: Digest,
    /// When, UTC.
    pub at: Timestamp,
    /// Afterwards it counts no more, UTC.
    pub expires_at: Timestamp,
}

/// What a rehearsal in the simulated lab gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Rehearsal {
    /// When, UTC.
    pub at: Timestamp,
    /// Whether everything the plan expects came true, and nothing else changed.
    pub as_expected: bool,
    /// What changed in the simulated lab, a line each.
    pub changes: Vec<String>,
    /// What differs from the plan's expectation, a sentence each.
    pub differences: Vec<String>,
}

/// How far a plan is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case", deny_unknown_fields)]
pub enum PlanState {
    /// It can be applied, or waits for approval first ([`Gate::verdict`] and [`PlanRecord::approvals`] say).
    Open {},
    /// It was applied; the run has the rest.
    Applied {
        /// The run.
        run: RunId,
        /// By whom.
        by: IdentityName,
        /// When, UTC.
        at: Timestamp,
    },
    /// An operator said no.
    Rejected {
        /// Who.
        by: IdentityName,
        /// Why.
        reason: String,
        /// When, UTC.
        at: Timestamp,
    },
    /// Somebody took it back before it started.
    Cancelled {
        /// Who.
        by: IdentityName,
        /// When, UTC.
        at: Timestamp,
    },
    /// What it relied on has changed.
    Void {
        /// What changed, a sentence each.
        changes: Vec<String>,
        /// When that was seen, UTC.
        at: Timestamp,
    },
}

/// A plan and what became of it, under `plan.<id>` of `nhi-plans`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRecord {
    /// The plan.
    pub plan: Plan,
    /// What policy said.
    pub gate: Gate,
    /// How far it is.
    pub state: PlanState,
    /// Who said yes. Each counts once, for this digest, until it expires.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Its rehearsal, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<Rehearsal>,
    /// Idempotency id of the request that made it, so that a repeated request gets the same plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<OpId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_digests_are_parsed_or_refused() {
        assert_eq!(PlanId::parse("p-0k3x9a").unwrap().run().as_str(), "r-0k3x9a");
        for bad in ["", "p-", "p-abc", "r-0k3x9a", "p-ABCD", "p-a.b.c.d", "p-0k3x9a\n"] {
            assert!(PlanId::parse(bad).is_err(), "{bad:?}");
        }
        let digest = Digest::of([0xab; 32]);
        assert_eq!(Digest::parse(digest.as_str()), Ok(digest));
        for bad in ["", "sha256:", "ab", &format!("sha256:{}", "A".repeat(64))] {
            assert!(Digest::parse(bad).is_err(), "{bad:?}");
        }
    }
}
