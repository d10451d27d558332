//! What takes a step back: held to the rules of every call, and a true way back of that very step.

use super::{
    Checked, Faults,
    calls::{self, Call, Verb},
    replay::{is_sure, written},
};
use nhi_model::{
    fact::Fact,
    plan::{OnFailure, Step},
};

pub(super) fn check(view: &Checked<'_>, faults: &mut Faults) {
    for (at, step, call) in view.steps() {
        let Some(back) = step.compensation.as_deref() else { continue };
        if back.compensation.is_some() {
            faults.step(at, step, "what takes it back is taken back itself");
        }
        if view.plan.on_failure == OnFailure::Stop {
            faults.step(at, step, "it could be taken back, and the plan says that nothing is");
        }
        match calls::read(back) {
            Err(why) => faults.step(at, step, format!("what takes it back: {why}")),
            Ok(undone) => of_step(view, at, step, call, back, &undone, faults),
        }
    }
}

fn of_step(
    view: &Checked<'_>,
    at: usize,
    step: &Step,
    call: &Call,
    back: &Step,
    undone: &Call,
    faults: &mut Faults,
) {
    let mut fault = |text: &str| faults.step(at, step, format!("what takes it back: {text}"));
    if back.guest != step.guest || undone.vmid != call.vmid {
        fault("it is another guest's");
    }
    if !undoes(call, undone, view.makes(&step.guest)) {
        fault(&format!("{} does not take {} back", back.call, step.operation));
    }
    if undone.node != call.verb.goes_to().unwrap_or(&call.node) {
        fault("it goes to another node than the guest is on by then");
    }
    let made = view.makes(&step.guest);
    let target = view.plan.targets.iter().find(|target| target.guest == step.guest);
    let sure = |fact: &Fact| is_sure(fact, target, made);
    if !back.before.iter().any(sure) {
        fault("it does not look whether it is the guest that is meant");
    }
    // That the lines are put back as they were, the replay tells.
    let config = matches!((&call.verb, &undone.verb), (Verb::Config { .. }, Verb::Config { .. }));
    if config && !written(step).keys().eq(written(back).keys()) {
        fault("it writes other lines than were changed");
    }
}

/// Whether one call is the way back of another. What destroys is one for a guest the plan itself makes, and nothing else.
fn undoes(call: &Call, undone: &Call, made: bool) -> bool {
    let (verb, back) = (&call.verb, &undone.verb);
    let wakes = matches!(back, Verb::Resume | Verb::Start);
    match verb {
        Verb::Create | Verb::Clone { .. } => made && matches!(back, Verb::Destroy { purge: false }),
        Verb::Start => matches!(back, Verb::Stop | Verb::Shutdown),
        Verb::Resume => matches!(back, Verb::Stop | Verb::Shutdown | Verb::Suspend { .. }),
        Verb::Stop | Verb::Shutdown => *back == Verb::Start,
        Verb::Suspend { to_disk } => wakes && (*to_disk || *back == Verb::Resume),
        Verb::Snapshot { name, .. } => *back == Verb::SnapshotDelete { name: name.clone() },
        Verb::Migrate { .. } => back.goes_to() == Some(&call.node) && matches!(back, Verb::Migrate { .. }),
        Verb::Config { .. } => *back == Verb::Config { unprotects: false },
        Verb::Reboot
        | Verb::Reset
        | Verb::Destroy { .. }
        | Verb::SnapshotDelete { .. }
        | Verb::Rollback { .. }
        | Verb::Resize { .. }
        | Verb::Backup => false,
    }
}
