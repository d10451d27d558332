//! Runs as a tool: a plan is applied and its run followed, each frame told as progress, to its end or for as long as a
//! client waits. Giving up following ends nothing: the run goes on.

use super::ask::{self, Asker, Next, Progress};
use nhi_bus::call::Opened;
use nhi_model::{
    Timestamp,
    act::{ActApplied, RunFrame},
    fault::{Fault, FaultCode},
    refusal::RefusalCode,
    run::{RunId, RunState},
};
use rmcp::model::{CallToolResult, ContentBlock};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// How long a run is followed for a client that hears of progress.
const FOLLOWED_MAX: Duration = Duration::from_secs(600);
/// How long for one that does not: clients give up after a minute of silence.
const FOLLOWED_SILENTLY_MAX: Duration = Duration::from_secs(45);
/// A run that starts later than this is not waited for, seconds.
const WAITED_SECONDS_MAX: i64 = 30;

/// `act.apply`, and the run behind it.
pub(super) async fn apply(
    asker: &Asker,
    request: &Value,
    is_waited_for: bool,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    let applied: Result<ActApplied, Fault> = asker.ask("act", "apply", request).await;
    let applied = match applied {
        Ok(applied) => applied,
        Err(fault) if fault.code == RefusalCode::NeedsApproval.as_str() => {
            return Ok(waiting(asker, request, &fault).await);
        }
        Err(fault) if fault.code == RefusalCode::NameNotTyped.as_str() => return Ok(untyped(request, fault)),
        Err(fault) => return Err(fault),
    };
    progress.tell(&format!("run {} {}", applied.run, applied.state.as_str())).await;
    if !is_waited_for || applied.state.is_over() {
        return Ok(told(&applied.run, &applied.state, "", &Value::Null));
    }
    watch(asker, &json!({ "run": applied.run }), progress).await
}

/// `act.run`
pub(super) async fn follow(
    asker: &Asker,
    request: &Value,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    watch(asker, request, progress).await
}

/// A plan that was not applied because nobody has said yes: the plan, and who may.
async fn waiting(asker: &Asker, request: &Value, fault: &Fault) -> CallToolResult {
    let mut result = ask::failed(fault);
    if let Ok(got) =
        asker.ask::<nhi_model::act::ActGot>("act", "get", &json!({ "plan": request["plan"] })).await
    {
        let told = super::plans::short(asker, &got.record).await;
        result.content.push(ContentBlock::text(json!({ "waiting_for": told["waiting_for"] }).to_string()));
    }
    result
}

/// A plan of a person's own that destroys: the name is typed where a person sits, and never by a model.
fn untyped(request: &Value, mut fault: Fault) -> CallToolResult {
    fault.hint = "a person carries it out: no tool takes the name of what is destroyed".to_owned();
    let mut result = ask::failed(&fault);
    let word = |field: &str| request[field].as_str().unwrap_or_default().to_owned();
    let command = format!("nhi plan apply {} --digest {} --confirm-name NAME", word("plan"), word("digest"));
    let how = format!("on the dashboard, or with `{command}`, the name typed by whoever decides it");
    let waiting = json!({ "waiting_for": { "how": how, "then": "plan_status says how it went" } });
    result.content.push(ContentBlock::text(waiting.to_string()));
    result
}

async fn watch(asker: &Asker, request: &Value, progress: &mut Progress) -> Result<CallToolResult, Fault> {
    let limit = if progress.is_wanted() { FOLLOWED_MAX } else { FOLLOWED_SILENTLY_MAX };
    let until = Instant::now() + limit;
    let (opened, mut frames) = asker.open("act", "run", request).await?;
    if let Opened::Whole(answer) = opened {
        return Ok(
            serde_json::from_slice(&answer).map_or_else(|_| nothing(), |frame: RunFrame| result(&frame))
        );
    }
    let mut last: Option<RunFrame> = None;
    let mut said = "nothing was heard of the run yet".to_owned();
    while let Next::Frame(payload) = ask::next(&mut frames, until, progress, &said).await? {
        let Ok(frame) = serde_json::from_slice::<RunFrame>(&payload) else { continue };
        progress.tell(&frame.said).await;
        said.clone_from(&frame.said);
        let is_enough = frame.run.state.is_over() || is_late(&frame.run.state);
        last = Some(frame);
        if is_enough {
            break;
        }
    }
    Ok(last.map_or_else(nothing, |frame| result(&frame)))
}

/// Whether a run starts so late that nobody waits for it.
fn is_late(state: &RunState) -> bool {
    let RunState::Waiting { not_before: Some(at), .. } = state else { return false };
    at.duration_since(Timestamp::now()).as_secs() > WAITED_SECONDS_MAX
}

fn nothing() -> CallToolResult {
    let hint = "call plan_follow again, or plan_status";
    ask::failed(&Fault::new(FaultCode::Timeout, "nothing was heard of the run yet", hint))
}

fn result(frame: &RunFrame) -> CallToolResult {
    told(
        &frame.run.id,
        &frame.run.state,
        &frame.said,
        &serde_json::to_value(&frame.guests).unwrap_or_default(),
    )
}

fn told(run: &RunId, state: &RunState, said: &str, guests: &Value) -> CallToolResult {
    let mut answer = json!({ "run": run, "plan": run.plan(), "state": state });
    if !said.is_empty() {
        answer["said"] = said.into();
    }
    if guests.as_array().is_some_and(|guests| !guests.is_empty()) {
        answer["guests"] = guests.clone();
    }
    if !state.is_over() {
        answer["next"] = "it goes on by itself: plan_follow waits for its end, plan_status looks".into();
    }
    match state {
        RunState::Failed { .. } | RunState::Compensated { .. } | RunState::NeedsHuman { .. } => {
            CallToolResult::structured_error(answer)
        }
        RunState::Waiting { .. }
        | RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {}
        | RunState::Done { .. }
        | RunState::Cancelled { .. } => ask::told(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_was_not_typed_is_no_models_to_type() {
        let hint = "Type the name of what is destroyed: `--confirm-name NAME`, or `name` of the call.";
        let fault =
            Fault::new(FaultCode::BadRequest, "plan p-1abc destroys idle, and the name was not typed", hint);
        let result = untyped(&json!({"plan": "p-1abc", "digest": "sha256:0"}), fault);
        let told = serde_json::to_string(&result).unwrap();
        assert!(told.contains("waiting_for") && told.contains("--confirm-name NAME"), "{told}");
        assert!(!told.contains("of the call"), "{told}");
        assert_eq!(result.is_error, Some(true));
    }
}
