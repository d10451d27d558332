//! The mirror's files as bytes: `state.json` in Neural-Home v3's layout with its additions, the context files
//! for AI agents, and the checksum. It writes no file and reads no clock: equal inputs give equal bytes.

use jiff::tz::Offset;
use nhi_model::{
    Timestamp,
    envelope::{Live, Stored},
    key::Key,
};
use std::collections::BTreeMap;

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
    let state_json = Vec::new();
    let _ = input;
    Rendered {
        state_json,
        checksum: String::new(),
        sha256: String::new(),
        global_context: String::new(),
        context: BTreeMap::new(),
    }
}
