//! `[gpu]`: the publisher of this machine's GPU and the door to its models. It opens nothing.

use super::{
    ConfigError,
    file::{RawGpu, RawOnRed, RawServer},
};
use nhi_agents::gpu::{self, Backend, OnRed, Server};
use nhi_bus::tls;
use nhi_decide::{route::Settings, semaphore::Thresholds};
use nhi_model::identity::IdentityName;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

/// Where the relay listens when nobody says: the loopback, beside the gateway's number range.
const LISTEN: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 11_500);
/// Most requests a machine works on at once: a home's GPU holds a few conversations.
const PARALLEL_MAX: usize = 64;

/// The publisher of this machine's GPU.
#[derive(Clone, Debug)]
pub(crate) struct GpuConfig {
    /// The machine, as it is called in the mesh.
    pub host: IdentityName,
    /// What to look for.
    pub sensor: nhi_host::Settings,
    /// Where the light turns.
    pub thresholds: Thresholds,
    /// Between two looks.
    pub look: Duration,
    /// The door to its models, where it has some.
    pub relay: Option<RelayConfig>,
}

/// The door to a machine's models.
#[derive(Clone, Debug)]
pub(crate) struct RelayConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How others reach it, when that is not where it listens.
    pub url: Option<String>,
    /// Public keys of routers, beside those the mesh tells.
    pub routers: BTreeSet<String>,
    /// The model server.
    pub backend: Backend,
    /// What becomes of requests that run when the light turns red.
    pub on_red: OnRed,
    /// Requests that are worked on at once.
    pub parallel: usize,
}

/// A machine that is told nothing: its light is published, its models stay its own.
///
/// # Errors
/// When its name is none for the mesh.
pub(crate) fn ordinary() -> Result<GpuConfig, ConfigError> {
    checked(RawGpu::default(), Path::new("."))
}

pub(super) fn checked(raw: RawGpu, base: &Path) -> Result<GpuConfig, ConfigError> {
    let relay = relay(&raw)?;
    let mut sensor = nhi_host::Settings { nvml: raw.nvml.map(|path| base.join(path)), ..Default::default() };
    sensor.games = raw.games;
    sensor.model_servers.extend(raw.model_servers);
    if let Some(ports) = raw.remote_ports {
        sensor.remote_ports = ports;
    }
    let look = raw.look_ms.map_or(gpu::LOOK, Duration::from_millis);
    if !(Duration::from_millis(50)..=Duration::from_secs(10)).contains(&look) {
        return Err(ConfigError::value("gpu.look_ms", "must be 50 to 10000 milliseconds"));
    }
    Ok(GpuConfig { host: host(raw.host)?, sensor, thresholds: raw.thresholds, look, relay })
}

/// `[ai.wake.<machine>]`: what wakes nobody is no setting.
pub(super) fn check_wake(settings: &Settings) -> Result<(), ConfigError> {
    for (host, wake) in &settings.wake {
        let bad = |key: &str, what: String| Err(ConfigError::value(format!("ai.wake.{host}.{key}"), what));
        if let Err(error) = wake.mac.parse::<nhi_host::Mac>() {
            return bad("mac", error.to_string());
        }
        if !settings.backends.iter().any(|backend| backend.gpu.as_ref() == Some(host)) {
            let what = format!("no backend has gpu = {host:?}, so no request wakes it");
            return Err(ConfigError::value(format!("ai.wake.{host}"), what));
        }
        if wake.hours.iter().any(|hour| *hour > 23) {
            return bad("hours", "are 0 to 23".to_owned());
        }
        if wake.zone().is_none() {
            return bad("zone", "is no time zone; write it as Europe/Rome".to_owned());
        }
        if !(10..=86_400).contains(&wake.every_s) {
            return bad("every_s", format!("{} is not between 10 and 86400", wake.every_s));
        }
    }
    Ok(())
}

/// The machine's name in the mesh: as told, else its own as far as that fits.
fn host(told: Option<String>) -> Result<IdentityName, ConfigError> {
    let name = told.unwrap_or_else(|| {
        let name = tls::host_name().unwrap_or_default().to_ascii_lowercase();
        let first = name.split('.').next().unwrap_or_default();
        first.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(32).collect()
    });
    match IdentityName::parse(&name) {
        Ok(name) if !name.is_reserved() => Ok(name),
        Ok(_) | Err(_) => {
            let what = format!(
                "this machine cannot be called {name:?} in the mesh; set it to a name of its own, such as gaming-pc"
            );
            Err(ConfigError::value("gpu.host", what))
        }
    }
}

fn relay(raw: &RawGpu) -> Result<Option<RelayConfig>, ConfigError> {
    let Some(url) = &raw.backend else { return Ok(None) };
    let server = match raw.server {
        Some(RawServer::Ollama) | None => Server::Ollama,
        Some(RawServer::LlamaCpp) => Server::LlamaCpp,
        Some(RawServer::LlamaSwap) => Server::LlamaSwap,
        Some(RawServer::Other) => Server::Other,
    };
    let backend =
        Backend::new(server, url).map_err(|error| ConfigError::value("gpu.backend", error.to_string()))?;
    let listen = match &raw.listen {
        None => LISTEN.into(),
        Some(told) => told.trim().parse().map_err(|_| {
            let what =
                format!("{told:?} cannot be used; write an IP address and a port, such as 0.0.0.0:11500");
            ConfigError::value("gpu.listen", what)
        })?,
    };
    let parallel = raw.parallel.unwrap_or(gpu::PARALLEL);
    if !(1..=PARALLEL_MAX).contains(&parallel) {
        return Err(ConfigError::value("gpu.parallel", format!("must be 1 to {PARALLEL_MAX}")));
    }
    if let Some(url) =
        raw.url.as_ref().filter(|url| !url.starts_with("http://") && !url.starts_with("https://"))
    {
        let what = format!("{url:?} is no address; write it as https://192.168.1.20:11500");
        return Err(ConfigError::value("gpu.url", what));
    }
    if let Some(key) = raw.routers.iter().find(|key| !key.starts_with('U') || key.len() != 56) {
        let what = format!("{key:?} is no public key of an identity; `nhi auth list` shows that of `route`");
        return Err(ConfigError::value("gpu.routers", what));
    }
    let on_red = match raw.on_red {
        Some(RawOnRed::Cut) | None => OnRed::Cut,
        Some(RawOnRed::Finish) => OnRed::Finish,
    };
    let (url, routers) = (raw.url.clone(), raw.routers.clone());
    Ok(Some(RelayConfig { listen, url, routers, backend, on_red, parallel }))
}
