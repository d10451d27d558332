//! A plan in one sentence.

use crate::clean;
use nhi_model::{intent::Operation, plan::Plan};

/// Steps that are all said; of more, only how many there are of each kind.
const SAID_MAX: usize = 3;

/// What a plan does, one sentence.
pub fn summary(plan: &Plan) -> String {
    let mut text = if plan.steps.len() <= SAID_MAX {
        plan.steps.iter().map(|step| step.what.as_str()).collect::<Vec<_>>().join(", ")
    } else {
        counts(plan)
    };
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    clean::text(&text, 400)
}

fn counts(plan: &Plan) -> String {
    let count = |operation: &Operation| plan.steps.iter().filter(|step| step.operation == *operation).count();
    let parts =
        Operation::ALL.iter().map(|operation| (operation, count(operation))).filter(|(_, count)| *count > 0);
    let said: Vec<String> = parts.map(|(operation, count)| format!("{count} × {operation}")).collect();
    let mut names: Vec<String> = plan.targets.iter().take(5).map(|target| target.name.clone()).collect();
    if plan.targets.len() > names.len() {
        names.push(format!("{} more", plan.targets.len() - names.len()));
    }
    format!("{} steps ({}) on {}", plan.steps.len(), said.join(", "), names.join(", "))
}
