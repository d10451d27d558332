//! Markdown with Italian labels, Neural-Home v3's own shape. Line by line: an empty value ends at its line, and a
//! description that is the last section is one.

use super::{Told, after, number, unquoted};
use nhi_model::project::ManifestShape;
use serde_json::json;

const NAME: &str = "# PROGETTO:";
const PATH: &str = "**Path:**";
const STATUS: &str = "**Stato:**";
const PORT: &str = "**Porta:**";
const BASE_URL: &str = "**Base URL:**";
const PURPOSE: &str = "## 🎯 Scopo";
const STACK: &str = "Stack Tecnologico";

pub(super) fn is_it(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        line.starts_with(NAME) || line.starts_with(PURPOSE) || line.contains(STATUS) || line.contains(PORT)
    })
}

pub(super) fn read(text: &str) -> Told {
    let first =
        |label: &str| text.lines().find_map(|line| after(line, label)).filter(|rest| !rest.is_empty());
    let mut told = Told {
        shape: Some(ManifestShape::MarkdownItalian),
        name: text.lines().find_map(|line| line.trim().strip_prefix(NAME)).map(str::to_owned),
        path: first(PATH).and_then(unquoted),
        // Backticks inside a status are part of what its author wrote.
        status: first(STATUS).map(str::to_owned),
        description: section(text, |line| line.starts_with(PURPOSE)),
        port: first(PORT).and_then(number),
        base_url: first(BASE_URL).and_then(unquoted),
        ..Told::default()
    };
    let stack = section(text, |line| line.starts_with("##") && line.ends_with(STACK));
    let stack: Vec<_> = stack.iter().flat_map(|text| text.lines()).filter_map(bullet).collect();
    if !stack.is_empty() {
        told.extra.insert("stack".to_owned(), json!(stack));
    }
    told
}

/// The text between a heading and the next heading below the title, or the end.
fn section(text: &str, is_heading: impl Fn(&str) -> bool) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| !is_heading(line.trim()));
    lines.next()?;
    let body: Vec<&str> = lines.take_while(|line| !line.starts_with("##")).collect();
    Some(body.join("\n").trim().to_owned())
}

fn bullet(line: &str) -> Option<&str> {
    line.trim().strip_prefix(['-', '*']).map(str::trim).filter(|item| !item.is_empty())
}
