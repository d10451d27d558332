//! Writing records: all changes of one decision land together or not at all, each bound to the revision it was
//! decided on.
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
use futures::{StreamExt, TryStreamExt, stream};
use nhi_decide::change::{Change, What};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    envelope::{OpId, Stored},
    header::{AT, BATCH_COUNT, OP},
    key::Key,
    subject::{self, STATE_BUCKET},
};
use serde::{Deserialize, de::IgnoredAny};
use std::{collections::BTreeSet, time::Duration};
use uuid::Uuid;

/// Largest value, bytes of JSON. Larger ones are refused before anything is written.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;
/// How long a commit is tried, the reading back included. Afterwards the next round decides anew.
pub const COMMIT_SECONDS_MAX: u64 = 30;
/// Most messages of an atomic batch; the server's limit.
pub(crate) const BATCH_MESSAGES_MAX: usize = 1000;
/// Most bytes of a batch: it passes through the connection, and through each follower's, in one go.
const BATCH_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Tries of one batch. Each failure is followed by looking at what stands there.
const TRIES_MAX: u32 = 5;
/// Pause before a batch is tried again, and while the stream has no leader.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Keys read back at once.
const READS_IN_FLIGHT_MAX: usize = 32;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Revision of the last write; 0 when there was nothing to write.
    pub revision: u64,
    /// Messages written.
    pub messages: usize,
}

/// Why a commit did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The record moved since the decision. Nothing of its batch was written; look again next round.
    #[error("write {key}: it was expected at revision {expected} and stands at {found}; decide again")]
    Conflict {
        /// The first such record.
        key: Key,
        /// The revision the decision was made on.
        expected: u64,
        /// The revision that stands there; 0 when there is nothing.
        found: u64,
    },
    /// Our own fault. Nothing was written.
    #[error("write {key}: it is changed twice in one commit")]
    Twice {
        /// The record.
        key: Key,
    },
    /// Our own fault. Nothing was written.
    #[error("write {key}: it is to be retired and expected not to be there")]
    RetiresNothing {
        /// The record.
        key: Key,
    },
    /// Nothing was written.
    #[error("write {key}: its value takes {bytes} bytes, {VALUE_BYTES_MAX} are allowed")]
    TooLarge {
        /// The record.
        key: Key,
        /// Its size.
        bytes: usize,
    },
    /// This identity is not the record's writer. Nothing of the batch was written.
    #[error("write to {subject}: the server refuses it; this identity does not own the record")]
    Refused {
        /// The subject.
        subject: String,
    },
    /// The link was down before anything was sent. Nothing of the batch was written.
    #[error("write to {STATE_BUCKET}: the mesh is not connected; changes wait until it is")]
    Disconnected,
    /// The server says no for a reason of its own (disk full, limits). Nothing of the batch was written.
    #[error("write to {STATE_BUCKET}")]
    Store(#[source] ApiError),
    /// It may have been written, and may still be. The next commit of the same decision recognises it.
    #[error("learn whether write {} to {STATE_BUCKET} was done; look again when the mesh answers", op.0)]
    Unknown {
        /// Id of the write.
        op: OpId,
        /// What went wrong last.
        source: ApiError,
    },
}

/// Writes changes in one atomic batch; more than 1000 go in several, in their order.
///
/// A change that expects nothing also succeeds on a key that was retired: readers do not see the marker that stands
/// there. When a later batch of several fails, the earlier ones stay.
///
/// # Errors
/// [`CommitError`]. Not cancel safe: what was sent may be written.
pub async fn commit(
    bus: &Bus,
    op: &OpId,
    at: Timestamp,
    changes: &[Change],
) -> Result<Committed, CommitError> {
    let batches = prepare(op, at, changes)?;
    let mut done = Committed { revision: 0, messages: 0 };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(COMMIT_SECONDS_MAX);
    for batch in batches {
        let messages = batch.messages.len();
        done.revision = land(bus, batch, deadline).await?;
        done.messages += messages;
    }
    tracing::debug!(rev = done.revision, messages = done.messages, "changes committed");
    Ok(done)
}

#[derive(Debug)]
struct Batch {
    op: OpId,
    messages: Vec<Prepared>,
}

/// A change as it goes on the wire.
#[derive(Clone, Debug, PartialEq)]
struct Prepared {
    key: Key,
    subject: String,
    expected: u64,
    /// On the wire instead of `expected` when that is 0 and a delete marker stands there.
    over_marker: Option<u64>,
    headers: HeaderMap,
    body: Bytes,
}

