//! The agents and the gateway of one mesh, each with its own identity, connection and context.

use super::{
    gpu,
    hold::hold,
    lab::Lab,
    lane::{Lane, Way},
};
use crate::{
    board::{self, Board},
    cli::{self, AgentName},
    config::{ClusterConfig, Config},
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::{self, connect_failure},
    otlp, out,
};
use anyhow::Context;
use nhi_agents::{act, mirror, route, scan, state};
use nhi_bus::{
    connect::{Bus, Target},
    cx::Cx,
    keys,
    private::Lock,
};
use nhi_model::identity::{self, Agent, IdentityName};
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Routers that may share quotas while the store of their counters is away. A house has one or two; four leave each of
/// them a quarter of what is left then.
const ROUTERS_MAX: u32 = 4;

/// What is running.
pub(super) struct Parts {
    pub(super) nats_url: String,
    pub(super) http_url: String,
    /// In the order they were started; they close in reverse.
    running: Vec<(Cx, Bus, Lock)>,
    /// Outlive what runs on them.
    lanes: Vec<Lane>,
    state: Option<state::Handle>,
    scan: Option<scan::Handle>,
    act: Option<act::Handle>,
    mirror: Option<mirror::Handle>,
    route: Option<route::Handle>,
    /// It closes its own connection.
    gpu: Option<(Cx, Lock)>,
}

/// What the parts are started with.
struct Plan<'a> {
    cx: &'a Cx,
    layout: &'a Layout,
    config: &'a Config,
    target: &'a Target,
    board: &'a Board,
}

/// Connects as one identity of this machine.
pub(crate) async fn connect(
    cx: &Cx,
    layout: &Layout,
    target: &Target,
    name: &IdentityName,
) -> Result<Bus, Failure> {
    let seed = keys::load(&layout.keys(), name).ending(Exit::Config)?;
    Bus::connect(cx, target, name, &seed).await.map_err(connect_failure)
}

impl Parts {
    /// Starts all parts.
    pub(super) async fn start(
        cx: &Cx,
        layout: &Layout,
        config: &Config,
        target: &Target,
        clusters: Vec<ClusterConfig>,
        http: SocketAddr,
        board: &Board,
    ) -> Result<Self, Failure> {
        let plan = Plan { cx, layout, config, target, board };
        let mut parts = Self::new(target);
        let started = async {
            parts.state(&plan).await?;
            parts.scan(&plan, clusters.clone()).await?;
            parts.act(&plan, clusters).await?;
            parts.mirror(&plan).await?;
            parts.route(&plan).await?;
            if config.gpu.is_some() {
                parts.gpu(&plan).await?;
            }
            parts.gateway(&plan, http).await
        };
        match started.await {
            Ok(()) => Ok(parts),
            Err(failure) => {
                parts.stop().await;
                Err(failure)
            }
        }
    }

    fn new(target: &Target) -> Self {
        Self {
            nats_url: target.urls.join(","),
            http_url: String::new(),
            running: Vec::new(),
            lanes: Vec::new(),
            state: None,
            scan: None,
            act: None,
            mirror: None,
            route: None,
            gpu: None,
        }
    }

    /// A context and a connection for one part.
    async fn open(&mut self, plan: &Plan<'_>, name: &IdentityName) -> Result<(Cx, Bus), Failure> {
        let lock = hold(plan.layout, name.as_str(), &format!("the agent {name}")).await?;
        let cx = plan.cx.child();
        let bus = connect(&cx, plan.layout, plan.target, name).await?;
        self.running.push((cx.clone(), bus.clone(), lock));
        Ok((cx, bus))
    }

    /// The same for a part on a thread of its own.
    async fn open_apart(
        &mut self,
        plan: &Plan<'_>,
        name: &IdentityName,
        lock: Lock,
    ) -> Result<(Way, Cx, Bus), Failure> {
        let (lane, way) = Lane::open(&format!("nhi-{name}"))?;
        self.lanes.push(lane);
        let cx = plan.cx.child();
        let (own, layout, target) = (cx.clone(), plan.layout.clone(), plan.target.clone());
        let named = name.clone();
        let bus = way.run(async move { connect(&own, &layout, &target, &named).await }).await?;
        self.running.push((cx.clone(), bus.clone(), lock));
        Ok((way, cx, bus))
    }

