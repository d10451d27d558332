//! The state as it was: at a revision or a time, as differences between two moments, and as the versions of a record.
//!
//! It reads what the bucket keeps, and says so when that is not enough: a moment older than all that is kept is an
//! error, a record whose version of that moment is gone is "unknown", never absent. It never shows half a batch: a
//! revision inside one means the state before it. The state of now for decisions is [`crate::view`]'s.

mod diff;
mod history;
mod moment;
mod read;
mod select;

pub use self::{diff::diff, history::history};

use crate::{
    connect::Bus,
    store::{
        ApiError,
        api::{DirectError, StreamInfo, stream_info},
        written::Written,
    },
    view::{Entry, reason},
};
use nhi_model::{
    call::At,
    envelope::Stored,
    key::{BadKey, Key},
    subject::{self, STATE_BUCKET},
};
use std::{collections::BTreeMap, sync::Arc};

/// The state at a moment.
#[derive(Clone, Debug, Default)]
pub struct Past {
    /// The last commit not after the moment.
    pub revision: u64,
    /// The selected records.
    pub records: BTreeMap<Key, Entry>,
    /// Selected records that may have been there, but whose version of that moment is no longer kept.
    pub unknown: Vec<Key>,
    /// What stood there and cannot be used, with the reason.
    pub quarantined: BTreeMap<String, String>,
}

/// Why the past cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    /// The selection is none.
    #[error("select {select:?}: {why}; write a section (vm), a prefix (vm.home) or a key (vm.home.100)")]
    BadSelect {
        /// As given, cut to 120 characters.
        select: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Everything kept is newer.
    #[error("read the state at revision {revision}: the oldest version kept is {oldest}")]
    Expired {
        /// The revision the moment means.
        revision: u64,
        /// The oldest one there is.
        oldest: u64,
    },
    /// The server did not answer, or not as it should.
    #[error("read the bucket's past")]
    Api(#[from] ApiError),
}

impl From<DirectError> for PastError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Api(error) => Self::Api(error),
            DirectError::TooMany => Self::Api(ApiError::NotUnderstood {
                verb: "DIRECT.GET".to_owned(),
                reason: "it has too many results for a request that was made small enough".to_owned(),
            }),
        }
    }
}

/// The state at a moment: the last commit not after it. `select` names records as `state.get` does; nothing
/// selected means everything.
///
/// # Errors
/// [`PastError`].
pub async fn state_at(bus: &Bus, at: At, select: &[String]) -> Result<Past, PastError> {
    let filters = select::filters(select)?;
    let info = info(bus).await?;
    let revision = moment::resolve(bus, &info, at).await?;
    let mut past = Past { revision, ..Past::default() };
    if revision == 0 {
        return Ok(past);
    }
    let mut seen = Vec::new();
    for written in read::read(bus, &info, &filters, revision).await? {
        seen.push(written.subject.clone());
        past.take(&written, select);
    }
    past.unknown = read::forgotten(bus, &info, &filters, revision, &seen).await?;
    past.unknown.retain(|key| is_selected(key, select));
    Ok(past)
}

/// The part of a state at a moment that a page after `after` is made of: the selected sources, because they tell how
/// far to trust a page, and the next selected records, so many that their values have at least so many bytes. With it
/// the last key it reaches to, when more follow. What is unknown belongs to the first page and is not told here.
///
/// # Errors
/// [`PastError`].
pub async fn state_after(
    bus: &Bus,
    at: At,
    select: &[String],
    after: &Key,
    bytes_min: usize,
) -> Result<(Past, Option<Key>), PastError> {
    let filters = select::filters(select)?;
    let info = info(bus).await?;
    let revision = moment::resolve(bus, &info, at).await?;
    let mut past = Past { revision, ..Past::default() };
    if revision == 0 {
        return Ok((past, None));
    }
    let (found, last) = read::read_after(bus, &info, &filters, revision, after, bytes_min).await?;
    for written in found {
        past.take(&written, select);
    }
    // A subject that is no key ends nothing; then the whole is read.
    let last = last.map(|last| key_of(&last).unwrap_or_else(|_| after.clone()));
    Ok((past, last))
}

impl Past {
    fn take(&mut self, written: &Written, select: &[String]) {
        if written.is_delete() {
            return;
        }
        let key = match key_of(&written.subject) {
            Ok(key) if is_selected(&key, select) => key,
            Ok(_) => return,
            Err(bad) => {
                self.quarantined.insert(bad.text.clone(), bad.to_string());
                return;
            }
        };
        match Stored::parse(&key, &written.payload) {
            Ok(stored) => {
                let entry = Entry { revision: written.sequence, stored: Arc::new(stored) };
                self.records.insert(key, entry);
            }
            Err(bad) => {
                self.quarantined.insert(key.to_string(), reason(&bad));
            }
        }
    }
}

async fn info(bus: &Bus) -> Result<StreamInfo, ApiError> {
    stream_info(bus, &stream()).await
}

fn stream() -> String {
    subject::bucket_stream(STATE_BUCKET)
}

/// The bucket's subject of a key or a pattern of keys.
fn subject_of(pattern: &str) -> String {
    format!("{}{pattern}", subject::kv_all(STATE_BUCKET).trim_end_matches('>'))
}

fn key_of(subject: &str) -> Result<Key, BadKey> {
    Key::parse(subject.strip_prefix(&subject_of("")).unwrap_or(subject))
}

fn is_selected(key: &Key, select: &[String]) -> bool {
    select.is_empty() || select.iter().any(|select| key.matches(select))
}
