//! AI requests that can wait: their rows, followed in memory and moved by compare and set, and their texts. It decides
//! nothing: whoever changes a row says what it becomes, on the revision it was decided on.

mod snapshot;

pub use self::snapshot::{JobSeen, JobsSnapshot};

use crate::{
    connect::Bus,
    cx::Cx,
    store::{
        ApiError,
        api::{ERR_WRONG_LAST, ask, last_of, parse_answer, stream_info},
        written::{EXPECTED_LAST, OPERATION, Written},
    },
    view::watched::{OPEN_SECONDS_MAX, OpenError, Watched, settings},
};
use async_nats::HeaderMap;
use bytes::Bytes;
use nhi_model::{
    ai::JobId,
    jobs::{JOBS_BUCKET, JobRow, RESULTS_BUCKET},
    subject,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::{Mutex, watch};

/// Bytes of a question or an answer that is kept. A thousand that wait take 2 GB of disk at most.
pub const TEXT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The whole stream stands where it was.
const EXPECTED_LAST_OF_ALL: &str = "Nats-Expected-Last-Sequence";
/// Races one submission may lose against others.
const TRIES_MAX: u32 = 32;
/// How long rows that are there may take to be seen here.
const SIGHT: Duration = Duration::from_secs(5);

/// Why a job was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    /// Somebody else was faster. Nothing was written; look again.
    #[error("change job {job}: it moved meanwhile")]
    Moved {
        /// The job.
        job: JobId,
    },
    /// Too many submit at the same time. Nothing can be read of the job.
    #[error("submit job {job}: others were faster {TRIES_MAX} times; try again")]
    Crowded {
        /// The job.
        job: JobId,
    },
    /// Nothing was written.
    #[error("keep {bytes} bytes of job {job}: {TEXT_BYTES_MAX} are allowed")]
    TooLarge {
        /// The job.
        job: JobId,
        /// Its size.
        bytes: usize,
    },
    /// What stands there is foreign or was written by a newer program.
    #[error("read job {job}: {reason}")]
    Unreadable {
        /// The job.
        job: JobId,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not answer, or not as it should. A write may have been done.
    #[error("use the jobs")]
    Api(#[from] ApiError),
    /// The rows did not arrive in time.
    #[error("read the jobs within {OPEN_SECONDS_MAX} s: {reason}")]
    TimedOut {
        /// What went wrong last.
        reason: String,
    },
}

impl From<OpenError> for JobsError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Api(error) => Self::Api(error),
            OpenError::TimedOut { reason } => Self::TimedOut { reason },
        }
    }
}

/// The jobs. Clones are the same.
#[derive(Clone)]
pub struct Jobs {
    bus: Bus,
    watched: Watched<JobsSnapshot>,
    /// Held while a job is added, so that a lone router loses no race against itself.
    turn: Arc<Mutex<()>>,
}

impl Jobs {
    /// Reads all rows, and follows them from then on.
    ///
    /// # Errors
    /// [`JobsError`] when the bucket is missing, refused, or does not arrive.
    pub async fn open(cx: &Cx, bus: &Bus) -> Result<Self, JobsError> {
        let watched = Watched::open(cx, bus, "jobs view", settings()).await?;
        Ok(Self { bus: bus.clone(), watched, turn: Arc::default() })
    }

    /// All rows, as the server last told: good for choosing, not for deciding.
    pub fn read(&self) -> Arc<JobsSnapshot> {
        self.watched.read()
    }

