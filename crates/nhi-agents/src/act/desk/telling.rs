//! What is told: plans, their runs, and a run as it goes on.

use super::{Desk, unkept};
use nhi_bus::{
    plans::{self, PlansSnapshot},
    service::{Caller, Ending, Frames},
};
use nhi_decide::plan;
use nhi_model::{
    act::{ActGet, ActGot, ActList, ActListed, ActRun, GuestSeen, HoldRow, PlanRow, RunFrame},
    fault::Fault,
    guest::Guest,
    key::Key,
    plan::{PlanRecord, PlanState},
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::{Entry, Leg, Mark, Run, RunState, TaskExit},
};
use std::{collections::BTreeSet, time::Duration};

/// Plans when the caller gives no number, and the most of one answer.
const LIST_DEFAULT: u32 = 50;
const LIST_MAX: u32 = 500;
/// How long the end of a run is held back for the addresses of guests it started: their systems have to boot.
const ADDRESSES_WITHIN: Duration = Duration::from_secs(60);

impl Desk {
    /// `act.get`
    pub(in crate::act) async fn get(&self, _: &Caller, request: ActGet) -> Result<ActGot, Fault> {
        self.got(&request.plan).await
    }

    pub(super) async fn got(&self, plan: &nhi_model::plan::PlanId) -> Result<ActGot, Fault> {
        // They are written together: whoever reads the plan first never finds an applied one without its run.
        let record = self.record(plan).await?.value;
        let run = plans::get::<Run>(&self.bus, &PlansKey::Run(plan.run())).await;
        Ok(ActGot { record, run: run.map_err(|error| unkept(&error))?.map(|row| row.value) })
    }

    /// `act.list`
    pub(in crate::act) async fn list(&self, _: &Caller, request: ActList) -> Result<ActListed, Fault> {
        let kept = self.kept()?;
        let limit = request.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
        let mut records: Vec<&PlanRecord> = kept.plans.values().map(|row| &row.value).collect();
        records.sort_by_key(|record| std::cmp::Reverse(record.plan.made_at));
        let now = nhi_model::Timestamp::now();
        let mut rows = records
            .into_iter()
            .filter(|record| request.by.as_ref().is_none_or(|by| *by == record.plan.by))
            .map(|record| row(record, &kept))
            .filter(|row| !request.open || is_open(row, now));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let plans: Vec<PlanRow> = rows.by_ref().take(limit).collect();
        let more = rows.next().is_some();
        let holds = kept.holds.iter().filter(|(_, row)| row.value.until > now).filter_map(
            |((cluster, vmid), row)| {
                Some(HoldRow { guest: self.key_of(cluster, *vmid)?, hold: row.value.clone() })
            },
        );
        let frozen = kept.freeze.as_ref().map(|row| row.value.clone());
        Ok(ActListed { plans, more, frozen, holds: holds.collect() })
    }

    /// The record of a number, whichever kind it is.
    pub(super) fn key_of(&self, cluster: &str, vmid: u32) -> Option<Key> {
        let snapshot = self.view.read();
        let kinds = [nhi_model::guest::GuestKind::Qemu, nhi_model::guest::GuestKind::Lxc];
        kinds
            .map(|kind| Key::guest(kind, cluster, vmid))
            .into_iter()
            .find(|key| snapshot.records.contains_key(key))
    }

    /// `act.run`
    pub(in crate::act) async fn follow(&self, request: ActRun, frames: Frames) -> Result<Ending, Fault> {
        let id = request.run;
        let mut changed = self.plans.changed();
        let mut told: Option<Run> = None;
        loop {
            changed.borrow_and_update();
            let run = self.kept()?.runs.get(&id).map(|row| row.value.clone());
            let run = match run {
                Some(run) => run,
                // The view may be behind a run that was applied just now.
                None => plans::get::<Run>(&self.bus, &PlansKey::Run(id.clone()))
                    .await
                    .map_err(|error| unkept(&error))?
                    .map(|row| row.value)
                    .ok_or_else(|| {
                        let message = format!("there is no run {id}");
                        Refusal::new(RefusalCode::Unknown, message, "act.apply makes a run of a plan.")
                            .fault()
                    })?,
            };
            if told.as_ref() != Some(&run) {
                let is_over = run.state.is_over();
                let guests = if is_over { self.seen_at_the_end(&run).await } else { Vec::new() };
                let frame = RunFrame { said: said(&run), run: run.clone(), guests };
                if frames.send_json(&frame).await.is_err() || is_over {
                    return Ok(Ending::Done);
                }
                told = Some(run);
            }
            if changed.changed().await.is_err() {
                return Ok(Ending::Done);
            }
        }
    }

