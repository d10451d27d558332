//! Counts of one endpoint, as `$SRV.STATS` tells them. It does not keep requests.

use serde::Serialize;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A request that was not answered with success.
#[derive(Debug)]
pub(super) struct Mishap {
    pub(super) status: u16,
    /// The stable word, never the message: that may quote the request.
    pub(super) code: String,
}

#[derive(Default)]
pub(super) struct Stats(Mutex<Counts>);

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Counts {
    pub(super) num_requests: u64,
    pub(super) num_errors: u64,
    pub(super) last_error: String,
    /// Nanoseconds.
    pub(super) processing_time: u64,
    /// Nanoseconds.
    pub(super) average_processing_time: u64,
    /// Messages that were dropped: not calls of this endpoint, or not answerable.
    #[serde(skip)]
    pub(super) dropped: u64,
}

impl Stats {
    pub(super) fn record(&self, elapsed: Duration, mishap: Option<Mishap>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.num_requests += 1;
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        counts.processing_time = counts.processing_time.saturating_add(nanos);
        counts.average_processing_time = counts.processing_time / counts.num_requests;
        if let Some(mishap) = mishap {
            counts.num_errors += 1;
            counts.last_error = format!("{}:{}", mishap.status, mishap.code);
        }
    }

    pub(super) fn drop_one(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).dropped += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
