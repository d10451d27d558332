//! The mirror: keeps `infrastructure/` what the bucket says, for tools that read files.
//!
//! It reads the state, decides nothing about it and writes no record except its own alerts. Its loop looks at
//! revisions and at the times of full passes, not at single changes; several changes become one commit.

pub mod files;

use self::files::{Files, FilesError, Repair};
use crate::alerts::{self, Problem};
use jiff::tz::TimeZone;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store,
    view::{LiveView, Snapshot, View, ViewError},
};
use nhi_decide::render::{self, MirrorInput, Rendered};
use nhi_model::{
    Timestamp,
    alert::Severity,
    envelope::{Live, OpId, Stale},
    identity::Agent,
    key::{Key, Section},
    live::SourceGauges,
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::watch,
    task::JoinError,
    time::{self, Instant, MissedTickBehavior},
};

/// At most ten commits a second: a burst of changes is worth one file, and each costs a few syncs.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);
/// How often the gauges are looked at; a full pass that changed nothing is told by them alone.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait after a disk refused.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The one alert of this agent.
const ALERT: &str = "files";

/// What the mirror needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory, usually `infrastructure`.
    pub dir: PathBuf,
    /// Who makes the files: `neural-home 0.1.0`.
    pub generator: String,
    /// The lab's time zone; `meta.generated_at` is local time, as Neural-Home v3 wrote it.
    pub zone: TimeZone,
}

/// How far the mirror is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Revision the files show; `None` before the first commit.
    pub revision: Option<u64>,
    /// Why the files cannot be written, one sentence, while they cannot.
    pub trouble: Option<String>,
}

/// A running mirror.
#[derive(Clone, Debug)]
pub struct Handle {
    progress: watch::Receiver<Progress>,
}

impl Handle {
    /// How far it is, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

/// Why the mirror did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be followed.
    #[error("follow the state for the mirror")]
    View(#[from] ViewError),
}

/// Starts the mirror. It runs until `cx` stops.
///
/// # Errors
/// [`Error`] when the state cannot be followed. A disk that refuses is no error here: it is an alert.
pub async fn run(cx: &Cx, bus: Bus, options: Options) -> Result<Handle, Error> {
    let view = View::open(cx, &bus).await?;
    let live = LiveView::open(cx, &bus).await?;
    let (report, progress) = watch::channel(Progress::default());
    let mirror = Mirror { bus, view, live, options, files: None, shown: None, report };
    let stop = cx.clone();
    cx.spawn("mirror", mirror.follow(stop));
    Ok(Handle { progress })
}

/// What a rendering depends on beside the clock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cause {
    revision: u64,
    /// When the last full pass of each source began.
    passes: BTreeMap<Key, Timestamp>,
    /// Why the state may be out of date, while it may.
    stale: Option<Stale>,
}

struct Mirror {
    bus: Bus,
    view: View,
    live: LiveView,
    options: Options,
    /// `None` while the directory could not be taken.
    files: Option<Files>,
    shown: Option<Cause>,
    report: watch::Sender<Progress>,
}

