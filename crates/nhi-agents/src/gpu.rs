//! The publisher of a machine's GPU: looks what runs here, has the light judged, tells it to the mesh, and is the one
//! door to this machine's models. When the light turns red it acts here at once, bus or no bus: no new work, what runs
//! is cut or finished, models are unloaded, and that the memory is free is looked at, not believed.
//!
//! It judges nothing itself (`nhi_decide::semaphore` does), chooses no model, and keeps no request.

mod auth;
mod backend;
mod book;
mod forward;
mod free;
mod here;
mod relay;
mod slots;
mod tell;
mod watch;

pub use self::{
    backend::{Backend, BadBackend, Server},
    book::Shown,
    here::{Here, HereError, here, say_here},
};

use self::book::Book;
use nhi_bus::{connect::Bus, cx::Cx, server::ServerTls};
use nhi_decide::semaphore::Thresholds;
use nhi_model::{
    Timestamp,
    gpu::{GpuGauges, Relay},
    identity::IdentityName,
};
use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::watch as channel};

/// Between two looks: a game is seen well within a second.
pub const LOOK: Duration = Duration::from_millis(500);
/// Between two reports when the light does not change. Three may be lost before a reading is old.
pub const REPORT: Duration = Duration::from_secs(10);
/// Requests of ours that a machine works on at once.
pub const PARALLEL: usize = 4;

/// What the publisher needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine: the identity it reports as.
    pub host: IdentityName,
    /// What to look for.
    pub sensor: nhi_host::Settings,
    /// Where the light turns.
    pub thresholds: Thresholds,
    /// Between two looks.
    pub look: Duration,
    /// Between two reports.
    pub report: Duration,
    /// The door to its models; absent: nobody gets to them through us.
    pub relay: Option<RelayOptions>,
    /// Where commands on this machine and this agent leave word for each other: `.nhi/run`.
    pub run_dir: PathBuf,
}

/// The door to a machine's models.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate it shows; absent: plain HTTP, for the loopback alone.
    pub tls: Option<ServerTls>,
    /// How others reach it, when that is not where it listens.
    pub url: Option<String>,
    /// The address others reach this machine by, where it listens at all of them.
    pub address: Option<IpAddr>,
    /// Public keys of those who may, beside the ones the mesh tells.
    pub routers: BTreeSet<String>,
    /// The model server behind it.
    pub backend: Backend,
    /// What becomes of requests that run when the light turns red.
    pub on_red: OnRed,
    /// Requests that are worked on at once; more wait.
    pub parallel: usize,
}

/// What becomes of requests that run when the light turns red.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRed {
    /// They are cut at once; whoever asked goes on elsewhere.
    Cut,
    /// They may end, for half a minute.
    Finish,
}

/// A running publisher.
pub struct Handle {
    options: Arc<Options>,
    book: Book,
    relay: Option<SocketAddr>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("host", &self.options.host)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

/// Why the publisher did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The relay cannot listen.
    #[error(
        "listen at {listen} for the gpu relay: set [gpu] listen to an address of this machine that is free"
    )]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The relay would be open to the network without TLS.
    #[error(
        "listen at {listen} for the gpu relay without a certificate: beyond the loopback TLS is required"
    )]
    Open {
        /// Where.
        listen: SocketAddr,
    },
    /// Its certificate cannot be used.
    #[error("use the certificate {} for the gpu relay: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Starts to look and, where a model server is configured, the relay. It needs no mesh: see [`Handle::join`].
///
/// # Errors
/// [`Error`] when the relay cannot listen.
pub async fn run(cx: &Cx, options: Options) -> Result<Handle, Error> {
    let options = Arc::new(options);
    let said = here::said(&options.run_dir);
    let routers = options.relay.iter().flat_map(|relay| relay.routers.clone()).collect();
    let book = Book::new(Timestamp::now(), said, routers);
    let mut address = None;
    let mut told = None;
    if let Some(relay) = &options.relay {
        let door = relay::Door::open(options.host.as_str(), relay, &book).await?;
        address = Some(door.address);
        told = Some(door.told.clone());
        cx.spawn("gpu relay", relay::serve(cx.clone(), door));
    }
    book.relay.send_replace(told);
    let sensor = watch::Senses::open(options.sensor.clone());
    cx.spawn("gpu", watch::run(cx.clone(), options.clone(), sensor.clone(), book.clone()));
    if let Some(relay) = &options.relay {
        cx.spawn("gpu models", free::follow(cx.clone(), relay.backend.clone(), book.clone()));
        cx.spawn("gpu memory", free::run(cx.clone(), relay.clone(), sensor, book.clone()));
    }
    Ok(Handle { options, book, relay: address })
}

/// Tells a mesh what is seen.
#[derive(Clone, Debug)]
pub struct Reporter {
    options: Arc<Options>,
    book: Book,
}

impl Reporter {
    /// Tells, and hears what is told, over a connection with the machine's own identity, until the context stops.
    pub async fn run(self, cx: Cx, bus: Bus) {
        tell::run(cx, bus, self.options, self.book).await;
    }
}

impl Handle {
    /// Tells the mesh from now on, and hears what it is told.
    pub fn join(&self, cx: &Cx, bus: Bus) {
        cx.spawn("gpu reports", self.reporter().run(cx.clone(), bus));
    }

    /// Tells the mesh once it can be reached.
    pub fn reporter(&self) -> Reporter {
        Reporter { options: self.options.clone(), book: self.book.clone() }
    }

    /// What is seen, now and whenever it changes.
    pub fn shown(&self) -> channel::Receiver<Arc<Shown>> {
        self.book.shown.subscribe()
    }

    /// What is told of it.
    pub fn gauges(&self) -> GpuGauges {
        self.book.gauges()
    }

    /// Where the relay listens.
    pub fn relay(&self) -> Option<SocketAddr> {
        self.relay
    }

    /// Where others reach the relay.
    pub fn told(&self) -> Option<Relay> {
        self.book.relay.borrow().clone()
    }
}

/// Opens a socket for the relay.
async fn listen(listen: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(listen).await.map_err(|source| Error::Listen { listen, source })
}
