//! `nhi doctor`: looks at everything that can be wrong here and says what to do. It changes nothing.

use crate::{
    cli::Global,
    config::Config,
    exit::{Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints, Mesh},
    out,
};
use nhi_bus::{private, server};
use nhi_decide::graph;
use nhi_model::{
    Timestamp,
    call::{StateGet, StateGot},
    identity::IdentityName,
};
use serde::Serialize;
use std::{fs, time::Duration};

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
            checks.push(Check::bad("configuration", failure.error.to_string(), "correct the named place"));
            None
        }
    };
    checks.push(directory(layout));
    checks.extend(keys(layout));
    checks.push(nats_server().await);
    checks.push(dependency_graph(layout));
    if let Some(config) = &config {
        checks.extend(proxmox(config).await);
        checks.extend(running(layout, config, global).await);
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
    let Ok(files) = fs::read_dir(layout.keys()) else { return Vec::new() };
    let mut checks = Vec::new();
    for path in files.filter_map(Result::ok).map(|file| file.path()) {
        let name =
            path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| IdentityName::parse(stem).ok());
        let Some(name) = name else { continue };
        if private::is_exposed(&path) {
            let remedy = format!(
                "chmod 600 {0}, then nhi auth renew {name}, since others may have read it",
                path.display()
            );
            checks.push(Check::bad("keys", format!("others can read {}", path.display()), remedy));
        } else if let Err(error) = nhi_bus::keys::load_file(&path, &name) {
            checks.push(Check::bad("keys", error.to_string(), format!("nhi auth renew {name}")));
        }
    }
    if checks.is_empty() {
        checks.push(Check::fine("keys", "whole, and only their owner can read them"));
    }
    checks
}

async fn nats_server() -> Check {
    let looked = server::Locate { fetch: server::locate::Fetch::Never, ..server::Locate::from_environment() };
    match server::locate(&looked).await {
        Ok(found) => Check::fine("nats-server", format!("{} at {}", found.version, found.path.display())),
        Err(server::LocateError::NotFound) => Check::warn(
            "nats-server",
            "not found",
            "nhi up fetches it the first time; it needs Python 3 with pip for that",
        ),
        Err(error) => Check::bad("nats-server", error.to_string(), "see above"),
    }
}

fn dependency_graph(layout: &Layout) -> Check {
    let path = layout.dependency_graph();
    let Ok(text) = fs::read_to_string(&path) else {
        return Check::fine("dependencies", "no dependency_graph.json, so nothing depends on anything");
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

async fn proxmox(config: &Config) -> Vec<Check> {
    if config.clusters.is_empty() {
        return vec![Check::warn(
            "proxmox",
            "no cluster is configured",
            "set PROXMOX_HOST in .env or [proxmox.NAME] in nhi.toml, or try nhi up --demo",
        )];
    }
    let mut checks = Vec::new();
    for cluster in &config.clusters {
        checks.push(match nhi_pve::Reader::new(cluster.endpoint.clone()) {
            Err(error) => Check::bad("proxmox", format!("cannot {error}"), "correct the named place"),
            Ok(reader) => match tokio::time::timeout(Duration::from_secs(15), reader.version()).await {
                Ok(Ok(version)) => {
                    Check::fine("proxmox", format!("{}: version {}", cluster.name, version.version))
                }
                Ok(Err(error)) => {
                    let told = crate::chain(&error.into());
                    Check::bad("proxmox", format!("{}: {told}", cluster.name), "see docs/proxmox.md")
                }
                Err(_) => Check::bad(
                    "proxmox",
                    format!("{}: no answer in 15 s", cluster.name),
                    "check host and port",
                ),
            },
        });
    }
    checks
}

async fn running(layout: &Layout, config: &Config, global: &Global) -> Vec<Check> {
    let endpoints = match Endpoints::read(layout) {
        Ok(endpoints) => endpoints,
        Err(failure) => return vec![Check::bad("mesh", crate::chain(&failure.error), "restart nhi up")],
    };
    if config.nats_join.is_empty() && endpoints.is_none() {
        return vec![Check::warn("mesh", "not running here", "nhi up starts it")];
    }
    let mesh = match mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref()) {
        Ok(target) => Mesh::open(layout, &target, global.identity()).await,
        Err(failure) => Err(failure),
    };
    let mesh = match mesh {
        Ok(mesh) => mesh,
        Err(failure) => return vec![Check::bad("mesh", crate::chain(&failure.error), "restart nhi up")],
    };
    let request = StateGet { select: vec!["source".to_owned(), "alert".to_owned()], ..StateGet::default() };
    let got: Result<StateGot, Failure> = mesh.call("state", "get", &request).await;
    let checks = match got {
        Err(failure) => vec![Check::bad("mesh", crate::chain(&failure.error), "look at .nhi/logs")],
        Ok(got) => told(&got),
    };
    mesh.close().await;
    checks
}

fn told(got: &StateGot) -> Vec<Check> {
    let mut checks = vec![match &got.stale {
        None => Check::fine("mesh", format!("revision {}", got.revision)),
        Some(stale) => Check::bad("mesh", stale.reason.clone(), "look at .nhi/logs"),
    }];
    let seconds = |at: Timestamp| got.as_of.duration_since(at).as_secs();
    for (name, source) in &got.sources {
        checks.push(match (&source.stale, source.last_success) {
            (None, Some(at)) => Check::fine("source", format!("{name}: complete {} s ago", seconds(at))),
            (None, None) => Check::fine("source", name.clone()),
            (Some(reason), _) => Check::warn("source", format!("{name}: {reason}"), "nhi status tells more"),
        });
    }
    checks
}
