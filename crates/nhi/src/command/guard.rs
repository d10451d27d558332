//! `nhi guard …`: the commands that make Proxmox itself refuse what must never be done, and what the configured tokens
//! may do besides. It runs nothing and changes nothing; the floor is laid by a person, as root.

mod lab;
mod rights;

#[cfg(test)]
pub(crate) use rights::Row;
pub(crate) use rights::{About, Examined, examine};

use super::policy;
use crate::{
    cli::{
        Global,
        rules::{Floor, Guard},
    },
    config::{self, ClusterConfig, Config},
    exit::{Exit, Failure},
    layout::Layout,
    mesh::Mesh,
    out,
};
use lab::Lab;
use nhi_decide::guard::{self, Options, Version};
use nhi_model::{alert::Severity, intent::GuestRef, policy::Policy};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

/// The version that is taken where nothing tells one.
const VERSION: Version = (9, 0);

/// What both tokens are meant to be able to do: policy, then `[guard]`, then the command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meant<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// Guests the mesh runs on.
    pub ourselves: &'a [GuestRef],
    /// `[guard]`
    pub settings: &'a config::Guard,
    /// The command line.
    pub told: &'a Floor,
}

impl Meant<'_> {
    fn options(
        &self,
        cluster: Option<&ClusterConfig>,
        lab: &Lab,
        protected: &BTreeMap<u32, String>,
    ) -> Options {
        let (told, settings) = (self.told, self.settings);
        let version = told.pve.or(lab.version).unwrap_or(VERSION);
        let usual = Options::usual(version, self.policy);
        let protected: BTreeSet<u32> = protected.keys().copied().collect();
        let templates = || lab.templates().difference(&protected).copied().collect();
        Options {
            scan: cluster.map_or(usual.scan, |cluster| cluster.endpoint.token().id().to_owned()),
            act: cluster
                .and_then(|cluster| Some(cluster.acting.as_ref()?.token().id().to_owned()))
                .unwrap_or(usual.act),
            everywhere: first(&told.everywhere, settings.everywhere.as_ref()).unwrap_or(usual.everywhere),
            in_pools: first(&told.in_pools, settings.in_pools.as_ref()).unwrap_or(usual.in_pools),
            pools: first(&told.pools, settings.pools.as_ref()).unwrap_or(usual.pools),
            templates: first(&told.templates, settings.templates.as_ref()).unwrap_or_else(templates),
            storages: first(&told.storages, settings.storages.as_ref()).unwrap_or(usual.storages),
            zones: first(&told.zones, settings.zones.as_ref()).unwrap_or(usual.zones),
            protected,
            sees_backups: told.backups || settings.backups,
            version,
            tags: usual.tags,
        }
    }
}

/// The command line's words, else those of the settings.
fn first<T: Clone + Ord>(told: &[T], settings: Option<&BTreeSet<T>>) -> Option<BTreeSet<T>> {
    let told = (!told.is_empty()).then(|| told.iter().cloned().collect());
    told.or_else(|| settings.cloned())
}

/// Runs one of the guard commands.
///
/// # Errors
/// [`Exit::Unwell`] when the tokens differ from what is meant.
pub(crate) async fn run(
    layout: &Layout,
    config: &Config,
    global: &Global,
    command: Guard,
) -> Result<(), Failure> {
    let policy = policy::read(&layout.policy())?.unwrap_or_default();
    let (Guard::Plan(told) | Guard::Check(told)) = &command;
    let meant = Meant { policy: &policy, ourselves: &config.self_guests, settings: &config.guard, told };
    match &command {
        Guard::Plan(_) => plan(layout, config, global, &meant).await,
        Guard::Check(_) => check(layout, config, global, &meant).await,
    }
}

