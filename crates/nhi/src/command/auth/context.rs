//! `nhi auth context`: what a program needs to connect as an identity. It shows where the key is, never the key,
//! except in the line that carries it to another machine.

use super::{failure, join_line};
use crate::{
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::Endpoints,
    out,
};
use nhi_bus::{
    keys,
    registry::{Kind, Registry, RegistryError},
};
use nhi_model::{
    identity::{IdentityName, Role},
    subject,
};
use serde_json::json;

/// Where a mesh is, and where the key is.
struct Place {
    nats: String,
    http: String,
    key: String,
    tls: String,
}

/// Prints it for one identity, by what its kind can use.
pub(super) fn show(
    layout: &Layout,
    config: &Config,
    name: &IdentityName,
    as_json: bool,
) -> Result<(), Failure> {
    let registry = Registry::load(&layout.data()).map_err(failure)?;
    let identity =
        registry.get(name).ok_or_else(|| failure(RegistryError::Unknown { name: name.clone() }))?;
    let file = keys::file(&layout.keys(), name);
    let endpoints = Endpoints::read(layout)?;
    let (nats, http) = endpoints.map_or_else(
        || (format!("nats://{}", config.nats_listen), format!("http://{}", config.http_listen)),
        |e| (e.nats, e.http),
    );
    if as_json {
        out::json(&json!({
            "name": name, "role": identity.kind.role(), "nats": nats, "http": http,
            "key_file": file.exists().then_some(&file), "inbox_prefix": subject::inbox_prefix(name),
        }));
        return Ok(());
    }
    let key = if file.exists() {
        file.display().to_string()
    } else {
        out::note(&format!("the key of {name} is not on this machine: put its file in place of KEY_FILE"));
        "KEY_FILE".to_owned()
    };
    let ca = layout.tls().join("ca.pem");
    let tls = if nats.starts_with("tls://") { format!(" --tlsca {}", ca.display()) } else { String::new() };
    let place = Place { nats, http, key, tls };
    match identity.kind {
        Kind::Role(Role::Edge) => edge(layout, config, name)?,
        Kind::Role(Role::Service) => service(name, &place),
        Kind::Home | Kind::Trusted(_) => nats_command(name, &place, false),
        Kind::Role(Role::Viewer | Role::Agent | Role::Operator | Role::Owner) => {
            nats_command(name, &place, true);
            clients(&place);
        }
    }
    Ok(())
}

fn nats_command(name: &IdentityName, place: &Place, calls: bool) {
    let Place { nats, key, tls, .. } = place;
    let inbox = subject::inbox_prefix(name);
    out::line(&format!(
        "# the nats command\nnats context save nhi-{name} --server {nats} --nkey {key} --inbox-prefix {inbox}{tls}"
    ));
    if calls {
        out::line(&format!(
            "nats --context nhi-{name} request {} '{{}}'",
            subject::call("state", "get", name)
        ));
    }
    out::line(&format!("nats --context nhi-{name} subscribe '{}'", subject::FEED_ALL));
}

fn clients(place: &Place) {
    let Place { http, key, .. } = place;
    out::line(&format!(
        "\n# an OpenAI client (the gateway serves /v1 once AI routing is there)\n\
         export OPENAI_BASE_URL={http}/v1\nexport OPENAI_API_KEY=\"$(cat {key})\""
    ));
    out::line(&format!(
        "\n# an MCP client, streamable HTTP (served once MCP is there); put the content of {key} in place of KEY"
    ));
    out::json(&json!({ "mcpServers": { "neural-home": {
        "url": format!("{http}/mcp"), "headers": { "Authorization": "Bearer KEY" },
    }}}));
    out::line(&format!(
        "\n# any HTTP client\ncurl --json '{{}}' -H \"Authorization: Bearer $(cat {key})\" {http}/mesh/state/get"
    ));
}

fn service(name: &IdentityName, place: &Place) {
    let Place { nats, key, .. } = place;
    out::line(&format!("# a service: connect to {nats} with the nkey in {key}"));
    out::line(&format!(
        "# subscribe {} in queue group q, answer to the reply subject",
        subject::service_all(name)
    ));
    out::line("# and answer $SRV.PING, $SRV.INFO and $SRV.STATS; see docs/design.md, section 4");
}

fn edge(layout: &Layout, config: &Config, name: &IdentityName) -> Result<(), Failure> {
    let seed = keys::load(&layout.keys(), name).ending(Exit::NotFound)?;
    match join_line(layout, config, name, &seed)? {
        Some(line) => out::line(&format!("# on that machine (the line holds its key)\n{line}")),
        None => out::note(
            "nats-server listens on this machine alone: set [nats] listen in nhi.toml and restart `nhi up` first",
        ),
    }
    Ok(())
}
