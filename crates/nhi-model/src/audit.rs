//! The audit log: who did what to the mesh, chained so that a missing or changed entry shows.

use crate::identity::IdentityName;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// What kind of thing happened. Stable words, dotted by area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuditKind {
    /// The mesh was set up.
    #[serde(rename = "mesh.created")]
    MeshCreated,
    /// An identity was added.
    #[serde(rename = "auth.added")]
    AuthAdded,
    /// An identity was revoked.
    #[serde(rename = "auth.revoked")]
    AuthRevoked,
    /// An identity was granted an endpoint.
    #[serde(rename = "auth.granted")]
    AuthGranted,
    /// An identity was given a new key.
    #[serde(rename = "auth.renewed")]
    AuthRenewed,
    /// A grant was taken away from an identity.
    #[serde(rename = "auth.ungranted")]
    AuthUngranted,
    /// A service dropped a message that was not a call of its own endpoint.
    #[serde(rename = "message.dropped")]
    MessageDropped,
    /// The store behind a bucket was rolled back or made anew.
    #[serde(rename = "store.changed")]
    StoreChanged,
    /// A plan was made.
    #[serde(rename = "plan.made")]
    PlanMade,
    /// A plan was refused, when it was asked for, approved or applied.
    #[serde(rename = "plan.refused")]
    PlanRefused,
    /// An operator approved a digest.
    #[serde(rename = "plan.approved")]
    PlanApproved,
    /// An operator rejected a plan.
    #[serde(rename = "plan.rejected")]
    PlanRejected,
    /// A plan was taken back before it started.
    #[serde(rename = "plan.cancelled")]
    PlanCancelled,
    /// What a plan relied on has changed.
    #[serde(rename = "plan.void")]
    PlanVoid,
    /// A plan was rehearsed in the simulated lab.
    #[serde(rename = "plan.rehearsed")]
    PlanRehearsed,
    /// A plan was applied: there is a run.
    #[serde(rename = "run.applied")]
    RunApplied,
    /// An actuator took a run.
    #[serde(rename = "run.claimed")]
    RunClaimed,
    /// A call will be sent; written before it leaves.
    #[serde(rename = "step.begun")]
    StepBegun,
    /// What is known of a call after it was sent: its task, refusal, loss, or adoption.
    #[serde(rename = "step.sent")]
    StepSent,
    /// How a step's task ended.
    #[serde(rename = "step.ended")]
    StepEnded,
    /// What was read back, or that it differs.
    #[serde(rename = "step.read-back")]
    StepReadBack,
    /// How a run ended.
    #[serde(rename = "run.ended")]
    RunEnded,
    /// A run will be taken back unless somebody confirms it.
    #[serde(rename = "undo.armed")]
    UndoArmed,
    /// Somebody confirmed it.
    #[serde(rename = "undo.confirmed")]
    UndoConfirmed,
    /// Nobody did.
    #[serde(rename = "undo.due")]
    UndoDue,
    /// Everything was stopped.
    #[serde(rename = "act.frozen")]
    ActFrozen,
    /// And goes on.
    #[serde(rename = "act.thawed")]
    ActThawed,
    /// An identity claimed a guest.
    #[serde(rename = "guest.held")]
    GuestHeld,
    /// And let it go.
    #[serde(rename = "guest.released")]
    GuestReleased,
    /// The policy in force changed.
    #[serde(rename = "policy.changed")]
    PolicyChanged,
    /// Somebody keeps a machine's GPU for its owner.
    #[serde(rename = "gpu.locked")]
    GpuLocked,
    /// And gives it back.
    #[serde(rename = "gpu.unlocked")]
    GpuUnlocked,
}

/// One entry of `NHI_AUDIT`.
///
/// `hash` is SHA-256, in lower-case hex, of the entry's JSON with `hash` empty; `prev` is the `hash` of the
/// entry before it in the stream, empty for the first. The expected last sequence on publish makes forks
/// impossible.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// Schema version.
    pub v: u32,
    /// When, UTC.
    pub at: Timestamp,
    /// Who wrote the entry.
    pub agent: IdentityName,
    /// What happened.
    pub kind: AuditKind,
    /// Who did it, where that is known and is not `agent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<IdentityName>,
    /// Ids and sizes, never payloads or secrets.
    #[serde(default)]
    pub details: BTreeMap<String, Value>,
    /// `hash` of the entry before.
    pub prev: String,
    /// This entry's hash.
    pub hash: String,
}
