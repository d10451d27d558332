//! Whom a plan writes to: each guest is named among the targets as it was seen, is the one that is meant and not a later
//! one with its number, and what the plan requires says so.

use super::{Checked, Faults, calls::Verb};
use crate::{
    fact::{Holds, holds},
    sight::{GuestSight, Seen},
};
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestKind},
    intent::Operation,
    key::Key,
    plan::Target,
};
use std::collections::BTreeSet;

pub(super) fn check(view: &Checked<'_>, faults: &mut Faults) {
    let plan = view.plan;
    let mut keys = BTreeSet::new();
    for target in &plan.targets {
        if !keys.insert(&target.guest) {
            faults.add(format!("{} is a target twice", target.guest));
        }
        if target.guest != Key::guest(target.kind, &plan.cluster, target.vmid) {
            faults.add(format!(
                "{} is not the key of {} {}",
                target.guest,
                target.kind.as_str(),
                target.vmid
            ));
        }
        let operations: Vec<Operation> =
            plan.steps.iter().filter(|step| step.guest == target.guest).map(|step| step.operation).collect();
        if operations.is_empty() {
            faults.add(format!("{} is a target, and nothing is done to it", target.guest));
        } else if operations != target.operations {
            faults.add(format!("what is done to {} is not what its target says", target.guest));
        }
        match &target.identity {
            Some(identity) => existing(view, target, identity, faults),
            None => made(view, target, faults),
        }
    }
    for (at, step) in plan.steps.iter().enumerate() {
        if !keys.contains(&step.guest) {
            faults.step(at, step, "its guest is no target");
        }
    }
    paths(view, faults);
    required(view, faults);
}

/// The path's guest is the step's.
fn paths(view: &Checked<'_>, faults: &mut Faults) {
    for (at, step, call) in view.steps() {
        let Some(target) = view.plan.targets.iter().find(|target| target.guest == step.guest) else {
            continue;
        };
        if call.vmid != target.vmid || call.kind.is_some_and(|kind| kind != target.kind) {
            faults.step(at, step, format!("{} is another guest's", step.call));
        }
        if let Verb::Clone { source, .. } = call.verb {
            copied(view, at, &Key::guest(target.kind, &view.plan.cluster, source), faults);
        }
    }
}

fn existing(view: &Checked<'_>, target: &Target, identity: &GuestIdentity, faults: &mut Faults) {
    let guest = &target.guest;
    let mut fault = |text: &str| faults.add(format!("{guest}: {text}"));
    if view.makes(guest) {
        fault("it is made by the plan and has an identity already");
    }
    if !tells(identity) {
        fault("nothing in its identity tells it from another guest");
    }
    let Some(seen) = view.scene.sight.seen(guest) else {
        fault("it was not seen");
        return;
    };
    if !same(identity, &seen.identity) {
        fault("it was seen with another identity");
    }
    if (seen.kind, seen.vmid, seen.node.as_str()) != (target.kind, target.vmid, target.node.as_str()) {
        fault("it was seen as another kind or elsewhere");
    }
    if crate::clean::text(&seen.name, crate::clean::NAME_CHARS_MAX) != target.name {
        fault("it was seen with another name");
    }
    if view.scene.known.get(guest).is_some_and(|known| known.stale.is_some()) {
        fault("what is known of it is out of date");
    }
    if !view.plan.reads.contains_key(guest) {
        fault("the plan does not say on which record of it it relies");
    }
    facts(view, guest, seen, identity, faults);
}

/// What must be required of a guest that is there.
fn facts(view: &Checked<'_>, guest: &Key, seen: &Seen, identity: &GuestIdentity, faults: &mut Faults) {
    let requires: Vec<&Fact> = view.plan.requires.iter().filter(|fact| fact.guest() == Some(guest)).collect();
    let has = |fact: Fact| requires.contains(&&fact);
    let key = || guest.clone();
    let harmed = view.plan.steps.iter().any(|step| {
        step.guest == *guest && crate::policy::harms_protected(step.operation) && !view.makes(guest)
    });
    let mut lack = Vec::new();
    if !has(Fact::SameGuest { guest: key(), identity: identity.clone() }) {
        lack.push("that it is the same guest");
    }
    if !has(Fact::OnNode { guest: key(), node: seen.node.clone() }) {
        lack.push("that it is on its node");
    }
    if !has(Fact::Status { guest: key(), status: seen.status }) {
        lack.push("what it is doing");
    }
    if !has(Fact::HaManaged { guest: key(), managed: seen.ha.is_some() }) {
        lack.push("whether HA manages it");
    }
    match seen.lock.as_deref().filter(|lock| !lock.is_empty()) {
        None if !has(Fact::Unlocked { guest: key() }) => lack.push("that no lock is held on it"),
        None => {}
        Some("suspended") if wakes(view, guest) => {}
        Some(lock) => faults.add(format!("{guest}: it is locked ({lock})")),
    }
    let digest = seen.digest.clone().map(|digest| Fact::ConfigDigest { guest: key(), digest });
    if digest.is_some_and(|digest| !has(digest)) {
        lack.push("that its configuration is the one that was read");
    }
    if harmed && seen.flag("protection") == Some(false) && !has(Fact::Unprotected { guest: key() }) {
        lack.push("that Proxmox does not protect it");
    }
    for lack in lack {
        faults.add(format!("{guest}: the plan does not require {lack}"));
    }
}

