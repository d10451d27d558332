//! Reading the log: a page, one entry, all of it as lines, and whether all of it holds together.

use super::{AuditError, chain::Chain, reading::Reading};
use crate::{
    connect::Bus,
    store::{
        api::{Direct, direct, message_at},
        written::Written,
    },
};
use nhi_model::{
    audit::AuditEntry,
    call::{AuditList, AuditListed, AuditRow, AuditVerified, PAGE_BYTES_MAX},
    plan::PlanId,
    subject::{self, AUDIT_STREAM},
};
use serde::de::IgnoredAny;
use serde_json::json;
use std::io::{self, Write};

/// Entries when the caller gives no number.
const LIST_DEFAULT: u32 = 100;
/// Most entries of one answer.
const LIST_MAX: u32 = 1000;
/// Most entries looked at for one answer: a second or two of reading.
const LOOKED_AT_MAX: u64 = 200_000;
/// Entries between two reports of progress.
const PROGRESS_ENTRIES: u64 = 10_000;

/// How far a reading is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Entries read.
    pub read: u64,
    /// Sequence of the last entry when the reading began.
    pub of: u64,
}

/// Entries after a sequence, oldest first, at most a page. One that cannot be read (written by a newer program, or
/// not by us) is left out here; [`verify`] leaves out nothing.
///
/// # Errors
/// [`AuditError`].
pub async fn list(bus: &Bus, request: &AuditList) -> Result<AuditListed, AuditError> {
    let limit = request.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    if request.plan.is_some() || request.kind.is_some() {
        return list_matching(bus, request, limit as usize).await;
    }
    let after = request.after.unwrap_or(0);
    let (messages, pending) = page(bus, after, limit).await?;
    let mut page = Page::new(after);
    for written in messages {
        if !page.take(&written, |_| true) {
            return Ok(page.answer(true));
        }
    }
    Ok(page.answer(pending > 0))
}

/// Only the entries asked for. The log has no index of them, so it is read; an answer may be empty and say where to go
/// on.
async fn list_matching(bus: &Bus, request: &AuditList, limit: usize) -> Result<AuditListed, AuditError> {
    let after = request.after.unwrap_or(0);
    let mut reading = Reading::after(bus, after).await?;
    let mut page = Page::new(after);
    let mut looked_at = 0;
    let mut more = true;
    while page.rows.len() < limit && looked_at < LOOKED_AT_MAX {
        let Some(written) = reading.next().await? else {
            more = false;
            break;
        };
        looked_at += 1;
        if !page.take(&written, |entry| is_asked_for(entry, request)) {
            break;
        }
    }
    reading.close().await;
    let more = more && page.last < reading.end();
    Ok(page.answer(more))
}

/// Whether an entry is about the plan, by its id or its run's, and of the kind.
fn is_asked_for(entry: &AuditEntry, request: &AuditList) -> bool {
    let names = |key: &str, id: &str| entry.details.get(key).and_then(|value| value.as_str()) == Some(id);
    let is_about = |plan: &PlanId| names("plan", plan.as_str()) || names("run", plan.run().as_str());
    request.kind.is_none_or(|kind| entry.kind == kind) && request.plan.as_ref().is_none_or(is_about)
}

/// An answer while it fills.
struct Page {
    rows: Vec<AuditRow>,
    bytes: usize,
    /// Everything up to here was looked at.
    last: u64,
}

impl Page {
    const fn new(after: u64) -> Self {
        Self { rows: Vec::new(), bytes: 0, last: after }
    }

    /// False when the page is full and the entry belongs on the next one.
    fn take(&mut self, written: &Written, is_wanted: impl Fn(&AuditEntry) -> bool) -> bool {
        match serde_json::from_slice::<AuditEntry>(&written.payload) {
            Ok(entry) if is_wanted(&entry) => {
                self.bytes += written.payload.len();
                if self.bytes > PAGE_BYTES_MAX && !self.rows.is_empty() {
                    return false;
                }
                self.rows.push(AuditRow { sequence: written.sequence, entry });
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(rev = written.sequence, err = %error, "audit entry cannot be read");
            }
        }
        self.last = written.sequence;
        true
    }

