//! `nhi doctor`: looks at everything that can be wrong here and says what to do. It changes nothing.

mod acting;
mod running;

use crate::{
    cli::Global,
    config::Config,
    exit::{Exit, Failure},
    layout::Layout,
    out,
};
use nhi_bus::{
    keys::{self, Seed},
    private,
    registry::{Registry, RegistryError},
    server::{self, locate::Fetch, source},
};
use nhi_decide::graph;
use nhi_model::identity::IdentityName;
use nhi_pve::Kind;
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

/// How long a cluster may take to say its version.
const PROXMOX_MAX: Duration = Duration::from_secs(15);

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Fine,
    Warn,
    Bad,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

impl Check {
    fn fine(what: &'static str, found: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Fine, found: found.into(), remedy: String::new() }
    }

    fn warn(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Warn, found: found.into(), remedy: remedy.into() }
    }

    fn bad(what: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what, verdict: Verdict::Bad, found: found.into(), remedy: remedy.into() }
    }
}

/// Runs `nhi doctor`.
///
/// # Errors
/// [`Exit::Unwell`] when something needs a person.
pub(crate) async fn run(layout: &Layout, global: &Global) -> Result<(), Failure> {
    let mut checks = Vec::new();
    let config = match crate::load(global, layout, false) {
        Ok(config) => {
            checks.push(Check::fine("configuration", "readable"));
            Some(config)
        }
        Err(failure) => {
            let found = crate::chain(&failure.error);
            checks.push(Check::bad("configuration", found, "correct the named place"));
            None
        }
    };
    checks.push(directory(layout));
    checks.extend(keys(layout));
    checks.push(nats_server().await);
    checks.push(dependency_graph(layout));
    checks.push(acting::rules(layout));
    if let Some(config) = &config {
        checks.extend(proxmox(layout, config).await);
        checks.extend(acting::rights(layout, config).await);
        checks.extend(running::checks(layout, config, global).await);
    }
    show(&checks, global.json);
    let bad = checks.iter().filter(|c| c.verdict == Verdict::Bad).count();
    if bad == 0 {
        Ok(())
    } else {
        Err(Failure::new(Exit::Unwell, format!("{bad} of {} checks failed", checks.len())))
    }
}

fn show(checks: &[Check], as_json: bool) {
    if as_json {
        return out::json(&checks);
    }
    for check in checks {
        let mark = match check.verdict {
            Verdict::Fine => "✓",
            Verdict::Warn => "!",
            Verdict::Bad => "✗",
        };
        out::line(&format!("{mark} {:<14} {}", check.what, out::safe(&check.found)));
        if !check.remedy.is_empty() {
            out::line(&format!("  {:<14} → {}", "", out::safe(&check.remedy)));
        }
    }
}

fn directory(layout: &Layout) -> Check {
    let data = layout.data();
    if !data.exists() {
        return Check::warn("directory", format!("{} is not there yet", data.display()), "nhi up makes it");
    }
    if !data.is_dir() {
        let found = format!("{} is not a directory", data.display());
        return Check::bad("directory", found, "move it away; nhi up makes the directory");
    }
    match private::check_owner(&data) {
        Ok(()) => Check::fine("directory", data.display().to_string()),
        Err(error) => Check::bad("directory", error.to_string(), "run as its owner or choose another --dir"),
    }
}

fn keys(layout: &Layout) -> Vec<Check> {
    let dir = layout.keys();
    let files = match fs::read_dir(&dir) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let found = format!("cannot read {}: {error}", dir.display());
            return vec![Check::bad("keys", found, "run as its owner, or put the directory back")];
        }
    };
    let mut checks = Vec::new();
    if private::is_exposed(&dir) {
        let found = format!("others can look into {}", dir.display());
        checks.push(Check::warn("keys", found, format!("chmod 700 {}", dir.display())));
    }
    let registry = match Registry::load(&layout.data()) {
        Ok(registry) => Some(registry),
        // A machine that was enrolled has keys and no list of identities.
        Err(RegistryError::Missing { .. }) => None,
        Err(error) => {
            let found = crate::chain(&error.into());
            checks.push(Check::bad("identities", found, "put .nhi/identities.json back from a backup"));
            None
        }
    };
    let mut paths: Vec<PathBuf> = files.filter_map(Result::ok).map(|file| file.path()).collect();
    paths.sort();
    checks.extend(paths.iter().filter_map(|path| key(path, registry.as_ref())));
    if checks.is_empty() {
        checks.push(Check::fine("keys", "whole, and only their owner can read them"));
    }
    checks
}

