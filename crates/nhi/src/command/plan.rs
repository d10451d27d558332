//! `nhi guest …` (but its list), `nhi plan …`, `nhi freeze|thaw`: asks for plans, shows them, has them carried out.

mod show;

use crate::{
    cli::acting::{Applying, Asked, Decided, GuestAct, Plan as PlanCommand, Planning},
    exit::{Ending, Exit, Failure},
    mesh::{Mesh, call_failure},
    moment, out,
};
use anyhow::Context;
use nhi_bus::call::{self, CallError, Frame};
use nhi_model::{
    Timestamp,
    act::{
        ActApplied, ActApply, ActApprove, ActCancel, ActConfirm, ActFreeze, ActGet, ActGot, ActHeld, ActHold,
        ActList, ActListed, ActPlan, ActPlanned, ActReject, ActRelease, ActRun, ActThaw, RunFrame,
    },
    fault::FaultBody,
    identity::IdentityName,
    intent::{Intent, Operation},
    plan::{Digest, Plan, PlanId, PlanRecord, Verdict},
    refusal::RefusalCode,
    run::{Run, RunId, RunState},
};
use serde_json::json;
use std::{
    io::{self, BufRead, IsTerminal, Read},
    time::{Duration, Instant},
};

/// How long nothing may be heard of a run that is followed: another actuator takes it within a minute.
const SILENCE_MAX: Duration = Duration::from_secs(90);
/// How soon a broken stream is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs a command that changes guests.
///
/// # Errors
/// The call's failure, a refusal among them, or wrong arguments.
pub(crate) async fn guest(mesh: &Mesh, command: GuestAct, as_json: bool) -> Result<(), Failure> {
    let read = |text: &str| moment::parse(text, Timestamp::now());
    let done = match command.asked(read).map_err(|sentence| Failure::new(Exit::Usage, sentence))? {
        Asked::Plan(intent, planning) => make(mesh, *intent, planning, as_json).await,
        Asked::Hold { guest, minutes, reason } => {
            let request = ActHold { guest, minutes, reason };
            mesh.call("act", "hold", &request).await.map(|held: ActHeld| show::held(&held, as_json))
        }
        Asked::Release(guest) => {
            let request = ActRelease { guest };
            mesh.call("act", "release", &request).await.map(|held: ActHeld| show::held(&held, as_json))
        }
    };
    done.map_err(|failure| told(failure, as_json))
}

/// Runs one of the plan commands.
///
/// # Errors
/// As [`guest`].
pub(crate) async fn run(mesh: &Mesh, command: PlanCommand, as_json: bool) -> Result<(), Failure> {
    one(mesh, command, as_json).await.map_err(|failure| told(failure, as_json))
}

async fn one(mesh: &Mesh, command: PlanCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        PlanCommand::List { open, by, limit } => {
            let by = by.map(|name| IdentityName::parse(&name)).transpose().ending(Exit::Usage)?;
            let listed: ActListed =
                mesh.call("act", "list", &ActList { open, by, limit: Some(limit) }).await?;
            show::list(&listed, as_json);
            Ok(())
        }
        PlanCommand::Show { plan } => {
            let got = get(mesh, &plan).await?;
            show::got(&got, as_json);
            Ok(())
        }
        PlanCommand::Make { intent, planning } => make(mesh, read_intent(&intent)?, planning, as_json).await,
        PlanCommand::ServiceUp { service, planning } => {
            make(mesh, Intent::ServiceUp { service }, planning, as_json).await
        }
        PlanCommand::LabDown(planning) => make(mesh, Intent::LabDown {}, planning, as_json).await,
        PlanCommand::LabUp { plan, planning } => make(mesh, Intent::LabUp { plan }, planning, as_json).await,
        PlanCommand::Undo { plan, planning } => make(mesh, Intent::Undo { plan }, planning, as_json).await,
        PlanCommand::Apply { decided, applying } => apply_known(mesh, decided, &applying, as_json).await,
        PlanCommand::Follow { plan } => follow(mesh, &plan, None, as_json).await,
        PlanCommand::Approve { decided, typed_name } => approve(mesh, decided, typed_name, as_json).await,
        PlanCommand::Reject { plan, reason } => {
            let got: ActGot = mesh.call("act", "reject", &ActReject { plan, reason }).await?;
            said(&got, "rejected", as_json)
        }
        PlanCommand::Cancel { plan } => {
            let got: ActGot = mesh.call("act", "cancel", &ActCancel { plan }).await?;
            said(&got, cancelled(got.run.as_ref()), as_json)
        }
        PlanCommand::Confirm { plan } => {
            let got: ActGot = mesh.call("act", "confirm", &ActConfirm { plan }).await?;
            said(&got, "confirmed: what it did stays", as_json)
        }
    }
}

