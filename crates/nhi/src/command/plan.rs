//! `nhi guest …` (but its list), `nhi plan …`, `nhi freeze|thaw`: asks for plans, shows them, has them carried out.

mod show;

use crate::{
    cli::acting::{Applying, Asked, Decided, GuestAct, Plan as PlanCommand, Planning},
    exit::{Ending, Exit, Failure},
    mesh::{Mesh, call_failure},
    moment, out,
};
use anyhow::Context;
use nhi_bus::call::{self, Frame};
use nhi_model::{
    Timestamp,
    act::{
        ActApplied, ActApply, ActApprove, ActCancel, ActConfirm, ActFreeze, ActFrozen, ActGet, ActGot,
        ActHeld, ActHold, ActList, ActListed, ActPlan, ActPlanned, ActReject, ActRelease, ActRun, ActThaw,
        RunFrame,
    },
    identity::IdentityName,
    intent::{Intent, Operation},
    plan::{Digest, Plan, PlanId, PlanRecord, Verdict},
    run::{RunId, RunState},
};
use serde_json::json;
use std::io::{self, BufRead, IsTerminal, Read};

/// Runs a command that changes guests.
///
/// # Errors
/// The call's failure, a refusal among them, or wrong arguments.
pub(crate) async fn guest(mesh: &Mesh, command: GuestAct, as_json: bool) -> Result<(), Failure> {
    let read = |text: &str| moment::parse(text, Timestamp::now());
    match command.asked(read).map_err(|sentence| Failure::new(Exit::Usage, sentence))? {
        Asked::Plan(intent, planning) => make(mesh, intent, planning, as_json).await,
        Asked::Hold { guest, minutes, reason } => {
            let held: ActHeld = mesh.call("act", "hold", &ActHold { guest, minutes, reason }).await?;
            show::held(&held, as_json);
            Ok(())
        }
        Asked::Release(guest) => {
            let held: ActHeld = mesh.call("act", "release", &ActRelease { guest }).await?;
            show::held(&held, as_json);
            Ok(())
        }
    }
}

/// Runs one of the plan commands.
///
/// # Errors
/// As [`guest`].
pub(crate) async fn run(mesh: &Mesh, command: PlanCommand, as_json: bool) -> Result<(), Failure> {
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
        PlanCommand::Follow { plan } => follow(mesh, &plan.run(), as_json).await,
        PlanCommand::Approve { decided, typed_name } => approve(mesh, decided, typed_name, as_json).await,
        PlanCommand::Reject { plan, reason } => {
            let got: ActGot = mesh.call("act", "reject", &ActReject { plan, reason }).await?;
            said(&got, "rejected", as_json)
        }
        PlanCommand::Cancel { plan } => {
            let got: ActGot = mesh.call("act", "cancel", &ActCancel { plan }).await?;
            said(&got, "cancelled", as_json)
        }
        PlanCommand::Confirm { plan } => {
            let got: ActGot = mesh.call("act", "confirm", &ActConfirm { plan }).await?;
            said(&got, "confirmed: it stays", as_json)
        }
    }
}

/// `nhi freeze`
///
/// # Errors
/// The call's failure.
pub(crate) async fn freeze(mesh: &Mesh, reason: String, as_json: bool) -> Result<(), Failure> {
    let frozen: ActFrozen = mesh.call("act", "freeze", &ActFreeze { reason }).await?;
    show::frozen(&frozen, as_json);
    Ok(())
}

/// `nhi thaw`
///
/// # Errors
/// The call's failure.
pub(crate) async fn thaw(mesh: &Mesh, as_json: bool) -> Result<(), Failure> {
    let frozen: ActFrozen = mesh.call("act", "thaw", &ActThaw {}).await?;
    show::frozen(&frozen, as_json);
    Ok(())
}

fn said(got: &ActGot, what: &str, as_json: bool) -> Result<(), Failure> {
    if as_json {
        out::json(got);
    } else {
        out::line(&format!("{} {what}", got.record.plan.id));
    }
    Ok(())
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
    if dry_run {
        show::planned(&planned, as_json);
        return Ok(());
    }
    match record.gate.verdict {
        Verdict::Approval => {
            show::planned(&planned, as_json);
            let sentence = format!("{} waits for an approval: {}", record.plan.id, planned.next);
            Err(Failure::new(Exit::NeedsApproval, out::safe(&sentence)))
        }
        Verdict::Automatic | Verdict::Confirm => {
            if !as_json {
                show::plan(record);
            }
            apply(mesh, record, record.plan.digest().clone(), &applying, as_json).await
        }
    }
}

