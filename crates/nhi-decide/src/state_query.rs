//! The pure part of `state.get`: what is selected, in pages, and how old it is. It does not fetch.

use nhi_model::{
    Timestamp,
    call::{PAGE_BYTES_MAX, SourceAge, StateGet, StateGot, StateRecord},
    envelope::{Live, Stale, Stored},
    fault::{Fault, FaultCode},
    key::{Key, Section},
    live::SourceGauges,
    source::{Coverage, Source},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{self, Write},
};

/// The state an answer is made from.
#[derive(Clone, Debug)]
pub struct Moment<'a, R> {
    /// Its revision.
    pub revision: u64,
    /// When the answer is made, UTC.
    pub now: Timestamp,
    /// Its records in key order: key, revision of the write, value.
    pub records: R,
    /// Keys whose version at that moment is no longer kept.
    pub unknown: &'a [Key],
    /// The gauges of now; empty for a moment of the past.
    pub live: &'a BTreeMap<Key, Live>,
    /// Why the whole may be out of date.
    pub stale: Option<&'a Stale>,
}

/// Answers one page.
///
/// A page has at most [`PAGE_BYTES_MAX`] bytes of JSON, except that it always has one record.
///
/// # Errors
/// A fault when the request makes no sense: a bad cursor or selection, a limit of nothing, gauges of the past.
pub fn get<'a, R>(moment: Moment<'a, R>, request: &StateGet) -> Result<StateGot, Fault>
where
    R: Iterator<Item = (&'a Key, u64, &'a Stored)>,
{
    let after = check(request)?;
    let records: Vec<_> = moment.records.collect();
    let selected = |key: &Key| request.select.is_empty() || request.select.iter().any(|s| key.matches(s));
    let mut got = StateGot {
        revision: moment.revision,
        as_of: moment.now,
        sources: sources(&records, moment.live, moment.now, request.at.is_none()),
        records: BTreeMap::new(),
        // Told once, on the first page.
        unknown: match after {
            None => moment.unknown.iter().filter(|key| selected(key)).cloned().collect(),
            Some(_) => Vec::new(),
        },
        next: None,
        stale: moment.stale.cloned(),
    };
    // A key's length covers `next` as well, which is the last key of the page.
    let mut bytes = size(&got) + 2 * KEY_BYTES;
    for (key, revision, stored) in records {
        if after.as_ref().is_some_and(|after| key <= after) || !selected(key) {
            continue;
        }
        let live = moment.live.get(key).filter(|live| request.live && live.valid_until > moment.now);
        let record = StateRecord {
            revision,
            at: stored.at,
            op: stored.op.clone(),
            stale: stored.stale.clone(),
            record: stored.record.clone(),
            live: live.cloned(),
        };
        bytes += size(&record) + key.as_str().len() + ROW_BYTES;
        let full =
            bytes > PAGE_BYTES_MAX || request.limit.is_some_and(|limit| got.records.len() >= limit as usize);
        if let (true, Some((last, _))) = (full, got.records.last_key_value()) {
            got.next = Some(last.as_str().to_owned());
            break;
        }
        got.records.insert(key.clone(), record);
    }
    Ok(got)
}

/// Room for a key in `next`; the bus refuses longer subjects.
const KEY_BYTES: usize = 1024;
/// Quotes, colon and comma around a record.
const ROW_BYTES: usize = 4;

/// The cursor as a key; a fault when the request makes no sense.
fn check(request: &StateGet) -> Result<Option<Key>, Fault> {
    let bad = |message: String, hint: &str| Err(Fault::new(FaultCode::BadRequest, message, hint));
    if request.limit == Some(0) {
        return bad(
            "a page of 0 records was asked for".to_owned(),
            "Leave limit away, or ask for at least 1.",
        );
    }
    if request.live && request.at.is_some() {
        return bad(
            "gauges of the past were asked for".to_owned(),
            "Gauges are not kept: leave at away, or live.",
        );
    }
    for select in &request.select {
        let first = select.split('.').next().unwrap_or_default();
        let known = matches!(first, "*" | ">") || Section::ALL.iter().any(|s| s.as_str() == first);
        if !known || select.split('.').any(str::is_empty) {
            let sections = Section::ALL.map(Section::as_str).join(", ");
            return bad(
                format!("{select:?} selects nothing there is"),
                &format!(
                    "Start with one of {sections}, as in vm, vm.home or vm.home.100; * stands for one part."
                ),
            );
        }
    }
    match &request.cursor {
        None => Ok(None),
        Some(text) => match Key::parse(text) {
            Ok(key) => Ok(Some(key)),
            Err(error) => {
                bad(format!("the cursor is none: {error}"), "Pass next of the page before, unchanged.")
            }
        },
    }
}

/// How old each source is.
fn sources(
    records: &[(&Key, u64, &Stored)],
    live: &BTreeMap<Key, Live>,
    now: Timestamp,
    is_now: bool,
) -> BTreeMap<String, SourceAge> {
    let sources = records.iter().filter(|(key, _, _)| key.section() == Section::Source);
    sources
        .map(|(key, _, stored)| {
            let id = key.tokens().pop().unwrap_or_default();
            let live = live.get(key).filter(|_| is_now);
            (id, source_age(key, stored, live, now, is_now))
        })
        .collect()
}

/// How much to trust one source. `is_now` tells that missing gauges mean a silent scanner, not the past.
pub fn source_age(
    key: &Key,
    stored: &Stored,
    live: Option<&Live>,
    now: Timestamp,
    is_now: bool,
) -> SourceAge {
    let coverage = match stored.typed::<Source>(key) {
        Ok(source) => source.coverage,
        Err(error) => Coverage::Unseen { reason: error.to_string() },
    };
    let gauges = live.and_then(|live| SourceGauges::deserialize(&live.record).ok());
    let last_success = gauges.and_then(|gauges| gauges.last_success);
    let silent = is_now && live.is_none_or(|live| live.valid_until <= now);
    let stale = match (&stored.stale, &coverage) {
        (Some(stale), _) => Some(stale.reason.clone()),
        (None, _) if silent => Some("the scanner does not report".to_owned()),
        (None, Coverage::Unseen { reason }) => Some(reason.clone()),
        (None, Coverage::Complete | Coverage::Partial { .. }) => None,
    };
    let age_s = last_success.map(|last| u64::try_from(now.duration_since(last).as_secs()).unwrap_or(0));
    SourceAge { coverage, last_success, age_s, stale }
}

/// How long a value is as JSON.
fn size(value: &impl Serialize) -> usize {
    struct Count(usize);
    impl Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    serde_json::to_writer(&mut count, value).expect("counting never fails and keys are text");
    count.0
}

#[cfg(test)]
mod tests;
