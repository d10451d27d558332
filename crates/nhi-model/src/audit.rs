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
