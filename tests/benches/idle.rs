//! What the mesh takes while nothing happens: memory and processor time of the real `nhi`, with nats-server beside it as
//! the reference. All of it runs at the same time, half a minute is measured.
//!
//! `cargo bench -p nhi-tests --bench idle`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context as _, Result};
use nhi_tests::{
    measure::{Table, Usage, machine, note, size},
    program::Program,
    running::{Mesh, Running, pass, until},
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// How long is measured.
const MEASURED: Duration = Duration::from_secs(30);
/// What has just started is not idle.
const SETTLED: Duration = Duration::from_secs(10);
/// The goals of the whole and of one small agent, bytes.
const WHOLE_BYTES_MAX: u64 = 60 << 20;
const AGENT_BYTES_MAX: u64 = 12 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let machine = machine();
    let [demo_dir, empty_dir, agent_dir] = [tempfile::tempdir()?, tempfile::tempdir()?, tempfile::tempdir()?];
    note("starting two meshes and an agent");
    let demo = Mesh::start(&program, demo_dir.path(), &["--demo"]).await?;
    let empty = Mesh::start(&program, empty_dir.path(), &[]).await?;
    let agent = mirror(&program, &demo, demo_dir.path(), agent_dir.path()).await?;
    let rows = [
        ("nhi up --demo, the simulated lab in it", demo.pid(), Some(WHOLE_BYTES_MAX)),
        ("· its nats-server", server_of(demo_dir.path())?, None),
        ("nhi up, no cluster", empty.pid(), Some(WHOLE_BYTES_MAX)),
        ("· its nats-server", server_of(empty_dir.path())?, None),
        ("nhi agent mirror, over the demo", agent.pid(), Some(AGENT_BYTES_MAX)),
    ];
    note(&format!("measuring {} s after {} s of quiet", MEASURED.as_secs(), SETTLED.as_secs()));
    let table = measure(&rows).await?;
    println!("{machine}; {} s without anything to do\n\n{table}", MEASURED.as_secs());
    Ok(())
}

/// The mirror as a process of its own, as it runs on a machine beside the mesh's.
async fn mirror(program: &Program, mesh: &Mesh, from: &Path, dir: &Path) -> Result<Running> {
    enrol(from, dir)?;
    let mut command = program.command(dir);
    command.args(["agent", "mirror", "--nats", &mesh.nats]);
    let agent = Running::start(command)?;
    until("the agent's first files", || Ok(dir.join("infrastructure/state.json").exists())).await?;
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
