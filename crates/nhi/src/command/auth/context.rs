//! `nhi auth context`: what a program needs to connect as an identity. It shows where the key is, never the key,
//! except in the line that carries it to another machine.

use super::{failure, join_line};
use crate::{
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints},
    out,
};
use nhi_bus::{
    keys,
    registry::{Kind, Registry, RegistryError},
};
use nhi_decide::route::aliases;
use nhi_model::{
    identity::{IdentityName, Role},
    subject,
};
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, SocketAddr};

/// Where a mesh is, and where the key is.
struct Place {
    nats: String,
    http: String,
    key: String,
    tls: String,
    /// The authority that signed the gateway's certificate, when it has one.
    http_ca: Option<String>,
}

/// Where they will be once `nhi up` runs.
fn planned(config: &Config) -> (String, String) {
    let url = |plain: &str, secure: &str, listen: SocketAddr| {
        let scheme = if listen.ip().is_loopback() { plain } else { secure };
        let here = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port());
        format!("{scheme}://{}", if listen.ip().is_unspecified() { here } else { listen })
    };
    let nats = match &config.nats_join[..] {
        [] => url("nats", "tls", config.nats_listen),
        joined => joined.join(","),
    };
    (nats, url("http", "https", config.http_listen))
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
    let (nats, http) = endpoints.map_or_else(|| planned(config), |e| (e.nats, e.http));
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
    let own = layout.tls().join("ca.pem");
    let theirs = match config.nats_join.is_empty() {
        true => None,
        false => mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?.ca_file,
    };
    let authority = theirs.or_else(|| nats.starts_with("tls://").then(|| own.clone()));
    let tls = authority.map(|path| format!(" --tlsca {}", path.display())).unwrap_or_default();
    let http_ca = http.starts_with("https://").then(|| own.display().to_string());
    let place = Place { nats, http, key, tls, http_ca };
    match identity.kind {
        Kind::Role(Role::Edge) => edge(layout, config, name)?,
        Kind::Role(Role::Service) => service(name, &place),
        Kind::Home | Kind::Trusted(_) => nats_command(name, &place, false),
        Kind::Role(Role::Viewer | Role::Agent | Role::Operator | Role::Owner) => {
            nats_command(name, &place, true);
            clients(&place);
            key_variable(&place);
            models(config, &place);
            agents(layout, name, &place);
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
    let Place { http, key, http_ca, .. } = place;
    let cacert = http_ca.as_ref().map(|path| format!(" --cacert {path}")).unwrap_or_default();
    if let Some(path) = http_ca {
        out::line(&format!(
            "\n# the gateway's certificate is signed by the mesh's own authority; most clients believe it by\n\
             export SSL_CERT_FILE={path} NODE_EXTRA_CA_CERTS={path} REQUESTS_CA_BUNDLE={path}"
        ));
    }
    out::line(&format!(
        "\n# an OpenAI client\nexport OPENAI_BASE_URL={http}/v1 OPENAI_API_BASE={http}/v1 OPENAI_API_KEY=\"$(cat {key})\"\n\
         \n# an Anthropic client\nexport ANTHROPIC_BASE_URL={http} ANTHROPIC_API_KEY=\"$(cat {key})\"\n\
         \n# a Gemini client\nexport GOOGLE_GEMINI_BASE_URL={http} GEMINI_API_KEY=\"$(cat {key})\"\n\
         \n# an Ollama client: its host is {http}, and it sends the header Authorization: Bearer with the key"
    ));
    out::line(&format!(
        "\n# any HTTP client\nsed 's/^/Authorization: Bearer /' {key} | curl{cacert} -H @- --json '{{}}' {http}/mesh/state/get"
    ));
}

/// The variable that the programs below have the key from.
fn key_variable(place: &Place) {
    out::line(&format!("\n# the key, for what follows\nexport NHI_KEY=\"$(cat {})\"", place.key));
}

/// Ready-made configuration of AI agents that want a provider of models. The key itself stands in none of it.
fn models(config: &Config, place: &Place) {
    let base = format!("{}/v1", place.http);
    let mut aliases = aliases();
    aliases.extend(config.ai.settings.aliases.clone());
    out::line(&format!(
        "\n# models for Codex: in ~/.codex/config.toml, then codex -c model_provider=neural-home --model auto\n{}",
        codex(&base)
    ));
    out::line(
        "\n# models for opencode: in opencode.json, then opencode --model neural-home/auto; nhi ai models has more",
    );
    out::json(&opencode(&base, aliases.keys()));
    out::line(&format!(
        "\n# models for aider\nexport OPENAI_API_KEY=\"$NHI_KEY\"\n# and in .aider.conf.yml\n{}",
        aider(&base)
    ));
}

/// Tables alone, so that they may stand at the end of a file. Codex speaks to nothing but the Responses API.
fn codex(base: &str) -> String {
    format!(
        "[model_providers.neural-home]\nname = \"Neural-Home\"\nbase_url = \"{base}\"\nenv_key = \"NHI_KEY\"\n\
         wire_api = \"responses\""
    )
}

/// It offers only models that are named here.
fn opencode<'a>(base: &str, names: impl Iterator<Item = &'a String>) -> Value {
    let names: Map<String, Value> = names.map(|name| (name.clone(), json!({}))).collect();
    json!({ "provider": { "neural-home": {
        "npm": "@ai-sdk/openai-compatible", "name": "Neural-Home",
        "options": { "baseURL": base, "apiKey": "{env:NHI_KEY}" }, "models": names,
    }}})
}