    async fn state(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        plan.board.say("state", "starting");
        let (cx, bus) = self.open(plan, &Agent::State.identity()).await?;
        let options = state::Options { registry: plan.layout.data() };
        self.state = Some(state::run(&cx, bus, options).await.ending(Exit::Unreachable)?);
        plan.board.done("state", "serves the state, the audit log and the list of identities");
        Ok(())
    }

    async fn scan(&mut self, plan: &Plan<'_>, clusters: Vec<ClusterConfig>) -> Result<(), Failure> {
        let names: Vec<String> = clusters.iter().map(|c| c.name.clone()).collect();
        plan.board.say(
            "scan",
            if names.is_empty() {
                "no cluster is configured".to_owned()
            } else {
                format!("first pass over {}", names.join(", "))
            },
        );
        let (cx, bus) = self.open(plan, &Agent::Scan.identity()).await?;
        let options = scan::Options {
            clusters: clusters
                .into_iter()
                .map(|cluster| scan::Cluster { name: cluster.name, endpoint: cluster.endpoint })
                .collect(),
            project_roots: plan.config.project_roots.clone(),
            graph: plan.layout.dependency_graph(),
            index_s: plan.config.scan_index_s,
            full_s: plan.config.scan_full_s,
        };
        self.scan = Some(scan::run(&cx, bus, options).await.ending(Exit::Unreachable)?);
        Ok(())
    }

    async fn act(&mut self, plan: &Plan<'_>, clusters: Vec<ClusterConfig>) -> Result<(), Failure> {
        plan.board.say("act", "starting");
        let (cx, bus) = self.open(plan, &Agent::Act.identity()).await?;
        let shared: Vec<&str> =
            clusters.iter().filter(|c| c.acting.is_none()).map(|c| c.name.as_str()).collect();
        let told = match shared.as_slice() {
            [] => "plans, and carries out what is approved".to_owned(),
            shared => format!(
                "uses the scanner's token for {}: give it one of its own (`nhi guard plan`)",
                shared.join(", ")
            ),
        };
        let is_shared = !shared.is_empty();
        let clusters = clusters.into_iter().map(|cluster| act::Cluster {
            endpoint: cluster.acting.unwrap_or(cluster.endpoint),
            name: cluster.name,
        });
        let options = act::Options {
            clusters: clusters.collect(),
            registry: plan.layout.data(),
            policy: plan.layout.policy(),
            self_guests: plan.config.self_guests.clone(),
            vmid_range: plan.config.vmid_range,
            program: std::env::current_exe().context("find the nhi program")?,
            pace: act::Pace::REAL,
        };
        self.act = Some(act::run(&cx, bus, options).await.ending(Exit::Unreachable)?);
        if is_shared {
            plan.board.trouble("act", told)
        } else {
            plan.board.done("act", told)
        }
        Ok(())
    }

    async fn mirror(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        plan.board.say("mirror", "starting");
        let (cx, bus) = self.open(plan, &Agent::Mirror.identity()).await?;
        let options = mirror::Options {
            dir: plan.layout.infrastructure(),
            generator: format!("neural-home {}", env!("CARGO_PKG_VERSION")),
            zone: jiff::tz::TimeZone::system(),
        };
        self.mirror = Some(mirror::run(&cx, bus, options).await.ending(Exit::Config)?);
        Ok(())
    }

    async fn gpu(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        plan.board.say("gpu", "looking at this machine");
        let lock = hold(plan.layout, "gpu", "the agent gpu").await?;
        let cx = plan.cx.child();
        let started = gpu::start(&cx, plan.layout, plan.config, plan.target).await;
        // From here on it is closed with the others.
        self.gpu = Some((cx, lock));
        let (_handle, told) = started?;
        plan.board.done("gpu", told);
        Ok(())
    }

    async fn route(&mut self, plan: &Plan<'_>) -> Result<(), Failure> {
        plan.board.say("route", "starting");
        let name = Agent::Route.identity();
        let lock = a_place(plan.layout).await?;
        let (way, cx, bus) = self.open_apart(plan, &name, lock).await?;
        let options = route::Options {
            settings: plan.config.ai.settings.clone(),
            keys: plan.config.ai.keys.clone(),
            seed: keys::load(&plan.layout.keys(), &name).ending(Exit::Config)?,
            workers: ROUTERS_MAX,
        };
        let started = async move { route::run(&cx, bus, options).await.ending(Exit::Unreachable) };
        let route = way.run(started).await?;
        let told = match route.backends() {
            0 => "no AI backend is configured: add [[ai.backend]] to nhi.toml, or a key to .env".to_owned(),
            1 => "1 backend".to_owned(),
            count => format!("{count} backends"),
        };
        self.route = Some(route);
        plan.board.done("route", told);
        Ok(())
    }

