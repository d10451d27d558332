//! Connections to the mesh made as the callers themselves, kept for their next request. It forwards nothing.
//!
//! A seed is looked at, used to connect, and dropped; what stays is its hash and, inside the connection, what the
//! client needs to sign again. Ten idle minutes wipe that too.

use crate::{
    credential::Fingerprint,
    directory::Directory,
    slots::{Put, Slots},
};
use nhi_bus::{
    connect::{Bus, ConnectError, Target},
    cx::Cx,
    keys::Seed,
};
use nhi_model::identity::Role;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// Connections kept at once: more identities than a home has, and few enough for a small machine.
pub(crate) const CONNECTIONS_MAX: usize = 64;
/// How long an unused one is kept.
const IDLE: Duration = Duration::from_secs(600);
/// How often unused ones are looked for.
const SWEEP: Duration = Duration::from_secs(30);
/// Connections being made at once: each is a handshake with nats-server.
const CONNECTING_MAX: usize = 8;
/// How long a request waits for its turn to connect; a handshake takes milliseconds.
const TURN_MAX: Duration = Duration::from_secs(5);

/// A caller's own connection.
#[derive(Debug)]
pub(crate) struct Caller {
    /// The connection; its name is the caller's.
    pub(crate) bus: Bus,
    pub(crate) public_key: String,
}

impl Caller {
    /// Whether nothing comes of its connection any more.
    pub(crate) fn is_over(&self) -> bool {
        self.bus.link().borrow().is_over()
    }
}

/// Why a seed opens nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("the credential is of no identity of this mesh")]
    Unknown,
    #[error("all {CONNECTIONS_MAX} connections are in use")]
    Busy,
    #[error("the mesh cannot be asked whose credential this is")]
    Unavailable,
}

/// The kept connections.
#[derive(Debug)]
pub(crate) struct Connections {
    cx: Cx,
    target: Target,
    directory: Directory,
    slots: Mutex<Slots<Caller>>,
    connecting: Semaphore,
}

impl Connections {
    /// An empty set, and the task that sweeps it until `cx` stops.
    pub(crate) fn start(cx: &Cx, target: Target, own: Bus) -> Arc<Self> {
        let this = Arc::new(Self {
            cx: cx.clone(),
            target,
            directory: Directory::new(own),
            slots: Mutex::new(Slots::new(CONNECTIONS_MAX)),
            connecting: Semaphore::new(CONNECTING_MAX),
        });
        let (sweeper, stop) = (this.clone(), cx.clone());
        cx.spawn("gateway.sweep", async move {
            let mut pace = tokio::time::interval(SWEEP);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = pace.tick() => sweeper.sweep(),
                }
            }
        });
        this
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.with_slots(|slots| slots.len())
    }

    /// The connection of whoever has this seed, made when there is none.
    pub(crate) async fn of(&self, seed: &Seed) -> Result<Arc<Caller>, AccessError> {
        let fingerprint = Fingerprint::of(seed);
        let kept = self.with_slots(|slots| slots.get(&fingerprint, Instant::now()));
        match kept {
            Some(caller) if self.is_good(&caller).await => Ok(caller),
            Some(caller) => {
                self.forget(&caller);
                self.connect(seed, fingerprint).await
            }
            None => self.connect(seed, fingerprint).await,
        }
    }

    /// Drops a connection whose caller was revoked; true when that is so. Asked after a call that failed.
    pub(crate) async fn is_revoked(&self, caller: &Arc<Caller>) -> bool {
        let is_listed = self.directory.name_now(&caller.public_key).await;
        let is_revoked = caller.is_over() || matches!(is_listed, Ok(None));
        if is_revoked {
            self.forget(caller);
        }
        is_revoked
    }

    /// The role of a caller as last seen, for people to read.
    pub(crate) fn role_of(&self, caller: &Caller) -> Option<Role> {
        self.directory.role_of(&caller.public_key)
    }

    /// Closes everything. The set stays usable, but whoever uses it then is late.
    pub(crate) async fn close(&self) {
        for caller in self.with_slots(Slots::drain) {
            caller.bus.close().await;
        }
    }

    /// A kept connection is good while its key is still that name's. When the mesh cannot be asked, it stays: what it
    /// may do is nats-server's to say, and a revoked one is closed there.
    pub(crate) async fn is_good(&self, caller: &Caller) -> bool {
        if caller.is_over() {
            return false;
        }
        match self.directory.name_of(&caller.public_key).await {
            Ok(name) => name.as_ref() == Some(caller.bus.me()),
            Err(_) => true,
        }
    }

    async fn connect(&self, seed: &Seed, fingerprint: Fingerprint) -> Result<Arc<Caller>, AccessError> {
        let public_key = seed.public_key();
        let name = self.directory.name_of(&public_key).await.map_err(|error| {
            tracing::debug!(err = %error, "identities are not known");
            AccessError::Unavailable
        })?;
        let name = name.ok_or(AccessError::Unknown)?;
        let turn = tokio::time::timeout(TURN_MAX, self.connecting.acquire()).await;
        let _turn = turn.map_err(|_| AccessError::Busy)?.expect("the semaphore is never closed");
        // Another request of the same caller may have connected meanwhile.
        if let Some(caller) = self.with_slots(|slots| slots.get(&fingerprint, Instant::now())) {
            return Ok(caller);
        }
        let bus = Bus::connect(&self.cx, &self.target, &name, seed).await.map_err(|error| {
            tracing::debug!(agent = %name, err = %error, "caller not connected");
            match error {
                ConnectError::WrongKey { .. } | ConnectError::WrongName { .. } => AccessError::Unknown,
                _ => AccessError::Unavailable,
            }
        })?;
        tracing::debug!(agent = %name, "caller connected");
        let caller = Arc::new(Caller { bus, public_key });
        match self.with_slots(|slots| slots.put(fingerprint, caller.clone(), Instant::now())) {
            Put::Done { evicted } => {
                self.close_later(evicted);
                Ok(caller)
            }
            Put::Lost { kept } => {
                self.close_later([caller]);
                Ok(kept)
            }
            Put::Full => {
                self.close_later([caller]);
                Err(AccessError::Busy)
            }
        }
    }

    fn sweep(&self) {
        let swept = self.with_slots(|slots| slots.sweep(Instant::now(), IDLE, Caller::is_over));
        self.close_later(swept);
    }

    fn forget(&self, caller: &Arc<Caller>) {
        let removed = self.with_slots(|slots| slots.remove(caller));
        self.close_later(removed);
    }

    /// Closing waits for the server; whoever makes room does not.
    fn close_later(&self, callers: impl IntoIterator<Item = Arc<Caller>>) {
        for caller in callers {
            self.cx.spawn("gateway.close", async move {
                caller.bus.close().await;
                tracing::debug!(agent = %caller.bus.me(), "caller's connection closed");
            });
        }
    }

    fn with_slots<R>(&self, work: impl FnOnce(&mut Slots<Caller>) -> R) -> R {
        work(&mut self.slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
