//! YAML manifests: the fields at the top level, or under `project:`. Nesting, size and alias expansion are
//! bounded while parsing, so no file of a few bytes becomes a gigabyte.

use super::{ManifestError, Told};
use crate::clean;
use nhi_model::project::ManifestShape;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Values (scalars, lists, maps) in one manifest.
const NODES_MAX: usize = 20_000;
/// Aliases in one manifest. Each may repeat a text of the file's size.
const ALIASES_MAX: usize = 32;
/// What does not fit here is left out: the raw text has it.
const EXTRA_BYTES_MAX: usize = 64 * 1024;
/// Fields that have a place of their own.
const TAKEN: [&str; 6] = ["name", "description", "path", "port", "base_url", "project"];

pub(super) fn read(text: &str) -> Result<Told, ManifestError> {
    let budget = serde_saphyr::budget! {
        max_nodes: NODES_MAX,
        max_events: 4 * NODES_MAX,
        max_aliases: ALIASES_MAX,
        max_anchors: ALIASES_MAX,
        max_documents: 1,
        max_merge_keys: ALIASES_MAX,
        max_total_scalar_bytes: 2 * super::FILE_BYTES_MAX,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: NODES_MAX },
        with_snippet: false,
    };
    let whole: Value = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        ManifestError::Yaml { reason: clean::text(&error.to_string(), clean::REASON_CHARS_MAX) }
    })?;
    let Value::Object(top) = whole else { return Err(ManifestError::Nameless) };
    let nested = top.get("project").and_then(Value::as_object).cloned();
    let shape = if nested.is_some() { ManifestShape::YamlNested } else { ManifestShape::YamlFlat };
    // What stands beside `project:` is told about it as well, but says less.
    let mut fields = top;
    fields.extend(nested.unwrap_or_default());
    let name = text_of(&fields, "/name");
    if name.is_none() {
        return Err(ManifestError::Nameless);
    }
    Ok(Told {
        shape: Some(shape),
        name,
        path: text_of(&fields, "/path"),
        status: text_of(&fields, "/status").or_else(|| text_of(&fields, "/status/stage")),
        description: text_of(&fields, "/description"),
        port: ["/port", "/registration/port", "/interfaces/port", "/frontend/port"]
            .into_iter()
            .find_map(|pointer| number_of(&fields, pointer)),
        base_url: ["/base_url", "/interfaces/base_url", "/frontend/url"]
            .into_iter()
            .find_map(|pointer| text_of(&fields, pointer)),
        extra: extra(fields),
    })
}

fn at<'a>(fields: &'a Map<String, Value>, pointer: &str) -> Option<&'a Value> {
    let mut parts = pointer.split('/').skip(1);
    let first = fields.get(parts.next()?)?;
    parts.try_fold(first, |value, name| value.get(name))
}

/// A scalar as text; YAML reads `1.0` and `yes` as something else, which its author did not mean.
fn text_of(fields: &Map<String, Value>, pointer: &str) -> Option<String> {
    match at(fields, pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A number, or a text that is one.
fn number_of<T: TryFrom<u64>>(fields: &Map<String, Value>, pointer: &str) -> Option<T> {
    let value = at(fields, pointer)?;
    let number = value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())?;
    T::try_from(number).ok()
}

fn extra(mut fields: Map<String, Value>) -> BTreeMap<String, Value> {
    let vmid: Option<u32> =
        ["/vmid", "/registration/vmid"].into_iter().find_map(|pointer| number_of(&fields, pointer));
    for taken in TAKEN {
        fields.remove(taken);
    }
    if fields.get("status").is_some_and(|status| !status.is_object()) {
        fields.remove("status");
    }
    let mut out = BTreeMap::new();
    let mut room = EXTRA_BYTES_MAX;
    for (name, value) in fields {
        let bytes = name.len() + value.to_string().len();
        if bytes <= room {
            room -= bytes;
            out.insert(name, value);
        }
    }
    if let Some(vmid) = vmid {
        out.insert("vmid".to_owned(), json!(vmid));
    }
    out
}