/// `nhi freeze`
///
/// # Errors
/// The call's failure.
pub(crate) async fn freeze(mesh: &Mesh, reason: String, as_json: bool) -> Result<(), Failure> {
    let frozen = mesh.call("act", "freeze", &ActFreeze { reason }).await;
    frozen.map(|frozen| show::frozen(&frozen, as_json)).map_err(|failure| told(failure, as_json))
}

/// `nhi thaw`
///
/// # Errors
/// The call's failure.
pub(crate) async fn thaw(mesh: &Mesh, as_json: bool) -> Result<(), Failure> {
    let frozen = mesh.call("act", "thaw", &ActThaw {}).await;
    frozen.map(|frozen| show::frozen(&frozen, as_json)).map_err(|failure| told(failure, as_json))
}

/// A refusal as a person reads it, and for programs its body: they branch on its code.
fn told(failure: Failure, as_json: bool) -> Failure {
    let Some(CallError::Fault { fault, .. }) = failure.error.downcast_ref::<CallError>() else {
        return failure;
    };
    if as_json {
        out::json(&FaultBody { error: (**fault).clone() });
    }
    let is_refusal = RefusalCode::ALL.iter().any(|code| code.as_str() == fault.code);
    let code = if is_refusal { format!("refused ({})", fault.code) } else { fault.code.clone() };
    let hint =
        if fault.hint.is_empty() { String::new() } else { format!("\n  → {}", out::safe(&fault.hint)) };
    Failure::new(failure.exit, format!("{code}: {}{hint}", out::safe(&fault.message)))
}

fn said(got: &ActGot, what: &str, as_json: bool) -> Result<(), Failure> {
    if as_json {
        out::json(got);
    } else {
        out::line(&format!("{} {what}", got.record.plan.id));
    }
    Ok(())
}

/// What a cancel came to. A run whose outcome is not known cannot be taken back; it can be looked at.
fn cancelled(run: Option<&Run>) -> &'static str {
    match run.and_then(|run| run.acknowledged.as_ref()) {
        Some(_) => "is noted as looked at; its guests are free again",
        None => "cancelled",
    }
}

async fn get(mesh: &Mesh, plan: &PlanId) -> Result<ActGot, Failure> {
    mesh.call("act", "get", &ActGet { plan: plan.clone() }).await
}

fn read_intent(text: &str) -> Result<Intent, Failure> {
    let mut typed = String::new();
    let text = if text == "-" {
        io::stdin().read_to_string(&mut typed).context("read the intent").ending(Exit::Usage)?;
        &typed
    } else {
        text
    };
    serde_json::from_str(text).context("that is not an intent").ending(Exit::Usage)
}

