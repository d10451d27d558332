//! `nhi sim pve`: the simulated Proxmox alone.

use crate::{
    exit::{Ending, Exit, Failure},
    out,
};
use anyhow::Context;
use nhi_sim::{LabOptions, Seed, serve};
use serde_json::json;
use std::{net::SocketAddr, path::Path};

/// Runs the simulated lab until `stopped` resolves.
///
/// # Errors
/// When a port is in use or the seed file is wrong.
pub(crate) async fn pve(
    listen: SocketAddr,
    control: SocketAddr,
    seed: Option<&Path>,
    latency_ms: u64,
    as_json: bool,
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let seed = match seed {
        None => Seed::demo(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))
                .ending(Exit::Config)?;
            Seed::from_json(&text).with_context(|| format!("{}", path.display())).ending(Exit::Config)?
        }
    };
    let options = LabOptions { listen, control_listen: control, latency_ms, ..LabOptions::local(seed) };
    let running = serve(options).await.ending(Exit::Config)?;
    let told = json!({
        "url": running.url, "control": running.control_url, "fingerprint": running.fingerprint,
        "scan_token_id": running.scan_token.id, "scan_token_secret": running.scan_token.secret,
    });
    if as_json {
        out::json(&told);
    } else {
        out::line(&format!("a simulated Proxmox VE listens on {}", running.url));
        out::line(&format!("control endpoint             {}", running.control_url));
        out::line("\nAs a .env for `nhi up`:\n");
        let (user, id) = running.scan_token.id.split_once('!').unwrap_or((&running.scan_token.id, ""));
        out::line(&format!("PROXMOX_HOST={}\nPROXMOX_USER={user}\nPROXMOX_TOKEN_ID={id}", running.url));
        out::line(&format!("PROXMOX_SECRET_KEY={}", running.scan_token.secret));
        out::line(&format!("PROXMOX_FINGERPRINT={}", running.fingerprint));
        out::note("\nCtrl-C ends");
    }
    stopped.await;
    running.stop().await;
    Ok(())
}
