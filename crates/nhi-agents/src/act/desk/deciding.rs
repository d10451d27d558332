//! What people and agents decide about plans: approve, reject, apply, cancel, confirm, hold, freeze. Each is one
//! compare-and-swap on the record, written down before it counts.

use super::{Desk, about, has_not_started, put, unavailable, unkept};
use crate::{judge, lab, turns};
use nhi_bus::{
    plans::{self, PlansChange, PlansSnapshot, Row},
    service::Caller,
};
use nhi_decide::{
    gate, stale,
    switch::{confirmed, disarm},
};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    act::{
        ActApplied, ActApply, ActApprove, ActCancel, ActFreeze, ActFrozen, ActGot, ActHeld, ActHold,
        ActReject, ActRelease, ActThaw, HOLD_MINUTES_MAX,
    },
    audit::AuditKind,
    call::At,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
    intent::Intent,
    key::Key,
    plan::{Gate, PlanId, PlanRecord, PlanState},
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::{Acknowledged, DeadManState, Freeze, Hold, Run, RunState},
};
use serde_json::json;
use std::collections::BTreeMap;

/// Longest reason that is kept, characters.
const REASON_CHARS_MAX: usize = 500;

impl Desk {
    /// `act.approve`
    pub(in crate::act) async fn approve(
        &self,
        caller: &Caller,
        request: ActApprove,
    ) -> Result<ActGot, Fault> {
        self.demand_terms(caller, "act.approve")?;
        let Row { revision, value: mut record, .. } = self.record(&request.plan).await?;
        let (policy, by, now) = (self.rules.now()?, &caller.name, Timestamp::now());
        let (role, name, digest) = (self.role(by).await?, request.name.as_deref(), &request.digest);
        let wish = gate::Approve { now, record: &record, by, role, digest, name, policy: &policy };
        let approval = match gate::approve(&wish) {
            Ok(approval) => approval,
            Err(refusal) => return Err(self.refused(by, "approve", about(&request.plan, refusal)).await),
        };
        record.approvals.push(approval);
        let id = &request.plan;
        let digest = request.digest.as_str();
        self.audit(AuditKind::PlanApproved, by, &[("plan", id.as_str().into()), ("digest", digest.into())])
            .await?;
        self.write(&[put(PlansKey::Plan(id.clone()), revision, &record)]).await?;
        self.got(id).await
    }

    /// `act.reject`
    pub(in crate::act) async fn reject(&self, caller: &Caller, request: ActReject) -> Result<ActGot, Fault> {
        let (by, at) = (caller.name.clone(), Timestamp::now());
        self.demand_person(&by, "reject", &request.plan).await?;
        let reason: String = request.reason.chars().take(REASON_CHARS_MAX).collect();
        let state = PlanState::Rejected { by, reason, at };
        self.close(caller, &request.plan, state, AuditKind::PlanRejected).await
    }

    /// Ends an open plan.
    async fn close(
        &self,
        caller: &Caller,
        id: &PlanId,
        state: PlanState,
        kind: AuditKind,
    ) -> Result<ActGot, Fault> {
        let Row { revision, value: mut record, .. } = self.record(id).await?;
        if record.state != (PlanState::Open {}) {
            let message = format!("{id} is not open any more");
            let refusal = Refusal::new(RefusalCode::Used, message, "act.get shows what became of it.");
            return Err(self.refused(&caller.name, "close", about(id, refusal)).await);
        }
        record.state = state;
        self.audit(kind, &caller.name, &[("plan", id.as_str().into())]).await?;
        self.write(&[put(PlansKey::Plan(id.clone()), revision, &record)]).await?;
        self.free_numbers(&record.plan).await;
        self.got(id).await
    }

