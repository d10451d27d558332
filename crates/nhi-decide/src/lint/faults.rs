//! Faults as they are found. It judges nothing.

use crate::clean;
use nhi_model::plan::Step;

/// Most faults that are told; one is enough to stop a plan.
const FAULTS_MAX: usize = 50;
/// Longest fault, characters.
const FAULT_CHARS_MAX: usize = 400;

/// Faults, each once, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<String>,
    more: usize,
}

impl Faults {
    pub(super) fn add(&mut self, fault: impl AsRef<str>) {
        let fault = clean::text(fault.as_ref(), FAULT_CHARS_MAX);
        if self.found.contains(&fault) {
            return;
        }
        if self.found.len() < FAULTS_MAX {
            self.found.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// A fault of one step; steps are counted from 1, as people are shown them.
    pub(super) fn step(&mut self, at: usize, step: &Step, fault: impl AsRef<str>) {
        self.add(format!("step {} ({} {}): {}", at + 1, step.operation, step.guest, fault.as_ref()));
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.more > 0 {
            self.found.push(format!("and {} more", self.more));
        }
        self.found
    }
}