/// `nhi plan apply`: the plan was made before, perhaps by somebody else.
async fn apply_known(
    mesh: &Mesh,
    decided: Decided,
    applying: &Applying,
    as_json: bool,
) -> Result<(), Failure> {
    let record = get(mesh, &decided.plan).await?.record;
    let digest = decide(&record, decided.digest, applying.yes, as_json)?;
    let applying = Applying { yes: true, ..applying.clone() };
    apply(mesh, &record, digest, &applying, as_json).await
}

/// The digest that is meant: given, or of the plan that is shown and then said yes to.
fn decide(record: &PlanRecord, given: Option<Digest>, yes: bool, as_json: bool) -> Result<Digest, Failure> {
    if let Some(digest) = given {
        return Ok(digest);
    }
    let shown = record.plan.digest().clone();
    if !yes {
        if !as_json {
            show::plan(record);
        }
        ask(&record.plan, &shown)?;
    }
    Ok(shown)
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
        ask(plan, &digest)?;
    }
    let name = match &applying.typed_name {
        Some(name) => Some(name.clone()),
        None if confirms && destroys(plan) => Some(ask_name(plan)?),
        None => None,
    };
    let request = ActApply { plan: plan.id.clone(), digest, name };
    let applied: ActApplied = mesh.call("act", "apply", &request).await?;
    if applying.no_wait {
        if as_json {
            out::json(&applied);
        } else {
            out::line(&format!("{} was taken; follow it with: nhi plan follow {}", applied.run, plan.id));
        }
        return Ok(());
    }
    follow(mesh, &applied.run, as_json).await
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
    let digest = decide(&record, decided.digest, false, as_json)?;
    let name = match typed_name {
        Some(name) => Some(name),
        None if destroys(&record.plan) => Some(ask_name(&record.plan)?),
        None => None,
    };
    let request = ActApprove { plan: decided.plan, digest, name };
    let got: ActGot = mesh.call("act", "approve", &request).await?;
    said(&got, "approved", as_json)
}

/// Asks a person at the terminal. Without one, the digest has to be given.
fn ask(plan: &Plan, digest: &Digest) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let sentence =
            format!("{} waits for your yes: nhi plan apply {} --digest {digest}", plan.id, plan.id);
        return Err(Failure::new(Exit::NeedsApproval, sentence));
    }
    out::note(&format!("Carry out {}? Type yes:", plan.id));
    if typed()? == "yes" {
        return Ok(());
    }
    Err(Failure::new(Exit::Interrupted, "nothing was done"))
}

fn ask_name(plan: &Plan) -> Result<String, Failure> {
    if !io::stdin().is_terminal() {
        let sentence = "a destroy needs the guest's name: give it with --confirm-name NAME";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let names: Vec<&str> = plan.targets.iter().map(|target| target.name.as_str()).collect();
    out::note(&format!("This destroys {}. Type the name:", out::safe(&names.join(", "))));
    typed()
}

fn typed() -> Result<String, Failure> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).context("read the answer").ending(Exit::Usage)?;
    Ok(line.trim().to_owned())
}

/// Follows a run until it ends.
async fn follow(mesh: &Mesh, run: &RunId, as_json: bool) -> Result<(), Failure> {
    let mut last: Option<RunFrame> = None;
    loop {
        let body = serde_json::to_vec(&ActRun { run: run.clone() }).context("serialise the request")?;
        let asked = call::Call::new(&mesh.bus, "act", "run", body.into()).map_err(call_failure)?;
        let mut frames = call::stream(&mesh.bus, asked).await.map_err(call_failure)?;
        while let Some(frame) = frames.next().await {
            let (Frame::Part(bytes) | Frame::Whole(bytes)) = frame.map_err(call_failure)?;
            let frame: RunFrame = serde_json::from_slice(&bytes).context("the run is not readable")?;
            if !as_json && last.as_ref().is_none_or(|before| before.said != frame.said) {
                out::note(&out::safe(&format!("  {}", frame.said)));
            }
            last = Some(frame);
        }
        // An actuator that stops ends its streams in good order; the run goes on with the next one.
        match &last {
            Some(frame) if frame.run.state.is_over() => break,
            Some(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
            None => return Err(Failure::new(Exit::Failed, format!("{run}: nothing was told"))),
        }
    }
    let frame = last.expect("the loop ends with a frame");
    if as_json {
        out::json(&json!({ "run": frame.run, "guests": frame.guests }));
    } else {
        show::ended(&frame);
    }
    ending(&frame)
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
        | RunState::Verifying {} => {
            unreachable!("follow() ends only with a run that is over")
        }
    }
}
