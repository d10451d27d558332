//! Follows the bucket of counters, and reads it anew whenever the delivery breaks off. What it shows may be a moment
//! behind; nothing is taken by it.

use super::{Rows, value_of};
use crate::{
    connect::{Bus, Link},
    cx::Cx,
    store::{api::stream_info, written::Written},
    view::follow::{Ended, Session, Step},
};
use nhi_model::{
    ai::{USAGE_BUCKET, UsageKey},
    subject,
};
use serde_json::Value;
use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::watch;

/// First pause before the bucket is read again.
const PAUSE_MS_MIN: u64 = 100;
/// Longest pause: the bucket is missing for a moment when a mesh is made.
const PAUSE_MS_MAX: u64 = 5_000;

pub(super) fn start(cx: &Cx, bus: &Bus) -> watch::Receiver<Rows> {
    let (rows, readers) = watch::channel(Rows::default());
    let (stop, bus) = (cx.clone(), bus.clone());
    cx.spawn("usage", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = run(bus, rows) => {}
        }
    });
    readers
}

async fn run(bus: Bus, rows: watch::Sender<Rows>) {
    let mut pause_ms = PAUSE_MS_MIN;
    loop {
        let mut link = bus.link();
        match link.wait_for(|link| link.is_up() || *link == Link::Closed).await {
            Ok(link) if link.is_up() => {}
            Ok(_) | Err(_) => return,
        }
        let ended = match session(&bus, &rows, &mut pause_ms).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        tracing::debug!(err = %ended, "counters are read anew");
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

/// Ends only with why.
async fn session(bus: &Bus, rows: &watch::Sender<Rows>, pause_ms: &mut u64) -> Result<Infallible, Ended> {
    let mut session = Session::of_bucket(bus, USAGE_BUCKET).await?;
    let info = stream_info(bus, &subject::bucket_stream(USAGE_BUCKET)).await?;
    let target = if info.state.messages == 0 { 0 } else { info.state.last_seq };
    let mut known = BTreeMap::new();
    let mut is_filled = target == 0;
    loop {
        if is_filled {
            *pause_ms = PAUSE_MS_MIN;
            rows.send_replace(Arc::new(known.clone()));
        }
        let mut next = Some(session.next().await);
        while let Some(step) = next {
            match step? {
                Step::Message(written) => {
                    is_filled |= written.sequence >= target;
                    take(&mut known, &written);
                }
                Step::Idle => is_filled = is_filled || session.is_drained().await?,
            }
            next = session.next_now();
        }
    }
}

fn take(known: &mut BTreeMap<UsageKey, Value>, written: &Written) {
    let Some(key) = subject::usage_key_of(&written.subject) else {
        tracing::debug!("a counter under a key that is none was left out");
        return;
    };
    match value_of(written) {
        Some(value) => known.insert(key, value),
        None => known.remove(&key),
    };
}
