//! `nhi auth …`: identities. Changes are made here, where the files are, and take effect by a reload.

mod context;

use crate::{
    cli::Auth,
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints},
    out, up,
};
use nhi_bus::{
    accounts::{self, Applied},
    audit,
    cx::Cx,
    keys::Seed,
    registry::{self, Registry, RegistryError, SeedPlace},
    tls,
};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    identity::{self, IdentityName, Role},
    rights::Grant,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// Runs one of the identity commands.
///
/// # Errors
/// Wrong names, a damaged registry, or a server that does not take the change.
pub(crate) async fn run(
    layout: &Layout,
    config: &Config,
    command: Auth,
    as_json: bool,
) -> Result<(), Failure> {
    match command {
        Auth::Init => init(layout, as_json),
        Auth::Add { name, role, out: file } => {
            let name = parse(&name)?;
            let place = file.map_or(SeedPlace::Keys, SeedPlace::File);
            let (seed, _) = registry::add(&layout.data(), &name, role.role(), &place, Timestamp::now())
                .map_err(failure)?;
            let force = enforce(layout, config).await?;
            let role = role.role();
            let recorded =
                record(layout, config, force, AuditKind::AuthAdded, &name, Some(("role", json!(role)))).await;
            // Shown whatever became of the record: it cannot be shown a second time.
            added(layout, config, (&name, role), (&seed, &place), as_json)?;
            recorded
        }
        Auth::List => list(layout, as_json),
        Auth::Renew { name, out: file } => {
            let name = parse(&name)?;
            let place = file.map_or(SeedPlace::Keys, SeedPlace::File);
            registry::renew(&layout.data(), &name, &place, Timestamp::now()).map_err(failure)?;
            let force = enforce(layout, config).await?;
            let file = key_file(layout, &name, &place);
            changed(as_json, &name, &format!("has a new key in {}", file.display()), force);
            if force == Force::Now && name.is_reserved() && name != identity::owner() {
                out::note("a part of the running mesh still holds the old key: restart `nhi up`");
            }
            record(layout, config, force, AuditKind::AuthRenewed, &name, None).await
        }
        Auth::Revoke { name } => revoke(layout, config, &parse(&name)?, as_json).await,
        Auth::Grant { name, what } => {
            let (name, grant) = (parse(&name)?, Grant::parse(&what).map_err(usage)?);
            let text = grant.text();
            registry::grant(&layout.data(), &name, grant).map_err(failure)?;
            let force = enforce(layout, config).await?;
            changed(as_json, &name, &format!("may call {text}"), force);
            record(layout, config, force, AuditKind::AuthGranted, &name, Some(("grant", json!(text)))).await
        }
        Auth::Ungrant { name, what } => {
            let (name, grant) = (parse(&name)?, Grant::parse(&what).map_err(usage)?);
            let text = grant.text();
            registry::ungrant(&layout.data(), &name, &grant).map_err(failure)?;
            let force = enforce(layout, config).await?;
            changed(as_json, &name, &format!("may no longer call {text}"), force);
            record(layout, config, force, AuditKind::AuthUngranted, &name, Some(("grant", json!(text)))).await
        }
        Auth::Context { name } => context::show(layout, config, &parse(&name)?, as_json),
        Auth::Block => {
            out::line(&accounts::block(&Registry::load(&layout.data()).map_err(failure)?));
            Ok(())
        }
        Auth::Probe => probe(layout, config, as_json).await,
    }
}

async fn revoke(layout: &Layout, config: &Config, name: &IdentityName, as_json: bool) -> Result<(), Failure> {
    let revoked = registry::revoke(&layout.data(), name);
    if matches!(revoked, Err(RegistryError::Unknown { .. })) {
        // An earlier try may have been recorded and not put in force; doing it again must mend that.
        enforce(layout, config).await?;
    }
    revoked.map_err(failure)?;
    let force = enforce(layout, config).await?;
    changed(as_json, name, "is revoked", force);
    record(layout, config, force, AuditKind::AuthRevoked, name, None).await
}

fn usage(sentence: String) -> Failure {
    Failure::new(Exit::Usage, sentence)
}

fn parse(name: &str) -> Result<IdentityName, Failure> {
    IdentityName::parse(name).ending(Exit::Usage)
}

