//! The open sessions, in memory alone: a restart signs everybody out. They are found by a hash of their id, so that how
//! long a search takes tells nothing about the ids. It reads no request.

use crate::connections::Caller;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nhi_bus::cx::Cx;
use nhi_model::{Timestamp, identity::Role};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use subtle::ConstantTimeEq as _;
use tokio::{sync::watch, time::Instant};

/// Longest that a session lasts.
pub(super) const HOURS_MAX: u64 = 12;
/// Longest that it lasts unused.
const IDLE_MAX: Duration = Duration::from_secs(3_600);
/// How often sessions that are over are looked for: until then they keep their connection.
const SWEEP: Duration = Duration::from_secs(30);
/// Sessions at once: some for each device of everybody in the house.
const SESSIONS_MAX: usize = 256;
/// Of one identity; the one that was not used for longest makes room.
const EACH_MAX: usize = 16;
/// 256 bits.
const ID_BYTES: usize = 32;

type Key = [u8; 32];

/// The open sessions.
pub(crate) struct Sessions {
    kept: Mutex<BTreeMap<Key, Session>>,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

struct Session {
    caller: Arc<Caller>,
    role: Option<Role>,
    csrf: String,
    opened: Instant,
    expires_at: Timestamp,
    last_used: Instant,
    /// Dropped with the session: whoever holds a receiver learns of its end.
    over: watch::Sender<()>,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        self.caller.is_over() || is_old(self.opened, self.last_used, now)
    }
}

/// Whether a session lasted as long as one may, or was not used for too long.
fn is_old(opened: Instant, last_used: Instant, now: Instant) -> bool {
    let since = |then: Instant| now.saturating_duration_since(then);
    since(opened) >= Duration::from_secs(HOURS_MAX * 3_600) || since(last_used) >= IDLE_MAX
}

/// A session as a request finds it.
pub(crate) struct Opened {
    pub(super) id: String,
    pub(super) caller: Arc<Caller>,
    pub(super) role: Option<Role>,
    pub(super) expires_at: Timestamp,
    pub(super) csrf: String,
    pub(super) hold: Hold,
}

impl Opened {
    /// Whether this is its secret, in a time that tells nothing.
    pub(super) fn is_csrf(&self, shown: &[u8]) -> bool {
        self.csrf.as_bytes().ct_eq(shown).into()
    }
}

impl Sessions {
    /// None yet, and a task that ends them until `cx` stops.
    pub(crate) fn start(cx: &Cx) -> Arc<Self> {
        let this = Arc::new(Self { kept: Mutex::default() });
        let (sweeper, stop) = (this.clone(), cx.clone());
        cx.spawn("gateway.sessions", async move {
            let mut pace = tokio::time::interval(SWEEP);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return sweeper.with(BTreeMap::clear),
                    now = pace.tick() => sweeper.with(|kept| kept.retain(|_, session| !session.is_over(now))),
                }
            }
        });
        this
    }

    /// Opens one; `None` when there are too many.
    pub(super) fn open(
        self: &Arc<Self>,
        caller: Arc<Caller>,
        role: Option<Role>,
        now: Instant,
    ) -> Option<Opened> {
        let (id, csrf) = (random(), random());
        let hours = i64::try_from(HOURS_MAX).expect("it is 12");
        let expires_at = Timestamp::now() + jiff::SignedDuration::from_hours(hours);
        let over = watch::Sender::new(());
        let hold = self.hold(&id, &over);
        let session = Session {
            caller: caller.clone(),
            role,
            csrf: csrf.clone(),
            opened: now,
            expires_at,
            last_used: now,
            over,
        };
        let is_in = self.with(|kept| {
            kept.retain(|_, session| !session.is_over(now));
            let me = caller.bus.me();
            let own = || kept.iter().filter(|(_, session)| session.caller.bus.me() == me);
            if own().count() >= EACH_MAX {
                let oldest = own().min_by_key(|(_, session)| session.last_used).map(|(key, _)| *key);
                oldest.and_then(|key| kept.remove(&key));
            }
            let has_room = kept.len() < SESSIONS_MAX;
            if has_room {
                kept.insert(key_of(&id), session);
            }
            has_room
        });
        is_in.then_some(Opened { id, caller, role, expires_at, csrf, hold })
    }

    /// Finds one, and marks it used.
    pub(super) fn find(self: &Arc<Self>, id: &str, now: Instant) -> Option<Opened> {
        let key = key_of(id);
        self.with(|kept| {
            if kept.get(&key)?.is_over(now) {
                kept.remove(&key);
                return None;
            }
            let session = kept.get_mut(&key)?;
            session.last_used = now;
            let (caller, csrf) = (session.caller.clone(), session.csrf.clone());
            Some(Opened {
                id: id.to_owned(),
                caller,
                role: session.role,
                expires_at: session.expires_at,
                csrf,
                hold: self.hold(id, &session.over),
            })
        })
    }

    /// Ends one.
    pub(super) fn remove(&self, id: &str) {
        let key = key_of(id);
        self.with(|kept| kept.remove(&key));
    }

    fn hold(self: &Arc<Self>, id: &str, over: &watch::Sender<()>) -> Hold {
        Hold { sessions: self.clone(), key: key_of(id), over: over.subscribe() }
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<Key, Session>) -> R) -> R {
        work(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// An answer that goes on belongs to its session: it keeps it in use, and ends with it.
#[derive(Debug)]
pub(crate) struct Hold {
    sessions: Arc<Sessions>,
    key: Key,
    over: watch::Receiver<()>,
}

impl Hold {
    /// Whether the session is over by now.
    pub(super) fn is_over(&self) -> bool {
        self.over.has_changed().is_err()
    }

    /// Returns when the session is over. Cancel safe.
    pub(crate) async fn over(&mut self) {
        // Nothing is ever sent: only the end of the sender ends this.
        while self.over.changed().await.is_ok() {}
    }

    /// Somebody still listens.
    pub(crate) fn touch(&self) {
        let now = Instant::now();
        self.sessions.with(|kept| {
            if let Some(session) = kept.get_mut(&self.key) {
                session.last_used = now;
            }
        });
    }
}

fn random() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; ID_BYTES]>())
}

fn key_of(id: &str) -> Key {
    Sha256::digest(id).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_lasts_twelve_hours_and_unused_one() {
        let (opened, minute) = (Instant::now(), Duration::from_secs(60));
        let check = |used: u32, now: u32| is_old(opened, opened + used * minute, opened + now * minute);
        assert!(!check(0, 0) && !check(0, 59) && !check(30, 89) && !check(719, 719));
        assert!(check(0, 60) && check(30, 90), "unused for an hour");
        assert!(check(720, 720), "used to the last, and over");
    }

    #[test]
    fn ids_are_long_and_not_the_same() {
        let (one, two) = (random(), random());
        assert!(one.len() == 43 && one != two, "{one} {two}");
        assert!(key_of(&one) == key_of(&one) && key_of(&one) != key_of(&two));
    }
}
