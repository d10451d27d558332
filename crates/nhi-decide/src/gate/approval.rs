//! Saying yes to a digest, and what must be true when a plan is applied, and when its run starts. A yes counts once, for
//! one digest, for a while, and never from who asked.

use super::{Input, acts, destroyed, is_person, limits, recheck};
use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    identity::{IdentityName, Role},
    plan::{Approval, Digest, Gate, PlanRecord, PlanState, Verdict},
    policy::Policy,
    refusal::{Refusal, RefusalCode},
};
use std::collections::{BTreeMap, BTreeSet};

/// Somebody's yes.
#[derive(Clone, Copy, Debug)]
pub struct Approve<'a> {
    /// The moment.
    pub now: Timestamp,
    /// The plan.
    pub record: &'a PlanRecord,
    /// Who says yes.
    pub by: &'a IdentityName,
    /// Their role.
    pub role: Role,
    /// The digest they were shown.
    pub digest: &'a Digest,
    /// The guest's name, as they typed it.
    pub name: Option<&'a str>,
    /// The policy of this moment.
    pub policy: &'a Policy,
}

/// Somebody's wish to carry a plan out.
#[derive(Clone, Copy, Debug)]
pub struct Apply<'a> {
    /// The plan. It is [`Input::plan`] of `input` as well.
    pub record: &'a PlanRecord,
    /// Who applies it.
    pub by: &'a IdentityName,
    /// Their role.
    pub role: Role,
    /// The digest they were shown.
    pub digest: &'a Digest,
    /// The guest's name, as they typed it.
    pub name: Option<&'a str>,
    /// What the gate looks at now; [`Input::role`] is that of who asked for the plan.
    pub input: Input<'a>,
}

/// A run that waits, and could start.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The plan, with the approvals of those who may still give one. It is [`Input::plan`] of `input` as well.
    pub record: &'a PlanRecord,
    /// Who applied it.
    pub by: &'a IdentityName,
    /// Their role now.
    pub role: Role,
    /// When it was applied: an approval that counted then counts for as long as the run waits.
    pub applied_at: Timestamp,
    /// What the gate looks at now; [`Input::role`] is that of who asked for the plan, now.
    pub input: Input<'a>,
}

/// A person's yes to exactly this digest.
///
/// # Errors
/// The [`Refusal`] when it does not count.
pub fn approve(wish: &Approve<'_>) -> Result<Approval, Refusal> {
    let Approve { now, record, by, role, digest, name, policy } = *wish;
    let plan = &record.plan;
    is_open(record, now)?;
    is_digest(record, digest)?;
    if *by == plan.by {
        return Err(Refusal::new(
            RefusalCode::SelfApproval,
            format!("{by} asked for plan {} and cannot approve it", plan.id),
            "Ask another operator: nobody approves what they asked for.",
        ));
    }
    if !is_person(role) {
        return Err(Refusal::new(
            RefusalCode::Never,
            format!("{by} has the role {role}, and only an operator or the owner approves"),
            "Ask an operator to look at the plan.",
        ));
    }
    if record.gate.verdict != Verdict::Approval {
        return Err(Refusal::new(
            RefusalCode::NothingToDo,
            format!("plan {} needs nobody's approval", plan.id),
            format!("It is {}'s to apply.", plan.by),
        ));
    }
    if approvals(record, now).contains_key(by) {
        return Err(Refusal::new(
            RefusalCode::Used,
            format!(
                "{by} has approved plan {} already, and a second yes of the same person does not count",
                plan.id
            ),
            "Apply it, or ask another operator when it needs two people.",
        ));
    }
    name_is_typed(record, name)?;
    let minutes = SignedDuration::from_mins(policy.approval.approval_minutes.into());
    let expires_at = now.checked_add(minutes).unwrap_or(plan.expires_at).min(plan.expires_at);
    Ok(Approval { by: by.clone(), digest: digest.clone(), at: now, expires_at })
}

