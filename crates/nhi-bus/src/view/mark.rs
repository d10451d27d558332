//! Telling whether the store behind a bucket is still the one that was seen: after a restore from a copy, or when a
//! stream was removed and made anew, sequences start to mean something else, and no consumer says so. Pure.

use crate::store::api::StreamInfo;
use nhi_model::Timestamp;
use std::fmt;

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

/// Notices over several looks that a delivery has died without a word, or that a batch has no end.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    before: Option<Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    position: u64,
    last_seq: u64,
}

/// What two looks in a row tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vital {
    Well,
    /// The stream has gone on for a whole interval and nothing was delivered.
    Deaf,
    /// Everything was delivered, and nothing has been added for a whole interval.
    Still,
}

impl Pulse {
    pub(super) fn look(&mut self, position: u64, last_seq: u64) -> Vital {
        let before = self.before.replace(Look { position, last_seq });
        match before {
            Some(before) if before.position == position && before.last_seq > position => Vital::Deaf,
            Some(before) if before.position == position && last_seq == position => Vital::Still,
            Some(_) | None => Vital::Well,
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
    fn deafness_takes_two_looks() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(5, 7), Vital::Well);
        assert_eq!(pulse.look(7, 9), Vital::Well, "it moved");
        assert_eq!(pulse.look(7, 9), Vital::Deaf);
        let mut pulse = Pulse::default();
        assert_eq!(pulse.look(7, 7), Vital::Well);
        assert_eq!(pulse.look(7, 8), Vital::Well, "this one is on its way");
        assert_eq!(pulse.look(8, 8), Vital::Well);
        assert_eq!(pulse.look(8, 8), Vital::Still);
    }
}
