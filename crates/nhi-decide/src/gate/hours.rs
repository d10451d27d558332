//! Hours of the day in a zone, where a day may lack one or have one twice. It knows no policy.

use jiff::tz::TimeZone;
use nhi_model::Timestamp;
use std::collections::BTreeSet;

/// How far is looked, in steps of at most an hour: two weeks, so that a night without its third hour, and one night more,
/// never end the search.
const STEPS_MAX: usize = 14 * 24 + 8;
const HOUR_S: i64 = 3600;

/// The first moment, from `now` on, whose hour is one of these; `now` itself when it is. `None` when there is none.
///
/// An hour that a clock change leaves out does not come that day; one that comes twice counts both times. Why not add
/// hours to the local time? A change can fall into the middle of an hour, and the sum would name a moment that is not.
pub fn next(zone: &TimeZone, now: Timestamp, hours: &BTreeSet<u8>) -> Option<Timestamp> {
    let mut at = now;
    for _ in 0..STEPS_MAX {
        let local = zone.to_datetime(at);
        let hour = u8::try_from(local.hour()).expect("the hour of a day is 0 to 23");
        if hours.contains(&hour) {
            return Some(at);
        }
        // Until the clock shows another hour: at the full one, or where it is changed before.
        let into = i64::from(local.minute()) * 60 + i64::from(local.second());
        let second = at.as_second();
        let full = Timestamp::from_second(second.checked_add(HOUR_S - into)?).ok()?;
        let changed = zone.following(at).next().map(|change| change.timestamp());
        at = changed.map_or(full, |changed| changed.min(full));
    }
    None
}

/// All hours of a day.
pub fn all() -> BTreeSet<u8> {
    (0..24).collect()
}
