//! Numbers for the guests that plans make: each is kept free from the moment its plan is made until its run may have
//! begun, so that two who ask at once get two.

use nhi_bus::{
    connect::Bus,
    plans::{self, PlansChange, PlansError, PlansSnapshot},
};
use nhi_decide::{observe::Known, plan::NewGuestNeed};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    identity::IdentityName,
    key::{Key, Section},
    plan::PlanId,
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::{Reservation, Run},
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Numbers that may be reserved for one identity's plans at a time.
const RESERVED_MAX: usize = 24;
/// Numbers that are tried before the range is called full.
const TRIES_MAX: usize = 64;

/// What is known of a cluster's numbers.
pub(crate) struct Numbers<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) cluster: &'a str,
    pub(crate) kept: &'a PlansSnapshot,
    pub(crate) known: &'a BTreeMap<Key, Known>,
    /// The first and the last that are given out.
    pub(crate) range: (u32, u32),
    pub(crate) now: Timestamp,
    /// Until when a number is kept.
    pub(crate) until: Timestamp,
}

/// Why there is no number.
#[derive(Debug)]
pub(crate) enum Denied {
    /// It is refused.
    Refusal(Refusal),
    /// It could not be written down.
    Plans(PlansError),
}

impl From<PlansError> for Denied {
    fn from(error: PlansError) -> Self {
        Self::Plans(error)
    }
}

impl Numbers<'_> {
    /// Reserves a number for each new guest, or none.
    pub(crate) async fn reserve(
        &self,
        plan: &PlanId,
        by: &IdentityName,
        new: &[NewGuestNeed],
    ) -> Result<Vec<u32>, Denied> {
        let (taken, standing) = (self.taken(), self.reserved_by(by));
        if standing + new.len() > RESERVED_MAX {
            let message = format!("{standing} numbers are reserved for plans of {by} already");
            let hint = "Apply or cancel plans that make guests; a plan that expires gives its numbers back.";
            return Err(Denied::Refusal(Refusal::new(RefusalCode::Quota, message, hint)));
        }
        let (first, last) = self.range;
        let mut free = (first..=last).filter(|vmid| !taken.contains(vmid)).take(TRIES_MAX + new.len());
        let mut out = Vec::new();
        for wanted in new.iter().map(|new| new.vmid) {
            // One that is named is wanted or nothing: the planner refuses it when it is taken.
            let got = match wanted {
                Some(vmid) => self.keep(plan, vmid).await?.then_some(vmid),
                None => loop {
                    let Some(vmid) = free.next() else { break None };
                    if self.keep(plan, vmid).await? {
                        break Some(vmid);
                    }
                },
            };
            match got {
                Some(vmid) => out.push(vmid),
                None => {
                    give_back(self.bus, self.cluster, &out).await;
                    return Err(Denied::Refusal(self.none(wanted)));
                }
            }
        }
        Ok(out)
    }

    /// Reserves one number; false when somebody else has it.
    async fn keep(&self, plan: &PlanId, vmid: u32) -> Result<bool, PlansError> {
        let before = self.kept.vmids.get(&(self.cluster.to_owned(), vmid));
        if before.is_some_and(|row| self.stands(&row.value)) {
            return Ok(false);
        }
        let key = PlansKey::Vmid { cluster: self.cluster.to_owned(), vmid };
        let reservation = Reservation { plan: plan.clone(), until: self.until };
        let change = PlansChange::put(key, before.map_or(0, |row| row.revision), &reservation);
        match commit(self.bus, change).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Numbers of guests, and those that are reserved.
    fn taken(&self) -> BTreeSet<u32> {
        let guests = self.known.keys().filter(|key| matches!(key.section(), Section::Vm | Section::Lxc));
        let number = |key: &Key| match key.tokens().as_slice() {
            [of, vmid] if of == self.cluster => vmid.parse().ok(),
            _ => None,
        };
        let reserved =
            self.kept.vmids.iter().filter(|((of, _), row)| of == self.cluster && self.stands(&row.value));
        guests.filter_map(number).chain(reserved.map(|((_, vmid), _)| *vmid)).collect()
    }

    fn reserved_by(&self, by: &IdentityName) -> usize {
        let of = |plan: &PlanId| self.kept.plans.get(plan).is_some_and(|row| row.value.plan.by == *by);
        self.kept.vmids.values().filter(|row| self.stands(&row.value) && of(&row.value.plan)).count()
    }

    /// Whether a number is still kept for its plan. Once its run is over no call of it is under way; whether the guest is
    /// there, its record says.
    fn stands(&self, reservation: &Reservation) -> bool {
        let is_over = |run: &Run| run.state.is_over() && !run.needs_human();
        let run = self.kept.runs.get(&reservation.plan.run());
        reservation.until > self.now && !run.is_some_and(|row| is_over(&row.value))
    }

    fn none(&self, named: Option<u32>) -> Refusal {
        let ((first, last), cluster) = (self.range, self.cluster);
        let (message, hint) = match named {
            Some(vmid) => (
                format!("the number {vmid} is reserved for another plan in cluster {cluster}"),
                "Leave vmid out, and the next free one is taken.",
            ),
            None => (
                format!("no number from {first} to {last} is free in cluster {cluster}"),
                "Widen [act] vmid_range in nhi.toml.",
            ),
        };
        Refusal::new(RefusalCode::NoRoom, message, hint)
    }
}

/// Gives numbers back. One that stays reserved comes free by itself.
pub(crate) async fn give_back(bus: &Bus, cluster: &str, vmids: &[u32]) {
    for vmid in vmids {
        let key = PlansKey::Vmid { cluster: cluster.to_owned(), vmid: *vmid };
        if let Ok(Some(row)) = plans::get::<Reservation>(bus, &key).await
            && let Err(error) = commit(bus, PlansChange::remove(key, row.revision)).await
        {
            tracing::debug!(agent = "act", err = %error, "reserved number not given back");
        }
    }
}

async fn commit(bus: &Bus, change: PlansChange) -> Result<(), PlansError> {
    plans::commit(bus, &OpId(Uuid::now_v7().to_string()), Timestamp::now(), &[change]).await.map(drop)
}
