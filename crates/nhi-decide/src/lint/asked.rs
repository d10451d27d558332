//! Nothing is done that was not asked for: the operations of a plan are those its intent speaks of, and the snapshots
//! that policy wants first. Nor is it made to look more harmless than it is.

use super::{Checked, Faults, calls::Verb};
use nhi_model::{
    intent::{Intent, Operation},
    plan::Risk,
};
use std::collections::BTreeSet;

/// What an intent lets a plan do.
#[derive(Default)]
struct Asked {
    operations: BTreeSet<Operation>,
    /// Also to take a guest out of jobs that name it.
    purge: bool,
    /// It takes another plan back, and only that plan knows what that means.
    undo: bool,
}

pub(super) fn check(view: &Checked<'_>, faults: &mut Faults) {
    let mut asked = Asked::default();
    let mut todo = vec![&view.plan.intent];
    while let Some(intent) = todo.pop() {
        if let Intent::All { of } = intent {
            todo.extend(of);
        }
        asked.add(intent);
    }
    let first = &view.scene.policy.caution.snapshot_before;
    if view.plan.steps.iter().any(|step| first.contains(&step.operation)) {
        asked.operations.insert(Operation::Snapshot);
    }
    for (at, step, call) in view.steps() {
        if !asked.undo && !asked.operations.contains(&step.operation) {
            faults.step(at, step, format!("{} was asked for", view.plan.intent.as_str()));
        }
        let risk = risk(step.operation);
        if view.plan.risk < risk {
            faults.step(
                at,
                step,
                format!("the plan's risk is {:?}, and this alone is {risk:?}", view.plan.risk),
            );
        }
        if !asked.purge && matches!(call.verb, Verb::Destroy { purge: true }) {
            faults.step(at, step, "it takes the guest out of jobs that name it, which nobody asked for");
        }
    }
}

/// How much an operation alone can cost, at least; who approves is told.
const fn risk(operation: Operation) -> Risk {
    match operation {
        Operation::Destroy | Operation::SnapshotDelete => Risk::Destructive,
        Operation::Stop | Operation::Reset | Operation::Rollback => Risk::High,
        Operation::Shutdown | Operation::Reboot | Operation::Suspend | Operation::Migrate => Risk::Medium,
        Operation::Start
        | Operation::Resume
        | Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Snapshot
        | Operation::Resize
        | Operation::Set
        | Operation::Backup => Risk::Low,
    }
}

impl Asked {
    fn add(&mut self, intent: &Intent) {
        use Operation as O;
        let with_others: &[Operation] = &[O::Shutdown];
        let operations: &[Operation] = match intent {
            // What is paused goes on.
            Intent::Start { .. } | Intent::ServiceUp { .. } | Intent::LabUp { .. } => &[O::Start, O::Resume],
            Intent::Stop { with_dependents, .. } => {
                self.operations.extend(with_others.iter().filter(|_| *with_dependents));
                &[O::Stop]
            }
            Intent::Shutdown { .. } | Intent::LabDown {} => &[O::Shutdown],
            Intent::Reboot { with_dependents: true, .. } => &[O::Reboot, O::Shutdown, O::Start, O::Resume],
            Intent::Reboot { with_dependents: false, .. } => &[O::Reboot],
            Intent::Reset { .. } => &[O::Reset],
            Intent::Suspend { .. } => &[O::Suspend],
            Intent::Resume { .. } => &[O::Resume],
            Intent::CreateVm { .. } => &[O::CreateVm, O::Start],
            Intent::CreateLxc { .. } => &[O::CreateLxc, O::Start],
            Intent::Clone { .. } => &[O::Clone, O::Start],
            Intent::Destroy { purge, .. } => {
                self.purge |= purge;
                &[O::Destroy]
            }
            Intent::Snapshot { .. } => &[O::Snapshot],
            Intent::SnapshotDelete { .. } => &[O::SnapshotDelete],
            Intent::Rollback { .. } => &[O::Rollback],
            Intent::Migrate { .. } => &[O::Migrate],
            Intent::Resize { .. } => &[O::Resize],
            Intent::Set { .. } => &[O::Set],
            Intent::Backup { .. } => &[O::Backup],
            Intent::Return { .. } => &[O::Start, O::Resume, O::Shutdown, O::Suspend, O::Migrate, O::Set],
            Intent::Undo { .. } => {
                self.undo = true;
                &[]
            }
            Intent::All { .. } => &[],
        };
        self.operations.extend(operations);
    }
}
