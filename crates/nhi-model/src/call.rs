//! Requests and answers of the built-in endpoints. Their schemas are published in discovery.

use crate::{
    audit::{AuditEntry, AuditKind},
    envelope::{Live, OpId, Stale},
    gpu::{GpuReport, GpuTold},
    identity::{IdentityName, Role},
    key::Key,
    plan::PlanId,
    source::Coverage,
};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest message anywhere in the mesh, bytes. Larger ones are refused before publishing.
pub const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Largest page of `state.get`, bytes of JSON.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// A plain call is answered within this, because a reply across accounts dies after 120 s of silence.
pub const CALL_SECONDS_MAX: u64 = 110;
/// How long a call without `Nhi-Expires` is worth doing.
pub const CALL_SECONDS_DEFAULT: u64 = 30;

/// What an endpoint does to the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It looks.
    Read,
    /// It changes something that is easily changed back.
    Write,
    /// It can break or destroy.
    Danger,
}

impl Effect {
    /// The word in the metadata.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Danger => "danger",
        }
    }
}

/// A moment of the state: a revision, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum At {
    /// A revision of the bucket.
    Revision(u64),
    /// A time, UTC; it means the last commit not after it.
    Time(Timestamp),
}

/// `state.get`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateGet {
    /// Which moment; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<At>,
    /// Which keys: each a section, a dotted prefix, or a key, with `*` for a token. Empty means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub select: Vec<String>,
    /// Whether to add the gauges that are still valid. Only for now.
    #[serde(default)]
    pub live: bool,
    /// Records a page; absent means as many as fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit: Option<u32>,
    /// Where the page before ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One record as `state.get` tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateRecord {
    /// Revision of the write.
    pub revision: u64,
    /// Commit time, UTC.
    pub at: Timestamp,
    /// Id of the write.
    pub op: OpId,
    /// Present when it may be out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// The record.
    pub record: Value,
    /// The gauges, when asked for and valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<Live>,
}

/// How much to trust what a source tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceAge {
    /// How much of it was seen.
    pub coverage: Coverage,
    /// End of the last full pass that saw everything, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// Seconds since then, when the answer was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<u64>,
    /// Why it is out of date, when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// Answer of `state.get`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateGot {
    /// Revision the answer is true for.
    pub revision: u64,
    /// When the answer was made, UTC.
    pub as_of: Timestamp,
    /// Each source and its age.
    pub sources: BTreeMap<String, SourceAge>,
    /// Records by key.
    pub records: BTreeMap<Key, StateRecord>,
    /// Keys that existed but whose version at that moment is no longer kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Key>,
    /// Pass it as `cursor` for the next page, with `at` set to this answer's revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Why the whole answer may be out of date (the bus is down, the store was changed).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
}

/// `state.diff`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateDiff {
    /// The earlier moment.
    pub from: At,
    /// The later moment; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<At>,
}

/// What happened to one record between two moments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", tag = "kind")]
pub enum RecordDiff {
    /// It came.
    Added {
        /// As it is.
        record: Value,
    },
    /// It went.
    Removed {
        /// As it was.
        record: Value,
    },
    /// It changed.
    Changed {
        /// Changed fields: JSON pointer to before and after.
        fields: BTreeMap<String, FieldDiff>,
    },
}

/// One changed field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldDiff {
    /// Before; null when it was absent.
    pub before: Value,
    /// After; null when it is absent.
    pub after: Value,
}

/// Answer of `state.diff`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateDiffed {
    /// Revision of the earlier state.
    pub from: u64,
    /// Revision of the later state.
    pub to: u64,
    /// Differences by key.
    pub changes: BTreeMap<Key, RecordDiff>,
    /// Keys whose version at one of the moments is no longer kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Key>,
    /// Present when the answer was cut to fit; narrow the moments.
    #[serde(default)]
    pub truncated: bool,
}

/// `state.history`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateHistory {
    /// Which key or keys, as in `state.get`.
    pub select: String,
    /// Only versions after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<At>,
    /// At most so many, the newest first; absent means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// One version of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Version {
    /// The key.
    pub key: Key,
    /// Its revision.
    pub revision: u64,
    /// Commit time, UTC.
    pub at: Timestamp,
    /// The value; absent when it was retired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<StateRecord>,
}

/// Answer of `state.history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StateHistoried {
    /// Versions, newest first.
    pub versions: Vec<Version>,
    /// Whether there are more.
    pub truncated: bool,
}