    /// `act.cancel`: a plan that is open, a run that has not started, or (by an operator) a run that a person had to
    /// look at.
    pub(in crate::act) async fn cancel(&self, caller: &Caller, request: ActCancel) -> Result<ActGot, Fault> {
        let id = &request.plan;
        let record = self.record(id).await?.value;
        let role = self.role(&caller.name).await?;
        let is_person = matches!(role, Role::Operator | Role::Owner);
        if record.plan.by != caller.name && !is_person {
            let message = format!("{id} is {}'s plan", record.plan.by);
            let refusal = Refusal::new(RefusalCode::NoRights, message, "Ask its owner or an operator.");
            return Err(self.refused(&caller.name, "cancel", about(id, refusal)).await);
        }
        if record.request.is_none() && !is_person {
            let message = format!("{id} takes back what nobody confirmed, and only a person calls that off");
            let refusal = Refusal::new(RefusalCode::NoRights, message, "Ask an operator to cancel it.");
            return Err(self.refused(&caller.name, "cancel", about(id, refusal)).await);
        }
        let by = caller.name.clone();
        let Some(Row { revision, value: mut run, .. }) = self.run_of(id).await? else {
            let state = PlanState::Cancelled { by, at: Timestamp::now() };
            return self.close(caller, id, state, AuditKind::PlanCancelled).await;
        };
        let acknowledges = is_person && run.needs_human();
        if !has_not_started(&run.state) && !acknowledges {
            let message = format!("{id} is {} and cannot be cancelled", run.state.as_str());
            let hint = "When it is over, plan an undo: {\"do\":\"undo\",\"plan\":…}.";
            let refusal = Refusal::new(RefusalCode::Used, message, hint);
            return Err(self.refused(&caller.name, "cancel", about(id, refusal)).await);
        }
        let at = Timestamp::now();
        let mut kept = None;
        if acknowledges {
            // The truth stays: what happened is not known.
            run.acknowledged = Some(Acknowledged { by, at });
        } else {
            kept = self.kept_by_cancelling(&record, &by, at).await?;
            run.state = RunState::Cancelled { by };
            run.ended_at = Some(at);
            disarm(&mut run);
        }
        let details = [("plan", id.as_str().into()), ("acknowledged", acknowledges.into())];
        self.audit(AuditKind::PlanCancelled, &caller.name, &details).await?;
        let changes: Vec<PlansChange> =
            [put(PlansKey::Run(id.run()), revision, &run)].into_iter().chain(kept).collect();
        self.write(&changes).await?;
        self.got(id).await
    }

    /// Who calls off that a run is taken back confirms the run.
    async fn kept_by_cancelling(
        &self,
        undo: &PlanRecord,
        by: &IdentityName,
        at: Timestamp,
    ) -> Result<Option<PlansChange>, Fault> {
        let (None, Intent::Undo { plan: of }) = (&undo.request, &undo.plan.intent) else { return Ok(None) };
        let Some(Row { revision, value: run, .. }) = self.run_of(of).await? else { return Ok(None) };
        let Some(DeadManState::Fired { plan: Some(fired), .. }) = run.dead_man.as_ref().map(|one| &one.state)
        else {
            return Ok(None);
        };
        if *fired != undo.plan.id {
            return Ok(None);
        }
        self.audit(AuditKind::UndoConfirmed, by, &[("run", run.id.as_str().into())]).await?;
        Ok(Some(put(PlansKey::Run(run.id.clone()), revision, &confirmed(&run, by, at))))
    }

    async fn run_of(&self, plan: &PlanId) -> Result<Option<Row<Run>>, Fault> {
        plans::get::<Run>(&self.bus, &PlansKey::Run(plan.run())).await.map_err(|error| unkept(&error))
    }

    /// `act.apply`
    pub(in crate::act) async fn apply(
        &self,
        caller: &Caller,
        request: ActApply,
    ) -> Result<ActApplied, Fault> {
        self.demand_terms(caller, "act.apply")?;
        let (id, by) = (&request.plan, &caller.name);
        let _turn = self.applying.lock().await;
        let Row { revision, value: mut record, .. } = self.record(id).await?;
        // Told twice, or the answer to the first time was lost.
        if let PlanState::Applied { run, by: applier, .. } = &record.state
            && applier == by
            && record.plan.digest() == &request.digest
            && let Some(row) = self.run_of(id).await?
        {
            return Ok(ActApplied { run: run.clone(), state: row.value.state });
        }
        let approvals = std::mem::take(&mut record.approvals);
        (record.approvals, _) = judge::standing(&self.options.registry, approvals).await?;
        let gate = match self.allowed(&record, caller, &request).await? {
            Ok(gate) => gate,
            Err(refusal) => return Err(self.refused(by, "apply", about(id, *refusal)).await),
        };
        let kept = self.kept()?;
        if let Some(refusal) = turns::held_by_another(&record, by, &kept, Timestamp::now()) {
            return Err(self.refused(by, "apply", about(id, refusal)).await);
        }
        self.still_good(&mut record, revision, by).await?;
        let now = Timestamp::now();
        record.gate = gate;
        let run = begin(&record, by, now);
        record.state = PlanState::Applied { run: run.id.clone(), by: by.clone(), at: now };
        let details = [("plan", id.as_str().into()), ("digest", request.digest.as_str().into())];
        self.audit(AuditKind::RunApplied, by, &details).await?;
        self.write(&[
            put(PlansKey::Plan(id.clone()), revision, &record),
            put(PlansKey::Run(run.id.clone()), 0, &run),
        ])
        .await?;
        self.runner.nudge();
        Ok(ActApplied { run: run.id, state: run.state })
    }

