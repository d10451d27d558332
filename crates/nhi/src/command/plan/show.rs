//! Plans, runs and claims as people read them. It asks nothing and decides nothing.

use crate::out;
use nhi_model::{
    act::{ActFrozen, ActGot, ActHeld, ActListed, ActPlanned, PlanRow, RunFrame},
    plan::{OnFailure, PlanRecord, PlanState, Risk, Verdict},
    run::{DeadManState, Run, RunState},
};
use serde_json::{Value, to_value};

pub(super) fn planned(planned: &ActPlanned, as_json: bool) {
    if as_json {
        return out::json(planned);
    }
    plan(&planned.record);
    out::line(&out::safe(&format!("next      {}", planned.next)));
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
        journal(run);
    }
}

fn journal(run: &Run) {
    if run.journal.is_empty() {
        return;
    }
    out::line("");
    out::table(
        ["AT", "STEP", "WHAT", "DETAILS"],
        run.journal.iter().map(|entry| {
            let mut mark = to_value(&entry.mark).unwrap_or_default();
            let word = mark.as_object_mut().and_then(|fields| fields.remove("mark"));
            let details = match &mark {
                Value::Object(fields) if fields.is_empty() => String::new(),
                other => other.to_string(),
            };
            let back = match entry.leg {
                nhi_model::run::Leg::Forward => "",
                nhi_model::run::Leg::Back => " back",
            };
            [
                format!("{:.0}", entry.at),
                format!("{}{back}", entry.step + 1),
                word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default(),
                details,
            ]
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
