//! What a plan changes of what policy says of a guest. The services a guest carries, with their hours and whether they may
//! be interrupted, and whether it is protected hang on its tags and its name: who may change these changes policy.

use super::{Input, called, is_person, stricter, view};
use crate::{
    policy::{View, carries, protection},
    sight::tags,
};
use nhi_model::plan::{ConfigChange, Gate, Target, Verdict};
use std::collections::BTreeSet;

/// An agent that changes what policy says of a guest needs approval; a person is told.
pub(super) fn judge(input: &Input<'_>, gate: &mut Gate) {
    let verdict = if is_person(input.role) { Verdict::Confirm } else { Verdict::Approval };
    // Of a guest the plan makes, policy said nothing before.
    for target in input.plan.targets.iter().filter(|target| target.identity.is_some()) {
        for reason in changed(input, target) {
            stricter(gate, verdict, 1, reason);
        }
    }
}

/// What policy says of a guest no longer, or only by then, after any of the changes that are shown.
fn changed(input: &Input<'_>, target: &Target) -> BTreeSet<String> {
    let marks = |field: &str| matches!(field, "tags" | "name" | "hostname");
    let own = |change: &&ConfigChange| change.guest == target.guest && marks(&change.field);
    let changes: Vec<&ConfigChange> = input.plan.config_changes.iter().filter(own).collect();
    let mut now = view(input, target);
    // The record may lag behind what was seen.
    changes.iter().rev().for_each(|change| set(&mut now, &change.field, change.before.as_deref()));
    let before = says(input, &now);
    let mut out = BTreeSet::new();
    for change in changes {
        set(&mut now, &change.field, change.after.as_deref());
        out.extend(differences(target, &before, &says(input, &now)));
    }
    out
}

fn set(view: &mut View, field: &str, line: Option<&str>) {
    let line = line.unwrap_or_default();
    if field == "tags" {
        view.tags = tags(line);
    } else {
        line.clone_into(&mut view.name);
    }
}

fn differences(target: &Target, before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<String> {
    let name = called(target);
    let lost = before.difference(after).map(|what| format!("{name} would no longer be {what}"));
    let gained = after.difference(before).map(|what| format!("{name} would be {what}"));
    lost.chain(gained).collect()
}

/// All that policy says of a guest because of its name and tags.
fn says(input: &Input<'_>, view: &View) -> BTreeSet<String> {
    let Input { graph, policy, .. } = *input;
    let services: BTreeSet<&String> = graph.services.keys().chain(policy.services.keys()).collect();
    let carried = services.into_iter().filter(|service| carries(view, service, policy));
    let mut out: BTreeSet<String> =
        carried.map(|service| format!("a guest that carries {service}")).collect();
    let view = View { flag: Some(false), ..view.clone() };
    out.extend(protection(&view, policy).map(|why| format!("protected ({why})")));
    out
}
