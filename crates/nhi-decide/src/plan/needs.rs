//! What has to be looked at before an intent can be planned. It asks for more than a plan may use, never for less:
//! whether a guest runs is only known after the look.

use super::{
    Needs, NewGuestNeed, Past, PlanNeed, copy,
    expand::{self, Lab, Prepared, cluster_of, flat, too_many},
    wish::{Act, Birth, Deed, Wish},
};
use crate::observe::Known;
use nhi_model::{
    call::At,
    guest::GuestKind,
    intent::Intent,
    key::{Key, Section},
    plan::PlanId,
    policy::Policy,
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeMap;

/// Most guests one plan may have read live: each costs Proxmox several answers.
const GUESTS_MAX: usize = 1000;
/// Most guests that need a target and run by their records, and are read live for it.
const RUNNING_MAX: usize = 50;

/// What an intent needs. Where [`Needs::again`] is set, ask again with the past that is named.
///
/// # Errors
/// A [`Refusal`] that needs no look: a guest that is unknown or ambiguous, a value out of bounds.
pub fn needs(
    intent: &Intent,
    known: &BTreeMap<Key, Known>,
    policy: &Policy,
    past: Option<&Past>,
) -> Result<Needs, Refusal> {
    Prepared::new(known, policy).needs(intent, past)
}

pub(super) fn of(lab: &Lab<'_>, intent: &Intent) -> Result<Needs, Refusal> {
    let past = lab.past;
    let (history, plan) = of_the_past(&flat(intent)?)?;
    let mut needs = Needs { history, plan, ..Needs::default() };
    let lacks_moment = history.is_some() && past.is_none_or(|past| past.moment.is_none());
    let lacks_plan = needs.plan.is_some() && past.is_none_or(|past| past.done.is_none());
    // A past that was looked for and is not there is refused by what needs it.
    if past.is_none() && (lacks_moment || lacks_plan) {
        needs.again = true;
        return Ok(needs);
    }
    let wishes = expand::expand(lab, intent)?;
    needs.cluster = expand::cluster(lab, &wishes)?;
    for wish in &wishes {
        match wish {
            Wish::Deed(deed) => of_deed(lab, deed, &mut needs),
            Wish::Birth(birth) => of_birth(birth, &mut needs),
            Wish::Down(guests) => needs.guests.extend(guests.iter().cloned()),
            Wish::Note(_) => {}
        }
    }
    needs.vmids = needs.new_guests.len();
    if needs.guests.len() > GUESTS_MAX {
        return Err(too_many(format!(
            "{} guests would have to be looked at, at most {GUESTS_MAX} are",
            needs.guests.len()
        )));
    }
    Ok(needs)
}

fn of_the_past(leaves: &[&Intent]) -> Result<(Option<At>, Option<PlanNeed>), Refusal> {
    let one = |what: &str| {
        let message = format!("the intent speaks of several {what}, and a plan relies on one");
        Refusal::new(RefusalCode::BadValue, message, "Make a plan for each.")
    };
    let (mut history, mut plan) = (None, None);
    for leaf in leaves {
        if let Intent::Return { to, .. } = leaf
            && history.replace(*to).is_some_and(|other| other != *to)
        {
            return Err(one("moments"));
        }
        let wanted = match leaf {
            Intent::Undo { plan } => Some(PlanNeed::Id(plan.clone())),
            Intent::LabUp { plan } => Some(lab_up_need(plan.as_ref())),
            Intent::Start { .. }
            | Intent::Stop { .. }
            | Intent::Shutdown { .. }
            | Intent::Reboot { .. }
            | Intent::Reset { .. }
            | Intent::Suspend { .. }
            | Intent::Resume { .. }
            | Intent::CreateVm { .. }
            | Intent::CreateLxc { .. }
            | Intent::Clone { .. }
            | Intent::Destroy { .. }
            | Intent::Snapshot { .. }
            | Intent::SnapshotDelete { .. }
            | Intent::Rollback { .. }
            | Intent::Migrate { .. }
            | Intent::Resize { .. }
            | Intent::Set { .. }
            | Intent::Backup { .. }
            | Intent::ServiceUp { .. }
            | Intent::LabDown {}
            | Intent::Return { .. }
            | Intent::All { .. } => None,
        };
        if let Some(wanted) = wanted
            && plan.replace(wanted.clone()).is_some_and(|other| other != wanted)
        {
            return Err(one("earlier plans"));
        }
    }
    Ok((history, plan))
}

fn lab_up_need(plan: Option<&PlanId>) -> PlanNeed {
    plan.map_or(PlanNeed::LastLabDown, |id| PlanNeed::Id(id.clone()))
}

fn of_deed(lab: &Lab<'_>, deed: &Deed, needs: &mut Needs) {
    let key = &deed.guest;
    needs.guests.insert(key.clone());
    if deed.act.operation().interrupts() {
        of_dependents(lab, key, needs);
    }
    // A snapshot that is made beforehand depends on the storage as well.
    needs.storages |= lab.policy.caution.snapshot_before.contains(&deed.act.operation());
    match &deed.act {
        Act::Destroy { .. } => needs.guests.extend(copy::linked(lab, key).into_iter().cloned()),
        Act::Rollback { name, .. } => {
            needs.snapshot_configs.insert((key.clone(), name.clone()));
            needs.storages = true;
        }
        Act::Migrate { .. } => {
            needs.migrate.insert(key.clone());
            needs.storages = true;
        }
        Act::Backup { .. } | Act::Resize { .. } => needs.storages = true,
        Act::Start
        | Act::StartAgain
        | Act::Stop
        | Act::Shutdown { .. }
        | Act::Reboot
        | Act::Reset
        | Act::Suspend { .. }
        | Act::Resume
        | Act::Snapshot { .. }
        | Act::SnapshotDelete { .. }
        | Act::Set { .. } => {}
    }
}

/// What needs a guest. Of those that run by their records a few are enough to refuse; of each of the others only a look
/// tells that it does not run.
fn of_dependents(lab: &Lab<'_>, guest: &Key, needs: &mut Needs) {
    let dependents = lab.services().dependents(guest, lab.roster);
    let mut running = 0;
    for key in dependents.guests().filter(|key| cluster_of(key) == needs.cluster) {
        let row = lab.roster.get(key).filter(|row| row.known.stale.is_none());
        let runs = row.is_some_and(|row| row.text("status") == Some("running"));
        running += usize::from(runs);
        if !runs || running <= RUNNING_MAX {
            needs.guests.insert(key.clone());
        }
    }
}

fn of_birth(birth: &Birth, needs: &mut Needs) {
    needs.storages = true;
    let kind = match birth {
        Birth::Vm { .. } => GuestKind::Qemu,
        Birth::Lxc { .. } => GuestKind::Lxc,
        Birth::Copy(copy) => {
            needs.guests.insert(copy.source.clone());
            if let Some(name) = &copy.snapshot {
                needs.snapshot_configs.insert((copy.source.clone(), name.clone()));
            }
            if copy.source.section() == Section::Vm { GuestKind::Qemu } else { GuestKind::Lxc }
        }
    };
    needs.new_guests.push(NewGuestNeed { kind, vmid: birth.new_guest().vmid });
}