impl Mirror {
    async fn follow(mut self, stop: Cx) {
        self.repair().await;
        let mut changed = self.view.changed();
        let mut look = time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut not_before = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => {}
                seen = changed.changed() => {
                    if seen.is_err() {
                        return;
                    }
                }
            }
            // What comes until then is shown together.
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep_until(not_before) => {}
            }
            let snapshot = self.view.read();
            let live = self.live.read();
            let cause = cause(&snapshot, &live, self.shown.as_ref(), Timestamp::now());
            // Before any source was looked at, an empty lab is not a fact, and it would replace a file that is.
            let known = snapshot.records.keys().any(|key| key.section() == Section::Source);
            if !known || self.shown.as_ref() == Some(&cause) {
                continue;
            }
            let trouble = self.show(&snapshot, &live, cause).await;
            not_before = Instant::now() + if trouble { RETRY_INTERVAL } else { COMMIT_INTERVAL };
        }
    }

    /// Takes the directory and puts it right at once: readers need not wait for the state. When it cannot be
    /// taken, showing the state says so.
    async fn repair(&mut self) {
        let dir = self.options.dir.clone();
        let opened = tokio::task::spawn_blocking(move || open(&dir)).await;
        self.files = opened.unwrap_or_else(|error| panic!("{}", panicked(&error))).ok();
    }

    /// Writes the files; says whether the disk refused.
    async fn show(
        &mut self,
        snapshot: &Arc<Snapshot>,
        live: &Arc<BTreeMap<Key, Live>>,
        cause: Cause,
    ) -> bool {
        let job = Job {
            files: self.files.take(),
            options: self.options.clone(),
            snapshot: snapshot.clone(),
            live: live.clone(),
            stale: cause.stale.clone(),
            now: Timestamp::now(),
        };
        let done = tokio::task::spawn_blocking(move || job.write()).await;
        let (files, outcome) = done.unwrap_or_else(|error| panic!("{}", panicked(&error)));
        self.files = files;
        let problem = outcome.as_ref().err().map(|error| problem(error, &self.options.dir));
        let trouble = problem.as_ref().map(|problem| problem.summary.clone());
        match &outcome {
            Ok(()) => {
                tracing::debug!(agent = "mirror", rev = cause.revision, "files written");
                self.shown = Some(cause.clone());
            }
            Err(error) => {
                let source = std::error::Error::source(error).map(ToString::to_string);
                if self.report.borrow().trouble.is_none() {
                    tracing::error!(agent = "mirror", err = %error, source, "the mirror cannot write");
                } else {
                    tracing::debug!(agent = "mirror", err = %error, source, "the mirror still cannot write");
                }
            }
        }
        let failed = trouble.is_some();
        self.report.send_modify(|progress| {
            progress.trouble = trouble;
            if !failed {
                progress.revision = Some(cause.revision);
            }
        });
        self.alert(snapshot, problem).await;
        failed
    }

    /// Makes the alert say what is true. When the bus refuses, the next rendering tries again.
    async fn alert(&self, snapshot: &Snapshot, problem: Option<Problem>) {
        let now = Timestamp::now();
        let wanted: BTreeMap<_, _> = problem.map(|problem| (ALERT.to_owned(), problem)).into_iter().collect();
        let changes = alerts::changes(snapshot, Agent::Mirror, |id| id == ALERT, &wanted, now);
        if changes.is_empty() {
            return;
        }
        let op = OpId(uuid::Uuid::now_v7().to_string());
        if let Err(error) = store::commit(&self.bus, &op, now, &changes).await {
            tracing::debug!(agent = "mirror", err = %error, "alert not written");
        }
    }
}

/// The alert about files that cannot be written.
fn problem(error: &FilesError, dir: &Path) -> Problem {
    Problem {
        severity: Severity::Critical,
        summary: error.summary(dir),
        hint: error.hint().to_owned(),
        about: None,
    }
}

/// What a rendering now would depend on. A source whose gauges are past their time has no pass here, so that its
/// silence is shown; an outage is shown once, whatever else falls silent while it lasts.
fn cause(snapshot: &Snapshot, live: &BTreeMap<Key, Live>, shown: Option<&Cause>, now: Timestamp) -> Cause {
    let revision = snapshot.revision;
    let before = shown.filter(|shown| shown.revision == revision && shown.stale.is_some());
    if let (Some(before), true) = (before, snapshot.stale.is_some()) {
        return before.clone();
    }
    let passes = live.iter().filter(|(key, live)| key.section() == Section::Source && live.valid_until > now);
    let passes = passes.filter_map(|(key, live)| {
        SourceGauges::deserialize(&live.record).ok().map(|gauges| (key.clone(), gauges.last_attempt))
    });
    Cause { revision, passes: passes.collect(), stale: snapshot.stale.clone() }
}

