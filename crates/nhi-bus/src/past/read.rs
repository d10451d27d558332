//! The last version of each selected record up to a revision, in as few requests as the server's limits allow.

use super::{PastError, key_of, stream, subject_of};
use crate::{
    connect::Bus,
    store::{
        ApiError,
        api::{Direct, DirectError, StreamInfo, direct, message_from, subjects},
        written::Written,
    },
};
use futures::{StreamExt, TryStreamExt, stream as futures_stream};
use nhi_model::key::{Key, Section};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Subjects named in one request. The server takes 1024; the rest is room.
const NAMED_MAX: usize = 1000;
/// Oldest versions looked at, at once.
const READS_IN_FLIGHT_MAX: usize = 32;
/// How often a replica is given time to catch up; it needs a fraction of a second.
const BEHIND_TRIES_MAX: u32 = 20;
const BEHIND_PAUSE: Duration = Duration::from_millis(100);

/// Everything that matches, each subject once.
pub(super) async fn read(
    bus: &Bus,
    info: &StreamInfo,
    filters: &[String],
    up_to: u64,
) -> Result<Vec<Written>, PastError> {
    let mut found = BTreeMap::new();
    if filters.len() <= NAMED_MAX && collect(bus, info, filters, up_to, &mut found).await? {
        return Ok(found.into_values().collect());
    }
    for filter in split(filters) {
        if collect(bus, info, std::slice::from_ref(&filter), up_to, &mut found).await? {
            continue;
        }
        let named: Vec<String> = subjects(bus, &stream(), &filter).await?.into_keys().collect();
        for named in named.chunks(NAMED_MAX) {
            collect_named(bus, info, named, up_to, &mut found).await?;
        }
    }
    Ok(found.into_values().collect())
}

/// The sources, and what comes after a key until the values have so many bytes; with the last subject read when more
/// follow. Reading the whole state for each page of it would cost pages times the state.
pub(super) async fn read_after(
    bus: &Bus,
    info: &StreamInfo,
    filters: &[String],
    up_to: u64,
    after: &Key,
    bytes_min: usize,
) -> Result<(Vec<Written>, Option<String>), PastError> {
    let mut names = BTreeSet::new();
    for filter in filters {
        if filter.contains(['*', '>']) {
            names.extend(subjects(bus, &stream(), filter).await?.into_keys());
        } else {
            names.insert(filter.clone());
        }
    }
    let (after, sources) =
        (subject_of(after.as_str()), subject_of(&format!("{}.", Section::Source.as_str())));
    let wanted: Vec<String> = names.iter().filter(|name| name.starts_with(&sources)).cloned().collect();
    let following: Vec<String> = names.into_iter().filter(|name| *name > after).collect();
    let mut found = read_named(bus, info, &wanted, up_to).await?;
    let (mut bytes, mut last) = (0, None);
    for names in following.chunks(NAMED_MAX) {
        if bytes >= bytes_min {
            return Ok((found, last));
        }
        let more = read_named(bus, info, names, up_to).await?;
        bytes += more.iter().map(|written| written.payload.len()).sum::<usize>();
        last = names.last().cloned();
        found.extend(more);
    }
    Ok((found, None))
}

/// The subjects of the messages after one revision up to another, when they are few and nothing of either moment can
/// have been pushed out since; `None` otherwise.
pub(super) async fn touched(
    bus: &Bus,
    info: &StreamInfo,
    after: u64,
    up_to: u64,
) -> Result<Option<Vec<String>>, PastError> {
    // A record that is no longer known at a revision has had as many versions since as are kept. Half of that leaves
    // room for what is written meanwhile.
    let few = (NAMED_MAX as u64).min(info.versions_max() / 2);
    if info.state.last_seq.saturating_sub(after) > few {
        return Ok(None);
    }
    let mut names = BTreeSet::new();
    let mut from = after + 1;
    while from <= up_to {
        let body = json!({ "seq": from, "next_by_subj": subject_of(">"), "batch": NAMED_MAX });
        let Direct { messages, .. } = direct(bus, &stream(), &body).await?;
        // Nothing more, although the last one is a message: a replica that is behind.
        let Some(last) = messages.last() else { return Ok(None) };
        from = last.sequence + 1;
        names.extend(messages.into_iter().filter(|w| w.sequence <= up_to).map(|written| written.subject));
    }
    Ok(Some(names.into_iter().collect()))
}