/// The configured clusters that are asked for.
fn wanted<'a>(config: &'a Config, told: &Floor) -> Result<Vec<&'a ClusterConfig>, Failure> {
    let is_meant = |cluster: &&ClusterConfig| told.cluster.as_ref().is_none_or(|name| *name == cluster.name);
    let found: Vec<&ClusterConfig> = config.clusters.iter().filter(is_meant).collect();
    match &told.cluster {
        Some(name) if found.is_empty() && !config.clusters.is_empty() => {
            let known: Vec<&str> = config.clusters.iter().map(|cluster| cluster.name.as_str()).collect();
            let sentence = format!("no cluster {name:?} is configured; there is {}", known.join(", "));
            Err(Failure::new(Exit::NotFound, sentence))
        }
        _ => Ok(found),
    }
}

async fn check(layout: &Layout, config: &Config, global: &Global, meant: &Meant<'_>) -> Result<(), Failure> {
    let clusters = wanted(config, meant.told)?;
    if clusters.is_empty() {
        let sentence = if is_simulated(layout) {
            "there is nothing to check: the tokens of the simulated lab live in the running `nhi up --demo` and \
             nowhere else; with a Proxmox of your own in nhi.toml or .env, its tokens are checked"
        } else {
            "no cluster is configured: set PROXMOX_HOST in .env or [proxmox.NAME] in nhi.toml"
        };
        return Err(Failure::new(Exit::Config, sentence));
    }
    let mut examined = Vec::new();
    for cluster in clusters {
        examined.push(examine(cluster, meant).await?);
    }
    if global.json {
        out::json(&examined);
    } else {
        examined.iter().for_each(show);
    }
    let unwell = examined.iter().filter(|examined| examined.is_unwell()).count();
    if unwell == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Unwell,
        format!("the rights in {} differ from what is meant", out::count(unwell, "cluster")),
    ))
}

pub(crate) fn is_simulated(layout: &Layout) -> bool {
    fs::read_to_string(layout.lab()).is_ok_and(|kind| kind.trim() == "simulated")
}

fn show(examined: &Examined) {
    let Examined { cluster, version: (major, minor), scanner, actuator, .. } = examined;
    let actuator = actuator.as_ref().map_or("nobody acts".to_owned(), |token| format!("{token} acts"));
    out::line(&out::safe(&format!("{cluster}: Proxmox VE {major}.{minor}, {scanner} looks, {actuator}")));
    for row in &examined.findings {
        let mark = match row.severity {
            Severity::Info => "·",
            Severity::Warning => "!",
            Severity::Critical => "✗",
        };
        out::line(&out::safe(&format!("{mark} {}", row.what)));
        row.remedy.lines().for_each(|line| out::line(&out::safe(&format!("    {line}"))));
    }
    if !examined.is_unwell() {
        out::line("✓ nothing is missing, and nothing is too much");
    }
}

/// The floor of one cluster, as programs read it.
#[derive(Debug, Serialize)]
struct Planned {
    cluster: String,
    #[serde(serialize_with = "rights::dotted")]
    version: Version,
    protected: BTreeMap<u32, String>,
    commands: Vec<Line>,
    notes: Vec<String>,
}

/// One command.
#[derive(Debug, Serialize)]
struct Line {
    line: String,
    why: String,
}

async fn plan(layout: &Layout, config: &Config, global: &Global, meant: &Meant<'_>) -> Result<(), Failure> {
    let configured = wanted(config, meant.told)?;
    let mesh = Mesh::here(layout, config, global).await;
    let names: BTreeSet<String> = match (&mesh, &meant.told.cluster, configured.is_empty()) {
        (_, Some(name), _) => [name.clone()].into(),
        (Some(mesh), None, true) => lab::clusters(mesh).await?,
        (None, None, true) => ["home".to_owned()].into(),
        (_, None, false) => configured.iter().map(|cluster| cluster.name.clone()).collect(),
    };
    let mut planned = Vec::new();
    for name in names {
        let cluster = configured.iter().copied().find(|cluster| cluster.name == name);
        planned.push(plan_one(&name, cluster, mesh.as_ref(), meant).await?);
    }
    if let Some(mesh) = mesh {
        mesh.close().await;
    }
    if global.json {
        out::json(&planned);
    } else {
        planned.iter().for_each(print);
    }
    Ok(())
}

