//! The one place that writes for the keeper: reports, one after the other, and its own alerts. It also puts into
//! the audit log that the store was changed under us.

use super::{
    gpu::{self, Word},
    people::People,
    report::{self, Reported},
};
use crate::alerts::{self, Problem};
use nhi_bus::{
    audit,
    connect::Bus,
    cx::Cx,
    store::{self, CommitError},
    view::{LiveView, Snapshot, StoreChange, View},
};
use nhi_decide::{
    change::{Change, What},
    live as gauges,
};
use nhi_model::{
    Timestamp,
    alert::Severity,
    audit::AuditKind,
    call::{StateReport, StateReported},
    envelope::OpId,
    fault::{Fault, FaultCode},
    gpu::GpuLocked,
    identity::{Agent, IdentityName},
    key::Key,
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot, watch};

/// Reports that wait: a home has a handful of machines, each reports every few seconds.
const WAITING_MAX: usize = 128;
/// Alerts about values that cannot be read. More of them are one problem, not many.
const ALERTS_MAX: usize = 16;
/// What the ids of those alerts begin with.
const UNREADABLE: &str = "unreadable_";

/// Where reports go.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    desk: mpsc::Sender<Job>,
}

/// Where an outcome goes.
type Answer<T> = oneshot::Sender<Result<T, Fault>>;

/// What is to be written.
enum Job {
    /// A report.
    Report(Box<Reported>, Answer<StateReported>),
    /// A person's word about a GPU.
    Gpu(Word, Answer<GpuLocked>),
}

/// Starts the writer.
pub(super) fn start(cx: &Cx, bus: &Bus, view: &View, live: &LiveView, people: &People) -> Keeper {
    let (desk, jobs) = mpsc::channel(WAITING_MAX);
    let writer = Writer {
        bus: bus.clone(),
        view: view.clone(),
        live: live.clone(),
        people: people.clone(),
        written: BTreeMap::new(),
    };
    cx.spawn("keeper", writer.run(cx.clone(), jobs));
    Keeper { desk }
}

impl Keeper {
    /// `state.report`
    pub(super) async fn report(
        &self,
        caller: &IdentityName,
        request: StateReport,
    ) -> Result<StateReported, Fault> {
        let reported = Box::new(report::parse(caller, request)?);
        self.asked(|answer| Job::Report(reported, answer)).await
    }

    /// `gpu.lock` and `gpu.unlock`
    pub(super) async fn gpu(&self, word: Word) -> Result<GpuLocked, Fault> {
        self.asked(|answer| Job::Gpu(word, answer)).await
    }

    async fn asked<T>(&self, job: impl FnOnce(Answer<T>) -> Job) -> Result<T, Fault> {
        let (answer, outcome) = oneshot::channel();
        self.desk.try_send(job(answer)).map_err(|_| {
            Fault::new(FaultCode::TooMany, "too many reports wait", "Report again in ten seconds.")
                .with("retry_after_s", 10)
        })?;
        outcome.await.unwrap_or_else(|_| Err(unavailable("the keeper is stopping")))
    }
}

pub(super) struct Writer {
    pub(super) bus: Bus,
    pub(super) view: View,
    pub(super) live: LiveView,
    pub(super) people: People,
    /// Our own last write of each record, until the view shows it.
    written: BTreeMap<Key, (u64, Value)>,
}

