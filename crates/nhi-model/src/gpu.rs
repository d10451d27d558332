//! A machine's GPU: what it is, whether it may be used now, and who said otherwise. It decides nothing: the semaphore
//! does, in `nhi-decide`.

use crate::identity::IdentityName;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// How long a reading of the GPU counts: the publisher is silent for longer only when it sleeps or is dead. The figure
/// is Neural-Home v3's.
pub const READING_SECONDS_MAX: u32 = 30;
/// How long a lock lasts when nobody says.
pub const LOCK_MINUTES_DEFAULT: u32 = 60;
/// The longest lock: a day.
pub const LOCK_MINUTES_MAX: u32 = 24 * 60;

/// Whether the GPU may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Light {
    /// Nobody needs it: any model.
    Green,
    /// Somebody may be there: small models only.
    Yellow,
    /// Somebody plays or works: nothing.
    Red,
}

impl Light {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Green => "green",
            Self::Yellow => "yellow",
            Self::Red => "red",
        }
    }
}

impl fmt::Display for Light {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What turned the light, a stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// A person locked it.
    Locked,
    /// A game runs.
    Game,
    /// Somebody looks at the machine from elsewhere.
    RemoteDesktop,
    /// Work that is not ours takes the processor.
    Busy,
    /// It is hot.
    Hot,
    /// Memory that is not ours is taken.
    MemoryTaken,
    /// Somebody was at the keyboard or mouse a short while ago.
    InUse,
    /// It was taken a short while ago.
    Settling,
    /// Nobody is there and nothing runs.
    Idle,
    /// Nothing could be read.
    Unreadable,
}

impl Reason {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Locked => "locked",
            Self::Game => "game",
            Self::RemoteDesktop => "remote-desktop",
            Self::Busy => "busy",
            Self::Hot => "hot",
            Self::MemoryTaken => "memory-taken",
            Self::InUse => "in-use",
            Self::Settling => "settling",
            Self::Idle => "idle",
            Self::Unreadable => "unreadable",
        }
    }
}

/// The record `gpu.<host>`: what changes when somebody builds in another card or says who may use it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gpu {
    /// The machine.
    pub host: String,
    /// Its cards; empty where there is none or none can be read.
    #[serde(default)]
    pub cards: Vec<Card>,
    /// Version of the driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// Where its models are reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// Present while a person keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

/// One card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Card {
    /// Its UUID, or its place on the bus.
    pub id: String,
    /// Name of the product.
    pub name: String,
    /// Memory, bytes.
    pub vram_bytes: u64,
}

/// The one door to a machine's models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Relay {
    /// `http://127.0.0.1:11500` or `https://192.168.1.20:11500`
    pub url: String,
    /// SHA-256 of its certificate, 64 lower-case hex digits; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

/// A person keeps the GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lock {
    /// Who; absent when it was said at the machine itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<IdentityName>,
    /// When it ends by itself, UTC.
    pub until: Timestamp,
}

/// The gauges of `gpu.<host>` in `nhi-live`. Missing or old means: not available.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuGauges {
    /// Whether it may be used.
    pub light: Light,
    /// What turned the light.
    pub reason: Reason,
    /// The same in one sentence for people: which game, which figure.
    pub text: String,
    /// Since when the light is so, UTC.
    pub since: Timestamp,
    /// Each card.
    #[serde(default)]
    pub cards: Vec<CardGauges>,
    /// How long nobody touched keyboard or mouse, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u64>,
    /// Requests of ours it works on.
    #[serde(default)]
    pub running: u32,
    /// Requests of ours that wait there.
    #[serde(default)]
    pub waiting: u32,
    /// Models in its memory.
    #[serde(default)]
    pub loaded: Vec<String>,
}

/// What a card does now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CardGauges {
    /// Its UUID, or its place on the bus.
    pub id: String,
    /// Load, percent; ours included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utilization_percent: Option<u32>,
    /// Memory taken, bytes; ours included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_used_bytes: Option<u64>,
    /// Memory our own inference has taken, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_ours_bytes: Option<u64>,
    /// Temperature, °C.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature_c: Option<u32>,
    /// Power, watts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_w: Option<u32>,
}

/// `gpu.get`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuGet {
    /// One machine; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Answer of `gpu.get`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuGot {
    /// Machines by name.
    pub gpus: BTreeMap<String, GpuSeen>,
}

/// A machine's GPU as the mesh knows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSeen {
    /// The record.
    pub gpu: Gpu,
    /// Whether anything may be sent there now.
    pub available: bool,
    /// Why it is so, one sentence.
    pub text: String,
    /// What was read last, while it counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gauges: Option<GpuGauges>,
    /// When that was, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_at: Option<Timestamp>,
}

/// `gpu.lock`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuLock {
    /// The machine.
    pub host: String,
    /// For how long; absent: [`LOCK_MINUTES_DEFAULT`], at most [`LOCK_MINUTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<u32>,
}

/// `gpu.unlock`: the light is judged anew, it does not turn green by that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuUnlock {
    /// The machine.
    pub host: String,
}

/// Answer of `gpu.lock` and `gpu.unlock`: the record as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuLocked {
    /// The record.
    pub gpu: Gpu,
}
