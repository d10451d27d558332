//! Keeps one nats-server running: restarts it when it dies, with growing pauses, at the port it had.
//!
//! It writes no configuration, but for the accounts before each restart: as [`crate::accounts`] renders what is
//! recorded by then. On a system without signals (Windows) a reload is an error.

use super::{
    locate::ServerBinary,
    plan::ServerPlan,
    process::{self, ReloadError, ServerProcess, StartError},
};
use crate::{accounts, cx::Cx, private::Lock};
use std::{
    io,
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Mutex, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

/// The first pause before a restart. A crash by chance is over at once.
const PAUSE_MS_MIN: u64 = 100;
/// The longest pause: a full disk or a taken port is looked at again this often.
const PAUSE_MS_MAX: u64 = 10_000;
/// A server that ran this long has proved that it can; the next pause is the first again.
const PROVED_SECONDS: u64 = 60;

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// It runs under this process id.
    Up {
        /// Process id.
        pid: u32,
    },
    /// It died and is about to be started again.
    Down,
    /// It was told to end, and did.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    state: ServerState,
    restarts: u64,
}

/// A nats-server that is kept running. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Supervisor {
    plan: Arc<ServerPlan>,
    port: u16,
    seen: watch::Receiver<Seen>,
    stop: CancellationToken,
    reloading: Arc<Mutex<()>>,
}

impl Supervisor {
    /// Starts the server with the configuration file of the plan, and keeps it running until
    /// [`Supervisor::stop`] or until the context is cancelled. Give it a context that ends after everybody
    /// who uses the bus.
    ///
    /// # Errors
    /// [`StartError`] when the first start fails, or another process supervises the same directory.
    pub async fn start(cx: &Cx, binary: ServerBinary, plan: ServerPlan) -> Result<Self, StartError> {
        crate::private::ensure_dir(plan.files.dir())?;
        crate::private::ensure_dir(&plan.files.run())?;
        let lock = Lock::try_acquire(&plan.files.run().join("nats-server.lock"))?
            .ok_or_else(|| StartError::AlreadySupervised { dir: plan.files.dir().to_owned() })?;
        let server = ServerProcess::start(&binary, &plan).await?;
        tracing::info!(version = %binary.version, url = %server.url(), "nats-server runs");
        let first = Seen { state: ServerState::Up { pid: server.pid() }, restarts: 0 };
        let (told, seen) = watch::channel(first);
        let stop = CancellationToken::new();
        let (port, plan) = (server.port(), Arc::new(plan));
        let keeper = Keeper { cx: cx.clone(), binary, plan: plan.clone(), port, told, stop: stop.clone() };
        cx.spawn("nats-server", async move {
            let _lock = lock;
            keeper.run(server).await;
        });
        Ok(Self { plan, port, seen, stop, reloading: Arc::default() })
    }

    /// The URL by which this machine reaches the server. It stays the same over restarts.
    pub fn url(&self) -> String {
        self.plan.listen.url(self.port)
    }

    /// The port it listens on.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// How often it was started again.
    pub fn restarts(&self) -> u64 {
        self.seen.borrow().restarts
    }

    /// What it is doing now.
    pub fn state(&self) -> ServerState {
        self.seen.borrow().state
    }

    /// Waits until the server's state is as asked; returns it. Cancel safe.
    pub async fn wait_until(&self, mut is: impl FnMut(ServerState) -> bool) -> ServerState {
        let mut seen = self.seen.clone();
        match seen.wait_for(|seen| is(seen.state)).await {
            Ok(seen) => seen.state,
            // The keeper is gone, so nothing will change any more.
            Err(_) => ServerState::Stopped,
        }
    }

    /// Makes the server read its configuration file again, and waits until it says that it did. One reload
    /// runs at a time.
    ///
    /// # Errors
    /// [`ReloadError`]; after [`ReloadError::Refused`] the configuration from before is in force.
    pub async fn reload(&self) -> Result<(), ReloadError> {
        let _one_at_a_time = self.reloading.lock().await;
        let ServerState::Up { pid } = self.state() else { return Err(ReloadError::NotRunning) };
        process::reload(pid, &self.plan.files).await
    }

    /// Ends the server in good order and waits for that. Drain and close the connections first.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.wait_until(|state| state == ServerState::Stopped).await;
    }
}

/// The task that owns the process.
struct Keeper {
    cx: Cx,
    binary: ServerBinary,
    plan: Arc<ServerPlan>,
    port: u16,
    told: watch::Sender<Seen>,
    stop: CancellationToken,
}

impl Keeper {
    async fn run(self, first: ServerProcess) {
        let mut server = first;
        loop {
            let began = Instant::now();
            let ended = tokio::select! {
                ended = server.wait() => ended,
                () = self.told_to_stop() => {
                    server.stop().await;
                    break;
                }
            };
            self.tell(|seen| seen.state = ServerState::Down);
            warn_of(&ended);
            let Some(next) = self.start_again(began.elapsed()).await else { break };
            server = next;
            tracing::info!(pid = server.pid(), "nats-server runs again");
            let pid = server.pid();
            self.tell(|seen| {
                seen.state = ServerState::Up { pid };
                seen.restarts += 1;
            });
        }
        self.tell(|seen| seen.state = ServerState::Stopped);
    }

    fn tell(&self, change: impl FnOnce(&mut Seen)) {
        self.told.send_modify(change);
    }

    async fn told_to_stop(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.cx.cancelled() => {}
        }
    }

    /// Tries until it runs; nothing when told to stop meanwhile.
    async fn start_again(&self, ran: Duration) -> Option<ServerProcess> {
        let mut pause_ms = if ran.as_secs() >= PROVED_SECONDS { 0 } else { PAUSE_MS_MIN };
        loop {
            let attempt = async {
                sleep(Duration::from_millis(pause_ms)).await;
                if let Err(error) = accounts::refresh(&self.plan.files).await {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(err = %error, source, "accounts not rendered before the restart");
                }
                ServerProcess::start_at(&self.binary, &self.plan, self.port).await
            };
            let outcome = tokio::select! {
                outcome = attempt => outcome,
                () = self.told_to_stop() => return None,
            };
            match outcome {
                Ok(server) => return Some(server),
                Err(error) => {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(err = %error, source, "nats-server cannot be started again");
                }
            }
            pause_ms = (pause_ms * 2).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
        }
    }
}

fn warn_of(ended: &io::Result<ExitStatus>) {
    match ended {
        Ok(status) => tracing::warn!(%status, "nats-server ended by itself"),
        Err(error) => tracing::warn!(err = %error, "nats-server cannot be waited for"),
    }
}
