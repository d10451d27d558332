//! Exit codes. Scripts may rely on them; a code never changes its meaning.

use nhi_model::refusal::RefusalCode;

/// Every way the command can end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It worked.
    Ok,
    /// It failed for a reason without a code of its own.
    Failed,
    /// The command line was wrong (clap's own code).
    Usage,
    /// The configuration, `.env` or a file under the directory is wrong.
    Config,
    /// The mesh, NATS or an outside system is not reachable.
    Unreachable,
    /// It may not be done: rights, policy, protection, a freeze.
    Refused,
    /// There is no such thing.
    NotFound,
    /// The lab, a plan or a claim is in another state: look again.
    Conflict,
    /// A copy already runs on this directory.
    AlreadyRuns,
    /// It took too long.
    Timeout,
    /// `doctor`, `guard check`, `audit verify` or `auth probe` found something that needs a person.
    Unwell,
    /// The plan was made and waits for somebody's yes.
    NeedsApproval,
    /// What was started may or may not have happened: a person has to look.
    Unknown,
    /// Ended by Ctrl-C.
    Interrupted,
}

impl Exit {
    /// All codes, as documented by `nhi help`.
    pub(crate) const ALL: [Self; 14] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::Config,
        Self::Unreachable,
        Self::Refused,
        Self::NotFound,
        Self::Conflict,
        Self::AlreadyRuns,
        Self::Timeout,
        Self::Unwell,
        Self::NeedsApproval,
        Self::Unknown,
        Self::Interrupted,
    ];

    /// The number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Unreachable => 4,
            Self::Refused => 5,
            Self::NotFound => 6,
            Self::Conflict => 7,
            Self::AlreadyRuns => 8,
            Self::Timeout => 9,
            Self::Unwell => 10,
            Self::NeedsApproval => 11,
            Self::Unknown => 12,
            Self::Interrupted => 130,
        }
    }

    /// What it means, for the table in `--help` and the manual.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "it worked",
            Self::Failed => "it failed for a reason without a code of its own",
            Self::Usage => "the command line was wrong",
            Self::Config => "the configuration or a file under the directory is wrong",
            Self::Unreachable => "the mesh, NATS or an outside system is not reachable",
            Self::Refused => "it may not be done: rights, policy, protection, a freeze",
            Self::NotFound => "there is no such thing",
            Self::Conflict => "the lab, a plan or a claim is in another state: look again",
            Self::AlreadyRuns => "a copy already runs on this directory",
            Self::Timeout => "it took too long",
            Self::Unwell => {
                "doctor, guard check, audit verify or auth probe found something that needs a person"
            }
            Self::NeedsApproval => "the plan was made and waits for somebody's yes",
            Self::Unknown => "what was started may or may not have happened: a person has to look",
            Self::Interrupted => "ended by Ctrl-C",
        }
    }
}

impl Exit {
    /// The code of a refusal, by what a script can do about it.
    pub(crate) const fn of(refusal: RefusalCode) -> Self {
        match refusal {
            RefusalCode::BadValue | RefusalCode::AmbiguousGuest | RefusalCode::NameNotTyped => Self::Usage,
            RefusalCode::UnknownGuest | RefusalCode::Unknown => Self::NotFound,
            RefusalCode::NodeOffline | RefusalCode::NoQuorum | RefusalCode::NotSeen => Self::Unreachable,
            RefusalCode::Protected
            | RefusalCode::Ourselves
            | RefusalCode::DropsProtection
            | RefusalCode::SelfApproval
            | RefusalCode::Never
            | RefusalCode::NoRights
            | RefusalCode::Frozen
            | RefusalCode::Quota
            | RefusalCode::TooManySteps => Self::Refused,
            RefusalCode::NotPossible
            | RefusalCode::DependentsRunning
            | RefusalCode::LinkedClones
            | RefusalCode::Locked
            | RefusalCode::HaManaged
            | RefusalCode::Running
            | RefusalCode::Stale
            | RefusalCode::OtherGuest
            | RefusalCode::Expired
            | RefusalCode::Used
            | RefusalCode::WrongDigest
            | RefusalCode::Held
            | RefusalCode::Busy
            | RefusalCode::NoRoom
            | RefusalCode::RehearsalDiffers
            | RefusalCode::NothingToDo => Self::Conflict,
            RefusalCode::NeedsApproval => Self::NeedsApproval,
            RefusalCode::Lint => Self::Failed,
        }
    }
}

/// The table as text.
pub(crate) fn table() -> String {
    let rows = Exit::ALL.map(|exit| format!("  {:>3}  {}", exit.code(), exit.meaning()));
    format!("Exit codes:\n{}", rows.join("\n"))
}

/// An error that knows its exit code. The chain below it is printed once, in `main`.
#[derive(Debug)]
pub(crate) struct Failure {
    /// How the command ends.
    pub exit: Exit,
    /// Why.
    pub error: anyhow::Error,
}

/// Gives an error its exit code.
pub(crate) trait Ending<T> {
    /// Ends with this code when it is an error.
    fn ending(self, exit: Exit) -> Result<T, Failure>;
}

impl<T, E: Into<anyhow::Error>> Ending<T> for Result<T, E> {
    fn ending(self, exit: Exit) -> Result<T, Failure> {
        self.map_err(|error| Failure { exit, error: error.into() })
    }
}

impl Failure {
    /// A failure that is only a sentence.
    pub(crate) fn new(exit: Exit, sentence: impl std::fmt::Display) -> Self {
        Self { exit, error: anyhow::anyhow!("{sentence}") }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_code_is_its_own() {
        let codes: BTreeSet<u8> = Exit::ALL.iter().map(|e| e.code()).collect();
        assert_eq!(codes.len(), Exit::ALL.len());
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let text = include_str!("../../../docs/configuration.md");
        let row = |exit: Exit| {
            let start = format!("| {} | {} | ", exit.code(), exit.meaning());
            let found = text.lines().find_map(|line| line.strip_prefix(&start));
            found.unwrap_or_else(|| panic!("docs/configuration.md has no line that starts with {start:?}"))
        };
        for exit in Exit::ALL {
            let told: BTreeSet<&str> = row(exit).split('`').skip(1).step_by(2).collect();
            let codes = RefusalCode::ALL.into_iter().filter(|code| Exit::of(*code) == exit);
            assert_eq!(told, codes.map(RefusalCode::as_str).collect(), "{exit:?}");
        }
    }
}
