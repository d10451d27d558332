//! Plans as a model needs them: what will be done, what it touches, and what is still missing, without the calls
//! themselves; the whole plan is a resource. It approves nothing: who may, and where, is part of the answer.

use super::ask::{self, Asker};
use nhi_model::{
    Timestamp,
    act::{ActGot, ActPlanned},
    call::AuthListed,
    fault::Fault,
    identity::Role,
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
    if is_waiting(record) || !said.starts_with("apply it") {
        return said.into();
    }
    "call plan_apply with this plan and digest".into()
}

/// Whether somebody's yes is missing.
fn is_waiting(record: &PlanRecord) -> bool {
    let is_open = matches!(record.state, PlanState::Open {});
    is_open
        && record.gate.verdict == Verdict::Approval
        && valid_approvals(record) < usize::from(record.gate.approvals)
}

fn valid_approvals(record: &PlanRecord) -> usize {
    let now = Timestamp::now();
    record.approvals.iter().filter(|approval| approval.expires_at > now).count()
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
    if is_waiting(record) {
        told["waiting_for"] = waiting_for(asker, record).await;
    }
    told
}

/// Who may say yes, and how: never the one who asked, and never through this door.
async fn waiting_for(asker: &Asker, record: &PlanRecord) -> Value {
    let plan = &record.plan;
    let listed: Result<AuthListed, Fault> = asker.ask("auth", "list", &json!({})).await;
    let who: Vec<String> = listed.map_or_else(
        |_| Vec::new(),
        |listed| {
            let may = listed
                .identities
                .into_iter()
                .filter(|i| matches!(i.role, Some(Role::Operator | Role::Owner)));
            may.map(|identity| identity.name)
                .filter(|name| *name != plan.by)
                .map(|name| name.to_string())
                .collect()
        },
    );
    let needed = usize::from(record.gate.approvals).saturating_sub(valid_approvals(record));
    let name = if plan.risk == Risk::Destructive { " --confirm-name NAME" } else { "" };
    let command = format!("nhi plan approve {} --digest {}{name}", plan.id, plan.digest());
    json!({
        "approvals": needed, "who": who,
        "how": format!("a person approves it on the dashboard, or with `{command}`"),
        "then": "call plan_apply once it is approved; plan_status says when",
    })
}
