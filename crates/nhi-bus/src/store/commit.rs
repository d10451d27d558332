//! Writing records: all changes of one decision land together or not at all, each bound to the revision it was
//! decided on. How a batch is brought in whatever happens on the way: [`super::batch`].

use super::{
    api::ApiError,
    batch::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, Batch, LandError, Prepared, deadline, land},
};
use crate::connect::Bus;
use nhi_decide::change::{Change, What};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    envelope::{OpId, Stored},
    key::Key,
    subject::{self, STATE_BUCKET},
};
use std::collections::BTreeSet;

/// Largest value, bytes of JSON. Larger ones are refused before anything is written.
pub const VALUE_BYTES_MAX: usize = 256 * 1024;

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
    let (stream, deadline) = (subject::bucket_stream(STATE_BUCKET), deadline());
    for batch in batches {
        let messages = batch.messages.len();
        done.revision = land(bus, &stream, batch, deadline).await?;
        done.messages += messages;
    }
    tracing::debug!(rev = done.revision, messages = done.messages, "changes committed");
    Ok(done)
}

impl From<LandError> for CommitError {
    fn from(error: LandError) -> Self {
        match error {
            LandError::Conflict { subject, expected, found } => {
                let key = subject::key_of(STATE_BUCKET, &subject).expect("the subject was made of a key");
                Self::Conflict { key, expected, found }
            }
            LandError::Refused { subject } => Self::Refused { subject },
            LandError::Disconnected => Self::Disconnected,
            LandError::Store(source) => Self::Store(source),
            LandError::Unknown { op, source } => Self::Unknown { op, source },
        }
    }
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
    let subject = subject::kv(STATE_BUCKET, &change.key);
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
        What::Retire => return Ok(Prepared::marker(subject, change.expected, op, at)),
    };
    if body.len() > VALUE_BYTES_MAX {
        return Err(CommitError::TooLarge { key: change.key.clone(), bytes: body.len() });
    }
    Ok(Prepared::put(subject, change.expected, body))
}

#[cfg(test)]
mod tests;