    /// What policy says now of carrying a plan out.
    async fn allowed(
        &self,
        record: &PlanRecord,
        caller: &Caller,
        request: &ActApply,
    ) -> Result<Result<Gate, Box<Refusal>>, Fault> {
        let (by, now) = (&caller.name, Timestamp::now());
        let (role, asker, frozen) =
            tokio::try_join!(self.role(by), self.role(&record.plan.by), self.frozen())?;
        let (policy, kept) = (self.rules.now()?, self.kept()?);
        let (lab, recent) = (self.lab()?, self.recent(&kept, &record.plan.by, now));
        let input = gate::Input {
            now,
            plan: &record.plan,
            policy: &policy,
            graph: lab.graph(),
            known: &lab.known,
            role: asker,
            frozen: frozen.as_ref(),
            recent: &recent,
            rehearsed: record.rehearsal.is_some(),
        };
        let (digest, name) = (&request.digest, request.name.as_deref());
        Ok(gate::may_apply(&gate::Apply { record, by, role, digest, name, input }).map_err(Box::new))
    }

    /// Voids a plan whose base has changed, and shows the difference.
    async fn still_good(
        &self,
        record: &mut PlanRecord,
        revision: u64,
        by: &IdentityName,
    ) -> Result<(), Fault> {
        let lab = self.lab()?;
        let (now, plan) = (&lab.known, &record.plan);
        let is_moved = |(key, read): (&Key, &u64)| now.get(key).map_or(0, |known| known.revision) != *read;
        if !plan.reads.iter().any(is_moved) {
            return Ok(());
        }
        let past = nhi_bus::past::state_at(&self.bus, At::Revision(plan.revision), &[]).await;
        let then: BTreeMap<_, _> = match past {
            Ok(past) => lab::known(&past.records),
            Err(error) => {
                tracing::warn!(agent = "act", err = %error, "state of the plan not read");
                return Err(unavailable("the state the plan was made on cannot be read now".to_owned()));
            }
        };
        let changes = stale::changes(plan, &then, now);
        if changes.is_empty() {
            return Ok(());
        }
        let id = plan.id.clone();
        record.state = PlanState::Void { changes: changes.clone(), at: Timestamp::now() };
        let details = [("plan", id.as_str().into()), ("changes", json!(changes))];
        self.audit(AuditKind::PlanVoid, by, &details).await?;
        self.write(&[put(PlansKey::Plan(id.clone()), revision, record)]).await?;
        self.free_numbers(&record.plan).await;
        let message = format!("what {id} relied on has changed: {}", changes.join("; "));
        let refusal =
            Refusal::new(RefusalCode::Stale, message, "Ask for a new plan; it will see the lab as it is.");
        Err(self.refused(by, "apply", about(&id, refusal.with("changes", json!(changes)))).await)
    }

    /// The freeze, from the leader.
    async fn frozen(&self) -> Result<Option<Freeze>, Fault> {
        let row = plans::get::<Freeze>(&self.bus, &PlansKey::Freeze).await.map_err(|error| unkept(&error))?;
        Ok(row.map(|row| row.value))
    }

    /// `act.hold`
    pub(in crate::act) async fn hold(&self, caller: &Caller, request: ActHold) -> Result<ActHeld, Fault> {
        if !(1..=HOLD_MINUTES_MAX).contains(&request.minutes) {
            let message = format!("{} minutes cannot be held", request.minutes);
            let hint = format!("A hold lasts 1 to {HOLD_MINUTES_MAX} minutes and can be renewed.");
            return Err(Refusal::new(RefusalCode::BadValue, message, hint).fault());
        }
        let (guest, now) = (self.guest(&request.guest)?, Timestamp::now());
        let key = hold_key(&guest);
        let before = plans::get::<Hold>(&self.bus, &key).await.map_err(|error| unkept(&error))?;
        if let Some(row) = &before
            && row.value.by != caller.name
            && row.value.until > now
        {
            return Err(self.refused(&caller.name, "hold", turns::held(&guest, &row.value)).await);
        }
        let until = now + jiff::SignedDuration::from_mins(i64::from(request.minutes));
        let reason = request.reason.chars().take(REASON_CHARS_MAX).collect();
        let hold = Hold { by: caller.name.clone(), reason, until };
        self.audit(AuditKind::GuestHeld, &caller.name, &[("guest", guest.as_str().into())]).await?;
        self.write(&[put(key, before.map_or(0, |row| row.revision), &hold)]).await?;
        Ok(ActHeld { guest, hold: Some(hold) })
    }

