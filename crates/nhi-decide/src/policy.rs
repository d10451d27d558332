//! Reads `infrastructure/policy.toml`, with line and column of each mistake, and answers what it says of one guest.
//! What it says of a plan is the gate's.
//!
//! Why not `toml`'s own messages? They list all keys there are; a person who mistyped one wants the one they meant.

mod check;
mod guests;
mod place;
mod standing;

use check::Problem;
use nhi_model::{intent::Operation, policy::Policy};
use place::Places;
use serde_json::{Value, json};

pub use check::{snapshot_helps, warnings, zone};
pub use guests::{View, carries, harms_protected, names, protection};
pub use standing::{FileRead, Standing};

/// Largest file that is read, bytes. A home names dozens of guests, not thousands.
pub const FILE_BYTES_MAX: usize = 256 * 1024;

/// Why a file is no policy, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}{}: {what}", in_key(.key))]
pub struct PolicyError {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key it is about (`hours.restart_safe[3]`); empty when there is none.
    pub key: String,
    /// What is wrong and what to do, with the nearest known key where one was not known.
    pub what: String,
}

fn in_key(key: &str) -> String {
    if key.is_empty() { String::new() } else { format!(" ({key})") }
}

/// Reads the file's text.
///
/// # Errors
/// [`PolicyError`] names the first mistake. There is no policy then: a part of one could be less strict than the whole.
pub fn parse(text: &str) -> Result<Policy, PolicyError> {
    if text.len() > FILE_BYTES_MAX {
        let what = format!(
            "the file has {} bytes, at most {FILE_BYTES_MAX} are read: is it the right file?",
            text.len()
        );
        return Err(PolicyError { line: 1, column: 1, key: String::new(), what });
    }
    // Editors on Windows put a mark in front that is no TOML.
    let text = text.trim_start_matches('\u{feff}');
    let places = Places::of(text).map_err(|error| place::explained(text, None, &error))?;
    let policy: Policy =
        toml::from_str(text).map_err(|error| place::explained(text, Some(&places), &error))?;
    match check::first(&policy) {
        None => Ok(policy),
        Some(Problem { key, what }) => {
            let (line, column) = places.position(text, &key);
            Err(PolicyError { line, column, key, what })
        }
    }
}

/// The JSON Schema of the file, for editors. `docs/policy.schema.json` is this.
pub fn schema() -> Value {
    let mut schema = schemars::schema_for!(Policy).to_value();
    schema["title"] = "infrastructure/policy.toml".into();
    // Bounds that the types cannot say; `check` keeps them.
    for hours in ["restart_safe", "quiet"] {
        schema["$defs"]["Hours"]["properties"][hours]["items"]["maximum"] = 23.into();
    }
    schema["properties"]["roles"]["propertyNames"] = json!({ "enum": ["agent", "operator", "owner"] });
    schema["properties"]["identities"]["propertyNames"] = json!({ "pattern": "^[a-z][a-z0-9-]{0,31}$" });
    if let Some(limits) = schema["$defs"]["Limits"]["properties"].as_object_mut() {
        limits.values_mut().for_each(|limit| limit["minimum"] = 1.into());
    }
    schema
}

/// The file that says what holds without one, with comments; it reads as [`Policy::default`].
pub fn default_text() -> String {
    include_str!("policy/default.toml").to_owned()
}

/// What the common table lets happen without approval: its own list, or the default's.
pub fn automatic(policy: &Policy) -> Vec<Operation> {
    match &policy.operations.automatic {
        Some(listed) => listed.iter().copied().collect(),
        None => nhi_model::policy::AUTOMATIC_DEFAULT.to_vec(),
    }
}
