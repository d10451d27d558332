//! Plans, runs and claims as people read them. It asks nothing and decides nothing.

use crate::out;
use nhi_model::{
    act::{ActFrozen, ActGot, ActHeld, ActListed, ActPlanned, PlanRow, RunFrame},
    identity::IdentityName,
    plan::{OnFailure, PlanRecord, PlanState, Risk, Verdict},
    run::{DeadManState, Leg, Mark, Run, RunState, TaskExit},
};

pub(super) fn planned(planned: &ActPlanned, as_json: bool) {
    if as_json {
        return out::json(planned);
    }
    let record = &planned.record;
    plan(record);
    let apply = apply_command(record, &record.plan.by);
    if record.gate.verdict == Verdict::Approval {
        let who = match record.gate.approvals {
            0 | 1 => format!("an operator other than {} approves it", record.plan.by),
            several => format!("{several} operators other than {} approve it", record.plan.by),
        };
        out::line(&format!("next      {who}: {}", approve_command(record)));
        out::line(&format!("          then: {apply}"));
    } else {
        out::line(&format!("next      {apply}"));
    }
}

/// How an identity has a plan carried out.
pub(super) fn apply_command(record: &PlanRecord, me: &IdentityName) -> String {
    let plan = &record.plan;
    let name = match record.gate.verdict {
        Verdict::Confirm if super::destroys(plan) => " --confirm-name NAME",
        Verdict::Confirm | Verdict::Automatic | Verdict::Approval => "",
    };
    let me = if me.as_str() == "owner" { String::new() } else { format!(" --as {me}") };
    format!("nhi plan apply {} --digest {}{name}{me}", plan.id, plan.digest())
}

/// How an operator says yes.
pub(super) fn approve_command(record: &PlanRecord) -> String {
    let plan = &record.plan;
    let name = if super::destroys(plan) { " --confirm-name NAME" } else { "" };
    format!("nhi plan approve {} --digest {}{name}", plan.id, plan.digest())
}

/// The whole plan, as much as somebody should read before saying yes.
pub(super) fn plan(record: &PlanRecord) {
    let plan = &record.plan;
    let line = |name: &str, text: &str| out::line(&out::safe(&format!("{name:<9} {text}")));
    line("plan", plan.id.as_str());
    line("asked by", plan.by.as_str());
    if let Some(reason) = &plan.reason {
        line("reason", &format!("{reason:?}"));
    }
    line("risk", word(&plan.risk).as_str());
    for (number, step) in plan.steps.iter().enumerate() {
        line(&format!("step {}", number + 1), &step.what);
        line("", &format!("  {}", step.call));
    }
    plan.effects.iter().for_each(|effect| line("effect", effect));
    for change in &plan.config_changes {
        let side =
            |value: &Option<String>| value.as_deref().map_or("(not there)".to_owned(), |v| format!("{v:?}"));
        let text =
            format!("{} {}: {} → {}", change.guest, change.field, side(&change.before), side(&change.after));
        line("config", &text);
    }
    plan.impacts.iter().for_each(|impact| line("touches", &impact.how));
    line(
        "on fail",
        match plan.on_failure {
            OnFailure::Stop => "stop; what was done stays",
            OnFailure::Compensate => "take back what was done",
        },
    );
    line("undo", &plan.undo.cost);
    if let Some(minutes) = plan.undo_unless_confirmed_minutes {
        line("", &format!("taken back {minutes} min after it is done, unless: nhi plan confirm {}", plan.id));
    }
    if let Some(rehearsal) = &record.rehearsal {
        let outcome = if rehearsal.as_expected { "as expected" } else { "NOT as expected" };
        line("rehearsed", outcome);
        rehearsal.changes.iter().for_each(|change| line("", &format!("  {change}")));
        rehearsal.differences.iter().for_each(|difference| line("", &format!("  ! {difference}")));
    }
    record.gate.reasons.iter().for_each(|reason| line("policy", reason));
    if let Some(moment) = record.gate.not_before {
        line("", &format!("not before {moment:.0}"));
    }
    line("expires", &format!("{:.0}", plan.expires_at));
    line("digest", plan.digest().as_str());
}

