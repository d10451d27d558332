//! A bucket followed by a task of its own, and what it makes shown to readers: the same for the state and for what
//! acting remembers. What a message means is said by [`Whole`].

use super::{ViewSettings, keeper::Keeper, mark::StoreChange};
use crate::{
    connect::Bus,
    cx::Cx,
    store::{ApiError, written::Written},
};
use nhi_model::envelope::Stale;
use std::{sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

/// How often the stream is compared with what was seen of it. A store that was rolled back leaves watchers deaf, and
/// is to be noticed within 10 s.
const CHECK_SECONDS: u64 = 5;
/// How long the first reading may take: 10,000 records arrive within a second.
pub(crate) const OPEN_SECONDS_MAX: u64 = 30;

/// What the messages of a bucket make. Readers are only shown the end of a commit.
pub(crate) trait Whole: Clone + Default + Send + Sync + 'static {
    /// The bucket.
    const BUCKET: &'static str;
    /// What people call what is in it: `the state`.
    const CALLED: &'static str;

    /// Takes one message, also when it cannot be understood.
    fn apply(&mut self, written: &Written);
    /// Revision of the last commit taken.
    fn revision(&self) -> u64;
    /// A commit is complete.
    fn set_revision(&mut self, revision: u64);
    /// Why all of it may be out of date, when it may.
    fn stale(&self) -> Option<&Stale>;
    /// Says that it may be out of date, or that it is not.
    fn set_stale(&mut self, stale: Option<Stale>);
}

/// How a bucket is followed when nothing else is said.
pub(crate) const fn settings() -> ViewSettings {
    ViewSettings { check_every: Duration::from_secs(CHECK_SECONDS) }
}

/// Why nothing is followed.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The server does not deliver the bucket, and will not.
    Api(ApiError),
    /// Nothing whole arrived in time.
    TimedOut { reason: String },
}

/// A bucket, followed. It stops when the last clone is dropped.
#[derive(Clone)]
pub(crate) struct Watched<W> {
    inner: Arc<Inner<W>>,
}

struct Inner<W> {
    wholes: watch::Receiver<Arc<W>>,
    revisions: watch::Receiver<u64>,
    events: watch::Receiver<Option<StoreChange>>,
    cx: Cx,
}

impl<W> Drop for Inner<W> {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl<W: Whole> Watched<W> {
    /// Reads the whole bucket, and follows it from then on.
    pub(crate) async fn open(
        cx: &Cx,
        bus: &Bus,
        task: &'static str,
        settings: ViewSettings,
    ) -> Result<Self, OpenError> {
        let cx = cx.child();
        let (opened, is_open) = oneshot::channel();
        let (keeper, outputs) = Keeper::<W>::new(bus.clone(), settings, opened);
        let watched = Self {
            inner: Arc::new(Inner {
                wholes: outputs.wholes,
                revisions: outputs.revisions,
                events: outputs.events,
                cx: cx.clone(),
            }),
        };
        let stop = cx.clone();
        cx.spawn(task, async move { keeper.run(&stop).await });
        match tokio::time::timeout(Duration::from_secs(OPEN_SECONDS_MAX), is_open).await {
            Ok(Ok(Ok(()))) => Ok(watched),
            Ok(Ok(Err(error))) => Err(OpenError::Api(error)),
            Ok(Err(_)) => Err(OpenError::TimedOut { reason: "the view was stopped".to_owned() }),
            Err(_) => {
                let whole = watched.read();
                let reason = whole.stale().map(|stale| stale.reason.clone());
                Err(OpenError::TimedOut { reason: reason.unwrap_or_default() })
            }
        }
    }

    pub(crate) fn read(&self) -> Arc<W> {
        self.inner.wholes.borrow().clone()
    }

    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.inner.revisions.clone()
    }

    pub(crate) fn events(&self) -> watch::Receiver<Option<StoreChange>> {
        self.inner.events.clone()
    }

    pub(crate) async fn reached(&self, revision: u64) -> Arc<W> {
        let mut wholes = self.inner.wholes.clone();
        let has = |whole: &Arc<W>| whole.revision() >= revision && whole.stale().is_none();
        // The guard must not live into another wait: futures that hold it stay with one thread.
        let reached = wholes.wait_for(has).await.ok().map(|whole| Arc::clone(&whole));
        match reached {
            Some(whole) => whole,
            // The view was stopped; nothing newer will come.
            None => std::future::pending().await,
        }
    }
}