/// Makes a plan, shows it, and goes on as the arguments say.
async fn make(mesh: &Mesh, intent: Intent, planning: Planning, as_json: bool) -> Result<(), Failure> {
    let Planning { dry_run, rehearse, undo_after, reason, applying } = planning;
    let request = ActPlan { intent, reason, rehearse, undo_unless_confirmed_minutes: undo_after };
    let planned: ActPlanned = mesh.call_long("act", "plan", &request).await?;
    let record = &planned.record;
    let wait = match record.gate.verdict {
        _ if dry_run => None,
        Verdict::Approval => Some("an approval"),
        Verdict::Confirm if !applying.yes && !may_ask(as_json) => Some("your yes"),
        Verdict::Confirm if destroys(&record.plan) && applying.typed_name.is_none() && !may_ask(as_json) => {
            Some("the name of what it destroys")
        }
        Verdict::Automatic | Verdict::Confirm => {
            if !as_json {
                show::plan(record);
            }
            return apply(mesh, record, record.plan.digest().clone(), &applying, as_json).await;
        }
    };
    show::planned(&planned, as_json);
    match wait {
        None => Ok(()),
        Some(what) => Err(Failure::new(Exit::NeedsApproval, format!("{} waits for {what}", record.plan.id))),
    }
}

/// Whether there is somebody to ask. Who reads JSON is a program.
fn may_ask(as_json: bool) -> bool {
    !as_json && io::stdin().is_terminal()
}

/// `nhi plan apply`: the plan was made before, perhaps by somebody else.
async fn apply_known(
    mesh: &Mesh,
    decided: Decided,
    applying: &Applying,
    as_json: bool,
) -> Result<(), Failure> {
    let record = get(mesh, &decided.plan).await?.record;
    let digest = match decided.digest {
        Some(digest) => digest,
        None if applying.yes => record.plan.digest().clone(),
        None => {
            shown_and_meant(&record, show::apply_command(&record, mesh.bus.me()), "Carry out", as_json)
                .await?
        }
    };
    let applying = Applying { yes: true, ..applying.clone() };
    apply(mesh, &record, digest, &applying, as_json).await
}

/// The digest of a plan that is shown and then said yes to.
async fn shown_and_meant(
    record: &PlanRecord,
    command: String,
    verb: &'static str,
    as_json: bool,
) -> Result<Digest, Failure> {
    if !as_json {
        show::plan(record);
    }
    ask(&record.plan, command, verb, as_json).await?;
    Ok(record.plan.digest().clone())
}

async fn apply(
    mesh: &Mesh,
    record: &PlanRecord,
    digest: Digest,
    applying: &Applying,
    as_json: bool,
) -> Result<(), Failure> {
    let plan = &record.plan;
    let confirms = record.gate.verdict == Verdict::Confirm;
    if confirms && !applying.yes {
        ask(plan, show::apply_command(record, mesh.bus.me()), "Carry out", as_json).await?;
    }
    let name = match &applying.typed_name {
        Some(name) => Some(name.clone()),
        None if confirms && destroys(plan) => Some(ask_name(plan, as_json).await?),
        None => None,
    };
    let request = ActApply { plan: plan.id.clone(), digest, name };
    mesh.goes_on(format!(
        "interrupted while it was being taken; nhi plan show {} tells whether it was",
        plan.id
    ));
    let _: ActApplied = mesh.call("act", "apply", &request).await?;
    if !applying.no_wait {
        return follow(mesh, &plan.id, Some(record), as_json).await;
    }
    if as_json {
        out::json(&get(mesh, &plan.id).await?);
    } else {
        out::line(&format!("{0} was taken; follow it with: nhi plan follow {0}", plan.id));
    }
    Ok(())
}

fn destroys(plan: &Plan) -> bool {
    plan.steps.iter().any(|step| step.operation == Operation::Destroy)
}

