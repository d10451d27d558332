//! The way back: what takes back a plan that was carried out, what brings the lab up again, and what brings guests back
//! to how a moment of the past had them.

use super::{
    Done, Moment,
    expand::Lab,
    wish::{Act, Deed, Guard, Wish},
};
use crate::{clean, fact::named};
use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    call::At,
    guest::{Guest, GuestStatus},
    intent::{GuestRef, Intent, Operation, Reference, Settings},
    key::Key,
    plan::PlanId,
    refusal::{Refusal, RefusalCode},
    run::{Leg, Mark, Run, RunState, TaskExit},
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// How far Proxmox's clock may be behind ours.
const SKEW: SignedDuration = SignedDuration::from_mins(10);
const MIB: u64 = 1024 * 1024;

/// What takes a plan back.
pub(super) fn undo(lab: &Lab<'_>, plan: &PlanId) -> Result<Vec<Wish>, Refusal> {
    let done = done(lab, Some(plan))?;
    let run = ended(done)?;
    if done.plan.undo.intents.is_empty() {
        let cost = clean::text(&done.plan.undo.cost, 600);
        let message = format!("plan {plan} cannot be taken back: {cost}");
        return Err(Refusal::new(RefusalCode::NotPossible, message, "Do by hand what can be done."));
    }
    let mut wishes = Vec::new();
    for intent in &done.plan.undo.intents {
        match intent {
            Intent::LabUp { .. } => wishes.extend(starts(lab, done, run)),
            other => wishes.push(Wish::Deed(back(lab, done, run, other)?)),
        }
    }
    if !done.plan.undo.complete {
        wishes.push(Wish::Note(format!(
            "Not everything comes back: {}",
            clean::text(&done.plan.undo.cost, 600)
        )));
    }
    Ok(wishes)
}

/// What the last shutdown of the lab stopped, started in the reverse order.
pub(super) fn lab_up(lab: &Lab<'_>, plan: Option<&PlanId>) -> Result<Vec<Wish>, Refusal> {
    let done = done(lab, plan)?;
    if done.plan.intent != (Intent::LabDown {}) {
        return Err(Refusal::new(
            RefusalCode::NotPossible,
            format!("plan {} did not shut the lab down", done.plan.id),
            "Name the plan that did, or leave it out to mean the last one.",
        ));
    }
    let run = ended(done)?;
    let wishes = starts(lab, done, run);
    if wishes.is_empty() {
        let message = format!("plan {} stopped nothing that could be started again", done.plan.id);
        return Err(Refusal::new(RefusalCode::NothingToDo, message, "Start the guests that are wanted."));
    }
    Ok(wishes)
}

fn done<'a>(lab: &Lab<'a>, plan: Option<&PlanId>) -> Result<&'a Done, Refusal> {
    let found = lab.past.and_then(|past| past.done.as_ref());
    found.filter(|done| plan.is_none_or(|id| done.plan.id == *id)).ok_or_else(|| {
        let what = plan
            .map_or_else(|| "shutdown of the lab that was carried out".to_owned(), |id| format!("plan {id}"));
        Refusal::new(RefusalCode::Unknown, format!("there is no {what}"), "List the plans with act.list.")
    })
}

/// Its run, when that is over and did something.
fn ended(done: &Done) -> Result<&Run, Refusal> {
    let id = &done.plan.id;
    let refuse = |code, message: String, hint: &str| Err(Refusal::new(code, message, hint));
    let nothing = "There is nothing to take back.";
    let Some(run) = &done.run else {
        return refuse(RefusalCode::NothingToDo, format!("plan {id} was never applied"), nothing);
    };
    match &run.state {
        RunState::Done { .. } | RunState::Failed { .. } => Ok(run),
        RunState::Waiting { .. }
        | RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {} => refuse(
            RefusalCode::Busy,
            format!("run {} is not over", run.id),
            "Follow it with act.run until it ends.",
        ),
        RunState::NeedsHuman { text } => refuse(
            RefusalCode::NotPossible,
            format!("what run {} did is not known: {}", run.id, clean::text(text, 300)),
            "Look in Proxmox, and plan what is needed by itself.",
        ),
        RunState::Compensated { .. } => {
            refuse(RefusalCode::NothingToDo, format!("run {} was taken back already", run.id), nothing)
        }
        RunState::Cancelled { .. } => {
            refuse(RefusalCode::NothingToDo, format!("run {} never started", run.id), nothing)
        }
    }
}

