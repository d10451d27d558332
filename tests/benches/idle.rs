//! What the mesh takes while nothing happens: memory and processor time of the real `nhi` over twenty seconds, with
//! nats-server beside it as the reference.
//!
//! `cargo bench -p nhi-tests --bench idle`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context as _, Result, ensure};
use nhi_tests::{
    measure::{Table, Usage, machine, size},
    program::Program,
};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tokio::time::{Instant as TokioInstant, interval, timeout_at};

/// How long is measured.
const MEASURED: Duration = Duration::from_secs(20);
/// What has just started is not idle.
const SETTLED: Duration = Duration::from_secs(5);
/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(120);
/// The goals of the whole and of one small agent, bytes.
const WHOLE_BYTES_MAX: u64 = 60 << 20;
const AGENT_BYTES_MAX: u64 = 12 << 20;

/// A process that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // In good order, because `nhi up` ends its nats-server then.
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    println!("{}; {} s without anything to do\n", machine(), MEASURED.as_secs());
    let mut table = Table::new(&["process", "resident", "own", "threads", "processor", "goal"]);
    for (name, arguments) in [("nhi up --demo", &["--demo"][..]), ("nhi up, no cluster", &[])] {
        let dir = tempfile::tempdir()?;
        let up = start(&program, dir.path(), arguments).await?;
        let server: u32 = fs::read_to_string(dir.path().join(".nhi/run/nats-server.pid"))?.trim().parse()?;
        let pid = up.0.id();
        let rows = [(name, pid, Some(WHOLE_BYTES_MAX)), ("· its nats-server", server, None)];
        measure(&mut table, &rows).await?;
    }
    let dir = tempfile::tempdir()?;
    let _up = start(&program, dir.path(), &["--demo"]).await?;
    let other = tempfile::tempdir()?;
    enrol(dir.path(), other.path())?;
    let endpoints: Value = serde_json::from_slice(&fs::read(dir.path().join(".nhi/run/endpoints.json"))?)?;
    let url = endpoints["nats"].as_str().context("endpoints.json names nats")?;
    let mut agent = program.command(other.path());
    agent
        .args(["agent", "mirror", "--nats", url])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let agent = Ended(agent.spawn()?);
    until("the agent's first files", || other.path().join("infrastructure/state.json").exists()).await?;
    measure(&mut table, &[("nhi agent mirror, over the demo", agent.0.id(), Some(AGENT_BYTES_MAX))]).await?;
    println!("{table}");
    Ok(())
}

/// Another machine with the key of one agent.
fn enrol(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (from.join(".nhi/keys"), to.join(".nhi/keys"));
    fs::create_dir_all(&to)?;
    for entry in fs::read_dir(&from)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("mirror") {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

async fn start(program: &Program, dir: &Path, arguments: &[&str]) -> Result<Ended> {
    let mut command = program.command(dir);
    command.args(["up", "--nats-port", "0", "--http-port", "0"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = Ended(command.spawn().context("starting nhi up")?);
    let ready = dir.join(".nhi/run/endpoints.json");
    until("nhi up to be ready", || ready.exists()).await?;
    ensure!(up.0.try_wait()?.is_none(), "nhi up ended");
    Ok(up)
}

async fn until(what: &str, is: impl Fn() -> bool) -> Result<()> {
    let (until, mut look) = (TokioInstant::now() + START_MAX, interval(Duration::from_millis(50)));
    while !is() {
        timeout_at(until, look.tick()).await.with_context(|| format!("waiting for {what}"))?;
        ensure!(TokioInstant::now() < until, "waited {START_MAX:?} for {what}");
    }
    Ok(())
}

/// A row for each process: its memory at the end of the time, and its time on a processor within it.
async fn measure(table: &mut Table, processes: &[(&str, u32, Option<u64>)]) -> Result<()> {
    pass(SETTLED).await;
    let before: Result<Vec<Usage>> = processes.iter().map(|(_, pid, _)| Usage::of(*pid)).collect();
    let (before, began) = (before?, Instant::now());
    pass(MEASURED).await;
    let elapsed = began.elapsed();
    for ((name, pid, goal), before) in processes.iter().zip(before) {
        let after = Usage::of(*pid)?;
        let processor = (after.processor - before.processor).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let kept = match goal {
            Some(goal) if after.resident_bytes <= *goal => format!("≤ {}: kept", size(*goal)),
            Some(goal) => format!("≤ {}: missed", size(*goal)),
            None => "–".to_owned(),
        };
        table.row([
            (*name).to_owned(),
            size(after.resident_bytes),
            size(after.own_bytes),
            after.threads.to_string(),
            format!("{processor:.2} %"),
            kept,
        ]);
    }
    Ok(())
}

/// Here nothing is waited for but time itself.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
