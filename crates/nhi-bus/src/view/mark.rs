//! Telling whether the store behind a bucket is still the one that was seen: after a restore from a copy, or when a
//! stream was removed and made anew, sequences start to mean something else, and no consumer says so. Pure.

use crate::store::api::StreamInfo;
use nhi_model::Timestamp;
use std::{fmt, time::Duration};
use tokio::time::Instant;

/// What identifies a store at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreMark {
    /// When the stream was made, UTC.
    pub created: Timestamp,
    /// Its last sequence.
    pub last_seq: u64,
}

/// How a store changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreChangeKind {
    /// The stream was removed and made anew.
    Recreated,
    /// Its end lies before what was seen of it.
    RolledBack,
    /// Another message stands at the sequence that was seen last: it was rolled back and written to since.
    Rewritten,
}

/// A store that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreChange {
    /// What happened.
    pub kind: StoreChangeKind,
    /// When it was noticed, UTC.
    pub noticed: Timestamp,
    /// What had been seen.
    pub before: StoreMark,
    /// What is there.
    pub after: StoreMark,
}

impl fmt::Display for StoreChangeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Recreated => "the store was removed and made anew",
            Self::RolledBack => "the store was rolled back to an earlier copy",
            Self::Rewritten => "the store was rolled back and written to since",
        })
    }
}

impl StoreMark {
    pub(super) fn of(info: &StreamInfo) -> Self {
        Self { created: info.created, last_seq: info.state.last_seq }
    }

    /// How the store differs from this mark, as far as its information tells.
    pub(super) fn compare(self, after: Self) -> Option<StoreChangeKind> {
        if after.created != self.created {
            return Some(StoreChangeKind::Recreated);
        }
        (after.last_seq < self.last_seq).then_some(StoreChangeKind::RolledBack)
    }
}

/// How long nothing may move before that means something. Deliveries take milliseconds.
const STANDSTILL: Duration = Duration::from_secs(2);

/// Notices over several looks that a delivery has died without a word, or that a batch has no end.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// What was received and whether the stream had gone on, since when.
    standing: Option<(u64, bool, Instant)>,
    /// Whether the stream's end lay before what had been received, when it was looked at last.
    is_suspect: bool,
}

/// What looks in a row tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vital {
    Well,
    /// The stream has gone on for a while and nothing was delivered.
    Deaf,
    /// Everything was delivered, and nothing has been added for a while.
    Still,
}

impl Pulse {
    /// Whether an end that lies too early was seen before: one that catches up is a leader that was behind.
    pub(super) fn is_confirmed(&mut self) -> bool {
        std::mem::replace(&mut self.is_suspect, true)
    }

    /// Takes in what had been received when the stream was asked for its last sequence.
    pub(super) fn look(&mut self, position: u64, last_seq: u64, now: Instant) -> Vital {
        self.is_suspect &= last_seq < position;
        let has_more = last_seq > position;
        match self.standing {
            Some((p, more, since)) if (p, more) == (position, has_more) => {
                if now.duration_since(since) < STANDSTILL {
                    Vital::Well
                } else if has_more {
                    Vital::Deaf
                } else {
                    Vital::Still
                }
            }
            Some(_) | None => {
                self.standing = Some((position, has_more, now));
                Vital::Well
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(created: i64, last_seq: u64) -> StoreMark {
        StoreMark { created: Timestamp::from_second(created).unwrap(), last_seq }
    }

    #[test]
    fn a_changed_store_is_told_from_a_grown_one() {
        let check = |after, expect| assert_eq!(mark(1, 10).compare(after), expect, "{after:?}");
        check(mark(1, 10), None);
        check(mark(1, 11), None);
        check(mark(1, 9), Some(StoreChangeKind::RolledBack));
        check(mark(2, 11), Some(StoreChangeKind::Recreated));
    }

    #[test]
    fn deafness_takes_a_while() {
        let start = Instant::now();
        let mut pulse = Pulse::default();
        let mut check = |position, last_seq, seconds, expect| {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(pulse.look(position, last_seq, now), expect, "{position} {last_seq} {seconds}");
        };
        check(5, 7, 0, Vital::Well);
        check(7, 9, 5, Vital::Well);
        check(7, 9, 6, Vital::Well);
        check(7, 9, 7, Vital::Deaf);
        check(9, 9, 8, Vital::Well);
        check(9, 9, 10, Vital::Still);
        check(9, 10, 11, Vital::Well);
        check(10, 10, 20, Vital::Well);
    }

    #[test]
    fn an_end_too_early_is_believed_the_second_time_in_a_row() {
        let now = Instant::now();
        let mut pulse = Pulse::default();
        pulse.look(8, 7, now);
        assert!(!pulse.is_confirmed());
        pulse.look(8, 8, now);
        pulse.look(9, 8, now);
        assert!(!pulse.is_confirmed(), "it had caught up in between");
        pulse.look(9, 8, now);
        assert!(pulse.is_confirmed());
    }
}
