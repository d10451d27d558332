//! AI requests that can wait, for a router: who may submit and read them, which of them nobody works on, and what becomes
//! of one when it is over. It asks no backend and decides not whose turn it is.

mod taken;
mod work;

pub(crate) use self::work::{Hands, Ready, Worker};

use self::taken::Taken;

use nhi_bus::{
    connect::Bus,
    cx::Cx,
    jobs::{JobSeen, Jobs, JobsError, JobsSnapshot},
    service::Caller,
};
use nhi_decide::{
    jobs::{ATTEMPTS_MAX, RESULT_HOURS},
    weave::Json,
};
use nhi_model::{
    Timestamp,
    ai::{AiJobsListed, Job, JobId, JobPriority, JobState},
    fault::{Fault, FaultCode},
    identity::{self, IdentityName},
    jobs::{JobRow, RowState},
};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// Jobs that may wait or run: what a GPU does in a night or two.
const OPEN_MAX: usize = 1_000;
/// Those of one caller.
const OPEN_EACH_MAX: usize = 100;
/// How long one waits before it is given up.
const WAIT: Duration = Duration::from_secs(7 * 24 * 3_600);
/// How long what ended is told of.
const KEPT: Duration = Duration::from_secs(RESULT_HOURS as u64 * 3_600);
/// Jobs that ended in a list.
const ENDED_MAX: usize = 100;
/// Characters of a job's id.
const ID_CHARS: usize = 20;

/// The jobs, for one router. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    jobs: Jobs,
    /// This router, since it was started.
    me: Arc<str>,
}

impl Queue {
    pub(crate) async fn open(cx: &Cx, bus: &Bus) -> Result<Self, JobsError> {
        Ok(Self { jobs: Jobs::open(cx, bus).await?, me: Uuid::new_v4().simple().to_string().into() })
    }

