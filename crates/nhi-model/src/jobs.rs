//! AI requests that can wait, as they stand in the mesh: one row each, moved by compare and set, and its texts beside it.
//! What callers are told of them is in [`crate::ai`].

use crate::{ai::JobPriority, identity::IdentityName};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A row for each job, without anybody's text.
pub const JOBS_BUCKET: &str = "nhi-jobs";
/// What was asked and what was answered, each as long as it is needed.
pub const RESULTS_BUCKET: &str = "nhi-results";

/// The row `job.<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    /// Who asked.
    pub by: IdentityName,
    /// When, UTC.
    pub at: Timestamp,
    /// Who goes first.
    pub priority: JobPriority,
    /// What was asked for.
    pub asked: String,
    /// How far it is.
    pub state: RowState,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum RowState {
    /// Nobody works on it.
    Waiting {
        /// Tries so far.
        attempt: u32,
        /// Before this it is not tried again, UTC.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_before: Option<Timestamp>,
        /// Why the last try came to nothing, one sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// A router works on it, and says so again before the deadline.
    Running {
        /// Which try this is, from 1.
        attempt: u32,
        /// The router, a name of its own for each start.
        router: String,
        /// When it counts as gone, UTC.
        until: Timestamp,
    },
    /// It is answered.
    Done {
        /// The try whose answer is kept.
        attempt: u32,
        /// Until when it is kept, UTC.
        until: Timestamp,
    },
    /// It will not be tried again.
    Dead {
        /// What went wrong last, one sentence.
        text: String,
        /// Until when this is told, UTC.
        until: Timestamp,
    },
}

impl RowState {
    /// Whether it is not over.
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Waiting { .. } | Self::Running { .. } => true,
            Self::Done { .. } | Self::Dead { .. } => false,
        }
    }
}