    fn answer(self, more: bool) -> AuditListed {
        AuditListed { entries: self.rows, more, next: more.then_some(self.last) }
    }
}

/// One entry; `None` when there is none with that sequence, or it cannot be read.
///
/// # Errors
/// [`AuditError`].
pub async fn show(bus: &Bus, sequence: u64) -> Result<Option<AuditRow>, AuditError> {
    let Some(written) = message_at(bus, AUDIT_STREAM, sequence).await? else { return Ok(None) };
    match serde_json::from_slice(&written.payload) {
        Ok(entry) => Ok(Some(AuditRow { sequence, entry })),
        Err(error) => {
            tracing::warn!(rev = sequence, err = %error, "audit entry cannot be read");
            Ok(None)
        }
    }
}

/// Writes the entries after a sequence as JSON lines, `{"sequence":1,"entry":{…}}`, each entry's text exactly as it is
/// stored, so that its hash can be checked elsewhere; a text that is no JSON stands as a string under `text`. Returns
/// how many. Not for identities outside HOME: they page through `audit.list`.
///
/// # Errors
/// [`AuditError`]; what was written before stays.
pub async fn export(
    bus: &Bus,
    after: u64,
    out: &mut impl Write,
    mut progress: impl FnMut(Progress),
) -> Result<u64, AuditError> {
    let mut reading = Reading::after(bus, after).await?;
    let mut read = 0;
    while let Some(written) = reading.next().await? {
        write_line(out, &written).map_err(AuditError::Output)?;
        read += 1;
        if read % PROGRESS_ENTRIES == 0 {
            progress(Progress { read, of: reading.end() });
        }
    }
    reading.close().await;
    out.flush().map_err(AuditError::Output)?;
    progress(Progress { read, of: reading.end() });
    Ok(read)
}

fn write_line(out: &mut impl Write, written: &Written) -> io::Result<()> {
    let sequence = written.sequence;
    let text = str::from_utf8(&written.payload).ok();
    // One with a line's end in it is none of ours either.
    let is_entry = |text: &&str| !text.contains('\n') && serde_json::from_str::<IgnoredAny>(text).is_ok();
    match text.filter(is_entry) {
        Some(entry) => writeln!(out, "{{\"sequence\":{sequence},\"entry\":{entry}}}"),
        None => {
            let text = String::from_utf8_lossy(&written.payload);
            writeln!(out, "{}", json!({ "sequence": sequence, "text": text }))
        }
    }
}

/// Reads the whole log and checks every hash, every link, and that no sequence is missing.
///
/// # Errors
/// [`AuditError`] when the log cannot be read. A fault found is no error, it is the answer.
pub async fn verify(bus: &Bus) -> Result<AuditVerified, AuditError> {
    verify_with(bus, |_| {}).await
}

/// The same, telling now and then how far it is.
///
/// # Errors
/// [`AuditError`] when the log cannot be read.
pub async fn verify_with(bus: &Bus, mut progress: impl FnMut(Progress)) -> Result<AuditVerified, AuditError> {
    let mut reading = Reading::after(bus, 0).await?;
    let mut chain = Chain::default();
    while let Some(written) = reading.next().await? {
        chain.take(written.sequence, &written.payload);
        if chain.entries() % PROGRESS_ENTRIES == 0 {
            progress(Progress { read: chain.entries(), of: reading.end() });
        }
    }
    reading.close().await;
    progress(Progress { read: chain.entries(), of: reading.end() });
    Ok(chain.verdict(reading.end()))
}

/// Messages after a sequence, and how many more there are.
async fn page(bus: &Bus, after: u64, count: u32) -> Result<(Vec<Written>, u64), AuditError> {
    let body = json!({ "seq": after.saturating_add(1), "next_by_subj": subject::AUDIT_ALL, "batch": count });
    let Direct { messages, pending } = direct(bus, AUDIT_STREAM, &body).await?;
    Ok((messages, pending))
}
