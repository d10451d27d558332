//! Programs that a bench runs beside itself: `nhi up`, whatever it is compared with, and waiting for them. They end with
//! their values. It measures nothing.

use crate::program::Program;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};
use tokio::time::{Instant, interval, timeout, timeout_at};

/// How long a program may take to start: some load half a gigabyte of Python.
const START_MAX: Duration = Duration::from_secs(120);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// A process that is ended when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Starts it without anything to read, and with nobody to hear what it says.
    ///
    /// # Errors
    /// When it cannot be started; the cause is the system's own error.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().with_context(|| format!("starting {:?}", command.get_program()))?))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it ended; `None` while it runs.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.0.try_wait().context("asking whether a program still runs")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // In good order, because `nhi up` ends its nats-server then.
        let _ = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// `nhi up` that is ready.
#[derive(Debug)]
pub struct Mesh {
    process: Running,
    dir: PathBuf,
    /// `nats://127.0.0.1:PORT`
    pub nats: String,
    /// `127.0.0.1:PORT` of the gateway.
    pub http: String,
}

impl Mesh {
    /// Starts it in a directory, on free ports, and waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is not ready in time.
    pub async fn start(program: &Program, dir: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = program.command(dir);
        command.args(["up", "--nats-port", "0", "--http-port", "0"]).args(arguments);
        let mut process = Running::start(command)?;
        let ready = dir.join(".nhi/run/endpoints.json");
        let is_ready = || {
            ensure!(process.ended()?.is_none(), "nhi up ended");
            Ok(ready.exists())
        };
        until("nhi up to be ready", is_ready).await?;
        let told: Value = serde_json::from_slice(&fs::read(ready)?).context("endpoints.json is JSON")?;
        let url = |name: &str| told[name].as_str().with_context(|| format!("endpoints.json names no {name}"));
        let http = url("http")?.trim_start_matches("http://").trim_end_matches('/').to_owned();
        Ok(Self { nats: url("nats")?.to_owned(), http, process, dir: dir.to_owned() })
    }

    /// The process id of `nhi up`.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The key of an identity.
    ///
    /// # Errors
    /// When there is no such identity.
    pub fn key(&self, who: &str) -> Result<String> {
        let file = self.dir.join(format!(".nhi/keys/{who}.nk"));
        let key = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        Ok(key.trim().to_owned())
    }
}

/// Waits for a start.
///
/// # Errors
/// When it takes too long, or looking fails.
pub async fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let (until, mut look) = (Instant::now() + START_MAX, interval(LOOK));
    while !is()? {
        timeout_at(until, look.tick()).await.with_context(|| format!("waiting for {what}"))?;
        ensure!(Instant::now() < until, "waited {START_MAX:?} for {what}");
    }
    Ok(())
}

/// Waits for nothing but time itself.
pub async fn pass(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}
