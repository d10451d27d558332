//! Sound plans changed at random: the linter sees every change that could do harm.

use crate::{
    lab::{lab, seal},
    lint::sound,
};
use nhi_model::plan::Plan;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Every leaf of a JSON value, by pointer.
pub(crate) fn leaves(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                leaves(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), out);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                leaves(item, format!("{at}/{index}"), out);
            }
        }
        _ => out.push(at),
    }
}

/// Whether a change there could do harm. Words for people, waits within bounds, and what is only told do none; the digest
/// binds them all the same.
pub(crate) fn matters(pointer: &str) -> bool {
    let parts: Vec<&str> = pointer.split('/').skip(1).collect();
    match parts.as_slice() {
        ["steps", _, "call" | "guest" | "node" | "operation", ..] => true,
        ["steps", _, "ends", "vmid"] | ["steps", _, "ends", "kinds", _] => true,
        ["targets", _, field, ..] => *field != "name",
        ["reads", ..] | ["v"] | ["cluster"] => true,
        _ => false,
    }
}

/// Another value of the same kind.
pub(crate) fn other(value: &Value, salt: u32) -> Value {
    match value {
        Value::Bool(on) => json!(!on),
        Value::Number(number) => json!(number.as_u64().unwrap_or(0) + 1 + u64::from(salt)),
        Value::String(text) => match salt % 4 {
            0 => json!(format!("{text}x")),
            1 => json!(format!("../{text}")),
            2 => json!(format!("{text}/")),
            _ => json!(text.chars().rev().chain("7".chars()).collect::<String>()),
        },
        other => other.clone(),
    }
}

/// A plan with one leaf changed; `None` when that is no plan any more, and so is refused before anybody checks it.
pub(crate) fn mutated(plan: &Plan, pointer: &str, salt: u32) -> Option<Plan> {
    let mut value = serde_json::to_value(plan).unwrap();
    let leaf = value.pointer_mut(pointer).unwrap();
    *leaf = other(leaf, salt);
    let mut plan: Plan = serde_json::from_value(value).ok()?;
    seal(&mut plan);
    Some(plan)
}

#[test]
fn no_change_that_matters_goes_unseen() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    proptest!(ProptestConfig::with_cases(1000), |(
        which in any::<prop::sample::Index>(),
        leaf in any::<prop::sample::Index>(),
        salt in 0u32..8,
    )| {
        let plan = which.get(&plans);
        let mut pointers = Vec::new();
        leaves(&serde_json::to_value(plan).unwrap(), String::new(), &mut pointers);
        pointers.retain(|pointer| matters(pointer));
        let pointer = leaf.get(&pointers);
        if let Some(changed) = mutated(plan, pointer, salt).filter(|changed| changed != plan) {
            prop_assert!(!lab.faults(&changed).is_empty(), "{:?}: {pointer} was changed unseen", plan.intent);
        }
    });
}

#[test]
fn no_step_is_added_left_out_or_swapped_unseen() {
    let mut lab = lab();
    let plans = sound(&mut lab);
    proptest!(ProptestConfig::with_cases(500), |(
        which in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        how in 0..3,
    )| {
        let (plan, other) = (which.get(&plans), other.get(&plans));
        let mut changed = plan.clone();
        match how {
            0 => drop(changed.steps.pop()),
            1 => changed.steps.extend(other.steps.clone()),
            _ => changed.steps.reverse(),
        }
        seal(&mut changed);
        if changed.steps != plan.steps {
            prop_assert!(!lab.faults(&changed).is_empty(), "{:?} became {:?}", plan.intent, changed.steps);
        }
    });
}
