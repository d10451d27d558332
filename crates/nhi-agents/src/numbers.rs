//! Numbers for the guests that plans make: each is kept free from the moment its plan is made until its run may have
//! ended, so that two who ask at once get two.

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
    run::Reservation,
};
use serde::de::IgnoredAny;
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
        let (taken, standing) = (self.taken(plan), self.reserved_by(by));
        if standing + new.len() > RESERVED_MAX {
            let message = format!("{standing} numbers are reserved for plans of {by} already");
            let hint = "Apply or cancel plans that make guests; a plan that expires gives its numbers back.";
            return Err(Denied::Refusal(Refusal::new(RefusalCode::Quota, message, hint)));
        }
        let mut out = Vec::new();
        match self.fill(plan, new, &taken, &mut out).await {
            Ok(()) => Ok(out),
            Err(denied) => {
                let_go(self.bus, self.cluster, plan, &out).await;
                Err(denied)
            }
        }
    }

    /// Reserves as many as it can.
    async fn fill(
        &self,
        plan: &PlanId,
        new: &[NewGuestNeed],
        taken: &BTreeSet<u32>,
        out: &mut Vec<u32>,
    ) -> Result<(), Denied> {
        let (first, last) = self.range;
        let mut free = (first..=last).filter(|vmid| !taken.contains(vmid)).take(TRIES_MAX + new.len());
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
            out.push(got.ok_or_else(|| Denied::Refusal(self.none(wanted)))?);
        }
        Ok(())
    }

    /// Reserves one number, or goes on with the plan's own; false when somebody else has it.
    async fn keep(&self, plan: &PlanId, vmid: u32) -> Result<bool, PlansError> {
        let key = PlansKey::Vmid { cluster: self.cluster.to_owned(), vmid };
        let before = plans::get::<Reservation>(self.bus, &key).await?;
        let is_free = |kept: &Reservation| kept.plan == *plan || !stands(kept, self.kept, self.now);
        if !before.as_ref().is_none_or(|row| is_free(&row.value)) {
            return Ok(false);
        }
        let reservation = Reservation { plan: plan.clone(), until: self.until };
        let change = PlansChange::put(key, before.map_or(0, |row| row.revision), &reservation);
        match commit(self.bus, change).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Numbers of guests, and those that are reserved for other plans.
    fn taken(&self, plan: &PlanId) -> BTreeSet<u32> {
        let guests = self.known.keys().filter(|key| matches!(key.section(), Section::Vm | Section::Lxc));
        let number = |key: &Key| match key.tokens().as_slice() {
            [of, vmid] if of == self.cluster => vmid.parse().ok(),
            _ => None,
        };
        let others = |row: &Reservation| row.plan != *plan && stands(row, self.kept, self.now);
        let reserved =
            self.kept.vmids.iter().filter(|((of, _), row)| of == self.cluster && others(&row.value));
        guests.filter_map(number).chain(reserved.map(|((_, vmid), _)| *vmid)).collect()
    }

    fn reserved_by(&self, by: &IdentityName) -> usize {
        let of = |plan: &PlanId| self.kept.plans.get(plan).is_some_and(|row| row.value.plan.by == *by);
        let stands = |row: &Reservation| stands(row, self.kept, self.now) && of(&row.plan);
        self.kept.vmids.values().filter(|row| stands(&row.value)).count()
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

/// Whether a number is still kept for its plan: as long as its run is not over, however long that waits, and without a run
/// for its time. Once its run is over no call of it is under way; whether the guest is there, its record says.
pub(crate) fn stands(reservation: &Reservation, kept: &PlansSnapshot, now: Timestamp) -> bool {
    match kept.runs.get(&reservation.plan.run()).map(|row| &row.value) {
        Some(run) => !run.state.is_over() || run.needs_human(),
        None => reservation.until > now,
    }
}

/// Gives the numbers of a plan that is not kept back. The same request, asked twice, may have kept it.
pub(crate) async fn let_go(bus: &Bus, cluster: &str, plan: &PlanId, vmids: &[u32]) {
    if matches!(plans::get::<IgnoredAny>(bus, &PlansKey::Plan(plan.clone())).await, Ok(None)) {
        give_back(bus, cluster, plan, vmids).await;
    }
}

/// Gives a plan's numbers back, and nobody else's. One that stays reserved comes free by itself.
pub(crate) async fn give_back(bus: &Bus, cluster: &str, plan: &PlanId, vmids: &[u32]) {
    for vmid in vmids {
        let key = PlansKey::Vmid { cluster: cluster.to_owned(), vmid: *vmid };
        if let Ok(Some(row)) = plans::get::<Reservation>(bus, &key).await
            && row.value.plan == *plan
            && let Err(error) = commit(bus, PlansChange::remove(key, row.revision)).await
        {
            tracing::debug!(agent = "act", err = %error, "reserved number not given back");
        }
    }
}

async fn commit(bus: &Bus, change: PlansChange) -> Result<(), PlansError> {
    plans::commit(bus, &OpId(Uuid::now_v7().to_string()), Timestamp::now(), &[change]).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::{cx::Cx, plans::Row, store};
    use nhi_model::guest::GuestKind;
    use nhi_testkit::Nats;
    use serde_json::{Value, json};
    use std::sync::Arc;

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn id(text: &str) -> PlanId {
        PlanId::parse(text).unwrap()
    }

    fn now() -> Timestamp {
        moment("2026-01-01T12:00:00Z")
    }

    #[test]
    fn a_number_is_kept_until_its_run_is_over_and_without_one_for_its_time() {
        let reservation = |until: &str| Reservation { plan: id("p-0001"), until: moment(until) };
        let (later, before) = ("2026-01-01T12:00:01Z", "2026-01-01T11:00:00Z");
        let with = |state: &Value| {
            let run: nhi_model::run::Run = serde_json::from_value(json!({
                "v": 1, "id": "r-0001", "plan": "p-0001", "digest": nhi_model::plan::Digest::of([7; 32]),
                "by": "aider", "at": before, "state": state,
            }))
            .unwrap();
            let row = Row { revision: 2, at: now(), value: run };
            PlansSnapshot { runs: [(row.value.id.clone(), Arc::new(row))].into(), ..PlansSnapshot::default() }
        };
        let none = PlansSnapshot::default();
        assert!(stands(&reservation(later), &none, now()));
        assert!(!stands(&reservation(before), &none, now()));
        // However long it waits, and until somebody has looked at it.
        for state in [
            json!({ "is": "waiting", "reason": "its hour", "not_before": later }),
            json!({ "is": "running" }),
            json!({ "is": "needs-human", "text": "look" }),
        ] {
            assert!(stands(&reservation(before), &with(&state), now()), "{state}");
        }
        for state in [json!({ "is": "done", "revision": 3 }), json!({ "is": "failed", "text": "it broke" })] {
            assert!(!stands(&reservation(later), &with(&state), now()), "{state}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_plan_goes_on_with_its_own_numbers_and_gives_back_no_others() {
        let (nats, cx) = (Nats::start().await, Cx::new());
        let bus = nats.connect(&cx, "home").await;
        store::provision(&bus, &store::StoreSettings { replicas: 1 }).await.unwrap();
        let (kept, known) = (PlansSnapshot::default(), BTreeMap::new());
        let until = moment("2026-01-01T13:00:00Z");
        let range = (700, 702);
        let numbers =
            Numbers { bus: &bus, cluster: "home", kept: &kept, known: &known, range, now: now(), until };
        let by = IdentityName::parse("aider").unwrap();
        let need = |vmid| NewGuestNeed { kind: GuestKind::Qemu, vmid };
        let whose = async |vmid| {
            let key = PlansKey::Vmid { cluster: "home".to_owned(), vmid };
            plans::get::<Reservation>(&bus, &key).await.unwrap().map(|row| row.value.plan)
        };
        let (one, two) = (id("p-0001"), id("p-0002"));
        let asked = [need(None), need(Some(701))];
        assert_eq!(numbers.reserve(&one, &by, &asked).await.unwrap(), [700, 701]);
        // The same request again, by a view that has not seen the first.
        assert_eq!(numbers.reserve(&one, &by, &asked).await.unwrap(), [700, 701]);
        // Another's numbers are refused, and what it got before is not kept.
        assert!(matches!(
            numbers.reserve(&two, &by, &[need(None), need(Some(701))]).await,
            Err(Denied::Refusal(refusal)) if refusal.code == RefusalCode::NoRoom
        ));
        assert_eq!(whose(702).await, None);
        give_back(&bus, "home", &two, &[700, 701]).await;
        // The same request kept it meanwhile.
        let key = PlansKey::Plan(one.clone());
        commit(&bus, PlansChange::put(key, 0, &json!({ "kept": true }))).await.unwrap();
        let_go(&bus, "home", &one, &[700, 701]).await;
        assert_eq!((whose(700).await, whose(701).await), (Some(one.clone()), Some(one.clone())));
        give_back(&bus, "home", &one, &[700, 701]).await;
        assert_eq!((whose(700).await, whose(701).await), (None, None));
    }
}