    async fn gateway(&mut self, plan: &Plan<'_>, listen: SocketAddr) -> Result<(), Failure> {
        plan.board.say("gateway", "starting");
        let tls =
            if listen.ip().is_loopback() { None } else { super::certificate(plan.layout, plan.config)? };
        let name = identity::gateway();
        let lock = hold(plan.layout, name.as_str(), "a gateway").await?;
        let (way, cx, bus) = self.open_apart(plan, &name, lock).await?;
        let options = nhi_gateway::Options {
            listen,
            allowed_hosts: plan.config.http_hosts.clone(),
            allowed_origins: plan.config.http_origins.clone(),
            target: plan.target.clone(),
            bus,
            tls: tls.clone(),
        };
        let started = async move { nhi_gateway::run(&cx, options).await.ending(Exit::Config) };
        let running = way.run(started).await?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        self.http_url = format!("{scheme}://{}", reachable(running.addr));
        plan.board.done("gateway", self.http_url.clone());
        Ok(())
    }

    /// Starts the named parts.
    async fn named(&mut self, plan: &Plan<'_>, names: &BTreeSet<AgentName>) -> Result<(), Failure> {
        for name in names {
            match name {
                AgentName::State => self.state(plan).await?,
                AgentName::Scan => self.scan(plan, plan.config.clusters.clone()).await?,
                AgentName::Act => self.act(plan, plan.config.clusters.clone()).await?,
                AgentName::Mirror => self.mirror(plan).await?,
                AgentName::Route => self.route(plan).await?,
                AgentName::Gpu => self.gpu(plan).await?,
                AgentName::Gateway => self.gateway(plan, plan.config.http_listen).await?,
            }
        }
        Ok(())
    }

    /// Returns when the first full pass of every source is committed and mirrored, or has failed with a reason.
    pub(super) async fn first_pass(&self, board: &Board) {
        let mut revision = 0;
        if let Some(scan) = &self.scan {
            let mut progress = scan.progress();
            // A scanner that is gone is noticed by its context.
            let Ok(done) = progress.wait_for(scan::Progress::is_ready).await.map(|done| done.clone()) else {
                return;
            };
            revision = done.revision();
            match troubles(&done).as_slice() {
                [] => board.done("scan", told(&done)),
                troubles => {
                    board.trouble("scan", told(&done));
                    // The board cuts lines to the terminal; these are whole.
                    troubles.iter().for_each(|trouble| board::note(&format!("\n{}", out::safe(trouble))));
                }
            }
        }
        if let Some(mirror) = &self.mirror {
            let mut progress = mirror.progress();
            let shows =
                |p: &mirror::Progress| p.trouble.is_some() || p.revision.is_some_and(|r| r >= revision);
            let Ok(done) = progress.wait_for(shows).await.map(|done| done.clone()) else { return };
            match (done.trouble, done.revision) {
                (Some(trouble), _) => board.trouble("mirror", trouble),
                (None, shown) => {
                    board.done("mirror", format!("state.json shows revision {}", shown.unwrap_or_default()));
                }
            }
        }
    }

    /// Stops the parts: first the services of the actuator, the scanner and the keeper finish what they answer, then all
    /// contexts and connections close, the last one that was started first.
    pub(super) async fn stop(mut self) {
        if let Some(route) = self.route.take() {
            route.stop().await;
        }
        if let Some(act) = self.act.take() {
            act.stop().await;
        }
        if let Some(scan) = self.scan.take() {
            scan.stop().await;
        }
        if let Some(state) = self.state.take() {
            state.stop().await;
        }
        if let Some((cx, lock)) = self.gpu.take() {
            cx.close().await;
            drop(lock);
        }
        while let Some((cx, bus, lock)) = self.running.pop() {
            cx.close().await;
            bus.close().await;
            drop(lock);
        }
    }
}

