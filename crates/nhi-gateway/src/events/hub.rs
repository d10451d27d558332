//! What one caller hears, shared by all its listeners: one subscription a bucket, and one writing of each event. It ends
//! with the last listener, or when the caller's connection does.

use super::{
    line::{Ears, Kind, Line},
    replay::{self, Replay},
    text,
};
use crate::{connections::Caller, health, reply::Failure};
use futures::future::{Fuse, FutureExt as _};
use nhi_bus::{
    connect::Link,
    cx::Cx,
    feed::{Changes, Feed},
};
use nhi_model::{
    fault::{Fault, FaultCode},
    subject::{LIVE_BUCKET, PLANS_BUCKET},
};
use serde_json::Value;
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};

/// When the keeper is asked again after the beginning: it may have been behind the stream by then.
const SETTLED: Duration = Duration::from_secs(1);
/// How often it is asked later on, in case that the last of the commits was lost.
const CHECKED: Duration = Duration::from_secs(30);
/// How long its answer is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The hub of one caller.
pub(super) struct Hub {
    cx: Cx,
    caller: Arc<Caller>,
    line: Arc<Line>,
    /// Whether gauges and plans are followed already.
    followed: tokio::sync::Mutex<[bool; 2]>,
    /// The last one that was made, for those who come back together.
    replayed: tokio::sync::Mutex<Option<(u64, u64, Replay)>>,
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl Hub {
    /// Follows the state for a caller. When this returns, every commit after the revision it begins with is heard.
    pub(super) async fn open(cx: &Cx, caller: Arc<Caller>) -> Result<Arc<Self>, Failure> {
        let cx = cx.child();
        let link = caller.bus.link();
        let mut feed = Feed::open(&caller.bus).await.map_err(|_| unavailable())?;
        caller.bus.ready().await.map_err(|_| unavailable())?;
        let revision = revision(&caller).await?;
        feed.known(revision);
        let line = Line::new(revision);
        let look_at = Instant::now() + SETTLED;
        let follower =
            Follower { feed, link, caller: caller.clone(), line: line.clone(), was_away: false, look_at };
        run(&cx, "gateway.events", follower.follow());
        let (followed, replayed) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { cx, caller, line, followed, replayed }))
    }

    /// Whether it hears over this very connection, and still does.
    pub(super) fn is_of(&self, caller: &Arc<Caller>) -> bool {
        Arc::ptr_eq(&self.caller, caller) && !self.cx.is_cancelled() && !caller.is_over()
    }

    /// Also follows gauges and plans, if it does not yet.
    pub(super) async fn follow(&self, live: bool, plans: bool) -> Result<(), Failure> {
        let mut followed = self.followed.lock().await;
        let wanted = [(live, Kind::Live, LIVE_BUCKET), (plans, Kind::Plan, PLANS_BUCKET)];
        for (followed, (wanted, kind, bucket)) in followed.iter_mut().zip(wanted) {
            if !wanted || *followed {
                continue;
            }
            let changes = Changes::open(&self.caller.bus, bucket).await.map_err(|_| unavailable())?;
            self.caller.bus.ready().await.map_err(|_| unavailable())?;
            run(&self.cx, "gateway.events", follow_changes(changes, kind, self.line.clone()));
            *followed = true;
        }
        Ok(())
    }

    /// Everything told from here on, and the revision it follows upon.
    pub(super) fn join(&self, live: bool, plans: bool) -> Result<(Ears, u64), Failure> {
        self.line.join(live, plans).ok_or_else(unavailable)
    }

    /// What changed between two revisions.
    pub(super) async fn replay(&self, after: u64, until: u64) -> Replay {
        if after == until {
            return Replay::Nothing;
        }
        let mut replayed = self.replayed.lock().await;
        if let Some((_, _, replay)) = replayed.as_ref().filter(|last| (last.0, last.1) == (after, until)) {
            return replay.clone();
        }
        let replay = replay::between(&self.caller.bus, after, until).await;
        *replayed = Some((after, until, replay.clone()));
        replay
    }
}

/// Runs a task until the context stops.
fn run(cx: &Cx, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
    let stop = cx.clone();
    cx.spawn(name, async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = task => {}
        }
    });
}

/// The revision the keeper is at. Who may not read the state is told here that it may not.
async fn revision(caller: &Caller) -> Result<u64, Failure> {
    let got = health::keeper(&caller.bus, ANSWER_MAX).await;
    got.map(|got| got.revision).map_err(|error| Failure::from(&error))
}

