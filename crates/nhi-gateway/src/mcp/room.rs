//! The sessions of one identity: how many there may be, and when one that nobody uses any more is over. It answers
//! nothing itself.

use super::server::{Desk, Server};
use nhi_model::{
    call::PAYLOAD_BYTES_MAX,
    fault::{Fault, FaultCode},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService,
    session::{SessionManager as _, local::LocalSessionManager},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// Sessions of one identity at once: an agent has one or two, and each is a task and some buffers.
const SESSIONS_MAX: usize = 64;
/// A session without a request or an open stream for so long is over: its client is gone.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(3_600);
/// The same when somebody needs the place.
const IDLE_WHEN_FULL: Duration = Duration::from_secs(300);
/// How long the end of a session is waited for.
const END_WAIT: Duration = Duration::from_secs(5);
/// When to come again, for who came when all were taken.
const RETRY_SECONDS: u64 = 30;

type Service = StreamableHttpService<Server, LocalSessionManager>;

/// The sessions of one identity.
pub(super) struct Room {
    pub(super) service: Service,
    sessions: Arc<LocalSessionManager>,
    /// Requests under way that may begin a session.
    beginning: AtomicUsize,
    uses: Arc<Uses>,
}

/// A place for a session that begins, until it counts by itself.
pub(super) struct Place(Arc<Room>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.beginning.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Room {
    pub(super) fn new(desk: &Arc<Desk>, stop: CancellationToken) -> Arc<Self> {
        let desk = desk.clone();
        let mut sessions = LocalSessionManager::default();
        // What counts there is also what we tell, and not a call that takes long: `end_idle` knows better.
        sessions.session_config.keep_alive = None;
        let sessions = Arc::new(sessions);
        // Host and Origin are the guard's to judge, before anything comes here.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_max_request_body_bytes(PAYLOAD_BYTES_MAX)
            .with_cancellation_token(stop);
        let service =
            StreamableHttpService::new(move || Ok(Server::new(desk.clone(), None)), sessions.clone(), config);
        Arc::new(Self { service, sessions, beginning: AtomicUsize::new(0), uses: Arc::default() })
    }

    /// A place for one more session. When there is none, sessions that nobody uses make room.
    pub(super) async fn begin(self: &Arc<Self>) -> Result<Place, Fault> {
        if let Some(place) = self.place().await {
            return Ok(place);
        }
        self.end_idle(IDLE_WHEN_FULL).await;
        self.place().await.ok_or_else(|| {
            let message = format!("{SESSIONS_MAX} sessions of this identity are open");
            Fault::new(FaultCode::TooMany, message, "close one (DELETE), or wait five minutes")
                .with("retry_after_s", RETRY_SECONDS)
        })
    }

    async fn place(self: &Arc<Self>) -> Option<Place> {
        // Counted before the sessions are: whoever gives a place back has a session by then.
        let others = self.beginning.fetch_add(1, Ordering::SeqCst);
        let place = Place(self.clone());
        let open = self.sessions.sessions.read().await.len();
        (others + open < SESSIONS_MAX).then_some(place)
    }

    /// Marks a session as in use, when there is one of this id.
    pub(super) async fn used(&self, id: &str) -> Option<Use> {
        let is_there = self.sessions.sessions.read().await.contains_key(id);
        is_there.then(|| Uses::begin(&self.uses, id))
    }

    /// Ends the sessions that nobody has used for so long.
    pub(super) async fn end_idle(&self, max: Duration) {
        let ids: Vec<Arc<str>> = self.sessions.sessions.read().await.keys().cloned().collect();
        for id in self.uses.idle(&ids, Instant::now(), max) {
            let ending = self.sessions.close_session(&id);
            match tokio::time::timeout(END_WAIT, ending).await {
                Ok(Ok(())) => tracing::debug!("idle session ended"),
                Ok(Err(error)) => tracing::debug!(err = %error, "idle session did not end well"),
                Err(_) => tracing::debug!("idle session did not end in time"),
            }
        }
    }

    /// Whether it can be forgotten. One that is looked at just now cannot.
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.sessions.try_read().is_ok_and(|sessions| sessions.is_empty())
    }
}

/// When each session was used last.
#[derive(Debug, Default)]
struct Uses(Mutex<BTreeMap<Arc<str>, Used>>);

#[derive(Clone, Copy, Debug)]
struct Used {
    /// Requests and streams under way.
    open: usize,
    at: Instant,
}

/// A request of a session, or a stream. The session is in use until this is dropped.
#[derive(Debug)]
pub(super) struct Use {
    uses: Arc<Uses>,
    id: Arc<str>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.uses.with(|uses| {
            if let Some(used) = uses.get_mut(&self.id) {
                *used = Used { open: used.open.saturating_sub(1), at: Instant::now() };
            }
        });
    }
}

impl Uses {
    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<Arc<str>, Used>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(this: &Arc<Self>, id: &str) -> Use {
        let id: Arc<str> = id.into();
        this.with(|uses| uses.entry(id.clone()).or_insert(Used { open: 0, at: Instant::now() }).open += 1);
        Use { uses: this.clone(), id }
    }

    /// Which of all sessions nobody has used for so long. One that is seen for the first time is used now.
    fn idle(&self, all: &[Arc<str>], now: Instant, max: Duration) -> Vec<Arc<str>> {
        self.with(|uses| {
            uses.retain(|id, used| used.open > 0 || all.contains(id));
            let mut idle = Vec::new();
            for id in all {
                let used = *uses.entry(id.clone()).or_insert(Used { open: 0, at: now });
                if used.open == 0 && now.saturating_duration_since(used.at) >= max {
                    idle.push(id.clone());
                }
            }
            idle
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_idle_when_nothing_of_it_is_under_way_for_long() {
        let uses = Arc::<Uses>::default();
        let all: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        let (now, max) = (Instant::now(), Duration::from_secs(300));
        assert!(uses.idle(&all, now, max).is_empty(), "seen for the first time");
        let (call, stream) = (Uses::begin(&uses, "a"), Uses::begin(&uses, "a"));
        let later = now + 2 * max;
        assert_eq!(uses.idle(&all, later, max), ["b".into()], "a call that takes long is use");
        drop(call);
        assert_eq!(uses.idle(&all, later, max), ["b".into()], "and so is a stream");
        drop(stream);
        assert_eq!(uses.idle(&all, Instant::now() + max, max), all);
        assert!(uses.idle(&[], later, max).is_empty());
        assert!(uses.with(|uses| uses.is_empty()), "sessions that are over are forgotten");
    }
}
