//! `nhi.toml` and `.env` as written. Unknown keys are errors that name the nearest known one.

use super::ConfigError;
use serde::Deserialize;
use std::{collections::BTreeMap, fs, io, path::Path, path::PathBuf};

/// The file's tables.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) proxmox: BTreeMap<String, RawCluster>,
    pub(super) nats: RawNats,
    pub(super) http: RawHttp,
    pub(super) projects: RawProjects,
    pub(super) scan: RawScan,
}

/// `[proxmox.<cluster>]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) url: Option<String>,
    #[serde(default)]
    pub(super) urls: Vec<String>,
    pub(super) token_id: String,
    pub(super) token_secret_env: String,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) fingerprint: Option<String>,
}

/// `[nats]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawNats {
    pub(super) listen: Option<String>,
    pub(super) servers: Vec<String>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) replicas: Option<u8>,
}

/// `[http]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawHttp {
    pub(super) listen: Option<String>,
    pub(super) hosts: Vec<String>,
    pub(super) origins: Vec<String>,
}

/// `[projects]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawProjects {
    pub(super) roots: Vec<PathBuf>,
}

/// `[scan]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawScan {
    pub(super) index_s: Option<u64>,
    pub(super) full_s: Option<u64>,
}

/// Reads `nhi.toml`; an absent one is empty unless it was asked for by name.
pub(super) fn read(path: &Path, required: bool) -> Result<Raw, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return Ok(Raw::default()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..start].iter().filter(|b| **b == b'\n').count() + 1;
        ConfigError::File { path: path.to_owned(), line, what: explain(error.message()) }
    })
}

/// The parser's message, with the nearest known key in place of the list of all of them.
fn explain(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = message.starts_with("unknown field").then(|| quoted.next()).flatten() else {
        return message.lines().collect::<Vec<_>>().join(" ");
    };
    let nearest =
        quoted.max_by(|a, b| strsim::jaro_winkler(unknown, a).total_cmp(&strsim::jaro_winkler(unknown, b)));
    match nearest {
        Some(known) => format!("unknown key `{unknown}`: did you mean `{known}`?"),
        None => format!("unknown key `{unknown}`: remove it"),
    }
}

/// Reads `.env`; an absent one is empty. Nothing reaches the process environment.
pub(super) fn read_dot_env(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let mut out = BTreeMap::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        let (key, value) = item.map_err(|error| {
            let line = match error {
                dotenvy::Error::LineParse(line, _) => line,
                _ => String::new(),
            };
            let name = line.split('=').next().unwrap_or_default().trim().chars().take(40).collect();
            ConfigError::DotEnv { path: path.to_owned(), line: name }
        })?;
        out.insert(key, value);
    }
    Ok(out)
}