/// Whether the first thing done to a guest ends its suspension.
fn wakes(view: &Checked<'_>, guest: &Key) -> bool {
    let first = view.plan.steps.iter().find(|step| step.guest == *guest);
    first.is_some_and(|step| matches!(step.operation, Operation::Start | Operation::Resume))
}

fn made(view: &Checked<'_>, target: &Target, faults: &mut Faults) {
    let guest = &target.guest;
    let mut fault = |text: &str| faults.add(format!("{guest}: {text}"));
    let first = view.steps().find(|(_, step, _)| step.guest == *guest);
    match first.filter(|(_, _, call)| call.verb.makes()) {
        None => fault("it has no identity, and the plan does not make it"),
        Some((_, _, call)) if call.verb.goes_to().unwrap_or(&call.node) != target.node => {
            fault("it is made on another node");
        }
        Some((_, step, _)) => {
            let named = step.call.params.get("name").or_else(|| step.call.params.get("hostname"));
            if named != Some(&target.name) {
                fault("it is made with another name");
            }
        }
    }
    let sight = view.scene.sight;
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let key = Key::guest(kind, &view.plan.cluster, target.vmid);
        if view.scene.known.contains_key(&key) || sight.seen(&key).is_some() {
            fault("its number is taken");
        }
    }
    let gone = match sight.guests.get(guest) {
        Some(GuestSight::Gone) => true,
        Some(GuestSight::Seen(_) | GuestSight::Unseen { .. }) => false,
        None => sight.absent_is_gone,
    };
    if !gone {
        fault("nobody proved that its number is free");
    }
    if !view.plan.requires.contains(&Fact::Gone { guest: guest.clone() }) {
        fault("the plan does not require that its number is free");
    }
    if view.plan.reads.get(guest) != Some(&0) {
        fault("the plan does not rely on there being no record of it");
    }
}

/// What a guest is copied from is neither changed nor spared: it has to be the one that is meant.
fn copied(view: &Checked<'_>, at: usize, source: &Key, faults: &mut Faults) {
    let step = &view.plan.steps[at];
    let requires = |guest: &Key| {
        let same = |fact: &Fact| matches!(fact, Fact::SameGuest { guest: other, identity } if other == guest && tells(identity));
        view.plan.requires.iter().any(same)
    };
    if !view.makes(source) && !requires(source) {
        faults.step(at, step, format!("the plan does not require that {source} is the guest that was seen"));
    }
    if !view.makes(source) && view.scene.sight.seen(source).is_none() {
        faults.step(at, step, format!("{source} is copied and was not seen"));
    }
    if !view.plan.reads.contains_key(source) && !view.makes(source) {
        faults.step(at, step, format!("the plan does not say on which record of {source} it relies"));
    }
}

/// What is required of the cluster and its nodes, and that all that is required held when it was looked at.
fn required(view: &Checked<'_>, faults: &mut Faults) {
    let (plan, sight) = (view.plan, view.scene.sight);
    match sight.quorate {
        Some(true) if !plan.requires.contains(&Fact::Quorate {}) => {
            faults.add("the plan does not require that the cluster has quorum");
        }
        Some(false) => faults.add("the cluster has no quorum"),
        Some(true) | None => {}
    }
    let mut nodes = BTreeSet::new();
    for (_, _, call) in view.steps() {
        nodes.insert(call.node.as_str());
        nodes.extend(call.verb.goes_to());
    }
    for node in nodes {
        if !plan.requires.contains(&Fact::NodeOnline { node: node.to_owned() }) {
            faults.add(format!("the plan does not require that node {node} answers"));
        }
    }
    for fact in &plan.requires {
        match holds(fact, sight) {
            Holds::Yes => {}
            Holds::No { found } => faults.add(format!("it requires what is not so: {fact:?}: {found}")),
            Holds::Unknown { why } => {
                faults.add(format!("it requires what nobody can tell: {fact:?}: {why}"))
            }
        }
    }
}

/// Whether something in an identity decides. A number alone is no identity: it is used again.
fn tells(identity: &GuestIdentity) -> bool {
    identity.uuid.is_some() || identity.rootfs.is_some() || identity.created.is_some()
}

/// Whether two identities agree in all that both have, and in something.
fn same(one: &GuestIdentity, other: &GuestIdentity) -> bool {
    fn agree<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
        one.is_none() || one == other
    }
    agree(&one.uuid, &other.uuid) && agree(&one.rootfs, &other.rootfs) && agree(&one.created, &other.created)
}
