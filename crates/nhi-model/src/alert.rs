//! Active problems. A resolved one is a retired record.

use crate::key::Key;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Degraded.
    Warning,
    /// A person must act.
    Critical,
}

/// An active problem, under `alert.<agent>.<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Alert {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, one sentence.
    pub summary: String,
    /// What to do, one sentence.
    pub hint: String,
    /// Since when, UTC.
    pub since: Timestamp,
    /// The record it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<Key>,
}
