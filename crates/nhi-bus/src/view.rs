//! The state of the lab as it is now, kept up to date in memory, and only ever shown whole: a reader sees a batch of
//! changes with all of them or none, at a revision.
//!
//! When the bus is down, or the store behind it was changed, the last state stays, marked stale with the reason,
//! until everything has been read anew. A value that cannot be read (foreign, or written by a newer program) is kept
//! apart with its reason. A view decides nothing and writes nothing; a decision rests on revisions and is checked by
//! [`crate::store::commit`].

mod fold;
pub(crate) mod follow;
mod keeper;
mod live;
mod mark;
mod records;
pub(crate) mod watched;

pub use self::{
    live::LiveView,
    mark::{StoreChange, StoreChangeKind, StoreMark},
};

use self::watched::{OPEN_SECONDS_MAX, OpenError, Watched};
use crate::{connect::Bus, cx::Cx, store::ApiError};
use nhi_model::{
    envelope::{Stale, Stored},
    key::Key,
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::sync::watch;

pub(crate) use self::records::reason;

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

impl From<OpenError> for ViewError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Api(error) => Self::Api(error),
            OpenError::TimedOut { reason } => Self::TimedOut { reason },
        }
    }
}

/// The state, followed. Clones are the same view; it stops when the last one is dropped.
#[derive(Clone)]
pub struct View {
    watched: Watched<Snapshot>,
}

impl View {
    /// Reads the whole state, and follows it from then on.
    ///
    /// # Errors
    /// [`ViewError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open(cx: &Cx, bus: &Bus) -> Result<Self, ViewError> {
        Self::open_with(cx, bus, watched::settings()).await
    }

    /// The same with settings of one's own.
    ///
    /// # Errors
    /// [`ViewError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open_with(cx: &Cx, bus: &Bus, settings: ViewSettings) -> Result<Self, ViewError> {
        Ok(Self { watched: Watched::open(cx, bus, "view", settings).await? })
    }

    /// The state now.
    pub fn read(&self) -> Arc<Snapshot> {
        self.watched.read()
    }

    /// The revision, now and whenever there is a new snapshot (a mark of staleness is one too).
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.watched.changed()
    }

    /// The last time the store behind the bucket was rolled back or made anew under our eyes.
    pub fn events(&self) -> watch::Receiver<Option<StoreChange>> {
        self.watched.events()
    }

    /// The first snapshot that has a revision, for example the one just committed. Waits for ever when it never
    /// comes: set a limit around it. Cancel safe.
    pub async fn reached(&self, revision: u64) -> Arc<Snapshot> {
        self.watched.reached(revision).await
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
