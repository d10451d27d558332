//! `nhi sim pve`: the simulated Proxmox alone.

use crate::{
    exit::{Ending, Exit, Failure},
    out,
};
use anyhow::Context;
use nhi_sim::{LabOptions, PveVersion, Running, Seed, serve};
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
