//! Which of the requests that can wait runs next, and whether one that failed is tried again. It runs none.
//!
//! Neural-Home v3's rules: high before medium before low, low is taken as medium after ten minutes, and among equals
//! the model that is in memory goes first, because a swap takes 15 to 20 s. Bounded: an old job waits for no batch.

use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    ai::{JobId, JobPriority},
};
use std::collections::BTreeSet;

/// After so long a low job is taken as medium, seconds.
pub const AGED_S: u32 = 600;
/// After so long a job waits for no other model's batch, seconds.
pub const PATIENCE_S: u32 = 300;
/// Times a job is tried: once, and twice again.
pub const ATTEMPTS_MAX: u32 = 3;
/// Pauses before the second and the third try, seconds.
const AGAIN_S: [u32; 2] = [30, 120];
/// How long an answer is kept, hours.
pub const RESULT_HOURS: u32 = 24;

/// A job that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub job: JobId,
    /// When it was submitted, UTC.
    pub at: Timestamp,
    /// Who goes first.
    pub priority: JobPriority,
    /// The model it would run on, `<backend>/<model>`; absent: nobody can answer it now.
    pub model: Option<String>,
    /// Before this it is not tried again, UTC.
    pub not_before: Option<Timestamp>,
}

impl Waiting {
    /// The class it is taken as now.
    pub fn class(&self, now: Timestamp) -> JobPriority {
        match self.priority {
            JobPriority::Low if self.waited(now) > seconds(AGED_S) => JobPriority::Medium,
            JobPriority::High | JobPriority::Medium | JobPriority::Low => self.priority,
        }
    }

    fn waited(&self, now: Timestamp) -> SignedDuration {
        now.duration_since(self.at)
    }
}

/// The one that runs next; `loaded` are models in memory, as in [`Waiting::model`].
pub fn pick<'j>(now: Timestamp, waiting: &'j [Waiting], loaded: &BTreeSet<String>) -> Option<&'j Waiting> {
    let ready = waiting.iter().filter(|job| job.not_before.is_none_or(|at| at <= now)).filter_map(|job| {
        let model = job.model.as_ref()?;
        let patient = job.waited(now) <= seconds(PATIENCE_S);
        // An impatient job is as good as one whose model is there: of the two the older goes first.
        let swap = patient && !loaded.contains(model);
        Some(((job.class(now), swap, job.at, &job.job), job))
    });
    ready.min_by(|(one, _), (other, _)| one.cmp(other)).map(|(_, job)| job)
}

/// When a job that failed for the `attempt`th time (from 1) is tried again; `None`: it is dead.
pub fn again_at(now: Timestamp, attempt: u32) -> Option<Timestamp> {
    if attempt >= ATTEMPTS_MAX {
        return None;
    }
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    now.checked_add(seconds(*AGAIN_S.get(index)?)).ok()
}

const fn seconds(seconds: u32) -> SignedDuration {
    SignedDuration::from_secs(seconds as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn job(id: &str, since: i64, priority: JobPriority, model: &str) -> Waiting {
        let model = (!model.is_empty()).then(|| model.to_owned());
        Waiting { job: JobId(id.to_owned()), at: at(since), priority, model, not_before: None }
    }

    fn check(now: i64, jobs: &[Waiting], loaded: &str, expect: Option<&str>) {
        let loaded = BTreeSet::from([loaded.to_owned()]);
        let next = pick(at(now), jobs, &loaded).map(|job| job.job.0.as_str());
        assert_eq!(next, expect, "at {now} with {loaded:?}");
    }

    #[test]
    fn class_then_the_model_in_memory_then_age() {
        use JobPriority::{High, Low, Medium};
        let jobs = [
            job("low", 0, Low, "pc/a"),
            job("swap", 1, Medium, "pc/b"),
            job("there", 2, Medium, "pc/a"),
            job("high", 3, High, "pc/b"),
        ];
        check(10, &jobs, "pc/a", Some("high"));
        check(10, &jobs[..3], "pc/a", Some("there"));
        check(10, &jobs[..3], "pc/b", Some("swap"));
        check(10, &jobs[..3], "", Some("swap"));
        check(10, &jobs[..1], "", Some("low"));
        check(10, &[], "", None);
        check(10, &[job("nobody", 0, High, "")], "", None);
    }

    #[test]
    fn a_low_job_ages_after_exactly_ten_minutes() {
        let low = job("low", 0, JobPriority::Low, "pc/a");
        assert_eq!(low.class(at(600)), JobPriority::Low);
        assert_eq!(low.class(at(601)), JobPriority::Medium);
        let jobs = [low, job("medium", 500, JobPriority::Medium, "pc/a")];
        check(600, &jobs, "pc/a", Some("medium"));
        check(601, &jobs, "pc/a", Some("low"));
        let high = job("high", 0, JobPriority::High, "pc/a");
        assert_eq!(high.class(at(9_999)), JobPriority::High);
    }

    #[test]
    fn no_batch_of_another_model_keeps_a_job_waiting_for_ever() {
        let jobs =
            [job("swap", 0, JobPriority::Medium, "pc/b"), job("there", 200, JobPriority::Medium, "pc/a")];
        check(300, &jobs, "pc/a", Some("there"));
        check(301, &jobs, "pc/a", Some("swap"));
    }

    #[test]
    fn a_failed_job_waits_and_dies_after_its_third_try() {
        assert_eq!(again_at(at(0), 1), Some(at(30)));
        assert_eq!(again_at(at(0), 2), Some(at(120)));
        assert_eq!(again_at(at(0), 3), None);
        let mut failed = job("failed", 0, JobPriority::High, "pc/a");
        failed.not_before = Some(at(30));
        check(29, std::slice::from_ref(&failed), "pc/a", None);
        check(30, &[failed], "pc/a", Some("failed"));
    }
}
