//! The lab's own time: the wall clock plus whatever somebody advanced it by. It never runs backwards and
//! never sleeps; a waiting client advances it through the control endpoint instead.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch, as the lab sees them.
#[derive(Debug)]
pub(crate) struct Clock {
    origin: Instant,
    origin_ms: i64,
    advanced_ms: AtomicI64,
}

impl Clock {
    /// A clock that starts at the wall clock's time.
    pub(crate) fn start() -> Self {
        let origin_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        Self { origin: Instant::now(), origin_ms, advanced_ms: AtomicI64::new(0) }
    }

    /// Now.
    pub(crate) fn now_ms(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.origin.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.origin_ms.saturating_add(elapsed_ms).saturating_add(self.advanced_ms.load(Ordering::SeqCst))
    }

    /// Moves the clock forward.
    pub(crate) fn advance(&self, by_ms: u64) {
        self.advanced_ms.fetch_add(i64::try_from(by_ms).unwrap_or(i64::MAX / 4), Ordering::SeqCst);
    }
}
