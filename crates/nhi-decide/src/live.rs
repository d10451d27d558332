//! Whether gauges are worth a message. It does not send them.

use jiff::SignedDuration;
use nhi_model::{SCHEMA_VERSION, Timestamp, envelope::Live};
use serde_json::Value;

/// How long gauges may be believed: four full passes may fail before a reader is told nothing. Half the
/// bucket's ten minutes.
pub const VALID: SignedDuration = SignedDuration::from_mins(5);
/// A load that moved by this much (of all processors) is news.
const CPU_STEP: f64 = 0.05;
/// Any other amount is news when it moved by this share of the larger value.
const SHARE: f64 = 0.05;
/// Pressure figures are percentages.
const PRESSURE_STEP: f64 = 5.0;

/// Whether `new` differs noticeably from what was last written, or that is past half its time.
pub fn worth_writing(previous: Option<&Live>, new: &Value, now: Timestamp) -> bool {
    let Some(previous) = previous else { return true };
    let lifetime = previous.valid_until.duration_since(previous.at);
    now.duration_since(previous.at) >= lifetime / 2 || noticeable("", &previous.record, new)
}

/// The gauges in their envelope, valid for [`VALID`] from now.
pub fn envelope(record: Value, now: Timestamp) -> Live {
    Live { v: SCHEMA_VERSION, at: now, valid_until: now.saturating_add(VALID).unwrap_or(now), record }
}

/// Whether a gauge moved enough to tell. A gauge that comes or goes always does.
fn noticeable(name: &str, before: &Value, after: &Value) -> bool {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            before.len() != after.len()
                || before.iter().any(|(inner, was)| match after.get(inner) {
                    // Whatever is nested is told by the outer name (`pressure`).
                    Some(is) => noticeable(if name.is_empty() { inner } else { name }, was, is),
                    None => true,
                })
        }
        (Value::Number(before), Value::Number(after)) => {
            let (was, is) = (before.as_f64().unwrap_or(0.0), after.as_f64().unwrap_or(0.0));
            moved(name, was, is)
        }
        _ => before != after,
    }
}

fn moved(name: &str, was: f64, is: f64) -> bool {
    match name {
        "pid" => was.total_cmp(&is).is_ne(),
        "cpu" => (was - is).abs() >= CPU_STEP,
        "pressure" => (was - is).abs() >= PRESSURE_STEP,
        // Counters only grow, until the thing they count restarts.
        "uptime" | "netin" | "netout" | "diskread" | "diskwrite" => is < was,
        _ => (was - is).abs() > SHARE * was.abs().max(is.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_news_and_signs_of_life_are_written() {
        let start: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        let base = json!({"cpu": 0.10, "mem": 1000, "uptime": 60, "netin": 5000, "pid": 7,
            "pressure": {"cpu": {"some": 1.0}}});
        let previous = envelope(base.clone(), start);
        let later = |seconds| start + SignedDuration::from_secs(seconds);
        assert!(worth_writing(None, &base, start));
        let check = |change: Value, news: bool| {
            let mut new = base.clone();
            for (name, value) in change.as_object().unwrap() {
                new[name] = value.clone();
            }
            assert_eq!(worth_writing(Some(&previous), &new, later(60)), news, "{change}");
        };
        check(json!({}), false);
        check(json!({"cpu": 0.12, "mem": 1040, "uptime": 120, "netin": 99_999_999}), false);
        check(json!({"pressure": {"cpu": {"some": 4.0}}}), false);
        check(json!({"cpu": 0.16}), true);
        check(json!({"mem": 1100}), true);
        check(json!({"uptime": 3}), true);
        check(json!({"pid": 8}), true);
        check(json!({"pressure": {"cpu": {"some": 9.0}}}), true);
        check(json!({"disk": 1}), true);
        check(json!({"mem": null}), true);
        assert!(!worth_writing(Some(&previous), &base, later(149)));
        assert!(worth_writing(Some(&previous), &base, later(150)), "half its time is over");
    }
}
