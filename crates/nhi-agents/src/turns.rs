//! Whose turn it is: which guests a plan's run works on and which it counts on, and what stands against its start now.
//! Pure; the runner claims, the desk refuses.
//!
//! Rules:
//! - a run has its targets for itself, by a lease on each;
//! - what it counts on besides (dependents that must stay down, a template that is copied) it shares with others that
//!   count on it, and with none that works on it: two plans that are sound alone could break together what both looked
//!   at. No lease is written for that. Claims stand in one order, that of their leases' revisions, and the later of two
//!   that do not go together is given back before its first call;
//! - a run does not overtake an older one that waits for one of its guests, so that many guests are not waited for for
//!   ever. One that waits for a person, or for its hour, holds nobody up;
//! - somebody's claim (`act.hold`) keeps away what others asked for and applied. A run waits for its end; what takes a
//!   run back because nobody confirmed it does not.

use nhi_bus::plans::PlansSnapshot;
use nhi_decide::observe::Known;
use nhi_model::{
    Timestamp,
    fact::Fact,
    guest::GuestKind,
    identity::IdentityName,
    key::{Key, Section},
    plan::{Ends, Plan, PlanRecord},
    refusal::{Refusal, RefusalCode},
    run::{Freeze, Hold, Run, RunId, RunState},
};
use std::collections::{BTreeMap, BTreeSet};

/// A guest as leases and holds name it.
type Place = (String, u32);

/// Why a run does not start now, as far as others have to do with it.
pub(crate) fn hindrance(
    record: &PlanRecord,
    run: &Run,
    kept: &PlansSnapshot,
    now: Timestamp,
) -> Option<String> {
    let stopped = kept.freeze.as_ref().map(|freeze| stopped(&freeze.value));
    stopped
        .or_else(|| taken(&record.plan, &run.id, kept, u64::MAX))
        .or_else(|| stuck(record, run, kept, now))
        .or_else(|| overtaken(&record.plan, run, kept, now))
}

/// Why a run that was just claimed has to be given back, once everything that stands before the claim is known.
pub(crate) fn claimed_too_late(
    record: &PlanRecord,
    run: &Run,
    kept: &PlansSnapshot,
    now: Timestamp,
) -> Option<String> {
    let mine = kept.leases.values().filter(|row| row.value.run == run.id).map(|row| row.revision);
    taken(&record.plan, &run.id, kept, mine.min()?).or_else(|| stuck(record, run, kept, now))
}

/// What stands in words while everything is stopped.
pub(crate) fn stopped(freeze: &Freeze) -> String {
    format!("{} has stopped everything: {}", freeze.by, freeze.reason)
}

/// The refusal that says whose a guest is.
pub(crate) fn held(guest: &Key, hold: &Hold) -> Refusal {
    let message = format!("{guest} is held by {} until {:.0}: {}", hold.by, hold.until, hold.reason);
    Refusal::new(RefusalCode::Held, message, "Wait, or ask its holder or an operator to release it.")
        .about(guest)
}

/// Somebody's claim on a guest that a plan works on or copies, who neither asked for the plan nor applies it.
pub(crate) fn held_by_another(
    record: &PlanRecord,
    by: &IdentityName,
    kept: &PlansSnapshot,
    now: Timestamp,
) -> Option<Refusal> {
    // What nobody called off is taken back whoever holds the guest: that was said yes to with the run.
    record.request.as_ref()?;
    let plan = &record.plan;
    let (targets, sources) = (targets(plan), sources(plan));
    kept.holds.iter().find_map(|(place, row)| {
        let hold = &row.value;
        let guest = targets.get(place).or_else(|| sources.get(place))?;
        let is_anothers = hold.until > now && hold.by != plan.by && hold.by != *by;
        is_anothers.then(|| held(guest, hold))
    })
}

/// Claims that hold, as a plan is made on them.
pub(crate) fn holds(
    kept: &PlansSnapshot,
    known: &BTreeMap<Key, Known>,
    now: Timestamp,
) -> BTreeMap<Key, Hold> {
    let valid = kept.holds.iter().filter(|(_, row)| row.value.until > now);
    valid.filter_map(|(place, row)| Some((key_of(known, place)?, row.value.clone()))).collect()
}

/// Guests that a run works on, and those whose last run a person has to look at.
pub(crate) fn leases(kept: &PlansSnapshot, known: &BTreeMap<Key, Known>) -> BTreeMap<Key, RunId> {
    let worked_on =
        kept.leases.iter().filter_map(|(place, row)| Some((key_of(known, place)?, row.value.run.clone())));
    let mut out: BTreeMap<Key, RunId> = worked_on.collect();
    for run in kept.runs.values().map(|row| &row.value).filter(|run| run.needs_human()) {
        let targets = kept.plans.get(&run.plan).map(|row| &row.value.plan.targets);
        out.extend(targets.into_iter().flatten().map(|target| (target.guest.clone(), run.id.clone())));
    }
    out
}

/// The record of a number, whichever kind it is.
fn key_of(known: &BTreeMap<Key, Known>, (cluster, vmid): &Place) -> Option<Key> {
    let kinds = [GuestKind::Qemu, GuestKind::Lxc];
    kinds.map(|kind| Key::guest(kind, cluster, *vmid)).into_iter().find(|key| known.contains_key(key))
}

