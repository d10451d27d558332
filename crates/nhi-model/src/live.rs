//! Gauges: what changes all the time. They live in `nhi-live` under the key of the record they belong to,
//! and keep Proxmox's own field names, because the mirror joins them into Proxmox's own rows.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Gauges of a node or a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Gauges {
    /// Load, 0..1 of all processors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Memory used, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mem: Option<u64>,
    /// Memory the host spends on the guest, bytes (Proxmox VE 9).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memhost: Option<u64>,
    /// Disk used, bytes; always 0 for virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<u64>,
    /// Bytes received since start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netin: Option<u64>,
    /// Bytes sent since start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netout: Option<u64>,
    /// Bytes read since start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskread: Option<u64>,
    /// Bytes written since start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diskwrite: Option<u64>,
    /// Seconds since start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// Process id on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u64>,
    /// Pressure stall figures as Proxmox tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pressure: Option<Value>,
}

/// Gauges of a storage, bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StorageGauges {
    /// Size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// Used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Available.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avail: Option<u64>,
}

/// Gauges of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SourceGauges {
    /// Start of the last full pass, UTC.
    pub last_attempt: Timestamp,
    /// End of the last full pass that saw everything, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<Timestamp>,
    /// How long the last full pass took, milliseconds.
    pub duration_ms: u64,
    /// Requests the last full pass made.
    pub requests: u32,
}
