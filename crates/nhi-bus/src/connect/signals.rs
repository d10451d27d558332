//! What a connection learns about itself: whether the link is up, and what the server refused.
//!
//! The client's event channel holds 128 and drops the rest, so nothing here relies on an event alone: losing the
//! link is also seen by the reconnect, and every event compares notes with the client's own state.

use async_nats::{Client, ClientError, ConnectErrorKind, Event, ServerError, connection::State};
use jiff::Timestamp;
use std::{
    future::pending,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{broadcast, watch};

/// First pause before connecting again; doubled each time.
const RECONNECT_MS_MIN: u64 = 50;
/// Longest pause: a mesh that is back is found within this.
const RECONNECT_MS_MAX: u64 = 5_000;
/// Pause after the server refused the key: revoking is rare and undoing it rarer, and each try is a log line there.
const REVOKED_SECONDS: u64 = 60;
/// The same once nobody uses the connection any more. The client cannot be told to give up while it reconnects.
const ABANDONED_SECONDS: u64 = 24 * 60 * 60;
/// Refusals kept for slow readers. More at once than the client itself can tell.
const REFUSALS_MAX: usize = 1_024;

/// The state of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Connected.
    Up,
    /// Not connected; the client tries again with growing pauses of up to 5 s.
    Down {
        /// Since when.
        since: Timestamp,
    },
    /// The server refuses the key: revoked. Tried again each minute.
    Revoked {
        /// Since when.
        since: Timestamp,
    },
    /// Closed by us.
    Closed,
}

impl Link {
    /// Whether messages go through.
    pub const fn is_up(self) -> bool {
        matches!(self, Self::Up)
    }

    /// Whether nothing of this connection is to be waited for: the server refuses the key, or it is closed.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Up | Self::Down { .. } => false,
            Self::Revoked { .. } | Self::Closed => true,
        }
    }
}

/// Something the server refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// To publish to this subject.
    Publish(String),
    /// To subscribe this subject.
    Subscribe(String),
    /// To name this subject as the reply.
    Reply(String),
}

impl Refusal {
    /// Reads the server's words, for example `Permissions Violation for Publish to "nhi.act.approve.aider"`.
    fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("Permissions Violation for ")?;
        let (what, rest) = rest.split_once('"')?;
        let subject = rest.split_once('"')?.0.to_owned();
        match what {
            "Publish to " => Some(Self::Publish(subject)),
            "Subscription to " => Some(Self::Subscribe(subject)),
            "Publish with Reply of " => Some(Self::Reply(subject)),
            _ => None,
        }
    }
}

/// Returns when the server has refused `what`. Cancel safe.
pub(super) async fn until(refusals: &mut broadcast::Receiver<Refusal>, what: &Refusal) {
    loop {
        match refusals.recv().await {
            Ok(refusal) if refusal == *what => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => pending().await,
        }
    }
}

pub(super) struct Signals {
    link: watch::Sender<Link>,
    /// Stays set when the link is closed, until the key is taken again.
    revoked: AtomicBool,
    /// Counts losses of the link, so that a short one is noticed by who looks late.
    losses: watch::Sender<u64>,
    refusals: broadcast::Sender<Refusal>,
    /// Weak, because the client's tasks hold these signals, and live until the last handle of the client is gone.
    client: OnceLock<Weak<Client>>,
}

impl Signals {
    pub(super) fn new() -> Self {
        Self {
            link: watch::Sender::new(Link::Down { since: Timestamp::now() }),
            revoked: AtomicBool::new(false),
            losses: watch::Sender::new(0),
            refusals: broadcast::Sender::new(REFUSALS_MAX),
            client: OnceLock::new(),
        }
    }