/// What only people, or the end of a claim, help against.
fn stuck(record: &PlanRecord, run: &Run, kept: &PlansSnapshot, now: Timestamp) -> Option<String> {
    let held = || held_by_another(record, &run.by, kept, now).map(|refusal| refusal.message);
    unclear(&record.plan, kept).or_else(held)
}

/// A run on one of the guests whose outcome is not known, and that nobody has acknowledged.
fn unclear(plan: &Plan, kept: &PlansSnapshot) -> Option<String> {
    let runs = kept.runs.values().filter(|row| row.value.needs_human());
    for other in runs.filter_map(|row| kept.plans.get(&row.value.plan)).map(|row| &row.value.plan) {
        let shared = plan.targets.iter().find(|mine| other.targets.iter().any(|one| one.guest == mine.guest));
        if let Some(target) = shared {
            let (guest, id) = (&target.guest, &other.id);
            return Some(format!(
                "the outcome of {id} on {guest} is not known; an operator looks at it and acknowledges it (nhi plan cancel {id})"
            ));
        }
    }
    None
}

/// A run that was claimed before a revision, and does not go together with the plan.
fn taken(plan: &Plan, run: &RunId, kept: &PlansSnapshot, before: u64) -> Option<String> {
    let (targets, counts_on) = (targets(plan), counts_on(plan));
    let mut others = BTreeSet::new();
    for (place, row) in kept.leases.iter().filter(|(_, row)| row.value.run != *run && row.revision < before) {
        let other = &row.value.run;
        if let Some(guest) = targets.get(place) {
            return Some(format!("run {other} works on {guest}"));
        }
        if let Some(guest) = counts_on.get(place) {
            return Some(format!("run {other} works on {guest}, which this one counts on"));
        }
        others.insert(other);
    }
    others.into_iter().find_map(|other| {
        let others = counts_on_of(other, kept)?;
        let (_, guest) = targets.iter().find(|(place, _)| others.contains_key(*place))?;
        Some(format!("run {other} counts on {guest}"))
    })
}

fn counts_on_of<'a>(run: &RunId, kept: &'a PlansSnapshot) -> Option<BTreeMap<Place, &'a Key>> {
    Some(counts_on(&kept.plans.get(&run.plan())?.value.plan))
}

/// An older run that waits for its turn with a guest, and does not go together with the plan.
fn overtaken(plan: &Plan, run: &Run, kept: &PlansSnapshot, now: Timestamp) -> Option<String> {
    let is_older = |other: &&Run| (other.at, &other.id) < (run.at, &run.id);
    let waiting = kept.runs.values().map(|row| &row.value).filter(|other| waits_for_its_turn(other, now));
    waiting.filter(is_older).find_map(|other| {
        let record = &kept.plans.get(&other.plan)?.value;
        if record.plan.cluster != plan.cluster || stuck(record, other, kept, now).is_some() {
            return None;
        }
        let guest = clash(plan, &record.plan)?;
        Some(format!("run {} waits for {guest} and came first", other.id))
    })
}

fn waits_for_its_turn(run: &Run, now: Timestamp) -> bool {
    match &run.state {
        RunState::Waiting { not_before, .. } => not_before.is_none_or(|moment| moment <= now),
        RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {}
        | RunState::Done { .. }
        | RunState::Failed { .. }
        | RunState::Compensated { .. }
        | RunState::NeedsHuman { .. }
        | RunState::Cancelled { .. } => false,
    }
}

/// A guest because of which two plans are not carried out at a time.
fn clash<'a>(one: &'a Plan, other: &'a Plan) -> Option<&'a Key> {
    let (ones, others) = (targets(one), targets(other));
    let among = |some: &BTreeMap<Place, &'a Key>, more: &BTreeMap<Place, &'a Key>| {
        some.iter().find(|(place, _)| more.contains_key(*place)).map(|(_, guest)| *guest)
    };
    among(&ones, &others)
        .or_else(|| among(&ones, &counts_on(other)))
        .or_else(|| among(&others, &counts_on(one)))
}

fn targets(plan: &Plan) -> BTreeMap<Place, &Key> {
    let place = |vmid| (plan.cluster.clone(), vmid);
    plan.targets.iter().map(|target| (place(target.vmid), &target.guest)).collect()
}

/// Guests, not targets, that a plan names in what must hold, or was made on.
fn counts_on(plan: &Plan) -> BTreeMap<Place, &Key> {
    let before = plan.steps.iter().flat_map(|step| &step.before);
    let named = plan.requires.iter().chain(before).filter_map(Fact::guest).chain(plan.reads.keys());
    let mut guests: BTreeMap<Place, &Key> = named.filter_map(|key| Some((place(key)?, key))).collect();
    for place in targets(plan).keys() {
        guests.remove(place);
    }
    guests
}

/// Guests that are copied: a copy's task carries the number of what it copies.
fn sources(plan: &Plan) -> BTreeMap<Place, &Key> {
    let tasks = plan.steps.iter().filter_map(|step| match step.ends {
        Ends::Task { vmid, .. } => Some((plan.cluster.clone(), vmid)),
        Ends::Answer {} => None,
    });
    let tasks: BTreeSet<Place> = tasks.collect();
    counts_on(plan).into_iter().filter(|(place, _)| tasks.contains(place)).collect()
}

fn place(key: &Key) -> Option<Place> {
    let (Section::Vm | Section::Lxc) = key.section() else { return None };
    let [cluster, vmid] = key.tokens().try_into().ok()?;
    Some((cluster, vmid.parse().ok()?))
}
