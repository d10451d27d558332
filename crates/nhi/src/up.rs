//! `nhi up` and `nhi agent`: starts the parts in order, says when all is ready, stops them in reverse.
//! Read this file first: it is the whole wiring.

mod gpu;
mod hold;
mod lab;
mod lane;
mod outage;
mod parts;

use crate::{
    board::{self, Board},
    cli,
    config::{Ai, ClusterConfig, Config},
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints},
    otlp,
};
use anyhow::Context;
use hold::hold;
use lab::Lab;
use nhi_bus::{
    accounts, audit,
    connect::{Bus, Target},
    cx::Cx,
    registry::Registry,
    server::{self, Listen, Locate, ServerPlan, ServerTls, Supervisor},
    store, tls,
};
use nhi_model::{Timestamp, audit::AuditKind, identity};
use parts::Parts;
pub(crate) use parts::{agents, connect};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

/// How long `up` waits for the first full pass before it says that the mesh is up without it.
const FIRST_PASS: Duration = Duration::from_secs(120);
/// How often the certificate is looked at. It is renewed 30 days before it ends.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(12 * 3600);

/// What runs, in the order it is stopped.
struct Running {
    parts: Parts,
    home: Bus,
    home_cx: Cx,
    server: Option<(Supervisor, Cx)>,
    sim: Option<nhi_sim::Running>,
    models: Option<nhi_sim::models::Running>,
}

impl Running {
    async fn stop(self) {
        self.parts.stop().await;
        self.home.close().await;
        self.home_cx.close().await;
        if let Some((server, cx)) = self.server {
            server.stop().await;
            cx.close().await;
        }
        if let Some(models) = self.models {
            models.stop().await;
        }
        if let Some(sim) = self.sim {
            sim.stop().await;
        }
    }
}

/// Runs everything until `stopped` resolves.
///
/// # Errors
/// When a part cannot start, or one dies.
pub(crate) async fn run(
    layout: &Layout,
    config: &Config,
    options: cli::Up,
    as_json: bool,
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    layout.create().ending(Exit::Config)?;
    let _lock = hold(layout, "up", "a mesh").await?;
    Lab::wanted(config, options.demo).check(layout)?;
    let _ = fs::remove_file(layout.endpoints());
    let mut rows = vec!["nats-server", "state", "scan", "act", "mirror", "route", "gateway"];
    if config.gpu.is_some() {
        rows.insert(rows.len() - 1, "gpu");
    }
    let board = Board::new(&rows);
    let cx = Cx::new();
    if let Some(collector) = &config.otlp {
        otlp::start(&cx, collector);
    }
    let starting = start(&cx, layout, config, &options, &board);
    tokio::pin!(stopped, starting);
    let running = tokio::select! {
        running = &mut starting => running,
        () = &mut stopped => {
            // Before the threads go that some of it runs on.
            cx.close().await;
            return Err(Failure::new(Exit::Interrupted, "interrupted while starting"));
        }
    };
    let running = match running {
        Ok(running) => running,
        Err(failure) => {
            cx.close().await;
            return Err(failure);
        }
    };
    let told = |endpoints: &Endpoints| match as_json {
        true => serde_json::to_string(endpoints).expect("two addresses and a number"),
        false => ready(layout, endpoints, running.sim.as_ref()),
    };
    let ended = serve(&cx, layout, &running, &board, told, &mut stopped).await;
    let _ = fs::remove_file(layout.endpoints());
    board::note("stopping… (Ctrl-C again ends at once)");
    running.stop().await;
    cx.close().await;
    ended
}

/// Announces the mesh once the first full pass is committed and mirrored, then waits for the end.
async fn serve(
    cx: &Cx,
    layout: &Layout,
    running: &Running,
    board: &Board,
    told: impl Fn(&Endpoints) -> String,
    stopped: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), Failure> {
    let died = |name: &str| Failure::new(Exit::Failed, format!("{name} stopped working; the log tells why"));
    tokio::select! {
        () = running.parts.first_pass(board) => {}
        () = tokio::time::sleep(FIRST_PASS) => board.say("scan", "still at its first pass"),
        () = &mut *stopped => return Ok(()),
        name = cx.died() => return Err(died(name)),
    }
    let endpoints = Endpoints {
        nats: running.parts.nats_url.clone(),
        http: running.parts.http_url.clone(),
        pid: std::process::id(),
    };
    endpoints.write(layout).context("announce the mesh")?;
    board::line(&told(&endpoints));
    let server = running.server.as_ref().map(|(server, _)| server);
    tokio::select! {
        () = &mut *stopped => Ok(()),
        () = outage::tell(&running.home, server) => Ok(()),
        name = cx.died() => Err(died(name)),
    }
}

