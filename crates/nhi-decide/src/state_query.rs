//! The pure part of `state.get`: what is selected, in pages, and how old it is. It does not fetch.

use nhi_model::{
    Timestamp,
    call::{StateGet, StateGot},
    envelope::{Live, Stale, Stored},
    fault::Fault,
    key::Key,
};
use std::collections::BTreeMap;

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
/// # Errors
/// A fault when the request makes no sense: a bad cursor, a limit of nothing, gauges of the past.
pub fn get<'a, R>(moment: Moment<'a, R>, request: &StateGet) -> Result<StateGot, Fault>
where
    R: Iterator<Item = (&'a Key, u64, &'a Stored)>,
{
    let _ = request;
    Ok(StateGot {
        revision: moment.revision,
        as_of: moment.now,
        sources: BTreeMap::new(),
        records: BTreeMap::new(),
        unknown: Vec::new(),
        next: None,
        stale: None,
    })
}
