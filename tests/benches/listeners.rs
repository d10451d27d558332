//! What listeners to `/events` take in memory: the real `nhi up --demo` with nobody, with a thousand listeners of one
//! identity, and after they have gone.
//!
//! `cargo bench -p nhi-tests --bench listeners`

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
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::{Instant, interval, timeout},
};

const LISTENERS: usize = 1_000;
/// Long enough that each has heard gauges, and a sign of life.
const SETTLED: Duration = Duration::from_secs(30);
/// How long a start, or an answer, may take.
const START_MAX: Duration = Duration::from_secs(120);

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
    let dir = tempfile::tempdir()?;
    let (up, address) = start(&program, dir.path()).await?;
    let key = fs::read_to_string(dir.path().join(".nhi/keys/owner.nk"))?;
    let mut table = Table::new(&["listeners", "resident", "its own"]);
    let mut look = async |name: String| {
        pass(SETTLED).await;
        let usage = Usage::of(up.0.id())?;
        table.row([name, size(usage.resident_bytes), size(usage.own_bytes)]);
        anyhow::Ok(usage.own_bytes)
    };
    let before = look("nobody".to_owned()).await?;
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        listeners.push(listen(&address, key.trim()).await?);
    }
    // What they hear is taken in by the system; nobody reads it, and it is less than the system keeps.
    let with = look(format!("{LISTENERS}, with gauges and plans")).await?;
    drop(listeners);
    look("nobody again".to_owned()).await?;
    let each = with.saturating_sub(before) / LISTENERS as u64;
    println!("{}; {} a listener\n\n{table}", machine(), size(each));
    Ok(())
}

async fn start(program: &Program, dir: &Path) -> Result<(Ended, String)> {
    let mut command = program.command(dir);
    command.args(["up", "--demo", "--nats-port", "0", "--http-port", "0"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut up = Ended(command.spawn().context("starting nhi up")?);
    let (ready, until) = (dir.join(".nhi/run/endpoints.json"), Instant::now() + START_MAX);
    let mut pace = interval(Duration::from_millis(50));
    while !ready.exists() {
        pace.tick().await;
        ensure!(up.0.try_wait()?.is_none(), "nhi up ended");
        ensure!(Instant::now() < until, "waited {START_MAX:?} for nhi up");
    }
    let endpoints: Value = serde_json::from_slice(&fs::read(ready)?)?;
    let url = endpoints["http"].as_str().context("endpoints.json names http")?;
    Ok((up, url.trim_start_matches("http://").trim_end_matches('/').to_owned()))
}

/// A listener that has been greeted.
async fn listen(address: &str, key: &str) -> Result<BufReader<TcpStream>> {
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "GET /events?live=1&plans=1 HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {key}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut reader = BufReader::with_capacity(512, stream);
    let mut line = String::new();
    while !line.starts_with("event: hello") {
        line.clear();
        let read = timeout(START_MAX, reader.read_line(&mut line)).await??;
        ensure!(read > 0 && !line.starts_with("HTTP/1.1 4"), "a listener was refused: {line}");
    }
    Ok(reader)
}

/// Here nothing is waited for but time itself.
async fn pass(time: Duration) {
    let _ = timeout(time, std::future::pending::<()>()).await;
}