/// The approvals of a plan that count at this moment, one of each person.
pub fn approvals(record: &PlanRecord, now: Timestamp) -> BTreeMap<&IdentityName, &Approval> {
    let of_plan = record.plan.digest.as_ref();
    let counts = |approval: &&Approval| {
        Some(&approval.digest) == of_plan
            && approval.by != record.plan.by
            && approval.at <= now
            && now < approval.expires_at
    };
    record.approvals.iter().filter(counts).map(|approval| (&approval.by, approval)).collect()
}

/// Whether a plan may be carried out now, and what policy says of it now: [`Gate::not_before`] is when it starts.
///
/// # Errors
/// The [`Refusal`] when it may not.
pub fn may_apply(wish: &Apply<'_>) -> Result<Gate, Refusal> {
    let Apply { record, by, role, digest, name, ref input } = *wish;
    let now = input.now;
    is_open(record, now)?;
    is_digest(record, digest)?;
    may_be_applied_by(record, by, role, input.role)?;
    let mut gate = recheck(input)?;
    if !is_person(role) {
        limits::applies(input)?;
    }
    is_agreed(record, &mut gate, now)?;
    if is_person(role) {
        name_is_typed(record, name)?;
    }
    Ok(gate)
}

/// Whether a run that waits may start now: by today's policy, the roles of today, and the approvals it was applied with
/// of those who may still give one. [`Gate::not_before`] is when it starts.
///
/// # Errors
/// The [`Refusal`] when it may not any more.
pub fn may_start(wish: &Start<'_>) -> Result<Gate, Refusal> {
    let Start { record, by, role, applied_at, ref input } = *wish;
    may_be_applied_by(record, by, role, input.role)?;
    let mut gate = recheck(input)?;
    is_agreed(record, &mut gate, applied_at)?;
    Ok(gate)
}

/// Whether whoever has to has said yes by then, and the rehearsal went well.
fn is_agreed(record: &PlanRecord, gate: &mut Gate, by_then: Timestamp) -> Result<(), Refusal> {
    // What was stricter when it was planned stays so: people were told.
    gate.verdict = gate.verdict.max(record.gate.verdict);
    gate.approvals = gate.approvals.max(record.gate.approvals);
    gate.rehearse |= record.gate.rehearse;
    is_rehearsed(record, gate)?;
    is_approved(record, gate, by_then)?;
    gate.rehearse = false;
    Ok(())
}

fn is_open(record: &PlanRecord, now: Timestamp) -> Result<(), Refusal> {
    let id = &record.plan.id;
    let used = |what: String| {
        Err(Refusal::new(
            RefusalCode::Used,
            format!("plan {id} {what}"),
            "Make a new plan; each is carried out once.",
        ))
    };
    match &record.state {
        PlanState::Open {} => {}
        PlanState::Applied { run, by, .. } => return used(format!("was applied by {by} already: {run}")),
        PlanState::Rejected { by, reason, .. } if reason.is_empty() => {
            return used(format!("was rejected by {by}"));
        }
        PlanState::Rejected { by, reason, .. } => return used(format!("was rejected by {by}: {reason}")),
        PlanState::Cancelled { by, .. } => return used(format!("was taken back by {by}")),
        PlanState::Void { changes, .. } => {
            let refusal = Refusal::new(
                RefusalCode::Stale,
                format!("what plan {id} relied on has changed: {}", changes.join("; ")),
                "Make a new plan: it is made on what is so now.",
            );
            return Err(refusal.with("changes", changes.clone()));
        }
    }
    if now >= record.plan.expires_at {
        return Err(Refusal::new(
            RefusalCode::Expired,
            format!("plan {id} could be applied until {}", record.plan.expires_at),
            "Make a new plan: it is made on what is so now.",
        ));
    }
    Ok(())
}

fn is_digest(record: &PlanRecord, digest: &Digest) -> Result<(), Refusal> {
    match &record.plan.digest {
        Some(own) if own == digest => Ok(()),
        Some(_) | None => Err(Refusal::new(
            RefusalCode::WrongDigest,
            format!("{digest} is not the digest of plan {}", record.plan.id),
            "Look at the plan again and name the digest it shows.",
        )),
    }
}

