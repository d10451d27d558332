//! What changed between two moments. What counts as a difference is decided elsewhere, purely; here the two states
//! are read, and the answer is kept to a page.

use super::{Past, PastError, info, moment, read, state_at};
use crate::connect::Bus;
use nhi_model::{
    call::{At, PAGE_BYTES_MAX, StateDiffed},
    key::Key,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The differences between a moment and a later one, or now. Records unknown at either are named, not guessed.
///
/// # Errors
/// [`PastError`].
pub async fn diff(bus: &Bus, from: At, to: Option<At>) -> Result<StateDiffed, PastError> {
    let to = to.unwrap_or(At::Revision(u64::MAX));
    let (before, after) = match lately(bus, from, to).await? {
        Some(parts) => parts,
        None => (state_at(bus, from, &[]).await?, state_at(bus, to, &[]).await?),
    };
    let unknown: BTreeSet<Key> = before.unknown.iter().chain(&after.unknown).cloned().collect();
    let mut changes =
        nhi_decide::diff::records(&moved(&before, &after, &unknown), &moved(&after, &before, &unknown));
    let mut bytes = 0;
    let count = changes.len();
    let mut kept = 0;
    changes.retain(|key, difference| {
        bytes += serde_json::to_vec(difference).map_or(0, |json| json.len()) + key.as_str().len();
        let fits = bytes <= PAGE_BYTES_MAX || kept == 0;
        kept += usize::from(fits);
        fits
    });
    Ok(StateDiffed {
        from: before.revision,
        to: after.revision,
        truncated: changes.len() < count,
        changes,
        unknown: unknown.into_iter().collect(),
    })
}

/// Of two moments so late that few messages came since, the records that were written between them: a look at what
/// happened within the last minutes need not read the whole state twice.
async fn lately(bus: &Bus, from: At, to: At) -> Result<Option<(Past, Past)>, PastError> {
    let info = info(bus).await?;
    let from = moment::resolve(bus, &info, from).await?;
    let to = moment::resolve(bus, &info, to).await?;
    let Some(names) = read::touched(bus, &info, from.min(to), from.max(to)).await? else { return Ok(None) };
    let at = async |revision| {
        let mut past = Past { revision, ..Past::default() };
        // Before the first revision there is nothing, and no request can say so: 0 means no limit.
        if revision > 0 {
            for written in read::read_named(bus, &info, &names, revision).await? {
                past.take(&written, &[]);
            }
        }
        Ok::<_, PastError>(past)
    };
    Ok(Some((at(from).await?, at(to).await?)))
}

/// The records of one state that do not stand at the same revision in the other.
fn moved<'a>(this: &'a Past, other: &Past, unknown: &BTreeSet<Key>) -> BTreeMap<Key, &'a Value> {
    let revision = |key| other.records.get(key).map(|entry| entry.revision);
    this.records
        .iter()
        .filter(|(key, entry)| revision(key) != Some(entry.revision) && !unknown.contains(key))
        .map(|(key, entry)| (key.clone(), &entry.stored.record))
        .collect()
}
