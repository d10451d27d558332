//! Takes away what acting no longer needs: plans and runs that were over long ago, numbers that are no longer kept for
//! their plans, claims that ran out. The audit log keeps what happened; nothing that is not over is ever touched.

use crate::numbers;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    plans::{self, PlansChange, PlansSnapshot, PlansView},
};
use nhi_decide::switch::is_armed;
use nhi_model::{Timestamp, envelope::OpId, plans::PlansKey};
use std::time::Duration;
use uuid::Uuid;

/// How often it is looked. Nothing hangs on the moment.
const EVERY: Duration = Duration::from_secs(3600);
/// How long a plan that is over is kept, days: `lab-up` and `undo` need it.
const KEPT_DAYS: i64 = 90;
/// Rows taken away at a look, so that a long absence is made up for bit by bit.
const ROWS_MAX: usize = 500;

/// Sweeps for as long as the context lives.
pub(crate) fn start(cx: &Cx, bus: &Bus, view: &PlansView) {
    let (stop, bus, view) = (cx.clone(), bus.clone(), view.clone());
    cx.spawn("sweep", async move {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let kept = view.read();
            if kept.stale.is_none() {
                sweep(&bus, &kept, Timestamp::now()).await;
            }
        }
    });
}

async fn sweep(bus: &Bus, kept: &PlansSnapshot, now: Timestamp) {
    for change in spent(kept, now) {
        let key = change.key.clone();
        // Bound to its revision: what was renewed meanwhile stays.
        if let Err(error) = plans::commit(bus, &OpId(Uuid::now_v7().to_string()), now, &[change]).await {
            tracing::debug!(agent = "act", key = key.to_string(), err = %error, "not swept");
        }
    }
    for key in old(kept, now) {
        if let Err(error) = plans::forget(bus, &key).await {
            tracing::debug!(agent = "act", key = key.to_string(), err = %error, "not swept");
        }
    }
}

/// Reservations that stand for nothing any more, and claims that ran out.
fn spent(kept: &PlansSnapshot, now: Timestamp) -> Vec<PlansChange> {
    let vmids = kept.vmids.iter().filter(|(_, row)| !numbers::stands(&row.value, kept, now)).map(
        |((cluster, vmid), row)| {
            PlansChange::remove(PlansKey::Vmid { cluster: cluster.clone(), vmid: *vmid }, row.revision)
        },
    );
    let holds = kept.holds.iter().filter(|(_, row)| row.value.until < now).map(|((cluster, vmid), row)| {
        PlansChange::remove(PlansKey::Hold { cluster: cluster.clone(), vmid: *vmid }, row.revision)
    });
    vmids.chain(holds).take(ROWS_MAX).collect()
}

/// Plans that were over long ago, each after its run: a run without its plan could not be told.
fn old(kept: &PlansSnapshot, now: Timestamp) -> Vec<PlansKey> {
    let long_ago = now - jiff::SignedDuration::from_hours(24 * KEPT_DAYS);
    let mut keys = Vec::new();
    for (id, row) in &kept.plans {
        let run = kept.runs.get(&id.run()).map(|run| &run.value);
        let over = match run {
            None => row.value.plan.expires_at < long_ago,
            // Somebody still has to look at it, or it is still to be taken back.
            Some(run) if run.needs_human() || is_armed(run) => false,
            Some(run) => run.state.is_over() && run.ended_at.unwrap_or(run.at) < long_ago,
        };
        if over && keys.len() < ROWS_MAX {
            keys.extend(run.map(|_| PlansKey::Run(id.run())));
            keys.push(PlansKey::Plan(id.clone()));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::plans::Row;
    use nhi_model::{
        plan::{Digest, PlanId, PlanRecord},
        run::{Reservation, Run},
    };
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn what_is_still_to_be_taken_back_is_not_forgotten() {
        let before: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = before + jiff::SignedDuration::from_hours(24 * (KEPT_DAYS + 1));
        let plan: PlanRecord = serde_json::from_value(json!({
            "plan": {
                "v": 1, "id": "p-0001", "cluster": "home", "intent": { "do": "start", "guest": "106" },
                "by": "aider", "made_at": before, "expires_at": before, "revision": 1, "reads": {},
                "targets": [], "requires": [], "steps": [], "expects": [], "effects": [], "config_changes": [],
                "impacts": [], "risk": "low", "undo": { "intents": [], "complete": true, "cost": "" },
                "on_failure": "stop", "digest": Digest::of([7; 32]),
            },
            "gate": { "verdict": "automatic", "reasons": [], "approvals": 0, "rehearse": false },
            "state": { "is": "applied", "run": "r-0001", "by": "aider", "at": before },
        }))
        .unwrap();
        let swept = |switch: &str| {
            let run: Run = serde_json::from_value(json!({
                "v": 1, "id": "r-0001", "plan": "p-0001", "digest": Digest::of([7; 32]), "by": "aider",
                "at": before, "ended_at": before, "state": { "is": "done", "revision": 3 },
                "dead_man": { "due": before, "state": { "is": switch } },
            }))
            .unwrap();
            let plan = Row { revision: 7, at: before, value: plan.clone() };
            let kept = PlansSnapshot {
                plans: [(plan.value.plan.id.clone(), Arc::new(plan))].into(),
                runs: [(run.id.clone(), Arc::new(Row { revision: 8, at: before, value: run }))].into(),
                ..PlansSnapshot::default()
            };
            old(&kept, now).len()
        };
        assert_eq!((swept("armed"), swept("disarmed")), (0, 2));
    }

    #[test]
    fn a_number_of_a_run_that_waits_is_not_swept() {
        let (now, before) =
            ("2026-01-02T00:00:00Z".parse().unwrap(), "2026-01-01T00:00:00Z".parse().unwrap());
        let reserved = |plan| Reservation { plan: PlanId::parse(plan).unwrap(), until: before };
        let row = |value| Arc::new(Row { revision: 7, at: before, value });
        let run: Run = serde_json::from_value(json!({
            "v": 1, "id": "r-0001", "plan": "p-0001", "digest": Digest::of([7; 32]), "by": "aider", "at": before,
            "state": { "is": "waiting", "reason": "its hour" },
        }))
        .unwrap();
        let place = |vmid| ("home".to_owned(), vmid);
        let kept = PlansSnapshot {
            vmids: [(place(700), row(reserved("p-0001"))), (place(701), row(reserved("p-0002")))].into(),
            runs: [(run.id.clone(), Arc::new(Row { revision: 8, at: before, value: run }))].into(),
            ..PlansSnapshot::default()
        };
        let keys: Vec<String> = spent(&kept, now).iter().map(|change| change.key.to_string()).collect();
        assert_eq!(keys, ["vmid.home.701"]);
    }
}
