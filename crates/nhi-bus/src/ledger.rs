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
const PAGE_MESSAGES: usize = 100;

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
pub async fn append(bus: &Bus, once: &str, day: Date, entries: &[LedgerEntry]) -> Result<(), LedgerError> {
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

/// The lines of a day, UTC, behind a sequence of the stream, and the sequence of the last; the same one when there are
/// no more. A line that cannot be read (written by a newer program) is left out.
///
/// # Errors
/// [`LedgerError`].
pub async fn read(bus: &Bus, day: Date, after: u64) -> Result<(Vec<LedgerEntry>, u64), LedgerError> {
    let (mut entries, mut last) = (Vec::new(), after);
    loop {
        let body = json!({ "seq": last + 1, "next_by_subj": subject::ledger(day), "batch": PAGE_MESSAGES });
        let Direct { messages, pending } = direct(bus, LEDGER_STREAM, &body).await?;
        let Some(newest) = messages.last() else { return Ok((entries, last)) };
        last = newest.sequence;
        let lines = messages.iter().flat_map(|written| written.payload.split(|byte| *byte == b'\n'));
        entries.extend(lines.filter_map(|line| serde_json::from_slice::<LedgerEntry>(line).ok()));
        if pending == 0 {
            return Ok((entries, last));
        }
    }
}