/// Follows the state for one hub.
struct Follower {
    feed: Feed,
    link: watch::Receiver<Link>,
    caller: Arc<Caller>,
    line: Arc<Line>,
    /// The connection was away since readers were last told to read again.
    was_away: bool,
    look_at: Instant,
}

/// What a look at the keeper showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Looked {
    /// Where the keeper is, when it answers.
    revision: Option<u64>,
    /// Whether the subscription is there: what was told before the look is in the feed.
    is_ready: bool,
}

impl Follower {
    async fn follow(mut self) {
        let mut looking = pin!(Fuse::terminated());
        let mut looked = None;
        loop {
            // The feed goes first: a look is judged when all that came before it was told.
            let news = tokio::select! {
                biased;
                news = self.feed.next() => news,
                changed = self.link.changed() => {
                    if changed.is_err() || self.caller.is_over() {
                        return self.line.close();
                    }
                    // However short it was.
                    self.was_away = true;
                    self.look_at = Instant::now();
                    looking.set(Fuse::terminated());
                    looked = None;
                    continue;
                }
                () = std::future::ready(()), if looked.is_some() => {
                    self.judge(looked.take());
                    continue;
                }
                found = &mut looking => {
                    looked = Some(found);
                    continue;
                }
                () = tokio::time::sleep_until(self.look_at), if self.caller.bus.is_up() => {
                    looking.set(look(self.caller.clone()).fuse());
                    self.look_at = Instant::now() + CHECKED;
                    continue;
                }
            };
            match news {
                Some(Ok(commit)) => self.line.tell_commit(&commit),
                Some(Err(error)) => {
                    tracing::debug!(err = %error, "a change cannot be told");
                    self.line.tell_resync("a change cannot be told as an event", 0);
                }
                None => return self.line.close(),
            }
        }
    }

    fn judge(&mut self, looked: Option<Looked>) {
        let Some(looked) = looked else { return };
        if let Some(reason) = verdict(looked, self.was_away, self.line.revision()) {
            self.line.tell_resync(reason, looked.revision.unwrap_or(0));
            if let Some(revision) = looked.revision {
                self.feed.known(revision);
            }
        }
        // After being away it is as at the beginning.
        let is_settled = looked.is_ready && !self.was_away;
        self.look_at = Instant::now() + if is_settled { CHECKED } else { SETTLED };
        self.was_away &= !looked.is_ready;
    }
}

/// Why readers have to read again after a look, if they have to.
fn verdict(looked: Looked, was_away: bool, told: u64) -> Option<&'static str> {
    if !looked.is_ready {
        // It stays owed until the subscription is known to be there.
        None
    } else if was_away {
        Some("the mesh was not connected for a while")
    } else if looked.revision.is_some_and(|revision| revision > told) {
        Some("a commit was missed")
    } else {
        None
    }
}

/// First where the keeper is, then the echo: when that came, so did everything told before.
async fn look(caller: Arc<Caller>) -> Looked {
    let revision = revision(&caller).await.ok();
    Looked { revision, is_ready: caller.bus.ready().await.is_ok() }
}

/// Gauges and plans go through as they stand in their bucket.
async fn follow_changes(mut changes: Changes, kind: Kind, line: Arc<Line>) {
    let name = if kind == Kind::Live { "live" } else { "plan" };
    while let Some((key, value)) = changes.next().await {
        let value = value.map_or(Ok(Value::Null), |value| serde_json::from_slice(&value));
        if let Ok(value) = value {
            line.tell(kind, text::change(name, &key, &value));
        }
    }
}

fn unavailable() -> Failure {
    Fault::new(FaultCode::Unavailable, "the changes cannot be followed", "try again in a moment").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_told_once_the_subscription_is_there_and_not_before() {
        let looked = |revision, is_ready| Looked { revision, is_ready };
        for (what, was_away, is_told) in [
            (looked(Some(7), true), false, false),
            (looked(Some(6), true), false, false),
            (looked(None, true), false, false),
            (looked(Some(8), true), false, true),
            (looked(Some(7), true), true, true),
            (looked(None, true), true, true),
            (looked(None, false), true, false),
            (looked(Some(8), false), true, false),
        ] {
            assert_eq!(verdict(what, was_away, 7).is_some(), is_told, "{what:?} {was_away}");
        }
    }
}
