//! What the HTTP doors add to a call: the same small read over the bare bus, over REST and as an MCP tool, in rounds that
//! take turns, against one `nhi up --demo`.
//!
//! `cargo bench -p nhi-tests --bench doors`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context as _, Result, ensure};
use async_nats::{Client as Nats, ConnectOptions};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use nhi_tests::{
    measure::{Table, machine, note, percentile, told},
    program::Program,
    running::Mesh,
};
use serde_json::{Value, json};
use std::{
    path::Path,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, task::JoinSet};

const ROUNDS: usize = 3;
const CALLS: usize = 1_000;
/// MCP without sessions: each request says everything.
const PROTOCOL: &str = "2026-07-28";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let dir = tempfile::tempdir()?;
    let mesh = Mesh::start(&program, dir.path(), &["--demo"]).await?;
    let key = mesh.key("owner")?;
    let options = ConnectOptions::with_nkey(key.clone()).custom_inbox_prefix("_INBOX_owner");
    let bus = options.connect(&mesh.nats).await.context("connecting to the bus as owner")?;
    let question = json!({"select": ["node"]});
    let mut http = Http::connect(&mesh.http, &key).await?;
    let rest = Ask { path: "/mesh/state/get".to_owned(), body: question.to_string(), tool: None };
    let mcp = Ask { path: "/mcp".to_owned(), body: tool_call(&question), tool: Some("lab_state") };
    let mut times: [Vec<Duration>; 3] = Default::default();
    for round in 1..=ROUNDS {
        note(&format!("round {round} of {ROUNDS}"));
        for _ in 0..CALLS {
            times[0].push(bare(&bus, &question).await?);
            times[1].push(http.ask(&rest).await?);
            times[2].push(http.ask(&mcp).await?);
        }
    }
    drop(mesh);
    let mut table = Table::new(&["door", "p50", "added", "p99", "added"]);
    let at = |door: usize, percent| percentile(&times[door], percent);
    for (door, name) in
        ["state.get over the bus", "POST /mesh/state/get", "MCP, tools/call lab_state"].iter().enumerate()
    {
        let added = |percent| told(at(door, percent).saturating_sub(at(0, percent)));
        table.row([(*name).to_owned(), told(at(door, 50)), added(50), told(at(door, 99)), added(99)]);
    }
    println!("{}; {} calls of each, taking turns\n\n{table}", machine(), ROUNDS * CALLS);
    Ok(())
}

/// The call as any NATS client makes it.
async fn bare(bus: &Nats, question: &Value) -> Result<Duration> {
    let began = Instant::now();
    let answer = bus.request("nhi.state.get.owner", question.to_string().into()).await?;
    ensure!(
        answer.headers.is_none_or(|headers| headers.get("Nats-Service-Error").is_none()),
        "an error came back"
    );
    Ok(began.elapsed())
}

fn tool_call(question: &Value) -> String {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": "lab_state", "arguments": question, "_meta": meta});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

struct Ask {
    path: String,
    body: String,
    /// The tool, where it is MCP.
    tool: Option<&'static str>,
}

/// A connection kept open.
struct Http {
    address: String,
    key: String,
    sender: http1::SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Http {
    async fn connect(address: &str, key: &str) -> Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // Its end is seen by whoever sends.
            let _ = connection.await;
        });
        Ok(Self { address: address.to_owned(), key: format!("Bearer {key}"), sender, _driver: driver })
    }

    async fn ask(&mut self, ask: &Ask) -> Result<Duration> {
        let mut request = Request::post(&ask.path)
            .header(header::HOST, &self.address)
            .header(header::AUTHORIZATION, &self.key)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(tool) = ask.tool {
            request = request.header(header::ACCEPT, "application/json, text/event-stream");
            request = request.header("mcp-protocol-version", PROTOCOL);
            request = request.header("mcp-method", "tools/call").header("mcp-name", tool);
        }
        let request = request.body(Full::new(Bytes::from(ask.body.clone())))?;
        self.sender.ready().await?;
        let began = Instant::now();
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        let time = began.elapsed();
        let text = String::from_utf8_lossy(&body);
        let is_good = status == StatusCode::OK && text.contains("pve1") && !text.contains("\"isError\":true");
        ensure!(is_good, "{} answered {status}: {}", ask.path, text.chars().take(400).collect::<String>());
        Ok(time)
    }
}
