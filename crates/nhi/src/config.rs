//! `nhi.toml`, `.env` and the environment, parsed once and then trusted. It opens no connection.

mod ai;
mod cluster;
mod file;
mod gpu;
mod place;

pub(crate) use ai::Ai;
pub(crate) use cluster::ClusterConfig;
pub(crate) use file::Guard;
pub(crate) use gpu::{GpuConfig, ordinary as ordinary_gpu};

use crate::otlp::Collector;
use file::Raw;
use nhi_bus::connect::{ConnectError, Target};
use nhi_model::intent::GuestRef;
use place::Places;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

/// Numbers new guests get when nothing is configured: away from those that people give by hand.
const VMID_RANGE: (u32, u32) = (700, 899);

/// The guest that plays the mesh's own machine in the simulated lab.
const DEMO_SELF: &str = "home/100";

/// Everything that can be configured, with defaults filled in.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Proxmox clusters and stand-alone hosts by name.
    pub clusters: Vec<ClusterConfig>,
    /// Where nats-server listens.
    pub nats_listen: SocketAddr,
    /// Servers to join instead of starting one.
    pub nats_join: Vec<String>,
    /// Certificate authority of joined servers.
    pub nats_ca_file: Option<PathBuf>,
    /// Copies JetStream keeps of each stream on a joined cluster.
    pub nats_replicas: u8,
    /// Where the gateway listens.
    pub http_listen: SocketAddr,
    /// Further names the gateway answers to.
    pub http_hosts: Vec<String>,
    /// Further origins the gateway accepts.
    pub http_origins: Vec<String>,
    /// Directories whose direct children may hold a project manifest.
    pub project_roots: Vec<PathBuf>,
    /// Seconds between looks at the index.
    pub scan_index_s: u64,
    /// Seconds between full passes.
    pub scan_full_s: u64,
    /// Numbers of guests that are made here: the first and the last.
    pub vmid_range: (u32, u32),
    /// Guests the mesh itself runs on, beside those it recognises.
    pub self_guests: Vec<GuestRef>,
    /// What the tokens are meant to be able to do.
    pub guard: Guard,
    /// Backends of AI, and their keys.
    pub ai: Ai,
    /// The publisher of this machine's GPU, where there is to be one.
    pub gpu: Option<GpuConfig>,
    /// Who collects traces; nobody by default.
    pub otlp: Option<Collector>,
    /// What a person should know although it is no error.
    pub warnings: Vec<String>,
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file is there and cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of `nhi.toml` or `.env` is wrong.
    #[error("{path}:{line}: {what}")]
    File {
        /// The file, or `.env`.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What is wrong and what to do.
        what: String,
    },
    /// A value is missing or wrong.
    #[error("{key}: {what}")]
    Value {
        /// The key, in the file's or the environment's words.
        key: String,
        /// What is wrong and what to do.
        what: String,
    },
}

impl ConfigError {
    /// A wrong or missing value.
    pub(crate) fn value(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Value { key: key.into(), what: what.into() }
    }
}

/// Where settings come from.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    /// `nhi.toml`, which may be absent.
    pub file: &'a Path,
    /// Whether the file was named on the command line, so that its absence is an error.
    pub file_required: bool,
    /// `.env`, which may be absent.
    pub dot_env: &'a Path,
    /// The process environment.
    pub environment: BTreeMap<String, String>,
    /// Whether outside systems are left out: demo mode ignores `PROXMOX_*`, `.env` and `[proxmox]`, and has no cloud but
    /// those of `[ai]`.
    pub demo: bool,
}

/// Reads the configuration.
///
/// # Errors
/// [`ConfigError`], one sentence with file, place and remedy.
pub(crate) fn load(origin: &Origin<'_>) -> Result<Config, ConfigError> {
    let toml = file::read(origin.file, origin.file_required)?;
    let raw = file::parse(origin.file, &toml)?;
    let dot_env = if origin.demo { String::new() } else { file::read(origin.dot_env, false)? };
    let mut variables = file::parse_dot_env(origin.dot_env, &dot_env)?;
    if !origin.demo {
        variables.extend(origin.environment.clone());
    }
    let places = Places { origin, toml: &toml, dot_env: &dot_env };
    checked(raw, &variables, origin).map_err(|error| places.name(error))
}

fn checked(
    raw: Raw,
    variables: &BTreeMap<String, String>,
    origin: &Origin<'_>,
) -> Result<Config, ConfigError> {
    let base = origin.file.parent().unwrap_or(Path::new("."));
    let mut warnings = Vec::new();
    let clusters =
        if origin.demo { Vec::new() } else { cluster::all(&raw.proxmox, variables, base, &mut warnings)? };
    let seconds = |key: &str, value: Option<u64>, default: u64| match value.unwrap_or(default) {
        0 => Err(ConfigError::value(key, "must be at least 1 second")),
        s if s > 86_400 => Err(ConfigError::value(key, format!("{s} seconds is more than a day"))),
        s => Ok(s),
    };
    Ok(Config {
        clusters,
        nats_listen: address("nats.listen", raw.nats.listen, 4222)?,
        nats_join: servers(raw.nats.servers)?,
        nats_ca_file: authority(raw.nats.ca_file.map(|path| base.join(path)))?,
        nats_replicas: replicas(raw.nats.replicas)?,
        http_listen: address("http.listen", raw.http.listen, 8000)?,
        http_hosts: hosts(raw.http.hosts)?,
        http_origins: origins(raw.http.origins)?,
        project_roots: raw.projects.roots.into_iter().map(|path| base.join(path)).collect(),
        scan_index_s: seconds("scan.index_s", raw.scan.index_s, 5)?,
        scan_full_s: seconds("scan.full_s", raw.scan.full_s, 60)?,
        vmid_range: vmid_range(raw.act.vmid_range)?,
        self_guests: self_guests(&raw.ourselves.guests, origin.demo)?,
        guard: raw.guard,
        gpu: raw.gpu.map(|gpu| gpu::checked(gpu, base)).transpose()?,
        ai: ai::checked(raw.ai, variables, origin, &mut warnings)?,
        otlp: collector(raw.telemetry.otlp.as_deref())?,
        warnings,
    })
}

