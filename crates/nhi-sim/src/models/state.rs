//! What a running model server knows: its faults, what is loaded, what was asked for and what became of it.

use super::{
    fault::{About, Effects, Faults},
    settings::{ModelSettings, Options},
};
use crate::clock::Clock;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many requests are remembered whole, and how many cancellations: what a test or a person looks at.
const SEEN_MAX: usize = 256;
/// How long a model stays loaded that nobody says a time for, as in Ollama.
const KEEP_ALIVE_S: i64 = 300;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It is still being answered.
    Not,
    /// All of the answer was handed over.
    Whole,
    /// It was refused, by itself or by a fault.
    Refused,
    /// A fault broke it off.
    Broken,
    /// The client went away.
    Cancelled,
}

/// A request that came.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its number, from 1.
    pub number: u64,
    /// Its path.
    pub path: String,
    /// The model it asked for.
    pub model: Option<String>,
    /// Its headers without keys.
    pub headers: BTreeMap<String, String>,
    /// Its body, when it was JSON.
    pub body: Value,
    /// When it came, milliseconds since the epoch.
    pub at_ms: i64,
    /// When it ended.
    pub ended_ms: Option<i64>,
    /// How.
    pub ended: Ended,
    /// The status it was answered with.
    pub status: u16,
    /// Tokens handed over.
    pub tokens: u32,
}

/// A client that went away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cancelled {
    /// The request.
    pub number: u64,
    /// When the server saw it, milliseconds since the epoch.
    pub at_ms: i64,
    /// Tokens handed over until then.
    pub tokens: u32,
}

/// Counters.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Requests that came, of any kind.
    pub requests: u64,
    /// By path.
    pub by_path: BTreeMap<String, u64>,
    /// Requests for text and vectors by model.
    pub by_model: BTreeMap<String, u64>,
    /// Requests for text and vectors that are being answered.
    pub in_flight: u64,
    /// The most of these at a time.
    pub in_flight_max: u64,
    /// Tokens handed over.
    pub tokens_sent: u64,
    /// Answers handed over whole.
    pub whole: u64,
    /// Refusals.
    pub refused: u64,
    /// Answers that a fault broke off.
    pub broken: u64,
    /// Clients that went away.
    pub cancelled: Vec<Cancelled>,
    /// Prompts that were cut without a word.
    pub truncated: u64,
    /// Models loaded, again and again included.
    pub loads: u64,
}

/// A model that is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Its name.
    pub name: String,
    /// Bytes it takes.
    pub size_bytes: u64,
    /// Bytes of these on the GPU.
    pub vram_bytes: u64,
    /// Its context.
    pub context_tokens: u32,
    /// When it goes, milliseconds since the epoch; absent: never.
    pub expires_ms: Option<i64>,
}

