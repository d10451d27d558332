//! The dead man's switch: keeps what somebody confirms, and takes back the runs that nobody confirmed in time.
//!
//! The approval of such a run's digest covers that, so nobody is asked again, and nobody's wish stands in its way: not
//! holds, not the rules for those who ask (`never`, limits, the role or the end of an identity, a backup before a destroy).
//! What the planner and the linter refuse for the guests' sake they refuse here too: then the switch stays armed, an alert
//! says so, and it is tried again until it works, somebody confirms, or there is nothing left to take back. One that was
//! carried out and failed is planned anew a few times ([`crate::overdue`]); then it is left to people, with an alert.

use super::{
    Desk, about, deciding,
    making::{Base, Trouble, new_id},
    put, unkept,
};
use crate::{
    overdue::{self, Failure, carried},
    runner::DueRun,
};
use nhi_bus::{
    cx::Cx,
    plans::{self, PlansSnapshot, Row},
    service::Caller,
    timers,
};
use nhi_decide::switch::{Undo, changed_since, confirmed, is_armed, is_final, undo_of};
use nhi_model::{
    Timestamp,
    act::{ActConfirm, ActGot, ActPlan},
    audit::AuditKind,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
    intent::Intent,
    plan::{Gate, Plan, PlanId, PlanRecord, PlanState, Verdict},
    plans::PlansKey,
    policy::Rules,
    refusal::{Refusal, RefusalCode},
    run::{DeadManState, Run, RunId},
};
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::mpsc;

/// Tries of a confirmation while the run's record changes.
const CONFIRM_TRIES_MAX: usize = 20;

