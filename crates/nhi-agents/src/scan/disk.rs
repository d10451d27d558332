//! The loops of the sources that are files: project manifests and the dependency graph. A look that hangs (a
//! dead network mount) is a source that is not seen, not a scanner that hangs.

mod look;

use self::look::Shelf;
use super::{
    cluster::Pace,
    desk::{Desk, Outcome, PassDone},
    ledger::{self, Ledger},
    refused::Refusals,
};
use crate::fits;
use nhi_bus::cx::Cx;
use nhi_decide::{
    graph::{self, FileRead},
    manifest::{self, ProjectsRead},
};
use nhi_model::{
    Timestamp,
    identity::Agent,
    key::{Key, Section},
    live::SourceGauges,
    source::Coverage,
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::task::JoinHandle;

/// How long a look may take. Local disks take milliseconds.
const LOOK_MAX: Duration = Duration::from_secs(10);

/// How long the first look waits for the clusters' first passes. The state's first revision should show the lab:
/// whoever mirrors it would else show a home without machines for a moment.
const CLUSTERS_FIRST_MAX: Duration = Duration::from_secs(60);

/// What is looked at.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// Directories whose children may be projects.
    Projects(Vec<PathBuf>),
    /// The dependency graph's file.
    Graph(PathBuf),
}

impl Place {
    /// Id of the source.
    pub(super) const fn source(&self) -> &'static str {
        match self {
            Self::Projects(_) => manifest::SOURCE,
            Self::Graph(_) => graph::SOURCE,
        }
    }

    /// Whether a record comes from here.
    fn holds(&self, key: &Key) -> bool {
        match self {
            Self::Projects(_) => key.section() == Section::Project,
            Self::Graph(_) => key.section() == Section::Graph,
        }
    }
}

/// What a look found.
#[derive(Debug)]
enum Found {
    Projects(ProjectsRead),
    Graph(FileRead),
}

/// One source on disk.
#[derive(Debug)]
pub(super) struct DiskScan {
    place: Place,
    ledger: Ledger,
    desk: Desk,
    pace: Pace,
    /// Files as last read; away while a look uses them.
    shelf: Option<Shelf>,
    /// A look that has not come back yet.
    looking: Option<JoinHandle<(Shelf, Found)>>,
    last_success: Option<Timestamp>,
    last_told: Option<Instant>,
    refusals: Refusals,
}

impl DiskScan {
    pub(super) fn new(place: Place, ledger: Ledger, desk: Desk, pace: Pace) -> Self {
        let refusals = Refusals::new(place.source());
        Self {
            place,
            ledger,
            desk,
            pace,
            shelf: Some(Shelf::default()),
            looking: None,
            last_success: None,
            last_told: None,
            refusals,
        }
    }