#[derive(Debug, Default)]
struct Inner {
    faults: Faults,
    counts: Counts,
    seen: VecDeque<Seen>,
    loaded: BTreeMap<String, Loaded>,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) clock: Clock,
    pub(crate) slots: Option<Arc<Semaphore>>,
    pub(crate) waiting: AtomicUsize,
    inner: Mutex<Inner>,
    last: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            slots: options.parallel.map(|parallel| Arc::new(Semaphore::new(parallel))),
            options,
            clock: Clock::start(),
            waiting: AtomicUsize::new(0),
            inner: Mutex::default(),
            last: AtomicU64::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn with_faults<T>(&self, act: impl FnOnce(&mut Faults) -> T) -> T {
        act(&mut self.inner().faults)
    }

    pub(crate) fn effects(&self, about: &About<'_>) -> Effects {
        self.inner().faults.effects(about)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts.clone()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner().seen.iter().cloned().collect()
    }

    pub(crate) fn forget(&self) {
        let mut inner = self.inner();
        inner.seen.clear();
        inner.counts = Counts { in_flight: inner.counts.in_flight, ..Counts::default() };
    }

    pub(crate) fn model(&self, name: &str) -> Option<ModelSettings> {
        let bare = name.strip_prefix("models/").unwrap_or(name);
        let bare = bare.strip_suffix(":latest").unwrap_or(bare);
        self.options.models.iter().find(|model| model.name == bare).cloned()
    }

    /// What is loaded now.
    pub(crate) fn loaded(&self) -> Vec<Loaded> {
        let now_ms = self.clock.now_ms();
        let mut inner = self.inner();
        inner.loaded.retain(|_, loaded| loaded.expires_ms.is_none_or(|expires_ms| expires_ms > now_ms));
        inner.loaded.values().cloned().collect()
    }

    /// Loads a model, if it is not; true when that takes its time.
    pub(crate) fn load(&self, model: &ModelSettings, context: u32, keep_alive_s: Option<i64>) -> bool {
        let was_there =
            self.loaded().iter().any(|loaded| loaded.name == model.name && loaded.context_tokens == context);
        let keep_s = keep_alive_s.unwrap_or(KEEP_ALIVE_S);
        let expires_ms =
            (keep_s >= 0).then(|| self.clock.now_ms().saturating_add(keep_s.saturating_mul(1000)));
        let mut inner = self.inner();
        inner.counts.loads += u64::from(!was_there);
        let (size_bytes, vram_bytes) = (model.size_bytes, model.vram_bytes.min(model.size_bytes));
        let loaded =
            Loaded { name: model.name.clone(), size_bytes, vram_bytes, context_tokens: context, expires_ms };
        inner.loaded.insert(model.name.clone(), loaded);
        !was_there
    }

    pub(crate) fn unload(&self, name: &str) -> bool {
        self.inner().loaded.remove(name).is_some()
    }

    pub(crate) fn note_truncated(&self) {
        self.inner().counts.truncated += 1;
    }

    /// A request has come.
    pub(crate) fn begin(self: &Arc<Self>, came: Came) -> Ticket {
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        let mut inner = self.inner();
        inner.counts.requests += 1;
        *inner.counts.by_path.entry(came.path.clone()).or_default() += 1;
        if came.generates {
            inner.counts.in_flight += 1;
            inner.counts.in_flight_max = inner.counts.in_flight_max.max(inner.counts.in_flight);
            if let Some(model) = &came.model {
                *inner.counts.by_model.entry(model.clone()).or_default() += 1;
            }
        }
        if inner.seen.len() >= SEEN_MAX {
            inner.seen.pop_front();
        }
        inner.seen.push_back(Seen {
            number,
            path: came.path,
            model: came.model,
            headers: came.headers,
            body: came.body,
            at_ms: self.clock.now_ms(),
            ended_ms: None,
            ended: Ended::Not,
            status: 0,
            tokens: 0,
        });
        let generates = came.generates;
        Ticket {
            shared: Arc::clone(self),
            number,
            generates,
            tokens: 0,
            status: 0,
            ended: Ended::Cancelled,
            slot: None,
            unloads: None,
        }
    }
}

/// What is known of a request when it comes.
#[derive(Debug)]
pub(crate) struct Came {
    pub(crate) path: String,
    pub(crate) model: Option<String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
    pub(crate) generates: bool,
}

/// A request that is being answered. Dropped before its end it was cancelled: that is how a server sees that
/// its client has gone.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    pub(crate) number: u64,
    generates: bool,
    tokens: u32,
    status: u16,
    ended: Ended,
    /// Its place among the requests that are worked on at a time.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
    /// The model that goes with it.
    pub(crate) unloads: Option<String>,
}

impl Ticket {
    pub(crate) fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// So many tokens are handed over.
    pub(crate) fn sent(&mut self, tokens: u32) {
        if tokens > 0 {
            self.tokens = self.tokens.saturating_add(tokens);
            let mut inner = self.shared.inner();
            inner.counts.tokens_sent += u64::from(tokens);
            let (number, all) = (self.number, self.tokens);
            if let Some(seen) = inner.seen.iter_mut().rev().find(|seen| seen.number == number) {
                seen.tokens = all;
            }
        }
    }

    /// It ends like this, as soon as it is dropped.
    pub(crate) fn ends(&mut self, ended: Ended) {
        self.ended = ended;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let at_ms = self.shared.clock.now_ms();
        let (number, tokens, status, ended) = (self.number, self.tokens, self.status, self.ended);
        let mut inner = self.shared.inner();
        if self.generates {
            inner.counts.in_flight -= 1;
        }
        if let Some(model) = self.unloads.take() {
            inner.loaded.remove(&model);
        }
        match ended {
            Ended::Cancelled | Ended::Not => {
                if inner.counts.cancelled.len() >= SEEN_MAX {
                    inner.counts.cancelled.remove(0);
                }
                inner.counts.cancelled.push(Cancelled { number, at_ms, tokens });
            }
            Ended::Whole => inner.counts.whole += u64::from(self.generates),
            Ended::Refused => inner.counts.refused += 1,
            Ended::Broken => inner.counts.broken += 1,
        }
        if let Some(seen) = inner.seen.iter_mut().rev().find(|seen| seen.number == number) {
            (seen.ended, seen.ended_ms, seen.status) = (ended, Some(at_ms), status);
        }
    }
}