async fn approve(
    mesh: &Mesh,
    decided: Decided,
    typed_name: Option<String>,
    as_json: bool,
) -> Result<(), Failure> {
    let record = get(mesh, &decided.plan).await?.record;
    let digest = match decided.digest {
        Some(digest) => digest,
        None => shown_and_meant(&record, show::approve_command(&record), "Approve", as_json).await?,
    };
    let name = match typed_name {
        Some(name) => Some(name),
        None if destroys(&record.plan) => Some(ask_name(&record.plan, as_json).await?),
        None => None,
    };
    let request = ActApprove { plan: decided.plan, digest, name };
    let got: ActGot = mesh.call("act", "approve", &request).await?;
    if as_json {
        out::json(&got);
        return Ok(());
    }
    let (plan, asker) = (&got.record.plan.id, &got.record.plan.by);
    let (has, needs) = (got.record.approvals.len(), got.record.gate.approvals);
    if has < usize::from(needs) {
        out::line(&format!("{plan} approved, {has} of {needs}: another operator has to as well"));
    } else {
        out::line(&format!(
            "{plan} approved; now {asker} can apply it: {}",
            show::apply_command(&got.record, asker)
        ));
    }
    Ok(())
}

/// Asks a person at the terminal. Without one, the digest has to be given.
async fn ask(plan: &Plan, command: String, verb: &'static str, as_json: bool) -> Result<(), Failure> {
    if !may_ask(as_json) {
        let sentence = format!("{} waits for your yes: {command}", plan.id);
        return Err(Failure::new(Exit::NeedsApproval, sentence));
    }
    out::note(&format!("{verb} {}? Type yes:", plan.id));
    answered(&typed().await?, &command)
}

/// Whether an answer is a yes. Any other leaves the plan waiting for one.
fn answered(answer: &str, command: &str) -> Result<(), Failure> {
    if answer == "yes" {
        return Ok(());
    }
    Err(Failure::new(Exit::NeedsApproval, format!("nothing was done; until it expires: {command}")))
}

async fn ask_name(plan: &Plan, as_json: bool) -> Result<String, Failure> {
    if !may_ask(as_json) {
        let sentence = format!("{} destroys, and needs the guest's name: add --confirm-name NAME", plan.id);
        return Err(Failure::new(Exit::NeedsApproval, sentence));
    }
    let names: Vec<&str> = plan.targets.iter().map(|target| target.name.as_str()).collect();
    out::note(&format!("This destroys {}. Type the name:", out::safe(&names.join(", "))));
    typed().await
}

/// A line of standard input. Read beside everything else, so that Ctrl-C ends the question.
async fn typed() -> Result<String, Failure> {
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line.trim().to_owned())
    });
    reading.await.context("read the answer")?.context("read the answer").ending(Exit::Usage)
}

/// Follows a run until it ends. Whoever has the record of its plan gives it.
async fn follow(
    mesh: &Mesh,
    plan: &PlanId,
    record: Option<&PlanRecord>,
    as_json: bool,
) -> Result<(), Failure> {
    let again = match mesh.bus.me().as_str() {
        "owner" => format!("nhi plan follow {plan}"),
        me => format!("nhi plan follow {plan} --as {me}"),
    };
    mesh.goes_on(format!("interrupted; the run goes on without you, follow it with: {again}"));
    let mut last: Option<RunFrame> = None;
    let mut heard = Instant::now();
    loop {
        let ended = frames(mesh, &plan.run(), &mut last, as_json, &mut heard).await;
        match (ended, &last) {
            (_, Some(frame)) if frame.run.state.is_over() => break,
            (Err(failure), None) => return Err(failure),
            (Ok(()), None) => return Err(Failure::new(Exit::Failed, format!("of {plan} nothing was told"))),
            (Err(failure), Some(_)) if heard.elapsed() > SILENCE_MAX => {
                let sentence = format!(
                    "nothing was heard of {plan} for {} s ({:#}); an actuator goes on with it: {again}",
                    SILENCE_MAX.as_secs(),
                    failure.error
                );
                return Err(Failure::new(Exit::Unreachable, sentence));
            }
            // An actuator that stops ends its streams, one that dies falls silent; the run goes on with the next one.
            (Ok(()) | Err(_), Some(_)) => tokio::time::sleep(AGAIN).await,
        }
    }
    let frame = last.context("the loop ends with a frame")?;
    if as_json {
        let kept = get(mesh, plan).await.ok().map(|got| got.record);
        let record = kept.as_ref().or(record);
        out::json(&json!({ "record": record, "run": frame.run, "guests": frame.guests }));
    } else {
        show::ended(&frame);
    }
    ending(&frame)
}