    /// `act.release`
    pub(in crate::act) async fn release(
        &self,
        caller: &Caller,
        request: ActRelease,
    ) -> Result<ActHeld, Fault> {
        let guest = self.guest(&request.guest)?;
        let key = hold_key(&guest);
        let Some(row) = plans::get::<Hold>(&self.bus, &key).await.map_err(|error| unkept(&error))? else {
            return Ok(ActHeld { guest, hold: None });
        };
        let is_person = matches!(self.role(&caller.name).await?, Role::Operator | Role::Owner);
        if row.value.by != caller.name && !is_person {
            return Err(self.refused(&caller.name, "release", turns::held(&guest, &row.value)).await);
        }
        self.audit(AuditKind::GuestReleased, &caller.name, &[("guest", guest.as_str().into())]).await?;
        self.write(&[PlansChange { key, expected: row.revision, value: None }]).await?;
        Ok(ActHeld { guest, hold: None })
    }

    /// `act.freeze`
    pub(in crate::act) async fn freeze(
        &self,
        caller: &Caller,
        request: ActFreeze,
    ) -> Result<ActFrozen, Fault> {
        let reason: String = request.reason.chars().take(REASON_CHARS_MAX).collect();
        let freeze = Freeze { by: caller.name.clone(), reason, since: Timestamp::now() };
        let before =
            plans::get::<Freeze>(&self.bus, &PlansKey::Freeze).await.map_err(|error| unkept(&error))?;
        if let Some(row) = before {
            return Ok(ActFrozen { frozen: Some(row.value), under_way: under_way(&*self.kept()?) });
        }
        // Stopping comes first; writing it down must not be able to prevent it.
        self.write(&[put(PlansKey::Freeze, 0, &freeze)]).await?;
        self.audit(AuditKind::ActFrozen, &caller.name, &[("reason", freeze.reason.as_str().into())]).await?;
        Ok(ActFrozen { frozen: Some(freeze), under_way: under_way(&*self.kept()?) })
    }

    /// `act.thaw`
    pub(in crate::act) async fn thaw(&self, caller: &Caller, _: ActThaw) -> Result<ActFrozen, Fault> {
        let before =
            plans::get::<Freeze>(&self.bus, &PlansKey::Freeze).await.map_err(|error| unkept(&error))?;
        if let Some(row) = before {
            self.audit(AuditKind::ActThawed, &caller.name, &[]).await?;
            self.write(&[PlansChange { key: PlansKey::Freeze, expected: row.revision, value: None }]).await?;
            self.runner.nudge();
        }
        Ok(ActFrozen { frozen: None, under_way: under_way(&*self.kept()?) })
    }

    /// What must not happen twice or late says which one it is, and until when.
    fn demand_terms(&self, caller: &Caller, what: &str) -> Result<(), Fault> {
        if caller.gave_id && caller.gave_expiry {
            return Ok(());
        }
        let message = format!("{what} needs the headers Nhi-Id and Nhi-Expires");
        let hint = "Nhi-Id: an id of your own, the same when you repeat the call; Nhi-Expires: RFC 3339.";
        Err(Fault::new(FaultCode::BadRequest, message, hint))
    }
}

/// The run of a plan that is applied now.
pub(super) fn begin(record: &PlanRecord, by: &IdentityName, now: Timestamp) -> Run {
    let plan = &record.plan;
    let not_before = record.gate.not_before.filter(|moment| *moment > now);
    let reason = match not_before {
        Some(moment) => format!("policy lets it start at {moment:.0}"),
        None => "the actuator takes it next".to_owned(),
    };
    Run {
        v: SCHEMA_VERSION,
        id: plan.id.run(),
        plan: plan.id.clone(),
        digest: plan.digest().clone(),
        by: by.clone(),
        at: now,
        holder: None,
        state: RunState::Waiting { reason, not_before },
        journal: Vec::new(),
        dead_man: None,
        made: BTreeMap::new(),
        ended_at: None,
        acknowledged: None,
        unseen: Vec::new(),
    }
}

fn under_way(kept: &PlansSnapshot) -> Vec<nhi_model::run::RunId> {
    let begun = |run: &Run| !run.state.is_over() && !has_not_started(&run.state);
    kept.runs.values().filter(|row| begun(&row.value)).map(|row| row.value.id.clone()).collect()
}

pub(super) fn hold_key(guest: &Key) -> PlansKey {
    let tokens = guest.tokens();
    let vmid = tokens.get(1).and_then(|vmid| vmid.parse().ok()).unwrap_or_default();
    PlansKey::Hold { cluster: tokens.first().cloned().unwrap_or_default(), vmid }
}
