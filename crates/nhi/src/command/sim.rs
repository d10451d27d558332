//! `nhi sim …`: the simulated Proxmox or a simulated model server alone.

use crate::{
    cli::models::Models,
    exit::{Ending, Exit, Failure},
    out,
};
use anyhow::Context;
use nhi_sim::{
    LabOptions, PveVersion, Running, Secret, Seed,
    models::{self, ModelSettings, Options},
    serve,
};
use serde_json::json;
use std::{net::SocketAddr, path::Path};

/// What the simulator is started with.
#[derive(Debug)]
pub(crate) struct Pve<'a> {
    /// Where the API listens.
    pub(crate) listen: SocketAddr,
    /// Where the control endpoint listens.
    pub(crate) control: SocketAddr,
    /// The home, when it is not the demo's.
    pub(crate) seed: Option<&'a Path>,
    /// Milliseconds every answer takes.
    pub(crate) latency_ms: u64,
    /// Milliseconds a unit of a task takes.
    pub(crate) task_ms: u64,
    /// Whether it answers as 8.2.
    pub(crate) pve8: bool,
}

/// Runs the simulated lab until `stopped` resolves.
///
/// # Errors
/// When a port is in use or the seed file is wrong.
pub(crate) async fn pve(
    wanted: Pve<'_>,
    as_json: bool,
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let seed = match wanted.seed {
        None => Seed::demo(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))
                .ending(Exit::Config)?;
            Seed::from_json(&text).with_context(|| format!("{}", path.display())).ending(Exit::Config)?
        }
    };
    let options = LabOptions {
        listen: wanted.listen,
        control_listen: wanted.control,
        latency_ms: wanted.latency_ms,
        task_ms: wanted.task_ms,
        version: if wanted.pve8 { PveVersion::V8_2 } else { PveVersion::V9_1 },
        ..LabOptions::local(seed)
    };
    let running = serve(options).await.ending(Exit::Config)?;
    show(&running, as_json);
    stopped.await;
    running.stop().await;
    Ok(())
}

/// Where it is and every credential it knows: they open a simulation, nothing else.
fn show(running: &Running, as_json: bool) {
    if as_json {
        let (user, password) = &running.admin;
        return out::json(&json!({
            "url": running.url, "control": running.control_url, "fingerprint": running.fingerprint,
            "ca_pem": running.ca_pem,
            "scan_token_id": running.scan_token.id, "scan_token_secret": running.scan_token.secret,
            "act_token_id": running.act_token.id, "act_token_secret": running.act_token.secret,
            "admin": user, "admin_password": password.0,
        }));
    }
    let (user, id) = running.scan_token.id.split_once('!').unwrap_or((&running.scan_token.id, ""));
    out::line(&format!("a simulated Proxmox VE listens on {}", running.url));
    out::line(&format!("control endpoint             {}", running.control_url));
    out::line("\nAs a .env for `nhi up`:\n");
    out::line(&format!("PROXMOX_HOST={}\nPROXMOX_USER={user}\nPROXMOX_TOKEN_ID={id}", running.url));
    out::line(&format!("PROXMOX_SECRET_KEY={}", running.scan_token.secret));
    out::line(&format!("PROXMOX_FINGERPRINT={}", running.fingerprint));
    out::note("\n--json prints the other token, the administrator and the authority too; Ctrl-C ends");
}

/// Runs a simulated model server until `stopped` resolves.
///
/// # Errors
/// When a port is in use, the file of models is wrong, or the key's variable is not set.
pub(crate) async fn models(
    wanted: Models,
    as_json: bool,
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let models = match &wanted.models {
        None => Options::demo().models,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))
                .ending(Exit::Config)?;
            ModelSettings::list_from_json(&text)
                .with_context(|| format!("{}", path.display()))
                .ending(Exit::Config)?
        }
    };
    let key = match &wanted.key_env {
        None => None,
        Some(name) => {
            let key = std::env::var(name).with_context(|| format!("read the key from {name}"));
            Some(Secret(key.ending(Exit::Config)?))
        }
    };
    let options = Options {
        listen: wanted.listen,
        control_listen: wanted.control,
        provider: wanted.provider,
        key,
        models,
        parallel: wanted.parallel.map(std::num::NonZeroUsize::get),
        queue_max: wanted.queue_max,
    };
    let names: Vec<String> = options.models.iter().map(|model| model.name.clone()).collect();
    let running = models::serve(options).await.ending(Exit::Config)?;
    show_models(&running, &names, as_json);
    stopped.await;
    running.stop().await;
    Ok(())
}

/// Where it is, and what to ask for.
fn show_models(running: &models::Running, names: &[String], as_json: bool) {
    if as_json {
        return out::json(&json!({"url": running.url, "control": running.control_url, "models": names}));
    }
    out::line(&format!("a simulated model server listens on {}", running.url));
    out::line(&format!("control endpoint                   {}", running.control_url));
    out::line(&format!("models                             {}", names.join(", ")));
    out::note(
        "\nit speaks /v1 (OpenAI), /api (Ollama), /v1beta (Gemini) and /v1/messages (Anthropic); Ctrl-C ends",
    );
}
