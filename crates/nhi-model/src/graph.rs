//! The dependency graph as loaded from `infrastructure/dependency_graph.json`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One service of the graph, as the file writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Service {
    /// What it needs.
    #[serde(default)]
    pub depends_on: Vec<String>,
    /// What needs it.
    #[serde(default)]
    pub required_by: Vec<String>,
    /// `critical`, `high`, `medium` or `low`.
    #[serde(default)]
    pub criticality: Criticality,
    /// Missing means no.
    #[serde(default)]
    pub can_restart_without_approval: bool,
    /// Hours of the day, in the lab's time zone, in which a restart is harmless; empty means none is named.
    #[serde(default)]
    pub restart_safe_hours: Vec<u8>,
}

/// How much the home minds when a service is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Criticality {
    /// Nobody notices.
    Low,
    /// The default.
    #[default]
    Medium,
    /// Somebody notices at once.
    High,
    /// The home stands still.
    Critical,
}

/// The graph, under `graph`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Graph {
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// What is odd about the file but does not spoil it, sorted.
    #[serde(default)]
    pub warnings: Vec<String>,
}
