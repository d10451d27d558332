//! Which files of the mirror's history may go. It deletes nothing.

use jiff::{civil::DateTime, tz::TimeZone};
use nhi_model::Timestamp;
use std::collections::BTreeSet;

/// What of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest files, whatever their age.
    pub newest: usize,
    /// The last file of each of so many past hours.
    pub hours: i64,
    /// The last file of each of so many past days.
    pub days: i64,
}

/// Neural-Home v3's figures: 50 files, hourly for a week, daily for a month.
pub const POLICY: Policy = Policy { newest: 50, hours: 168, days: 30 };

/// The names of files that the policy no longer keeps. A name that is not `state_<UTC time>_r<revision>.json`
/// is somebody else's and stays; so is a pinned one (`state_CRITICAL_…`).
pub fn forget(names: &[String], policy: &Policy, now: Timestamp) -> Vec<String> {
    let now = TimeZone::UTC.to_datetime(now);
    let mut found: Vec<_> = names.iter().filter_map(|name| Some((parse(name)?, name))).collect();
    found.sort_unstable();
    found.reverse();
    let mut hours = BTreeSet::new();
    let mut days = BTreeSet::new();
    let mut out = Vec::new();
    for (place, ((at, _), name)) in found.into_iter().enumerate() {
        // A file from the future (a clock was wrong) counts as new; it ages like the others later.
        let age_hours = now.duration_since(at).as_hours();
        let hour = (at.date(), at.hour());
        let kept = place < policy.newest
            || (age_hours < policy.hours && hours.insert(hour))
            || (age_hours < policy.days * 24 && days.insert(at.date()));
        // What is kept for another reason stands for its hour and its day as well.
        hours.insert(hour);
        days.insert(at.date());
        if !kept {
            out.push(name.clone());
        }
    }
    out.sort_unstable();
    out
}

/// The time and revision in a file's name.
fn parse(name: &str) -> Option<(DateTime, u64)> {
    let (time, revision) = name.strip_prefix("state_")?.strip_suffix(".json")?.rsplit_once("_r")?;
    let digits = !revision.is_empty() && revision.bytes().all(|b| b.is_ascii_digit());
    let at = DateTime::strptime("%Y-%m-%d_%H-%M-%S", time).ok()?;
    digits.then(|| revision.parse().ok()).flatten().map(|revision| (at, revision))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use proptest::prelude::*;

    fn now() -> Timestamp {
        "2026-07-18T12:30:00Z".parse().expect("a time")
    }

    fn name(minutes_ago: i64, revision: u64) -> String {
        let at = TimeZone::UTC.to_datetime(now() - SignedDuration::from_mins(minutes_ago));
        format!("state_{}_r{revision}.json", at.strftime("%Y-%m-%d_%H-%M-%S"))
    }

    #[test]
    fn the_newest_then_one_an_hour_then_one_a_day() {
        let policy = Policy { newest: 2, hours: 3, days: 2 };
        let ago = |minutes: i64| name(minutes, 1);
        // 12:29 12:28 12:10 11:50 11:40 09:50, yesterday 12:00 and 10:00, and three days ago.
        let names = [1, 2, 20, 40, 50, 160, 24 * 60 + 30, 26 * 60 + 30, 72 * 60].map(ago).to_vec();
        let gone = forget(&names, &policy, now());
        let mut want = [20, 50, 26 * 60 + 30, 72 * 60].map(ago).to_vec();
        want.sort();
        assert_eq!(gone, want);
    }

    #[test]
    fn what_is_not_ours_or_pinned_stays() {
        let names: Vec<String> = [
            "state_CRITICAL_before.json",
            "state_CRITICAL_2020-01-01_00-00-00_r1.json",
            "state_2020-01-01_00-00-00.json",
            "state_2020-01-01_00-00-00_r+1.json",
            "notes.txt",
        ]
        .map(str::to_owned)
        .into();
        let policy = Policy { newest: 0, hours: 0, days: 0 };
        assert_eq!(forget(&names, &policy, now()), Vec::<String>::new());
        assert_eq!(forget(&[name(1, 1)], &policy, now()), [name(1, 1)]);
    }

    proptest! {
        #[test]
        fn the_history_is_bounded_and_forgetting_is_final(
            ages in prop::collection::btree_set(0i64..200_000, 0..400),
        ) {
            let names: Vec<String> = ages.iter().map(|age| name(*age, 1)).collect();
            let gone = forget(&names, &POLICY, now());
            let left: Vec<String> = names.iter().filter(|name| !gone.contains(name)).cloned().collect();
            prop_assert!(left.len() <= 50 + 168 + 31);
            prop_assert!(left.len() >= names.len().min(50));
            prop_assert_eq!(forget(&left, &POLICY, now()), Vec::<String>::new());
        }
    }
}
