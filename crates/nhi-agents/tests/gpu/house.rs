//! One gaming PC for one test, and the mesh it belongs to when there is one.

use crate::nvml::FakeNvml;
use nhi_agents::{
    gpu::{self, Backend, Handle, OnRed, Options, RelayOptions, Server, Shown},
    state,
};
use nhi_bus::{
    call::call,
    connect::Bus,
    cx::Cx,
    keys::Seed,
    pass,
    server::ServerTls,
    store::{self, StoreSettings},
    view::View,
};
use nhi_decide::semaphore::Thresholds;
use nhi_host::{Places, Settings};
use nhi_llm::{Backend as Client, Chunks, Endpoint, Hints, LlmError, Options as Patience, Reply};
use nhi_model::{
    Timestamp,
    ai::BackendKind,
    gpu::{Gpu, GpuGauges, GpuGet, GpuGot, GpuSeen},
    identity::{Agent, IdentityName, Role},
    key::Key,
};
use nhi_sim::models::{ModelSettings, Options as SimOptions, Provider, Running};
use nhi_testkit::{Nats, wait_for};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const HOST: &str = "gaming-pc";

pub(crate) struct Mesh {
    pub(crate) nats: Nats,
    pub(crate) home: Bus,
    pub(crate) view: View,
    pub(crate) owner: Bus,
    _keeper: state::Handle,
}

