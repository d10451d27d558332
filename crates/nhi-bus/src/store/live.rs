//! Writing gauges: plain publishes, each acknowledged, a bounded number on the way. Gauges need no revision, because
//! each key has one writer and the next round writes them again.

use super::{
    AskError,
    api::{ApiError, ask, parse_answer},
};
use crate::connect::Bus;
use async_nats::HeaderMap;
use futures::{StreamExt, TryStreamExt, stream};
use nhi_model::{
    envelope::Live,
    key::Key,
    subject::{self, LIVE_BUCKET},
};
use serde::de::IgnoredAny;

/// Gauges on the way at once: enough to hide the round trip, few enough for the server's queue.
const IN_FLIGHT_MAX: usize = 64;
/// Largest gauges of one key, bytes: they live in the server's memory.
const LIVE_BYTES_MAX: usize = 64 * 1024;

/// Why gauges were not written.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// Nobody could read them as gauges.
    #[error("write the gauges of {key}: they take {bytes} bytes, {LIVE_BYTES_MAX} are allowed")]
    TooLarge {
        /// Whose.
        key: Key,
        /// Their size.
        bytes: usize,
    },
    /// The server did not take them.
    #[error("write the gauges of {key}")]
    Api {
        /// Whose.
        key: Key,
        /// What it answered.
        source: ApiError,
    },
}

impl LiveError {
    /// Whether the link or the server is at fault, so that the next round may succeed.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::TooLarge { .. } => false,
            Self::Api { source: ApiError::Ask(AskError::Refused { .. }), .. } => false,
            Self::Api { .. } => true,
        }
    }
}

/// Writes gauges. All are tried in order; the first failure ends it, and those before are written.
///
/// # Errors
/// [`LiveError`], naming the key.
pub async fn put_live(bus: &Bus, gauges: &[(Key, Live)]) -> Result<(), LiveError> {
    let mut bodies = Vec::with_capacity(gauges.len());
    for (key, live) in gauges {
        let body = serde_json::to_vec(live).expect("gauges of JSON values serialise");
        if body.len() > LIVE_BYTES_MAX {
            return Err(LiveError::TooLarge { key: key.clone(), bytes: body.len() });
        }
        bodies.push((key, body));
    }
    let put = |(key, body): (&Key, Vec<u8>)| {
        let key = key.clone();
        async move {
            let failed = |source| LiveError::Api { key: key.clone(), source };
            let subject = subject::kv(LIVE_BUCKET, &key);
            let answer = ask(bus, &subject, HeaderMap::new(), body.into())
                .await
                .map_err(|error| failed(error.into()))?;
            parse_answer::<IgnoredAny>(&subject, &answer.payload).map_err(failed)?;
            Ok(())
        }
    };
    let puts: Vec<_> = bodies.into_iter().map(put).collect();
    stream::iter(puts).buffered(IN_FLIGHT_MAX).try_for_each(|()| async { Ok(()) }).await
}
