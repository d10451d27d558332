//! The names of generation directories and history files, made and read in one place.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// `.gen-<revision>-<n>`: one immutable rendering of the state. `n` grows with every generation of the
/// directory, so the order of generations does not depend on revisions, which a recreated store starts anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Revision of the state bucket it shows.
    pub revision: u64,
    /// Its number among all generations of this directory.
    pub n: u64,
}

impl Generation {
    /// The directory's name.
    pub fn name(self) -> String {
        format!(".gen-{}-{}", self.revision, self.n)
    }

    /// The generation a directory name stands for; `None` when it is not one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let (revision, n) = name.strip_prefix(".gen-")?.split_once('-')?;
        let generation = Self { revision: revision.parse().ok()?, n: n.parse().ok()? };
        (generation.name() == name).then_some(generation)
    }
}

/// The time in a history file's name: Neural-Home v3's format, but UTC.
const TIME: &str = "%Y-%m-%d_%H-%M-%S";

/// `state_<UTC time>_r<revision>.json`: the state as it was when it got this revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Past {
    /// When it was committed, UTC, whole seconds.
    pub at: DateTime,
    /// Revision of the state bucket; 0 for a file from before the mesh.
    pub revision: u64,
}

impl Past {
    /// A name for this moment.
    pub fn new(at: Timestamp, revision: u64) -> Self {
        let at = TimeZone::UTC.to_datetime(at);
        let at = at.with().subsec_nanosecond(0).build().unwrap_or(at);
        Self { at, revision }
    }

    /// The file's name.
    pub fn name(self) -> String {
        format!("state_{}_r{}.json", self.at.strftime(TIME), self.revision)
    }

    /// The moment a file name stands for; `None` when it is not one of ours, as `state_CRITICAL_….json`.
    pub fn parse(name: &str) -> Option<Self> {
        let (time, revision) = name.strip_prefix("state_")?.strip_suffix(".json")?.rsplit_once("_r")?;
        let past = Self { at: DateTime::strptime(TIME, time).ok()?, revision: revision.parse().ok()? };
        (past.name() == name).then_some(past)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_or_left_alone() {
        let generation = Generation { revision: 17, n: 3 };
        assert_eq!(generation.name(), ".gen-17-3");
        assert_eq!(Generation::parse(".gen-17-3"), Some(generation));
        for foreign in [".gen-17", ".gen-017-3", ".gen--3", "gen-17-3", ".gen-17-3-1"] {
            assert_eq!(Generation::parse(foreign), None, "{foreign}");
        }

        let past = Past::new("2026-07-18T12:30:05.25Z".parse().unwrap(), 9);
        assert_eq!(past.name(), "state_2026-07-18_12-30-05_r9.json");
        assert_eq!(Past::parse(&past.name()), Some(past));
        for foreign in ["state_CRITICAL_2026.json", "state_2026-07-18_12-30-05.json", "notes_r1.json"] {
            assert_eq!(Past::parse(foreign), None, "{foreign}");
        }
    }
}