impl Writer {
    async fn run(mut self, stop: Cx, mut jobs: mpsc::Receiver<Job>) {
        let mut revisions = self.view.changed();
        let mut events = self.view.events();
        let mut locks = tokio::time::interval(gpu::LOCKS_LOOKED_AT);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                job = jobs.recv() => {
                    let Some(job) = job else { return };
                    self.work(job).await;
                }
                _ = locks.tick() => self.look_at_gpus().await,
                changed = revisions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.tell_unreadable().await;
                }
                changed = events.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.tell_store(&mut events).await;
                }
            }
        }
    }

    /// Whoever asked may have stopped waiting.
    async fn work(&mut self, job: Job) {
        match job {
            Job::Report(reported, answer) => {
                let outcome = self.take(*reported).await;
                let _ = answer.send(outcome);
            }
            Job::Gpu(word, answer) => {
                let outcome = self.say(word).await;
                let _ = answer.send(outcome);
            }
        }
    }

    /// Writes a report's facts when they differ, and its gauges when they are worth it.
    async fn take(&mut self, reported: Reported) -> Result<StateReported, Fault> {
        let Reported { host, gauges, gpu } = reported;
        let shown = self.view.read();
        if let Some(stale) = &shown.stale {
            return Err(unavailable(&format!("the state is not sound: {}", stale.reason)));
        }
        let key = Key::host(&host.host);
        let record = serde_json::to_value(&host).expect("a host's facts are JSON");
        let revision = self.settle(&shown, key.clone(), record).await?;
        // Without gauges it is still a sign of life.
        self.put_gauges(key, gauges.unwrap_or(Value::Object(Map::new()))).await;
        let gpu = match gpu {
            Some(report) => Some(self.take_gpu(&shown, &host.host, report).await?),
            None => None,
        };
        Ok(StateReported { revision, gpu })
    }

    /// Writes a record unless it stands so already; its revision.
    pub(super) async fn settle(&mut self, shown: &Snapshot, key: Key, record: Value) -> Result<u64, Fault> {
        match self.known(shown, &key) {
            Some((revision, known)) if known == record => Ok(revision),
            known => self.write(key, known.map_or(0, |(revision, _)| revision), record).await,
        }
    }

    /// The record as it stands: the view's, or our own write that it does not show yet.
    pub(super) fn known(&mut self, shown: &Snapshot, key: &Key) -> Option<(u64, Value)> {
        let entry = shown.records.get(key).map(|entry| (entry.revision, entry.stored.record.clone()));
        match self.written.get(key) {
            Some((revision, record)) if *revision > shown.revision => Some((*revision, record.clone())),
            Some(_) => {
                self.written.remove(key);
                entry
            }
            None => entry,
        }
    }

    async fn write(&mut self, key: Key, expected: u64, record: Value) -> Result<u64, Fault> {
        let what = What::Put { record: record.clone(), stale: None };
        let change = Change { key: key.clone(), expected, what };
        match self.commit(&[change]).await {
            Ok(revision) => {
                self.written.insert(key, (revision, record));
                Ok(revision)
            }
            Err(error) => {
                self.written.remove(&key);
                Err(refused(&error))
            }
        }
    }

    pub(super) async fn commit(&self, changes: &[Change]) -> Result<u64, CommitError> {
        let op = OpId(uuid::Uuid::now_v7().to_string());
        Ok(store::commit(&self.bus, &op, Timestamp::now(), changes).await?.revision)
    }

    async fn put_gauges(&self, key: Key, record: Value) {
        let now = Timestamp::now();
        if !gauges::worth_writing(self.live.read().get(&key), &record, now) {
            return;
        }
        let live = gauges::envelope(record, now);
        if let Err(error) = store::put_live(&self.bus, &[(key, live)]).await {
            tracing::debug!(agent = "state", err = %error, "gauges not written");
        }
    }

    /// Values of a newer program, or of nobody we know, stay as they are; people are told.
    async fn tell_unreadable(&self) {
        let shown = self.view.read();
        if shown.stale.is_some() {
            return;
        }
        let wanted = unreadable(&shown);
        let scope = |id: &str| id.starts_with(UNREADABLE);
        let changes = alerts::changes(&shown, Agent::State, scope, &wanted, Timestamp::now());
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.commit(&changes).await {
            tracing::debug!(agent = "state", err = %error, "alert not written");
        }
    }

    async fn tell_store(&self, events: &mut watch::Receiver<Option<StoreChange>>) {
        let Some(change) = *events.borrow_and_update() else { return };
        tracing::error!(agent = "state", err = ?change, "the store behind the state was changed");
        let details = BTreeMap::from([("change".to_owned(), Value::String(format!("{change:?}")))]);
        if let Err(error) = audit::append(&self.bus, AuditKind::StoreChanged, None, details).await {
            tracing::warn!(agent = "state", err = %error, "change of the store not audited");
        }
    }
}

fn unreadable(shown: &Snapshot) -> BTreeMap<String, Problem> {
    let values = shown.quarantined.iter().take(ALERTS_MAX);
    values
        .map(|(key, reason)| {
            let problem = Problem {
                severity: Severity::Warning,
                summary: format!("a value in the state cannot be read: {reason}"),
                hint: "Update nhi on this machine; the value stays as it is until then.".to_owned(),
                about: Key::parse(key).ok(),
            };
            (format!("{UNREADABLE}{key}"), problem)
        })
        .collect()
}

pub(super) fn unavailable(message: &str) -> Fault {
    Fault::new(FaultCode::Unavailable, message, "Report again in ten seconds.")
}

fn refused(error: &CommitError) -> Fault {
    tracing::warn!(agent = "state", err = %error, "report not written");
    match error {
        CommitError::Conflict { .. } => Fault::new(
            FaultCode::Conflict,
            "another report about this machine came first",
            "Report again in ten seconds.",
        ),
        CommitError::TooLarge { .. } => Fault::new(
            FaultCode::TooLarge,
            "the report is larger than a record may be",
            "Report less: facts are short, and change seldom.",
        ),
        CommitError::Disconnected
        | CommitError::Store(_)
        | CommitError::Unknown { .. }
        | CommitError::Refused { .. }
        | CommitError::Twice { .. }
        | CommitError::RetiresNothing { .. } => unavailable("the report cannot be written now"),
    }
}
