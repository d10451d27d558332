//! `nhi auth …`: identities. Changes are made here, where the files are, and take effect by a reload.

use crate::{
    cli::Auth,
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints},
    out, up,
};
use anyhow::Context;
use nhi_bus::{
    accounts, audit,
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
    subject,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
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
        Auth::Init => init(layout),
        Auth::Add { name, role, out: file } => {
            let name = parse(&name)?;
            let place = file.map_or(SeedPlace::Keys, SeedPlace::File);
            let (seed, _) = registry::add(&layout.data(), &name, role.role(), &place, Timestamp::now())
                .map_err(failure)?;
            let details =
                BTreeMap::from([("name".to_owned(), json!(name)), ("role".to_owned(), json!(role.role()))]);
            apply(layout, config, AuditKind::AuthAdded, details).await?;
            added(layout, config, &name, role.role(), (&seed, &place), as_json)
        }
        Auth::List => list(layout, as_json),
        Auth::Revoke { name } => {
            let name = parse(&name)?;
            registry::revoke(&layout.data(), &name).map_err(failure)?;
            let details = BTreeMap::from([("name".to_owned(), json!(name))]);
            apply(layout, config, AuditKind::AuthRevoked, details).await?;
            out::note(&format!("{name} is revoked; its connections are closed"));
            Ok(())
        }
        Auth::Grant { name, what } => {
            let (name, grant) = (parse(&name)?, Grant::parse(&what).map_err(usage)?);
            let text = grant.text();
            registry::grant(&layout.data(), &name, grant).map_err(failure)?;
            let details =
                BTreeMap::from([("name".to_owned(), json!(name)), ("grant".to_owned(), json!(text))]);
            apply(layout, config, AuditKind::AuthGranted, details).await?;
            out::note(&format!("{name} may call {text}"));
            Ok(())
        }
        Auth::Context { name } => context(layout, &parse(&name)?, as_json),
        Auth::Block => {
            out::line(&accounts::block(&Registry::load(&layout.data()).map_err(failure)?));
            Ok(())
        }
        Auth::Probe => probe(layout, config, as_json).await,
    }
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
        RegistryError::Unknown { .. } => Exit::NotFound,
        RegistryError::Exists { .. } | RegistryError::SeedFileExists { .. } => Exit::Conflict,
        RegistryError::Reserved { .. }
        | RegistryError::LastOwner { .. }
        | RegistryError::Needed { .. }
        | RegistryError::NotGrantable { .. }
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

fn init(layout: &Layout) -> Result<(), Failure> {
    layout.create().ending(Exit::Config)?;
    let (_, made) = Registry::create_if_missing(&layout.data(), Timestamp::now()).map_err(failure)?;
    if made.is_empty() {
        out::note("all identities of the mesh are there already");
    } else {
        let names: Vec<String> = made.iter().map(ToString::to_string).collect();
        out::note(&format!("made {}; keys are in {}", names.join(", "), layout.keys().display()));
    }
    Ok(())
}

