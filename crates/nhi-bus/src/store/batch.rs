//! One atomic batch on its way into a bucket: all its messages land together or none does, each bound to the revision
//! it was decided on. It knows subjects and revisions, not what stands under them: see [`super::commit`] for the
//! state and [`crate::plans`] for what acting remembers.
//!
//! Why read back after an error? An error is not a no: more than half of the writes that failed with one while a
//! server was killed had been written. Each value carries the id of its write, so what is found tells whose it is;
//! and each write is bound to a revision, so that doing it again is safe even when the first try arrives late.

use super::{
    api::{ApiError, AskError, ask, last_of, parse_answer},
    written::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED_LAST, OPERATION, Written},
};
use crate::connect::{Bus, Link, PublishError};
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    header::{AT, BATCH_COUNT, OP},
};
use serde::{Deserialize, de::IgnoredAny};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a batch is tried, the reading back included. Afterwards the next round decides anew.
pub const COMMIT_SECONDS_MAX: u64 = 30;
/// Most messages of an atomic batch; the server's limit.
pub(crate) const BATCH_MESSAGES_MAX: usize = 1000;
/// Most bytes of a batch: it passes through the connection, and through each follower's, in one go.
pub(crate) const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Tries of one batch. Each failure is followed by looking at what stands there.
const TRIES_MAX: u32 = 5;
/// Pause before a batch is tried again, and while the stream has no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Keys read back at once.
const READS_IN_FLIGHT_MAX: usize = 32;

/// Messages that land together. Each carries the id of the write: a value in its envelope, a marker in a header.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) op: OpId,
    pub(crate) messages: Vec<Prepared>,
}

/// A change as it goes on the wire.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) subject: String,
    expected: u64,
    /// On the wire instead of `expected` when that is 0 and a delete marker stands there.
    over_marker: Option<u64>,
    headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Prepared {
    /// A value. The revision is that of the value it replaces, 0 where there is none.
    pub(crate) fn put(subject: String, expected: u64, body: Vec<u8>) -> Self {
        Self { subject, expected, over_marker: None, headers: HeaderMap::new(), body: body.into() }
    }

    /// A delete marker.
    pub(crate) fn marker(subject: String, expected: u64, op: &OpId, at: Timestamp) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(OPERATION, "DEL");
        headers.insert(OP, op.0.as_str());
        headers.insert(AT, at.to_string());
        Self { subject, expected, over_marker: None, headers, body: Bytes::new() }
    }
}

/// Why a batch did not land, or is not known to have.
#[derive(Debug)]
pub(crate) enum LandError {
    /// Something else stands under the first such subject. Nothing was written.
    Conflict { subject: String, expected: u64, found: u64 },
    /// The server refuses this identity the subject. Nothing was written.
    Refused { subject: String },
    /// The link was down before anything was sent. Nothing was written.
    Disconnected,
    /// The server says no for a reason of its own. Nothing was written.
    Store(ApiError),
    /// It may have been written, and may still be.
    Unknown { op: OpId, source: ApiError },
}

/// When a commit that begins now is given up.
pub(crate) fn deadline() -> Instant {
    Instant::now() + Duration::from_secs(COMMIT_SECONDS_MAX)
}

