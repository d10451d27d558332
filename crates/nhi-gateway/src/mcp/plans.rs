//! Plans as a model needs them: what will be done, what it touches, and what is still missing, without the calls
//! themselves; the whole plan is a resource. It approves nothing: who may, and where, is part of the answer.

use super::ask::{self, Asker};
use nhi_decide::gate;
use nhi_model::{
    Timestamp,
    act::{ActGot, ActPlanned},
    call::{AuthListed, IdentityInfo},
    fault::Fault,
    identity::{IdentityName, Role},
    plan::{PlanRecord, PlanState, Risk, Verdict},
};
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

/// Sentences of one kind that are told: a plan for the whole lab has hundreds.
const SENTENCES_MAX: usize = 40;

/// Calls `act.<endpoint>` and tells a plan in its answer in short.
pub(super) async fn tell(asker: &Asker, endpoint: &str, request: &Value) -> Result<CallToolResult, Fault> {
    match endpoint {
        "plan" => {
            let planned: ActPlanned = asker.ask("act", endpoint, request).await?;
            let mut told = short(asker, &planned.record).await;
            told["next"] = next(&planned.record, planned.next);
            Ok(ask::told(told))
        }
        "get" | "cancel" => {
            let got: ActGot = asker.ask("act", endpoint, request).await?;
            let mut told = short(asker, &got.record).await;
            if let Some(run) = got.run {
                told["run"] = json!({"run": run.id, "state": run.state});
            }
            Ok(ask::told(told))
        }
        _ => Ok(ask::told(asker.ask("act", endpoint, request).await?)),
    }
}

/// What the desk says is next, in the words of these tools.
fn next(record: &PlanRecord, said: String) -> Value {
    if missing(record, Timestamp::now()) > 0 || !said.starts_with("apply it") {
        return said.into();
    }
    "call plan_apply with this plan and digest".into()
}

/// How many more have to say yes.
fn missing(record: &PlanRecord, now: Timestamp) -> usize {
    let is_open = matches!(record.state, PlanState::Open {});
    if !is_open || record.gate.verdict != Verdict::Approval {
        return 0;
    }
    usize::from(record.gate.approvals.max(1)).saturating_sub(gate::approvals(record, now).len())
}

/// Those whose yes would count: people who neither asked for it nor have said yes already.
fn may_approve(record: &PlanRecord, identities: Vec<IdentityInfo>, now: Timestamp) -> Vec<IdentityName> {
    let said = gate::approvals(record, now);
    let people = identities.into_iter().filter(|who| matches!(who.role, Some(Role::Operator | Role::Owner)));
    people.map(|who| who.name).filter(|name| *name != record.plan.by && !said.contains_key(name)).collect()
}

/// The plan in short.
pub(super) async fn short(asker: &Asker, record: &PlanRecord) -> Value {
    let PlanRecord { plan, gate, .. } = record;
    let steps: Vec<&str> = plan.steps.iter().map(|step| step.what.as_str()).take(SENTENCES_MAX).collect();
    let impacts: Vec<String> = plan
        .impacts
        .iter()
        .map(|impact| format!("{}: {}", impact.name, impact.how))
        .take(SENTENCES_MAX)
        .collect();
    let mut told = json!({
        "plan": plan.id, "digest": plan.digest, "by": plan.by, "state": record.state, "risk": plan.risk,
        "verdict": gate.verdict, "reasons": gate.reasons, "expires_at": plan.expires_at,
        "targets": plan.targets.iter().map(|target| format!("{} {} ({})", target.kind.as_str(), target.vmid, target.name)).take(SENTENCES_MAX).collect::<Vec<_>>(),
        "steps": steps, "steps_total": plan.steps.len(), "undo": plan.undo.cost,
        "whole": format!("nhi://plan/{}", plan.id),
    });
    if !impacts.is_empty() {
        told["impacts"] = impacts.into();
    }
    if !plan.effects.is_empty() {
        told["effects"] = plan.effects.iter().take(SENTENCES_MAX).cloned().collect::<Vec<_>>().into();
    }
    if let Some(at) = gate.not_before {
        told["not_before"] = at.to_string().into();
    }
    if let Some(rehearsal) = &record.rehearsal {
        told["rehearsal"] =
            json!({"as_expected": rehearsal.as_expected, "differences": rehearsal.differences});
    }
    if let Some(waiting) = waiting_for(asker, record).await {
        told["waiting_for"] = waiting;
    }
    told
}