    /// Looks as often as clusters are looked at cheaply: an unchanged file costs one call to the kernel.
    pub(super) async fn run(mut self, stop: Cx) {
        tokio::select! {
            () = stop.cancelled() => return,
            () = self.desk.clusters_first(CLUSTERS_FIRST_MAX) => {}
        }
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.desk.asked() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            self.desk.begin();
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.pass() => outcome,
            };
            self.tell(&outcome);
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.refusals.take(&mut self.ledger, &outcome) => {}
            }
            self.desk.finish(&outcome, Timestamp::now());
            due = Instant::now() + Pace::jittered(self.pace.index);
        }
    }

    fn tell(&self, outcome: &Outcome) {
        if let Ok(done) = outcome
            && done.writes > 0
        {
            tracing::info!(agent = "scan", key = self.place.source(), rev = done.revision, "changes written");
        }
    }

    async fn pass(&mut self) -> Outcome {
        if let Some(refusal) = self.ledger.refusal() {
            return Err(refusal);
        }
        let began = Instant::now();
        let at = Timestamp::now();
        let found = self.look(at).await;
        let state = self.ledger.state().await?;
        let known = ledger::known(&state, is_mine);
        let changes = match (&found, &self.place) {
            (Found::Projects(read), _) => manifest::project_changes(&known, read),
            (Found::Graph(read), Place::Graph(file)) => {
                graph::graph_changes(&known, at, &file.display().to_string(), read)
            }
            (Found::Graph(_), Place::Projects(_)) => Vec::new(),
        };
        let place = &self.place;
        let changes = fits::fit(&state, changes, at, |key| place.holds(key)).changes;
        let written = self.ledger.commit(&state, &changes).await?;
        let source = Key::source(self.place.source());
        let done = PassDone {
            revision: written.revision,
            writes: written.messages,
            duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            requests: 0,
            coverage: ledger::coverage(&state, &changes, &source).unwrap_or(Coverage::Complete),
        };
        self.gauges(at, &done).await;
        Ok(done)
    }

    /// What stands on the disk, or that it does not answer.
    async fn look(&mut self, at: Timestamp) -> Found {
        let is_known = self.ledger.hint().records.contains_key(&Key::graph());
        if let Some(mut shelf) = self.shelf.take() {
            let place = self.place.clone();
            self.looking = Some(tokio::task::spawn_blocking(move || {
                let found = match place {
                    Place::Projects(roots) => Found::Projects(look::projects(&mut shelf, &roots, at)),
                    Place::Graph(file) => Found::Graph(look::graph(&mut shelf, &file, is_known)),
                };
                (shelf, found)
            }));
        }
        let reason = match &mut self.looking {
            Some(looking) => match tokio::time::timeout(LOOK_MAX, looking).await {
                Ok(Ok((shelf, found))) => {
                    self.shelf = Some(shelf);
                    self.looking = None;
                    return found;
                }
                Ok(Err(error)) => {
                    self.shelf = Some(Shelf::default());
                    self.looking = None;
                    tracing::error!(agent = "scan", err = %error, "look at files failed");
                    "looking at it failed; the log of nhi has more"
                }
                Err(_) => "it does not answer",
            },
            None => "it was not looked at",
        };
        self.unseen(at, reason)
    }

    fn unseen(&self, at: Timestamp, reason: &str) -> Found {
        match &self.place {
            Place::Projects(roots) => {
                let unseen = |root: &PathBuf| {
                    (root.display().to_string(), Coverage::Unseen { reason: reason.to_owned() })
                };
                let roots = roots.iter().map(unseen).collect();
                Found::Projects(ProjectsRead { at, roots, found: Vec::new() })
            }
            Place::Graph(_) => Found::Graph(FileRead::Unreadable(format!(
                "the dependency graph could not be read: {reason}"
            ))),
        }
    }

    /// Tells the source's gauges at the pace of full passes: they are what the mirror and readers go by.
    async fn gauges(&mut self, at: Timestamp, done: &PassDone) {
        let now = Timestamp::now();
        if done.coverage.is_complete() {
            self.last_success = Some(now);
        }
        let told_lately = self.last_told.is_some_and(|told| told.elapsed() < self.pace.full);
        if told_lately && done.writes == 0 {
            return;
        }
        let gauges = SourceGauges {
            last_attempt: at,
            last_success: self.last_success,
            duration_ms: done.duration_ms,
            requests: 0,
        };
        let record = serde_json::to_value(gauges).expect("gauges are plain numbers and times");
        self.ledger.gauges(BTreeMap::from([(Key::source(self.place.source()), record)]), now).await;
        self.last_told = Some(Instant::now());
    }
}

/// The records these sources decide about.
fn is_mine(key: &Key) -> bool {
    match key.section() {
        Section::Project | Section::Graph | Section::Source => true,
        Section::Alert => key.tokens().first().is_some_and(|owner| owner == Agent::Scan.as_str()),
        Section::Node
        | Section::Vm
        | Section::Lxc
        | Section::Storage
        | Section::Host
        | Section::Gpu
        | Section::Docker
        | Section::Provider => false,
    }
}