/// Somebody at the machine loads a model, not through us.
pub(crate) async fn load(sim: &Running) {
    let mut stream = TcpStream::connect(sim.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = r#"{"model":"sim-8b","keep_alive":-1}"#;
    let request = format!(
        "POST /api/generate HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(sim.loaded().len(), 1);
}

/// A driver that hangs.
pub(crate) struct Hang(PathBuf);

impl Hang {
    /// It answers again. Somebody must be waiting for it.
    pub(crate) fn end(self) {
        let answer = fs::OpenOptions::new().write(true).open(&self.0).unwrap();
        fs::remove_file(&self.0).unwrap();
        drop(answer);
    }
}

/// How a machine is.
pub(crate) struct Setup {
    pub(crate) on_red: OnRed,
    /// The certificate of its relay.
    pub(crate) tls: Option<ServerTls>,
    /// Whether a model is in memory before the publisher starts.
    pub(crate) is_loaded: bool,
    /// Whether the driver hangs from the beginning.
    pub(crate) hangs: bool,
    pub(crate) thresholds: Thresholds,
}

impl Default for Setup {
    fn default() -> Self {
        let (on_red, thresholds) = (OnRed::Cut, Thresholds::default());
        Self { on_red, tls: None, is_loaded: false, hangs: false, thresholds }
    }
}

pub(crate) struct Pc {
    /// While set, the card's memory does not come free.
    pub(crate) keeps_memory: Arc<AtomicBool>,
    pub(crate) sim: Arc<Running>,
    pub(crate) mesh: Option<Mesh>,
    pub(crate) cx: Cx,
    /// What runs on the machine itself.
    own: Cx,
    /// The router's own key.
    pub(crate) seed: Seed,
    pub(crate) handle: Handle,
    dir: TempDir,
}

impl Pc {
    /// Without a mesh: the router is known by configuration.
    pub(crate) async fn new(on_red: OnRed) -> Self {
        Self::set_up(Setup { on_red, ..Setup::default() }).await
    }

    /// The same, as it is set up.
    pub(crate) async fn set_up(setup: Setup) -> Self {
        let seed = Seed::generate();
        let routers = BTreeSet::from([seed.public_key()]);
        Self::with(setup, seed, routers, None, Cx::new()).await
    }

    /// The same behind a certificate.
    pub(crate) async fn with_tls(files: ServerTls) -> Self {
        Self::set_up(Setup { tls: Some(files), ..Setup::default() }).await
    }

    /// With a mesh, which tells who its router is.
    pub(crate) async fn in_a_house(on_red: OnRed) -> Self {
        let (nats, cx) = (Nats::start().await, Cx::new());
        nats.add(HOST, Role::Edge).await;
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let bus = nats.connect(&cx, "state").await;
        let keeper = state::run(&cx, bus, state::Options { registry: nats.dir() }).await.unwrap();
        let view = View::open(&cx, &home).await.unwrap();
        let owner = nats.connect(&cx, "owner").await;
        let seed = nats.seed(Agent::Route.identity().as_str());
        let mesh = Mesh { nats, home, view, owner, _keeper: keeper };
        let setup = Setup { on_red, ..Setup::default() };
        let pc = Self::with(setup, seed, BTreeSet::new(), Some(mesh), cx).await;
        let bus = pc.mesh.as_ref().unwrap().nats.connect(&pc.cx, HOST).await;
        pc.handle.join(&pc.own, bus);
        pc
    }

    async fn with(setup: Setup, seed: Seed, routers: BTreeSet<String>, mesh: Option<Mesh>, cx: Cx) -> Self {
        let Setup { on_red, tls, is_loaded, hangs, thresholds } = setup;
        let dir = TempDir::new().unwrap();
        for part in ["proc/net", "sys", "run", "nhi"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        let nvml = FakeNvml::build(dir.path());
        let model = ModelSettings { tokens_per_s: 50.0, answer_tokens: 100, ..ModelSettings::default() };
        let sim = SimOptions::local(Provider::Ollama, vec![model]);
        let sim = Arc::new(nhi_sim::models::serve(sim).await.unwrap());
        if is_loaded {
            load(&sim).await;
        }
        let hang = dir.path().join("card.txt.hang");
        if hangs {
            assert!(Command::new("mkfifo").arg(&hang).status().unwrap().success());
        }
        let places = ["proc", "sys", "run"].map(|part| dir.path().join(part));
        let [proc, sys, run] = places;
        let sensor = Settings {
            places: Places { proc, sys, run },
            nvml: Some(nvml.library.clone()),
            ..Settings::default()
        };
        let relay = RelayOptions {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls,
            url: None,
            address: None,
            routers,
            backend: Backend::new(Server::Ollama, &sim.url).unwrap(),
            on_red,
            parallel: 2,
        };
        let options = Options {
            host: IdentityName::parse(HOST).unwrap(),
            sensor,
            thresholds,
            look: gpu::LOOK,
            report: gpu::REPORT,
            relay: Some(relay),
            run_dir: dir.path().join("nhi"),
        };
        let own = cx.child();
        let handle = gpu::run(&own, options).await.unwrap();
        let keeps_memory = Arc::default();
        let pc = Self { keeps_memory, sim, mesh, cx, own, seed, handle, dir };
        pc.write_process(100, &["/usr/bin/ollama", "serve"]);
        pc.follow_memory(nvml);
        if hangs {
            return pc;
        }
        let mut shown = pc.handle.shown();
        tokio::time::timeout(SOON, shown.wait_for(|shown| !shown.cards.is_empty())).await.unwrap().unwrap();
        pc
    }

    /// The card's memory is what the model server takes of it.
    fn follow_memory(&self, nvml: FakeNvml) {
        let (sim, stop, keeps) = (self.sim.clone(), self.cx.clone(), self.keeps_memory.clone());
        self.cx.spawn("card", async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            let mut most = 0;
            while !stop.is_cancelled() {
                pace.tick().await;
                most = if keeps.load(Ordering::Relaxed) { most } else { 0 };
                most = sim.vram_bytes().max(most);
                match most {
                    0 => nvml.set(&["used 500000000"]),
                    taken => {
                        let used = format!("used {}", taken + 500_000_000);
                        nvml.set(&["load 97", &used, &format!("compute 100 {taken}")]);
                    }
                }
            }
        });
    }

    pub(crate) fn write_process(&self, pid: u32, words: &[&str]) {
        let place = self.dir.path().join(format!("proc/{pid}"));
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("stat"), format!("{pid} (x) S 1 1 0")).unwrap();
        fs::write(place.join("cmdline"), words.join("\0") + "\0").unwrap();
    }

    pub(crate) fn start_game(&self) {
        self.write_process(900, &["/opt/steam/reaper", "SteamLaunch", "AppId=570", "--", "dota2"]);
    }

    /// The driver hangs from its next question on.
    pub(crate) fn hang_driver(&self) -> Hang {
        let hang = self.hang();
        assert!(Command::new("mkfifo").arg(&hang.0).status().unwrap().success());
        hang
    }

    /// Where it hangs, for a machine that was set up so.
    pub(crate) fn hang(&self) -> Hang {
        Hang(self.dir.path().join("card.txt.hang"))
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.dir.path().join("nhi")
    }

    pub(crate) fn relay(&self) -> SocketAddr {
        self.handle.relay().unwrap()
    }

    pub(crate) fn shown(&self) -> Arc<Shown> {
        self.handle.shown().borrow().clone()
    }

    /// What the machine would tell now.
    pub(crate) fn gauges(&self) -> GpuGauges {
        self.handle.gauges()
    }

    /// A router's connections to the relay, which believe the certificate they are told of.
    pub(crate) fn client(&self, fingerprint: Option<[u8; 32]>) -> Client {
        let seed = self.seed.clone();
        let endpoint = Endpoint {
            name: HOST.to_owned(),
            kind: BackendKind::Ollama,
            url: self.handle.told().unwrap().url.parse().unwrap(),
            key: None,
            headers: BTreeMap::new(),
            fingerprint,
            signer: Some(Arc::new(move |method, path| {
                pass::issue(&seed, HOST, method, path, Timestamp::now())
            })),
            options: Patience::USUAL,
        };
        Client::new(endpoint).unwrap()
    }

    async fn ask(&self, text: &str, stream: bool) -> Result<Reply, LlmError> {
        let request = json!({
            "model": "sim-8b",
            "stream": stream,
            "max_tokens": if stream { 100 } else { 3 },
            "messages": [{ "role": "user", "content": text }],
        });
        let Value::Object(request) = request else { unreachable!("an object is written above") };
        self.client(None).chat(request, &Hints::default()).await
    }

    pub(crate) async fn chat(&self, text: &str) -> Result<Map<String, Value>, LlmError> {
        match self.ask(text, false).await? {
            Reply::Whole(answer) => Ok(answer),
            Reply::Stream(_) => panic!("nobody asked for a stream"),
        }
    }

    pub(crate) async fn stream(&self, text: &str) -> Result<Chunks, LlmError> {
        match self.ask(text, true).await? {
            Reply::Stream(chunks) => Ok(chunks),
            Reply::Whole(_) => panic!("a stream was asked for"),
        }
    }

    pub(crate) fn in_mesh(&self) -> &Mesh {
        self.mesh.as_ref().unwrap()
    }

    /// The machine as the mesh knows it.
    pub(crate) async fn seen(&self) -> GpuSeen {
        let got: GpuGot = call(&self.in_mesh().owner, "gpu", "get", &GpuGet::default()).await.unwrap();
        got.gpus.into_values().next().expect("the machine has reported")
    }

    pub(crate) async fn is_available(&self, what: &str, expected: bool) {
        wait_for(what, SOON, async || {
            let got: GpuGot = call(&self.in_mesh().owner, "gpu", "get", &GpuGet::default()).await.unwrap();
            match got.gpus.get(HOST) {
                Some(seen) if seen.available == expected => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// The record as it stands.
    pub(crate) fn record(&self) -> Option<Gpu> {
        let shown = self.in_mesh().view.read();
        let entry = shown.records.get(&Key::gpu(HOST))?;
        serde_json::from_value(entry.stored.record.clone()).ok()
    }

    pub(crate) async fn kill_mesh(&mut self) {
        self.mesh.as_mut().unwrap().nats.kill9().await;
    }

    /// The machine is switched off.
    pub(crate) async fn sleep(&self) {
        self.own.close().await;
    }

    pub(crate) async fn end(self) {
        self.cx.close().await;
    }
}
