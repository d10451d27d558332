//! What changed between two revisions, as one event: from the keeper, with the caller's rights. Where that is too much or
//! no longer kept, the reader reads everything again, which is less.

use super::text;
use bytes::Bytes;
use nhi_bus::{
    call::{self, CallError},
    connect::Bus,
};
use nhi_model::{
    call::{At, RecordDiff, StateDiff, StateDiffed, StateGet, StateGot},
    fault::FaultCode,
    key::Key,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Records told at most: with more, reading everything is no more work.
const RECORDS_MAX: usize = 256;
/// Pages read at most.
const PAGES_MAX: usize = 8;

/// What a reader that comes back is told.
#[derive(Clone, Debug)]
pub(super) enum Replay {
    /// It missed nothing, or never was here.
    Nothing,
    /// What changed since, written out.
    Since(Bytes),
    /// It has to read everything again, and why.
    Impossible(String),
}

/// What changed after one revision and up to another.
pub(super) async fn between(bus: &Bus, after: u64, until: u64) -> Replay {
    if after > until {
        return Replay::Impossible(format!("revision {after} is not there yet: the newest is {until}"));
    }
    match read(bus, after, until).await {
        Ok(replay) => replay,
        Err(CallError::Fault { fault, .. }) if fault.code == FaultCode::Expired.as_str() => {
            Replay::Impossible(format!("what changed since revision {after} is no longer kept"))
        }
        Err(error) => {
            tracing::debug!(err = %error, "what changed since cannot be told");
            Replay::Impossible(format!("what changed since revision {after} cannot be read now"))
        }
    }
}

async fn read(bus: &Bus, after: u64, until: u64) -> Result<Replay, CallError> {
    let question = StateDiff { from: At::Revision(after), to: Some(At::Revision(until)) };
    let diff: StateDiffed = call::call(bus, "state", "diff", &question).await?;
    if diff.truncated || diff.changes.len() > RECORDS_MAX {
        return Ok(Replay::Impossible(format!("too much changed since revision {after}")));
    }
    if !diff.unknown.is_empty() || diff.to != until {
        return Ok(Replay::Impossible(format!("not all that changed since revision {after} is known")));
    }
    let is_there = |change: &RecordDiff| match change {
        RecordDiff::Added { .. } | RecordDiff::Changed { .. } => true,
        RecordDiff::Removed { .. } => false,
    };
    let wanted: Vec<&Key> = diff.changes.iter().filter(|(_, c)| is_there(c)).map(|(key, _)| key).collect();
    let Some(records) = records(bus, &wanted, until).await? else {
        return Ok(Replay::Impossible(format!("not all that changed since revision {after} is known")));
    };
    let gone = diff.changes.iter().filter(|(_, change)| !is_there(change));
    let gone =
        gone.map(|(key, _)| (key.clone(), text::record(key.as_str(), &Value::Null, &Value::Null, None)));
    let rows: BTreeMap<Key, Value> = records.into_iter().chain(gone).collect();
    Ok(Replay::Since(text::state(until, rows.into_values().collect())))
}

/// These records at a revision; `None` when one of them cannot be had.
async fn records(bus: &Bus, wanted: &[&Key], until: u64) -> Result<Option<BTreeMap<Key, Value>>, CallError> {
    let mut rows = BTreeMap::new();
    let mut cursor = None;
    for _ in 0..PAGES_MAX {
        if wanted.is_empty() {
            break;
        }
        let question = StateGet {
            at: Some(At::Revision(until)),
            select: wanted.iter().map(ToString::to_string).collect(),
            cursor: cursor.take(),
            ..StateGet::default()
        };
        let got: StateGot = call::call(bus, "state", "get", &question).await?;
        for (key, told) in got.records {
            let row = text::record(key.as_str(), &told.record, &json!(told.stale), Some(told.at));
            rows.insert(key, row);
        }
        cursor = got.next;
        if cursor.is_none() {
            break;
        }
    }
    let is_whole = cursor.is_none() && wanted.iter().all(|key| rows.contains_key(*key));
    Ok(is_whole.then_some(rows))
}
