//! `state.get`, `state.diff` and `state.history`: from the view for now, from the bucket's versions for the
//! past. It writes nothing.

use nhi_bus::{
    connect::Bus,
    past::{self, Past, PastError},
    view::{Entry, LiveView, View},
};
use nhi_decide::state_query::{self, Moment};
use nhi_model::{
    Timestamp,
    call::{At, PAGE_BYTES_MAX, StateDiff, StateDiffed, StateGet, StateGot, StateHistoried, StateHistory},
    envelope::{Live, Stale, Stored},
    fault::{Fault, FaultCode},
    key::{Key, Section},
};
use std::{collections::BTreeMap, error::Error as _};

/// What answers are made from.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) bus: Bus,
    pub(super) view: View,
    pub(super) live: LiveView,
}

/// The state at one moment.
struct State<'a> {
    revision: u64,
    records: &'a BTreeMap<Key, Entry>,
    unknown: &'a [Key],
    stale: Option<&'a Stale>,
}

impl Reading {
    /// `state.get`
    pub(super) async fn get(&self, request: &StateGet) -> Result<StateGot, Fault> {
        let shown = self.view.read();
        let now = State {
            revision: shown.revision,
            records: &shown.records,
            unknown: &[],
            stale: shown.stale.as_ref(),
        };
        match request.at {
            None => page(&now, &self.live.read(), request),
            // The pages after the first one name the revision of the first: mostly it is still the view's.
            Some(At::Revision(revision)) if revision == now.revision && now.stale.is_none() => {
                page(&now, &BTreeMap::new(), request)
            }
            Some(at) => self.get_past(at, request).await,
        }
    }

    async fn get_past(&self, at: At, request: &StateGet) -> Result<StateGot, Fault> {
        let mut select = request.select.clone();
        if !select.is_empty() {
            // How far to trust an answer is told by the sources, selected or not.
            select.push(Section::Source.as_str().to_owned());
        }
        if let Some(after) = request.cursor.as_deref().and_then(|cursor| Key::parse(cursor).ok()) {
            let part = past::state_after(&self.bus, at, &select, &after, PAGE_BYTES_MAX).await;
            let (past, last) = part.map_err(|error| fault(&error))?;
            let page = past_page(&past, request)?;
            // A page that would go on behind what was read (its bytes are counted otherwise) is made of the whole.
            let reaches = |last: &Key| page.next.as_deref().is_some_and(|next| next <= last.as_str());
            if last.as_ref().is_none_or(reaches) {
                return Ok(page);
            }
        }
        let past = past::state_at(&self.bus, at, &select).await.map_err(|error| fault(&error))?;
        past_page(&past, request)
    }

    /// `state.diff`
    pub(super) async fn diff(&self, request: StateDiff) -> Result<StateDiffed, Fault> {
        past::diff(&self.bus, request.from, request.to).await.map_err(|error| fault(&error))
    }

    /// `state.history`
    pub(super) async fn history(&self, request: &StateHistory) -> Result<StateHistoried, Fault> {
        past::history(&self.bus, request).await.map_err(|error| fault(&error))
    }
}

fn past_page(past: &Past, request: &StateGet) -> Result<StateGot, Fault> {
    let state =
        State { revision: past.revision, records: &past.records, unknown: &past.unknown, stale: None };
    page(&state, &BTreeMap::new(), request)
}

fn page(state: &State<'_>, live: &BTreeMap<Key, Live>, request: &StateGet) -> Result<StateGot, Fault> {
    let records = state.records.iter();
    let moment = Moment {
        revision: state.revision,
        now: Timestamp::now(),
        records: records.map(|(key, entry)| (key, entry.revision, &*entry.stored as &Stored)),
        unknown: state.unknown,
        live,
        stale: state.stale,
    };
    state_query::get(moment, request)
}

fn fault(error: &PastError) -> Fault {
    match error {
        PastError::BadSelect { .. } => Fault::new(
            FaultCode::BadRequest,
            error.to_string(),
            "Select a section (vm), a prefix (vm.home) or a key (vm.home.100).",
        ),
        PastError::Expired { oldest, .. } => Fault::new(
            FaultCode::Expired,
            error.to_string(),
            format!(
                "Ask for revision {oldest} or later; infrastructure/state_history/ may reach further back."
            ),
        )
        .with("oldest", *oldest),
        PastError::Api(_) => {
            let source = error.source().map(ToString::to_string);
            tracing::warn!(agent = "state", err = %error, source, "past not read");
            Fault::new(
                FaultCode::Unavailable,
                "the bucket's past cannot be read now",
                "Ask again in a few seconds; the state of now is answered without it.",
            )
        }
    }
}