/// The exit code of a registry that refuses.
fn failure(error: RegistryError) -> Failure {
    let exit = match &error {
        RegistryError::Unknown { .. } | RegistryError::NotGranted { .. } => Exit::NotFound,
        RegistryError::Exists { .. } | RegistryError::SeedFileExists { .. } => Exit::Conflict,
        RegistryError::Reserved { .. }
        | RegistryError::LastOwner { .. }
        | RegistryError::Needed { .. }
        | RegistryError::NotGrantable { .. }
        | RegistryError::KeyNeededHere { .. }
        | RegistryError::TooMany { .. } => Exit::Refused,
        RegistryError::Missing { .. }
        | RegistryError::Corrupt { .. }
        | RegistryError::Newer { .. }
        | RegistryError::Unreadable { .. }
        | RegistryError::Key(_)
        | RegistryError::Private(_) => Exit::Config,
    };
    Failure { exit, error: error.into() }
}

fn init(layout: &Layout, as_json: bool) -> Result<(), Failure> {
    layout.create().ending(Exit::Config)?;
    let (_, made) = Registry::create_if_missing(&layout.data(), Timestamp::now()).map_err(failure)?;
    if as_json {
        out::json(&json!({ "made": made, "keys": layout.keys() }));
    } else if made.is_empty() {
        out::note("all identities of the mesh are there already");
    } else {
        let names: Vec<String> = made.iter().map(ToString::to_string).collect();
        out::note(&format!("made {}; keys are in {}", names.join(", "), layout.keys().display()));
    }
    Ok(())
}

/// Says what became of an identity, and whether it counts already.
fn changed(as_json: bool, name: &IdentityName, what: &str, force: Force) {
    if as_json {
        out::json(&json!({ "name": name, "change": format!("{name} {what}"), "in_force": force.word() }));
    } else {
        out::note(&format!("{name} {what}; {}", force.told()));
    }
}

/// How a recorded change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Force {
    /// The server has it.
    Now,
    /// The server has it when it starts.
    AtNextStart,
    /// Its administrator has to give it the accounts.
    ByHand,
}

impl Force {
    /// For programs.
    const fn word(self) -> &'static str {
        match self {
            Self::Now => "now",
            Self::AtNextStart => "at-next-start",
            Self::ByHand => "by-hand",
        }
    }

    const fn told(self) -> &'static str {
        match self {
            Self::Now => "it is in force",
            Self::AtNextStart => "nothing runs here now, it takes effect with the next `nhi up`",
            Self::ByHand => {
                "give the server the accounts of `nhi auth block`, then check with `nhi auth probe`"
            }
        }
    }
}

/// Puts what is recorded in force, also while `nhi up` is still starting.
async fn enforce(layout: &Layout, config: &Config) -> Result<Force, Failure> {
    if !config.nats_join.is_empty() {
        return Ok(Force::ByHand);
    }
    match accounts::apply(&layout.data()).await.ending(Exit::Config)? {
        Applied::Now => Ok(Force::Now),
        Applied::AtNextStart => Ok(Force::AtNextStart),
    }
}

/// Writes a change to the audit log, when there is one to write to.
async fn record(
    layout: &Layout,
    config: &Config,
    force: Force,
    kind: AuditKind,
    name: &IdentityName,
    detail: Option<(&str, Value)>,
) -> Result<(), Failure> {
    let mut details = BTreeMap::from([("name".to_owned(), json!(name))]);
    details.extend(detail.map(|(key, value)| (key.to_owned(), value)));
    let recorded = match force {
        Force::AtNextStart => return Ok(()),
        Force::Now | Force::ByHand => append(layout, config, kind, details).await,
    };
    recorded.map_err(|failure| Failure {
        exit: failure.exit,
        error: failure.error.context("the change is made, but the audit log could not be written"),
    })
}

async fn append(
    layout: &Layout,
    config: &Config,
    kind: AuditKind,
    details: BTreeMap<String, Value>,
) -> Result<(), Failure> {
    let here = if config.nats_join.is_empty() { mesh::server_here(layout) } else { None };
    let target = match here {
        Some(target) => target,
        None => mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?,
    };
    let cx = Cx::new();
    let home = up::connect(&cx, layout, &target, &identity::home()).await?;
    let appended = audit::append(&home, kind, None, details).await.ending(Exit::Unreachable);
    home.close().await;
    cx.close().await;
    appended.map(drop)
}

fn key_file(layout: &Layout, name: &IdentityName, place: &SeedPlace) -> PathBuf {
    match place {
        SeedPlace::Keys => nhi_bus::keys::file(&layout.keys(), name),
        SeedPlace::File(path) => path.clone(),
    }
}

