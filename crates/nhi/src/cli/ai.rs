//! `nhi ask` and `nhi ai …`, as clap types.

use clap::{Args, Subcommand, ValueEnum};
use nhi_model::ai::{JobId, JobPriority, Priority, Privacy, UsageBy};
use std::path::PathBuf;

/// What is asked, and how.
#[derive(Clone, Debug, Args)]
pub(crate) struct Ask {
    /// The question; what comes through a pipe is added to it
    pub words: Vec<String>,
    /// A model, an alias (auto, coding, fast, local, private) or PROVIDER/MODEL
    #[arg(short, long, default_value = "auto")]
    pub model: String,
    /// Files whose text is added; pictures are sent as such
    #[arg(short, long = "file", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// What the model is told first
    #[arg(short, long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How far from home this may go
    #[arg(long, value_enum)]
    pub privacy: Option<PrivacyName>,
    /// Who goes first
    #[arg(long, value_enum)]
    pub priority: Option<PriorityName>,
    /// The project it is for
    #[arg(long, value_name = "ID")]
    pub project: Option<String>,
    /// The longest answer
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: Option<u32>,
    /// 0 always answers alike, 2 wildly
    #[arg(long, value_name = "NUMBER")]
    pub temperature: Option<f64>,
}

/// Privacy as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrivacyName {
    /// Anywhere
    Any,
    /// Only to who neither keeps nor trains on it
    NoTraining,
    /// Never leaves home
    Home,
}

impl PrivacyName {
    /// The class.
    pub(crate) const fn class(self) -> Privacy {
        match self {
            Self::Any => Privacy::Any,
            Self::NoTraining => Privacy::NoTraining,
            Self::Home => Privacy::Home,
        }
    }
}

/// Priority as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PriorityName {
    /// Somebody waits between two key strokes
    Autocomplete,
    /// Somebody waits
    Chat,
    /// Nobody waits
    Bulk,
}

impl PriorityName {
    /// The class.
    pub(crate) const fn class(self) -> Priority {
        match self {
            Self::Autocomplete => Priority::Autocomplete,
            Self::Chat => Priority::Chat,
            Self::Bulk => Priority::Bulk,
        }
    }
}

/// A job's priority as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TurnName {
    /// Before all others
    High,
    /// Before those that are low
    Medium,
    /// When nobody else waits, or after ten minutes as medium
    Low,
}

impl TurnName {
    /// The priority.
    pub(crate) const fn priority(self) -> JobPriority {
        match self {
            Self::High => JobPriority::High,
            Self::Medium => JobPriority::Medium,
            Self::Low => JobPriority::Low,
        }
    }
}

/// `nhi ai …`
#[derive(Debug, Subcommand)]
pub(crate) enum Ai {
    /// What can be asked for, and whether somebody can answer now
    Models,
    /// Who would answer, and why nobody else; asks nobody
    Route(Ask),
    /// What was asked and what it cost; what is left of each quota
    Usage {
        /// Days back, today included
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=366))]
        days: u32,
        /// What is summed
        #[arg(long, value_enum, default_value_t = UsageName::Provider)]
        by: UsageName,
        /// Print comma-separated values
        #[arg(long, conflicts_with = "json")]
        csv: bool,
    },
    /// Requests that wait for the GPU, and those that ended
    Jobs,
    /// Submit a request that can wait
    Submit {
        #[command(flatten)]
        ask: Ask,
        /// Which of those that wait goes first; without it low, which is taken as medium after ten minutes
        #[arg(long, value_enum)]
        turn: Option<TurnName>,
    },
    /// Print the answer of a submitted request
    Result {
        /// The job, as submit printed it
        #[arg(value_parser = job)]
        job: JobId,
    },
}

fn job(text: &str) -> Result<JobId, std::convert::Infallible> {
    Ok(JobId(text.to_owned()))
}

/// What usage is summed by, as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageName {
    /// By backend and model
    Provider,
    /// By who asked
    Caller,
    /// By project
    Project,
    /// By day
    Day,
}

impl UsageName {
    /// The sum.
    pub(crate) const fn by(self) -> UsageBy {
        match self {
            Self::Provider => UsageBy::Provider,
            Self::Caller => UsageBy::Caller,
            Self::Project => UsageBy::Project,
            Self::Day => UsageBy::Day,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        ai: Ai,
    }

    #[test]
    fn a_job_says_which_goes_first() {
        let check = |more: &[&str], expect: Option<JobPriority>| {
            let words = [&["nhi", "submit", "sum it up"], more].concat();
            let Ai::Submit { ask, turn } = Line::try_parse_from(words).unwrap().ai else { panic!("submit") };
            assert_eq!(
                (turn.map(TurnName::priority), ask.words.as_slice()),
                (expect, &["sum it up".to_owned()][..])
            );
        };
        check(&[], None);
        check(&["--turn", "high"], Some(JobPriority::High));
        check(&["--turn", "medium", "--priority", "bulk"], Some(JobPriority::Medium));
        check(&["--turn", "low"], Some(JobPriority::Low));
        assert!(Line::try_parse_from(["nhi", "submit", "sum it up", "--turn", "now"]).is_err());
    }
}
