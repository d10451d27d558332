//! What changed since a plan was made that matters to it. Addresses, backups and other people's notes do not.

use crate::{clean, diff, fact::named, observe::Known};
use nhi_model::{
    key::{Key, Section},
    plan::Plan,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fields of a guest that are of no account to any plan.
const GUEST_WEATHER: [&str; 3] = ["address_source", "addresses", "backups"];
/// Fields that count of a guest the plan does not write to.
const BYSTANDER: [&str; 5] = ["name", "node", "status", "template", "volumes"];
/// Fields that count of a node and of a storage.
const PLACE: [&str; 6] = ["active", "content", "enabled", "kind", "shared", "status"];
/// Sentences that are told; of more, only how many there are.
const TOLD_MAX: usize = 50;

/// What changed between the records a plan was made on and those now, a sentence each. Empty: the plan still stands.
pub fn changes(plan: &Plan, then: &BTreeMap<Key, Known>, now: &BTreeMap<Key, Known>) -> Vec<String> {
    let targets: BTreeSet<&Key> = plan.targets.iter().map(|target| &target.guest).collect();
    let mut out = Vec::new();
    for (key, revision) in &plan.reads {
        let present = now.get(key);
        if present.map_or(0, |known| known.revision) == *revision
            && present.is_none_or(|known| known.stale.is_none())
        {
            continue;
        }
        let before = then.get(key).filter(|known| known.revision == *revision);
        out.extend(of_record(key, *revision, before, present, targets.contains(key)));
    }
    if out.len() > TOLD_MAX {
        let more = out.len() - TOLD_MAX;
        out.truncate(TOLD_MAX);
        out.push(format!("{more} more things changed"));
    }
    out
}

fn of_record(
    key: &Key,
    revision: u64,
    before: Option<&Known>,
    now: Option<&Known>,
    target: bool,
) -> Vec<String> {
    let words = words(key, now.or(before));
    let Some(now) = now else {
        return vec![format!("{words} is gone")];
    };
    if revision == 0 {
        return vec![format!("{words} came into being")];
    }
    let mut out = Vec::new();
    if let Some(stale) = &now.stale {
        // The graph counts as its last good file has it.
        if key.section() != Section::Graph {
            out.push(format!("{words} can no longer be seen: {}", clean::text(&stale.reason, 200)));
        }
    }
    let Some(before) = before else {
        out.push(format!("{words} changed, and what it was is no longer kept"));
        return out;
    };
    match key.section() {
        Section::Vm | Section::Lxc => out.extend(of_fields(&words, before, now, |field| {
            if target { !GUEST_WEATHER.contains(&field) } else { BYSTANDER.contains(&field) }
        })),
        Section::Node | Section::Storage => {
            out.extend(of_fields(&words, before, now, |field| PLACE.contains(&field)));
        }
        Section::Graph => out.extend(of_graph(before, now)),
        Section::Source
        | Section::Host
        | Section::Gpu
        | Section::Docker
        | Section::Project
        | Section::Provider
        | Section::Alert => out.extend(of_fields(&words, before, now, |_| true)),
    }
    out
}

fn of_fields(words: &str, before: &Known, now: &Known, counts: impl Fn(&str) -> bool) -> Vec<String> {
    let mut fields: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (pointer, change) in diff::fields(&before.record, &now.record) {
        let name = pointer.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned();
        if counts(&name) {
            fields.entry(name).or_insert_with(|| (shown(&change.before), shown(&change.after)));
        }
    }
    // What a digest is of changes with it, mostly in a line that says more.
    if fields.len() > 1 {
        fields.remove("config_digest");
    }
    let say = |(name, (was, is)): (String, (String, String))| match name.as_str() {
        "config_digest" => format!("the configuration of {words} changed"),
        _ => format!("{name} of {words} was {was} and is {is}"),
    };
    fields.into_iter().map(say).collect()
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "not there".to_owned(),
        Value::String(text) => format!("{:?}", clean::text(text, 80)),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(_) | Value::Object(_) => clean::text(&value.to_string(), 80),
    }
}

/// Services whose dependencies changed. Hours and criticality are the gate's, which looks again when it is time.
fn of_graph(before: &Known, now: &Known) -> Vec<String> {
    let needs = |known: &Known| {
        let mut pairs: BTreeSet<(String, String)> = BTreeSet::new();
        let services = known.record.get("services").and_then(Value::as_object);
        for (name, row) in services.into_iter().flatten() {
            let texts = |field: &str| {
                let list = row.get(field).and_then(Value::as_array).into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
            };
            pairs.extend(texts("depends_on").into_iter().map(|needed| (name.clone(), needed)));
            pairs.extend(texts("required_by").into_iter().map(|dependent| (dependent, name.clone())));
        }
        pairs
    };
    let (was, is) = (needs(before), needs(now));
    let say = |(service, needed): &(String, String), what: &str| {
        format!("in the dependency graph {} {what} {}", clean::text(service, 80), clean::text(needed, 80))
    };
    let new = is.difference(&was).map(|pair| say(pair, "now needs"));
    let old = was.difference(&is).map(|pair| say(pair, "no longer needs"));
    new.chain(old).collect()
}

fn words(key: &Key, known: Option<&Known>) -> String {
    let name = known.and_then(|known| known.record.get("name")).and_then(Value::as_str);
    match (key.section(), name) {
        (Section::Vm | Section::Lxc, Some(name)) => format!("{} ({})", named(key), clean::text(name, 64)),
        _ => named(key),
    }
}