/// What a person needs to know next.
fn ready(layout: &Layout, endpoints: &Endpoints, sim: Option<&nhi_sim::Running>) -> String {
    let here = std::env::current_dir().is_ok_and(|dir| dir == layout.root());
    let nhi = if here { "nhi".to_owned() } else { format!("nhi --dir {}", layout.root().display()) };
    let mut lines = vec![
        "\nready".to_owned(),
        format!("  nats   {}", endpoints.nats),
        format!("  http   {}", endpoints.http),
        format!("  file   {}", layout.infrastructure().join("state.json").display()),
    ];
    if let Some(sim) = sim {
        lines.push(format!(
            "  lab    simulated; change it and break it at {} (docs/simulator.md)",
            sim.control_url
        ));
    }
    lines.push(format!("\ntry: {nhi} status · guest list · state watch · call"));
    lines.push("Ctrl-C stops everything".to_owned());
    lines.join("\n")
}

async fn start(
    cx: &Cx,
    layout: &Layout,
    config: &Config,
    options: &cli::Up,
    board: &Board,
) -> Result<Running, Failure> {
    is_here("http.listen", config.http_listen.ip())?;
    let (sim, clusters) = lab(config, options.demo).await?;
    let (models, ai) = models(config, options.demo).await?;
    let config = &Config { ai, ..config.clone() };
    let (registry, made) =
        Registry::create_if_missing(&layout.data(), Timestamp::now()).ending(Exit::Config)?;
    let joined = if options.nats.is_empty() { &config.nats_join } else { &options.nats };
    let (server, target) = if joined.is_empty() {
        let registry = gpu::enrol(layout, config, registry)?;
        let (server, target) = start_server(cx, layout, config, options, &registry, board).await?;
        (Some(server), target)
    } else {
        board.say("nats-server", "joining");
        (None, mesh::target(layout, joined, config.nats_ca_file.as_deref())?)
    };
    let home_cx = cx.child();
    let home = connect(&home_cx, layout, &target, &identity::home()).await?;
    if server.is_none() {
        board.done("nats-server", format!("joined {}", home.urls()));
    }
    Lab::wanted(config, options.demo).remember(layout)?;
    let settings = store::StoreSettings { replicas: config.nats_replicas };
    for provisioned in store::provision(&home, &settings).await.ending(Exit::Config)? {
        tracing::debug!(?provisioned, "provisioned");
    }
    store::keep(&home_cx, &home, settings);
    if !made.is_empty() {
        let names: Vec<_> = made.iter().map(ToString::to_string).collect();
        let details = BTreeMap::from([("identities".to_owned(), names.into())]);
        audit::append(&home, AuditKind::MeshCreated, None, details).await.context("write the audit log")?;
    }
    let http =
        SocketAddr::new(config.http_listen.ip(), options.http_port.unwrap_or(config.http_listen.port()));
    let parts = Parts::start(cx, layout, config, &target, clusters, http, board).await?;
    keep_certificate(cx, layout, config);
    Ok(Running { parts, home, home_cx, server, sim, models })
}

/// Whether this machine has the address; nats-server would say so in its log alone.
fn is_here(key: &str, ip: IpAddr) -> Result<(), Failure> {
    match TcpListener::bind((ip, 0)) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
            let sentence = format!(
                "{key}: {ip} is not an address of this machine; use one of its own, 127.0.0.1, or 0.0.0.0 for all"
            );
            Err(Failure::new(Exit::Config, sentence))
        }
        // Any other trouble is told by who listens there in earnest.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The simulated lab when it is wanted, and the clusters to scan.
