//! A machine's GPU: what it is, whether it may be used now, and who said otherwise. It decides nothing: the semaphore
//! does, in `nhi-decide`.

use crate::identity::IdentityName;
use jiff::{SignedDuration, Timestamp};
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

/// Between two words that were said at the same moment by one clock.
const SAID_STEP: SignedDuration = SignedDuration::from_millis(1);

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
    /// When somebody last locked or unlocked it, UTC: of two words the later one counts, wherever it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_at: Option<Timestamp>,
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

/// The last word about a machine's lock: that it is locked, or that it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuSaid {
    /// When it was said, UTC. Whoever says something later than the last word dates it later, whatever their clock shows.
    pub at: Timestamp,
    /// The lock; absent: it was unlocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Lock>,
}

impl GpuSaid {
    /// The lock, while it lasts.
    pub fn lock_at(&self, now: Timestamp) -> Option<&Lock> {
        self.lock.as_ref().filter(|lock| lock.until > now)
    }

    /// A new word, dated behind the last one.
    pub fn after(last: Option<&Self>, now: Timestamp, lock: Option<Lock>) -> Self {
        let behind = last.map_or(now, |last| last.at.saturating_add(SAID_STEP).unwrap_or(last.at));
        Self { at: now.max(behind), lock }
    }

    /// The later one of two words. Of two said at the same moment the stricter one counts.
    pub fn later(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let order = |said: &Self| (said.at, said.lock.as_ref().map(|lock| lock.until));
        [one, other].into_iter().flatten().max_by_key(order)
    }
}

impl Gpu {
    /// The last word about its lock.
    pub fn said(&self) -> Option<GpuSaid> {
        self.said_at.map(|at| GpuSaid { at, lock: self.lock.clone() })
    }

    /// The same machine with another last word.
    #[must_use]
    pub fn saying(self, said: Option<GpuSaid>) -> Self {
        let (said_at, lock) = said.map_or((None, None), |said| (Some(said.at), said.lock));
        Self { lock, said_at, ..self }
    }
}

/// What a machine reports about its GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GpuReport {
    /// What changes seldom; `lock` and `said_at` are the last word the machine knows.
    pub gpu: Gpu,
    /// What it shows now.
    pub gauges: GpuGauges,
}

/// What a machine is told about its GPU when it reports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GpuTold {
    /// The last word the mesh knows, the reported one included; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<GpuSaid>,
    /// Public keys of those who may send requests to its relay.
    #[serde(default)]
    pub routers: Vec<String>,
}

/// The gauges of `gpu.<host>` in `nhi-live`. Missing or old means: not available.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The context each of them was loaded with, tokens, by its name; those whose server does not tell are not here.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub loaded_tokens: BTreeMap<String, u32>,
    /// What became of our own memory when the light last turned red; absent: that was not seen yet, or nobody can tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freed: Option<Freed>,
}

/// What became of our own inference's memory when the light turned red.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Freed {
    /// Whether it is free.
    pub free: bool,
    /// How long after our work was to end that was seen, milliseconds.
    pub after_ms: u64,
    /// Who says so.
    pub by: FreedBy,
    /// What is still taken, bytes, where the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_bytes: Option<u64>,
}

/// Who says whether memory is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FreedBy {
    /// The driver, which tells what each process takes.
    Driver,
    /// The driver, which tells the processes alone: none of ours is on the card.
    Processes,
    /// The model server, which says that it has no model in memory. Nobody else can be asked.
    Server,
}

impl FreedBy {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Driver => "driver",
            Self::Processes => "processes",
            Self::Server => "server",
        }
    }
}

/// What a card does now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// For how long, minutes; absent means an hour, at most a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = LOCK_MINUTES_MAX))]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_word_counts_whatever_the_clocks_show() {
        let now: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        let minutes = |n| now + SignedDuration::from_mins(n);
        let lock = |n| Some(Lock { by: None, until: minutes(n) });
        let ahead = GpuSaid { at: minutes(5), lock: lock(60) };
        let unlock = GpuSaid::after(Some(&ahead), now, None);
        assert!(unlock.at > ahead.at, "a clock that runs ahead does not win for ever");
        assert_eq!(GpuSaid::later(Some(ahead.clone()), Some(unlock.clone())), Some(unlock.clone()));
        assert_eq!(GpuSaid::later(Some(unlock.clone()), Some(ahead.clone())), Some(unlock));
        assert_eq!(GpuSaid::later(None, Some(ahead.clone())), Some(ahead.clone()));
        let (locked, free) = (GpuSaid { at: now, lock: lock(1) }, GpuSaid { at: now, lock: None });
        assert_eq!(GpuSaid::later(Some(locked.clone()), Some(free)), Some(locked));
        assert!(ahead.lock_at(minutes(59)).is_some() && ahead.lock_at(minutes(60)).is_none());
        let gpu = Gpu { host: "pc".to_owned(), ..Gpu::default() }.saying(Some(ahead.clone()));
        assert_eq!(gpu.said(), Some(ahead));
    }
}