fn list(layout: &Layout, as_json: bool) -> Result<(), Failure> {
    let infos = Registry::load(&layout.data()).map_err(failure)?.infos();
    if as_json {
        out::json(&infos);
        return Ok(());
    }
    let rows = infos.into_iter().map(|info| {
        let role = info.role.map_or("(mesh)", Role::as_str).to_owned();
        [info.name.to_string(), role, info.grants.join(", "), format!("{:.0}", info.added), info.public_key]
    });
    out::table(["NAME", "ROLE", "GRANTS", "ADDED", "PUBLIC KEY"], rows);
    Ok(())
}

fn added(
    layout: &Layout,
    config: &Config,
    (name, role): (&IdentityName, Role),
    (seed, place): (&Seed, &SeedPlace),
    as_json: bool,
) -> Result<(), Failure> {
    let file = key_file(layout, name, place);
    let join = match role {
        Role::Edge => join_line(layout, config, name, seed)?,
        Role::Viewer | Role::Agent | Role::Operator | Role::Owner | Role::Service => None,
    };
    if as_json {
        out::json(&json!({ "name": name, "role": role, "key_file": file, "join": join }));
        return Ok(());
    }
    out::line(&format!("{name} is added as {role}; its key is in {}", file.display()));
    match (role, join) {
        (_, Some(line)) => out::line(&format!("\non that machine (the line holds its key):\n\n{line}")),
        (Role::Edge, None) => out::note(
            "no other machine can join yet: nats-server listens on this machine alone; set [nats] listen in \
             nhi.toml and restart `nhi up`; `nhi auth context` then prints the line",
        ),
        (_, None) => out::line(&format!("nhi auth context {name} prints how to connect")),
    }
    Ok(())
}

/// The line that enrols another machine, by an address it can reach; none when nothing listens for it.
pub(super) fn join_line(
    layout: &Layout,
    config: &Config,
    name: &IdentityName,
    seed: &Seed,
) -> Result<Option<String>, Failure> {
    let url = match config.nats_join.first() {
        Some(url) => url.clone(),
        None if config.nats_listen.ip().is_loopback() => return Ok(None),
        None => {
            // The authority is made now when this comes before the first start.
            up::certificate(layout, config)?;
            reachable_url(layout, config)?
        }
    };
    let authority = if config.nats_join.is_empty() {
        Some(tls::ca_file(&layout.tls()))
    } else {
        mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?.ca_file
    };
    let digest = match authority {
        Some(file) => tls::sha256_of(&file).ending(Exit::Config)?,
        None => None,
    };
    let ca = digest.map(|digest| format!(" --ca-sha256 {digest}")).unwrap_or_default();
    Ok(Some(format!("nhi join {url} --as {name}{ca} --key {}", seed.expose())))
}

fn reachable_url(layout: &Layout, config: &Config) -> Result<String, Failure> {
    let listen = config.nats_listen;
    let port = match Endpoints::read(layout)? {
        Some(endpoints) => endpoints.nats.rsplit(':').next().and_then(|port| port.parse().ok()),
        None => None,
    };
    // Where it listens everywhere, the certificate names the addresses others reach this machine by.
    let ip = if listen.ip().is_unspecified() {
        let names = tls::names_at(listen.ip());
        let addresses = names.iter().filter_map(|name| name.parse::<IpAddr>().ok());
        addresses.filter(|ip| !ip.is_loopback()).min().unwrap_or(listen.ip())
    } else {
        listen.ip()
    };
    Ok(format!("nats://{}", SocketAddr::new(ip, port.unwrap_or(listen.port()))))
}

async fn probe(layout: &Layout, config: &Config, as_json: bool) -> Result<(), Failure> {
    let registry = Registry::load(&layout.data()).map_err(failure)?;
    let target = mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?;
    let checks = accounts::probe(&layout.data(), &registry, &target).await.ending(Exit::Unreachable)?;
    if as_json {
        out::json(&checks);
    } else {
        let row = |check: &accounts::Check| {
            let mark = if check.holds { "holds" } else { "BROKEN" };
            [mark.to_owned(), check.identity.clone(), check.what.clone()]
        };
        out::table(["", "IDENTITY", "WHAT"], checks.iter().map(row));
    }
    match checks.iter().filter(|check| !check.holds).count() {
        0 => Ok(()),
        broken => {
            let sentence = format!(
                "{broken} of {} checks do not hold on that server: give it the accounts of `nhi auth block`",
                checks.len()
            );
            Err(Failure::new(Exit::Unwell, sentence))
        }
    }
}