/// The last versions of subjects up to a revision.
pub(super) async fn read_named(
    bus: &Bus,
    info: &StreamInfo,
    names: &[String],
    up_to: u64,
) -> Result<Vec<Written>, PastError> {
    let mut found = BTreeMap::new();
    for names in names.chunks(NAMED_MAX) {
        collect_named(bus, info, names, up_to, &mut found).await?;
    }
    Ok(found.into_values().collect())
}

/// Like [`collect`] for subjects without wildcards, of which no more can match than one request may name.
async fn collect_named(
    bus: &Bus,
    info: &StreamInfo,
    names: &[String],
    up_to: u64,
    found: &mut BTreeMap<String, Written>,
) -> Result<(), PastError> {
    if collect(bus, info, names, up_to, found).await? { Ok(()) } else { Err(DirectError::TooMany.into()) }
}

/// Everything by sections; other filters one by one.
fn split(filters: &[String]) -> Vec<String> {
    if filters != [subject_of(">")] {
        return filters.to_vec();
    }
    let by_section = |section: &Section| match section.tokens() {
        0 => subject_of(section.as_str()),
        _ => subject_of(&format!("{}.>", section.as_str())),
    };
    Section::ALL.iter().map(by_section).collect()
}

/// One request, or several when the answer is cut by its size. False when more match than one request may name.
async fn collect(
    bus: &Bus,
    info: &StreamInfo,
    filters: &[String],
    up_to: u64,
    found: &mut BTreeMap<String, Written>,
) -> Result<bool, PastError> {
    let (mut from, mut tries) = (0, 0);
    loop {
        let mut body = json!({ "multi_last": filters, "up_to_seq": up_to });
        if from > 0 {
            body["seq"] = json!(from);
        }
        let Direct { messages, pending } = match direct(bus, &stream(), &body).await {
            Ok(answer) => answer,
            Err(DirectError::TooMany) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let last = messages.last().map_or(0, |last| last.sequence);
        if last == 0 && info.replicas() > 1 && is_behind(bus, filters, from, up_to).await? {
            tries += 1;
            if tries > BEHIND_TRIES_MAX {
                let reason = "the replica that answers is behind, and stays so".to_owned();
                return Err(ApiError::NotUnderstood { verb: "DIRECT.GET".to_owned(), reason }.into());
            }
            tokio::time::sleep(BEHIND_PAUSE).await;
            continue;
        }
        found.extend(messages.into_iter().map(|written| (written.subject.clone(), written)));
        if pending == 0 || last == 0 {
            return Ok(true);
        }
        from = last + 1;
    }
}

/// Whether a replica that found nothing should have: for a revision it does not have yet it answers so. The leader
/// knows.
async fn is_behind(bus: &Bus, filters: &[String], from: u64, up_to: u64) -> Result<bool, ApiError> {
    for filter in filters {
        let first = message_from(bus, &stream(), filter, from.max(1)).await?;
        if first.is_some_and(|first| first.sequence <= up_to) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Records whose every kept version is newer than the revision although they may have been there: those that have as
/// many versions as are kept, the oldest of which did not create them.
pub(super) async fn forgotten(
    bus: &Bus,
    info: &StreamInfo,
    filters: &[String],
    up_to: u64,
    seen: &[String],
) -> Result<Vec<Key>, PastError> {
    if info.state.first_seq <= 1 && info.state.num_deleted == 0 {
        // Nothing has ever been pushed out.
        return Ok(Vec::new());
    }
    let seen: BTreeSet<&String> = seen.iter().collect();
    let mut full = BTreeSet::new();
    for filter in filters {
        for (subject, versions) in subjects(bus, &stream(), filter).await? {
            if versions >= info.versions_max() && !seen.contains(&subject) {
                full.insert(subject);
            }
        }
    }
    let looks = full.into_iter().map(|subject| async move {
        let oldest = message_from(bus, &stream(), &subject, 1).await?;
        let is_forgotten = oldest.is_some_and(|o| o.sequence > up_to && o.expected() != Some(0));
        Ok::<_, PastError>(is_forgotten.then(|| key_of(&subject).ok()).flatten())
    });
    let looks: Vec<_> = looks.collect();
    let keys: Vec<Option<Key>> =
        futures_stream::iter(looks).buffered(READS_IN_FLIGHT_MAX).try_collect().await?;
    Ok(keys.into_iter().flatten().collect())
}
