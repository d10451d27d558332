//! Writing entries: each bound to the end it was chained to, by its hash and by the expected last sequence.
//!
//! Appends of one connection wait for each other and remember where the log ends, so that a lone writer needs one round
//! trip and never loses a race against itself. Other writers are met with the refusal of the end that was remembered.

use super::{
    APPEND_SECONDS_MAX, AuditError, ENTRY_BYTES_MAX,
    chain::{link, seal},
};
use crate::{
    connect::{Bus, Link},
    store::{
        ApiError, AskError,
        api::{ERR_WRONG_LAST, ask, last_of, message_at, parse_answer, stream_info},
    },
};
use async_nats::HeaderMap;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    audit::{AuditEntry, AuditKind},
    identity::IdentityName,
    subject::{self, AUDIT_STREAM},
};
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// Longest pause between tries.
const PAUSE_MS_MAX: u64 = 10;
/// How long a lost link is waited for, to learn whether an append was done.
const LINK_SECONDS_MAX: u64 = 10;

/// What an entry takes beside its details, bytes, amply.
const FRAME_BYTES: usize = 1024;

/// The header that binds an append to the end it was made for.
const EXPECTED_LAST: &str = "Nats-Expected-Last-Sequence";
/// In an entry's details: the entries before it that the store has lost.
const LOST: &str = "entries_lost";

/// Appends what happened, and returns its sequence. `actor` is who did it, where that is not whoever writes.
///
/// # Errors
/// [`AuditError`]. After one that leaves the outcome open, the entry may be there.
pub async fn append(
    bus: &Bus,
    kind: AuditKind,
    actor: Option<&IdentityName>,
    details: BTreeMap<String, Value>,
) -> Result<u64, AuditError> {
    let entry = AuditEntry {
        v: SCHEMA_VERSION,
        at: Timestamp::now(),
        agent: bus.me().clone(),
        kind,
        actor: actor.cloned(),
        details: fitting(details),
        prev: String::new(),
        hash: String::new(),
    };
    let mut remembered = bus.audit_end().lock().await;
    // What is remembered outlives no loss of the link: another store may be behind the next one.
    let losses = *bus.losses().borrow();
    let known = remembered.take().filter(|end| end.losses == losses);
    let (end, sequence) = land(bus, entry, known).await?;
    *remembered = Some(End { losses, ..end });
    Ok(sequence)
}

/// Details that fit into an entry. What happened has to be written down however much there is to say of it, so long
/// texts and lists are cut, visibly, rather than refused.
fn fitting(mut details: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let size = |details: &BTreeMap<String, Value>| serde_json::to_vec(details).map_or(0, |text| text.len());
    for (chars, items) in [(1000, 100), (400, 20), (100, 4)] {
        if size(&details) + FRAME_BYTES <= ENTRY_BYTES_MAX {
            break;
        }
        details.values_mut().for_each(|value| cut(value, chars, items));
    }
    details
}

fn cut(value: &mut Value, chars: usize, items: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(chars) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(rows) => {
            let more = rows.len().saturating_sub(items);
            rows.truncate(items);
            rows.iter_mut().for_each(|row| cut(row, chars, items));
            if more > 0 {
                rows.push(Value::String(format!("… {more} more")));
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, chars, items)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Brings an entry in, and tells where the log ends then.
async fn land(bus: &Bus, mut entry: AuditEntry, mut known: Option<End>) -> Result<(End, u64), AuditError> {
    let kind = entry.kind;
    let deadline = Instant::now() + Duration::from_secs(APPEND_SECONDS_MAX);
    // An append whose acknowledgement was lost: where it stands if it was done, its hash, and what happened.
    let mut open: Option<(u64, String, ApiError)> = None;
    let mut is_refused = false;
    let mut pause_ms = 1;
    loop {
        if let Some((sequence, hash, error)) = open.take() {
            wait_for_link(bus).await;
            // Bound to the end it was made for, it stands right behind that or nowhere.
            let there = message_at(bus, AUDIT_STREAM, sequence).await.map_err(|_| error)?;
            if there.is_some_and(|there| link(&there.payload) == hash) {
                return Ok((End::at(sequence, hash), sequence));
            }
        }
        let end = match known.take() {
            Some(end) => end,
            None => End::look(bus, is_refused).await?,
        };
        end.lead_to(&mut entry);
        let body = seal(&mut entry);
        if body.len() > ENTRY_BYTES_MAX {
            return Err(AuditError::TooLarge { kind, bytes: body.len() });
        }
        let failure = match publish(bus, end.sequence, body).await {
            Ok(sequence) => return Ok((End::at(sequence, entry.hash), sequence)),
            Err(error) if error.code() == Some(ERR_WRONG_LAST) => {
                is_refused = true;
                None
            }
            Err(error @ ApiError::Ask(AskError::TimedOut { .. } | AskError::Lost { .. })) => Some(error),
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= deadline {
            return Err(failure.map_or(AuditError::Crowded { kind }, AuditError::Api));
        }
        open = failure.map(|error| (end.sequence + 1, entry.hash.clone(), error));
        // Whoever lost a race was beaten by one append; the pause grows where many write.
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=pause_ms))).await;
        pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
    }
}

/// Where the log ends, for the entry that comes next.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// The sequence the server counts on from.
    sequence: u64,
    /// The last entry that can be read. After damage to the store that is an older one, or none.
    read: u64,
    /// What an entry that follows that one carries as `prev`.
    link: String,
    /// How often the link had been lost when this was learned.
    losses: u64,
}

impl End {
    /// Right behind an entry of our own.
    fn at(sequence: u64, link: String) -> Self {
        Self { sequence, read: sequence, link, losses: 0 }
    }

    /// Where the server refused an end before, because somebody was faster or because the entries there are lost, it
    /// is also asked how far it has counted: before the entry is read, so that an entry written meanwhile is no loss.
    async fn look(bus: &Bus, is_refused: bool) -> Result<Self, ApiError> {
        let counted = if is_refused { stream_info(bus, AUDIT_STREAM).await?.state.last_seq } else { 0 };
        let last = last_of(bus, AUDIT_STREAM, subject::AUDIT_ALL).await?;
        let read = last.as_ref().map_or(0, |last| last.sequence);
        let link = last.map(|last| link(&last.payload)).unwrap_or_default();
        Ok(Self { sequence: read.max(counted), read, link, losses: 0 })
    }

    /// Chains an entry to this end. A gap is named, for who reads the log; verifying reports it anyway.
    fn lead_to(&self, entry: &mut AuditEntry) {
        entry.prev.clone_from(&self.link);
        entry.details.remove(LOST);
        if self.read < self.sequence {
            let lost = format!("{} to {}", self.read + 1, self.sequence);
            tracing::error!(lost, "audit entries are lost: the store was damaged");
            entry.details.insert(LOST.to_owned(), lost.into());
        }
    }
}

/// Waits until the link is back, or long enough; what follows tells which.
async fn wait_for_link(bus: &Bus) {
    let mut link = bus.link();
    let back = link.wait_for(|link| link.is_up() || *link == Link::Closed);
    drop(tokio::time::timeout(Duration::from_secs(LINK_SECONDS_MAX), back).await);
}

async fn publish(bus: &Bus, expected: u64, body: Vec<u8>) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Ack {
        seq: u64,
    }
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, expected.to_string());
    let answer = ask(bus, &subject::audit(bus.me()), headers, body.into()).await?;
    parse_answer::<Ack>("append", &answer.payload).map(|ack| ack.seq)
}
