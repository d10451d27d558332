//! Windows of quotas: any sixty seconds, and days that begin at a wall clock's time in a zone. It counts nothing.

use jiff::{SignedDuration, ToSpan, civil, tz::TimeZone};
use nhi_model::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use std::{fmt, str::FromStr};

/// Length of a slot of a minute, seconds.
const SLOT_S: i64 = 10;
/// Slots that any sixty seconds can touch: counting all of them, no sixty seconds ever hold more than the limit. The
/// price is that after a burst up to ten seconds more than a minute pass.
const SLOTS: i64 = 7;

/// A time of day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DayTime(civil::Time);

/// Why a text is no time of day.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no time of day: write HH:MM, as in 00:01")]
pub struct BadDayTime {
    text: String,
}

impl FromStr for DayTime {
    type Err = BadDayTime;

    fn from_str(text: &str) -> Result<Self, BadDayTime> {
        let bad = || BadDayTime { text: text.chars().take(32).collect() };
        let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
        let number = |digits: &str| {
            let two = digits.len() == 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
            two.then(|| digits.parse::<i8>().ok()).flatten().ok_or_else(bad)
        };
        civil::Time::new(number(hour)?, number(minute)?, 0, 0).map(Self).map_err(|_| bad())
    }
}

impl fmt::Display for DayTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0.hour(), self.0.minute())
    }
}

impl Serialize for DayTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DayTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// The window a moment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The slot that is counted into now, by its start.
    pub slot: Timestamp,
    /// Slots that begin from here on count.
    pub counts_from: Timestamp,
    /// When nothing that was taken until now counts any more.
    pub ends: Timestamp,
}

impl Window {
    pub(super) fn minute(now: Timestamp) -> Self {
        let start = now.as_second().div_euclid(SLOT_S) * SLOT_S;
        let slot = Timestamp::from_second(start).unwrap_or(Timestamp::MIN);
        let away = |slots: i64| SignedDuration::from_secs(slots * SLOT_S);
        Self {
            slot,
            counts_from: slot.saturating_sub(away(SLOTS - 1)).unwrap_or(slot),
            ends: slot.saturating_add(away(SLOTS)).unwrap_or(slot),
        }
    }

    /// From the last reset to the next. A reset in an hour that a clock change leaves out comes when the clock goes on;
    /// one in an hour that comes twice counts the first time.
    pub(super) fn day(now: Timestamp, zone: &TimeZone, reset: DayTime) -> Self {
        let today = zone.to_datetime(now).date();
        let at = |days: i32| {
            let date = today.saturating_add(i64::from(days).days());
            date.to_datetime(reset.0).to_zoned(zone.clone()).map_or(now, |zoned| zoned.timestamp())
        };
        let (start, ends) = if at(0) <= now { (at(0), at(1)) } else { (at(-1), at(0)) };
        Self { slot: start, counts_from: start, ends }
    }

    /// When what was taken in this slot counts no more.
    pub(super) fn forgotten_at(&self, slot: Timestamp) -> Timestamp {
        let age = self.slot.duration_since(slot);
        self.ends.checked_sub(age).unwrap_or(self.ends)
    }
}
