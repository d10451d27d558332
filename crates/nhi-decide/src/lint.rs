//! Checks a finished plan against every rule again, knowing nothing of the planner: from the plan itself, the sight it
//! was made on, the records and the policy. A plan with a fault goes nowhere; the fault is ours.
//!
//! The rules:
//! - the frame: version, digest, times, revisions, sizes ([`frame`]);
//! - the calls: an allow list of method, path and parameters; what is not in it is refused ([`calls`], [`values`]);
//! - the guests: who is written to is named, is the one that is meant, and is neither protected nor ourselves
//!   ([`targets`], [`guests`]);
//! - the steps, replayed on the sight: each is possible where it stands, and nothing that something running needs is
//!   stopped ([`replay`], [`needs`]);
//! - nothing is done that was not asked for ([`asked`]);
//! - what takes a step back is held to the same rules ([`back`]).
//!
//! Why not use the planner's own checks? Two programs that share a mistake agree on it. What both use is only what a
//! fact means ([`crate::fact`]), because whoever carries the plan out means the same.

mod asked;
mod back;
mod calls;
mod faults;
mod frame;
mod guests;
mod needs;
mod replay;
mod targets;
mod values;

use crate::{observe::Known, sight::Sight};
use calls::Call;
use faults::Faults;
use nhi_model::{
    Timestamp,
    identity::Role,
    key::Key,
    plan::{Plan, STEPS_MAX, Step},
    policy::Policy,
};
use std::collections::{BTreeMap, BTreeSet};

pub use frame::digest;

/// What a plan is checked against: what it was made on.
#[derive(Clone, Copy, Debug)]
pub struct Scene<'a> {
    /// Now, UTC.
    pub now: Timestamp,
    /// Revision of the records.
    pub revision: u64,
    /// The records.
    pub known: &'a BTreeMap<Key, Known>,
    /// What was seen live.
    pub sight: &'a Sight,
    /// The policy.
    pub policy: &'a Policy,
    /// The guests the mesh itself runs on.
    pub ourselves: &'a BTreeSet<Key>,
    /// Role of who asked.
    pub role: Role,
}

/// Every fault of a plan, a sentence each; none when it is sound.
pub fn lint(plan: &Plan, scene: &Scene<'_>) -> Vec<String> {
    let mut faults = Faults::default();
    frame::check(plan, scene, &mut faults);
    // What is too large is not looked at further: the rest of this takes time with its size.
    if plan.steps.len() > STEPS_MAX || plan.targets.len() > STEPS_MAX {
        return faults.finish();
    }
    let calls: Vec<Option<Call>> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| match calls::read(step) {
            Ok(call) => Some(call),
            Err(why) => {
                faults.step(at, step, why);
                None
            }
        })
        .collect();
    let view = Checked { plan, scene, calls: &calls };
    targets::check(&view, &mut faults);
    guests::check(&view, &mut faults);
    asked::check(&view, &mut faults);
    back::check(&view, &mut faults);
    // A replay of calls that are not understood would say nothing.
    if calls.iter().all(Option::is_some) {
        replay::check(&view, &mut faults);
    }
    faults.finish()
}

/// A plan with its calls as they were understood.
#[derive(Clone, Copy)]
struct Checked<'a> {
    plan: &'a Plan,
    scene: &'a Scene<'a>,
    calls: &'a [Option<Call>],
}

impl<'a> Checked<'a> {
    /// The steps whose calls were understood, with their place.
    fn steps(&self) -> impl Iterator<Item = (usize, &'a Step, &'a Call)> {
        let steps = self.plan.steps.iter().zip(self.calls).enumerate();
        steps.filter_map(|(at, (step, call))| call.as_ref().map(|call| (at, step, call)))
    }

    /// Whether the plan makes the guest.
    fn makes(&self, guest: &Key) -> bool {
        self.steps().any(|(_, step, call)| step.guest == *guest && call.verb.makes())
    }
}
