//! Who may come in: routers, with a pass for this very request that was not shown before. It reads no body.

use super::book::Book;
use hyper::{HeaderMap, Method, Uri};
use jiff::SignedDuration;
use nhi_bus::pass::{self, BadPass, PASS_SECONDS_MAX};
use nhi_model::{Timestamp, header};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

/// Passes that are remembered: two minutes of more requests than a GPU answers in an hour.
const SHOWN_MAX: usize = 20_000;

/// The passes that were shown.
#[derive(Debug, Default)]
pub(super) struct Passes {
    shown: Mutex<BTreeMap<String, Timestamp>>,
}

/// Why somebody does not come in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoEntry {
    #[error(
        "the header {} is missing: this machine's models are reached through the mesh's routers alone",
        header::RELAY
    )]
    NoPass,
    #[error("{0}")]
    Bad(#[from] BadPass),
    #[error("the key of the pass is not a router's of this mesh")]
    Stranger,
    #[error("the pass was shown before")]
    Again,
    #[error("too many passes were shown within two minutes")]
    TooMany,
}

impl Passes {
    /// Lets one request in.
    pub(super) fn admit(
        &self,
        host: &str,
        book: &Book,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        now: Timestamp,
    ) -> Result<(), NoEntry> {
        let shown =
            headers.get(header::RELAY).and_then(|value| value.to_str().ok()).ok_or(NoEntry::NoPass)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let pass = pass::check(shown, host, method.as_str(), path, now)?;
        if !book.is_router(&pass.key) {
            return Err(NoEntry::Stranger);
        }
        let mut all = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= SHOWN_MAX {
            // Older ones are refused by their date.
            let old = now - SignedDuration::from_secs(2 * i64::from(PASS_SECONDS_MAX));
            all.retain(|_, at| *at > old);
            if all.len() >= SHOWN_MAX {
                return Err(NoEntry::TooMany);
            }
        }
        match all.insert(format!("{} {}", pass.key, pass.nonce), now) {
            None => Ok(()),
            Some(_) => Err(NoEntry::Again),
        }
    }
}
