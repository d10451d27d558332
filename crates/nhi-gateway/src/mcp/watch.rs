//! Tells a client what has changed: its tools when the catalog does, and the resources it subscribed to when the change
//! feed says so, over the caller's own connection. It reads no record back: whoever hears of a change asks.

use super::{ask::Asker, resources, server::Desk};
use nhi_bus::{
    connect::Link,
    feed::{Changes, Feed},
};
use nhi_model::{
    fault::{Fault, FaultCode},
    subject::PLANS_BUCKET,
};
use rmcp::{
    RoleServer,
    service::{Peer, SubscriptionSink},
};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// Resources one session may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Changes of one moment are told once.
const GATHERING: Duration = Duration::from_millis(250);
/// How often it is looked whether the client is still there.
const LOOK: Duration = Duration::from_secs(30);
/// Changes of the tools that are told at once; those after them one by one, this long apart. Each makes a client read
/// the whole list.
const TOLD_AT_ONCE: u32 = 4;
const TOLD_APART: Duration = Duration::from_secs(30);

/// Where a change is told.
#[derive(Clone, Debug)]
pub(crate) enum Listener {
    /// A session of the protocols before 2026-07-28.
    Session(Peer<RoleServer>),
    /// A request that listens.
    Subscription(SubscriptionSink),
}

impl Listener {
    /// False when nobody listens any more.
    async fn tools_changed(&self) -> bool {
        match self {
            Self::Session(peer) => peer.notify_tool_list_changed().await.is_ok(),
            Self::Subscription(sink) => sink.notify_tool_list_changed().await.is_ok(),
        }
    }

    async fn updated(&self, uri: &str) -> bool {
        use rmcp::model::ResourceUpdatedNotificationParam as Updated;
        match self {
            Self::Session(peer) => peer.notify_resource_updated(Updated::new(uri)).await.is_ok(),
            Self::Subscription(sink) => sink.notify_resource_updated(uri).await.is_ok(),
        }
    }

    fn is_gone(&self) -> bool {
        match self {
            Self::Session(peer) => peer.is_transport_closed(),
            Self::Subscription(_) => false,
        }
    }
}

/// What one session watches. When it is dropped, the watching ends.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    seen: Mutex<Seen>,
    /// Held while the feed is opened, so that nobody is told that it is heard before it is.
    beginning: tokio::sync::Mutex<()>,
    /// The feed has ended: nothing will be told any more.
    over: CancellationToken,
}

#[derive(Debug, Default)]
struct Seen {
    tools: bool,
    uris: BTreeSet<String>,
    following: bool,
}

/// When a change of the tools may be told.
#[derive(Debug)]
struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { left: TOLD_AT_ONCE, since: now }
    }

    /// Takes one, or says when there is one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        while self.left < TOLD_AT_ONCE && now >= self.since + TOLD_APART {
            self.left += 1;
            self.since += TOLD_APART;
        }
        if self.left == 0 {
            return Err(self.since + TOLD_APART);
        }
        if self.left == TOLD_AT_ONCE {
            self.since = now;
        }
        self.left -= 1;
        Ok(())
    }
}

