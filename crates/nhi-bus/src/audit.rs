//! The audit log: an append-only stream in which each entry carries the hash of the one before.
//!
//! The chain shows that an entry was changed, is missing or came from elsewhere. It does not show that entries were
//! cut off at the end: whoever wants that keeps the head [`verify`] tells. The stream refuses deletion and purge, and
//! the expected last sequence on every append makes forks impossible. No payloads, no secrets in `details`.

mod chain;

use self::chain::{Chain, link, seal};
use crate::{
    connect::{Bus, Link},
    store::{
        ApiError, AskError,
        api::{
            Direct, DirectError, ERR_WRONG_LAST, ask, direct, last_of, message_at, parse_answer, stream_info,
        },
        written::Written,
    },
};
use async_nats::HeaderMap;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    audit::{AuditEntry, AuditKind},
    call::{AuditList, AuditListed, AuditRow, AuditVerified, PAGE_BYTES_MAX},
    identity::IdentityName,
    subject::{self, AUDIT_STREAM},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// Tries of one append: each lost race against another writer costs one.
const TRIES_MAX: u32 = 16;
/// Longest pause between tries.
const PAUSE_MS_MAX: u64 = 50;
/// How long a lost link is waited for, to learn whether an append was done.
const LINK_SECONDS_MAX: u64 = 10;
/// Entries when the caller gives no number.
const LIST_DEFAULT: u32 = 100;
/// Most entries of one answer.
const LIST_MAX: u32 = 1000;
/// Entries read at once while verifying.
const PAGE_MESSAGES: u32 = 1000;
/// Largest entry, bytes: ids and sizes need no more.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// The header that binds an append to the end it was made for.
const EXPECTED_LAST: &str = "Nats-Expected-Last-Sequence";

/// Why the audit log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Our own fault.
    #[error(
        "audit {kind:?}: the entry takes {bytes} bytes, {ENTRY_BYTES_MAX} are allowed; name ids, not contents"
    )]
    TooLarge {
        /// What happened.
        kind: AuditKind,
        /// Its size.
        bytes: usize,
    },
    /// Too many write at the same time.
    #[error("audit {kind:?}: others were faster {TRIES_MAX} times in a row")]
    Crowded {
        /// What happened.
        kind: AuditKind,
    },
    /// The server did not answer, or not as it should. An append may have been done.
    #[error("use the audit log")]
    Api(#[from] ApiError),
}

impl From<DirectError> for AuditError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Api(error) => Self::Api(error),
            DirectError::TooMany => Self::Api(ApiError::NotUnderstood {
                verb: "DIRECT.GET".to_owned(),
                reason: "it refuses a page of entries".to_owned(),
            }),
        }
    }
}

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
    let mut entry = AuditEntry {
        v: SCHEMA_VERSION,
        at: Timestamp::now(),
        agent: bus.me().clone(),
        kind,
        actor: actor.cloned(),
        details,
        prev: String::new(),
        hash: String::new(),
    };
    // An append whose acknowledgement was lost: where it stands if it was done, its hash, and what happened.
    let mut open = None;
    let mut is_refused = false;
    for _ in 0..TRIES_MAX {
        if open.is_some() {
            wait_for_link(bus).await;
        }
        let end = match (End::look(bus, is_refused).await, open) {
            (Ok(end), None) => end,
            (Ok(end), Some((sequence, hash, error))) => {
                // Bound to the end it was made for, it stands right behind that or nowhere.
                let there = message_at(bus, AUDIT_STREAM, sequence).await.map_err(|_| error)?;
                if there.is_some_and(|there| link(&there.payload) == hash) {
                    return Ok(sequence);
                }
                end
            }
            (Err(error), None) | (Err(_), Some((_, _, error))) => return Err(error.into()),
        };
        open = None;
        end.lead_to(&mut entry);
        let body = seal(&mut entry);
        if body.len() > ENTRY_BYTES_MAX {
            return Err(AuditError::TooLarge { kind, bytes: body.len() });
        }
        match publish(bus, end.sequence, body).await {
            Ok(sequence) => return Ok(sequence),
            Err(error) if error.code() == Some(ERR_WRONG_LAST) => is_refused = true,
            Err(error @ ApiError::Ask(AskError::TimedOut { .. } | AskError::Lost { .. })) => {
                open = Some((end.sequence + 1, entry.hash.clone(), error));
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..=PAUSE_MS_MAX))).await;
    }
    Err(open.map_or(AuditError::Crowded { kind }, |(_, _, error)| AuditError::Api(error)))
}

