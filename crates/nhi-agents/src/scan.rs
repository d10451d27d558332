//! The scanner: looks at Proxmox clusters, project manifests and the dependency graph, and writes what changed.
//!
//! Each source has a loop of its own; none waits for another and none ends for what it sees. Nothing here
//! decides what an observation means, and nothing here changes the lab.

mod cluster;
mod desk;
mod disk;
mod ledger;
mod refused;

pub use self::desk::{FirstPass, PassDone, Progress, SourceProgress};

use self::{
    cluster::{ClusterScan, Pace},
    desk::Bell,
    disk::{DiskScan, Place},
    ledger::Ledger,
};
use crate::proxmox::{connection, pass::Asker};
use futures::future::join_all;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    service::{Running, Service, ServiceError, Spec},
    view::{LiveView, View, ViewError},
};
use nhi_decide::observation::source_key;
use nhi_model::{
    call::{Effect, ScanDone, ScanNow, ScanState, ScanStatus},
    fault::{Fault, FaultCode},
    key::Key,
};
use nhi_pve::{Endpoint, Reader, TrustError};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};
use tokio::sync::watch;

/// One cluster or stand-alone host.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name in the configuration and in keys.
    pub name: String,
    /// Where it is and with what token.
    pub endpoint: Endpoint,
}

/// What the scanner needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// Directories whose children may be projects.
    pub project_roots: Vec<PathBuf>,
    /// The dependency graph's file.
    pub graph: PathBuf,
    /// Seconds between cheap looks.
    pub index_s: u64,
    /// Seconds between full passes.
    pub full_s: u64,
}

/// A running scanner.
#[derive(Debug)]
pub struct Handle {
    progress: watch::Receiver<Progress>,
    service: Running,
}

impl Handle {
    /// How far each source is, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Stops answering `scan.now` and `scan.status`; the loops stop with their context.
    pub async fn stop(self) {
        self.service.stop().await;
    }
}

