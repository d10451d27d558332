//! Markdown with bold English labels and tables of properties.

use super::{Told, after, number, unquoted};
use nhi_model::project::ManifestShape;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const NAME: &str = "**Name:**";
const STATUS: &str = "**Status:**";
const DESCRIPTION: &str = "**Description:**";

/// Rows of property tables that become further facts: what stands in the table, and the name it gets. An address
/// written here is a wish, not a sight, and is named so.
const PROPERTIES: [(&str, &str); 9] = [
    ("ip address", "ip_configured"),
    ("ip", "ip_configured"),
    ("stack", "stack"),
    ("repository", "repository"),
    ("health endpoint", "health_endpoint"),
    ("metrics endpoint", "metrics_endpoint"),
    ("log location", "log_location"),
    ("registered", "registered"),
    ("manifest path", "manifest_path"),
];

pub(super) fn is_it(text: &str) -> bool {
    text.lines().any(|line| {
        [NAME, STATUS, DESCRIPTION].into_iter().any(|label| line.contains(label))
            || row(line).is_some_and(|cells| matches!(key(cells[0]).as_str(), "lxc id" | "vmid"))
    })
}

pub(super) fn read(text: &str) -> Told {
    let label = |label| text.lines().find_map(|line| after(line, label)).and_then(said);
    let mut properties: BTreeMap<String, String> = BTreeMap::new();
    let mut dependencies = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("##") {
            // Tables of a subsection belong to their section.
            if !heading.starts_with('#') {
                section = heading.trim();
            }
            continue;
        }
        let Some(cells) = row(line) else { continue };
        if section.eq_ignore_ascii_case("dependencies") {
            dependencies.extend(dependency(&cells));
        } else if let (Some(name), Some(value)) = (cells.first(), cells.get(1).and_then(|v| said(v))) {
            properties.entry(key(name)).or_insert(value);
        }
    }
    let of = |names: &[&str]| names.iter().find_map(|name| properties.get(*name));
    let mut extra = BTreeMap::new();
    if let Some(vmid) = of(&["lxc id", "vm id", "vmid"]).and_then(|value| number::<u32>(value)) {
        extra.insert("vmid".to_owned(), json!(vmid));
    }
    for (written, name) in PROPERTIES {
        if let Some(value) = of(&[written]) {
            extra.entry(name.to_owned()).or_insert_with(|| json!(value));
        }
    }
    if !dependencies.is_empty() {
        extra.insert("dependencies".to_owned(), Value::Array(dependencies));
    }
    Told {
        shape: Some(ManifestShape::MarkdownEnglish),
        name: label(NAME).or_else(|| of(&["name"]).cloned()),
        path: label("**Path:**").or_else(|| of(&["path"]).cloned()),
        status: label(STATUS).or_else(|| of(&["status"]).cloned()),
        description: label(DESCRIPTION).or_else(|| of(&["description"]).cloned()),
        port: label("**Port:**").or_else(|| of(&["port"]).cloned()).and_then(|value| number(&value)),
        base_url: label("**Base URL:**").or_else(|| of(&["base url", "url"]).cloned()),
        extra,
    }
}

/// The cells of a table row; `None` for other lines and for the rule under a header.
fn row(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?;
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    let cells: Vec<&str> = inner.split('|').map(str::trim).collect();
    let is_rule = cells.iter().all(|cell| cell.chars().all(|c| matches!(c, '-' | ':')));
    (!is_rule).then_some(cells)
}

/// A property's name without emphasis, in lower case.
fn key(cell: &str) -> String {
    cell.trim_matches(['*', '`', ' ', ':']).to_lowercase()
}

/// A value, unless the template's placeholder or a dash still stands there.
fn said(cell: &str) -> Option<String> {
    let value = unquoted(cell.trim_matches('*'))?;
    let placeholder = value.starts_with("{{") || matches!(value.as_str(), "-" | "—" | "TBD" | "N/A" | "n/a");
    (!placeholder).then_some(value)
}

/// A row of a dependency table: service, address, port, use. A header is none.
fn dependency(cells: &[&str]) -> Option<Value> {
    let name = cells.first().and_then(|cell| said(cell))?;
    if matches!(key(&name).as_str(), "service" | "api" | "name") {
        return None;
    }
    Some(json!({
        "name": name,
        "port": cells.iter().skip(1).find_map(|cell| cell.parse::<u16>().ok()),
        "for": cells.last().filter(|_| cells.len() > 1).and_then(|cell| said(cell)),
    }))
}
