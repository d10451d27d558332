//! What follows when a pass is not written: when it is tried again, and who is told. It looks at nothing and
//! writes only its own alert.

use super::{
    desk::Outcome,
    ledger::{Ledger, Refusal},
};
use crate::alerts::Problem;
use nhi_model::{alert::Severity, key::Key};
use std::time::{Duration, Instant};

/// Refusals in a row that are a problem: one alone is somebody else's write at the same moment.
const PROBLEM: u32 = 2;

/// When a pass that was read and not written is tried again. Each try costs the lab a whole pass, so the waits
/// double, from the pace of cheap looks up to that of full passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Retry {
    refusals: u32,
    at: Option<Instant>,
}

impl Retry {
    /// What was read could not be written.
    pub(super) fn refused(&mut self, now: Instant, index: Duration, full: Duration) {
        let wait = index.saturating_mul(1 << self.refusals.min(10)).min(full);
        self.refusals = self.refusals.saturating_add(1);
        self.at = Some(now + wait);
    }

    /// It was written.
    pub(super) fn written(&mut self) {
        *self = Self::default();
    }

    /// Whether it may be tried again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_none_or(|at| at <= now)
    }
}

/// One source's refusals in a row, and whether the state shows them.
#[derive(Debug)]
pub(super) struct Refusals {
    source: String,
    count: u32,
    shown: bool,
}

impl Refusals {
    pub(super) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), count: 0, shown: false }
    }

    /// Takes account of a pass: the second refusal in a row is a warning and an alert, in a commit of its own,
    /// because the one that was refused would have carried it.
    pub(super) async fn take(&mut self, ledger: &mut Ledger, outcome: &Outcome) {
        let id = format!("not-written_{}", self.source);
        let refusal = match outcome {
            Ok(_) => {
                self.count = 0;
                // A run before this one may have left it.
                if ledger.has_alert(&id) {
                    self.told(ledger.alert(&id, None).await);
                }
                self.shown = false;
                return;
            }
            Err(refusal) => refusal,
        };
        self.count = self.count.saturating_add(1);
        let (count, source) = (self.count, &self.source);
        if count == PROBLEM {
            tracing::warn!(agent = "scan", key = source, err = %refusal, "passes are not written");
        } else {
            tracing::debug!(agent = "scan", key = source, err = %refusal, attempt = count, "pass not written");
        }
        if count >= PROBLEM && !self.shown {
            // Its words do not change with the tries, nor does it: one write an outage.
            let problem = Problem {
                severity: Severity::Critical,
                summary: format!("what is seen of {source} cannot be written; its records stand still"),
                hint: "Ask `nhi scan` for the reason and look at the log of nhi; it tries again by itself."
                    .to_owned(),
                about: Some(Key::source(source)),
            };
            let written = ledger.alert(&id, Some(problem)).await;
            self.shown = written.is_ok();
            self.told(written);
        }
    }

    fn told(&self, written: Result<(), Refusal>) {
        if let Err(refusal) = written {
            tracing::debug!(agent = "scan", key = self.source, err = %refusal, "alert not written");
        }
    }
}

/// What `scan.status` says of so many refusals in a row; nothing for one alone.
pub(super) fn reason(count: u32, refusal: &Refusal) -> Option<String> {
    (count >= PROBLEM).then(|| format!("{count} passes in a row were not written: {refusal}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_pass_is_tried_ever_less_often() {
        let (index, full) = (Duration::from_secs(5), Duration::from_secs(60));
        let mut now = Instant::now();
        let mut retry = Retry::default();
        assert!(retry.is_due(now));
        let mut tries = 0;
        let until = now + Duration::from_secs(600);
        while now < until {
            if retry.is_due(now) {
                tries += 1;
                retry.refused(now, index, full);
            }
            now += index;
        }
        assert!(tries <= 14, "{tries} passes in ten minutes; ten are made when nothing is refused");
        retry.written();
        assert!(retry.is_due(now));
        retry.refused(now, index, full);
        assert!(retry.is_due(now + index), "it begins anew");
    }
}
