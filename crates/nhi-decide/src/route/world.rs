//! What a router knows of its backends and callers at one moment. It is filled from the bus and from what happened.

use super::health::Health;
use crate::{quota::Meter, semaphore::Unavailable};
use nhi_model::{
    ai::{Continues, Model},
    gpu::{Gpu, GpuGauges, Light},
};
use std::collections::{BTreeMap, BTreeSet};

/// What is known now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// By the backend's name. A backend that is not here was never heard of: without a key, without models.
    pub backends: BTreeMap<String, BackendWorld>,
    /// Who asks.
    pub caller: CallerWorld,
    /// US dollars everybody spent today.
    pub dollars_today: f64,
    /// US dollars the request's project spent today.
    pub project_dollars_today: f64,
}

/// A backend now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendWorld {
    /// Whether the key its settings name is there. Without meaning where they name none.
    pub has_key: bool,
    /// What happened with it lately.
    pub health: Health,
    /// What was taken of its quotas, by [`crate::quota::Quota::key`].
    pub meters: BTreeMap<String, Meter>,
    /// [`crate::semaphore::available`] of its GPU; absent: nothing was heard of it.
    pub light: Option<Result<Light, Unavailable>>,
    /// The models it told of.
    pub models: Vec<Model>,
    /// What it, or its server's sort, is known to do with a text broken off; its settings come first.
    pub continues: Option<Continues>,
    /// Requests it works on.
    pub running: u32,
    /// Requests that wait for it.
    pub waiting: u32,
    /// Models in its memory.
    pub loaded: Vec<Loaded>,
    /// Memory of the largest of its GPU's cards without what others have taken, bytes.
    pub memory_free_bytes: Option<u64>,
    /// [`super::Ask::prefix`] of the conversations it answered lately: it may still have their beginning at hand.
    pub prefixes: BTreeSet<u64>,
}

impl BackendWorld {
    /// What a machine tells of its GPU: what it works on, what is in its memory, and how much of that is free.
    pub fn sense(&mut self, gpu: Option<&Gpu>, gauges: &GpuGauges) {
        self.running = self.running.max(gauges.running);
        self.waiting = self.waiting.max(gauges.waiting);
        let loaded = gauges.loaded.iter();
        let tokens = |name: &String| gauges.loaded_tokens.get(name).copied();
        self.loaded =
            loaded.map(|name| Loaded { name: name.clone(), context_tokens: tokens(name) }).collect();
        let largest = gpu.and_then(|gpu| gpu.cards.iter().max_by_key(|card| card.vram_bytes));
        let Some(card) = largest else { return };
        let used = gauges.cards.iter().find(|gauge| gauge.id == card.id);
        self.memory_free_bytes = used.and_then(|gauge| {
            let others = gauge.vram_used_bytes?.saturating_sub(gauge.vram_ours_bytes.unwrap_or(0));
            Some(card.vram_bytes.saturating_sub(others))
        });
    }
}

/// A model in a backend's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Its name there.
    pub name: String,
    /// The context it was loaded with.
    pub context_tokens: Option<u32>,
}

/// Who asks, now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallerWorld {
    /// Requests of the last minute.
    pub requests: Meter,
    /// Tokens of today.
    pub tokens: Meter,
    /// Requests that are worked on or wait.
    pub running: u32,
    /// US dollars spent today.
    pub dollars_today: f64,
}