/// Brings one batch in, whatever happens on the way, and returns the revision of its last message.
pub(crate) async fn land(
    bus: &Bus,
    stream: &str,
    mut batch: Batch,
    deadline: Instant,
) -> Result<u64, LandError> {
    let mut tries = 0;
    // Something may have left us on an earlier try; then nothing may be called "not written" unread.
    let mut sent = false;
    loop {
        tries += 1;
        let error = match publish(bus, &batch.messages).await {
            Ok(revision) => return Ok(revision),
            Err(error) => error,
        };
        match &error {
            ApiError::Ask(AskError::Refused { subject }) => {
                return Err(LandError::Refused { subject: subject.clone() });
            }
            ApiError::Ask(AskError::NotSent(PublishError::Disconnected { .. })) if !sent => {
                return Err(LandError::Disconnected);
            }
            ApiError::Ask(AskError::NotSent(_)) if !sent => return Err(LandError::Store(error)),
            ApiError::Ask(_) | ApiError::Answer { .. } | ApiError::NotUnderstood { .. } => {}
        }
        sent = true;
        tracing::debug!(err = %error, attempt = tries, "write unconfirmed, reading back");
        let found = match tokio::time::timeout_at(deadline, read_back(bus, stream, &batch.messages)).await {
            Ok(Ok(found)) => found,
            Ok(Err(source)) => return Err(LandError::Unknown { op: batch.op, source }),
            Err(_) => return Err(LandError::Unknown { op: batch.op, source: error }),
        };
        match judge(&batch, &found) {
            Judgement::Landed { revision } => return Ok(revision),
            Judgement::Conflict { subject, expected, found } => {
                return Err(LandError::Conflict { subject, expected, found });
            }
            Judgement::Again { rest } => batch.messages = rest,
        }
        if tries == TRIES_MAX || Instant::now() >= deadline {
            return Err(match error {
                source @ ApiError::Answer { .. } => LandError::Store(source),
                source => LandError::Unknown { op: batch.op, source },
            });
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Sends one batch. A single message needs no batch: its own expected revision is enough.
async fn publish(bus: &Bus, messages: &[Prepared]) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
    }
    let (last, others) = messages.split_last().expect("a batch has at least one message");
    // Random, not derived from the write's id: an abandoned batch of an earlier try may still be open.
    let id = Uuid::new_v4().simple().to_string();
    let headers = |message: &Prepared, place: usize| {
        let mut headers = message.headers.clone();
        headers.insert(EXPECTED_LAST, message.over_marker.unwrap_or(message.expected).to_string());
        if !others.is_empty() {
            headers.insert(BATCH_ID, id.as_str());
            headers.insert(BATCH_SEQUENCE, place.to_string());
            headers.insert(BATCH_COUNT, messages.len().to_string());
        }
        headers
    };
    for (index, message) in others.iter().enumerate() {
        let (headers, body) = (headers(message, index + 1), message.body.clone());
        if index > 0 {
            bus.send(&message.subject, None, headers, body).await.map_err(AskError::NotSent)?;
            continue;
        }
        // The server answers the first one: with nothing when the batch is open, or with why it is not.
        let answer = ask(bus, &message.subject, headers, body).await?;
        if !answer.payload.is_empty() {
            parse_answer::<IgnoredAny>("open batch", &answer.payload)?;
        }
    }
    let mut headers = headers(last, messages.len());
    if !others.is_empty() {
        headers.insert(BATCH_COMMIT, "1");
    }
    let answer = ask(bus, &last.subject, headers, last.body.clone()).await?;
    parse_answer::<Ack>("commit", &answer.payload).map(|ack| ack.seq)
}

/// What stands under each key now, from the leader. Waits for the link when it is down.
async fn read_back(bus: &Bus, stream: &str, messages: &[Prepared]) -> Result<Vec<Option<Written>>, ApiError> {
    let mut link = bus.link();
    loop {
        // Never fails: the connection that owns the sender is ours. When closed for good, sending says so.
        drop(link.wait_for(|link| link.is_up() || *link == Link::Closed).await);
        let reads: Vec<_> = messages.iter().map(|message| last_of(bus, stream, &message.subject)).collect();
        let found = futures::stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await;
        match found {
            Err(ApiError::Ask(AskError::NotSent(_))) if *link.borrow() == Link::Closed => return found,
            // No leader yet, or the link went again; the caller's deadline ends this.
            Err(ApiError::Ask(error)) if !matches!(error, AskError::Refused { .. }) => {
                tracing::debug!(err = %error, "reading back failed, trying again");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            found => return found,
        }
    }
}

#[derive(Debug, PartialEq)]
enum Judgement {
    /// Ours stand there.
    Landed { revision: u64 },
    /// Something else stands there.
    Conflict { subject: String, expected: u64, found: u64 },
    /// These are not there yet, and nothing is in their way.
    Again { rest: Vec<Prepared> },
}

/// Tells from what stands there what became of a batch.
fn judge(batch: &Batch, found: &[Option<Written>]) -> Judgement {
    let mut rest = Vec::new();
    let mut conflict = None;
    let mut landed = 0;
    for (message, written) in batch.messages.iter().zip(found) {
        let revision = written.as_ref().map_or(0, |written| written.sequence);
        match written {
            Some(ours) if ours.op().as_ref() == Some(&batch.op) => {
                landed = landed.max(end_of_batch(ours, batch.messages.len()));
            }
            Some(marker) if message.expected == 0 && marker.is_delete() => {
                rest.push(Prepared { over_marker: Some(revision), ..message.clone() });
            }
            _ if revision == message.expected => rest.push(Prepared { over_marker: None, ..message.clone() }),
            _ => {
                conflict.get_or_insert_with(|| (message.subject.clone(), message.expected, revision));
            }
        }
    }
    match conflict {
        // A batch lands whole, so one of ours proves all; the one that differs was written after it.
        Some(_) if landed > 0 => Judgement::Landed { revision: landed },
        Some((subject, expected, found)) => Judgement::Conflict { subject, expected, found },
        None if rest.is_empty() => Judgement::Landed { revision: landed },
        // Some of ours and some not: only a server that failed to restore a batch after a crash leaves that.
        None => Judgement::Again { rest },
    }
}

/// The revision of the last message of the batch that one of its messages belongs to.
fn end_of_batch(written: &Written, messages: usize) -> u64 {
    let remaining = written.in_batch().map_or(0, |batch| (messages as u64).saturating_sub(batch.place));
    written.sequence + remaining
}

#[cfg(test)]
mod tests;
