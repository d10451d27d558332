//! A job this router works on: its lease is renewed while the answer is made, and what became of it is written once. A
//! router that lost its lease stops, and writes nothing.

use super::{KEPT, Queue};
use nhi_bus::{
    cx::Cx,
    jobs::{JobSeen, JobsError},
};
use nhi_decide::{jobs::again_at, weave::Json};
use nhi_model::{
    Timestamp,
    ai::JobId,
    fault::{Fault, FaultCode},
    jobs::{JobRow, RowState},
};
use serde_json::Value;
use std::time::Duration;

/// How long a router may be silent before another one takes its jobs.
const LEASE: Duration = Duration::from_secs(12);
/// How often it says that it is there: three times in a lease.
const RENEW: Duration = Duration::from_secs(4);
/// Before a job is tried again that nobody was asked about after all.
const PAUSE: Duration = Duration::from_secs(5);
/// Between tries to write how it ended.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// One try.
#[derive(Debug)]
pub(crate) struct Taken {
    queue: Queue,
    job: JobId,
    row: JobRow,
    revision: u64,
    attempt: u32,
    until: Timestamp,
}

impl Taken {
    pub(super) async fn begin(queue: &Queue, job: &JobId, seen: &JobSeen, attempt: u32) -> Option<Self> {
        let until = Timestamp::now() + LEASE;
        let row = (*seen.row).clone();
        let mut taken = Self { queue: queue.clone(), job: job.clone(), row, revision: 0, attempt, until };
        taken.revision = seen.revision;
        match taken.put(taken.running(until)).await {
            Ok(()) => Some(taken),
            Err(error) => {
                tracing::debug!(agent = "route", req = %job, err = %error, "job not taken");
                None
            }
        }
    }

    /// Which try this is, from 1.
    pub(crate) const fn attempt(&self) -> u32 {
        self.attempt
    }

    pub(crate) const fn row(&self) -> &JobRow {
        &self.row
    }

    fn running(&self, until: Timestamp) -> RowState {
        RowState::Running { attempt: self.attempt, router: self.queue.me.to_string(), until }
    }

    async fn put(&mut self, state: RowState) -> Result<(), JobsError> {
        let row = JobRow { state, ..self.row.clone() };
        self.revision = self.queue.jobs.put(&self.job, self.revision, &row).await?;
        self.row = row;
        Ok(())
    }

    /// Waits for the answer, and writes how it ended.
    pub(crate) async fn work(mut self, cx: &Cx, answer: impl Future<Output = Result<Json, Fault>>) {
        let answered = tokio::select! {
            answered = answer => Some(answered),
            () = self.hold() => {
                tracing::debug!(agent = "route", req = %self.job, attempt = self.attempt, "job lost to another router");
                return;
            }
            () = cx.cancelled() => None,
        };
        let state = match answered {
            Some(Ok(answer)) => self.keep(&answer).await,
            Some(Err(fault)) => self.failed(&fault),
            // This router stops: another one begins anew, at once.
            None => RowState::Waiting { attempt: self.attempt - 1, not_before: None, text: None },
        };
        self.finish(state, cx).await;
    }

    /// Renews the lease; returns when it is lost.
    async fn hold(&mut self) {
        loop {
            tokio::time::sleep(RENEW).await;
            let until = Timestamp::now() + LEASE;
            match self.put(self.running(until)).await {
                Ok(()) => self.until = until,
                Err(error) if matches!(error, JobsError::Moved { .. }) && !self.is_mine().await => return,
                Err(_) if self.until <= Timestamp::now() => return,
                Err(error) => {
                    tracing::debug!(agent = "route", req = %self.job, err = %error, "lease not renewed yet");
                }
            }
        }
    }

    /// Whether the row still says that this router is at this try: then a write of ours was not seen to end.
    async fn is_mine(&mut self) -> bool {
        let Ok(Some(seen)) = self.queue.jobs.get(&self.job).await else { return false };
        let is_mine = matches!(
            &seen.row.state,
            RowState::Running { attempt, router, .. } if *attempt == self.attempt && **router == *self.queue.me
        );
        if is_mine {
            self.revision = seen.revision;
        }
        is_mine
    }

    async fn keep(&self, answer: &Json) -> RowState {
        loop {
            match self.queue.jobs.keep(&self.job, self.attempt, answer).await {
                Ok(()) => return RowState::Done { attempt: self.attempt, until: Timestamp::now() + KEPT },
                Err(error @ JobsError::TooLarge { .. }) => return dead(&error.to_string()),
                Err(error) if self.until <= Timestamp::now() => return self.again(&error.to_string()),
                Err(_) => tokio::time::sleep(WRITE_AGAIN).await,
            }
        }
    }

    /// What a failure means for the job.
    fn failed(&self, fault: &Fault) -> RowState {
        // A model that nobody has now may come back, as it was there when the job came.
        let lasting = [
            FaultCode::BadRequest,
            FaultCode::ContextTooLong,
            FaultCode::Forbidden,
            FaultCode::NotFound,
            FaultCode::TooLarge,
        ];
        let is_lasting = lasting.iter().any(|code| code.as_str() == fault.code);
        let was_asked =
            fault.details.get("failed").and_then(Value::as_array).is_some_and(|all| !all.is_empty());
        match (is_lasting, was_asked) {
            (true, _) => dead(&fault.message),
            (false, true) => self.again(&fault.message),
            (false, false) => RowState::Waiting {
                attempt: self.attempt - 1,
                not_before: Some(Timestamp::now() + PAUSE),
                text: Some(fault.message.clone()),
            },
        }
    }

    fn again(&self, text: &str) -> RowState {
        match again_at(Timestamp::now(), self.attempt) {
            Some(at) => {
                RowState::Waiting { attempt: self.attempt, not_before: Some(at), text: Some(text.to_owned()) }
            }
            None => dead(text),
        }
    }

    /// Writes how it ended while the lease holds. When that fails the job is done again.
    async fn finish(mut self, state: RowState, cx: &Cx) {
        loop {
            let error = match self.put(state.clone()).await {
                Ok(()) => break,
                Err(error) => error,
            };
            let is_lost = matches!(error, JobsError::Moved { .. }) && !self.is_mine().await;
            if is_lost || cx.is_cancelled() || self.until <= Timestamp::now() {
                tracing::debug!(agent = "route", req = %self.job, err = %error, "end of the job not written");
                return;
            }
            tokio::time::sleep(WRITE_AGAIN).await;
        }
        if state.is_open() {
            return;
        }
        match &state {
            // Why stands in the row: it may hold words of the request.
            RowState::Dead { .. } => {
                tracing::warn!(agent = "route", req = %self.job, attempt = self.attempt, "job given up");
            }
            RowState::Waiting { .. } | RowState::Running { .. } | RowState::Done { .. } => {
                tracing::debug!(agent = "route", req = %self.job, attempt = self.attempt, "job done");
            }
        }
        if let Err(error) = self.queue.jobs.forget_request(&self.job).await {
            tracing::debug!(agent = "route", req = %self.job, err = %error, "question goes later");
        }
    }
}

fn dead(text: &str) -> RowState {
    RowState::Dead { text: text.to_owned(), until: Timestamp::now() + KEPT }
}
