//! The versions of records, newest first. The server reads only forwards, so the newest are found by reading windows
//! of the stream from its end, each twice as long as the one before.

use super::{PastError, info, is_selected, key_of, moment, select, stream};
use crate::{
    connect::Bus,
    store::{
        api::{Direct, direct},
        written::Written,
    },
    view::reason,
};
use nhi_model::{
    call::{PAGE_BYTES_MAX, StateHistoried, StateHistory, StateRecord, Version},
    envelope::{OpId, Stale, Stored},
    key::Key,
};
use serde_json::{Value, json};

/// Versions when the caller gives no number.
const LIMIT_DEFAULT: u32 = 100;
/// Most versions, whatever the caller says.
const LIMIT_MAX: u32 = 1000;
/// Sequences of the first window.
const WINDOW_FIRST: u64 = 4096;
/// Messages of one request.
const MESSAGES_MAX: u32 = 512;

/// The versions of the selected records, newest first, at most a page.
///
/// # Errors
/// [`PastError`].
pub async fn history(bus: &Bus, request: &StateHistory) -> Result<StateHistoried, PastError> {
    let filter = select::filter(&request.select)?;
    let limit = request.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX) as usize;
    let info = info(bus).await?;
    let since = match request.since {
        // What is no longer kept cannot be shown; asking for it is no error here.
        Some(since) => match moment::resolve(bus, &info, since).await {
            Ok(revision) => revision,
            Err(PastError::Expired { .. }) => 0,
            Err(error) => return Err(error),
        },
        None => 0,
    };
    let selection = std::slice::from_ref(&request.select);
    let first = info.state.first_seq.max(since.saturating_add(1));
    let mut answer = StateHistoried { versions: Vec::new(), truncated: false };
    let mut bytes = 0;
    let (mut end, mut window) = (info.state.last_seq.saturating_add(1), WINDOW_FIRST);
    while end > first {
        let start = end.saturating_sub(window).max(first);
        let mut written = between(bus, &filter, start, end).await?;
        while let Some(written) = written.pop() {
            let Some(version) = version(&written, selection) else { continue };
            bytes += written.payload.len();
            if answer.versions.len() == limit || (bytes > PAGE_BYTES_MAX && !answer.versions.is_empty()) {
                answer.truncated = true;
                return Ok(answer);
            }
            answer.versions.push(version);
        }
        (end, window) = (start, window.saturating_mul(2));
    }
    Ok(answer)
}

/// All messages of a window, oldest first.
async fn between(bus: &Bus, filter: &str, start: u64, end: u64) -> Result<Vec<Written>, PastError> {
    let mut all = Vec::new();
    let mut from = start;
    while from < end {
        let body = json!({ "seq": from, "next_by_subj": filter, "batch": MESSAGES_MAX });
        let Direct { messages, pending } = direct(bus, &stream(), &body).await?;
        let Some(last) = messages.last() else { break };
        from = last.sequence + 1;
        all.extend(messages.into_iter().filter(|written| written.sequence < end));
        if pending == 0 {
            break;
        }
    }
    Ok(all)
}

fn version(written: &Written, selection: &[String]) -> Option<Version> {
    let key = key_of(&written.subject).ok().filter(|key| is_selected(key, selection))?;
    let value = if written.is_delete() { None } else { Some(record(&key, written)) };
    Some(Version { revision: written.sequence, at: written.at(), key, value })
}

/// A value that cannot be read has its place in the history and says so.
fn record(key: &Key, written: &Written) -> StateRecord {
    let (revision, live) = (written.sequence, None);
    match Stored::parse(key, &written.payload) {
        Ok(Stored { op, at, stale, record, v: _ }) => StateRecord { revision, at, op, stale, record, live },
        Err(bad) => {
            let stale = Some(Stale { reason: reason(&bad), since: written.time });
            let op = written.op().unwrap_or(OpId(String::new()));
            StateRecord { revision, at: written.at(), op, stale, record: Value::Null, live }
        }
    }
}
