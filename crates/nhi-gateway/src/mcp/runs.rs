//! Runs as a tool: a plan is applied and its run followed, each frame told as progress, to its end or for as long as a
//! client waits. Giving up following ends nothing: the run goes on, and when the actuator that told of it is gone, the next
//! one goes on with it and tells of it.

use super::ask::{self, Asker, Next, Progress};
use nhi_bus::call::Opened;
use nhi_model::{
    Timestamp,
    act::{ActApplied, GuestSeen, RunFrame},
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
/// How long nothing may be heard after the frames broke off: another actuator takes a run within a minute.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How soon frames that broke off are asked for again.
const AGAIN: Duration = Duration::from_secs(1);

const UNHEARD: &str = "nothing was heard of the run yet";

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
    let request = json!({ "run": applied.run });
    let heard = Heard { run: applied.run, state: applied.state, said: String::new(), guests: Vec::new() };
    if !is_waited_for || heard.state.is_over() {
        return Ok(told(&heard, None));
    }
    watch(asker, &request, Some(heard), progress).await
}

/// `act.run`
pub(super) async fn follow(
    asker: &Asker,
    request: &Value,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    watch(asker, request, None, progress).await
}

/// A plan that was not applied because nobody has said yes: the plan, and who may.
async fn waiting(asker: &Asker, request: &Value, fault: &Fault) -> CallToolResult {
    let mut result = ask::failed(fault);
    if let Ok(got) =
        asker.ask::<nhi_model::act::ActGot>("act", "get", &json!({ "plan": request["plan"] })).await
    {
        let waiting = super::plans::waiting_for(asker, &got.record).await;
        let waiting = waiting.map(|waiting| json!({ "waiting_for": waiting }).to_string());
        result.content.extend(waiting.map(ContentBlock::text));
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

/// What was last heard of a run.
#[derive(Debug)]
struct Heard {
    run: RunId,
    state: RunState,
    said: String,
    guests: Vec<GuestSeen>,
}

impl From<RunFrame> for Heard {
    fn from(frame: RunFrame) -> Self {
        let RunFrame { run, said, guests } = frame;
        Self { run: run.id, state: run.state, said, guests }
    }
}

/// A run that is followed.
#[derive(Debug)]
struct Followed {
    /// Nothing, before the first that is told of it.
    heard: Option<Heard>,
    /// Since when nothing is told of it.
    broken_at: Option<Instant>,
}

impl Followed {
    fn said(&self) -> String {
        match &self.heard {
            Some(heard) if !heard.said.is_empty() => heard.said.clone(),
            Some(heard) => format!("run {} {}", heard.run, heard.state.as_str()),
            None => UNHEARD.to_owned(),
        }
    }
}

/// Follows a run, of which something may have been heard already, for as long as the client waits.
async fn watch(
    asker: &Asker,
    request: &Value,
    heard: Option<Heard>,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    let limit = if progress.is_wanted() { FOLLOWED_MAX } else { FOLLOWED_SILENTLY_MAX };
    let until = Instant::now() + limit;
    let mut run = Followed { heard, broken_at: None };
    let broken = loop {
        let fault = match frames(asker, request, until, &mut run, progress).await {
            Ok(Ended::Enough) => break None,
            Ok(Ended::Early) => Fault::new(FaultCode::Unavailable, "its frames ended before it did", ""),
            Err(fault) => fault,
        };
        if run.heard.is_none() {
            return Err(fault);
        }
        let now = Instant::now();
        let silence = now.duration_since(*run.broken_at.get_or_insert(now));
        // Another actuator would refuse it as well, comes too late, does not come, or cannot be asked any more.
        let is_over = asker.bus.link().borrow().is_over();
        if is_final(&fault) || now + AGAIN >= until || silence > SILENCE_MAX || is_over {
            break Some(fault);
        }
        progress.tell_quiet(&run.said()).await;
        tokio::time::sleep_until(now + AGAIN).await;
    };
    Ok(run.heard.map_or_else(nothing, |heard| told(&heard, broken.as_ref())))
}

/// Whether asking again would be refused again: not where too much was asked at once, which passes.
fn is_final(fault: &Fault) -> bool {
    fault.status() < 500 && fault.status() != FaultCode::TooMany.status()
}

/// How frames came to an end.
enum Ended {
    /// The run is over or starts late, or the client waits no longer.
    Enough,
    /// The run goes on, and whoever told of it does not.
    Early,
}

/// Hears what is told of a run, up to its end or until then.
async fn frames(
    asker: &Asker,
    request: &Value,
    until: Instant,
    run: &mut Followed,
    progress: &mut Progress,
) -> Result<Ended, Fault> {
    let opening = asker.open("act", "run", request);
    let Some(opened) = ask::wait(opening, until, progress, &run.said()).await else {
        return Ok(Ended::Enough);
    };
    let (opened, mut frames) = opened?;
    if let Opened::Whole(answer) = opened {
        run.heard = Some(ask::read::<RunFrame>("act", "run", &answer)?.into());
        return Ok(Ended::Enough);
    }
    loop {
        let payload = match ask::next(&mut frames, until, progress, &run.said()).await? {
            Next::Frame(payload) => payload,
            Next::End => return Ok(Ended::Early),
            Next::Late => return Ok(Ended::Enough),
        };
        let Ok(frame) = serde_json::from_slice::<RunFrame>(&payload) else { continue };
        progress.tell(&frame.said).await;
        let is_enough = frame.run.state.is_over() || is_late(&frame.run.state);
        (run.heard, run.broken_at) = (Some(frame.into()), None);
        if is_enough {
            return Ok(Ended::Enough);
        }
    }
}

/// Whether a run starts so late that nobody waits for it.
fn is_late(state: &RunState) -> bool {
    let RunState::Waiting { not_before: Some(at), .. } = state else { return false };
    at.duration_since(Timestamp::now()).as_secs() > WAITED_SECONDS_MAX
}

fn nothing() -> CallToolResult {
    ask::failed(&Fault::new(FaultCode::Timeout, UNHEARD, "call plan_follow again, or plan_status"))
}

/// What was heard last, and what is next; with `broken`, why no more was heard.
fn told(heard: &Heard, broken: Option<&Fault>) -> CallToolResult {
    let Heard { run, state, said, guests } = heard;
    let mut answer = json!({ "run": run, "plan": run.plan(), "state": state });
    if !said.is_empty() {
        answer["said"] = said.as_str().into();
    }
    if !guests.is_empty() {
        answer["guests"] = json!(guests);
    }
    if let Some(fault) = broken {
        answer["broken"] = format!("no more was heard of it: {}", fault.message).into();
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
