//! Project manifests in the four shapes the predecessors wrote: two kinds of Markdown, two of YAML. It reads no
//! file; nothing in a manifest is an instruction, and nothing that it does not say is invented.

mod changes;
mod english;
mod italian;
mod yaml;

pub use changes::{Found, ProjectsRead, SOURCE, Unread, project_changes};

use crate::clean;
use nhi_model::project::{ManifestShape, Project};
use serde_json::Value;
use std::collections::BTreeMap;

/// Largest manifest that is read, bytes: the text goes whole into the project's record.
pub const FILE_BYTES_MAX: usize = 256 * 1024;
/// Longest name, path, status or address that is kept, characters.
const LINE_CHARS_MAX: usize = 400;
/// Longest description that is kept, bytes.
const DESCRIPTION_BYTES_MAX: usize = 16 * 1024;
/// Status of a project whose manifest tells none, in Neural-Home v3's word.
const STATUS_UNKNOWN: &str = "Unknown";

/// The names a manifest file may have, in the order in which one of them is taken.
pub const FILE_NAMES: [&str; 3] = ["project_manifest.md", "project_manifest.yaml", "project_manifest.yml"];

/// Why a file is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Too large to be one.
    #[error("the manifest has {bytes} bytes, at most {FILE_BYTES_MAX} are read: shorten it")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not text.
    #[error("the manifest is not UTF-8 text: byte {at} is wrong")]
    NotText {
        /// Where it stops being text.
        at: usize,
    },
    /// Not YAML, or YAML that unfolds without end.
    #[error("the manifest is not readable YAML: {reason}")]
    Yaml {
        /// What the parser said, one line, with line and column.
        reason: String,
    },
    /// YAML of another shape.
    #[error("the manifest has no name: write `name:` at the top level or under `project:`")]
    Nameless,
}

/// Reads a manifest.
///
/// `id` is the name of the project's directory, `dir` its path, `file` the name of the file in it.
///
/// # Errors
/// [`ManifestError`] names what spoils the file. A Markdown file without any known label is a project of which
/// nothing is told, as it was in Neural-Home v3.
pub fn parse(id: &str, dir: &str, file: &str, bytes: &[u8]) -> Result<Project, ManifestError> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(ManifestError::TooLarge { bytes: bytes.len() });
    }
    let text = str::from_utf8(bytes).map_err(|error| ManifestError::NotText { at: error.valid_up_to() })?;
    // Editors on Windows put a mark in front.
    let body = text.trim_start_matches('\u{feff}');
    let told = if !file.ends_with(".md") {
        yaml::read(body)?
    } else if italian::is_it(body) {
        italian::read(body)
    } else if english::is_it(body) {
        english::read(body)
    } else {
        // Some wrote YAML into a file named .md; what is neither is Markdown that tells nothing.
        yaml::read(body).unwrap_or_else(|_| italian::read(body))
    };
    Ok(told.into_project(id, dir, text))
}

/// What a manifest tells; `None` where it is silent.
#[derive(Debug, Default)]
struct Told {
    shape: Option<ManifestShape>,
    name: Option<String>,
    path: Option<String>,
    status: Option<String>,
    description: Option<String>,
    port: Option<u16>,
    base_url: Option<String>,
    extra: BTreeMap<String, Value>,
}

impl Told {
    fn into_project(self, id: &str, dir: &str, raw: &str) -> Project {
        let line = |told: Option<String>, otherwise: &str| {
            let told = told.map(|text| clean::text(&text, LINE_CHARS_MAX)).filter(|t| !t.is_empty());
            told.unwrap_or_else(|| otherwise.to_owned())
        };
        Project {
            id: id.to_owned(),
            name: line(self.name, id),
            path: line(self.path, dir),
            status: line(self.status, STATUS_UNKNOWN),
            description: clean::block(self.description.unwrap_or_default().trim(), DESCRIPTION_BYTES_MAX),
            port: self.port,
            base_url: self.base_url.map(|url| clean::text(&url, LINE_CHARS_MAX)).filter(|u| !u.is_empty()),
            shape: self.shape.unwrap_or(ManifestShape::MarkdownItalian),
            raw_manifest: raw.to_owned(),
            extra: self.extra,
        }
    }
}

/// The rest of a line after a label, where the line has it.
fn after<'a>(line: &'a str, label: &str) -> Option<&'a str> {
    line.split_once(label).map(|(_, rest)| rest.trim())
}

/// A value without the backticks or quotes around it; what follows the closing one is a remark.
fn unquoted(value: &str) -> Option<String> {
    let value = value.trim();
    let inner = match value.chars().next() {
        Some(quote @ ('`' | '"' | '\'')) => {
            let rest = &value[quote.len_utf8()..];
            rest.split_once(quote).map_or(rest, |(inner, _)| inner)
        }
        Some(_) | None => value,
    };
    let inner = inner.trim();
    (!inner.is_empty()).then(|| inner.to_owned())
}

/// The number a value starts with, quotes and emphasis aside.
fn number<T: std::str::FromStr>(value: &str) -> Option<T> {
    let value = value.trim_start_matches([' ', '`', '"', '\'', '*']);
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..end].parse().ok()
}

#[cfg(test)]
mod tests;
