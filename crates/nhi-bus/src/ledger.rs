//! The ledger of AI requests: a line each, appended once and never changed, a subject a day. A message holds some lines,
//! because the server syncs its disk for each message. It sums nothing, and nothing anybody wrote or was answered stands
//! in it.

use crate::{
    connect::Bus,
    store::{
        ApiError,
        api::{Direct, DirectError, ask, direct, parse_answer},
    },
};
use async_nats::HeaderMap;
use jiff::{civil::Date, tz::TimeZone};
use nhi_model::{
    ai::{LEDGER_STREAM, LedgerEntry},
    subject,
};
use serde::de::IgnoredAny;
use serde_json::json;

/// Messages read at once.
const PAGE_MESSAGES: usize = 500;
/// The same in bytes: a message has one line or many.
const PAGE_BYTES: usize = 256 * 1024;

/// Why the ledger could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The server did not answer, or not as it should. An append may have been done; doing it again is safe.
    #[error("use the ledger")]
    Api(#[from] ApiError),
}

impl From<DirectError> for LedgerError {
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

/// The day a line belongs to, UTC.
pub fn day_of(entry: &LedgerEntry) -> Date {
    entry.at.to_zoned(TimeZone::UTC).date()
}

/// Appends lines of one day, all or none of them. `once` tells the message from all others: the same one given again within
/// two minutes is kept once.
///
/// # Errors
/// [`LedgerError`].
pub async fn append(bus: &Bus, once: &str, entries: &[LedgerEntry]) -> Result<(), LedgerError> {
    let Some(day) = entries.first().map(day_of) else { return Ok(()) };
    debug_assert!(entries.iter().all(|entry| day_of(entry) == day), "a message is of one day");
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", once);
    let mut body = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut body, entry).expect("an entry is made of JSON types");
        body.push(b'\n');
    }
    let subject = subject::ledger(day);
    let answer = ask(bus, &subject, headers, body.into()).await.map_err(ApiError::from)?;
    parse_answer::<IgnoredAny>(&subject, &answer.payload)?;
    Ok(())
}

/// Some lines of a day.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Those that can be read; one that was written by a newer program is left out.
    pub entries: Vec<LedgerEntry>,
    /// Sequence in the stream of the last message; where there is none, that asked behind.
    pub last: u64,
    /// Whether more stands behind it.
    pub has_more: bool,
}

/// The next lines of a day, UTC, behind a sequence of the stream.
///
/// # Errors
/// [`LedgerError`].
pub async fn read(bus: &Bus, day: Date, after: u64) -> Result<Page, LedgerError> {
    let subject = subject::ledger(day);
    let body = json!({
        "seq": after + 1, "next_by_subj": subject, "batch": PAGE_MESSAGES, "max_bytes": PAGE_BYTES,
    });
    let Direct { messages, pending } = direct(bus, LEDGER_STREAM, &body).await?;
    let last = messages.last().map_or(after, |newest| newest.sequence);
    let has_more = pending > 0 && last > after;
    let lines = messages.iter().flat_map(|written| written.payload.split(|byte| *byte == b'\n'));
    let entries = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
    Ok(Page { entries, last, has_more })
}
