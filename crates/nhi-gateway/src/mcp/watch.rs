//! Tells a client what has changed: its tools when the catalog does, and the resources it subscribed to when the change
//! feed says so, over the caller's own connection. It reads no record back: whoever hears of a change asks.

use super::{ask::Asker, resources, server::Desk};
use nhi_bus::feed::{Changes, Feed};
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
use tokio::time::{Instant, sleep_until};

/// Resources one session may subscribe to.
const SUBSCRIPTIONS_MAX: usize = 64;
/// Changes of one moment are told once.
const GATHERING: Duration = Duration::from_millis(250);
/// How often it is looked whether the client is still there.
const LOOK: Duration = Duration::from_secs(30);

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
}

#[derive(Debug, Default)]
struct Seen {
    tools: bool,
    uris: BTreeSet<String>,
    following: bool,
}

impl Watch {
    fn seen<R>(&self, work: impl FnOnce(&mut Seen) -> R) -> R {
        work(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells the listener from now on when the tools change.
    pub(crate) fn tools(self: &Arc<Self>, desk: &Arc<Desk>, listener: Listener) {
        if self.seen(|seen| std::mem::replace(&mut seen.tools, true)) {
            return;
        }
        let (watch, stop) = (Arc::downgrade(self), desk.cx.clone());
        let mut changed = desk.catalog.changed();
        changed.mark_unchanged();
        desk.cx.spawn("gateway.mcp.tools", async move {
            loop {
                let is_news = tokio::select! {
                    () = stop.cancelled() => return,
                    news = changed.changed() => match news {
                        Ok(()) => true,
                        Err(_) => return,
                    },
                    () = tokio::time::sleep(LOOK) => false,
                };
                let is_over = watch.strong_count() == 0 || listener.is_gone();
                if is_over || (is_news && !listener.tools_changed().await) {
                    return;
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
        let begins = self.seen(|seen| {
            if seen.uris.len() >= SUBSCRIPTIONS_MAX && !seen.uris.contains(&uri) {
                return None;
            }
            seen.uris.insert(uri);
            Some(!std::mem::replace(&mut seen.following, true))
        });
        let Some(begins) = begins else {
            let message = format!("{SUBSCRIPTIONS_MAX} resources are subscribed to, and no more at once");
            return Err(Fault::new(
                FaultCode::TooMany,
                message,
                "subscribe to a section instead of its keys",
            ));
        };
        if begins && let Err(fault) = self.begin(desk, asker, listener).await {
            self.seen(|seen| seen.following = false);
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
        // The connection is kept as long as it is listened to.
        let (watch, asker, stop) = (Arc::downgrade(self), asker.clone(), desk.cx.clone());
        desk.cx.spawn("gateway.mcp.feed", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follow(&watch, state, plans, &listener) => {}
            }
            drop(asker);
            if let Some(watch) = watch.upgrade() {
                watch.seen(|seen| seen.following = false);
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

/// Follows the feed until nobody listens, or the connection is closed.
async fn follow(watch: &Weak<Watch>, mut state: Feed, mut plans: Changes, listener: &Listener) {
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