/// Who may say yes, and how: never the one who asked, and never through this door. Nothing when none is missing.
pub(super) async fn waiting_for(asker: &Asker, record: &PlanRecord) -> Option<Value> {
    let (plan, now) = (&record.plan, Timestamp::now());
    let needed = missing(record, now);
    if needed == 0 {
        return None;
    }
    let listed: Result<AuthListed, Fault> = asker.ask("auth", "list", &json!({})).await;
    let who = listed.map_or_else(|_| Vec::new(), |listed| may_approve(record, listed.identities, now));
    let name = if plan.risk == Risk::Destructive { " --confirm-name NAME" } else { "" };
    let command = format!("nhi plan approve {} --digest {}{name}", plan.id, plan.digest());
    Some(json!({
        "approvals": needed, "who": who,
        "how": format!("a person approves it on the dashboard, or with `{command}`"),
        "then": "call plan_apply once it is approved; plan_status says when",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::plan::Digest;

    const AT: &str = "2026-01-01T00:00:00Z";
    const LATER: &str = "2026-01-01T01:00:00Z";

    /// A plan of the agent's that needs two people, with these approvals: who, of which digest, until when.
    fn record(approvals: &[(&str, [u8; 32], &str)]) -> PlanRecord {
        let approvals: Vec<Value> = approvals
            .iter()
            .map(|(by, digest, until)| json!({"by": by, "digest": Digest::of(*digest), "at": AT, "expires_at": until}))
            .collect();
        serde_json::from_value(json!({
            "plan": {
                "v": 1, "id": "p-0001", "cluster": "home", "by": "aider", "intent": {"do": "destroy", "guest": "105"},
                "made_at": AT, "expires_at": LATER, "revision": 1, "reads": {}, "targets": [], "requires": [],
                "steps": [], "expects": [], "effects": [], "config_changes": [], "impacts": [], "risk": "destructive",
                "undo": {"intents": [], "complete": true, "cost": "nothing"}, "on_failure": "stop", "digest": Digest::of([7; 32]),
            },
            "gate": {"verdict": "approval", "reasons": [], "approvals": 2, "rehearse": false},
            "state": {"is": "open"}, "approvals": approvals,
        }))
        .unwrap()
    }

    #[test]
    fn only_a_yes_that_counts_is_counted_and_nobody_is_asked_twice() {
        let identities = |names: &[(&str, &str)]| -> Vec<IdentityInfo> {
            let info = |(name, role): &(&str, &str)| json!({"name": name, "role": role, "public_key": "U", "added": AT});
            serde_json::from_value(names.iter().map(info).collect()).unwrap()
        };
        let all = [
            ("aider", "agent"),
            ("anna", "operator"),
            ("ben", "operator"),
            ("eye", "viewer"),
            ("owner", "owner"),
        ];
        let now = AT.parse().unwrap();
        let own = [7; 32];
        for (approvals, needed, who) in [
            (&[][..], 2, &["anna", "ben", "owner"][..]),
            (&[("anna", own, LATER)], 1, &["ben", "owner"]),
            (&[("anna", own, LATER), ("anna", own, LATER)], 1, &["ben", "owner"]),
            (&[("anna", own, LATER), ("ben", own, LATER)], 0, &["owner"]),
            // Of another digest, over, and of who asked for it.
            (
                &[("anna", [8; 32], LATER), ("ben", own, AT), ("aider", own, LATER)],
                2,
                &["anna", "ben", "owner"],
            ),
        ] {
            let record = record(approvals);
            let may = may_approve(&record, identities(&all), now);
            let may: Vec<&str> = may.iter().map(IdentityName::as_str).collect();
            assert_eq!((missing(&record, now), &may[..]), (needed, who), "{approvals:?}");
        }
    }
}
