//! The publisher of this machine's GPU: who it is in the mesh, what its door shows, and a connection that may come
//! later, because it protects the person who plays also while there is no mesh.

use super::connect;
use crate::{
    config::{Config, GpuConfig, ordinary_gpu},
    exit::{Ending, Exit, Failure},
    layout::Layout,
};
use nhi_agents::gpu::{self, Handle, Options, RelayOptions};
use nhi_bus::{
    connect::Target,
    cx::Cx,
    keys,
    registry::{self, Registry, SeedPlace},
    server::ServerTls,
    tls,
};
use nhi_model::{
    Timestamp,
    identity::{IdentityName, Role},
};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::sleep;

/// Between two tries to reach the mesh, at first and at most.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Gives this machine an identity in the mesh it runs itself, before nats-server is told of all of them.
///
/// # Errors
/// When the name is somebody else's.
pub(super) fn enrol(layout: &Layout, config: &Config, registry: Registry) -> Result<Registry, Failure> {
    let Some(gpu) = &config.gpu else { return Ok(registry) };
    match registry.get(&gpu.host).map(|identity| identity.kind.role()) {
        Some(Some(Role::Edge)) => Ok(registry),
        None => registry::add(&layout.data(), &gpu.host, Role::Edge, &SeedPlace::Keys, Timestamp::now())
            .map(|(_, registry)| registry)
            .ending(Exit::Config),
        Some(_) => {
            let sentence = format!(
                "{} is the name of an identity that is no machine: set [gpu] host to another name for this machine",
                gpu.host
            );
            Err(Failure::new(Exit::Config, sentence))
        }
    }
}

/// Starts the publisher. It goes on trying to reach the mesh.
///
/// # Errors
/// When the door cannot be opened.
pub(super) async fn start(
    cx: &Cx,
    layout: &Layout,
    config: &Config,
    target: &Target,
) -> Result<(Handle, String), Failure> {
    let gpu = match &config.gpu {
        Some(gpu) => gpu.clone(),
        None => ordinary_gpu().ending(Exit::Config)?,
    };
    let host = machine(layout, &gpu);
    // Without its key the mesh never hears of it: better said now than in a log.
    keys::load(&layout.keys(), &host).ending(Exit::Config)?;
    let options = options(layout, gpu, host.clone())?;
    let handle = gpu::run(cx, options).await.ending(Exit::Config)?;
    let told = match handle.told() {
        Some(relay) => format!("{host}: its models are reached through {}", relay.url),
        None => format!("{host}: no [gpu] backend, so nobody is sent to its models"),
    };
    let (stop, layout, target, reporter) = (cx.clone(), layout.clone(), target.clone(), handle.reporter());
    cx.spawn("gpu connection", async move {
        let reaching = async {
            let mut pause = RETRY_MIN;
            loop {
                match connect(&stop, &layout, &target, &host).await {
                    Ok(bus) => return bus,
                    Err(failure) => {
                        tracing::warn!(agent = "gpu", err = %crate::chain(&failure.error), "mesh not reached");
                    }
                }
                sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        };
        let bus = tokio::select! {
            () = stop.cancelled() => return,
            bus = reaching => bus,
        };
        reporter.run(stop, bus.clone()).await;
        bus.close().await;
    });
    Ok((handle, told))
}

/// Who this machine is: as configured; or, where that key is not here and one other is, whoever it was enrolled as.
fn machine(layout: &Layout, gpu: &GpuConfig) -> IdentityName {
    if keys::file(&layout.keys(), &gpu.host).exists() {
        return gpu.host.clone();
    }
    let files = fs::read_dir(layout.keys()).into_iter().flatten().flatten();
    let names =
        files.filter_map(|file| IdentityName::parse(file.file_name().to_str()?.strip_suffix(".nk")?).ok());
    match names.collect::<Vec<_>>().as_slice() {
        [only] => only.clone(),
        _ => gpu.host.clone(),
    }
}

fn options(layout: &Layout, gpu: GpuConfig, host: IdentityName) -> Result<Options, Failure> {
    let relay = match gpu.relay {
        None => None,
        Some(relay) => {
            let tls = certificate(layout, relay.listen)?;
            Some(RelayOptions {
                listen: relay.listen,
                tls,
                url: relay.url,
                address: reachable(relay.listen),
                routers: relay.routers,
                backend: relay.backend,
                on_red: relay.on_red,
                parallel: relay.parallel,
            })
        }
    };
    Ok(Options {
        host,
        sensor: gpu.sensor,
        thresholds: gpu.thresholds,
        look: gpu.look,
        report: gpu::REPORT,
        relay,
        run_dir: layout.run(),
    })
}

/// A certificate of the door's own: routers believe its fingerprint, which the mesh tells them, and no authority.
fn certificate(layout: &Layout, listen: SocketAddr) -> Result<Option<ServerTls>, Failure> {
    if listen.ip().is_loopback() {
        return Ok(None);
    }
    let names = tls::names_at(listen.ip());
    tls::server_named(&layout.tls().join("gpu"), &names, Timestamp::now()).map(Some).ending(Exit::Config)
}

/// The address others reach a door by that is open on all of this machine's.
fn reachable(listen: SocketAddr) -> Option<IpAddr> {
    if !listen.ip().is_unspecified() {
        return None;
    }
    let names = tls::names_at(listen.ip());
    let addresses = names.iter().filter_map(|name| name.parse::<IpAddr>().ok());
    addresses.filter(|ip| !ip.is_loopback() && ip.is_ipv4() == listen.is_ipv4()).min()
}
