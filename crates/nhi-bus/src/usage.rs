//! The counters all routers share: read, and changed by compare and set, so that what several take at the same time
//! is never more than what there is. It knows no quota: whoever changes a row says what it becomes.
//!
//! Changes of one row in one process wait for each other, so that a lone router needs one round trip and loses no
//! race against itself.

mod follow;

use crate::{
    connect::Bus,
    cx::Cx,
    store::{
        ApiError, AskError,
        api::{ERR_WRONG_LAST, ask, last_of, parse_answer},
        written::{EXPECTED_LAST, Written},
    },
};
use async_nats::HeaderMap;
use nhi_model::{
    ai::{USAGE_BUCKET, UsageKey},
    subject,
};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// Races one change may lose. With eight routers that each lose against all others, it is enough.
const TRIES_MAX: u32 = 32;
/// Longest pause between tries.
const PAUSE_MS_MAX: u64 = 8;

/// Rows by key; shared between readers.
pub type Rows = Arc<BTreeMap<UsageKey, Value>>;

/// Why a row was not changed.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// Too many change it at the same time. Nothing was changed.
    #[error("count in {key}: others were faster {TRIES_MAX} times")]
    Crowded {
        /// The row.
        key: UsageKey,
    },
    /// The bucket is not there, or does not answer. The change may have been made.
    #[error("count in {key}")]
    Api {
        /// The row.
        key: UsageKey,
        /// What happened.
        source: ApiError,
    },
}

/// What a change makes of a row, and what it tells its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<T> {
    /// The row stays as it is.
    Keep(T),
    /// The row becomes this.
    Put(Value, T),
}

/// The counters. Clones are the same.
#[derive(Clone)]
pub struct Usage {
    inner: Arc<Inner>,
}

struct Inner {
    bus: Bus,
    rows: watch::Receiver<Rows>,
    cells: Mutex<BTreeMap<UsageKey, Cell>>,
    cx: Cx,
}

/// What was last known of a row; nothing when it has to be read first. Held while it is changed.
type Cell = Arc<tokio::sync::Mutex<Option<Known>>>;

/// A row and its revision; 0 where there is none.
#[derive(Clone, Debug)]
struct Known {
    revision: u64,
    value: Option<Value>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl Usage {
    /// Follows the counters. A bucket that is missing is waited for behind the scenes: until then none is known.
    pub fn open(cx: &Cx, bus: &Bus) -> Self {
        let cx = cx.child();
        let rows = follow::start(&cx, bus);
        Self { inner: Arc::new(Inner { bus: bus.clone(), rows, cells: Mutex::default(), cx }) }
    }

    /// The rows as they were when the server last told: good for judging, not for taking.
    pub fn read(&self) -> Rows {
        self.inner.rows.borrow().clone()
    }

    /// Changes whenever a row does.
    pub fn changed(&self) -> watch::Receiver<Rows> {
        self.inner.rows.clone()
    }

    /// Changes a row: `step` is told what stands there, and is asked again when somebody else was faster. It keeps a row
    /// only by what the store just told: what was known from before may be old, or the store away.
    ///
    /// # Errors
    /// [`UsageError`]. Not cancel safe: what was sent may be written.
    pub async fn change<T>(
        &self,
        key: &UsageKey,
        mut step: impl FnMut(Option<&Value>) -> Step<T>,
    ) -> Result<T, UsageError> {
        let failed = |source| UsageError::Api { key: key.clone(), source };
        let cell = self.cell(key);
        let mut known = cell.lock().await;
        let mut pause_ms = 1;
        for _ in 0..TRIES_MAX {
            let (is_fresh, Known { revision, value }) = match known.take() {
                Some(known) => (false, known),
                None => (true, self.look(key).await.map_err(failed)?),
            };
            let (next, told) = match step(value.as_ref()) {
                Step::Keep(_) if !is_fresh => continue,
                Step::Keep(told) => {
                    *known = Some(Known { revision, value });
                    return Ok(told);
                }
                Step::Put(next, told) => (next, told),
            };
            match self.put(key, revision, &next).await {
                Ok(revision) => {
                    *known = Some(Known { revision, value: Some(next) });
                    return Ok(told);
                }
                Err(error) if error.code() == Some(ERR_WRONG_LAST) => {}
                Err(error) => return Err(failed(error)),
            }
            // Whoever lost was beaten by one change; the pause grows where many count.
            tokio::time::sleep(Duration::from_millis(rand::random_range(0..=pause_ms))).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
        }
        Err(UsageError::Crowded { key: key.clone() })
    }

    fn cell(&self, key: &UsageKey) -> Cell {
        let mut cells = self.inner.cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.entry(key.clone()).or_default().clone()
    }

    async fn look(&self, key: &UsageKey) -> Result<Known, ApiError> {
        let stream = subject::bucket_stream(USAGE_BUCKET);
        let last = last_of(&self.inner.bus, &stream, &subject::usage(key)).await?;
        Ok(last.map_or(Known { revision: 0, value: None }, |written| Known {
            revision: written.sequence,
            value: value_of(&written),
        }))
    }

    async fn put(&self, key: &UsageKey, expected: u64, value: &Value) -> Result<u64, ApiError> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, expected.to_string());
        let body = serde_json::to_vec(value).expect("a JSON value serialises");
        let subject = subject::usage(key);
        let answer = ask(&self.inner.bus, &subject, headers, body.into()).await?;
        parse_answer::<Ack>(&subject, &answer.payload).map(|ack| ack.seq)
    }
}

/// What stands there; nothing for a marker, or for what is no JSON: it is counted anew.
fn value_of(written: &Written) -> Option<Value> {
    if written.is_delete() { None } else { serde_json::from_slice(&written.payload).ok() }
}

impl UsageError {
    /// Whether the server refuses this identity the bucket, which no waiting changes.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Api { source: ApiError::Ask(AskError::Refused { .. }), .. })
    }
}

impl fmt::Debug for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Usage").field("rows", &self.read().len()).finish_non_exhaustive()
    }
}
