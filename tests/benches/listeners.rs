//! What listeners to `/events` take in memory: the real `nhi up --demo` with nobody, with a thousand listeners of one
//! identity, and after they have gone.
//!
//! `cargo bench -p nhi-tests --bench listeners`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Result, ensure};
use nhi_tests::{
    measure::{Table, Usage, machine, note, size},
    program::Program,
    running::{Mesh, pass},
};
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

const LISTENERS: usize = 1_000;
/// Long enough that each has heard gauges, and a sign of life.
const SETTLED: Duration = Duration::from_secs(30);
/// How long a greeting may take.
const GREETING_MAX: Duration = Duration::from_secs(120);

#[tokio::main]
async fn main() -> Result<()> {
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let dir = tempfile::tempdir()?;
    let mesh = Mesh::start(&program, dir.path(), &["--demo"]).await?;
    let key = mesh.key("owner")?;
    let mut table = Table::new(&["listeners", "resident", "its own"]);
    let mut look = async |name: String| {
        pass(SETTLED).await;
        let usage = Usage::of(mesh.pid())?;
        table.row([name, size(usage.resident_bytes), size(usage.own_bytes)]);
        anyhow::Ok(usage.own_bytes)
    };
    let before = look("nobody".to_owned()).await?;
    let mut listeners = Vec::new();
    for _ in 0..LISTENERS {
        listeners.push(listen(&mesh.http, &key).await?);
    }
    // What they hear is taken in by the system; nobody reads it, and it is less than the system keeps.
    let with = look(format!("{LISTENERS}, with gauges and plans")).await?;
    drop(listeners);
    look("nobody again".to_owned()).await?;
    let each = with.saturating_sub(before) / LISTENERS as u64;
    println!("{}; {} a listener\n\n{table}", machine(), size(each));
    Ok(())
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
        let read = timeout(GREETING_MAX, reader.read_line(&mut line)).await??;
        ensure!(read > 0 && !line.starts_with("HTTP/1.1 4"), "a listener was refused: {line}");
    }
    Ok(reader)
}