/// Makes a change take effect and writes it to the audit log, when a mesh runs here.
async fn apply(
    layout: &Layout,
    config: &Config,
    kind: AuditKind,
    details: BTreeMap<String, Value>,
) -> Result<(), Failure> {
    if Endpoints::read(layout)?.is_none() && config.nats_join.is_empty() {
        out::note("nothing runs here now; it takes effect with the next `nhi up`");
        return Ok(());
    }
    if config.nats_join.is_empty() {
        accounts::apply(&layout.data()).await.ending(Exit::Config)?;
    } else {
        out::note(
            "a server we do not run: give it the accounts of `nhi auth block`, then check with `nhi auth probe`",
        );
    }
    let target = mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?;
    let cx = Cx::new();
    let home = up::connect(&cx, layout, &target, &identity::home()).await?;
    audit::append(&home, kind, None, details)
        .await
        .context("write the audit log")
        .ending(Exit::Unreachable)?;
    home.close().await;
    cx.close().await;
    Ok(())
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
    name: &IdentityName,
    role: Role,
    (seed, place): (&Seed, &SeedPlace),
    as_json: bool,
) -> Result<(), Failure> {
    let file = match place {
        SeedPlace::Keys => nhi_bus::keys::file(&layout.keys(), name),
        SeedPlace::File(path) => path.clone(),
    };
    let join = match role {
        Role::Edge => Some(join_line(layout, config, name, seed)?),
        Role::Viewer | Role::Agent | Role::Operator | Role::Owner | Role::Service => None,
    };
    if as_json {
        out::json(&json!({ "name": name, "role": role, "key_file": file, "join": join }));
        return Ok(());
    }
    out::line(&format!("{name} is added as {role}; its key is in {}", file.display()));
    match join {
        Some(line) => out::line(&format!("\non that machine (the line holds its key):\n\n{line}")),
        None => out::line(&format!("nhi auth context {name} prints how to connect")),
    }
    Ok(())
}

/// The line that enrols another machine, by an address that machine can reach.
fn join_line(layout: &Layout, config: &Config, name: &IdentityName, seed: &Seed) -> Result<String, Failure> {
    let url = match config.nats_join.first() {
        Some(url) => url.clone(),
        None => reachable_url(layout, config)?,
    };
    let ca = match tls::ca_sha256(&layout.tls()).ending(Exit::Config)? {
        Some(digest) => format!(" --ca-sha256 {digest}"),
        None => String::new(),
    };
    Ok(format!("nhi join {url} --as {name}{ca} --key {}", seed.expose()))
}

fn reachable_url(layout: &Layout, config: &Config) -> Result<String, Failure> {
    let listen = config.nats_listen;
    if listen.ip().is_loopback() {
        out::note(
            "nats-server listens on this machine alone: set [nats] listen in nhi.toml before others can join",
        );
    }
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

fn context(layout: &Layout, name: &IdentityName, as_json: bool) -> Result<(), Failure> {
    let registry = Registry::load(&layout.data()).map_err(failure)?;
    let identity =
        registry.get(name).ok_or_else(|| failure(RegistryError::Unknown { name: name.clone() }))?;
    let key = nhi_bus::keys::file(&layout.keys(), name);
    let endpoints = Endpoints::read(layout)?;
    let (nats, http) = endpoints.map_or_else(
        || ("nats://127.0.0.1:4222".to_owned(), "http://127.0.0.1:8000".to_owned()),
        |e| (e.nats, e.http),
    );
    let inbox = subject::inbox_prefix(name);
    if as_json {
        out::json(&json!({
            "name": name, "role": identity.kind.role(), "nats": nats, "http": http,
            "key_file": key, "inbox_prefix": inbox,
        }));
        return Ok(());
    }
    let key = key.display();
    let ca = layout.tls().join("ca.pem");
    let tls = if nats.starts_with("tls://") { format!(" --tlsca {}", ca.display()) } else { String::new() };
    out::line(&format!(
        "# the nats command\nnats context save nhi-{name} --server {nats} --nkey {key} --inbox-prefix {inbox}{tls}"
    ));
    out::line(&format!("nats --context nhi-{name} request {} '{{}}'", subject::call("state", "get", name)));
    out::line(&format!("nats --context nhi-{name} subscribe '{}'", subject::FEED_ALL));
    out::line(&format!(
        "\n# an OpenAI client\nexport OPENAI_BASE_URL={http}/v1\nexport OPENAI_API_KEY=\"$(cat {key})\""
    ));
    out::line(&format!("\n# an MCP client (streamable HTTP); put the content of {key} in place of KEY"));
    let server = json!({ "mcpServers": { "neural-home": {
        "url": format!("{http}/mcp"), "headers": { "Authorization": "Bearer KEY" },
    }}});
    out::json(&server);
    Ok(())
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
