//! When a plan may start: restart-safe hours of what it interrupts, and hours in which agents are quiet.

use super::{Input, hours, is_person, rules::interrupts, services, target};
use crate::policy::zone;
use nhi_model::{
    Timestamp,
    plan::Target,
    refusal::{Refusal, RefusalCode},
};
use std::collections::{BTreeMap, BTreeSet};

/// The moment before which the plan does not start; `None` when it may now.
pub(super) fn not_before(input: &Input<'_>, reasons: &mut Vec<String>) -> Result<Option<Timestamp>, Refusal> {
    let mut allowed = hours::all();
    let mut why = Vec::new();
    let quiet = &input.policy.hours.quiet;
    if !is_person(input.role) && !quiet.is_empty() {
        allowed.retain(|hour| !quiet.contains(hour));
        why.push(format!("nothing an agent asked for starts in the hours {}", listed(quiet)));
    }
    for (name, window) in interrupted(input) {
        allowed.retain(|hour| window.contains(hour));
        why.push(format!("{name} may be interrupted in the hours {}", listed(&window)));
    }
    if why.is_empty() {
        return Ok(None);
    }
    let zone = zone(input.policy).map_err(|what| {
        Refusal::new(
            RefusalCode::NotSeen,
            format!("policy's hours cannot be told: {what}"),
            "Ask the owner to correct time_zone in infrastructure/policy.toml.",
        )
    })?;
    let Some(start) = hours::next(&zone, input.now, &allowed) else {
        let refusal = Refusal::new(
            RefusalCode::Never,
            format!("there is no hour in which all of it may start: {}", why.join("; ")),
            "Ask for it in parts, guest by guest, or ask the owner to change the hours.",
        );
        return Err(refusal.with("hours", why));
    };
    if start <= input.now {
        return Ok(None);
    }
    let zone_name = input.policy.time_zone.as_deref().unwrap_or("UTC");
    let local = zone.to_datetime(start).strftime("%Y-%m-%d %H:%M").to_string();
    reasons.push(format!("it starts at {local} {zone_name}: {}", why.join("; ")));
    Ok(Some(start))
}

/// The guests that are interrupted and have hours for that, each once, by what they are called.
fn interrupted(input: &Input<'_>) -> BTreeMap<String, BTreeSet<u8>> {
    let mut windows: BTreeMap<String, BTreeSet<u8>> = BTreeMap::new();
    for step in input.plan.steps.iter().filter(|step| interrupts(input.plan, step)) {
        let Some(target) = target(input.plan, step) else { continue };
        if let Some(window) = window(input, target) {
            windows
                .entry(super::called(target))
                .or_insert_with(hours::all)
                .retain(|hour| window.contains(hour));
        }
    }
    windows
}

/// The hours of one guest: those of every service it carries that has any, else the common ones; `None` means any.
fn window(input: &Input<'_>, target: &Target) -> Option<BTreeSet<u8>> {
    let own =
        services(input, target).into_iter().map(|service| &input.graph.services[service].restart_safe_hours);
    let own = own.filter(|hours| !hours.is_empty());
    let common = own.map(|hours| hours.iter().copied().collect::<BTreeSet<u8>>()).reduce(|a, b| &a & &b);
    let rest = &input.policy.hours.restart_safe;
    common.or_else(|| (!rest.is_empty()).then(|| rest.clone()))
}

/// `2, 3 and 4`
fn listed(hours: &BTreeSet<u8>) -> String {
    let words: Vec<String> = hours.iter().map(u8::to_string).collect();
    match words.split_last() {
        None => "(none)".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