/// `state.report`: what an edge machine tells about itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StateReport {
    /// Operating system.
    #[serde(default)]
    pub os: Option<String>,
    /// Version of the reporting program.
    #[serde(default)]
    pub version: Option<String>,
    /// Further facts, at most 64.
    #[serde(default)]
    pub facts: BTreeMap<String, Value>,
    /// Gauges, at most 64.
    #[serde(default)]
    pub gauges: BTreeMap<String, Value>,
    /// Its GPU; absent where there is no publisher for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuReport>,
}

/// Answer of `state.report`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StateReported {
    /// Revision of the host's record.
    pub revision: u64,
    /// What is to be known about its GPU; present when it reported one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuTold>,
}

/// `scan.now`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanNow {}

/// Answer of `scan.now`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanDone {
    /// Revision of the bucket after the pass.
    pub revision: u64,
    /// Messages the pass wrote.
    pub writes: u32,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Requests it made.
    pub requests: u32,
    /// Each source it covered.
    pub sources: BTreeMap<String, Coverage>,
}

/// `scan.status`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScanStatus {}

/// Answer of `scan.status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanState {
    /// Whether a full pass runs now.
    pub running: bool,
    /// Full passes since start.
    pub passes: u64,
    /// The last full pass, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<ScanDone>,
    /// When it ended, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    /// Seconds between index passes.
    pub index_s: u64,
    /// Seconds between full passes.
    pub full_s: u64,
    /// Sources whose passes are not written, several times in a row, each with the reason. What the state says
    /// of them stands still. Absent when all are written.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, String>,
    /// How each Proxmox cluster is read, by source. What this process saw since it started; no facts of the lab.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub connections: BTreeMap<String, ScanConnection>,
}

/// How one Proxmox cluster is read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanConnection {
    /// Its addresses in the order of asking: those of the settings, and behind them those the cluster told.
    pub addresses: Vec<ScanAddress>,
    /// Fields of Proxmox's answers that are not known here or could not be read, as `row.field`, and how often.
    #[serde(default)]
    pub unknown_fields: BTreeMap<String, u64>,
}

/// One address of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ScanAddress {
    /// The address, as a URL.
    pub url: String,
    /// The node of which the cluster told this address; absent when it stands in the settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether calls begin with it now.
    pub first: bool,
    /// Why its certificate is believed, as of the newest connection.
    pub trust: ScanTrust,
    /// Why it did not answer when it was last asked, or why it is left alone. Absent when all is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Why the certificate at an address is believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ScanTrust {
    /// Nothing was connected to yet.
    NotYet,
    /// There is none: plain http to this machine itself.
    Plain,
    /// An authority this machine knows signed it.
    System {
        /// SHA-256 of the certificate, `AB:CD:…`.
        fingerprint: String,
    },
    /// It is the pinned one.
    Pinned {
        /// SHA-256 of the certificate.
        fingerprint: String,
    },
    /// The cluster told that this node shows it.
    Told {
        /// SHA-256 of the certificate.
        fingerprint: String,
    },
    /// The pinned authority signed it.
    Authority {
        /// SHA-256 of the certificate.
        fingerprint: String,
    },
    /// It is not the pinned one, but the pinned authority signed it: the node renewed it, and the setting should
    /// follow.
    Rotated {
        /// SHA-256 of the certificate now.
        fingerprint: String,
        /// What is pinned.
        pinned: Vec<String>,
    },
}

/// `audit.list`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditList {
    /// Only entries with a higher sequence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// At most so many; absent means 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only entries about this plan or its run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanId>,
    /// Only entries of this kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<AuditKind>,
}

/// One entry with its place in the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditRow {
    /// Sequence in the stream.
    pub sequence: u64,
    /// The entry.
    pub entry: AuditEntry,
}

/// Answer of `audit.list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditListed {
    /// Entries, oldest first.
    pub entries: Vec<AuditRow>,
    /// Whether there may be more.
    pub more: bool,
    /// Present when there may be more: what to give as `after` next. A search may come so far without a find.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// `audit.verify`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditVerify {}

/// Answer of `audit.verify`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuditVerified {
    /// Entries read.
    pub entries: u64,
    /// Whether every hash and every link holds and no sequence is missing.
    pub intact: bool,
    /// The first fault, when there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Hash of the last entry.
    pub head: String,
}

/// `auth.whoami`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthWhoami {}

/// One identity as others may see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IdentityInfo {
    /// Its name.
    pub name: IdentityName,
    /// Its role; absent for the mesh's own agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// Public key.
    pub public_key: String,
    /// Endpoints granted beyond the role, `SERVICE` or `SERVICE.ENDPOINT`.
    #[serde(default)]
    pub grants: Vec<String>,
    /// When it was added, UTC.
    pub added: Timestamp,
}

/// `auth.list`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthList {}

/// Answer of `auth.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AuthListed {
    /// All identities, by name.
    pub identities: Vec<IdentityInfo>,
}