/// The starts of what a shutdown of the lab stopped: of each guest whose step was carried out.
fn starts(lab: &Lab<'_>, done: &Done, run: &Run) -> Vec<Wish> {
    let stopped = done.plan.steps.iter().enumerate().rev().filter(|(at, step)| {
        matches!(step.operation, Operation::Shutdown | Operation::Stop) && was_carried_out(run, *at)
    });
    let start = |guest: &Key| {
        let guard = guard(lab, done, run, guest).ok();
        Wish::Deed(Deed { guard, quiet: true, ..Deed::new(guest.clone(), Act::Start) })
    };
    stopped.map(|(_, step)| start(&step.guest)).collect()
}

/// Whether the journal says that a step was done by us. One that was so already was not.
fn was_carried_out(run: &Run, step: usize) -> bool {
    let marks = run.journal.iter().filter(|entry| entry.leg == Leg::Forward && entry.step == step);
    let mut sent = false;
    let mut ended = false;
    for entry in marks {
        match &entry.mark {
            Mark::Sent { .. } | Mark::Adopted { .. } => sent = true,
            Mark::Seen {} | Mark::Ended { exit: TaskExit::Ok {} | TaskExit::Warnings { .. } } => ended = true,
            Mark::Begun { .. }
            | Mark::Refused { .. }
            | Mark::AnswerLost { .. }
            | Mark::NotTaken {}
            | Mark::Ended { .. }
            | Mark::AlreadySo {}
            | Mark::Failed { .. }
            | Mark::Unknown { .. } => {}
        }
    }
    sent && ended
}

/// What the plan knew of a guest it wrote to, or its run of one that it made.
fn guard(lab: &Lab<'_>, done: &Done, run: &Run, guest: &Key) -> Result<Guard, Refusal> {
    let (id, hint) = (&done.plan.id, "Do by hand what can be done.");
    let Some(target) = done.plan.targets.iter().find(|target| target.guest == *guest) else {
        let message = format!("plan {id} did nothing to {}", named(guest));
        return Err(Refusal::new(RefusalCode::NotPossible, message, hint));
    };
    let made = target.identity.is_none();
    let Some(identity) = target.identity.as_ref().or_else(|| run.made.get(guest)) else {
        let message = format!(
            "what {id} made as {} was not read back, so it cannot be told from a later guest",
            named(guest)
        );
        return Err(Refusal::new(RefusalCode::NotPossible, message, hint).about(guest));
    };
    if made && let Some(since) = came_later(lab, run, guest) {
        let message =
            format!("{} is not the guest that {id} made: it is there since {since:.0}", named(guest));
        return Err(Refusal::new(RefusalCode::OtherGuest, message, "Leave it.").about(guest));
    }
    let (identity, name) = (Some(identity.clone()), target.name.clone());
    let made_since = made.then(|| run.at.checked_sub(SKEW).unwrap_or(Timestamp::MIN));
    Ok(Guard { identity, name, made_since })
}

/// Since when a guest is there, when that is after the run that made one with its number was seen to be done. A later
/// container may bear the number, the name and the root volume of the one before: only this tells them apart.
fn came_later(lab: &Lab<'_>, run: &Run, guest: &Key) -> Option<Timestamp> {
    let RunState::Done { .. } = run.state else { return None };
    let record = Guest::deserialize(&lab.roster.get(guest)?.known.record).ok()?;
    let first = record.identity.first_seen?;
    run.ended_at.filter(|ended| first > *ended).map(|_| first)
}

