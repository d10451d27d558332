//! Whether gauges are worth a message. It does not send them.

use jiff::SignedDuration;
use nhi_model::{SCHEMA_VERSION, Timestamp, envelope::Live};
use serde_json::Value;

/// How long gauges may be believed: five full passes may fail before a reader is told nothing. Well under
/// the bucket's ten minutes.
pub const VALID: SignedDuration = SignedDuration::from_mins(5);

/// Whether `new` differs noticeably from what was last written, or that is past half its time.
pub fn worth_writing(previous: Option<&Live>, new: &Value, now: Timestamp) -> bool {
    let Some(previous) = previous else { return true };
    let lifetime = previous.valid_until.duration_since(previous.at);
    now.duration_since(previous.at) >= lifetime / 2 || noticeable(&previous.record, new)
}

/// The gauges in their envelope, valid for [`VALID`] from now.
pub fn envelope(record: Value, now: Timestamp) -> Live {
    Live {
        v: SCHEMA_VERSION,
        at: now,
        valid_until: now.saturating_add(VALID).expect("an absolute span"),
        record,
    }
}

fn noticeable(_before: &Value, _after: &Value) -> bool {
    true
}