impl Watch {
    /// Returns when nothing will be told any more because the feed has ended.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    fn seen<R>(&self, work: impl FnOnce(&mut Seen) -> R) -> R {
        work(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the listener from now on when the tools change.
    pub(crate) fn tools(self: &Arc<Self>, desk: &Arc<Desk>, listener: Listener) {
        if self.seen(|seen| std::mem::replace(&mut seen.tools, true)) {
            return;
        }
        let (watch, desk) = (Arc::downgrade(self), desk.clone());
        let mut changed = desk.catalog.changed();
        changed.mark_unchanged();
        // The catalog's number rises for other reasons as well: instances that come and go.
        let mut told = desk.shelf();
        desk.cx.clone().spawn("gateway.mcp.tools", async move {
            let mut pace = Pace::new(Instant::now());
            let mut wake = None;
            loop {
                tokio::select! {
                    () = desk.cx.cancelled() => return,
                    news = changed.changed() => if news.is_err() {
                        return;
                    },
                    () = sleep_until(wake.unwrap_or_else(|| Instant::now() + LOOK)) => {}
                }
                if watch.strong_count() == 0 || listener.is_gone() {
                    return;
                }
                wake = None;
                let now = desk.shelf();
                if Arc::ptr_eq(&now, &told) {
                    continue;
                }
                match pace.take(Instant::now()) {
                    Ok(()) if listener.tools_changed().await => told = now,
                    Ok(()) => return,
                    Err(at) => wake = Some(at),
                }
            }
        });
    }

    /// Tells the listener from now on when this resource changes.
    pub(crate) async fn resource(
        self: &Arc<Self>,
        desk: &Arc<Desk>,
        asker: &Asker,
        listener: Listener,
        uri: String,
    ) -> Result<(), Fault> {
        let has_room = self.seen(|seen| {
            let has_room = seen.uris.len() < SUBSCRIPTIONS_MAX || seen.uris.contains(&uri);
            if has_room {
                seen.uris.insert(uri.clone());
            }
            has_room
        });
        if !has_room {
            let message = format!("{SUBSCRIPTIONS_MAX} resources are subscribed to, and no more at once");
            return Err(Fault::new(
                FaultCode::TooMany,
                message,
                "subscribe to a section instead of its keys",
            ));
        }
        let _beginning = self.beginning.lock().await;
        if self.seen(|seen| seen.following) {
            return Ok(());
        }
        if let Err(fault) = self.begin(desk, asker, listener).await {
            self.seen(|seen| seen.uris.remove(&uri));
            return Err(fault);
        }
        Ok(())
    }

    /// Follows the feed. When this returns, every change is heard.
    async fn begin(
        self: &Arc<Self>,
        desk: &Arc<Desk>,
        asker: &Asker,
        listener: Listener,
    ) -> Result<(), Fault> {
        let unavailable =
            || Fault::new(FaultCode::Unavailable, "the changes cannot be followed", "try again in a moment");
        let state = Feed::open(&asker.bus).await.map_err(|_| unavailable())?;
        let plans = Changes::open(&asker.bus, PLANS_BUCKET).await.map_err(|_| unavailable())?;
        asker.bus.ready().await.map_err(|_| unavailable())?;
        self.seen(|seen| seen.following = true);
        // The connection is kept as long as it is listened to.
        let (watch, asker, stop) = (Arc::downgrade(self), asker.clone(), desk.cx.clone());
        let link = asker.bus.link();
        desk.cx.spawn("gateway.mcp.feed", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&watch, state, plans, link, &listener) => {}
            }
            drop(asker);
            if let Some(watch) = watch.upgrade() {
                watch.seen(|seen| seen.following = false);
                watch.over.cancel();
            }
        });
        Ok(())
    }

    pub(crate) fn forget(&self, uri: &str) {
        self.seen(|seen| seen.uris.remove(uri));
    }

    /// Those of the subscribed resources that a change touches.
    fn touched(&self, what: &resources::Change) -> Vec<String> {
        self.seen(|seen| seen.uris.iter().filter(|uri| resources::is_touched(uri, what)).cloned().collect())
    }
}

/// Follows the feed until nobody listens, or the connection is closed. What was changed while there was no link is not
/// heard of, so that afterwards anything may have changed.
async fn follow(
    watch: &Weak<Watch>,
    mut state: Feed,
    mut plans: Changes,
    mut link: Receiver<Link>,
    listener: &Listener,
) {
    let mut was_up = link.borrow_and_update().is_up();
    let mut told: BTreeSet<String> = BTreeSet::new();
    let mut tell_at: Option<Instant> = None;
    loop {
        let wake = tell_at.unwrap_or_else(|| Instant::now() + LOOK);
        let change = tokio::select! {
            commit = state.next() => match commit {
                None => return,
                Some(Ok(commit)) if commit.missed > 0 => Some(resources::Change::All),
                Some(Ok(commit)) => Some(resources::Change::State(commit.records.into_iter().map(|(key, _)| key).collect())),
                Some(Err(_)) => Some(resources::Change::All),
            },
            key = plans.next() => match key {
                None => return,
                Some((key, _)) => Some(resources::Change::Plan(key)),
            },
            changed = link.changed() => {
                let now = *link.borrow_and_update();
                if changed.is_err() || matches!(now, Link::Revoked { .. } | Link::Closed) {
                    return;
                }
                let is_back = now.is_up() && !was_up;
                was_up = now.is_up();
                if !is_back {
                    continue;
                }
                Some(resources::Change::All)
            }
            () = sleep_until(wake) => None,
        };
        let Some(seen) = watch.upgrade().filter(|_| !listener.is_gone()) else { return };
        match change {
            Some(change) => {
                told.extend(seen.touched(&change));
                if !told.is_empty() {
                    tell_at.get_or_insert_with(|| Instant::now() + GATHERING);
                }
            }
            None => {
                tell_at = None;
                for uri in std::mem::take(&mut told) {
                    if !listener.updated(&uri).await {
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_changes_are_told_at_once_and_then_one_in_thirty_seconds() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        for _ in 0..TOLD_AT_ONCE {
            assert_eq!(pace.take(begin), Ok(()));
        }
        assert_eq!(pace.take(begin), Err(begin + TOLD_APART));
        // Whoever flaps for ten minutes is told of twenty times, not of three hundred.
        let told = (1..=300).filter(|n| pace.take(begin + Duration::from_secs(2 * n)).is_ok()).count();
        assert_eq!(told, 20);
        assert_eq!(pace.take(begin + Duration::from_secs(7_200)), Ok(()));
        assert_eq!(pace.left, TOLD_AT_ONCE - 1, "no more are saved up than were there");
    }
}