    pub(super) fn watch_client(&self, client: &Arc<Client>) {
        self.client.set(Arc::downgrade(client)).expect("a connection has one client");
        self.compare();
    }

    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.link.subscribe()
    }

    pub(super) fn is_up(&self) -> bool {
        self.link.borrow().is_up()
    }

    pub(super) fn losses(&self) -> watch::Receiver<u64> {
        self.losses.subscribe()
    }

    pub(super) fn refusals(&self) -> broadcast::Receiver<Refusal> {
        self.refusals.subscribe()
    }

    pub(super) fn refused(&self, what: Refusal) -> impl Future<Output = ()> + Send + use<> {
        let mut refusals = self.refusals();
        async move { until(&mut refusals, &what).await }
    }

    /// What the client does before each attempt to connect; `attempt` counts from 1 after each success.
    pub(super) fn reconnect_delay(&self, attempt: usize) -> Duration {
        if self.client.get().is_none() {
            // The first connection: somebody waits for it, and it is tried once.
            return Duration::ZERO;
        }
        self.down();
        if self.revoked.load(Ordering::Relaxed) {
            let seconds = if self.is_in_use() { REVOKED_SECONDS } else { ABANDONED_SECONDS };
            return Duration::from_secs(seconds);
        }
        let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
        let longest = (RECONNECT_MS_MIN << doublings).min(RECONNECT_MS_MAX);
        // Jitter, so that a whole mesh does not come back in one instant.
        Duration::from_millis(rand::random_range(longest / 2..=longest))
    }

    /// Kept short: while it runs, the client's channel of events fills.
    pub(super) fn handle(&self, event: &Event) {
        match event {
            Event::Connected => return self.up(),
            Event::Disconnected => return self.down(),
            Event::Closed => return self.close(),
            Event::ServerError(ServerError::AuthorizationViolation) => self.revoke(),
            Event::ClientError(ClientError::Other(text)) if is_authorization_violation(text) => self.revoke(),
            Event::ServerError(ServerError::Other(text)) => match Refusal::parse(text) {
                // Whoever waits for it handles it; without a waiter there is nobody to tell.
                Some(refusal) => drop(self.refusals.send(refusal)),
                None => tracing::warn!(err = text, "server complains"),
            },
            Event::SlowConsumer(_) => tracing::warn!("messages dropped, a subscription is read too slowly"),
            Event::LameDuckMode => tracing::info!("server is about to stop"),
            other => tracing::debug!(event = %other, "connection event"),
        }
        self.compare();
    }

    pub(super) fn close(&self) {
        self.lose(Link::Closed);
    }

    /// Catches up with an event that was dropped.
    fn compare(&self) {
        let state = self.client.get().and_then(Weak::upgrade).map(|client| client.connection_state());
        match state {
            Some(State::Connected) => self.up(),
            Some(State::Disconnected) => self.down(),
            Some(State::Pending) | None => {}
        }
    }

    fn is_in_use(&self) -> bool {
        let has_handle = self.client.get().is_some_and(|client| client.strong_count() > 0);
        has_handle && *self.link.borrow() != Link::Closed
    }

    fn up(&self) {
        self.revoked.store(false, Ordering::Relaxed);
        self.link.send_if_modified(|link| {
            let modified = matches!(link, Link::Down { .. } | Link::Revoked { .. });
            if modified {
                *link = Link::Up;
            }
            modified
        });
    }

    fn down(&self) {
        if self.is_up() {
            self.lose(Link::Down { since: Timestamp::now() });
        }
    }

    fn revoke(&self) {
        if !self.revoked.swap(true, Ordering::Relaxed) {
            tracing::error!("server refuses this key; it was revoked");
        }
        self.lose(Link::Revoked { since: Timestamp::now() });
    }

    fn lose(&self, to: Link) {
        let mut lost = false;
        self.link.send_if_modified(|link| {
            lost = link.is_up();
            let again = matches!((&*link, to), (Link::Revoked { .. }, Link::Revoked { .. }));
            let modified = *link != Link::Closed && !again;
            if modified {
                *link = to;
            }
            modified
        });
        if lost {
            self.losses.send_modify(|count| *count += 1);
        }
    }
}

/// The library reports a failed attempt to reconnect by its words alone.
fn is_authorization_violation(text: &str) -> bool {
    text == ConnectErrorKind::AuthorizationViolation.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_server_are_read() {
        let check = |text: &str, expect: Option<Refusal>| assert_eq!(Refusal::parse(text), expect, "{text}");
        let subject = || "nhi.act.approve.aider".to_owned();
        check(
            r#"Permissions Violation for Publish to "nhi.act.approve.aider""#,
            Some(Refusal::Publish(subject())),
        );
        check(
            r#"Permissions Violation for Subscription to "nhi.act.approve.aider" using queue "q""#,
            Some(Refusal::Subscribe(subject())),
        );
        check(
            r#"Permissions Violation for Publish with Reply of "nhi.act.approve.aider""#,
            Some(Refusal::Reply(subject())),
        );
        check("Stale Connection", None);
        check(r#"Permissions Violation for Something "x""#, None);
    }

    #[test]
    fn pauses_grow_to_five_seconds_and_jitter() {
        let signals = Signals::new();
        assert_eq!(signals.reconnect_delay(1), Duration::ZERO, "the first connection does not wait");
        signals.client.set(Weak::new()).unwrap();
        let ms = |attempt| u64::try_from(signals.reconnect_delay(attempt).as_millis()).unwrap();
        assert!((25..=50).contains(&ms(1)));
        for attempt in [8, 100, usize::MAX] {
            assert!((2_500..=5_000).contains(&ms(attempt)), "{attempt}");
        }
        signals.revoke();
        assert_eq!(ms(1), ABANDONED_SECONDS * 1_000, "there is no handle in this test");
        signals.handle(&Event::Connected);
        assert!(ms(1) <= 50);
    }

    #[test]
    fn each_loss_counts_once_and_closed_is_final() {
        let signals = Signals::new();
        let (losses, link) = (signals.losses(), signals.link());
        signals.handle(&Event::Connected);
        signals.handle(&Event::Disconnected);
        signals.handle(&Event::Disconnected);
        assert_eq!(*losses.borrow(), 1);
        signals.handle(&Event::ServerError(ServerError::AuthorizationViolation));
        signals.handle(&Event::Disconnected);
        assert!(matches!(*link.borrow(), Link::Revoked { .. }), "a revoked link stays so until it is up");
        signals.handle(&Event::Connected);
        assert!(link.borrow().is_up());
        signals.close();
        signals.handle(&Event::Connected);
        assert_eq!(*link.borrow(), Link::Closed);
        assert_eq!(*losses.borrow(), 2);
    }
}
