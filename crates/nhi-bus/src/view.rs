//! The state of the lab as it is now, kept up to date in memory, and only ever shown whole: a reader sees a batch of
//! changes with all of them or none, at a revision.
//!
//! When the bus is down, or the store behind it was changed, the last state stays, marked stale with the reason,
//! until everything has been read anew. A value that cannot be read (foreign, or written by a newer program) is kept
//! apart with its reason. A view decides nothing and writes nothing; a decision rests on revisions and is checked by
//! [`crate::store::commit`].

mod fold;
mod follow;
mod keeper;
mod live;
mod mark;

pub use self::{
    live::LiveView,
    mark::{StoreChange, StoreChangeKind, StoreMark},
};

use self::keeper::Keeper;
use crate::{connect::Bus, cx::Cx, store::ApiError};
use nhi_model::{
    envelope::{Stale, Stored},
    key::Key,
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

pub(crate) use self::fold::reason;

/// How often the stream is compared with what was seen of it. A store that was rolled back leaves watchers deaf, and
/// is to be noticed within 10 s.
const CHECK_SECONDS: u64 = 5;
/// How long the first reading may take: 10,000 records arrive within a second.
const OPEN_SECONDS_MAX: u64 = 30;

/// One record as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Revision of its last write: what a change of it must expect.
    pub revision: u64,
    /// Its value; shared between snapshots.
    pub stored: Arc<Stored>,
}

/// The whole state at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Revision of the last commit in it.
    pub revision: u64,
    /// Every record.
    pub records: BTreeMap<Key, Entry>,
    /// What stands in the bucket and cannot be used, with the reason.
    pub quarantined: BTreeMap<String, String>,
    /// Why all of it may be out of date, when it may.
    pub stale: Option<Stale>,
}

/// How a view behaves.
#[derive(Clone, Copy, Debug)]
pub struct ViewSettings {
    /// How often the stream is compared with what was seen of it.
    pub check_every: Duration,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// The server does not deliver the state, and will not.
    #[error("read the state")]
    Api(#[from] ApiError),
    /// Nothing whole arrived in time.
    #[error("read the state within {OPEN_SECONDS_MAX} s: {reason}")]
    TimedOut {
        /// What went wrong last.
        reason: String,
    },
}

/// The state, followed. Clones are the same view; it stops when the last one is dropped.
#[derive(Clone)]
pub struct View {
    inner: Arc<Inner>,
}

struct Inner {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    revisions: watch::Receiver<u64>,
    events: watch::Receiver<Option<StoreChange>>,
    cx: Cx,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl View {
    /// Reads the whole state, and follows it from then on.
    ///
    /// # Errors
    /// [`ViewError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open(cx: &Cx, bus: &Bus) -> Result<Self, ViewError> {
        let settings = ViewSettings { check_every: Duration::from_secs(CHECK_SECONDS) };
        Self::open_with(cx, bus, settings).await
    }

    /// The same with settings of one's own.
    ///
    /// # Errors
    /// [`ViewError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open_with(cx: &Cx, bus: &Bus, settings: ViewSettings) -> Result<Self, ViewError> {
        let cx = cx.child();
        let (opened, is_open) = oneshot::channel();
        let (keeper, outputs) = Keeper::new(bus.clone(), settings, opened);
        let view = Self {
            inner: Arc::new(Inner {
                snapshots: outputs.snapshots,
                revisions: outputs.revisions,
                events: outputs.events,
                cx: cx.clone(),
            }),
        };
        let stop = cx.clone();
        cx.spawn("view", async move { keeper.run(&stop).await });
        match tokio::time::timeout(Duration::from_secs(OPEN_SECONDS_MAX), is_open).await {
            Ok(Ok(Ok(()))) => Ok(view),
            Ok(Ok(Err(error))) => Err(ViewError::Api(error)),
            Ok(Err(_)) => Err(ViewError::TimedOut { reason: "the view was stopped".to_owned() }),
            Err(_) => {
                let snapshot = view.read();
                let reason = snapshot.stale.as_ref().map(|stale| stale.reason.clone());
                Err(ViewError::TimedOut { reason: reason.unwrap_or_default() })
            }
        }
    }

    /// The state now.
    pub fn read(&self) -> Arc<Snapshot> {
        self.inner.snapshots.borrow().clone()
    }

    /// The revision, now and whenever there is a new snapshot (a mark of staleness is one too).
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.inner.revisions.clone()
    }

    /// The last time the store behind the bucket was rolled back or made anew under our eyes.
    pub fn events(&self) -> watch::Receiver<Option<StoreChange>> {
        self.inner.events.clone()
    }

    /// The first snapshot that has a revision, for example the one just committed. Waits for ever when it never
    /// comes: set a limit around it. Cancel safe.
    pub async fn reached(&self, revision: u64) -> Arc<Snapshot> {
        let mut snapshots = self.inner.snapshots.clone();
        let reached =
            snapshots.wait_for(|snapshot| snapshot.revision >= revision && snapshot.stale.is_none()).await;
        match reached {
            Ok(snapshot) => snapshot.clone(),
            // The view was stopped; nothing newer will come.
            Err(_) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.read();
        f.debug_struct("View")
            .field("revision", &snapshot.revision)
            .field("records", &snapshot.records.len())
            .field("stale", &snapshot.stale)
            .finish_non_exhaustive()
    }
}
