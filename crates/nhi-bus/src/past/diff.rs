//! What changed between two moments. What counts as a difference is decided elsewhere, purely; here the two states
//! are read, and the answer is kept to a page.

use super::{Past, PastError, state_at};
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
    let before = state_at(bus, from, &[]).await?;
    let after = state_at(bus, to.unwrap_or(At::Revision(u64::MAX)), &[]).await?;
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

/// The records of one state that do not stand at the same revision in the other.
fn moved<'a>(this: &'a Past, other: &Past, unknown: &BTreeSet<Key>) -> BTreeMap<Key, &'a Value> {
    let revision = |key| other.records.get(key).map(|entry| entry.revision);
    this.records
        .iter()
        .filter(|(key, entry)| revision(key) != Some(entry.revision) && !unknown.contains(key))
        .map(|(key, entry)| (key.clone(), &entry.stored.record))
        .collect()
}
