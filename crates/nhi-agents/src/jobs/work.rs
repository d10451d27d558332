//! Takes jobs, one after another, while somebody can answer them. Who can is told by the router; whose turn it is by
//! `nhi_decide::jobs`. What changes in the house is looked at each second, which is soon enough for what can wait.

use super::{Queue, Taken};
use futures::future::BoxFuture;
use jiff::SignedDuration;
use nhi_bus::{cx::Cx, service::Caller};
use nhi_decide::{
    jobs::{Waiting, pick},
    route::Ask,
    weave::Json,
};
use nhi_model::{
    Timestamp,
    ai::JobId,
    fault::Fault,
    identity::IdentityName,
    jobs::{JobRow, RowState},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// Between two looks while jobs are there.
const PACE: Duration = Duration::from_secs(1);
/// The same while there are none: those kept are to be forgotten some time.
const PACE_IDLE: Duration = Duration::from_secs(30);
/// Between two looks at least.
const CALM: Duration = Duration::from_millis(50);
/// Jobs one router works on at once: people's requests need its places more.
const RUNNING_MAX: usize = 8;

type Read = Arc<dyn Fn(&IdentityName, &Json) -> Result<Ask, Fault> + Send + Sync>;
type See = Arc<dyn Fn(Timestamp, &Ask) -> Result<Ready, String> + Send + Sync>;
type Answer = Arc<dyn Fn(Caller, Json) -> BoxFuture<'static, Result<Json, Fault>> + Send + Sync>;

/// What the router does for jobs.
#[derive(Clone)]
pub(crate) struct Hands {
    /// Reads what is asked.
    pub(crate) read: Read,
    /// Who would answer now; why nobody, one sentence.
    pub(crate) see: See,
    /// Answers, as it answers anybody.
    pub(crate) answer: Answer,
    /// How long an answer may take.
    pub(crate) deadline: Duration,
}

/// Who would answer a job now.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) backend: String,
    pub(crate) model: String,
    /// Whether asking it swaps no other model out.
    pub(crate) is_loaded: bool,
    /// Requests it works on.
    pub(crate) running: u32,
    /// Those it may.
    pub(crate) parallel: u32,
}

/// The worker. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Worker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Queue,
    hands: Hands,
    cx: Cx,
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What waiting jobs ask for: read once.
    asks: BTreeMap<JobId, Arc<Ask>>,
    /// What they wait for.
    waits: BTreeMap<JobId, String>,
    /// Those worked on here, with the backend.
    running: BTreeMap<JobId, String>,
}