    /// The guests of a run as the scanner has them, with the addresses of those it started where they come in time.
    async fn seen_at_the_end(&self, run: &Run) -> Vec<GuestSeen> {
        let Some(record) = self.plans.read().plans.get(&run.plan).map(|row| row.value.clone()) else {
            return Vec::new();
        };
        let keys: BTreeSet<Key> = record.plan.targets.iter().map(|target| target.guest.clone()).collect();
        let made: Vec<&Key> = record
            .plan
            .targets
            .iter()
            .filter(|target| target.identity.is_none())
            .map(|target| &target.guest)
            .collect();
        let look = || -> Vec<GuestSeen> {
            let snapshot = self.view.read();
            keys.iter()
                .filter_map(|key| seen(key, &snapshot.records.get(key)?.stored.typed(key).ok()?))
                .collect()
        };
        let is_done = matches!(run.state, RunState::Done { .. });
        let lacks = |guests: &[GuestSeen]| {
            guests.iter().any(|g| made.contains(&&g.guest) && g.status == "running" && g.addresses.is_empty())
        };
        let mut changed = self.view.changed();
        let waiting = async {
            while is_done && lacks(&look()) {
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // In time or not, what is known is told.
        let _late = tokio::time::timeout(ADDRESSES_WITHIN, waiting).await;
        look()
    }
}

fn seen(key: &Key, guest: &Guest) -> Option<GuestSeen> {
    let addresses = guest.addresses.iter().filter(|address| !address.address.is_loopback());
    Some(GuestSeen {
        guest: key.clone(),
        vmid: guest.vmid,
        name: guest.name.clone(),
        node: guest.node.clone(),
        status: guest.status.as_str().to_owned(),
        addresses: addresses.map(|address| address.address.to_string()).collect(),
    })
}

fn row(record: &PlanRecord, kept: &PlansSnapshot) -> PlanRow {
    let plan = &record.plan;
    let run = kept.runs.get(&plan.id.run()).map(|row| &row.value);
    PlanRow {
        plan: plan.id.clone(),
        by: plan.by.clone(),
        made_at: plan.made_at,
        expires_at: plan.expires_at,
        summary: plan::summary(plan),
        risk: plan.risk,
        verdict: record.gate.verdict,
        approvals: u8::try_from(record.approvals.len()).unwrap_or(u8::MAX),
        approvals_needed: record.gate.approvals,
        state: record.state.clone(),
        run: run.map(|run| run.state.clone()),
        needs_human: run.is_some_and(Run::needs_human),
    }
}

fn is_open(row: &PlanRow, now: nhi_model::Timestamp) -> bool {
    match (&row.run, &row.state) {
        (Some(run), _) => !run.is_over() || row.needs_human,
        (None, PlanState::Open {}) => row.expires_at > now,
        (None, PlanState::Applied { .. }) => true,
        (None, PlanState::Rejected { .. } | PlanState::Cancelled { .. } | PlanState::Void { .. }) => false,
    }
}

/// What happened last, one sentence.
fn said(run: &Run) -> String {
    match &run.state {
        RunState::Waiting { reason, .. } => format!("waiting: {reason}"),
        RunState::Verifying {} => "all steps are done; waiting for the scanner to see it".to_owned(),
        RunState::Done { revision } => format!("done; the scanner has seen it at revision {revision}"),
        RunState::Failed { text } => format!("failed: {text}"),
        RunState::Compensated { text } => format!("failed, and what was done was taken back: {text}"),
        RunState::NeedsHuman { text } => format!("a person has to look: {text}"),
        RunState::Cancelled { by } => format!("cancelled by {by}"),
        RunState::Running {} | RunState::Compensating {} => {
            run.journal.last().map_or_else(|| "started".to_owned(), sentence)
        }
    }
}

fn sentence(entry: &Entry) -> String {
    let step = match entry.leg {
        Leg::Forward => format!("step {}", entry.step + 1),
        Leg::Back => format!("taking back step {}", entry.step + 1),
    };
    let what = match &entry.mark {
        Mark::Begun { attempt: 1 } => "asking Proxmox".to_owned(),
        Mark::Begun { attempt } => format!("asking Proxmox, try {attempt}"),
        Mark::Sent { upid: Some(_) } => "its task runs".to_owned(),
        Mark::Sent { upid: None } => "done by its answer".to_owned(),
        Mark::Refused { text, .. } => format!("Proxmox refuses: {text}"),
        Mark::AnswerLost { why } => format!("the answer was lost ({why}); looking for its task"),
        Mark::Adopted { .. } => "its task was found".to_owned(),
        Mark::NotTaken {} => "Proxmox never took it".to_owned(),
        Mark::Ended { exit } => match exit {
            TaskExit::Ok {} => "its task ended well".to_owned(),
            TaskExit::Warnings { count } => format!("its task ended with {count} warnings"),
            TaskExit::Error { text } => format!("its task failed: {text}"),
            TaskExit::Unexpected {} => "its task was cut off; looking what it did".to_owned(),
            TaskExit::Endless {} => "its task does not end".to_owned(),
        },
        Mark::Seen {} => "seen".to_owned(),
        Mark::AlreadySo {} => "it is so already".to_owned(),
        Mark::Failed { text, .. } | Mark::Unknown { text } => text.clone(),
    };
    format!("{step}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::plans::Row;
    use nhi_model::plan::Digest;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const AT: &str = "2026-01-01T00:00:00Z";

    /// The row of a plan whose run ended so.
    fn told(state: &Value, acknowledged: &Value) -> PlanRow {
        let digest = Digest::of([7; 32]);
        let record: PlanRecord = serde_json::from_value(json!({
            "plan": {
                "v": 1, "id": "p-0001", "cluster": "home", "by": "aider", "intent": { "do": "start", "guest": "105" },
                "made_at": AT, "expires_at": AT, "revision": 1, "reads": {}, "targets": [], "requires": [],
                "steps": [], "expects": [], "effects": [], "config_changes": [], "impacts": [], "risk": "low",
                "undo": { "intents": [], "complete": true, "cost": "nothing" }, "on_failure": "stop", "digest": digest,
            },
            "gate": { "verdict": "automatic", "reasons": [], "approvals": 0, "rehearse": false },
            "state": { "is": "applied", "run": "r-0001", "by": "aider", "at": AT },
        }))
        .unwrap();
        let run: Run = serde_json::from_value(json!({
            "v": 1, "id": "r-0001", "plan": "p-0001", "digest": digest, "by": "aider", "at": AT, "state": state,
            "acknowledged": acknowledged,
        }))
        .unwrap();
        let kept = Row { revision: 2, at: AT.parse().unwrap(), value: run };
        let runs = [(kept.value.id.clone(), Arc::new(kept))].into();
        row(&record, &PlansSnapshot { runs, ..PlansSnapshot::default() })
    }

    #[test]
    fn a_run_that_needs_a_person_is_open_until_somebody_looked() {
        let now = AT.parse().unwrap();
        let lost = json!({ "is": "needs-human", "text": "look at VM 105" });
        let looked = json!({ "by": "anna", "at": AT });
        for (state, acknowledged, needs_human, open) in [
            (&lost, &Value::Null, true, true),
            (&lost, &looked, false, false),
            (&json!({ "is": "running" }), &Value::Null, false, true),
            (&json!({ "is": "done", "revision": 3 }), &Value::Null, false, false),
        ] {
            let row = told(state, acknowledged);
            assert_eq!((row.needs_human, is_open(&row, now)), (needs_human, open), "{row:?}");
        }
    }
}
