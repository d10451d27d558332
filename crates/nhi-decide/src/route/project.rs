//! What a project's own manifest says about its AI requests. It can only make the rules stricter: whoever may write into
//! a project's directory, agents among them, decides nothing about what leaves the house.
//!
//! In YAML `ai: { privacy: home, backends: [pc, nas], dollars_a_day: 1 }`, at the top or under `project:`; in Markdown
//! the lines `**AI privacy:** home`, `**AI backends:** pc, nas` and `**AI dollars a day:** 1`.

use super::ProjectSettings;
use nhi_model::{ai::Privacy, project::Project};
use serde_json::Value;
use std::collections::BTreeSet;

/// Most backends that are read of one manifest.
const BACKENDS_MAX: usize = 64;

/// What is to be known of other projects where somebody names one that neither the configuration nor a manifest knows:
/// those whose manifests keep them from leaving, so that [`super::read`] refuses a name that may be theirs with a letter
/// wrong.
pub fn strict_manifests<'p>(
    all: impl IntoIterator<Item = &'p Project>,
) -> impl Iterator<Item = (String, ProjectSettings)> {
    let rows = all.into_iter().map(|project| (project.id.clone(), of_manifest(project)));
    rows.filter(|(_, rules)| rules.privacy > Privacy::Any)
}

/// What the manifest says. A word that is none is taken for the strictest: somebody wanted something kept.
pub fn of_manifest(project: &Project) -> ProjectSettings {
    let yaml = |field: &str| project.extra.get("ai").and_then(|ai| ai.get(field)).cloned();
    let line = |label: &str| {
        let mut lines = project.raw_manifest.lines();
        let text = lines.find_map(|line| {
            line.trim().trim_start_matches(['-', '*', ' ']).strip_prefix(label)?.strip_prefix(":**")
        });
        text.map(|text| Value::String(text.trim().trim_matches('`').to_owned()))
    };
    let told = |field: &str, label: &str| yaml(field).or_else(|| line(label));
    ProjectSettings {
        privacy: told("privacy", "AI privacy").map_or(Privacy::Any, |word| privacy(&word)),
        backends: told("backends", "AI backends").map(|list| backends(&list)).unwrap_or_default(),
        dollars_a_day: told("dollars_a_day", "AI dollars a day").map(|number| dollars(&number)),
    }
}

fn privacy(word: &Value) -> Privacy {
    serde_json::from_value(word.clone()).unwrap_or(Privacy::Home)
}

fn backends(list: &Value) -> BTreeSet<String> {
    let names: Vec<&str> = match list {
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        Value::String(text) => text.split(',').collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    let names = names.into_iter().map(|name| name.trim().trim_matches('`').to_owned());
    let names: BTreeSet<String> = names.filter(|name| !name.is_empty()).take(BACKENDS_MAX).collect();
    if names.is_empty() { nobody() } else { names }
}

fn dollars(number: &Value) -> f64 {
    let text = |text: &str| text.trim_start_matches('$').trim().parse::<f64>().ok();
    let number = number.as_f64().or_else(|| number.as_str().and_then(text));
    number.filter(|dollars| dollars.is_finite() && *dollars >= 0.0).unwrap_or(0.0)
}

/// A list that names no backend there can be; an empty one would mean all.
fn nobody() -> BTreeSet<String> {
    BTreeSet::from([String::new()])
}

impl ProjectSettings {
    /// Both: what either forbids is forbidden.
    pub fn and(&self, other: &Self) -> Self {
        let backends = match (self.backends.is_empty(), other.backends.is_empty()) {
            (true, _) => other.backends.clone(),
            (_, true) => self.backends.clone(),
            (false, false) => {
                let both: BTreeSet<String> = self.backends.intersection(&other.backends).cloned().collect();
                if both.is_empty() { nobody() } else { both }
            }
        };
        let dollars = [self.dollars_a_day, other.dollars_a_day];
        Self {
            backends,
            privacy: self.privacy.max(other.privacy),
            dollars_a_day: dollars.into_iter().flatten().reduce(f64::min),
        }
    }
}
