//! The text of `.nhi/identities.json`, version 1. It reads and prints; it does not touch the disk.

use super::{Identity, Kind, Registry, RegistryError};
use jiff::Timestamp;
use nhi_model::{
    identity::{self, Agent, IdentityName, Role},
    rights::Grant,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::Path};

/// The version this program writes.
const VERSION: u32 = 1;

/// Only the version, so that a newer file is recognised before its shape is judged.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    v: u32,
    identities: BTreeMap<IdentityName, Row>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    /// `home`, `trusted`, or a role.
    kind: String,
    public_key: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    grants: Vec<String>,
    added: Timestamp,
}

pub(super) fn parse(path: &Path, text: &str) -> Result<Registry, RegistryError> {
    let corrupt = |why: String| RegistryError::Corrupt { path: path.to_owned(), why };
    let json = |error: serde_json::Error| corrupt(error.to_string());
    let Version { v } = serde_json::from_str(text).map_err(json)?;
    if v > VERSION {
        return Err(RegistryError::Newer { path: path.to_owned(), found: v });
    }
    let document: Document = serde_json::from_str(text).map_err(json)?;
    let mut identities = BTreeMap::new();
    for (name, row) in document.identities {
        let identity = read(&name, row).map_err(|why| corrupt(format!("identity {name}: {why}")))?;
        identities.insert(name, identity);
    }
    Ok(Registry { identities })
}

fn read(name: &IdentityName, row: Row) -> Result<Identity, String> {
    let kind = match row.kind.as_str() {
        "home" if *name == identity::home() => Kind::Home,
        "trusted" => Agent::ALL
            .into_iter()
            .find(|agent| agent.identity() == *name)
            .map(Kind::Trusted)
            .ok_or("this program has no trusted agent of that name")?,
        role => Kind::Role(role.parse::<Role>()?),
    };
    // It is written into the server's configuration, so it must be nothing but a key.
    match nkeys::from_public_key(&row.public_key) {
        Ok(_) if row.public_key.starts_with('U') => {}
        Ok(_) | Err(_) => return Err("its public_key is not an nkey (U…)".to_owned()),
    }
    let grants = row.grants.iter().map(|text| Grant::parse(text)).collect::<Result<_, _>>()?;
    Ok(Identity { kind, public_key: row.public_key, grants, added: row.added })
}

pub(super) fn print(registry: &Registry) -> String {
    let rows = registry.iter().map(|(name, identity)| {
        let row = Row {
            kind: kind_word(identity.kind).to_owned(),
            public_key: identity.public_key.clone(),
            grants: identity.grants.iter().map(Grant::text).collect(),
            added: identity.added,
        };
        (name.clone(), row)
    });
    let document = Document { v: VERSION, identities: rows.collect() };
    let text = serde_json::to_string_pretty(&document).expect("names, words and times are JSON");
    text + "\n"
}

const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Home => "home",
        Kind::Trusted(_) => "trusted",
        Kind::Role(role) => role.as_str(),
    }
}
