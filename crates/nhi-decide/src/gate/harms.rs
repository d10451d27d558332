//! What policy protects now: a plan that was sound when it was made harms nobody who was protected since. Proxmox's own
//! flag is read live before each call, and is not looked at here.

use super::{Input, called, target, view};
use crate::policy::{View, harms_protected, protection};
use nhi_model::{
    intent::Operation,
    plan::{Plan, Step},
    refusal::{Refusal, RefusalCode},
};

/// Refuses what harms a protected guest, on the way there or back.
pub(super) fn judge(input: &Input<'_>) -> Result<(), Refusal> {
    let steps = input.plan.steps.iter();
    for step in steps.flat_map(|step| [Some(step), step.compensation.as_deref()]).flatten() {
        // A guest that the plan makes is its own.
        let there = target(input.plan, step).filter(|target| target.identity.is_some());
        let Some(target) = there.filter(|_| harms_protected(step.operation)) else { continue };
        if removes_own_snapshot(input.plan, step) {
            continue;
        }
        let guest = View { flag: Some(false), ..view(input, target) };
        if let Some(why) = protection(&guest, input.policy) {
            return Err(Refusal::new(
                RefusalCode::Protected,
                format!("{} is protected: {why}", called(target)),
                "Leave it, or let a person do this in Proxmox; what protects is said in infrastructure/policy.toml.",
            )
            .about(&step.guest)
            .with("operation", step.operation.as_str()));
        }
    }
    Ok(())
}

/// Whether a step removes a snapshot that the plan itself makes: that harms nothing that was there.
fn removes_own_snapshot(plan: &Plan, step: &Step) -> bool {
    let gone = step.call.path.rsplit('/').next();
    step.operation == Operation::SnapshotDelete
        && plan.steps.iter().any(|other| {
            other.operation == Operation::Snapshot
                && other.guest == step.guest
                && other.call.params.get("snapname").map(String::as_str) == gone
        })
}
