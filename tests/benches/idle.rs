//! What the mesh takes while nothing happens: memory and processor time of the real `nhi`, with nats-server beside it as
//! the reference. All of it runs at the same time, half a minute is measured.
//!
//! `cargo bench -p nhi-tests --bench idle`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context as _, Result, ensure};
use nhi_tests::{
    measure::{Table, Usage, machine, note, size},
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
const MEASURED: Duration = Duration::from_secs(30);
/// What has just started is not idle.
const SETTLED: Duration = Duration::from_secs(10);
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
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let machine = machine();
    let [demo_dir, empty_dir, agent_dir] = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    note("starting two meshes and an agent");
    let demo = start(&program, demo_dir.path(), &["--demo"]).await?;
    let empty = start(&program, empty_dir.path(), &[]).await?;
    let agent = mirror(&program, demo_dir.path(), agent_dir.path()).await?;
    let rows = [
        ("nhi up --demo, the simulated lab in it", demo.0.id(), Some(WHOLE_BYTES_MAX)),
        ("· its nats-server", server_of(demo_dir.path())?, None),
        ("nhi up, no cluster", empty.0.id(), Some(WHOLE_BYTES_MAX)),
        ("· its nats-server", server_of(empty_dir.path())?, None),
        ("nhi agent mirror, over the demo", agent.0.id(), Some(AGENT_BYTES_MAX)),
    ];
    note(&format!("measuring {} s after {} s of quiet", MEASURED.as_secs(), SETTLED.as_secs()));
    let table = measure(&rows).await?;
    println!("{machine}; {} s without anything to do\n\n{table}", MEASURED.as_secs());
    Ok(())
}

/// The mirror as a process of its own, as it runs on a machine beside the mesh's.
async fn mirror(program: &Program, mesh: &Path, dir: &Path) -> Result<Ended> {
    enrol(mesh, dir)?;
    let endpoints: Value = serde_json::from_slice(&fs::read(mesh.join(".nhi/run/endpoints.json"))?)?;
    let url = endpoints["nats"].as_str().context("endpoints.json names nats")?;
    let mut command = program.command(dir);
    command.args(["agent", "mirror", "--nats", url]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = Ended(command.spawn().context("starting nhi agent")?);
    until("the agent's first files", || dir.join("infrastructure/state.json").exists()).await?;
    Ok(agent)
}

fn server_of(mesh: &Path) -> Result<u32> {
    let text = fs::read_to_string(mesh.join(".nhi/run/nats-server.pid"))?;
    text.trim().parse().context("the file holds a process id")
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
async fn measure(processes: &[(&str, u32, Option<u64>)]) -> Result<Table> {
    pass(SETTLED).await;
    let before: Result<Vec<Usage>> = processes.iter().map(|(_, pid, _)| Usage::of(*pid)).collect();
    let (before, began) = (before?, Instant::now());
    pass(MEASURED).await;
    let elapsed = began.elapsed();
    let mut table =
        Table::new(&["process", "resident", "its own", "of files", "threads", "processor", "goal, resident"]);
    for ((name, pid, goal), before) in processes.iter().zip(before) {
        let after = Usage::of(*pid)?;
        let processor = (after.processor - before.processor).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        let kept = match goal {
            Some(goal) if after.resident_bytes <= *goal => format!("≤ {}: kept", size(*goal)),
            Some(goal) => format!("≤ {}: missed", size(*goal)),
            None => "–".to_owned(),
        };
        let memory = [after.resident_bytes, after.own_bytes, after.file_bytes].map(size);
        let rest = [after.threads.to_string(), format!("{processor:.2} %"), kept];
        table.row([(*name).to_owned()].into_iter().chain(memory).chain(rest));
    }
    Ok(table)
}

/// Here nothing is waited for but time itself.
async fn pass(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