impl Desk {
    /// Takes back what falls due, and lets switches and alerts follow what became of their runs.
    pub(super) async fn take_back_what_is_due(self: Arc<Self>, mut due: mpsc::Receiver<DueRun>, stop: &Cx) {
        let (mut troubles, mut changed) = (BTreeMap::new(), self.plans.changed());
        let (tried, mut tries) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                due = due.recv() => {
                    let Some(due) = due else { return };
                    let (desk, tried) = (self.clone(), tried.clone());
                    // One whose node does not answer keeps no other waiting.
                    stop.spawn("undo of a run", async move {
                        let outcome = desk.take_back(&due.run).await;
                        drop(tried.send((due.run.clone(), outcome)));
                        drop(due);
                    });
                    continue;
                }
                Some((id, outcome)) = tries.recv() => match outcome {
                    Ok(()) => drop(troubles.remove(&id)),
                    Err(fault) => {
                        tracing::warn!(agent = "act", req = id.as_str(), err = %fault, "run that is due not taken back yet");
                        troubles.insert(id, fault.message);
                    }
                },
                changed = changed.changed() => if changed.is_err() {
                    return;
                },
            }
            let kept = self.plans.read();
            if kept.stale.is_none() {
                self.settle_undone(&kept).await;
                self.follow_undos(&kept).await;
                troubles.retain(|id, _| kept.runs.get(id).is_some_and(|row| is_armed(&row.value)));
                overdue::tell(&self.bus, &self.view, &kept, &troubles).await;
            }
        }
    }

    /// What somebody took back by hand is not taken back again.
    async fn settle_undone(&self, kept: &PlansSnapshot) {
        for row in kept.runs.values().filter(|row| is_armed(&row.value)) {
            let Row { revision, value: run, .. } = &**row;
            let Some(Undo { plan, is_done: true }) = undo_of(&run.plan, carried(kept)) else { continue };
            let text = format!("{plan} has taken it back");
            let state = DeadManState::Fired { plan: Some(plan), text };
            if let Err(fault) = self.settle(*revision, run.clone(), state).await {
                tracing::debug!(agent = "act", req = run.id.as_str(), err = %fault, "switch not settled yet");
            }
        }
    }

    /// An undo that was fired and failed is planned anew after a while, or told to people when that is no use.
    async fn follow_undos(&self, kept: &PlansSnapshot) {
        for row in kept.runs.values() {
            let Some(failure) = overdue::failure(&row.value, kept) else { continue };
            let (mut run, id) = (row.value.clone(), &row.value.id);
            let Some(switch) = &mut run.dead_man else { continue };
            let before = switch.clone();
            match (&failure, &mut switch.state) {
                (Failure::Again { due }, state) => {
                    // The timer first: one of a switch that is not armed means nothing.
                    if let Err(error) = timers::arm(&self.bus, id, *due).await {
                        tracing::warn!(agent = "act", req = id.as_str(), err = %error, "undo that failed not tried again yet");
                        continue;
                    }
                    (*state, switch.due) = (DeadManState::Armed {}, *due);
                }
                (Failure::GivenUp { text: why }, DeadManState::Fired { text, .. }) => text.clone_from(why),
                (Failure::GivenUp { .. }, _) => continue,
            }
            if *switch == before {
                continue;
            }
            // Who is first tells it.
            let by = run.by.clone();
            if let Err(fault) = self.write(&[put(PlansKey::Run(id.clone()), row.revision, &run)]).await {
                tracing::debug!(agent = "act", req = id.as_str(), err = %fault, "failed undo not followed yet");
                continue;
            }
            if let Failure::GivenUp { text } = failure {
                drop(self.not_taken_back(&run.plan, &by, text).await);
            }
        }
    }

    /// It is told in the log, in the audit log and by an alert.
    async fn not_taken_back(&self, plan: &PlanId, by: &IdentityName, why: String) -> Fault {
        tracing::error!(
            agent = "act",
            plan = plan.as_str(),
            err = why,
            "run was not confirmed and is not taken back"
        );
        let hint = format!("Look at its guests; undo {plan}, or keep what it did: nhi plan confirm {plan}.");
        let message = format!("{why}. {hint}");
        self.refused(by, "undo", about(plan, Refusal::new(RefusalCode::NotPossible, message, hint))).await
    }

    /// The switch of a run will not fire any more.
    async fn settle(&self, revision: u64, mut run: Run, state: DeadManState) -> Result<(), Fault> {
        let id = run.id.clone();
        if let Some(switch) = &mut run.dead_man {
            switch.state = state;
        }
        self.write(&[put(PlansKey::Run(id.clone()), revision, &run)]).await?;
        self.drop_timer(&id).await;
        Ok(())
    }

    /// The record says already what a timer that fires all the same means.
    async fn drop_timer(&self, run: &RunId) {
        if let Err(error) = timers::confirm(&self.bus, run).await {
            tracing::debug!(agent = "act", req = run.as_str(), err = %error, "timer left to come and be ignored");
        }
    }

    async fn take_back(&self, id: &RunId) -> Result<(), Fault> {
        let Some(Row { revision, value: run, .. }) = self.run_now(id).await? else { return Ok(()) };
        let base = self.base_of_undo()?;
        // A timer of before the run's end comes again when another was set since.
        let is_due = run.dead_man.as_ref().is_some_and(|switch| switch.due <= base.now);
        if !is_armed(&run) || !is_due || !run.state.is_over() {
            return Ok(());
        }
        match undo_of(&run.plan, carried(&base.kept)) {
            Some(Undo { plan, is_done: true }) => {
                let text = format!("{plan} has taken it back");
                return self.settle(revision, run, DeadManState::Fired { plan: Some(plan), text }).await;
            }
            // When it fails, the timer comes again.
            Some(Undo { is_done: false, .. }) => return Ok(()),
            None => {}
        }
        let reason = Some(format!("{} was not confirmed in time", run.plan));
        let intent = Intent::Undo { plan: run.plan.clone() };
        let request = ActPlan { intent, reason, rehearse: false, undo_unless_confirmed_minutes: None };
        let original = base.kept.plans.get(&run.plan);
        let made = match self.make_with(&run.by, new_id(), &request, &base).await {
            Ok((plan, sight)) => {
                let changed = original.and_then(|of| changed_since(&of.value.plan, &run, &sight));
                let checked = match changed {
                    None => self.check(&plan, &sight, Role::Owner, &base),
                    Some(refusal) => Err(refusal.into()),
                };
                match checked {
                    Ok(()) => Ok(plan),
                    Err(trouble) => {
                        self.let_go(&plan).await;
                        Err(trouble)
                    }
                }
            }
            Err(trouble) => Err(trouble),
        };
        let details = [("run", id.as_str().into())];
        match made {
            Ok(plan) => {
                self.audit(AuditKind::UndoDue, &run.by, &details).await?;
                self.begin_undo(plan, revision, run, base.now).await
            }
            Err(Trouble::Refusal(refusal)) if is_final(&refusal) => {
                self.audit(AuditKind::UndoDue, &run.by, &details).await?;
                if refusal.code == RefusalCode::NothingToDo {
                    return self.settle(revision, run, DeadManState::Disarmed {}).await;
                }
                let text = format!("it could not be taken back: {refusal}");
                let (of, by) = (run.plan.clone(), run.by.clone());
                let state = DeadManState::Fired { plan: None, text: text.clone() };
                self.settle(revision, run, state).await?;
                drop(self.not_taken_back(&of, &by, text).await);
                Ok(())
            }
            Err(Trouble::Refusal(refusal)) => Err(refusal.fault()),
            Err(Trouble::Fault(fault)) => Err(fault),
        }
    }

    /// What a take-back is planned on: nobody's claims, and of policy only what protects guests.
    fn base_of_undo(&self) -> Result<Base, Fault> {
        let mut base = self.base()?;
        Arc::make_mut(&mut base.kept).holds.clear();
        let policy = Arc::make_mut(&mut base.policy);
        (policy.operations, policy.roles, policy.identities) =
            (Rules::default(), BTreeMap::new(), BTreeMap::new());
        policy.caution.backup_before_destroy_hours = None;
        // However many guests a run made, they go with it.
        policy.limits.destroys_per_day = u32::MAX;
        // What is taken back stays so: else the two would go on for ever.
        policy.caution.undo_unless_confirmed_minutes.clear();
        Ok(base)
    }

    /// The plan, its run, and the switch that it is: all or nothing.
    async fn begin_undo(&self, plan: Plan, revision: u64, mut run: Run, now: Timestamp) -> Result<(), Fault> {
        let reason = format!("{} was applied with an undo that nobody called off", run.plan);
        let (verdict, reasons) = (Verdict::Automatic, vec![reason]);
        let gate = Gate { verdict, reasons, approvals: 0, not_before: None, rehearse: false };
        let (id, by) = (plan.id.clone(), run.by.clone());
        let state = PlanState::Applied { run: id.run(), by: by.clone(), at: now };
        let record = PlanRecord { plan, gate, state, approvals: Vec::new(), rehearsal: None, request: None };
        let undo = put(PlansKey::Run(id.run()), 0, &deciding::begin(&record, &by, now));
        if let Some(switch) = &mut run.dead_man {
            let text = format!("{id} takes it back");
            switch.state = DeadManState::Fired { plan: Some(id), text };
        }
        let fired = put(PlansKey::Run(run.id.clone()), revision, &run);
        self.keep(&by, &record, &[undo, fired]).await?;
        self.runner.nudge();
        Ok(())
    }

    /// `act.confirm`: the record first, which decides; the timer means nothing afterwards.
    pub(in crate::act) async fn confirm(
        &self,
        caller: &Caller,
        request: ActConfirm,
    ) -> Result<ActGot, Fault> {
        let (id, by) = (&request.plan, &caller.name);
        self.demand_person(by, "confirm", id).await?;
        let mut is_told = false;
        let mut lost = None;
        for _ in 0..CONFIRM_TRIES_MAX {
            let row = self.run_now(&id.run()).await?;
            let switch = row.as_ref().and_then(|row| row.value.dead_man.as_ref());
            // What was given up can be kept as it is, too.
            let kept = self.kept()?;
            let is_open = |run: &Run| is_armed(run) || overdue::lost(run, &kept).is_some();
            let (code, text) = match (&row, switch.map(|switch| &switch.state)) {
                (Some(Row { revision, value: run, .. }), Some(_)) if is_open(run) => {
                    if !std::mem::replace(&mut is_told, true) {
                        self.audit(AuditKind::UndoConfirmed, by, &[("run", run.id.as_str().into())]).await?;
                    }
                    match self
                        .write(&[put(
                            PlansKey::Run(id.run()),
                            *revision,
                            &confirmed(run, by, Timestamp::now()),
                        )])
                        .await
                    {
                        Ok(_) => {
                            self.drop_timer(&run.id).await;
                            return self.got(id).await;
                        }
                        // The run goes on meanwhile, or is being taken back.
                        Err(fault) if fault.code == FaultCode::Conflict.as_str() => lost = Some(fault),
                        Err(fault) => return Err(fault),
                    }
                    continue;
                }
                // Told twice, or the answer to the first time was lost.
                (_, Some(DeadManState::Confirmed { by: who, .. })) if who == by => return self.got(id).await,
                (_, Some(DeadManState::Fired { text, .. })) => {
                    (RefusalCode::Expired, format!("{id}: {text}"))
                }
                (None, _) => (RefusalCode::Unknown, format!("{id} has no run to confirm")),
                (Some(_), _) => (RefusalCode::Used, format!("nothing of {id} waits to be confirmed")),
            };
            let refusal = Refusal::new(code, text, "act.get shows the run.");
            return Err(self.refused(by, "confirm", about(id, refusal)).await);
        }
        Err(lost.expect("each try but the last one was lost, or returned"))
    }

    async fn run_now(&self, id: &RunId) -> Result<Option<Row<Run>>, Fault> {
        plans::get::<Run>(&self.bus, &PlansKey::Run(id.clone())).await.map_err(|error| unkept(&error))
    }
}