pub(super) fn got(got: &ActGot, as_json: bool) {
    if as_json {
        return out::json(got);
    }
    plan(&got.record);
    out::line(&out::safe(&format!("{:<9} {}", "state", state(&got.record, got.run.as_ref()))));
    for approval in &got.record.approvals {
        out::line(&format!(
            "{:<9} by {} at {:.0}, until {:.0}",
            "approved", approval.by, approval.at, approval.expires_at
        ));
    }
    if let Some(run) = &got.run {
        looked(run).iter().for_each(|text| out::line(text));
        journal(run);
    }
}

/// Who looked at a run whose outcome is not known.
pub(super) fn looked(run: &Run) -> Option<String> {
    let told = run.acknowledged.as_ref()?;
    Some(format!("{:<9} by {} at {:.0}; its guests are free again", "looked at", told.by, told.at))
}

fn journal(run: &Run) {
    if run.journal.is_empty() {
        return;
    }
    out::line("");
    out::table(
        ["AT", "STEP", "WHAT", "DETAILS"],
        run.journal.iter().map(|entry| {
            let back = match entry.leg {
                Leg::Forward => "",
                Leg::Back => " back",
            };
            let (word, details) = mark(&entry.mark);
            [format!("{:.0}", entry.at), format!("{}{back}", entry.step + 1), word.to_owned(), details]
        }),
    );
    if let Some(dead_man) = &run.dead_man {
        let text = match &dead_man.state {
            DeadManState::Armed {} => format!("is taken back at {:.0} unless confirmed", dead_man.due),
            DeadManState::Confirmed { by, .. } => format!("confirmed by {by}"),
            DeadManState::Fired { text, .. } => text.clone(),
            DeadManState::Disarmed {} => "nothing to take back".to_owned(),
        };
        out::line(&format!("\n{}", out::safe(&text)));
    }
}

/// A line of the journal: what, and with which values.
fn mark(mark: &Mark) -> (&'static str, String) {
    match mark {
        Mark::Begun { attempt: 1 } => ("asked", String::new()),
        Mark::Begun { attempt } => ("asked", format!("try {attempt}")),
        Mark::Sent { upid } => ("taken", upid.clone().unwrap_or_default()),
        Mark::Refused { text, .. } => ("refused", text.clone()),
        Mark::AnswerLost { why } => ("answer lost", why.clone()),
        Mark::Adopted { upid } => ("found", upid.clone()),
        Mark::NotTaken {} => ("not taken", String::new()),
        Mark::Ended { exit } => (
            "ended",
            match exit {
                TaskExit::Ok {} => "OK".to_owned(),
                TaskExit::Warnings { count } => format!("with {count} warnings"),
                TaskExit::Error { text } => text.clone(),
                TaskExit::Unexpected {} => "its worker was killed".to_owned(),
                TaskExit::Endless {} => "not in time".to_owned(),
            },
        ),
        Mark::Seen {} => ("seen", String::new()),
        Mark::AlreadySo {} => ("already so", String::new()),
        Mark::Failed { code, text } => ("failed", format!("{code}: {text}")),
        Mark::Unknown { text } => ("unknown", text.clone()),
    }
}

pub(super) fn list(listed: &ActListed, as_json: bool) {
    if as_json {
        return out::json(listed);
    }
    if let Some(freeze) = &listed.frozen {
        let sentence = format!("! frozen by {} since {:.0}: {}", freeze.by, freeze.since, freeze.reason);
        out::note(&out::safe(&sentence));
    }
    for row in &listed.holds {
        let hold = &row.hold;
        out::note(&out::safe(&format!(
            "{} is held by {} until {:.0}: {}",
            row.guest, hold.by, hold.until, hold.reason
        )));
    }
    if listed.plans.is_empty() {
        return out::note("no plans; `nhi guest start NAME --dry-run` makes one");
    }
    let rows = listed.plans.iter().map(|row| {
        [
            row.plan.to_string(),
            format!("{:.0}", row.made_at),
            row.by.to_string(),
            word(&row.risk),
            row_state(row),
            row.summary.clone(),
        ]
    });
    out::table(["PLAN", "MADE", "BY", "RISK", "STATE", "WHAT"], rows);
    if listed.more {
        out::note("there are more: raise --limit");
    }
}

