//! The mirror's files as bytes: `state.json` in Neural-Home v3's layout with its additions, the context files
//! for AI agents, and the checksum. It writes no file and reads no clock: equal inputs give equal bytes.

mod context;
mod json;
mod quote;
mod rows;
mod rules;
mod state;

use jiff::tz::Offset;
use nhi_model::{
    Timestamp,
    envelope::{Live, Stale, Stored},
    key::{Key, Section},
};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt::Write};

/// Version of the layout of `state.json`. Fields are only added; a higher number would mean that one changed.
pub const LAYOUT_VERSION: u32 = 1;

/// What the files are made of.
#[derive(Clone, Debug)]
pub struct MirrorInput<'a> {
    /// When they are made, UTC.
    pub now: Timestamp,
    /// The lab's offset from UTC at that moment; `meta.generated_at` has no zone and is local time.
    pub offset: Offset,
    /// The revision of the state.
    pub revision: u64,
    /// How long the last full pass of the scanner took, milliseconds.
    pub scan_duration_ms: u64,
    /// Who makes them: `neural-home 0.1.0`.
    pub generator: &'a str,
    /// All records.
    pub records: BTreeMap<&'a Key, &'a Stored>,
    /// Why all of it may be out of date, when the state cannot be followed.
    pub stale: Option<&'a Stale>,
    /// All gauges; those past their time are left out here.
    pub live: &'a BTreeMap<Key, Live>,
}

/// The files' contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// `state.json`.
    pub state_json: Vec<u8>,
    /// `state.json.checksum`: 64 lower-case hex digits, no newline.
    pub checksum: String,
    /// `state.json.sha256`, for `sha256sum -c`.
    pub sha256: String,
    /// `GLOBAL_CONTEXT.md`.
    pub global_context: String,
    /// The files of `context/` by their path in it.
    pub context: BTreeMap<&'static str, String>,
}

/// All files of the mirror.
pub fn render(input: &MirrorInput<'_>) -> Rendered {
    let state_json = json::to_bytes(&state::document(input));
    let checksum = checksum(&state_json);
    Rendered {
        sha256: format!("{checksum}  state.json\n"),
        checksum,
        state_json,
        global_context: context::global(input),
        context: rules::files(input),
    }
}

/// SHA-256 as Neural-Home v3's readers compare it: 64 lower-case hex digits.
pub fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String never fails");
        out
    })
}

impl<'a> MirrorInput<'a> {
    /// The records of a section, in key order.
    fn section(&self, section: Section) -> impl Iterator<Item = (&'a Key, &'a Stored)> + '_ {
        let records = self.records.iter().map(|(key, stored)| (*key, *stored));
        records.filter(move |(key, _)| key.section() == section)
    }

    /// The records of a section that have its shape. One that has not is no reason to show none.
    fn typed<T: DeserializeOwned>(
        &self,
        section: Section,
    ) -> impl Iterator<Item = (&'a Key, &'a Stored, T)> + '_ {
        self.section(section).filter_map(|(key, stored)| Some((key, stored, stored.typed(key).ok()?)))
    }

    /// The gauges under a key, while they are valid.
    fn live(&self, key: &Key) -> Option<&'a Live> {
        self.live.get(key).filter(|live| live.valid_until > self.now)
    }
}
