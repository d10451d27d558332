//! Messages that nats-server keeps and delivers later, whoever is alive then: the dead man's switch of a run.
//!
//! It does not decide what a due timer means, and never fires one itself: the server's clock does, also for what became
//! due while the server was down.

mod due;

pub use self::due::{DueTimer, DueTimers, due};

use crate::{
    connect::{Bus, Link, PublishError},
    store::{
        ApiError, AskError,
        api::{ERR_WRONG_LAST, ask, last_of, parse_answer},
        written::{EXPECTED_LAST, Written, text},
    },
};
use async_nats::HeaderMap;
use bytes::Bytes;
use nhi_model::{
    Timestamp, header,
    run::RunId,
    subject::{self, TIMERS_STREAM},
};
use serde::Deserialize;
use std::time::Duration;
use uuid::Uuid;

/// Tries of one change. Each failure is followed by looking at what stands there.
const TRIES_MAX: u32 = 5;
/// Pause between tries.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// How long a lost link is waited for, to learn whether a change was done.
const LINK_SECONDS_MAX: u64 = 10;

const SCHEDULE: &str = "Nats-Schedule";
const TARGET: &str = "Nats-Schedule-Target";
const SCHEDULER: &str = "Nats-Scheduler";
const NEXT: &str = "Nats-Schedule-Next";
/// Of which subject [`EXPECTED_LAST`] speaks, when it is not the message's own.
const EXPECTED_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Why a timer could not be armed, confirmed or waited for.
#[derive(Debug, thiserror::Error)]
pub enum TimerError {
    /// Somebody else changes it all the time.
    #[error("set the timer of {run}: others changed it {TRIES_MAX} times meanwhile")]
    Crowded {
        /// Whose.
        run: RunId,
    },
    /// The server did not answer, or not as it should. It may have been done; doing it again is safe.
    #[error("use the timers")]
    Api(#[from] ApiError),
}

/// Sets the timer of a run, and returns its sequence. One that is set for this very moment already stays as it is; one
/// for another moment is replaced. A moment that has passed is due at once.
///
/// The timer of a run that has fired or was confirmed is set anew: whoever asks knows from the run what it means.
///
/// # Errors
/// [`TimerError`]. Afterwards the timer may be set; to arm it again is safe.
pub async fn arm(bus: &Bus, run: &RunId, due: Timestamp) -> Result<u64, TimerError> {
    let set = subject::timer_set(run);
    let when = format!("@at {due}");
    let mut last_error = None;
    for _ in 0..TRIES_MAX {
        let standing = match standing(bus, &set, last_error.is_some()).await {
            Ok(standing) => standing,
            Err(error) => return Err(last_error.unwrap_or(error).into()),
        };
        if let Some(written) = &standing
            && text(&written.headers, SCHEDULE) == Some(&when)
        {
            return Ok(written.sequence);
        }
        let mut headers = HeaderMap::new();
        headers.insert(SCHEDULE, when.as_str());
        headers.insert(TARGET, subject::timer_due(run));
        let expected = standing.map_or(0, |written| written.sequence);
        headers.insert(EXPECTED_LAST, expected.to_string());
        match publish(bus, &set, headers).await {
            Ok(sequence) => return Ok(sequence),
            Err(error) => last_error = Some(passing(error)?),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Err(given_up(run, last_error))
}

/// Takes the timer of a run away, so that it never becomes due: somebody has confirmed what the run did. False when it
/// has fired, was confirmed before, or was never set.
///
/// # Errors
/// [`TimerError`]. Afterwards the timer may be gone; to confirm again tells, though it then says false.
pub async fn confirm(bus: &Bus, run: &RunId) -> Result<bool, TimerError> {
    let (set, confirmed) = (subject::timer_set(run), subject::timer_confirmed(run));
    let mine = Uuid::new_v4().simple().to_string();
    let mut last_error: Option<ApiError> = None;
    for _ in 0..TRIES_MAX {
        let standing = match standing(bus, &set, last_error.is_some()).await {
            Ok(standing) => standing,
            Err(error) => return Err(last_error.unwrap_or(error).into()),
        };
        let Some(standing) = standing else {
            // After a lost answer it may be gone because of us.
            let Some(error) = last_error else { return Ok(false) };
            let by = last_of(bus, TIMERS_STREAM, &confirmed).await.map_err(|_| error)?;
            return Ok(by.is_some_and(|by| text(&by.headers, header::OP) == Some(&mine)));
        };
        let mut headers = HeaderMap::new();
        headers.insert(NEXT, "purge");
        headers.insert(SCHEDULER, set.as_str());
        headers.insert(EXPECTED_LAST, standing.sequence.to_string());
        headers.insert(EXPECTED_OF, set.as_str());
        headers.insert(header::OP, mine.as_str());
        match publish(bus, &confirmed, headers).await {
            Ok(_) => return Ok(true),
            Err(error) => last_error = Some(passing(error)?),
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
    Err(given_up(run, last_error))
}

/// The timer as the leader has it. After a failure the link is waited for first.
async fn standing(bus: &Bus, set: &str, after_failure: bool) -> Result<Option<Written>, ApiError> {
    if after_failure {
        let mut link = bus.link();
        let back = link.wait_for(|link| link.is_up() || *link == Link::Closed);
        drop(tokio::time::timeout(Duration::from_secs(LINK_SECONDS_MAX), back).await);
    }
    last_of(bus, TIMERS_STREAM, set).await
}

/// An error that another look and try may mend: somebody was faster, or the answer was lost.
fn passing(error: ApiError) -> Result<ApiError, TimerError> {
    match &error {
        ApiError::Answer { .. } if error.code() == Some(ERR_WRONG_LAST) => Ok(error),
        ApiError::Ask(AskError::TimedOut { .. } | AskError::Lost { .. } | AskError::NobodyAnswers { .. }) => {
            Ok(error)
        }
        ApiError::Ask(AskError::NotSent(PublishError::Disconnected { .. })) => Ok(error),
        ApiError::Answer { .. } | ApiError::Ask(_) | ApiError::NotUnderstood { .. } => {
            Err(TimerError::Api(error))
        }
    }
}

fn given_up(run: &RunId, error: Option<ApiError>) -> TimerError {
    match error {
        Some(error) if error.code() != Some(ERR_WRONG_LAST) => TimerError::Api(error),
        Some(_) | None => TimerError::Crowded { run: run.clone() },
    }
}

async fn publish(bus: &Bus, subject: &str, headers: HeaderMap) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
    }
    let answer = ask(bus, subject, headers, Bytes::new()).await?;
    parse_answer::<Ack>("set a timer", &answer.payload).map(|ack| ack.seq)
}