    /// Changes whenever a row does.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.watched.changed()
    }

    /// Adds a job when `fits` says so of all that stand there, and of no others: two submissions at the same time, at
    /// any two routers, do not both take the last place. One that is there already is left as it is.
    ///
    /// # Errors
    /// [`JobsError`]; within, what `fits` says. Not cancel safe: it may be added.
    pub async fn add<E>(
        &self,
        job: &JobId,
        row: &JobRow,
        request: &Map<String, Value>,
        fits: impl Fn(&JobsSnapshot) -> Result<(), E>,
    ) -> Result<Result<(), E>, JobsError> {
        let (request, row) =
            (text(job, request)?, serde_json::to_vec(row).expect("a row is made of JSON types"));
        let mut is_kept = false;
        let _turn = self.turn.lock().await;
        for _ in 0..TRIES_MAX {
            let last = self.end().await?;
            let snapshot = self.read();
            if snapshot.jobs.contains_key(job) {
                return Ok(Ok(()));
            }
            if let Err(reason) = fits(&snapshot) {
                if is_kept {
                    self.take_away(&subject::job_request(job)).await?;
                }
                return Ok(Err(reason));
            }
            if !is_kept {
                self.send(&subject::job_request(job), HeaderMap::new(), request.clone()).await?;
                is_kept = true;
            }
            let mut headers = HeaderMap::new();
            headers.insert(EXPECTED_LAST_OF_ALL, last.to_string());
            match self.send(&subject::job(job), headers, row.clone().into()).await {
                Ok(_) => return Ok(Ok(())),
                Err(error) if is_moved(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(JobsError::Crowded { job: job.clone() })
    }

    /// The last sequence of the rows' stream, once everything up to it is seen here.
    async fn end(&self) -> Result<u64, JobsError> {
        let state = stream_info(&self.bus, &subject::bucket_stream(JOBS_BUCKET)).await?.state;
        if state.messages > 0
            && tokio::time::timeout(SIGHT, self.watched.reached(state.last_seq)).await.is_err()
        {
            let reason = self.read().stale.as_ref().map(|stale| stale.reason.clone());
            return Err(JobsError::TimedOut { reason: reason.unwrap_or_else(|| "rows are late".to_owned()) });
        }
        Ok(state.last_seq)
    }

    /// A row as the leader has it.
    ///
    /// # Errors
    /// [`JobsError`], also when what stands there cannot be read.
    pub async fn get(&self, job: &JobId) -> Result<Option<JobSeen>, JobsError> {
        let last = last_of(&self.bus, &subject::bucket_stream(JOBS_BUCKET), &subject::job(job)).await?;
        let Some(written) = last.filter(|written| !written.is_delete()) else { return Ok(None) };
        snapshot::read(&written)
            .map(Some)
            .map_err(|reason| JobsError::Unreadable { job: job.clone(), reason })
    }

    /// Moves a row from the revision it was seen at; the new one.
    ///
    /// # Errors
    /// [`JobsError`]. Not cancel safe: it may be moved.
    pub async fn put(&self, job: &JobId, expected: u64, row: &JobRow) -> Result<u64, JobsError> {
        let body = serde_json::to_vec(row).expect("a row is made of JSON types");
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, expected.to_string());
        self.send(&subject::job(job), headers, body.into()).await.map_err(|error| moved(job, error))
    }

    /// Takes a row that is over away, and its texts.
    ///
    /// # Errors
    /// [`JobsError`]; the texts go by themselves after a while.
    pub async fn forget(&self, job: &JobId, expected: u64, answer: Option<u32>) -> Result<(), JobsError> {
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, expected.to_string());
        headers.insert(OPERATION, "DEL");
        let gone = self.send(&subject::job(job), headers, Bytes::new()).await;
        gone.map_err(|error| moved(job, error))?;
        if let Some(attempt) = answer {
            self.take_away(&subject::job_answer(job, attempt)).await?;
        }
        self.forget_request(job).await
    }

    /// Takes the text of a question away that nobody needs any more.
    ///
    /// # Errors
    /// [`JobsError`]
    pub async fn forget_request(&self, job: &JobId) -> Result<(), JobsError> {
        self.take_away(&subject::job_request(job)).await.map_err(JobsError::Api)
    }

    async fn take_away(&self, subject: &str) -> Result<(), ApiError> {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        self.send(subject, headers, Bytes::new()).await.map(|_| ())
    }

    /// What was asked; nothing when it is gone.
    ///
    /// # Errors
    /// [`JobsError`]
    pub async fn request(&self, job: &JobId) -> Result<Option<Map<String, Value>>, JobsError> {
        self.text(job, &subject::job_request(job)).await
    }

    /// What one try was answered; nothing when it is gone.
    ///
    /// # Errors
    /// [`JobsError`]
    pub async fn answer(&self, job: &JobId, attempt: u32) -> Result<Option<Map<String, Value>>, JobsError> {
        self.text(job, &subject::job_answer(job, attempt)).await
    }

    /// Keeps what a try was answered. It counts when the row says so.
    ///
    /// # Errors
    /// [`JobsError`]
    pub async fn keep(
        &self,
        job: &JobId,
        attempt: u32,
        answer: &Map<String, Value>,
    ) -> Result<(), JobsError> {
        let answer = text(job, answer)?;
        self.send(&subject::job_answer(job, attempt), HeaderMap::new(), answer).await?;
        Ok(())
    }

    async fn text(&self, job: &JobId, subject: &str) -> Result<Option<Map<String, Value>>, JobsError> {
        let last = last_of(&self.bus, &subject::bucket_stream(RESULTS_BUCKET), subject).await?;
        let Some(written) = last.filter(|written| !written.is_delete()) else { return Ok(None) };
        let Written { payload, .. } = written;
        // The reason alone: what could not be read is somebody's text.
        let bad = |_| JobsError::Unreadable { job: job.clone(), reason: "its text is no JSON".to_owned() };
        serde_json::from_slice(&payload).map(Some).map_err(bad)
    }

    async fn send(&self, subject: &str, headers: HeaderMap, body: Bytes) -> Result<u64, ApiError> {
        #[derive(Deserialize)]
        struct Ack {
            seq: u64,
        }
        let answer = ask(&self.bus, subject, headers, body).await?;
        parse_answer::<Ack>(subject, &answer.payload).map(|ack| ack.seq)
    }
}

fn is_moved(error: &ApiError) -> bool {
    error.code() == Some(ERR_WRONG_LAST)
}

fn moved(job: &JobId, error: ApiError) -> JobsError {
    if is_moved(&error) { JobsError::Moved { job: job.clone() } } else { error.into() }
}

fn text(job: &JobId, text: &Map<String, Value>) -> Result<Bytes, JobsError> {
    let text = serde_json::to_vec(text).expect("a JSON object serialises");
    if text.len() > TEXT_BYTES_MAX {
        return Err(JobsError::TooLarge { job: job.clone(), bytes: text.len() });
    }
    Ok(text.into())
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("jobs", &self.read().jobs.len()).finish_non_exhaustive()
    }
}
