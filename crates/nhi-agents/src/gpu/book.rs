//! What the parts of the publisher share: what is seen, what was said, who may come in, how much runs. It does
//! nothing by itself.

use super::slots::Counts;
use nhi_decide::semaphore::Memory;
use nhi_model::{
    Timestamp,
    gpu::{Card, CardGauges, Freed, GpuGauges, GpuSaid, Relay},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;

/// What is seen of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whether it was looked at at all.
    pub seen: bool,
    /// The light and why.
    pub memory: Memory,
    /// Its cards; the last ones that could be read.
    pub cards: Vec<Card>,
    /// Version of the driver.
    pub driver: Option<String>,
    /// What the cards do.
    pub gauges: Vec<CardGauges>,
    /// How long nobody touched keyboard or mouse, seconds.
    pub idle_s: Option<u64>,
}

/// A model in the server's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) name: String,
    /// What it takes of the cards, bytes, where the server tells.
    pub(super) vram_bytes: Option<u64>,
    /// The context it was loaded with, where the server tells.
    pub(super) context_tokens: Option<u32>,
}

/// What the parts share. Clones are the same book.
#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) shown: watch::Sender<Arc<Shown>>,
    /// The last word about a lock.
    pub(super) said: watch::Sender<Option<GpuSaid>>,
    /// Models in memory; absent: the server does not tell.
    pub(super) loaded: watch::Sender<Option<Vec<Loaded>>>,
    /// What became of our memory when the light last turned red.
    pub(super) freed: watch::Sender<Option<Freed>>,
    /// Whether requests that run are to be cut.
    pub(super) cut: watch::Sender<bool>,
    pub(super) relay: watch::Sender<Option<Relay>>,
    pub(super) counts: Arc<Counts>,
    routers: Arc<Mutex<BTreeSet<String>>>,
    /// Those of the configuration, which stay.
    configured: Arc<BTreeSet<String>>,
}

impl Book {
    pub(super) fn new(now: Timestamp, said: Option<GpuSaid>, routers: BTreeSet<String>) -> Self {
        let shown = Shown {
            seen: false,
            memory: Memory::new(now),
            cards: Vec::new(),
            driver: None,
            gauges: Vec::new(),
            idle_s: None,
        };
        Self {
            shown: watch::channel(Arc::new(shown)).0,
            said: watch::channel(said).0,
            loaded: watch::channel(None).0,
            freed: watch::channel(None).0,
            cut: watch::channel(false).0,
            relay: watch::channel(None).0,
            counts: Arc::new(Counts::default()),
            routers: Arc::new(Mutex::new(routers.clone())),
            configured: Arc::new(routers),
        }
    }

    /// Whether a key is a router's.
    pub(super) fn is_router(&self, key: &str) -> bool {
        self.routers.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// The routers the mesh tells of. Silence takes nobody away: a joined mesh may not know them.
    pub(super) fn admit(&self, told: Vec<String>) {
        if !told.is_empty() {
            let all = told.into_iter().chain(self.configured.iter().cloned()).collect();
            *self.routers.lock().unwrap_or_else(PoisonError::into_inner) = all;
        }
    }

    /// Takes a word when it is later than the last one; whether it was.
    pub(super) fn hear(&self, word: GpuSaid) -> bool {
        self.said.send_if_modified(|said| {
            let later = GpuSaid::later(said.clone(), Some(word));
            let is_news = later != *said;
            *said = later;
            is_news
        })
    }

    /// What is told to the mesh and to people here.
    pub(super) fn gauges(&self) -> GpuGauges {
        let shown = self.shown.borrow().clone();
        let loaded = self.loaded.borrow().clone().unwrap_or_default();
        let context = |model: &Loaded| Some((model.name.clone(), model.context_tokens?));
        GpuGauges {
            light: shown.memory.light,
            reason: shown.memory.reason,
            text: shown.memory.text.clone(),
            since: shown.memory.since,
            cards: shown.gauges.clone(),
            idle_s: shown.idle_s,
            running: self.counts.running(),
            waiting: self.counts.waiting(),
            loaded_tokens: loaded.iter().filter_map(context).collect(),
            loaded: loaded.into_iter().map(|model| model.name).collect(),
            freed: self.freed.borrow().clone(),
        }
    }
}
