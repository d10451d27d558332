//! Whether the scanner's records show what a plan expects. It trusts nothing the actuator saw itself.

use crate::{
    fact::{Holds, holds, sentence},
    sight::Sight,
};
use nhi_model::{fact::Fact, plan::Plan};

/// What the records say of a plan whose steps are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// All of it is so.
    Done,
    /// Nothing contradicts it, and part of it cannot be told yet.
    NotYet {
        /// What cannot be told.
        unseen: Vec<Fact>,
    },
    /// Something is otherwise. Soon after the act the records may merely be older than it.
    Diverged {
        /// What, a sentence each.
        differences: Vec<String>,
        /// All that is not shown, what cannot be told included.
        unseen: Vec<Fact>,
    },
}

/// Holds what a plan expects against a sight made of the scanner's records ([`Sight::of_records`]). The caller sees
/// to it that the records are newer than the act.
pub fn verify(plan: &Plan, records: &Sight) -> Verified {
    let (mut unseen, mut differences) = (Vec::new(), Vec::new());
    for fact in &plan.expects {
        match holds(fact, records) {
            Holds::Yes => continue,
            Holds::No { found } => differences.push(format!("{}: {found}", sentence(fact))),
            Holds::Unknown { .. } => {}
        }
        unseen.push(fact.clone());
    }
    match (unseen.is_empty(), differences.is_empty()) {
        (true, _) => Verified::Done,
        (false, true) => Verified::NotYet { unseen },
        (false, false) => Verified::Diverged { differences, unseen },
    }
}