async fn lab(config: &Config, demo: bool) -> Result<(Option<nhi_sim::Running>, Vec<ClusterConfig>), Failure> {
    if !demo {
        return Ok((None, config.clusters.clone()));
    }
    let sim = nhi_sim::serve(nhi_sim::LabOptions::demo()).await.context("start the simulated lab")?;
    let simulated = ClusterConfig::new(
        "home",
        &sim.url,
        &sim.scan_token.id,
        &sim.scan_token.secret,
        sim.ca_pem.as_bytes(),
    )
    .and_then(|cluster| cluster.acting_with(&sim.act_token.id, &sim.act_token.secret))
    .ending(Exit::Config)?;
    Ok((Some(sim), vec![simulated]))
}

/// The simulated model server when it is wanted, and the backends to ask.
async fn models(config: &Config, demo: bool) -> Result<(Option<nhi_sim::models::Running>, Ai), Failure> {
    if !demo {
        return Ok((None, config.ai.clone()));
    }
    let options = nhi_sim::models::Options::demo();
    let models = nhi_sim::models::serve(options).await.context("start the simulated model server")?;
    let ai = config.ai.clone().with_simulated(&models.url);
    Ok((Some(models), ai))
}

async fn start_server(
    cx: &Cx,
    layout: &Layout,
    config: &Config,
    options: &cli::Up,
    registry: &Registry,
    board: &Board,
) -> Result<((Supervisor, Cx), Target), Failure> {
    is_here("nats.listen", config.nats_listen.ip())?;
    board.say("nats-server", "looking for nats-server");
    let binary = server::locate::locate_reporting(&Locate::from_environment(), |progress| {
        board.say("nats-server", progress.to_string());
    })
    .await
    .ending(Exit::Config)?;
    let port = options.nats_port.unwrap_or(config.nats_listen.port());
    let listen = listen(layout, config, SocketAddr::new(config.nats_listen.ip(), port))?;
    let plan = ServerPlan::new(&layout.data(), listen).context("place nats-server").ending(Exit::Config)?;
    accounts::write(registry, &plan).ending(Exit::Config)?;
    let version = binary.version;
    let server_cx = cx.child();
    let server = Supervisor::start(&server_cx, binary, plan).await.ending(Exit::Config)?;
    board.done("nats-server", format!("{version} on {}", server.url()));
    let target = mesh::own_target(layout, server.url());
    Ok(((server, server_cx), target))
}

/// Loopback without, anything else with TLS from our own authority.
fn listen(layout: &Layout, config: &Config, address: SocketAddr) -> Result<Listen, Failure> {
    match certificate(layout, config)? {
        Some(tls) if !address.ip().is_loopback() => Ok(Listen::with_tls(address, tls)),
        Some(_) | None => Listen::plain(address).ending(Exit::Config),
    }
}

/// One certificate for whatever listens beyond loopback, by every name it may be called; none when nothing does.
pub(crate) fn certificate(layout: &Layout, config: &Config) -> Result<Option<ServerTls>, Failure> {
    let open: Vec<IpAddr> = [config.nats_listen.ip(), config.http_listen.ip()]
        .into_iter()
        .filter(|ip| !ip.is_loopback())
        .collect();
    if open.is_empty() {
        return Ok(None);
    }
    let mut names: BTreeSet<String> = open.into_iter().flat_map(tls::names_at).collect();
    names.extend(config.http_hosts.iter().cloned());
    tls::server_named(&layout.tls(), &names, Timestamp::now()).map(Some).ending(Exit::Config)
}

/// Renews the certificate in time for as long as the mesh runs. The gateway reads its file again by itself.
fn keep_certificate(cx: &Cx, layout: &Layout, config: &Config) {
    if !matches!(certificate(layout, config), Ok(Some(_))) {
        return;
    }
    let (stop, layout, config) = (cx.clone(), layout.clone(), config.clone());
    cx.spawn("certificates", async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(CERTIFICATE_INTERVAL) => {}
            }
            let renewed = certificate(&layout, &config).map_err(|failure| failure.error);
            let applied = match renewed {
                Ok(_) => accounts::apply(&layout.data()).await.map(drop).map_err(anyhow::Error::from),
                Err(error) => Err(error),
            };
            if let Err(error) = applied {
                tracing::error!(err = %crate::chain(&error), "certificate not renewed");
            }
        }
    });
}