impl Worker {
    pub(crate) fn start(cx: &Cx, queue: Queue, hands: Hands) -> Self {
        let inner = Inner { queue, hands, cx: cx.clone(), state: Mutex::default(), ended: Notify::new() };
        let worker = Self(Arc::new(inner));
        cx.spawn("jobs", worker.clone().run());
        worker
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// What the jobs that wait wait for, as it was seen last.
    pub(crate) fn waits(&self) -> BTreeMap<JobId, String> {
        self.state().waits.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self) {
        let (stop, mut changed) = (self.0.cx.clone(), self.queue().changed());
        loop {
            changed.mark_unchanged();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.look() => {}
            }
            let pace = if self.queue().is_busy() { PACE } else { PACE_IDLE };
            let wake = async {
                tokio::time::sleep(CALM).await;
                tokio::select! {
                    _ = changed.changed() => {}
                    () = self.0.ended.notified() => {}
                    () = tokio::time::sleep(pace) => {}
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = wake => {}
            }
        }
    }

    /// Takes those whose turn it is.
    async fn look(&self) {
        let now = Timestamp::now();
        self.queue().sweep(now).await;
        let free = self.queue().free(now);
        let ids: BTreeSet<JobId> = free.iter().map(|(job, ..)| job.clone()).collect();
        self.state().asks.retain(|job, _| ids.contains(job));
        let (mut waiting, mut loaded, mut waits) = (Vec::new(), BTreeSet::new(), BTreeMap::new());
        let mut places: BTreeMap<String, Ready> = BTreeMap::new();
        for (job, row, not_before) in free {
            let Some(ask) = self.ask(&job, &row).await else { continue };
            let model = match (self.0.hands.see)(now, &ask) {
                Ok(ready) => {
                    let model = format!("{}/{}", ready.backend, ready.model);
                    if ready.is_loaded {
                        loaded.insert(model.clone());
                    }
                    waits.insert(job.clone(), format!("it waits for its turn at {}", ready.backend));
                    places.insert(model.clone(), ready);
                    Some(model)
                }
                Err(text) => {
                    waits.insert(job.clone(), text);
                    None
                }
            };
            waiting.push(Waiting { job, at: row.at, priority: row.priority, model, not_before });
        }
        self.state().waits = waits;
        while let Some((next, backend)) = self.next(now, &mut waiting, &loaded, &places) {
            if let Some(taken) = self.queue().take(now, &next).await {
                self.begin(next, backend, taken);
            }
        }
    }

    /// The next one, for a backend with a place.
    fn next(
        &self,
        now: Timestamp,
        waiting: &mut Vec<Waiting>,
        loaded: &BTreeSet<String>,
        places: &BTreeMap<String, Ready>,
    ) -> Option<(JobId, String)> {
        let state = self.state();
        loop {
            if state.running.len() >= RUNNING_MAX {
                return None;
            }
            let next = pick(now, waiting, loaded)?;
            let (job, model) = (next.job.clone(), next.model.clone()?);
            let Ready { backend, running, parallel, .. } = places.get(&model)?;
            // One taken a moment ago may not stand in its line yet.
            let here = state.running.values().filter(|busy| *busy == backend).count();
            let busy = u32::try_from(here).unwrap_or(u32::MAX).max(*running);
            if state.running.contains_key(&job) {
                waiting.retain(|other| other.job != job);
                continue;
            }
            if busy < *parallel {
                waiting.retain(|other| other.job != job);
                return Some((job, backend.clone()));
            }
            // Everything for this model waits for the next look.
            waiting.retain(|other| other.model.as_ref() != Some(&model));
        }
    }

    /// What a job asks for; nothing when that cannot be read now, or never.
    async fn ask(&self, job: &JobId, row: &JobRow) -> Option<Arc<Ask>> {
        if let Some(ask) = self.state().asks.get(job) {
            return Some(ask.clone());
        }
        let reason = match self.queue().request(job).await {
            Ok(Some(body)) => match (self.0.hands.read)(&row.by, &body) {
                Ok(ask) => {
                    let ask = Arc::new(ask);
                    self.state().asks.insert(job.clone(), ask.clone());
                    return Some(ask);
                }
                Err(fault) => fault.message,
            },
            Ok(None) => "what was asked is gone".to_owned(),
            Err(error) => {
                tracing::debug!(agent = "route", req = %job, err = %error, "question not read");
                return None;
            }
        };
        // The view may be behind: a job that ended elsewhere has no question any more, and its row has moved.
        self.queue().bury(job, &reason).await;
        None
    }

    fn begin(&self, job: JobId, backend: String, taken: Taken) {
        self.state().running.insert(job.clone(), backend);
        let worker = self.clone();
        self.0.cx.spawn("job", async move {
            let (row, attempt) = (taken.row().clone(), taken.attempt());
            let answer = worker.clone().answer(job.clone(), row, attempt);
            taken.work(&worker.0.cx, answer).await;
            worker.state().running.remove(&job);
            worker.0.ended.notify_one();
        });
    }

    async fn answer(self, job: JobId, row: JobRow, attempt: u32) -> Result<Json, Fault> {
        debug_assert!(matches!(row.state, RowState::Running { .. }), "it is ours");
        let body = self.queue().request(&job).await.map_err(|error| super::fault_of(&error))?;
        let Some(body) = body else {
            let code = nhi_model::fault::FaultCode::NotFound;
            return Err(Fault::new(code, "what was asked is gone", "submit it again"));
        };
        let deadline = SignedDuration::try_from(self.0.hands.deadline).unwrap_or(SignedDuration::MAX);
        let caller = Caller {
            name: row.by,
            request_id: format!("{job}-{attempt}"),
            expires: Timestamp::now().checked_add(deadline).unwrap_or(Timestamp::MAX),
            gave_id: true,
            gave_expiry: true,
            trace: None,
        };
        (self.0.hands.answer)(caller, body).await
    }
}

impl fmt::Debug for Hands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hands").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}
