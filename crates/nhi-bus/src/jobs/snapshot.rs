//! What the messages of the bucket make: rows by job. Pure.

use crate::{store::written::Written, view::watched::Whole};
use nhi_model::{
    ai::JobId,
    envelope::Stale,
    jobs::{JOBS_BUCKET, JobRow},
    subject,
};
use std::{collections::BTreeMap, sync::Arc};

/// A row, and the revision a change of it must expect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSeen {
    /// Sequence of its last write.
    pub revision: u64,
    /// The row.
    pub row: Arc<JobRow>,
}

/// All rows.
#[derive(Clone, Debug, Default)]
pub struct JobsSnapshot {
    /// Revision of the last write in it.
    pub revision: u64,
    /// Rows by job.
    pub jobs: BTreeMap<JobId, JobSeen>,
    /// Why all of it may be out of date, when it may.
    pub stale: Option<Stale>,
}

pub(super) fn read(written: &Written) -> Result<JobSeen, String> {
    let row = serde_json::from_slice(&written.payload).map_err(|error| error.to_string())?;
    Ok(JobSeen { revision: written.sequence, row: Arc::new(row) })
}

impl Whole for JobsSnapshot {
    const BUCKET: &'static str = JOBS_BUCKET;
    const CALLED: &'static str = "the jobs";

    fn apply(&mut self, written: &Written) {
        let Some(job) = subject::job_of(&written.subject) else {
            tracing::debug!("a job under a key that is none was left out");
            return;
        };
        if written.is_delete() {
            self.jobs.remove(&job);
            return;
        }
        match read(written) {
            Ok(seen) => drop(self.jobs.insert(job, seen)),
            Err(reason) => {
                tracing::debug!(err = reason, "a job that cannot be read was left out");
                self.jobs.remove(&job);
            }
        }
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn set_revision(&mut self, revision: u64) {
        self.revision = revision;
    }

    fn stale(&self) -> Option<&Stale> {
        self.stale.as_ref()
    }

    fn set_stale(&mut self, stale: Option<Stale>) {
        self.stale = stale;
    }
}
