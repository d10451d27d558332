//! The products: how each is installed at its pinned version, configured before the wall and asked. All of them listen on
//! loopback, keep no database and send nothing anywhere.

use anyhow::{Context as _, Result, ensure};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};

/// The limit of time each product is given for a backend, where it has such a setting, seconds.
pub(crate) const PATIENCE: u32 = 4;
/// Longest that one takes to start.
const START_MAX: Duration = Duration::from_secs(120);

/// A gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    Litellm,
    Portkey,
    Tensorzero,
    VllmRouter,
}

/// One that runs.
pub(crate) struct Started {
    product: Product,
    addr: SocketAddr,
    pub(crate) child: Option<Child>,
    /// It gave up before it listened.
    pub(crate) is_absent: bool,
    routes: Vec<(String, String)>,
    second: String,
}

/// Where and how to ask.
pub(crate) struct Asked {
    pub(crate) addr: SocketAddr,
    pub(crate) path: String,
    pub(crate) headers: Vec<(&'static str, String)>,
}

fn folder() -> PathBuf {
    std::env::var_os("NHI_PEERS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tmp/ai-peers"), PathBuf::from)
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn run(mut command: Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.context("starting it")?;
    let told = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = told.lines().rev().take(8).collect();
    ensure!(
        output.status.success(),
        "{:?}:\n{}",
        command,
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    );
    Ok(())
}

impl Product {
    pub(crate) const ALL: [Self; 4] = [Self::Litellm, Self::Portkey, Self::Tensorzero, Self::VllmRouter];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Litellm => "litellm",
            Self::Portkey => "portkey",
            Self::Tensorzero => "tensorzero",
            Self::VllmRouter => "vllm-router",
        }
    }

    pub(crate) const fn version(self) -> &'static str {
        match self {
            Self::Litellm => "1.106.2",
            Self::Portkey => "1.15.2",
            Self::Tensorzero => "2026.6.0",
            Self::VllmRouter => "0.1.17",
        }
    }

    fn python(self) -> PathBuf {
        folder().join(self.name()).join("bin/python")
    }

    /// Installs it, unless it is there.
    pub(crate) async fn install(self) -> Result<()> {
        let folder = folder().join(self.name());
        let mark = folder.join(format!("installed-{}", self.version()));
        if mark.exists() {
            return Ok(());
        }
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        if self == Self::Portkey {
            // Newer servers of its web framework break its streams.
            let package = json!({
                "private": true,
                "dependencies": {"@portkey-ai/gateway": self.version(), "@hono/node-server": "1.14.0"},
                "overrides": {"@hono/node-server": "$@hono/node-server"},
            });
            fs::write(folder.join("package.json"), package.to_string())?;
            let mut npm = Command::new("npm");
            npm.args(["install", "--no-audit", "--no-fund", "--ignore-scripts"]).current_dir(&folder);
            run(npm).await?;
        } else {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(&folder);
            run(venv).await?;
            let package = if self == Self::Litellm { "litellm[proxy]" } else { self.name() };
            let mut pip = Command::new(self.python());
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
            pip.arg(format!("{package}=={}", self.version()));
            run(pip).await?;
        }
        fs::write(mark, "").context("marking it as installed")
    }

    /// Starts it before these backends.
    pub(crate) async fn start(self, routes: Vec<(String, String)>, second: &str) -> Result<Started> {
        let mut started = Started {
            product: self,
            addr: free_port()?,
            child: None,
            is_absent: false,
            routes,
            second: second.to_owned(),
        };
        if self != Self::VllmRouter {
            started.launch("", "").await?;
        }
        Ok(started)
    }
}

