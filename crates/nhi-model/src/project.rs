//! A project described by a `project_manifest` file.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A project, under `project.<id>`. Field names are those of Neural-Home v3 where it had them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Project {
    /// Directory name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub path: String,
    /// Status, as written.
    pub status: String,
    /// What it is for.
    pub description: String,
    /// Port of its interface.
    #[serde(default)]
    pub port: Option<u16>,
    /// Base URL of its interface.
    #[serde(default)]
    pub base_url: Option<String>,
    /// Which of the known shapes the file has.
    pub shape: ManifestShape,
    /// The file's text, at most 256 KiB.
    pub raw_manifest: String,
    /// What the shape tells beyond the fields above (guest id, stack, dependencies, …).
    #[serde(default)]
    pub extra: BTreeMap<String, Value>,
}

/// The shapes a manifest comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ManifestShape {
    /// Markdown with Italian labels (`# PROGETTO:`).
    MarkdownItalian,
    /// Markdown with English labels and tables.
    MarkdownEnglish,
    /// YAML, flat.
    YamlFlat,
    /// YAML, nested under `project:`.
    YamlNested,
}