fn row_state(row: &PlanRow) -> String {
    match (&row.run, &row.state) {
        (Some(RunState::NeedsHuman { .. }), _) if !row.needs_human => "looked at".to_owned(),
        (Some(run), _) => run.as_str().to_owned(),
        (None, PlanState::Open {}) if row.expires_at < nhi_model::Timestamp::now() => "expired".to_owned(),
        (None, PlanState::Open {}) => match row.verdict {
            Verdict::Automatic => "open".to_owned(),
            Verdict::Confirm => "waits for you".to_owned(),
            Verdict::Approval => format!("{} of {} approvals", row.approvals, row.approvals_needed),
        },
        (None, other) => plan_state(other),
    }
}

fn state(record: &PlanRecord, run: Option<&Run>) -> String {
    match run {
        Some(run) => match &run.state {
            RunState::Waiting { reason, .. } => format!("waiting: {reason}"),
            RunState::Done { revision } => format!("done, seen at revision {revision}"),
            RunState::Failed { text } | RunState::Compensated { text } | RunState::NeedsHuman { text } => {
                format!("{}: {text}", run.state.as_str())
            }
            RunState::Cancelled { by } => format!("cancelled by {by}"),
            RunState::Running {} | RunState::Compensating {} | RunState::Verifying {} => {
                run.state.as_str().to_owned()
            }
        },
        None => plan_state(&record.state),
    }
}

fn plan_state(state: &PlanState) -> String {
    match state {
        PlanState::Open {} => "open".to_owned(),
        PlanState::Applied { run, by, .. } => format!("applied by {by} as {run}"),
        PlanState::Rejected { by, reason, .. } => format!("rejected by {by}: {reason}"),
        PlanState::Cancelled { by, .. } => format!("cancelled by {by}"),
        PlanState::Void { changes, .. } => format!("void: {}", changes.join("; ")),
    }
}

/// What a run came to; its failure is the command's own.
pub(super) fn ended(frame: &RunFrame) {
    if let RunState::Done { revision } = &frame.run.state {
        out::line(&format!("{} done, seen by the scanner at revision {revision}", frame.run.plan));
    }
    if !frame.guests.is_empty() {
        out::table(
            ["ID", "NAME", "STATUS", "NODE", "ADDRESSES"],
            frame.guests.iter().map(|guest| {
                [
                    guest.vmid.to_string(),
                    guest.name.clone(),
                    guest.status.clone(),
                    guest.node.clone(),
                    guest.addresses.join(", "),
                ]
            }),
        );
    }
    if let Some(dead_man) = &frame.run.dead_man
        && dead_man.state == (DeadManState::Armed {})
    {
        out::note(&format!("taken back at {:.0} unless: nhi plan confirm {}", dead_man.due, frame.run.plan));
    }
}

pub(super) fn held(held: &ActHeld, as_json: bool) {
    if as_json {
        return out::json(held);
    }
    match &held.hold {
        Some(hold) => out::line(&format!("{} is yours until {:.0}", held.guest, hold.until)),
        None => out::line(&format!("{} is free", held.guest)),
    }
}

pub(super) fn frozen(frozen: &ActFrozen, as_json: bool) {
    if as_json {
        return out::json(frozen);
    }
    match &frozen.frozen {
        Some(freeze) => {
            out::line(&format!("frozen since {:.0}; nothing new starts until: nhi thaw", freeze.since))
        }
        None => out::line("thawed; what waited goes on after a new look"),
    }
    for run in &frozen.under_way {
        out::line(&format!("{run} is in the middle of a step, ends it and stops there"));
    }
}

fn word(risk: &Risk) -> String {
    match risk {
        Risk::Low => "low",
        Risk::Medium => "medium",
        Risk::High => "high",
        Risk::Destructive => "destructive",
    }
    .to_owned()
}
