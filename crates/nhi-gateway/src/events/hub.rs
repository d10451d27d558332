//! What one caller hears, shared by all its listeners: one subscription a bucket, and one writing of each event. It ends
//! with the last listener, or when the caller's connection does.

use super::{
    replay::{self, Replay},
    text,
};
use crate::{connections::Caller, reply::Failure};
use bytes::Bytes;
use nhi_bus::{
    call,
    connect::Link,
    cx::Cx,
    feed::{Changes, Feed},
};
use nhi_model::{
    call::{StateGet, StateGot},
    fault::{Fault, FaultCode},
    subject::{LIVE_BUCKET, PLANS_BUCKET},
};
use serde_json::Value;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast;

/// Events that wait for a slow reader: a minute of a lab that is busy. They are kept once for all readers.
const WAITING_MAX: usize = 1_024;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    State,
    Live,
    Plan,
    Resync,
}

/// An event, written out.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) kind: Kind,
    pub(super) text: Bytes,
}

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

/// Where events go.
struct Line(Mutex<End>);

/// The end of the line where events are put in.
struct End {
    /// Of the last commit that was told.
    revision: u64,
    /// Gone when nothing more comes, so that the listeners' ends are closed.
    sender: Option<broadcast::Sender<Told>>,
}

impl Line {
    fn new(revision: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(End { revision, sender: Some(broadcast::Sender::new(WAITING_MAX)) })))
    }

    fn tell(&self, kind: Kind, text: Bytes) {
        self.end().tell(kind, text);
    }

    /// Tells what belongs to a revision, so that whoever joins hears it or knows it, and never both or neither.
    fn tell_at(&self, revision: u64, text: Bytes) {
        let mut end = self.end();
        if revision > end.revision {
            end.revision = revision;
            end.tell(Kind::State, text);
        }
    }

    fn close(&self) {
        self.end().sender = None;
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn tell(&self, kind: Kind, text: Bytes) {
        if let Some(sender) = &self.sender {
            // An error means that nobody listens right now.
            let _nobody = sender.send(Told { kind, text });
        }
    }
}

impl Hub {
    /// Follows the state for a caller. When this returns, every commit after the revision it begins with is heard.
    pub(super) async fn open(cx: &Cx, caller: Arc<Caller>) -> Result<Arc<Self>, Failure> {
        let cx = cx.child();
        let mut feed = Feed::open(&caller.bus).await.map_err(|_| unavailable())?;
        caller.bus.ready().await.map_err(|_| unavailable())?;
        let revision = revision(&caller).await?;
        feed.known(revision);
        let line = Line::new(revision);
        let task = follow_state(feed, caller.clone(), line.clone());
        run(&cx, "gateway.events", task);
        let (followed, replayed) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { cx, caller, line, followed, replayed }))
    }

    /// Whether it hears over this very connection, and still does.
    pub(super) fn is_of(&self, caller: &Arc<Caller>) -> bool {
        Arc::ptr_eq(&self.caller, caller) && !self.cx.is_cancelled() && !is_over(caller)
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
    pub(super) fn join(&self) -> Result<(broadcast::Receiver<Told>, u64), Failure> {
        let end = self.line.end();
        let told = end.sender.as_ref().map(broadcast::Sender::subscribe);
        told.map(|told| (told, end.revision)).ok_or_else(unavailable)
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
    let question = StateGet { select: vec!["source".to_owned()], limit: Some(1), ..StateGet::default() };
    let got = call::call::<_, StateGot>(&caller.bus, "state", "get", &question).await;
    got.map(|got| got.revision).map_err(|error| Failure::from(&error))
}

async fn follow_state(mut feed: Feed, caller: Arc<Caller>, line: Arc<Line>) {
    let mut link = caller.bus.link();
    let mut was_down = false;
    loop {
        let news = tokio::select! {
            news = feed.next() => news,
            changed = link.changed() => {
                if changed.is_err() || is_over(&caller) {
                    return line.close();
                }
                let is_up = caller.bus.is_up();
                if is_up && was_down && caller.bus.ready().await.is_ok() {
                    line.tell(Kind::Resync, text::resync("the mesh was not connected for a while"));
                }
                was_down = !is_up;
                continue;
            }
        };
        match news {
            Some(Ok(commit)) => {
                if commit.missed > 0 {
                    let reason = format!("{} writes were missed", commit.missed);
                    line.tell(Kind::Resync, text::resync(&reason));
                }
                line.tell_at(commit.revision, text::commit(&commit));
            }
            Some(Err(error)) => {
                tracing::debug!(err = %error, "a change cannot be told");
                line.tell(Kind::Resync, text::resync("a change cannot be told as an event"));
            }
            None => return line.close(),
        }
    }
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

fn is_over(caller: &Caller) -> bool {
    match *caller.bus.link().borrow() {
        Link::Up | Link::Down { .. } => false,
        Link::Revoked { .. } | Link::Closed => true,
    }
}

fn unavailable() -> Failure {
    Fault::new(FaultCode::Unavailable, "the changes cannot be followed", "try again in a moment").into()
}