/// In an entry's details: the entries before it that the store has lost.
const LOST: &str = "entries_lost";

/// Where the log ends, for the entry that comes next.
struct End {
    /// The sequence the server counts on from.
    sequence: u64,
    /// The last entry that can be read. After damage to the store that is an older one, or none.
    last: Option<Written>,
}

impl End {
    /// Where the server refused an end before, because somebody was faster or because the entries there are lost, it
    /// is also asked how far it has counted: before the entry is read, so that an entry written meanwhile is no loss.
    async fn look(bus: &Bus, is_refused: bool) -> Result<Self, ApiError> {
        let counted = if is_refused { stream_info(bus, AUDIT_STREAM).await?.state.last_seq } else { 0 };
        let last = last_of(bus, AUDIT_STREAM, subject::AUDIT_ALL).await?;
        let read = last.as_ref().map_or(0, |last| last.sequence);
        Ok(Self { sequence: read.max(counted), last })
    }

    /// Chains an entry to this end. A gap is named, for who reads the log; [`verify`] reports it anyway.
    fn lead_to(&self, entry: &mut AuditEntry) {
        entry.prev = self.last.as_ref().map(|last| link(&last.payload)).unwrap_or_default();
        let read = self.last.as_ref().map_or(0, |last| last.sequence);
        entry.details.remove(LOST);
        if read < self.sequence {
            let lost = format!("{} to {}", read + 1, self.sequence);
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

/// Entries after a sequence, oldest first, at most a page. One that cannot be read (written by a newer program, or
/// not by us) is left out here; [`verify`] leaves out nothing.
///
/// # Errors
/// [`AuditError`].
pub async fn list(bus: &Bus, request: &AuditList) -> Result<AuditListed, AuditError> {
    let limit = request.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    let (messages, pending) = page(bus, request.after.unwrap_or(0), limit).await?;
    let mut answer = AuditListed { entries: Vec::new(), more: pending > 0 };
    let mut bytes = 0;
    for written in messages {
        bytes += written.payload.len();
        if bytes > PAGE_BYTES_MAX && !answer.entries.is_empty() {
            answer.more = true;
            break;
        }
        match serde_json::from_slice(&written.payload) {
            Ok(entry) => answer.entries.push(AuditRow { sequence: written.sequence, entry }),
            Err(error) => tracing::warn!(rev = written.sequence, err = %error, "audit entry cannot be read"),
        }
    }
    Ok(answer)
}

/// Reads the whole log and checks every hash, every link, and that no sequence is missing.
///
/// # Errors
/// [`AuditError`] when the log cannot be read. A fault found is no error, it is the answer.
pub async fn verify(bus: &Bus) -> Result<AuditVerified, AuditError> {
    let end = stream_info(bus, AUDIT_STREAM).await?.state.last_seq;
    let mut chain = Chain::default();
    loop {
        let (messages, pending) = page(bus, chain.sequence(), PAGE_MESSAGES).await?;
        let is_last = messages.is_empty() || pending == 0;
        for written in messages {
            chain.take(written.sequence, &written.payload);
        }
        if is_last || chain.sequence() >= end {
            return Ok(chain.verdict(end));
        }
    }
}

/// Messages after a sequence, and how many more there are.
async fn page(bus: &Bus, after: u64, count: u32) -> Result<(Vec<Written>, u64), AuditError> {
    let body = json!({ "seq": after.saturating_add(1), "next_by_subj": subject::AUDIT_ALL, "batch": count });
    let Direct { messages, pending } = direct(bus, AUDIT_STREAM, &body).await?;
    Ok((messages, pending))
}
