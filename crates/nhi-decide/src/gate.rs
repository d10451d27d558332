//! What policy says of a finished plan: whether it may go, who has to say yes, and not before when. It knows no
//! rule of planning and does not look at the lab; the linter checks the plan itself.
//!
//! Invariants: the strictest word over all steps counts; a `never` anywhere beats everything; nothing here makes a
//! plan that was refused allowed because something else was added to the policy's `never`.

mod approval;
mod harms;
pub mod hours;
mod limits;
mod marks;
mod rules;
mod windows;

use crate::observe::Known;
use nhi_model::{
    Timestamp,
    graph::Graph,
    guest::Guest,
    identity::Role,
    intent::{Intent, Operation},
    key::Key,
    plan::{Gate, Plan, Step, Target, Verdict},
    policy::Policy,
    refusal::{Refusal, RefusalCode},
    run::Freeze,
};
use std::collections::BTreeMap;

use crate::policy::{View, carries};

pub use approval::{Apply, Approve, Start, approvals, approve, may_apply, may_start};

/// What the gate looks at.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The moment.
    pub now: Timestamp,
    /// The plan.
    pub plan: &'a Plan,
    /// The policy of this moment.
    pub policy: &'a Policy,
    /// The dependency graph of this moment; empty when there is none.
    pub graph: &'a Graph,
    /// The records of this moment: which service a guest carries may hang on its tags.
    pub known: &'a BTreeMap<Key, Known>,
    /// Role of who asked for the plan.
    pub role: Role,
    /// The freeze, when there is one.
    pub frozen: Option<&'a Freeze>,
    /// What happened lately, without this plan.
    pub recent: &'a Recent,
    /// Whether the plan was rehearsed.
    pub rehearsed: bool,
}

/// What happened lately, without the plan that is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recent {
    /// Plans that who asked made in the last minute.
    pub plans_last_minute: u32,
    /// Plans of theirs that were applied in the last hour.
    pub applies_last_hour: u32,
    /// Runs of theirs that are not over.
    pub running: u32,
    /// Guests destroyed, by whomever, in the last 24 hours, and those of runs that are not over.
    pub destroys_last_day: u32,
}

/// What policy says of a plan that was just made.
///
/// # Errors
/// The [`Refusal`] when it can go in no way.
pub fn gate(input: &Input<'_>) -> Result<Gate, Refusal> {
    limits::plans(input)?;
    recheck(input)
}

/// What policy says of a plan that was made before: at apply, and when one that waited is due. [`Gate::not_before`] says
/// that it is not its hour.
///
/// # Errors
/// The [`Refusal`] when it can no longer go.
pub fn recheck(input: &Input<'_>) -> Result<Gate, Refusal> {
    acts(input.role)?;
    if let Some(freeze) = input.frozen {
        return Err(frozen(freeze));
    }
    harms::judge(input)?;
    limits::size(input)?;
    limits::destroys(input)?;
    let mut gate = rules::judge(input)?;
    gate.not_before = windows::not_before(input, &mut gate.reasons)?;
    let rehearse = &input.policy.caution.rehearse;
    if let Some(step) = input.plan.steps.iter().find(|step| rehearse.contains(&step.operation)) {
        gate.rehearse = !input.rehearsed;
        gate.reasons.push(format!("policy has {} rehearsed first", step.operation));
    }
    Ok(gate)
}

/// Whether a plan harms nobody who is protected now. Of what policy says that counts for a take-back too: the rest was
/// said yes to with the run it belongs to.
///
/// # Errors
/// The [`Refusal`] when it does.
pub fn harmless(input: &Input<'_>) -> Result<(), Refusal> {
    harms::judge(input)
}

/// Whether a role acts at all.
fn acts(role: Role) -> Result<(), Refusal> {
    match role {
        Role::Agent | Role::Operator | Role::Owner => Ok(()),
        Role::Viewer | Role::Edge | Role::Service => Err(Refusal::new(
            RefusalCode::Never,
            format!("who has the role {role} changes nothing"),
            "Ask an operator, or use an identity of another role.",
        )),
    }
}

const fn is_person(role: Role) -> bool {
    match role {
        Role::Operator | Role::Owner => true,
        Role::Agent | Role::Viewer | Role::Edge | Role::Service => false,
    }
}

fn frozen(freeze: &Freeze) -> Refusal {
    let why = if freeze.reason.is_empty() { "no reason was given" } else { freeze.reason.as_str() };
    Refusal::new(
        RefusalCode::Frozen,
        format!("everything is stopped by {} since {:.0}: {why}", freeze.by, freeze.since),
        "Wait until an operator ends it with `nhi thaw`; nothing else helps.",
    )
    .with("by", freeze.by.as_str())
    .with("since", freeze.since.to_string())
}

/// Whether an intent means the whole lab by its nature, or what one plan did, however much that was.
const fn is_whole(intent: &Intent) -> bool {
    matches!(intent, Intent::LabDown {} | Intent::LabUp { .. } | Intent::Undo { .. })
}

fn target<'a>(plan: &'a Plan, step: &Step) -> Option<&'a Target> {
    plan.targets.iter().find(|target| target.guest == step.guest)
}

/// The guest's name, or its number when it has none.
fn called(target: &Target) -> String {
    if target.name.is_empty() { target.vmid.to_string() } else { target.name.clone() }
}

/// The guests a plan destroys, each once, by what they are called. One that is no target is still counted.
fn destroyed(plan: &Plan) -> BTreeMap<&Key, String> {
    let steps = plan.steps.iter().filter(|step| step.operation == Operation::Destroy);
    steps
        .map(|step| (&step.guest, target(plan, step).map_or_else(|| step.guest.to_string(), called)))
        .collect()
}

/// A guest as its record has it; of one without a record, what the plan says.
fn view(input: &Input<'_>, target: &Target) -> View {
    match input.known.get(&target.guest).and_then(Known::typed::<Guest>) {
        Some(guest) => View::of_record(&target.guest, &guest),
        None => View {
            key: target.guest.clone(),
            name: target.name.clone(),
            tags: Default::default(),
            flag: None,
        },
    }
}

/// The services of the graph that a guest carries.
fn services<'a>(input: &Input<'a>, target: &Target) -> Vec<&'a str> {
    let view = view(input, target);
    let names = input.graph.services.keys();
    names.filter(|service| carries(&view, service, input.policy)).map(String::as_str).collect()
}

/// The strictest of two verdicts, with the reasons for it alone.
fn stricter(gate: &mut Gate, verdict: Verdict, approvals: u8, reason: String) {
    if verdict > gate.verdict {
        gate.reasons.clear();
        gate.verdict = verdict;
    }
    if verdict == gate.verdict && !gate.reasons.contains(&reason) {
        gate.reasons.push(reason);
    }
    if verdict == Verdict::Approval {
        gate.approvals = gate.approvals.max(approvals);
    }
}
