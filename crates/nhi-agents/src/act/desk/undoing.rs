//! Takes back runs that nobody confirmed, as they fall due: the dead man's switch. The approval of such a run's digest
//! covers this, so nobody is asked again.

use super::{
    Desk, deciding,
    making::{Trouble, new_id},
    put, unkept,
};
use nhi_bus::{
    cx::Cx,
    plans::{self, Row},
};
use nhi_model::{
    act::ActPlan,
    audit::AuditKind,
    fault::Fault,
    intent::Intent,
    plan::{Gate, PlanRecord, PlanState, Verdict},
    plans::PlansKey,
    run::{DeadManState, Run, RunId},
};
use std::sync::Arc;
use tokio::sync::mpsc;

impl Desk {
    /// Takes back runs that nobody confirmed, as they fall due. The approval of such a run's digest covers this.
    pub(super) async fn take_back_what_is_due(self: Arc<Self>, mut due: mpsc::Receiver<RunId>, stop: &Cx) {
        loop {
            let id = tokio::select! {
                () = stop.cancelled() => return,
                id = due.recv() => match id {
                    Some(id) => id,
                    None => return,
                },
            };
            if let Err(fault) = self.take_back(&id).await {
                tracing::warn!(agent = "act", req = id.as_str(), err = %fault, "run that is due not taken back yet");
            }
        }
    }

    async fn take_back(&self, id: &RunId) -> Result<(), Fault> {
        let key = PlansKey::Run(id.clone());
        let row = plans::get::<Run>(&self.bus, &key).await.map_err(|error| unkept(&error))?;
        let Some(Row { revision, value: mut run, .. }) = row else { return Ok(()) };
        let is_armed = run.dead_man.as_ref().is_some_and(|one| one.state == (DeadManState::Armed {}));
        if !is_armed {
            return Ok(());
        }
        let by = run.by.clone();
        self.audit(AuditKind::UndoDue, &by, &[("run", id.as_str().into())]).await?;
        let intent = Intent::Undo { plan: run.plan.clone() };
        let reason = Some(format!("{} was not confirmed in time", run.plan));
        let request = ActPlan { intent, reason, rehearse: false, undo_unless_confirmed_minutes: None };
        let base = self.base()?;
        let role = self.role(&by).await?;
        let made = match self.make_with(&by, new_id(), &request, &base).await {
            Ok((plan, sight)) => self.check(&plan, &sight, role, &base).await.map(|()| plan),
            Err(trouble) => Err(trouble),
        };
        let (made, text) = match made {
            Ok(plan) => {
                let text = format!("{} takes it back", plan.id);
                (Some(plan), text)
            }
            // What can be tried again is, when the message comes again.
            Err(Trouble::Fault(fault)) => return Err(fault),
            Err(Trouble::Refusal(refusal)) => (None, format!("it could not be taken back: {refusal}")),
        };
        let fired = DeadManState::Fired { plan: made.as_ref().map(|plan| plan.id.clone()), text };
        if let Some(dead_man) = &mut run.dead_man {
            dead_man.state = fired;
        }
        let fired = put(key, revision, &run);
        let Some(plan) = made else {
            tracing::error!(
                agent = "act",
                req = id.as_str(),
                "run was not confirmed and cannot be taken back"
            );
            return self.write(&[fired]).await.map(drop);
        };
        let gate = Gate {
            verdict: Verdict::Automatic,
            reasons: vec![format!("{} was applied with an undo that nobody called off", run.plan)],
            approvals: 0,
            not_before: None,
            rehearse: false,
        };
        let undo = plan.id.run();
        let state = PlanState::Applied { run: undo.clone(), by: by.clone(), at: base.now };
        let record = PlanRecord { plan, gate, state, approvals: Vec::new(), rehearsal: None, request: None };
        let begun = deciding::begin(&record, &by, base.now);
        self.keep(&by, &record, &[put(PlansKey::Run(undo), 0, &begun), fired]).await?;
        self.runner.nudge();
        Ok(())
    }
}