/// It reads no variable in its file, so the key is not there.
fn aider(base: &str) -> String {
    format!("openai-api-base: {base}\nmodel: openai/auto")
}

/// Ready-made configuration of AI agents that speak MCP. The key itself stands nowhere: it comes from an environment
/// variable where the program can read one there, else the program starts `nhi mcp`, which reads the key's file.
fn agents(layout: &Layout, name: &IdentityName, place: &Place) {
    let Place { http, http_ca, .. } = place;
    let url = format!("{http}/mcp");
    let dir = layout.root().display().to_string();
    let command = ["nhi", "--dir", &dir, "--as", name.as_str(), "mcp"];
    let (program, arguments) = (command[0], &command[1..]);
    out::line(&format!(
        "\n# AI agents over MCP: {url}, with the key in NHI_KEY\
         \n\n# Claude Code\n\
         {}\
         \n\n# Codex: in ~/.codex/config.toml\n\
         [mcp_servers.neural-home]\nurl = \"{url}\"\nbearer_token_env_var = \"NHI_KEY\"",
        claude_code(&url)
    ));
    out::line("\n# opencode: in opencode.json");
    out::json(&json!({ "mcp": { "neural-home": {
        "type": "remote", "url": url, "oauth": false, "headers": { "Authorization": "Bearer {env:NHI_KEY}" },
    }}}));
    out::line("\n# Cursor: in .cursor/mcp.json");
    out::json(&json!({ "mcpServers": { "neural-home": {
        "url": url, "headers": { "Authorization": "Bearer ${env:NHI_KEY}" },
    }}}));
    out::line("\n# Gemini CLI: in ~/.gemini/settings.json");
    out::json(&json!({ "mcpServers": { "neural-home": {
        "httpUrl": url, "headers": { "Authorization": "Bearer $NHI_KEY" },
    }}}));
    out::line("\n# an agent that starts a command instead (on this machine); it needs no key of its own");
    out::json(&json!({ "mcpServers": { "neural-home": { "command": program, "args": arguments } } }));
    if http_ca.is_some() {
        out::line("# with https each of them needs the authority: NODE_EXTRA_CA_CERTS above, or the command");
    }
}

/// The command that adds the server to Claude Code. The single quotes keep the shell from putting the key itself into the
/// command's arguments, and so into the program's file: it reads the variable when it connects.
fn claude_code(url: &str) -> String {
    format!("claude mcp add --transport http neural-home {url} --header 'Authorization: Bearer ${{NHI_KEY}}'")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_of_models_is_told_in_each_programs_own_words() {
        let base = "http://127.0.0.1:1/v1";
        let told: toml::Table = toml::from_str(&codex(base)).unwrap();
        let provider = &told["model_providers"]["neural-home"];
        // Any other way to speak is refused by it.
        assert_eq!(
            ["base_url", "env_key", "wire_api"].map(|field| provider[field].as_str()),
            [Some(base), Some("NHI_KEY"), Some("responses")]
        );
        assert_eq!(told.len(), 1, "a key outside of a table would belong to the table before it");
        let mut names = aliases();
        names.insert("big".to_owned(), names["auto"].clone());
        let told = opencode(base, names.keys());
        let provider = &told["provider"]["neural-home"];
        assert_eq!(provider["npm"], "@ai-sdk/openai-compatible");
        assert_eq!(provider["options"], json!({ "baseURL": base, "apiKey": "{env:NHI_KEY}" }));
        assert!(["auto", "coding", "big"].iter().all(|name| provider["models"][name].is_object()), "{told}");
        let told = aider(base);
        assert!(
            told.contains(&format!("openai-api-base: {base}\n")) && told.contains("model: openai/auto"),
            "{told}"
        );
    }

    /// What a program gets as its arguments from a line in a shell in which the key is set.
    #[cfg(unix)]
    fn arguments(line: &str) -> String {
        let script = format!("claude() {{ printf '%s\\n' \"$@\"; }}\n{line}");
        let mut shell = std::process::Command::new("sh");
        let output = shell.arg("-c").arg(script).env("NHI_KEY", "the-seed").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[cfg(unix)]
    #[test]
    fn the_key_is_not_put_into_a_command_that_is_to_be_kept() {
        let line = claude_code("http://127.0.0.1:1/mcp");
        let told = arguments(&line);
        assert!(told.contains("Authorization: Bearer ${NHI_KEY}\n") && !told.contains("the-seed"), "{told}");
        let control = arguments(&line.replace('\'', "\""));
        assert!(control.contains("the-seed"), "{control}");
    }
}
