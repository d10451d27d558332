//! What acting remembers, followed in memory and only ever shown whole. It decides nothing: a decision rests on
//! revisions, and is checked by [`super::commit`].

use super::{PlansError, PlansSnapshot};
use crate::{
    connect::Bus,
    cx::Cx,
    view::{
        StoreChange, ViewSettings,
        watched::{self, Watched},
    },
};
use std::{fmt, sync::Arc};
use tokio::sync::watch;

/// What acting remembers, followed. Clones are the same view; it stops when the last one is dropped.
#[derive(Clone)]
pub struct PlansView {
    watched: Watched<PlansSnapshot>,
}

impl PlansView {
    /// Reads everything, and follows it from then on.
    ///
    /// # Errors
    /// [`PlansError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open(cx: &Cx, bus: &Bus) -> Result<Self, PlansError> {
        Self::open_with(cx, bus, watched::settings()).await
    }

    /// The same with settings of one's own.
    ///
    /// # Errors
    /// [`PlansError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open_with(cx: &Cx, bus: &Bus, settings: ViewSettings) -> Result<Self, PlansError> {
        Ok(Self { watched: Watched::open(cx, bus, "plans view", settings).await? })
    }

    /// Everything, now.
    pub fn read(&self) -> Arc<PlansSnapshot> {
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
    pub async fn reached(&self, revision: u64) -> Arc<PlansSnapshot> {
        self.watched.reached(revision).await
    }
}

impl fmt::Debug for PlansView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.read();
        f.debug_struct("PlansView")
            .field("revision", &snapshot.revision)
            .field("plans", &snapshot.plans.len())
            .field("runs", &snapshot.runs.len())
            .field("stale", &snapshot.stale)
            .finish_non_exhaustive()
    }
}