/// Why the scanner did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be followed.
    #[error("follow the state for the scanner")]
    View(#[from] ViewError),
    /// A cluster's certificates cannot be used.
    #[error("prepare to read cluster {cluster}")]
    Trust {
        /// Which cluster.
        cluster: String,
        /// Why.
        source: TrustError,
    },
    /// The service cannot be offered.
    #[error("offer the scanner's service")]
    Service(#[from] ServiceError),
}

/// Starts the scanner: a loop for each source and the service `scan`.
///
/// # Errors
/// [`Error`]; what a source answers is never one.
pub async fn run(cx: &Cx, bus: Bus, options: Options) -> Result<Handle, Error> {
    let view = View::open(cx, &bus).await?;
    let live = LiveView::open(cx, &bus).await?;
    let ledger = Ledger::new(bus.clone(), view, live);
    let (sender, progress) = watch::channel(Progress::default());
    let pace = Pace::new(options.index_s, options.full_s);
    let mut bells = Vec::new();
    let mut readers = BTreeMap::new();
    let configured = options.clusters.iter().map(|cluster| cluster.name.clone()).collect();
    cx.spawn("scan", mark_unconfigured(cx.clone(), ledger.clone(), configured, pace));
    for Cluster { name, endpoint } in options.clusters {
        let failed = |source| Error::Trust { cluster: name.clone(), source };
        let place = endpoint.addresses().first().map(ToString::to_string).unwrap_or_default();
        let reader = Reader::new(endpoint).map_err(failed)?;
        let source = id_of(&source_key(&name));
        let (desk, bell) = desk::open_cluster(&source, &sender);
        bells.push(bell);
        readers.insert(source, reader.clone());
        let asker = Asker { reader, cluster: name, place };
        let scan = ClusterScan::new(asker, ledger.clone(), desk, pace);
        cx.spawn("scan", scan.run(cx.clone()));
    }
    for place in [Place::Projects(options.project_roots), Place::Graph(options.graph)] {
        let (desk, bell) = desk::open_files(place.source(), &sender);
        bells.push(bell);
        cx.spawn("scan", DiskScan::new(place, ledger.clone(), desk, pace).run(cx.clone()));
    }
    let service = service(bells, readers, progress.clone(), pace).start(cx, &bus).await?;
    Ok(Handle { progress, service })
}

/// Marks what is known of clusters that nobody looks at any more. Once is enough: the configuration is read at start.
async fn mark_unconfigured(stop: Cx, mut ledger: Ledger, configured: BTreeSet<String>, pace: Pace) {
    let mut wait = pace.index;
    loop {
        let marked = tokio::select! {
            () = stop.cancelled() => return,
            marked = ledger.mark_unconfigured(&configured) => marked,
        };
        match marked {
            Ok(()) => return,
            Err(refusal) => {
                tracing::debug!(agent = "scan", err = %refusal, "unconfigured clusters not marked, again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = wait.saturating_mul(2).min(pace.full);
    }
}

/// The id of a source, as `source.<id>` has it.
fn id_of(key: &Key) -> String {
    key.tokens().pop().unwrap_or_default()
}

fn service(
    bells: Vec<Bell>,
    readers: BTreeMap<String, Reader>,
    progress: watch::Receiver<Progress>,
    pace: Pace,
) -> Service {
    let looking = progress.clone();
    let now = Spec {
        endpoint: "now",
        effect: Effect::Read,
        description: "Look at everything now and say what the state is afterwards. Joins a full pass that runs.",
        stream: false,
    };
    let status = Spec {
        endpoint: "status",
        effect: Effect::Read,
        description: "Whether a full pass runs, what the last one did, and how each Proxmox cluster is read.",
        stream: false,
    };
    Service::new("scan", env!("CARGO_PKG_VERSION"), "Looks at Proxmox, projects and the dependency graph.")
        .endpoint(now, move |_, _: ScanNow| {
            let bells = bells.clone();
            async move { look_now(&bells).await }
        })
        .endpoint(status, move |_, _: ScanStatus| {
            let state = state_of(&looking.borrow(), &readers, pace);
            async move { Ok::<ScanState, Fault>(state) }
        })
}

/// Rings at every source and waits for all.
async fn look_now(bells: &[Bell]) -> Result<ScanDone, Fault> {
    let mut waiting = Vec::new();
    for bell in bells {
        let outcome = bell.ring().ok_or_else(|| {
            Fault::new(
                FaultCode::TooMany,
                format!("too many wait for a pass over {}", bell.source),
                "Ask again in a few seconds; the passes that run answer all who wait.",
            )
            .with("retry_after_s", 5)
        })?;
        waiting.push(async move { (bell.source.clone(), outcome.await) });
    }
    let mut done =
        ScanDone { revision: 0, writes: 0, duration_ms: 0, requests: 0, sources: Default::default() };
    for (source, outcome) in join_all(waiting).await {
        match outcome {
            Ok(Ok(pass)) => add(&mut done, source, &pass),
            Ok(Err(refusal)) => {
                let message = format!("what was seen of {source} could not be written: {refusal}");
                return Err(Fault::new(
                    FaultCode::Unavailable,
                    message,
                    "Ask again; the scanner tries by itself too.",
                ));
            }
            Err(_) => {
                let message = format!("the scan of {source} is stopping");
                return Err(Fault::new(FaultCode::Unavailable, message, "Ask again when the scanner runs."));
            }
        }
    }
    Ok(done)
}

/// Sources are looked at side by side: the slowest one's time counts, everything else adds up.
fn add(done: &mut ScanDone, source: String, pass: &PassDone) {
    done.revision = done.revision.max(pass.revision);
    done.writes = done.writes.saturating_add(pass.writes);
    done.duration_ms = done.duration_ms.max(pass.duration_ms);
    done.requests = done.requests.saturating_add(pass.requests);
    done.sources.insert(source, pass.coverage.clone());
}

fn state_of(progress: &Progress, readers: &BTreeMap<String, Reader>, pace: Pace) -> ScanState {
    let sources = || progress.sources.values();
    let mut last: Option<ScanDone> = None;
    for (name, source) in &progress.sources {
        if let Some(pass) = &source.last {
            let done = last.get_or_insert_with(|| ScanDone {
                revision: 0,
                writes: 0,
                duration_ms: 0,
                requests: 0,
                sources: Default::default(),
            });
            add(done, name.clone(), pass);
        }
    }
    ScanState {
        running: sources().any(|source| source.running),
        passes: sources().map(|source| source.passes).min().unwrap_or(0),
        last,
        last_at: sources().filter_map(|source| source.last_at).max(),
        index_s: pace.index.as_secs(),
        full_s: pace.full.as_secs(),
        refused: progress
            .sources
            .iter()
            .filter_map(|(name, source)| Some((name.clone(), source.refused.clone()?)))
            .collect(),
        connections: readers
            .iter()
            .map(|(name, reader)| (name.clone(), connection::connection(reader)))
            .collect(),
    }
}