    /// Changes whenever a job does.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.jobs.changed()
    }

    /// Takes a job in. The same request of the same caller, sent again, is the same job.
    pub(crate) async fn submit(
        &self,
        caller: &Caller,
        asked: &str,
        priority: JobPriority,
        request: &Json,
    ) -> Result<JobId, Fault> {
        let job = id_of(caller);
        let row = JobRow {
            by: caller.name.clone(),
            at: Timestamp::now(),
            priority,
            asked: asked.to_owned(),
            state: RowState::Waiting { attempt: 0, not_before: None, text: None },
        };
        let fits = |snapshot: &JobsSnapshot| has_place(snapshot, &caller.name);
        self.jobs.add(&job, &row, request, fits).await.map_err(|error| fault_of(&error))??;
        tracing::debug!(agent = "route", req = %job, "job submitted");
        Ok(job)
    }

    /// A job with its answer; `waits` says what for.
    pub(crate) async fn result(
        &self,
        caller: &IdentityName,
        job: &JobId,
        waits: &BTreeMap<JobId, String>,
    ) -> Result<Job, Fault> {
        let seen = self.jobs.get(job).await.map_err(|error| fault_of(&error))?;
        // Whether somebody else's job exists is nobody's business.
        let Some(seen) = seen.filter(|seen| may_read(caller, &seen.row)) else {
            let message = format!("there is no job {:?} of yours", job.0);
            return Err(Fault::new(FaultCode::NotFound, message, "`nhi ai jobs` lists them"));
        };
        let mut told = tell(job, &seen.row, waits);
        let RowState::Done { attempt, until } = seen.row.state else { return Ok(told) };
        let kept = match until > Timestamp::now() {
            true => self.jobs.answer(job, attempt).await.map_err(|error| fault_of(&error))?,
            false => None,
        };
        let Some(kept) = kept else {
            let message = format!("the answer of job {job} was kept until {until:.0}");
            return Err(Fault::new(FaultCode::Expired, message, "submit it again"));
        };
        told.state = JobState::Done { answer: kept.into_iter().collect(), until };
        Ok(told)
    }

    /// The caller's jobs, newest first; everybody's for the house.
    pub(crate) fn list(&self, caller: &IdentityName, waits: &BTreeMap<JobId, String>) -> AiJobsListed {
        let snapshot = self.jobs.read();
        let mine = snapshot.jobs.iter().filter(|(_, seen)| may_read(caller, &seen.row));
        let mut rows: Vec<(&JobId, &JobRow)> = mine.map(|(job, seen)| (job, &*seen.row)).collect();
        rows.sort_by_key(|(job, row)| (std::cmp::Reverse(row.at), *job));
        let mut ended = 0;
        rows.retain(|(_, row)| {
            ended += usize::from(!row.state.is_open());
            row.state.is_open() || ended <= ENDED_MAX
        });
        AiJobsListed { jobs: rows.into_iter().map(|(job, row)| tell(job, row, waits)).collect() }
    }

    /// Jobs nobody works on, with the time before which they are not tried again; nothing while the view is stale.
    pub(crate) fn free(&self, now: Timestamp) -> Vec<(JobId, Arc<JobRow>, Option<Timestamp>)> {
        let snapshot = self.jobs.read();
        if snapshot.stale.is_some() {
            return Vec::new();
        }
        let free = snapshot.jobs.iter().filter_map(|(job, seen)| match &seen.row.state {
            RowState::Waiting { not_before, .. } => Some((job.clone(), seen.row.clone(), *not_before)),
            RowState::Running { until, attempt, .. } if *until <= now && *attempt < ATTEMPTS_MAX => {
                Some((job.clone(), seen.row.clone(), None))
            }
            RowState::Running { .. } | RowState::Done { .. } | RowState::Dead { .. } => None,
        });
        free.collect()
    }

    /// Whether anything may have to be done without a sign from outside.
    pub(crate) fn is_busy(&self) -> bool {
        self.jobs.read().jobs.values().any(|seen| seen.row.state.is_open())
    }

    /// Takes a job; nothing when somebody else was faster.
    pub(crate) async fn take(&self, now: Timestamp, job: &JobId) -> Option<Taken> {
        let seen = self.jobs.read().jobs.get(job)?.clone();
        let attempt = match &seen.row.state {
            RowState::Waiting { attempt, .. } => attempt + 1,
            RowState::Running { attempt, until, .. } if *until <= now => attempt + 1,
            RowState::Running { .. } | RowState::Done { .. } | RowState::Dead { .. } => return None,
        };
        Taken::begin(self, job, &seen, attempt).await
    }

    /// What was asked.
    pub(crate) async fn request(&self, job: &JobId) -> Result<Option<Json>, JobsError> {
        self.jobs.request(job).await
    }

    /// Ends a job nobody works on and nobody can.
    pub(crate) async fn bury(&self, job: &JobId, text: &str) {
        let Some(seen) = self.jobs.read().jobs.get(job).cloned() else { return };
        self.end(job, &seen, text).await;
    }

    async fn end(&self, job: &JobId, seen: &JobSeen, text: &str) {
        let state = RowState::Dead { text: text.to_owned(), until: Timestamp::now() + KEPT };
        let row = JobRow { state, ..(*seen.row).clone() };
        let done = async {
            self.jobs.put(job, seen.revision, &row).await?;
            self.jobs.forget_request(job).await
        };
        match done.await {
            // Why stands in the row: it may hold words of the request.
            Ok(()) => tracing::warn!(agent = "route", req = %job, "job given up"),
            // Another router does the same, or it is done later.
            Err(error) => tracing::debug!(agent = "route", req = %job, err = %error, "job not given up"),
        }
    }

    /// Gives up what waited too long or killed its routers, and forgets what was told long enough.
    pub(crate) async fn sweep(&self, now: Timestamp) {
        let snapshot = self.jobs.read();
        if snapshot.stale.is_some() {
            return;
        }
        for (job, seen) in &snapshot.jobs {
            match &seen.row.state {
                RowState::Waiting { text, .. } if seen.row.at + WAIT <= now => {
                    let last =
                        text.as_ref().map_or_else(String::new, |text| format!("; the last try: {text}"));
                    self.end(job, seen, &format!("nobody could answer it for 7 days{last}")).await;
                }
                RowState::Running { attempt, until, .. } if *until <= now && *attempt >= ATTEMPTS_MAX => {
                    let text = format!("the router that worked on it went away in try {attempt}, the last");
                    self.end(job, seen, &text).await;
                }
                RowState::Done { until, attempt } if *until <= now => {
                    self.forget(job, seen, Some(*attempt)).await;
                }
                RowState::Dead { until, .. } if *until <= now => self.forget(job, seen, None).await,
                RowState::Waiting { .. }
                | RowState::Running { .. }
                | RowState::Done { .. }
                | RowState::Dead { .. } => {}
            }
        }
    }

    async fn forget(&self, job: &JobId, seen: &JobSeen, answer: Option<u32>) {
        if let Err(error) = self.jobs.forget(job, seen.revision, answer).await {
            tracing::debug!(agent = "route", req = %job, err = %error, "job not forgotten");
        }
    }
}