fn may_be_applied_by(
    record: &PlanRecord,
    by: &IdentityName,
    role: Role,
    author: Role,
) -> Result<(), Refusal> {
    acts(role)?;
    let plan = &record.plan;
    if *by == plan.by || (is_person(role) && !is_person(author)) {
        return Ok(());
    }
    Err(Refusal::new(
        RefusalCode::Never,
        format!("plan {} is {}'s, and {by} may not apply it", plan.id, plan.by),
        "Make a plan of your own; a person's plan is that person's to apply, an agent's that agent's or an operator's.",
    ))
}

fn is_rehearsed(record: &PlanRecord, gate: &Gate) -> Result<(), Refusal> {
    let id = &record.plan.id;
    match &record.rehearsal {
        Some(rehearsal) if !rehearsal.as_expected => {
            let refusal = Refusal::new(
                RefusalCode::RehearsalDiffers,
                format!(
                    "the rehearsal of plan {id} went otherwise than it expects: {}",
                    rehearsal.differences.join("; ")
                ),
                "Do not go on with it: look at what differs, and ask for something else.",
            );
            Err(refusal.with("differences", rehearsal.differences.clone()))
        }
        None if gate.rehearse => Err(Refusal::new(
            RefusalCode::RehearsalDiffers,
            format!("policy wants plan {id} rehearsed first, and it was not"),
            "Ask for the plan again with rehearse.",
        )),
        Some(_) | None => Ok(()),
    }
}

fn is_approved(record: &PlanRecord, gate: &Gate, now: Timestamp) -> Result<(), Refusal> {
    if gate.verdict != Verdict::Approval {
        return Ok(());
    }
    let id = &record.plan.id;
    let have = approvals(record, now).len();
    let needed = usize::from(gate.approvals.max(1));
    if have >= needed {
        return Ok(());
    }
    let lapsed =
        record.approvals.iter().filter(|approval| approval.expires_at <= now).max_by_key(|a| a.expires_at);
    let (code, message) = match lapsed {
        Some(lapsed) => (
            RefusalCode::Expired,
            format!("the approval of plan {id} by {} counted until {}", lapsed.by, lapsed.expires_at),
        ),
        None => (
            RefusalCode::NeedsApproval,
            format!("plan {id} needs {needed} approvals and has {have}: {}", gate.reasons.join("; ")),
        ),
    };
    let hint = match (&record.state, record.gate.verdict) {
        (PlanState::Open {}, Verdict::Approval) => {
            format!("Ask an operator to look at it and run `nhi plan approve {id}`.")
        }
        // Nobody was asked to approve it, so nobody can.
        (PlanState::Open {}, Verdict::Automatic | Verdict::Confirm) => {
            "Policy has changed since: make a new plan.".to_owned()
        }
        (
            PlanState::Applied { .. }
            | PlanState::Rejected { .. }
            | PlanState::Cancelled { .. }
            | PlanState::Void { .. },
            _,
        ) => "Make a new plan, and have that approved: this one was applied.".to_owned(),
    };
    Err(Refusal::new(code, message, hint).with("needed", needed).with("approvals", have))
}

/// A person who destroys, or approves that, types the names of all guests that go, separated by commas.
fn name_is_typed(record: &PlanRecord, name: Option<&str>) -> Result<(), Refusal> {
    let names: BTreeSet<String> = destroyed(&record.plan).into_values().collect();
    if names.is_empty() {
        return Ok(());
    }
    let typed: BTreeSet<String> =
        name.unwrap_or_default().split(',').map(|name| name.trim().to_owned()).collect();
    if typed == names {
        return Ok(());
    }
    let listed = names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let message = match name {
        None => format!("plan {} destroys {listed}, and the name was not typed", record.plan.id),
        Some(name) => {
            let name: String = name.chars().take(80).collect();
            format!("plan {} destroys {listed}, and {name:?} was typed", record.plan.id)
        }
    };
    Err(Refusal::new(
        RefusalCode::NameNotTyped,
        message,
        "Type the name of what is destroyed: `--confirm-name NAME`, or `name` of the call.",
    )
    .with("names", names.into_iter().collect::<Vec<_>>()))
}