impl Started {
    pub(crate) const fn name(&self) -> &'static str {
        self.product.name()
    }

    /// Makes it ready for a cell: vllm-router has no models to choose backends by, so each cell has a process of its own.
    pub(crate) async fn renew(&mut self, row: usize, stream: bool) -> Result<()> {
        if self.product != Product::VllmRouter {
            return Ok(());
        }
        if let Some(mut child) = self.child.take() {
            child.kill().await.context("ending the process before")?;
        }
        let (plain, streamed) = self.routes[row].clone();
        self.addr = free_port()?;
        let second = self.second.clone();
        self.launch(if stream { &streamed } else { &plain }, &second).await
    }

    async fn launch(&mut self, first: &str, second: &str) -> Result<()> {
        let folder = folder().join(self.name());
        let port = self.addr.port().to_string();
        let mut command = match self.product {
            Product::Litellm => {
                let file = folder.join("wall.yaml");
                fs::write(&file, self.litellm().to_string())?;
                let mut command = Command::new(folder.join("bin/litellm"));
                command
                    .args(["--host", "127.0.0.1", "--telemetry", "False", "--port", &port])
                    .arg("--config")
                    .arg(file);
                command.env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true");
                command.env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
                command
            }
            Product::Portkey => {
                let mut command = Command::new("node");
                command.arg(folder.join("node_modules/@portkey-ai/gateway/build/start-server.js"));
                command.args([&format!("--port={port}"), "--headless"]);
                command
            }
            Product::Tensorzero => {
                let file = folder.join("wall.toml");
                fs::write(&file, self.tensorzero()?)?;
                let mut command = Command::new(self.product.python());
                let url = folder.join("url");
                fs::write(&url, "")?;
                command.args(["-c", TENSORZERO]).args([file, url]);
                command
            }
            Product::VllmRouter => {
                let mut command = Command::new(self.product.python());
                command.args([
                    "-m",
                    "vllm_router.launch_router",
                    "--host",
                    "127.0.0.1",
                    "--policy",
                    "round_robin",
                ]);
                command.args(["--port", &port, "--prometheus-port", &free_port()?.port().to_string()]);
                command.args([
                    "--worker-startup-timeout-secs",
                    "10",
                    "--request-timeout-secs",
                    &PATIENCE.to_string(),
                    "--worker-urls",
                    first,
                    second,
                ]);
                command
            }
        };
        let log = fs::File::create(folder.join("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
        self.child = Some(command.spawn().with_context(|| format!("starting {}", self.name()))?);
        if self.product == Product::Tensorzero {
            self.addr = self.told_address(&folder.join("url")).await?;
        }
        self.is_there().await
    }

    /// The address of one that chooses it itself.
    async fn told_address(&mut self, file: &Path) -> Result<SocketAddr> {
        let told = wait_for("the address it chose", START_MAX, async || {
            let told = fs::read_to_string(file).unwrap_or_default();
            if told.ends_with('/') || self.has_ended() { Ok(told) } else { Err(told) }
        })
        .await;
        let address = told.trim_start_matches("http://").split('/').next().unwrap_or_default();
        address
            .parse()
            .with_context(|| format!("{} told {told:?} for its address; {}", self.name(), self.log()))
    }

    async fn is_there(&mut self) -> Result<()> {
        let (name, addr) = (self.name(), self.addr);
        let has_ended = wait_for(name, START_MAX, async || match TcpStream::connect(addr).await {
            Ok(_) => Ok(false),
            Err(_) if self.has_ended() => Ok(true),
            Err(error) => Err(error.to_string()),
        })
        .await;
        // One that waits for its backends to be there gives up where there is none: that is its answer.
        ensure!(!has_ended || self.product == Product::VllmRouter, "{name} has ended; {}", self.log());
        self.is_absent = has_ended;
        Ok(())
    }

    fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn log(&self) -> String {
        format!("see {}", folder().join(self.name()).join("log").display())
    }

    /// How to ask for a row; the body is made fit for it.
    pub(crate) fn request(
        &self,
        row: usize,
        stream: bool,
        first: &str,
        second: &str,
        body: &mut Value,
    ) -> Result<Asked> {
        let (mut path, mut headers) = ("/v1/chat/completions".to_owned(), Vec::new());
        match self.product {
            Product::Litellm => body["model"] = json!(name(row, stream)),
            Product::Portkey => {
                let target = |url: &str| {
                    json!({"provider": "openai", "custom_host": format!("{url}/v1"), "api_key": "none",
                           "request_timeout": PATIENCE * 1000})
                };
                let config =
                    json!({"strategy": {"mode": "fallback"}, "targets": [target(first), target(second)]});
                headers.push(("x-portkey-config", config.to_string()));
            }
            Product::Tensorzero => {
                "/openai/v1/chat/completions".clone_into(&mut path);
                body["model"] = json!(format!("tensorzero::model_name::{}", name(row, stream)));
            }
            Product::VllmRouter => {}
        }
        Ok(Asked { addr: self.addr, path, headers })
    }

    /// All rows with their ways, by name.
    fn ways(&self) -> impl Iterator<Item = (String, &str)> {
        self.routes.iter().enumerate().flat_map(|(row, (plain, stream))| {
            [(name(row, false), plain.as_str()), (name(row, true), stream.as_str())]
        })
    }

    /// JSON is YAML too.
    fn litellm(&self) -> Value {
        let model = |name: String, url: &str| {
            json!({"model_name": name, "litellm_params": {
                "model": format!("openai/{}", crate::MODEL), "api_base": format!("{url}/v1"), "api_key": "none",
                "timeout": PATIENCE, "stream_timeout": PATIENCE, "max_retries": 0,
            }})
        };
        let mut models: Vec<Value> = self.ways().map(|(name, url)| model(name, url)).collect();
        models.push(model("second".to_owned(), &self.second));
        let fallbacks: Vec<Value> = self.ways().map(|(name, _)| json!({name: ["second"]})).collect();
        json!({
            "model_list": models,
            "litellm_settings": {"num_retries": 0, "request_timeout": PATIENCE, "telemetry": false},
            "router_settings": {"fallbacks": fallbacks, "num_retries": 0},
        })
    }

    fn tensorzero(&self) -> Result<String> {
        let mut file = String::new();
        for (name, url) in self.ways() {
            writeln!(file, "[models.{name}]\nrouting = [\"first\", \"second\"]")?;
            for (provider, url) in [("first", url), ("second", &self.second)] {
                let patience = PATIENCE * 1000;
                writeln!(
                    file,
                    "[models.{name}.providers.{provider}]\ntype = \"openai\"\nmodel_name = \"{}\"\napi_base = \"{url}/v1\"\n\
                     api_key_location = \"none\"\n\
                     timeouts = {{ non_streaming = {{ total_ms = {patience} }}, streaming = {{ ttft_ms = {patience} }} }}",
                    crate::MODEL
                )?;
            }
        }
        Ok(file)
    }
}

fn name(row: usize, stream: bool) -> String {
    format!("{}-{row}", if stream { "stream" } else { "plain" })
}

/// The gateway that is in the package.
const TENSORZERO: &str = "
import pathlib, sys, time
from tensorzero import tensorzero
gateway = tensorzero._start_http_gateway(
    config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
pathlib.Path(sys.argv[2]).write_text(gateway.base_url + '/')
while True:
    time.sleep(3600)
";