/// One stream of frames, to its end.
async fn frames(
    mesh: &Mesh,
    run: &RunId,
    last: &mut Option<RunFrame>,
    as_json: bool,
    heard: &mut Instant,
) -> Result<(), Failure> {
    let body = serde_json::to_vec(&ActRun { run: run.clone() }).context("serialise the request")?;
    let asked = call::Call::new(&mesh.bus, "act", "run", body.into()).map_err(call_failure)?;
    let mut frames = call::stream(&mesh.bus, asked).await.map_err(call_failure)?;
    while let Some(frame) = frames.next().await {
        let (Frame::Part(bytes) | Frame::Whole(bytes)) = frame.map_err(call_failure)?;
        let frame: RunFrame = serde_json::from_slice(&bytes).context("the run is not readable")?;
        *heard = Instant::now();
        if !as_json && last.as_ref().is_none_or(|before| before.said != frame.said) {
            out::note(&out::safe(&format!("  {}", frame.said)));
        }
        *last = Some(frame);
    }
    Ok(())
}

fn ending(frame: &RunFrame) -> Result<(), Failure> {
    let run = &frame.run;
    match &run.state {
        RunState::Done { .. } => Ok(()),
        RunState::Failed { text } => Err(Failure::new(Exit::Failed, out::safe(text))),
        RunState::Compensated { text } => {
            let sentence = format!("{text}; what was done before was taken back");
            Err(Failure::new(Exit::Failed, out::safe(&sentence)))
        }
        RunState::NeedsHuman { text } => Err(Failure::new(Exit::Unknown, out::safe(text))),
        RunState::Cancelled { by } => {
            Err(Failure::new(Exit::Conflict, format!("{} was cancelled by {by}", run.plan)))
        }
        RunState::Waiting { .. }
        | RunState::Running {}
        | RunState::Compensating {}
        | RunState::Verifying {} => unreachable!("follow() ends only with a run that is over"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_somebody_looked_at_is_not_said_to_be_cancelled() {
        let run = |acknowledged: serde_json::Value| -> Run {
            serde_json::from_value(json!({
                "v": 1, "id": "r-0k3x9a", "plan": "p-0k3x9a", "digest": Digest::of([7; 32]), "by": "owner",
                "at": "2026-01-01T00:00:00Z", "state": { "is": "needs-human", "text": "look at VM 107" },
                "acknowledged": acknowledged,
            }))
            .unwrap()
        };
        let looked = run(json!({ "by": "anna", "at": "2026-01-01T08:00:00Z" }));
        assert_eq!(cancelled(Some(&looked)), "is noted as looked at; its guests are free again");
        let shown = show::looked(&looked).unwrap();
        assert!(shown.contains("by anna at 2026-01-01T08:00:00Z"), "{shown}");
        // The control: nobody looked, or there was no run.
        let waits = run(serde_json::Value::Null);
        assert_eq!((cancelled(Some(&waits)), cancelled(None)), ("cancelled", "cancelled"));
        assert_eq!(show::looked(&waits), None);
    }

    #[test]
    fn only_a_yes_is_one_and_anything_else_leaves_the_plan_waiting() {
        assert!(answered("yes", "nhi plan apply p-0k3x9a").is_ok());
        for answer in ["no", "y", "Yes please", ""] {
            let failure = answered(answer, "nhi plan apply p-0k3x9a").unwrap_err();
            assert_eq!(failure.exit, Exit::NeedsApproval, "{answer:?}");
            assert!(failure.error.to_string().ends_with("nhi plan apply p-0k3x9a"), "{failure:?}");
        }
    }
}
