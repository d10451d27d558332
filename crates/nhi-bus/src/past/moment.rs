//! From a moment to the revision it means: never one inside a batch, never one that is not there.
//!
//! Reads are the leader's: a replica that is behind would make the latest moments look older than they are.

use super::{PastError, stream};
use crate::{
    connect::Bus,
    store::{
        ApiError, BATCH_MESSAGES_MAX,
        api::{StreamInfo, message_at, message_from},
        written::Written,
    },
};
use nhi_model::{
    Timestamp,
    call::At,
    subject::{self, STATE_BUCKET},
};

/// The last revision not after a moment at which no batch is half done; 0 for the empty state before the first.
pub(super) async fn resolve(bus: &Bus, info: &StreamInfo, at: At) -> Result<u64, PastError> {
    let revision = match at {
        At::Revision(revision) => revision.min(info.state.last_seq),
        At::Time(time) => by_time(bus, info, time).await?,
    };
    let revision = before_half_done(bus, revision).await?;
    let oldest = info.state.first_seq;
    if revision < oldest && (oldest > 1 || revision > 0) {
        return Err(PastError::Expired { revision, oldest });
    }
    Ok(revision)
}

/// Moves a revision inside a batch to the one before the batch. A batch's messages have consecutive sequences and
/// each knows its place, so any that is left tells where it began.
async fn before_half_done(bus: &Bus, revision: u64) -> Result<u64, ApiError> {
    if revision == 0 {
        return Ok(0);
    }
    if let Some(written) = message_at(bus, &stream(), revision).await? {
        return Ok(match written.in_batch() {
            Some(batch) if !batch.is_last => revision.saturating_sub(batch.place),
            Some(_) | None => revision,
        });
    }
    // Its message is gone, because the record has changed often since. One after it may belong to the same batch,
    let next = message_from(bus, &stream(), &all(), revision + 1).await?;
    let before_next = next.and_then(|next| Some(next.sequence.saturating_sub(next.in_batch()?.place)));
    if let Some(before) = before_next.filter(|before| *before < revision) {
        return Ok(before);
    }
    // or one before it, which then goes on beyond it.
    let Some(left) = last_before(bus, revision).await? else { return Ok(revision) };
    let Some(batch) = left.in_batch().filter(|batch| !batch.is_last) else { return Ok(revision) };
    let before = left.sequence.saturating_sub(batch.place);
    // Where the writer did not say how long its batch was, the earlier state is the one that is surely whole.
    let is_over = batch.count.is_some_and(|count| before + count <= revision);
    Ok(if is_over { revision } else { before })
}

/// The last message before a revision that is left, as far back as a batch can reach.
async fn last_before(bus: &Bus, revision: u64) -> Result<Option<Written>, ApiError> {
    let mut found = None;
    // Something is left from `low` on, nothing from `high` on; there is no call that reads backwards.
    let (mut low, mut high) = (revision.saturating_sub(BATCH_MESSAGES_MAX as u64), revision);
    while low < high {
        let middle = low + (high - low) / 2;
        match message_from(bus, &stream(), &all(), middle.max(1)).await? {
            Some(left) if left.sequence < revision => {
                low = left.sequence + 1;
                found = Some(left);
            }
            Some(_) | None => high = middle,
        }
    }
    Ok(found)
}

/// The last commit not after a time, by the time its writer gave it. Where the clocks of two writers disagree, the
/// answer is one of the commits they disagree about.
async fn by_time(bus: &Bus, info: &StreamInfo, time: Timestamp) -> Result<u64, ApiError> {
    // Everything below `low` is not after the time, everything from `high` on is (or is not there).
    let (mut low, mut high) = (info.state.first_seq.max(1), info.state.last_seq + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match message_from(bus, &stream(), &all(), middle).await? {
            Some(next) if next.sequence < high && next.at() <= time => low = next.sequence + 1,
            Some(_) | None => high = middle,
        }
    }
    Ok((low - 1).min(info.state.last_seq))
}

fn all() -> String {
    subject::kv_all(STATE_BUCKET)
}