/// Everything that can be refused without asking the server is refused here, before the first message.
fn prepare(op: &OpId, at: Timestamp, changes: &[Change]) -> Result<Vec<Batch>, CommitError> {
    let mut keys = BTreeSet::new();
    for change in changes {
        if !keys.insert(&change.key) {
            return Err(CommitError::Twice { key: change.key.clone() });
        }
        if change.expected == 0 && change.what == What::Retire {
            return Err(CommitError::RetiresNothing { key: change.key.clone() });
        }
    }
    let messages = encode_all(op, at, changes)?;
    let cuts = cut(&messages);
    if cuts.len() < 2 {
        let batch = Batch { op: op.clone(), messages };
        return Ok(if batch.messages.is_empty() { Vec::new() } else { vec![batch] });
    }
    let mut rest = changes;
    let mut batches = Vec::new();
    for (index, count) in cuts.into_iter().enumerate() {
        let (these, others) = rest.split_at(count);
        rest = others;
        let op = OpId(format!("{}-{}", op.0, index + 1));
        let messages = encode_all(&op, at, these)?;
        batches.push(Batch { op, messages });
    }
    Ok(batches)
}

/// How many messages each batch takes.
fn cut(messages: &[Prepared]) -> Vec<usize> {
    let mut cuts = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for message in messages {
        let size = message.body.len();
        if count == BATCH_MESSAGES_MAX || (count > 0 && bytes + size > BATCH_BYTES_MAX) {
            cuts.push(count);
            (count, bytes) = (0, 0);
        }
        count += 1;
        bytes += size;
    }
    if count > 0 {
        cuts.push(count);
    }
    cuts
}

fn encode_all(op: &OpId, at: Timestamp, changes: &[Change]) -> Result<Vec<Prepared>, CommitError> {
    changes.iter().map(|change| encode(op, at, change)).collect()
}

fn encode(op: &OpId, at: Timestamp, change: &Change) -> Result<Prepared, CommitError> {
    let mut headers = HeaderMap::new();
    let body = match &change.what {
        What::Put { record, stale } => {
            let stored = Stored {
                v: SCHEMA_VERSION,
                op: op.clone(),
                at,
                stale: stale.clone(),
                record: record.clone(),
            };
            serde_json::to_vec(&stored).expect("an envelope of JSON values serialises")
        }
        What::Retire => {
            headers.insert(OPERATION, "DEL");
            headers.insert(OP, op.0.as_str());
            headers.insert(AT, at.to_string());
            Vec::new()
        }
    };
    if body.len() > VALUE_BYTES_MAX {
        return Err(CommitError::TooLarge { key: change.key.clone(), bytes: body.len() });
    }
    Ok(Prepared {
        key: change.key.clone(),
        subject: subject::kv(STATE_BUCKET, &change.key),
        expected: change.expected,
        over_marker: None,
        headers,
        body: body.into(),
    })
}

/// Brings one batch in, whatever happens on the way, and returns the revision of its last message.
async fn land(bus: &Bus, mut batch: Batch, deadline: tokio::time::Instant) -> Result<u64, CommitError> {
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
                return Err(CommitError::Refused { subject: subject.clone() });
            }
            ApiError::Ask(AskError::NotSent(PublishError::Disconnected { .. })) if !sent => {
                return Err(CommitError::Disconnected);
            }
            ApiError::Ask(AskError::NotSent(_)) if !sent => return Err(CommitError::Store(error)),
            ApiError::Ask(_) | ApiError::Answer { .. } | ApiError::NotUnderstood { .. } => {}
        }
        sent = true;
        tracing::debug!(err = %error, attempt = tries, "write unconfirmed, reading back");
        let found = match tokio::time::timeout_at(deadline, read_back(bus, &batch.messages)).await {
            Ok(Ok(found)) => found,
            Ok(Err(source)) => return Err(CommitError::Unknown { op: batch.op, source }),
            Err(_) => return Err(CommitError::Unknown { op: batch.op, source: error }),
        };
        match judge(&batch, &found) {
            Judgement::Landed { revision } => return Ok(revision),
            Judgement::Conflict { key, expected, found } => {
                return Err(CommitError::Conflict { key, expected, found });
            }
            Judgement::Again { rest } => batch.messages = rest,
        }
        if tries == TRIES_MAX || tokio::time::Instant::now() >= deadline {
            return Err(match error {
                source @ ApiError::Answer { .. } => CommitError::Store(source),
                source => CommitError::Unknown { op: batch.op, source },
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
async fn read_back(bus: &Bus, messages: &[Prepared]) -> Result<Vec<Option<Written>>, ApiError> {
    let stream = subject::bucket_stream(STATE_BUCKET);
    let mut link = bus.link();
    loop {
        // Never fails: the connection that owns the sender is ours. When closed for good, sending says so.
        drop(link.wait_for(|link| link.is_up() || *link == Link::Closed).await);
        let reads: Vec<_> = messages.iter().map(|message| last_of(bus, &stream, &message.subject)).collect();
        let found = stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await;
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
    Conflict { key: Key, expected: u64, found: u64 },
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
                conflict.get_or_insert_with(|| (message.key.clone(), message.expected, revision));
            }
        }
    }
    match conflict {
        // A batch lands whole, so one of ours proves all; the one that differs was written after it.
        Some(_) if landed > 0 => Judgement::Landed { revision: landed },
        Some((key, expected, found)) => Judgement::Conflict { key, expected, found },
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
