//! Runs that wait for their hour are judged anew for as long as they wait: by today's policy, today's identities and
//! today's clock. The runner starts a run when it is due; what may no longer start is ended here before.

use super::{Desk, put};
use nhi_bus::{
    cx::Cx,
    plans::{PlansSnapshot, Row},
};
use nhi_decide::gate;
use nhi_model::{
    Timestamp,
    fault::{Fault, FaultCode},
    plan::{Gate, PlanRecord},
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::{Run, RunState},
};
use std::{sync::Arc, time::Duration};

/// How often runs that wait are judged.
const EVERY: Duration = Duration::from_secs(2);

impl Desk {
    /// Judges for as long as the context lives.
    pub(super) async fn judge_what_waits(self: Arc<Self>, stop: Cx) {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.judge_once().await;
        }
    }

    /// Judges all that wait, once.
    pub(super) async fn judge_once(&self) {
        let Ok(kept) = self.kept() else { return };
        for row in kept.runs.values().filter(|row| matches!(row.value.state, RunState::Waiting { .. })) {
            let Some(record) = kept.plans.get(&row.value.plan) else { continue };
            match self.judge(&record.value, &row.value, &kept).await {
                Ok(Ok(gate)) => self.put_off(row, &gate).await,
                Ok(Err(refusal)) => self.end(row, &refusal).await,
                Err(fault) => tracing::debug!(agent = "act", err = %fault, "run that waits not judged"),
            }
        }
    }

    async fn judge(
        &self,
        record: &PlanRecord,
        run: &Run,
        kept: &PlansSnapshot,
    ) -> Result<Result<Gate, Refusal>, Fault> {
        // What nobody called off is taken back whatever policy says: it was said yes to with the run it belongs to.
        if record.request.is_none() {
            return Ok(Ok(record.gate.clone()));
        }
        let mut role = None;
        for name in [&run.by, &record.plan.by] {
            match self.role(name).await {
                Ok(of) => role = Some(of),
                Err(fault) if fault.code == FaultCode::Forbidden.as_str() => {
                    let message = format!("{name} is no longer among the identities of this mesh");
                    return Ok(Err(Refusal::new(
                        RefusalCode::Never,
                        message,
                        "Ask again as somebody who is.",
                    )));
                }
                Err(fault) => return Err(fault),
            }
        }
        let Some(role) = role else { return Ok(Ok(record.gate.clone())) };
        let (now, policy) = (Timestamp::now(), self.rules.now()?);
        let (lab, recent) = (self.lab()?, self.recent(kept, &record.plan.by, now, Some(&run.id)));
        Ok(gate::recheck(&gate::Input {
            now,
            plan: &record.plan,
            policy: &policy,
            graph: lab.graph(),
            known: &lab.known,
            role,
            frozen: None,
            recent: &recent,
            rehearsed: record.rehearsal.is_some(),
        }))
    }

    /// Its hour is over, or another one now.
    async fn put_off(&self, row: &Row<Run>, gate: &Gate) {
        let Some(moment) = gate.not_before.filter(|moment| *moment > Timestamp::now()) else { return };
        let reason = format!("policy lets it start at {moment:.0}");
        let state = RunState::Waiting { reason, not_before: Some(moment) };
        if row.value.state != state {
            self.turn(row, state).await;
        }
    }

    async fn end(&self, row: &Row<Run>, refusal: &Refusal) {
        let text = format!("policy no longer lets it start: {refusal}");
        tracing::info!(
            agent = "act",
            req = row.value.id.as_str(),
            err = refusal.code.as_str(),
            "run ended before its start"
        );
        self.turn(row, RunState::Failed { text }).await;
    }

    /// Bound to the revision it was judged at: a run that started meanwhile goes on.
    async fn turn(&self, row: &Row<Run>, state: RunState) {
        let mut run = row.value.clone();
        run.ended_at = state.is_over().then(Timestamp::now);
        run.state = state;
        if let Err(fault) = self.write(&[put(PlansKey::Run(run.id.clone()), row.revision, &run)]).await {
            tracing::debug!(agent = "act", err = %fault, "run that waits not changed");
        }
    }
}
