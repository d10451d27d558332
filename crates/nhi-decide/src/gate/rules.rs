//! Automatic, by confirmation, by approval, or never: per operation, role and identity, the strictest over all steps.

use super::{Input, called, is_person, marks, services, stricter, target};
use crate::policy::automatic;
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    identity::{IdentityName, Role},
    intent::Operation,
    key::Key,
    plan::{Gate, Plan, Step, Verdict},
    policy::{Policy, Rules},
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeSet;

/// The verdict with its reasons; no hours and no rehearsal yet.
pub(super) fn judge(input: &Input<'_>) -> Result<Gate, Refusal> {
    let Input { plan, policy, role, .. } = *input;
    for step in &plan.steps {
        never(step, policy, role, &plan.by)?;
        if let Some(back) = &step.compensation
            && !undoes_own(plan, back)
        {
            never(back, policy, role, &plan.by)?;
        }
    }
    let first = if is_person(role) { Verdict::Confirm } else { Verdict::Automatic };
    let mut gate =
        Gate { verdict: first, reasons: Vec::new(), approvals: 0, not_before: None, rehearse: false };
    for step in &plan.steps {
        of_step(input, step, &mut gate);
    }
    marks::judge(input, &mut gate);
    if gate.reasons.is_empty() {
        gate.reasons.push(match gate.verdict {
            Verdict::Confirm => {
                "it is a person's own plan: that person applies it, naming its digest".to_owned()
            }
            Verdict::Automatic | Verdict::Approval => {
                "policy lets all of it happen without approval".to_owned()
            }
        });
    }
    Ok(gate)
}

fn of_step(input: &Input<'_>, step: &Step, gate: &mut Gate) {
    let Input { plan, policy, role, .. } = *input;
    let operation = step.operation;
    let person = is_person(role);
    if policy.approval.two_people.contains(&operation) {
        // A person who asks is one of the two.
        let approvals = if person { 1 } else { 2 };
        stricter(gate, Verdict::Approval, approvals, format!("policy wants two people for {operation}"));
    }
    match ruled(operation, policy, role, &plan.by) {
        (Ruled::Approval, Some(table)) if person && table == COMMON => {}
        (Ruled::Approval, Some(table)) => {
            stricter(gate, Verdict::Approval, 1, format!("{operation} needs approval by [{table}]"));
        }
        (Ruled::Approval, None) if person => {}
        (Ruled::Approval, None) => {
            let reason = format!("{operation} stands nowhere in the policy, so it needs approval");
            stricter(gate, Verdict::Approval, 1, reason);
        }
        (Ruled::Automatic, _) => {}
    }
    if interrupts(plan, step)
        && !person
        && let Some(target) = target(plan, step)
    {
        for service in services(input, target) {
            if !input.graph.services[service].can_restart_without_approval {
                let reason = format!(
                    "{} carries {service}, which may not be interrupted without asking",
                    called(target)
                );
                stricter(gate, Verdict::Approval, 1, reason);
            }
        }
    }
}

const COMMON: &str = "operations";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ruled {
    Automatic,
    Approval,
}

/// What the first table that speaks of an operation says, and which one that is.
fn ruled(operation: Operation, policy: &Policy, role: Role, by: &IdentityName) -> (Ruled, Option<String>) {
    let has =
        |list: &Option<BTreeSet<Operation>>| list.as_ref().is_some_and(|list| list.contains(&operation));
    for (table, rules) in tables(policy, role, by) {
        if has(&rules.approval) {
            return (Ruled::Approval, Some(table));
        }
        let common = table == COMMON && automatic(policy).contains(&operation);
        if has(&rules.automatic) || common {
            return (Ruled::Automatic, Some(table));
        }
    }
    (Ruled::Approval, None)
}

/// The tables that speak to who asked, the nearest first.
fn tables<'a>(policy: &'a Policy, role: Role, by: &IdentityName) -> Vec<(String, &'a Rules)> {
    let identity = policy.identities.get(by).map(|rules| (format!("identities.{by}"), rules));
    let of_role = policy.roles.get(&role).map(|rules| (format!("roles.{role}"), rules));
    identity.into_iter().chain(of_role).chain([(COMMON.to_owned(), &policy.operations)]).collect()
}

fn never(step: &Step, policy: &Policy, role: Role, by: &IdentityName) -> Result<(), Refusal> {
    let says = |rules: &Rules| rules.never.as_ref().is_some_and(|list| list.contains(&step.operation));
    let found = tables(policy, role, by).into_iter().find(|(_, rules)| says(rules));
    let Some((table, _)) = found else { return Ok(()) };
    let refusal = Refusal::new(
        RefusalCode::Never,
        format!("policy never lets {by} {}: [{table}]", step.operation),
        "Ask the owner to do it, or to change infrastructure/policy.toml.",
    );
    Err(refusal.about(&step.guest).with("operation", step.operation.as_str()))
}

/// Whether a compensation only removes what the plan itself made: that is no operation of its own to policy.
fn undoes_own(plan: &Plan, back: &Step) -> bool {
    let made = |operation: Operation| {
        plan.steps.iter().any(|step| step.guest == back.guest && step.operation == operation)
    };
    match back.operation {
        Operation::Destroy => {
            plan.steps.iter().any(|step| step.guest == back.guest && step.operation.creates())
        }
        Operation::SnapshotDelete => made(Operation::Snapshot),
        Operation::Start
        | Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Resume
        | Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Snapshot
        | Operation::Rollback
        | Operation::Migrate
        | Operation::Resize
        | Operation::Set
        | Operation::Backup => false,
    }
}

/// Whether a step interrupts a guest that serves. One that must be stopped before the first write does not serve, and a
/// guest the plan makes did not before; a destroy takes a guest away for good, so it counts all the same.
pub(super) fn interrupts(plan: &Plan, step: &Step) -> bool {
    let made = plan.steps.iter().any(|other| other.guest == step.guest && other.operation.creates());
    let needed = step.operation == Operation::Destroy || !is_required_stopped(plan, &step.guest);
    step.operation.interrupts() && !made && needed
}

fn is_required_stopped(plan: &Plan, key: &Key) -> bool {
    plan.requires.iter().any(|fact| {
        matches!(fact, Fact::Status { guest, status: GuestStatus::Stopped | GuestStatus::Suspended } if guest == key)
    })
}
