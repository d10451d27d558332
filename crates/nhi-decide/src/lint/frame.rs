//! What holds of a plan as a whole: version, digest, times, revisions and sizes.

use super::{Faults, Scene};
use nhi_model::{
    SCHEMA_VERSION,
    act::UNDO_MINUTES_MAX,
    identity::Role,
    intent::{Intent, Operation},
    key::Key,
    plan::{Digest, Plan, STEPS_MAX},
};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

/// Largest plan as JSON, bytes: one message carries it together with its approvals.
const PLAN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest text of a plan, bytes; the longest are notes of a guest.
const TEXT_BYTES_MAX: usize = 16 * 1024;

pub(super) fn check(plan: &Plan, scene: &Scene<'_>, faults: &mut Faults) {
    if plan.v != SCHEMA_VERSION {
        faults.add(format!("it has version {}, not {SCHEMA_VERSION}", plan.v));
    }
    if plan.cluster != scene.sight.cluster {
        faults.add(format!(
            "it is for cluster {:?}, and {:?} was looked at",
            plan.cluster, scene.sight.cluster
        ));
    }
    let value = serde_json::to_value(plan).unwrap_or_default();
    if plan.digest.as_ref() != Some(&of_value(value.clone())) {
        faults.add("its digest is not that of its content");
    }
    times(plan, scene, faults);
    reads(plan, scene, faults);
    sizes(plan, scene, faults);
    texts(&value, faults);
    caution(plan, scene, faults);
}

/// The digest of a plan: SHA-256 of its JSON with sorted keys, no spaces, and `null` for the digest itself.
pub fn digest(plan: &Plan) -> Digest {
    of_value(serde_json::to_value(plan).unwrap_or_default())
}

fn of_value(mut plan: Value) -> Digest {
    if let Some(fields) = plan.as_object_mut() {
        fields.insert("digest".to_owned(), Value::Null);
    }
    let mut text = String::new();
    write(&plan, &mut text);
    Digest::of(Sha256::digest(text.as_bytes()).into())
}

/// JSON with the keys of each object in order, whatever order the library keeps.
fn write(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut rows: Vec<(&String, &Value)> = fields.iter().collect();
            rows.sort_by_key(|(name, _)| *name);
            out.push('{');
            for (at, (name, value)) in rows.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
    }
}

fn times(plan: &Plan, scene: &Scene<'_>, faults: &mut Faults) {
    if plan.made_at > scene.now {
        faults.add(format!("it was made at {}, which is yet to come", plan.made_at));
    }
    let most = jiff::SignedDuration::from_mins(scene.policy.approval.plan_minutes.into());
    let lives = plan.expires_at.duration_since(plan.made_at);
    if lives.is_negative() || lives.is_zero() {
        faults.add("it ends before it begins");
    }
    if lives > most {
        faults.add(format!(
            "it could be applied for {} min, and policy lets {} pass",
            lives.as_mins(),
            most.as_mins()
        ));
    }
    if plan.expires_at <= scene.now {
        faults.add(format!("it ended at {}", plan.expires_at));
    }
}

fn reads(plan: &Plan, scene: &Scene<'_>, faults: &mut Faults) {
    if plan.revision > scene.revision {
        faults
            .add(format!("it was made on revision {}, and the newest is {}", plan.revision, scene.revision));
    }
    for (key, revision) in &plan.reads {
        let now = scene.known.get(key).map_or(0, |known| known.revision);
        if *revision != now {
            faults.add(format!("it relies on {key} at revision {revision}, and that is at {now}"));
        }
        if *revision > plan.revision {
            faults.add(format!(
                "it relies on {key} at revision {revision}, newer than its own {}",
                plan.revision
            ));
        }
    }
}

/// Whether who asked is held to policy's size of one plan: not a person who means the whole lab or takes a plan back.
fn is_bounded(plan: &Plan, scene: &Scene<'_>) -> bool {
    let whole = matches!(plan.intent, Intent::LabDown {} | Intent::LabUp { .. } | Intent::Undo { .. });
    !(whole && matches!(scene.role, Role::Operator | Role::Owner))
}

fn sizes(plan: &Plan, scene: &Scene<'_>, faults: &mut Faults) {
    let limits = &scene.policy.limits;
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let bounded = is_bounded(plan, scene);
    let steps = if bounded { count(limits.steps_per_plan).min(STEPS_MAX) } else { STEPS_MAX };
    if plan.steps.is_empty() {
        faults.add("it has no steps");
    }
    if plan.steps.len() > steps {
        faults.add(format!("it has {} steps, and {steps} are allowed", plan.steps.len()));
    }
    let written: BTreeSet<&Key> = plan.steps.iter().map(|step| &step.guest).collect();
    if bounded && written.len() > count(limits.guests_per_plan) {
        faults.add(format!(
            "it writes to {} guests, and {} are allowed",
            written.len(),
            limits.guests_per_plan
        ));
    }
    let destroys: BTreeSet<&Key> = plan
        .steps
        .iter()
        .filter(|step| step.operation == Operation::Destroy)
        .map(|step| &step.guest)
        .collect();
    if destroys.len() > count(limits.destroys_per_day) {
        faults.add(format!(
            "it destroys {} guests, and {} a day are allowed",
            destroys.len(),
            limits.destroys_per_day
        ));
    }
}

/// Texts of bounded length without characters that fool a terminal, and all of it of bounded size.
fn texts(plan: &Value, faults: &mut Faults) {
    let mut bytes = 0;
    let mut todo = vec![plan];
    while let Some(next) = todo.pop() {
        match next {
            Value::Object(fields) => {
                bytes += fields.keys().map(String::len).sum::<usize>();
                todo.extend(fields.values());
            }
            Value::Array(items) => todo.extend(items),
            Value::String(text) => {
                bytes += text.len();
                if text.len() > TEXT_BYTES_MAX {
                    faults.add(format!("a text of it has {} bytes", text.len()));
                }
                if text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') {
                    faults.add(format!("a text of it has control characters: {text:?}"));
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => bytes += 4,
        }
    }
    if bytes > PLAN_BYTES_MAX {
        faults.add(format!("it has {bytes} bytes, and {PLAN_BYTES_MAX} are carried"));
    }
}

/// What policy wants for safety.
fn caution(plan: &Plan, scene: &Scene<'_>, faults: &mut Faults) {
    let minutes = plan.undo_unless_confirmed_minutes;
    if let Some(minutes) = minutes.filter(|minutes| !(1..=UNDO_MINUTES_MAX).contains(minutes)) {
        faults.add(format!("it would be taken back after {minutes} min"));
    }
    let wanted = &scene.policy.caution.undo_unless_confirmed_minutes;
    for step in &plan.steps {
        if let Some(most) = wanted.get(&step.operation)
            && !plan.undo.intents.is_empty()
            && minutes.is_none_or(|minutes| minutes > *most)
        {
            faults.add(format!(
                "policy wants {} taken back unless confirmed within {most} min",
                step.operation
            ));
        }
    }
}
