//! `nhi.toml` and `.env` as written. Unknown keys are errors that name the nearest known one.

use super::ConfigError;
use nhi_decide::semaphore::Thresholds;
use nhi_model::intent::Operation;
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// The file's tables.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) proxmox: BTreeMap<String, RawCluster>,
    pub(super) nats: RawNats,
    pub(super) http: RawHttp,
    pub(super) projects: RawProjects,
    pub(super) scan: RawScan,
    pub(super) act: RawAct,
    pub(super) guard: Guard,
    pub(super) gpu: Option<RawGpu>,
    pub(super) ai: nhi_decide::route::Settings,
    pub(super) telemetry: RawTelemetry,
    #[serde(rename = "self")]
    pub(super) ourselves: RawSelf,
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
    pub(super) act_token_id: Option<String>,
    pub(super) act_token_secret_env: Option<String>,
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

/// `[telemetry]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTelemetry {
    pub(super) otlp: Option<String>,
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

/// `[act]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawAct {
    /// As many numbers as were written, so that wrong ones are refused with what is expected.
    pub(super) vmid_range: Option<Vec<i64>>,
}

/// `[guard]`: what the tokens are meant to be able to do, where it is not what is usual.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Guard {
    /// Pools in which guests may be made and destroyed.
    pub pools: Option<BTreeSet<String>>,
    /// Storages for disks of new guests and for backups.
    pub storages: Option<BTreeSet<String>>,
    /// Zones whose bridges new guests may use.
    pub zones: Option<BTreeSet<String>>,
    /// Guests outside the pools that may be copied.
    pub templates: Option<BTreeSet<u32>>,
    /// What may be done to every guest that is not protected.
    pub everywhere: Option<BTreeSet<Operation>>,
    /// What may be done to guests in the pools.
    pub in_pools: Option<BTreeSet<Operation>>,
    /// Whether the scanner may see backups.
    pub backups: bool,
}

/// `[gpu]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawGpu {
    pub(super) host: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) url: Option<String>,
    pub(super) backend: Option<String>,
    pub(super) server: Option<RawServer>,
    pub(super) on_red: Option<RawOnRed>,
    pub(super) parallel: Option<usize>,
    pub(super) routers: BTreeSet<String>,
    pub(super) look_ms: Option<u64>,
    pub(super) games: BTreeSet<String>,
    pub(super) model_servers: BTreeSet<String>,
    pub(super) remote_ports: Option<BTreeSet<u16>>,
    pub(super) nvml: Option<PathBuf>,
    pub(super) thresholds: Thresholds,
}

/// What serves the models.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum RawServer {
    #[serde(rename = "ollama")]
    Ollama,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    #[serde(rename = "llama-swap")]
    LlamaSwap,
    #[serde(rename = "other")]
    Other,
}

/// What becomes of requests that run.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RawOnRed {
    Cut,
    Finish,
}

/// `[self]`
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawSelf {
    pub(super) guests: Vec<String>,
}

/// Reads a file; an absent one is empty unless it was asked for by name.
pub(super) fn read(path: &Path, required: bool) -> Result<String, ConfigError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(String::new()),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

/// Parses `nhi.toml`.
pub(super) fn parse(path: &Path, text: &str) -> Result<Raw, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let line = line_at(text, error.span().map_or(0, |span| span.start));
        ConfigError::File { path: path.to_owned(), line, what: explain(error.message()) }
    })
}

/// The line, from 1, in which a byte stands.
pub(super) fn line_at(text: &str, byte: usize) -> usize {
    text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// The parser's message, with the nearest known key in place of the list of all of them, or the nearest known word
/// before it: what a word means is not told by how it is spelt.
fn explain(message: &str) -> String {
    let whole = || message.lines().collect::<Vec<_>>().join(" ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let is_key = message.starts_with("unknown field");
    if !is_key && !message.starts_with("unknown variant") {
        return whole();
    }
    let Some(unknown) = quoted.next() else { return whole() };
    let known: Vec<&str> = quoted.collect();
    let likeness = |known: &str| strsim::jaro_winkler(unknown, known);
    match known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))) {
        Some(nearest) if is_key => format!("unknown key `{unknown}`: did you mean `{nearest}`?"),
        Some(nearest) => {
            format!("unknown word `{unknown}`: did you mean `{nearest}`? The words are {}", known.join(", "))
        }
        None if is_key => format!("unknown key `{unknown}`: remove it"),
        None => whole(),
    }
}

/// Parses `.env`. Nothing reaches the process environment, and no value an error.
pub(super) fn parse_dot_env(path: &Path, text: &str) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut out = BTreeMap::new();
    for item in dotenvy::from_read_iter(text.as_bytes()) {
        let (key, value) = item.map_err(|error| {
            let told = match error {
                dotenvy::Error::LineParse(told, _) => told,
                _ => String::new(),
            };
            let first = told.lines().next().unwrap_or_default();
            let line = text.lines().position(|line| line == first).map_or(1, |before| before + 1);
            let name: String = first.split('=').next().unwrap_or_default().trim().chars().take(40).collect();
            let what =
                format!("the line of {name:?} is not KEY=value; put values with spaces or # in quotes");
            ConfigError::File { path: path.to_owned(), line, what }
        })?;
        out.insert(key, value);
    }
    Ok(out)
}
