//! Requests and answers of the service `act`. Their schemas are published in discovery.

use crate::{
    identity::IdentityName,
    intent::{GuestRef, Intent},
    key::Key,
    plan::{Digest, PlanId, PlanRecord, PlanState, Risk, Verdict},
    run::{Freeze, Hold, Run, RunId, RunState},
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest time before an unconfirmed change is taken back, minutes: a day. Longer is no dead man's switch.
pub const UNDO_MINUTES_MAX: u32 = 24 * 60;
/// Longest claim on a guest, minutes.
pub const HOLD_MINUTES_MAX: u32 = 240;

/// `act.plan`: looks whether it can be done, and how. Nothing is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActPlan {
    /// What is to be done.
    pub intent: Intent,
    /// Why; people who approve read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Carry it out in a simulated copy of the lab first.
    #[serde(default)]
    pub rehearse: bool,
    /// Take it back so many minutes after it is done, unless somebody confirms it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = UNDO_MINUTES_MAX))]
    pub undo_unless_confirmed_minutes: Option<u32>,
}

/// Answer of `act.plan`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActPlanned {
    /// The plan, with what policy says of it.
    pub record: PlanRecord,
    /// What to do next, one sentence.
    pub next: String,
}

/// `act.get`: one plan and its run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActGet {
    /// The plan.
    pub plan: PlanId,
}

/// Answer of `act.get`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActGot {
    /// The plan.
    pub record: PlanRecord,
    /// Its run, when it was applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

/// `act.list`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActList {
    /// Only plans that wait for somebody (a person who has to look among them) or are under way.
    #[serde(default)]
    pub open: bool,
    /// Only this identity's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<IdentityName>,
    /// At most so many, the newest first; absent means 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One plan in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanRow {
    /// Its id.
    pub plan: PlanId,
    /// Who asked.
    pub by: IdentityName,
    /// When, UTC.
    pub made_at: Timestamp,
    /// Until when it can be applied, UTC.
    pub expires_at: Timestamp,
    /// What it does, one sentence.
    pub summary: String,
    /// How much can go wrong.
    pub risk: Risk,
    /// What policy says.
    pub verdict: Verdict,
    /// Approvals it has.
    pub approvals: u8,
    /// Approvals it needs.
    pub approvals_needed: u8,
    /// How far it is.
    pub state: PlanState,
    /// How far its run is, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunState>,
    /// Whether its run's outcome is not known and nobody has looked yet. Absent means no.
    #[serde(default)]
    pub needs_human: bool,
}

/// Answer of `act.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActListed {
    /// Plans, newest first.
    pub plans: Vec<PlanRow>,
    /// Whether there are more.
    pub more: bool,
    /// Present while everything is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    /// Claims of identities on guests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holds: Vec<HoldRow>,
}

/// One claim in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HoldRow {
    /// The guest.
    pub guest: Key,
    /// The claim.
    pub hold: Hold,
}

/// `act.apply`: carries a plan out, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActApply {
    /// The plan.
    pub plan: PlanId,
    /// Its digest, as it was shown.
    pub digest: Digest,
    /// The guest's name, typed; a person who destroys has to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Answer of `act.apply`, at once; `act.run` follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActApplied {
    /// The run.
    pub run: RunId,
    /// How far it is.
    pub state: RunState,
}

/// `act.run`: follows a run; frames until it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActRun {
    /// The run.
    pub run: RunId,
}

/// A frame of `act.run`: the run as it is now, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RunFrame {
    /// The run.
    pub run: Run,
    /// What happened last, one sentence.
    pub said: String,
    /// Guests as the scanner saw them at the end; empty before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestSeen>,
}

/// A guest at the end of a run, as the scanner's record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestSeen {
    /// Its key.
    pub guest: Key,
    /// Its number.
    pub vmid: u32,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: String,
    /// What it is doing.
    pub status: String,
    /// Its addresses.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// `act.approve`: an operator's yes to exactly this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActApprove {
    /// The plan.
    pub plan: PlanId,
    /// Its digest, as it was shown.
    pub digest: Digest,
    /// The guest's name, typed; a destroy needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `act.reject`: an operator's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActReject {
    /// The plan.
    pub plan: PlanId,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `act.cancel`: takes a plan back before it starts, or a run before its first step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActCancel {
    /// The plan.
    pub plan: PlanId,
}

/// `act.confirm`: keeps what a run did that would be taken back otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActConfirm {
    /// The plan.
    pub plan: PlanId,
}

/// `act.hold`: the caller's own claim on a guest; others' plans for it are refused meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActHold {
    /// Which.
    pub guest: GuestRef,
    /// For how long, minutes; at most four hours.
    #[schemars(range(min = 1, max = HOLD_MINUTES_MAX))]
    pub minutes: u32,
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `act.release`: the end of a claim. An operator may end anybody's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActRelease {
    /// Which.
    pub guest: GuestRef,
}

/// Answer of `act.hold` and `act.release`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActHeld {
    /// The guest.
    pub guest: Key,
    /// The claim, when there is one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// `act.freeze`: stops everything that has not started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActFreeze {
    /// Why.
    #[serde(default)]
    pub reason: String,
}

/// `act.thaw`: ends a freeze. What waited goes on after a new look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ActThaw {}

/// Answer of `act.freeze` and `act.thaw`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ActFrozen {
    /// The freeze, when there is one now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<Freeze>,
    /// Runs that are in the middle of a step; they end it and stop there.
    pub under_way: Vec<RunId>,
}