fn back(lab: &Lab<'_>, done: &Done, run: &Run, intent: &Intent) -> Result<Deed, Refusal> {
    let Some((reference, act)) = deed_of(intent) else {
        let message = format!(
            "plan {} would be taken back by {:?}, which is not one thing",
            done.plan.id,
            intent.as_str()
        );
        return Err(Refusal::new(RefusalCode::NotPossible, message, "Do by hand what can be done."));
    };
    // The guest may not be scanned yet, or be gone: what is live decides.
    let guest = match reference.reference() {
        Reference::Key(key) => key,
        Reference::Vmid { .. } | Reference::Name { .. } | Reference::Tag(_) => {
            lab.roster.one(reference)?.clone()
        }
    };
    let guard = guard(lab, done, run, &guest)?;
    Ok(Deed { guard: Some(guard), ..Deed::new(guest, act) })
}

/// The one deed an intent of an undo is.
fn deed_of(intent: &Intent) -> Option<(&GuestRef, Act)> {
    Some(match intent {
        Intent::Start { guest } => (guest, Act::Start),
        Intent::Stop { guest, .. } => (guest, Act::Stop),
        Intent::Shutdown { guest, timeout_s, .. } => (guest, Act::Shutdown { timeout_s: *timeout_s }),
        Intent::Suspend { guest, to_disk } => (guest, Act::Suspend { to_disk: *to_disk }),
        Intent::Resume { guest } => (guest, Act::Resume),
        Intent::Destroy { guest, purge } => (guest, Act::Destroy { purge: *purge }),
        Intent::SnapshotDelete { guest, name } => (guest, Act::SnapshotDelete { name: name.clone() }),
        Intent::Rollback { guest, name, start } => {
            (guest, Act::Rollback { name: name.clone(), start: *start })
        }
        Intent::Migrate { guest, node } => (guest, Act::Migrate { node: node.clone() }),
        Intent::Set { guest, settings } => (guest, Act::Set { settings: settings.clone(), processors: None }),
        Intent::Reboot { .. }
        | Intent::Reset { .. }
        | Intent::CreateVm { .. }
        | Intent::CreateLxc { .. }
        | Intent::Clone { .. }
        | Intent::Snapshot { .. }
        | Intent::Resize { .. }
        | Intent::Backup { .. }
        | Intent::ServiceUp { .. }
        | Intent::LabDown {}
        | Intent::LabUp { .. }
        | Intent::Return { .. }
        | Intent::Undo { .. }
        | Intent::All { .. } => return None,
    })
}