/// `nhi agent`: runs the named parts against a mesh that is already there.
///
/// # Errors
/// When a part cannot start, or one dies.
pub(crate) async fn agents(
    layout: &Layout,
    config: &Config,
    options: cli::Agent,
    stopped: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let joined = if options.nats.is_empty() { &config.nats_join } else { &options.nats };
    let target = mesh::target(layout, joined, config.nats_ca_file.as_deref())?;
    layout.create().ending(Exit::Config)?;
    let names: BTreeSet<AgentName> = options.names.into_iter().collect();
    let lab = if names.contains(&AgentName::Scan) || names.contains(&AgentName::Act) {
        Lab::wanted(config, false)
    } else {
        Lab::Neither
    };
    lab.check(layout)?;
    let rows: Vec<&'static str> = names.iter().map(|name| row(*name)).collect();
    let board = Board::new(&rows);
    let cx = Cx::new();
    if let Some(collector) = &config.otlp {
        otlp::start(&cx, collector);
    }
    let plan = Plan { cx: &cx, layout, config, target: &target, board: &board };
    let mut parts = Parts::new(&target);
    tokio::pin!(stopped);
    let started = tokio::select! {
        started = parts.named(&plan, &names) => started,
        () = &mut stopped => Err(Failure::new(Exit::Interrupted, "interrupted while starting")),
    };
    let ended = match started.and_then(|()| lab.remember(layout)) {
        Ok(()) => attend(&cx, &parts, &board, &mut stopped).await,
        Err(failure) => Err(failure),
    };
    board::note("stopping… (Ctrl-C again ends at once)");
    parts.stop().await;
    cx.close().await;
    ended
}

/// Waits for the end, through the first pass and after it.
async fn attend(
    cx: &Cx,
    parts: &Parts,
    board: &Board,
    stopped: &mut (impl Future<Output = ()> + Unpin),
) -> Result<(), Failure> {
    let running = async {
        parts.first_pass(board).await;
        board::note("running; Ctrl-C ends");
        std::future::pending().await
    };
    tokio::select! {
        () = running => Ok(()),
        () = stopped => Ok(()),
        name = cx.died() => {
            Err(Failure::new(Exit::Failed, format!("{name} stopped working; the log tells why")))
        }
    }
}

/// The lock of one router: unlike the other parts several may run in a directory, they share the work.
async fn a_place(layout: &Layout) -> Result<Lock, Failure> {
    let what = format!("the agent route, {ROUTERS_MAX} times,");
    let mut place = hold(layout, "route", &what).await;
    for number in 2..=ROUTERS_MAX {
        if place.is_ok() {
            break;
        }
        place = hold(layout, &format!("route-{number}"), &what).await;
    }
    place
}

/// The address by which this machine reaches what listens there.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

/// What the first passes came to, in one line.
fn told(progress: &scan::Progress) -> String {
    let source = |(name, source): (&String, &scan::SourceProgress)| match (&source.first_pass, &source.last) {
        (scan::FirstPass::Failed { .. }, _) => format!("{name} failed"),
        (_, Some(last)) if last.requests == 0 => format!("{name} read"),
        (_, Some(last)) => {
            format!("{name}: {} records, {} requests in {} ms", last.writes, last.requests, last.duration_ms)
        }
        (scan::FirstPass::Awaited | scan::FirstPass::Done { .. }, None) => format!("{name} read"),
    };
    let told: Vec<String> = progress.sources.iter().map(source).collect();
    if told.is_empty() { "no source is configured".to_owned() } else { told.join("; ") }
}

/// Why first passes failed, a sentence each.
fn troubles(progress: &scan::Progress) -> Vec<String> {
    let failed = |(name, source): (&String, &scan::SourceProgress)| match &source.first_pass {
        scan::FirstPass::Failed { reason } => Some(format!("{name}: {reason}")),
        scan::FirstPass::Awaited | scan::FirstPass::Done { .. } => None,
    };
    progress.sources.iter().filter_map(failed).collect()
}

const fn row(name: AgentName) -> &'static str {
    match name {
        AgentName::State => "state",
        AgentName::Scan => "scan",
        AgentName::Act => "act",
        AgentName::Mirror => "mirror",
        AgentName::Route => "route",
        AgentName::Gpu => "gpu",
        AgentName::Gateway => "gateway",
    }
}
