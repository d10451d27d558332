//! The gauges as they are now. They are weather: a reader asks which are still valid, and nobody waits for them. No
//! batches, no revisions; what is lost comes again with the next round.

use super::{
    ViewError,
    follow::{Ended, Session, Step},
    keeper::{PAUSE_MS_MIN, pause, told},
};
use crate::{
    connect::{Bus, Link},
    cx::Cx,
    store::{ApiError, AskError, api::stream_info, written::Written},
};
use nhi_model::{
    Timestamp,
    envelope::Live,
    key::Key,
    subject::{self, LIVE_BUCKET},
};
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};
use tokio::sync::{oneshot, watch};

/// How long opening waits for the first reading. Without it the view is empty and fills later.
const OPEN_SECONDS_MAX: u64 = 5;
/// Longest pause between sessions: the bucket is gone for a moment whenever the server restarts.
const LIVE_PAUSE_MS_MAX: u64 = 5_000;
/// How often gauges that are no longer valid are dropped from memory.
const SWEEP_SECONDS: u64 = 60;

/// Gauges by key; shared between readers.
type Gauges = Arc<BTreeMap<Key, Live>>;

/// The gauges, followed. Clones are the same view; it stops when the last one is dropped.
#[derive(Clone)]
pub struct LiveView {
    inner: Arc<Inner>,
}

struct Inner {
    gauges: watch::Receiver<Gauges>,
    cx: Cx,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl LiveView {
    /// Reads the gauges there are, and follows them. A bucket that is missing is waited for behind the scenes.
    ///
    /// # Errors
    /// [`ViewError`] when this identity may not read them.
    pub async fn open(cx: &Cx, bus: &Bus) -> Result<Self, ViewError> {
        let cx = cx.child();
        let (gauges, readers) = watch::channel(Gauges::default());
        let (opened, is_open) = oneshot::channel();
        let follower = Follower { bus: bus.clone(), gauges, opened: Some(opened) };
        let view = Self { inner: Arc::new(Inner { gauges: readers, cx: cx.clone() }) };
        let stop = cx.clone();
        cx.spawn("live view", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.run() => {}
            }
        });
        match tokio::time::timeout(Duration::from_secs(OPEN_SECONDS_MAX), is_open).await {
            Ok(Ok(Err(error))) => Err(ViewError::Api(error)),
            Ok(Ok(Ok(())) | Err(_)) | Err(_) => Ok(view),
        }
    }

    /// All gauges that were written, also those that say nothing any more: see [`Live::valid_until`].
    pub fn read(&self) -> Arc<BTreeMap<Key, Live>> {
        self.inner.gauges.borrow().clone()
    }

    /// The gauges that say something at a moment.
    pub fn valid_at(&self, now: Timestamp) -> BTreeMap<Key, Live> {
        let all = self.read();
        let valid = all.iter().filter(|(_, live)| live.valid_until > now);
        valid.map(|(key, live)| (key.clone(), live.clone())).collect()
    }

    /// Changes whenever a gauge does.
    pub fn changed(&self) -> watch::Receiver<Arc<BTreeMap<Key, Live>>> {
        self.inner.gauges.clone()
    }
}

impl fmt::Debug for LiveView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiveView").field("gauges", &self.read().len()).finish_non_exhaustive()
    }
}

struct Follower {
    bus: Bus,
    gauges: watch::Sender<Gauges>,
    opened: Option<oneshot::Sender<Result<(), ApiError>>>,
}

impl Follower {
    async fn run(mut self) {
        let mut pause_ms = PAUSE_MS_MIN;
        loop {
            let mut link = self.bus.link();
            match link.wait_for(|link| link.is_up() || *link == Link::Closed).await {
                Ok(link) if link.is_up() => {}
                Ok(_) | Err(_) => return,
            }
            let ended = match self.session().await {
                Ok(never) => match never {},
                Err(ended) => ended,
            };
            tracing::debug!(err = told(&ended), "gauges are read anew");
            match (ended, self.opened.take()) {
                (Ended::Api(error @ ApiError::Ask(AskError::Refused { .. })), Some(opened)) => {
                    // Whoever opens it may have gone; then nobody needs to know.
                    drop(opened.send(Err(error)));
                    return;
                }
                (Ended::LinkLost, opened) => self.opened = opened,
                (_, opened) => {
                    self.opened = opened;
                    pause(pause_ms).await;
                    pause_ms = (pause_ms * 2).min(LIVE_PAUSE_MS_MAX);
                }
            }
        }
    }

    /// Ends only with why.
    async fn session(&mut self) -> Result<std::convert::Infallible, Ended> {
        let mut session = Session::of_bucket(&self.bus, LIVE_BUCKET).await?;
        let info = stream_info(&self.bus, &subject::bucket_stream(LIVE_BUCKET)).await?;
        let target = if info.state.messages == 0 { 0 } else { info.state.last_seq };
        let mut gauges = BTreeMap::new();
        let mut is_filled = target == 0;
        let mut sweep = tokio::time::interval(Duration::from_secs(SWEEP_SECONDS));
        loop {
            if is_filled {
                self.show(&gauges);
            }
            tokio::select! {
                step = session.next() => {
                    let mut next = Some(step);
                    while let Some(step) = next {
                        match step? {
                            Step::Message(written) => {
                                is_filled |= written.sequence >= target;
                                take(&mut gauges, &written);
                            }
                            // What was the last gauge may have expired since.
                            Step::Idle => is_filled = is_filled || session.is_drained().await?,
                        }
                        next = session.next_now();
                    }
                }
                _ = sweep.tick() => {
                    let now = Timestamp::now();
                    gauges.retain(|_, live: &mut Live| live.valid_until > now);
                }
            }
        }
    }

    fn show(&mut self, gauges: &BTreeMap<Key, Live>) {
        self.gauges.send_replace(Arc::new(gauges.clone()));
        if let Some(opened) = self.opened.take() {
            // Whoever opens it may have gone; the context ends this task then.
            drop(opened.send(Ok(())));
        }
    }
}

fn take(gauges: &mut BTreeMap<Key, Live>, written: &Written) {
    let Some(key) = subject::key_of(LIVE_BUCKET, &written.subject) else {
        tracing::debug!("gauges under a key that is none were left out");
        return;
    };
    if written.is_delete() {
        gauges.remove(&key);
        return;
    }
    match Live::parse(&key, &written.payload) {
        Ok(live) => {
            gauges.insert(key, live);
        }
        Err(bad) => {
            tracing::debug!(%key, err = super::reason(&bad), "gauges that cannot be read were left out");
            gauges.remove(&key);
        }
    }
}