async fn plan_one(
    name: &str,
    cluster: Option<&ClusterConfig>,
    mesh: Option<&Mesh>,
    meant: &Meant<'_>,
) -> Result<Planned, Failure> {
    let mut notes = Vec::new();
    let reader = cluster.map(|cluster| rights::reader(cluster, false)).transpose()?;
    let mut lab = match (mesh, &reader) {
        (Some(mesh), _) => Lab::of_state(mesh, name).await?,
        (None, Some(reader)) => Lab::of_proxmox(reader, name).await.unwrap_or_else(|error| {
            notes.push(format!("Guests could not be seen: {}.", crate::chain(&error.into())));
            Lab::default()
        }),
        (None, None) => Lab::default(),
    };
    if let (None, Some(reader)) = (&lab.registered, &reader) {
        lab.registered = reader.registered_tags().await.ok();
    }
    let protected = lab.protected(name, meant.policy, meant.ourselves);
    let options = meant.options(cluster, &lab, &protected);
    let floor = guard::plan(&options, lab.registered.as_ref().unwrap_or(&BTreeSet::new()));
    notes.extend(floor.notes);
    if lab.version.or(meant.told.pve).is_none() {
        notes
            .push("No cluster told its version, so these are for 9; `--pve 8` prints those of 8.".to_owned());
    }
    if lab.guests.is_empty() {
        let text = "No guest could be seen, so only those that policy and [self] name by number are made untouchable; \
                    ask again while `nhi up` runs.";
        notes.push(text.to_owned());
    }
    if lab.registered.is_none() && !options.tags.is_empty() {
        let text = "Which tags are registered could not be read, and the last command replaces the whole list: \
                    add those that `pvesh get /cluster/options` shows.";
        notes.push(text.to_owned());
    }
    if meant.ourselves.is_empty() {
        let text = "The guest this mesh runs on is untouchable only where policy protects it or [self] guests of \
                    nhi.toml names it.";
        notes.push(text.to_owned());
    }
    if !lab.storages.is_empty() && options.storages.is_disjoint(&lab.storages) {
        let seen: Vec<&str> = lab.storages.iter().map(String::as_str).collect();
        notes.push(format!(
            "None of the storages above is there; there is {}. Name yours with --storage.",
            seen.join(", ")
        ));
    }
    let named = |(vmid, why): (u32, String)| match lab.name(vmid) {
        "" => (vmid, why),
        name => (vmid, format!("{name}: {why}")),
    };
    Ok(Planned {
        cluster: name.to_owned(),
        version: options.version,
        protected: protected.into_iter().map(named).collect(),
        commands: floor.commands.into_iter().map(|guard::Command { line, why }| Line { line, why }).collect(),
        notes,
    })
}

/// As a script with comments: it can be read, kept and run.
fn print(planned: &Planned) {
    let (major, minor) = planned.version;
    out::line(&format!(
        "# {}, Proxmox VE {major}.{minor}: run as root on one node. Nothing was run.",
        planned.cluster
    ));
    let mut last = "";
    for Line { line, why } in &planned.commands {
        if why != last {
            out::line(&format!("\n# {why}"));
            last = why;
        }
        out::line(line);
    }
    if !planned.protected.is_empty() {
        out::line("\n# Untouchable:");
        for (vmid, why) in &planned.protected {
            out::line(&out::safe(&format!("#   {vmid} {why}")));
        }
    }
    if !planned.notes.is_empty() {
        out::line("\n# To know:");
        planned.notes.iter().for_each(|note| out::line(&out::safe(&format!("#   {note}"))));
    }
}
