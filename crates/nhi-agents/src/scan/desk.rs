//! Where one source's full passes are asked for and reported: calls that come while one runs join it. It runs
//! no pass itself.

use super::{ledger::Refusal, refused};
use nhi_model::{Timestamp, source::Coverage};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::{mpsc, oneshot, watch};

/// Callers that may wait for one pass.
const WAITING_MAX: usize = 256;

/// How far the scanner is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// Each source, by its id.
    pub sources: BTreeMap<String, SourceProgress>,
}

impl Progress {
    /// Whether every source has had its first full pass, well or not.
    pub fn is_ready(&self) -> bool {
        self.sources.values().all(|source| source.first_pass != FirstPass::Awaited)
    }

    /// Revision that shows the first pass of every source that succeeded.
    pub fn revision(&self) -> u64 {
        let done = self.sources.values().filter_map(|source| match source.first_pass {
            FirstPass::Done { revision } => Some(revision),
            FirstPass::Awaited | FirstPass::Failed { .. } => None,
        });
        done.max().unwrap_or(0)
    }
}

/// How far one source is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SourceProgress {
    /// Whether it is a cluster, and not files.
    pub is_cluster: bool,
    /// Its first full pass.
    pub first_pass: FirstPass,
    /// Whether a full pass runs now.
    pub running: bool,
    /// Full passes that ended, well or not.
    pub passes: u64,
    /// The last one that was committed.
    pub last: Option<PassDone>,
    /// When that ended, UTC.
    pub last_at: Option<Timestamp>,
    /// Full passes in a row that could not be written.
    pub refusals: u32,
    /// Why, while there are several.
    pub refused: Option<String>,
}

/// A source's first full pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirstPass {
    /// It has not ended.
    #[default]
    Awaited,
    /// It is committed.
    Done {
        /// Revision of the state after it.
        revision: u64,
    },
    /// It could not see anything, or not be committed. A later pass may turn this into done.
    Failed {
        /// Why, one sentence.
        reason: String,
    },
}

/// A full pass that was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct PassDone {
    /// Revision of the state after it.
    pub revision: u64,
    /// Messages it wrote.
    pub writes: u32,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Requests it made.
    pub requests: u32,
    /// What it covered.
    pub coverage: Coverage,
}

/// What became of a pass.
pub(super) type Outcome = Result<PassDone, Refusal>;

/// Asks one source for a full pass.
#[derive(Clone, Debug)]
pub(super) struct Bell {
    pub(super) source: String,
    ring: mpsc::Sender<oneshot::Sender<Outcome>>,
}

impl Bell {
    /// Asks; `None` when too many wait already or the source has stopped.
    pub(super) fn ring(&self) -> Option<oneshot::Receiver<Outcome>> {
        let (answer, outcome) = oneshot::channel();
        self.ring.try_send(answer).ok().map(|()| outcome)
    }
}

/// One source's end.
#[derive(Debug)]
pub(super) struct Desk {
    source: String,
    rings: mpsc::Receiver<oneshot::Sender<Outcome>>,
    /// Keeps the channel open when no service asks.
    _ring: mpsc::Sender<oneshot::Sender<Outcome>>,
    waiting: Vec<oneshot::Sender<Outcome>>,
    progress: watch::Sender<Progress>,
}

/// A desk and its bell for a cluster.
pub(super) fn open_cluster(source: &str, progress: &watch::Sender<Progress>) -> (Desk, Bell) {
    open(source, SourceProgress { is_cluster: true, ..SourceProgress::default() }, progress)
}

/// A desk and its bell for files.
pub(super) fn open_files(source: &str, progress: &watch::Sender<Progress>) -> (Desk, Bell) {
    open(source, SourceProgress::default(), progress)
}

fn open(source: &str, first: SourceProgress, progress: &watch::Sender<Progress>) -> (Desk, Bell) {
    let (ring, rings) = mpsc::channel(WAITING_MAX);
    progress.send_modify(|progress| {
        progress.sources.insert(source.to_owned(), first);
    });
    let bell = Bell { source: source.to_owned(), ring: ring.clone() };
    let source = source.to_owned();
    (Desk { source, rings, _ring: ring, waiting: Vec::new(), progress: progress.clone() }, bell)
}

impl Desk {
    /// Returns when somebody asks for a full pass. Cancel safe.
    pub(super) async fn asked(&mut self) {
        if let Some(answer) = self.rings.recv().await {
            self.waiting.push(answer);
        }
    }

    /// Returns when every cluster has had its first pass, or the time is up. Cancel safe.
    pub(super) async fn clusters_first(&self, max: Duration) {
        let mut progress = self.progress.subscribe();
        let seen = progress.wait_for(|progress| {
            let waits =
                |source: &SourceProgress| source.is_cluster && source.first_pass == FirstPass::Awaited;
            !progress.sources.values().any(waits)
        });
        // Both outcomes mean the same: go on.
        let _ = tokio::time::timeout(max, seen).await;
    }

    /// A full pass begins.
    pub(super) fn begin(&self) {
        self.update(|source| source.running = true);
    }

    /// A full pass ended: tells everybody who asked before or while it ran.
    pub(super) fn finish(&mut self, outcome: &Outcome, now: Timestamp) {
        while let Ok(answer) = self.rings.try_recv() {
            self.waiting.push(answer);
        }
        self.update(|source| {
            source.running = false;
            source.passes += 1;
            let first = match outcome {
                Ok(PassDone { coverage: Coverage::Unseen { reason }, .. }) => {
                    FirstPass::Failed { reason: reason.clone() }
                }
                Ok(done) => FirstPass::Done { revision: done.revision },
                Err(refusal) => FirstPass::Failed { reason: refusal.to_string() },
            };
            if !matches!(source.first_pass, FirstPass::Done { .. }) {
                source.first_pass = first;
            }
            match outcome {
                Ok(done) => {
                    source.last = Some(done.clone());
                    source.last_at = Some(now);
                    source.refusals = 0;
                    source.refused = None;
                }
                Err(refusal) => {
                    source.refusals = source.refusals.saturating_add(1);
                    source.refused = refused::reason(source.refusals, refusal);
                }
            }
        });
        for answer in self.waiting.drain(..) {
            // Whoever asked may have gone.
            let _ = answer.send(outcome.clone());
        }
    }

    fn update(&self, change: impl FnOnce(&mut SourceProgress)) {
        self.progress
            .send_modify(|progress| change(progress.sources.entry(self.source.clone()).or_default()));
    }
}
