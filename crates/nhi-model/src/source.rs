//! What a scan covered, and what it could not see.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How much of one part of a source was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Coverage {
    /// Everything.
    Complete,
    /// Some of it.
    Partial {
        /// What is missing and why, one sentence.
        reason: String,
    },
    /// Nothing.
    Unseen {
        /// Why, one sentence.
        reason: String,
    },
}

impl Coverage {
    /// Whether absence from this part proves anything.
    pub const fn is_complete(&self) -> bool {
        matches!(self, Self::Complete)
    }
}

/// A source, under `source.<id>`. When it last succeeded is a gauge, see [`crate::live::SourceGauges`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Source {
    /// `proxmox`, `projects` or `graph`.
    pub kind: String,
    /// Where it is: a URL without credentials, or a path.
    pub place: String,
    /// The whole.
    pub coverage: Coverage,
    /// Each part (a node of a cluster), by name.
    #[serde(default)]
    pub parts: BTreeMap<String, Coverage>,
    /// Privileges the token lacks, each with what stays invisible.
    #[serde(default)]
    pub missing_rights: BTreeMap<String, String>,
    /// Digest of the token's rights as the last full pass read them: while they change, absence proves nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rights_digest: Option<String>,
    /// Addresses of the settings whose certificate is not the pinned one any more, each with the SHA-256 it has now:
    /// the pinned authority signed it, so it is believed, and the setting should follow. Absent when there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rotated: BTreeMap<String, String>,
}
