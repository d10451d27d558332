//! How much may happen: the size of one plan, plans and runs of one agent, destroys of all.

use super::{Input, destroyed, is_person, is_whole};
use nhi_model::{
    plan::STEPS_MAX,
    refusal::{Refusal, RefusalCode},
};
use std::collections::BTreeSet;

/// How large one plan may be. A person who means the whole lab, or takes a plan back, is not held to what guards against
/// a tag that meant more than was thought.
pub(super) fn size(input: &Input<'_>) -> Result<(), Refusal> {
    let limits = &input.policy.limits;
    let steps = input.plan.steps.len();
    let whole = is_person(input.role) && is_whole(&input.plan.intent);
    let steps_max = if whole { STEPS_MAX } else { size_of(limits.steps_per_plan).min(STEPS_MAX) };
    if steps > steps_max {
        let refusal = Refusal::new(
            RefusalCode::TooManySteps,
            format!("the plan has {steps} steps, and one may have {steps_max}"),
            "Ask for it in parts.",
        );
        return Err(refusal.with("steps", steps).with("limit", steps_max));
    }
    let guests = input.plan.targets.iter().map(|target| &target.guest).collect::<BTreeSet<_>>().len();
    let guests_max = size_of(limits.guests_per_plan);
    if guests > guests_max && !whole {
        let refusal = Refusal::new(
            RefusalCode::Quota,
            format!("the plan writes to {guests} guests, and one plan may write to {guests_max}"),
            "Ask for it in parts, or name the guests instead of a tag.",
        );
        return Err(refusal.with("guests", guests).with("limit", guests_max));
    }
    Ok(())
}

/// How many guests may be destroyed in a day, by everybody together.
pub(super) fn destroys(input: &Input<'_>) -> Result<(), Refusal> {
    let planned = destroyed(input.plan).len();
    let (limit, before) = (input.policy.limits.destroys_per_day, input.recent.destroys_last_day);
    if planned == 0 || size_of(before).saturating_add(planned) <= size_of(limit) {
        return Ok(());
    }
    let refusal = Refusal::new(
        RefusalCode::Quota,
        format!(
            "{before} guests were destroyed in the last 24 hours, and {planned} more are over the limit of {limit}"
        ),
        "Wait, or ask the owner to raise destroys_per_day in infrastructure/policy.toml.",
    );
    Err(refusal.with("limit", limit).with("destroyed", before))
}

/// How many plans an agent may make in a minute.
pub(super) fn plans(input: &Input<'_>) -> Result<(), Refusal> {
    let (limit, made) = (input.policy.limits.plans_per_minute, input.recent.plans_last_minute);
    of_agent(
        input,
        made,
        limit,
        "made",
        "plans in the last minute",
        "Wait a minute, and ask for what you need at once.",
    )
}

/// How many plans an agent may apply in an hour, and have running.
pub(super) fn applies(input: &Input<'_>) -> Result<(), Refusal> {
    let limits = &input.policy.limits;
    let recent = input.recent;
    let hint = "Wait until a run of yours has ended: `nhi plan list` shows them.";
    of_agent(input, recent.running, limits.runs_at_once, "has", "runs under way", hint)?;
    let hint = "Wait until an hour has passed since the first of them, or ask an operator to apply it.";
    of_agent(
        input,
        recent.applies_last_hour,
        limits.applies_per_hour,
        "applied",
        "plans in the last hour",
        hint,
    )
}

fn of_agent(
    input: &Input<'_>,
    count: u32,
    limit: u32,
    verb: &str,
    what: &str,
    hint: &str,
) -> Result<(), Refusal> {
    if is_person(input.role) || count < limit {
        return Ok(());
    }
    let by = &input.plan.by;
    let refusal = Refusal::new(
        RefusalCode::Quota,
        format!("{by} {verb} {count} {what}, and the limit is {limit}"),
        hint,
    );
    Err(refusal.with("limit", limit))
}

fn size_of(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