/// Who collects traces.
fn collector(told: Option<&str>) -> Result<Option<Collector>, ConfigError> {
    let read = |url| Collector::parse(url).map_err(|what| ConfigError::value("telemetry.otlp", what));
    told.map(read).transpose()
}

/// Servers to join, looked at before anything is opened.
fn servers(told: Vec<String>) -> Result<Vec<String>, ConfigError> {
    for url in &told {
        // The client takes the comma for a part of the host.
        if url.contains(',') {
            let what = "holds several addresses in one text; write each as a text of its own";
            return Err(ConfigError::value("nats.servers", what));
        }
        match Target::plain(url).check() {
            Ok(()) => {}
            Err(ConnectError::BadAddress { url, reason }) => {
                let what = format!("{url:?} cannot be used: {reason}; write it as nats://HOST:4222");
                return Err(ConfigError::value("nats.servers", what));
            }
            Err(error) => return Err(ConfigError::value("nats.servers", error.to_string())),
        }
    }
    Ok(told)
}

/// The authority of joined servers. What it holds is looked at by who connects.
fn authority(told: Option<PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    if let Some(path) = &told
        && let Err(error) = fs::File::open(path)
    {
        let what = format!(
            "cannot read {}: {error}; copy ca.pem from the machine that runs the mesh",
            path.display()
        );
        return Err(ConfigError::value("nats.ca_file", what));
    }
    Ok(told)
}

/// Names of the gateway. One that is none would be believed and never match.
fn hosts(told: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let is_name = |host: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        host.parse::<IpAddr>().is_ok() || (!host.is_empty() && host.chars().all(good))
    };
    match told.iter().find(|host| !is_name(host)) {
        None => Ok(told),
        Some(host) => {
            let what = format!("{host:?} is no name; write only the host, such as nhi.lan");
            Err(ConfigError::value("http.hosts", what))
        }
    }
}

/// Pages that may call. `*` and `null` would let in every page there is.
fn origins(told: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let is_origin = |origin: &str| {
        let Some((scheme, host)) = origin.split_once("://") else { return false };
        let host = host.strip_suffix('/').unwrap_or(host);
        let is_host = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '*' | '?' | '#' | '@' | ',');
        !scheme.is_empty() && !host.is_empty() && host.chars().all(is_host)
    };
    match told.iter().find(|origin| !is_origin(origin)) {
        None => Ok(told),
        Some(origin) => {
            let what = format!(
                "{origin:?} is no origin of a page; write scheme and host, such as https://pages.example"
            );
            Err(ConfigError::value("http.origins", what))
        }
    }
}

/// Where something listens; by default on the loopback alone.
fn address(key: &str, told: Option<String>, port: u16) -> Result<SocketAddr, ConfigError> {
    let Some(told) = told else { return Ok(SocketAddr::from(([127, 0, 0, 1], port))) };
    told.trim().parse().map_err(|_| {
        let what =
            format!("{told:?} cannot be used; write an IP address and a port, such as 127.0.0.1:{port}");
        ConfigError::value(key, what)
    })
}

/// Copies of each stream: JetStream can lose one of three or two of five; an even number gains nothing.
fn replicas(told: Option<u8>) -> Result<u8, ConfigError> {
    match told.unwrap_or(1) {
        copies @ (1 | 3 | 5) => Ok(copies),
        other => Err(ConfigError::value(
            "nats.replicas",
            format!("{other} copies cannot be kept; write 1, 3 or 5"),
        )),
    }
}

/// Numbers new guests may have. Proxmox begins at 100 and ends at 999999999.
fn vmid_range(told: Option<Vec<i64>>) -> Result<(u32, u32), ConfigError> {
    let Some(told) = told else { return Ok(VMID_RANGE) };
    let number = |told: &i64| u32::try_from(*told).ok().filter(|vmid| (100..=999_999_999).contains(vmid));
    if let [first, last] = &told[..]
        && let (Some(first), Some(last)) = (number(first), number(last))
        && first <= last
    {
        return Ok((first, last));
    }
    let what =
        format!("{told:?} is no range of guest numbers; write the first and the last, such as [700, 899]");
    Err(ConfigError::value("act.vmid_range", what))
}

/// The guests we run on. The simulated lab has one that plays us.
fn self_guests(told: &[String], demo: bool) -> Result<Vec<GuestRef>, ConfigError> {
    let simulated = [DEMO_SELF.to_owned()];
    let told = if demo { &simulated } else { told };
    let parse = |text: &String| {
        GuestRef::parse(text).map_err(|error| ConfigError::value("self.guests", error.to_string()))
    };
    told.iter().map(parse).collect()
}

#[cfg(test)]
mod tests;
