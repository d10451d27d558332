//! What policy says of the guests a plan writes to: protected ones, the ones the mesh itself runs on, and what is never
//! done. Derived anew from the sight, the records and the policy.

use super::{Checked, Faults, calls::Verb};
use crate::{
    policy::{View, harms_protected, protection},
    sight::{Seen, is_on, tags},
};
use jiff::SignedDuration;
use nhi_model::{
    guest::{Backups, Guest, GuestKind},
    intent::Operation,
    key::Key,
    plan::Step,
    policy::Rules,
};
use std::collections::BTreeSet;

pub(super) fn check(view: &Checked<'_>, faults: &mut Faults) {
    let Checked { plan, scene, .. } = *view;
    for (at, step) in plan.steps.iter().enumerate() {
        for one in [Some(step), step.compensation.as_deref()].into_iter().flatten() {
            if scene.ourselves.contains(&one.guest) {
                faults.step(at, one, "the mesh itself runs on it");
            }
            if harms_protected(one.operation)
                && !view.makes(&one.guest)
                && let Some(why) = why_protected(view, one)
            {
                faults.step(at, one, format!("it is protected: {why}"));
            }
        }
        if let Some(table) = never(view, step) {
            faults.step(at, step, format!("policy never does it: [{table}]"));
        }
    }
    for (at, step, call) in view.steps() {
        of_call(view, at, step, &call.verb, faults);
    }
}

/// What protects beyond the operation's word.
fn of_call(view: &Checked<'_>, at: usize, step: &Step, verb: &Verb, faults: &mut Faults) {
    let Checked { plan, scene, .. } = *view;
    if let Verb::Clone { source, .. } = verb {
        let kind =
            if step.guest.section() == GuestKind::Lxc.section() { GuestKind::Lxc } else { GuestKind::Qemu };
        if scene.ourselves.contains(&Key::guest(kind, &plan.cluster, *source)) {
            faults.step(at, step, "the mesh itself runs on what is copied");
        }
    }
    if let Verb::Rollback { name, .. } = verb {
        for lost in lost_by_rollback(view, step, name) {
            faults.step(at, step, format!("going back to {name} takes {lost} away"));
        }
    }
    // Where policy does not count the flag, Proxmox still does.
    if let Verb::Destroy { .. } = verb
        && scene.sight.seen(&step.guest).is_some_and(|seen| seen.flag("protection") != Some(false))
    {
        faults.step(at, step, "its protection in Proxmox is on, or could not be read");
    }
    if let (Verb::Destroy { .. }, Some(hours)) = (verb, scene.policy.caution.backup_before_destroy_hours)
        && !view.makes(&step.guest)
        && !has_backup(view, &step.guest, hours)
    {
        faults.step(at, step, format!("policy wants a backup not older than {hours} h, and none is seen"));
    }
}

/// Whether a backup of the guest is not older than so many hours, as it was seen or as its record has it.
fn has_backup(view: &Checked<'_>, guest: &Key, hours: u32) -> bool {
    let scene = view.scene;
    let seen = scene.sight.seen(guest).and_then(|seen| seen.newest_backup);
    let record = scene.known.get(guest).and_then(|known| known.typed::<Guest>());
    let recorded = record.and_then(|guest| match guest.backups {
        Backups::Newest { at, .. } => Some(at),
        Backups::None | Backups::NotVisible => None,
    });
    let newest = seen.into_iter().chain(recorded).max();
    newest.is_some_and(|at| scene.now.duration_since(at) <= SignedDuration::from_hours(hours.into()))
}

/// Why a guest is protected: as it was seen, or as its record has it. A mark on either is enough.
fn why_protected(view: &Checked<'_>, step: &Step) -> Option<String> {
    let policy = view.scene.policy;
    // Removing a snapshot the plan itself made harms nothing that was there.
    if step.operation == Operation::SnapshotDelete && made_here(view, step) {
        return None;
    }
    let seen = view.scene.sight.seen(&step.guest);
    let record = view.scene.known.get(&step.guest).and_then(|known| known.typed::<Guest>());
    let recorded = record.and_then(|guest| {
        let mut view = View::of_record(&step.guest, &guest);
        // The live configuration tells what the record does not know yet.
        view.flag = view.flag.or(seen.map(|_| false));
        protection(&view, policy)
    });
    recorded.or_else(|| protection(&View::of_seen(&step.guest, seen?), policy))
}

fn made_here(view: &Checked<'_>, back: &Step) -> bool {
    let gone = match super::calls::call(&back.call) {
        Ok(super::calls::Call { verb: Verb::SnapshotDelete { name }, .. }) => name,
        Ok(_) | Err(_) => return false,
    };
    let makes = |verb: &Verb| matches!(verb, Verb::Snapshot { name, .. } if *name == gone);
    view.steps().any(|(_, step, call)| step.guest == back.guest && makes(&call.verb))
}

/// The table that never lets the operation happen.
fn never(view: &Checked<'_>, step: &Step) -> Option<String> {
    let (policy, role, by) = (view.scene.policy, view.scene.role, &view.plan.by);
    let says = |rules: &Rules| rules.never.as_ref().is_some_and(|list| list.contains(&step.operation));
    if says(&policy.operations) {
        return Some("operations".to_owned());
    }
    if policy.roles.get(&role).is_some_and(says) {
        return Some(format!("roles.{role}"));
    }
    policy.identities.get(by).is_some_and(says).then(|| format!("identities.{by}"))
}

/// What protects a guest now and would not after going back: a rollback brings the snapshot's configuration.
fn lost_by_rollback(view: &Checked<'_>, step: &Step, name: &str) -> Vec<String> {
    let Some(seen) = view.scene.sight.seen(&step.guest) else { return Vec::new() };
    let protects = protecting_tags(view);
    let own: BTreeSet<String> =
        seen.tags().into_iter().filter(|tag| protects.contains(&tag.to_ascii_lowercase())).collect();
    let flag = seen.flag("protection") == Some(true);
    let past = past(seen, name);
    let mut lost = Vec::new();
    if flag && !past.is_some_and(|past| past.get("protection").is_some_and(|line| is_on(line))) {
        lost.push("its protection in Proxmox".to_owned());
    }
    let then = past.and_then(|past| past.get("tags")).map(|line| tags(line)).unwrap_or_default();
    lost.extend(own.difference(&then).map(|tag| format!("the tag {tag}")));
    lost
}

fn past<'a>(seen: &'a Seen, name: &str) -> Option<&'a std::collections::BTreeMap<String, String>> {
    let list = seen.snapshots.as_deref().unwrap_or_default();
    list.iter().find(|snapshot| snapshot.name == name).and_then(|snapshot| snapshot.config.as_ref())
}

/// Tags by which policy protects, lower case.
fn protecting_tags(view: &Checked<'_>) -> BTreeSet<String> {
    let rules = &view.scene.policy.protected;
    let named = rules.guests.iter().filter_map(|reference| reference.as_str().strip_prefix("tag:"));
    rules.tags.iter().map(String::as_str).chain(named).map(str::to_ascii_lowercase).collect()
}