/// What is wrong with one key's file.
fn key(path: &Path, registry: Option<&Registry>) -> Option<Check> {
    let name = path.file_stem().and_then(|stem| stem.to_str()).and_then(|s| IdentityName::parse(s).ok())?;
    if private::is_exposed(path) {
        let remedy = format!(
            "chmod 600 {0}, then nhi auth renew {name}, since others may have read it",
            path.display()
        );
        return Some(Check::bad("keys", format!("others can read {}", path.display()), remedy));
    }
    let renew = format!("nhi auth renew {name}");
    let seed: Seed = match keys::load_file(path, &name) {
        Ok(seed) => seed,
        Err(error) => return Some(Check::bad("keys", crate::chain(&error.into()), renew)),
    };
    match registry?.get(&name) {
        Some(identity) if identity.public_key == seed.public_key() => None,
        Some(_) => {
            let found = format!("{} is not the key that {name} has now, so it opens nothing", path.display());
            Some(Check::bad("keys", found, format!("put the newest one there, or {renew}")))
        }
        None => {
            let found = format!("{} is the key of nobody: {name} was revoked", path.display());
            Some(Check::warn("keys", found, "delete the file"))
        }
    }
}

async fn nats_server() -> Check {
    let looked = server::Locate { fetch: Fetch::Never, ..server::Locate::from_environment() };
    let error = match server::locate(&looked).await {
        Ok(found) => {
            let found = format!("{} at {}", found.version, found.path.display());
            return Check::fine("nats-server", found);
        }
        Err(error) => error,
    };
    match error {
        server::LocateError::NotFound => Check::warn(
            "nats-server",
            "not found",
            "nhi up fetches it the first time; where the network is closed it needs Python 3 with pip for that",
        ),
        server::LocateError::TooOld { path, version } => Check::bad(
            "nats-server",
            format!("{version} at {} is too old", path.display()),
            format!("upgrade it, or remove it: nhi up then fetches {}", source::VERSION),
        ),
        server::LocateError::Broken { path, why } => Check::bad(
            "nats-server",
            format!("{} does not run: {why}", path.display()),
            "set NATS_SERVER to one that does, or unset it: nhi up then fetches it",
        ),
        error @ (server::LocateError::Fetch(_) | server::LocateError::Cache(_)) => Check::bad(
            "nats-server",
            crate::chain(&error.into()),
            "make the cache directory yours, or set NATS_SERVER to a nats-server",
        ),
    }
}

fn dependency_graph(layout: &Layout) -> Check {
    let path = layout.dependency_graph();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::fine("dependencies", "no dependency_graph.json, so nothing depends on anything");
        }
        Err(error) => {
            let found = format!("cannot read {}: {error}", path.display());
            return Check::bad("dependencies", found, "make it a text file this user can read");
        }
    };
    match graph::parse(&text) {
        Ok(graph) if graph.warnings.is_empty() => {
            Check::fine("dependencies", format!("{} services", graph.services.len()))
        }
        Ok(graph) => {
            Check::warn("dependencies", graph.warnings.join("; "), format!("correct {}", path.display()))
        }
        Err(error) => Check::bad("dependencies", error.to_string(), format!("correct {}", path.display())),
    }
}

async fn proxmox(layout: &Layout, config: &Config) -> Vec<Check> {
    if config.clusters.is_empty() && super::guard::is_simulated(layout) {
        return vec![Check::fine("proxmox", "the simulated one of nhi up --demo")];
    }
    if config.clusters.is_empty() {
        return vec![Check::warn(
            "proxmox",
            "no cluster is configured",
            "set PROXMOX_HOST in .env or [proxmox.NAME] in nhi.toml, or try nhi up --demo",
        )];
    }
    let mut checks = Vec::new();
    for cluster in &config.clusters {
        let name = &cluster.name;
        checks.push(match nhi_pve::Reader::new(cluster.endpoint.clone()) {
            Err(error) => Check::bad("proxmox", format!("{name}: cannot {error}"), "correct the named place"),
            Ok(reader) => match tokio::time::timeout(PROXMOX_MAX, reader.version()).await {
                Ok(Ok(version)) => Check::fine("proxmox", format!("{name}: version {}", version.version)),
                Ok(Err(error)) => {
                    let remedy = remedy_for(error.kind());
                    Check::bad("proxmox", format!("{name}: {}", crate::chain(&error.into())), remedy)
                }
                Err(_) => {
                    let found = format!("{name}: no answer in {} s", PROXMOX_MAX.as_secs());
                    Check::bad("proxmox", found, "check host and port, and whether a firewall is between")
                }
            },
        });
    }
    checks
}

const fn remedy_for(kind: &Kind) -> &'static str {
    if matches!(kind, Kind::Unauthorized) {
        return "correct the token's id or secret; docs/proxmox.md shows how to make one";
    }
    if matches!(kind, Kind::PermissionDenied { .. }) {
        return "give the token and its user the role that docs/proxmox.md shows";
    }
    "see docs/proxmox.md: address, certificate, token"
}