/// A job's id: of a request that may be sent again, always the same.
fn id_of(caller: &Caller) -> JobId {
    let name = caller.name.as_str();
    let digest = Sha256::digest(format!("{name} {}", caller.request_id).as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    JobId(hex[..ID_CHARS].to_owned())
}

fn has_place(snapshot: &JobsSnapshot, caller: &IdentityName) -> Result<(), Fault> {
    let open = || snapshot.jobs.values().filter(|seen| seen.row.state.is_open());
    let mine = open().filter(|seen| seen.row.by == *caller).count();
    let (who, most) = match (open().count(), mine) {
        (_, mine) if mine >= OPEN_EACH_MAX => (caller.as_str(), OPEN_EACH_MAX),
        (all, _) if all >= OPEN_MAX => ("the house", OPEN_MAX),
        _ => return Ok(()),
    };
    let message = format!("{who} has {most} jobs that wait already");
    Err(Fault::new(FaultCode::TooMany, message, "wait until some are done; `nhi ai jobs` lists them")
        .with("limit", most))
}

/// Whose job it is, and the house.
fn may_read(caller: &IdentityName, row: &JobRow) -> bool {
    row.by == *caller || *caller == identity::home() || *caller == identity::owner()
}

fn tell(job: &JobId, row: &JobRow, waits: &BTreeMap<JobId, String>) -> Job {
    let state = match &row.state {
        RowState::Waiting { not_before: Some(at), text: Some(text), .. } if *at > Timestamp::now() => {
            JobState::Waiting { text: format!("it is tried again at {at:.0}: {text}") }
        }
        RowState::Waiting { .. } => {
            let text = waits.get(job).cloned();
            JobState::Waiting { text: text.unwrap_or_else(|| "it waits for its turn".to_owned()) }
        }
        RowState::Running { attempt, .. } => JobState::Running { attempt: *attempt },
        RowState::Done { until, .. } => JobState::Done { answer: BTreeMap::new(), until: *until },
        RowState::Dead { text, .. } => JobState::Dead { text: text.clone() },
    };
    Job {
        job: job.clone(),
        by: row.by.clone(),
        at: row.at,
        priority: row.priority,
        asked: row.asked.clone(),
        state,
    }
}

fn fault_of(error: &JobsError) -> Fault {
    let hint = "try again in a few seconds; sent with the same Nhi-Id it is the same job";
    match error {
        JobsError::TooLarge { .. } => {
            Fault::new(FaultCode::TooLarge, error.to_string(), "shorten the conversation")
        }
        JobsError::Moved { .. } | JobsError::Crowded { .. } => {
            Fault::new(FaultCode::Conflict, error.to_string(), hint)
        }
        JobsError::Unreadable { .. } | JobsError::Api(_) | JobsError::TimedOut { .. } => {
            tracing::debug!(agent = "route", err = %error, "jobs not reached");
            Fault::new(FaultCode::Unavailable, "the jobs cannot be reached now", hint)
        }
    }
}