/// Guests as a moment of the past had them: power, node, and what can be set.
pub(super) fn return_to(lab: &Lab<'_>, guests: &[GuestRef], to: At) -> Result<Vec<Wish>, Refusal> {
    let moment = lab.past.and_then(|past| past.moment.as_ref()).filter(|moment| moment.at == to);
    let moment = moment.ok_or_else(|| {
        let hint = "Name a revision or a time that is still kept (`nhi state history`).";
        Refusal::new(RefusalCode::Unknown, "nothing is known of the state at that moment", hint)
    })?;
    let mut wanted = BTreeMap::new();
    for reference in guests {
        for key in lab.roster.some(reference)? {
            wanted.insert(key.clone(), guest_then(moment, key)?);
        }
    }
    let order = lab.services().stop_order(&wanted.keys().cloned().collect::<BTreeSet<_>>(), lab.roster);
    let (mut downs, mut sets, mut ups, mut notes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for key in &order {
        let Some(then) = wanted.get(key) else { continue };
        let now = lab.roster.get(key).and_then(|row| Guest::deserialize(&row.known.record).ok());
        notes.extend(lost(key, then, now.as_ref()).map(Wish::Note));
        let deed = |act| {
            let guard =
                Guard { identity: Some(then.identity.clone()), name: then.name.clone(), made_since: None };
            Wish::Deed(Deed { guard: Some(guard), quiet: true, ..Deed::new(key.clone(), act) })
        };
        if now.as_ref().is_none_or(|now| now.node != then.node) {
            sets.push(deed(Act::Migrate { node: then.node.clone() }));
        }
        let (settings, processors) = settings_then(then, now.as_ref());
        if settings != Settings::default() || processors.is_some() {
            sets.push(deed(Act::Set { settings, processors }));
        }
        match then.status {
            GuestStatus::Stopped => downs.push(deed(Act::Shutdown { timeout_s: None })),
            GuestStatus::Paused => downs.push(deed(Act::Suspend { to_disk: false })),
            GuestStatus::Suspended => downs.push(deed(Act::Suspend { to_disk: true })),
            GuestStatus::Running => ups.push(deed(Act::Start)),
            GuestStatus::Unknown => {
                notes.push(Wish::Note(format!(
                    "What {} was doing then is not known; it is left.",
                    named(key)
                )));
            }
        }
    }
    ups.reverse();
    Ok(downs.into_iter().chain(sets).chain(ups).chain(notes).collect())
}

fn guest_then(moment: &Moment, key: &Key) -> Result<Guest, Refusal> {
    if moment.unknown.contains(key) {
        let message = format!("how {} was at revision {} is no longer kept", named(key), moment.revision);
        return Err(Refusal::new(RefusalCode::Unknown, message, "Choose a later moment.").about(key));
    }
    let Some(record) = moment.records.get(key) else {
        let message = format!("{} did not exist at revision {}", named(key), moment.revision);
        let hint = "Leave it out; to remove it, ask for its destroy.";
        return Err(Refusal::new(RefusalCode::NotPossible, message, hint).about(key));
    };
    Guest::deserialize(record).map_err(|_| {
        let message =
            format!("the record of {} at revision {} has another shape", named(key), moment.revision);
        Refusal::new(RefusalCode::Unknown, message, "Choose a later moment.").about(key)
    })
}

/// What can be set of how it was. What is so already is left out when the wish is planned.
fn settings_then(then: &Guest, now: Option<&Guest>) -> (Settings, Option<u32>) {
    // Only a record whose configuration was read tells all of this.
    let read = then.protection.is_some();
    let memory = then.memory_bytes.filter(|bytes| bytes % MIB == 0).map(|bytes| bytes / MIB);
    // Notes are cleaned for the record: where they did not change since, they are left as they are.
    let notes_differ = now.is_none_or(|now| now.notes != then.notes);
    let settings = Settings {
        cores: None,
        memory_mib: memory.filter(|_| now.is_none_or(|now| now.memory_bytes != then.memory_bytes)),
        tags: Some(then.tags.iter().cloned().collect()),
        onboot: then.onboot.filter(|_| read),
        description: (read && notes_differ).then(|| then.notes.clone().unwrap_or_default()),
    };
    let processors = then.cpus.filter(|_| now.is_none_or(|now| now.cpus != then.cpus));
    (settings, processors)
}

/// What differs and does not come back.
fn lost(key: &Key, then: &Guest, now: Option<&Guest>) -> impl Iterator<Item = String> {
    let mut out = Vec::new();
    if let Some(now) = now {
        let words = named(key);
        if now.name != then.name {
            out.push(format!("{words} was named {:?} then; it keeps its name.", clean::text(&then.name, 64)));
        }
        if now.volumes != then.volumes || now.disk_bytes != then.disk_bytes {
            out.push(format!("The disks of {words} and what is on them stay as they are."));
        }
        if now.nics != then.nics {
            out.push(format!("The network cards of {words} stay as they are."));
        }
        if now.protection != then.protection {
            out.push(format!("Proxmox's protection flag of {words} stays as it is."));
        }
        if now.template != then.template {
            out.push(format!("Whether {words} is a template stays as it is."));
        }
    }
    out.into_iter()
}
