//! Places for requests at the model server: so many are worked on, so many wait, in the order they came. It knows no
//! request.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests that may wait: whoever would be behind them is better served elsewhere.
const WAITING_MAX: u32 = 64;

/// How much there is to do.
#[derive(Debug, Default)]
pub(super) struct Counts {
    running: AtomicU32,
    waiting: AtomicU32,
}

impl Counts {
    pub(super) fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// All places.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    counts: Arc<Counts>,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    counts: Arc<Counts>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.counts.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts who waits, also when they give up.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slots {
    pub(super) fn new(parallel: usize, counts: Arc<Counts>) -> Self {
        Self { free: Arc::new(Semaphore::new(parallel.max(1))), counts }
    }

    /// A place, when one is free; `None` when too many wait already. Cancel safe.
    pub(super) async fn take(&self) -> Option<Slot> {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let waiting = Waiting(&self.counts.waiting);
        let permit = self.free.clone().acquire_owned().await.ok()?;
        self.counts.running.fetch_add(1, Ordering::Relaxed);
        drop(waiting);
        Some(Slot { counts: self.counts.clone(), _permit: permit })
    }
}