/// How long the slowest source's last full pass took.
fn scan_duration_ms(live: &BTreeMap<Key, Live>) -> u64 {
    let sources = live.iter().filter(|(key, _)| key.section() == Section::Source);
    let gauges = sources.filter_map(|(_, live)| SourceGauges::deserialize(&live.record).ok());
    gauges.map(|gauges| gauges.duration_ms).max().unwrap_or(0)
}

fn panicked(error: &JoinError) -> String {
    format!("writing the files of the mirror panicked: {error}")
}

/// One rendering on its way to the disk; runs on a blocking thread.
struct Job {
    files: Option<Files>,
    options: Options,
    snapshot: Arc<Snapshot>,
    live: Arc<BTreeMap<Key, Live>>,
    stale: Option<Stale>,
    now: Timestamp,
}

impl Job {
    fn write(self) -> (Option<Files>, Result<(), FilesError>) {
        let Self { files, options, snapshot, live, stale, now } = self;
        let mut files = match files.map_or_else(|| open(&options.dir), Ok) {
            Ok(files) => files,
            Err(error) => return (None, Err(error)),
        };
        let rendered = render::render(&MirrorInput {
            now,
            offset: options.zone.to_offset(now),
            revision: snapshot.revision,
            scan_duration_ms: scan_duration_ms(&live),
            generator: &options.generator,
            records: snapshot.records.iter().map(|(key, entry)| (key, &*entry.stored)).collect(),
            stale: stale.as_ref(),
            live: &live,
        });
        let outcome = publish(&mut files, snapshot.revision, now, &rendered);
        (Some(files), outcome)
    }
}

fn open(dir: &Path) -> Result<Files, FilesError> {
    let (files, repairs) = Files::open(dir)?;
    tell(&repairs);
    Ok(files)
}

fn publish(files: &mut Files, revision: u64, now: Timestamp, rendered: &Rendered) -> Result<(), FilesError> {
    let done = files.commit(revision, now, &rendered.state_json)?;
    tell(&done.repairs);
    files.replace(Path::new("GLOBAL_CONTEXT.md"), rendered.global_context.as_bytes())?;
    for (path, text) in &rendered.context {
        files.replace(&Path::new("context").join(path), text.as_bytes())?;
    }
    done.afterwards.map_or(Ok(()), Err)
}

fn tell(repairs: &[Repair]) {
    for repair in repairs {
        tracing::info!(agent = "mirror", err = ?repair, "found something broken and put it right");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_and_a_silent_source_are_causes_once() {
        let at = Timestamp::UNIX_EPOCH;
        let later = at + jiff::SignedDuration::from_mins(1);
        let record =
            serde_json::json!({"last_attempt": at, "last_success": at, "duration_ms": 1, "requests": 1});
        let gauges = Live { v: nhi_model::SCHEMA_VERSION, at, valid_until: later, record };
        let live = BTreeMap::from([(Key::source("projects"), gauges)]);
        let mut snapshot = Snapshot { revision: 7, ..Snapshot::default() };
        let fresh = cause(&snapshot, &live, None, at);
        assert_eq!(fresh, cause(&snapshot, &live, Some(&fresh), at));
        assert_ne!(fresh, cause(&snapshot, &live, Some(&fresh), later), "a source fell silent");

        snapshot.stale = Some(Stale { reason: "the mesh is not connected".to_owned(), since: at });
        let marked = cause(&snapshot, &live, Some(&fresh), at);
        assert_ne!(fresh, marked);
        snapshot.stale = Some(Stale { reason: "the server does not answer".to_owned(), since: at });
        assert_eq!(marked, cause(&snapshot, &live, Some(&marked), later), "told once");
        snapshot.stale = None;
        assert_eq!(fresh, cause(&snapshot, &live, Some(&marked), at), "it is over");
    }
}
