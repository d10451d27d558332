//! A full pass of our scanner over 500 guests, committed, against a loop over the same reads with proxmoxer, the client
//! that scripts use. Every answer of the simulated Proxmox takes 20 ms, as on a busy node. And what a pass writes that
//! finds nothing new.
//!
//! `cargo bench -p nhi-tests --bench scan`

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use async_nats::Client;
use nhi_agents::scan;
use nhi_bus::{
    call::call,
    cx::Cx,
    store::{StoreSettings, provision},
};
use nhi_model::{
    call::{ScanDone, ScanNow},
    subject::{LIVE_BUCKET, STATE_BUCKET, bucket_stream},
};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{LabOptions, Running, Seed};
use nhi_testkit::Nats;
use nhi_tests::{
    measure::{Table, machine, note, times, told},
    python::Python,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const GUESTS: u32 = 500;
const LATENCY_MS: u64 = 20;
/// Proxmox works on three privileged calls of a node at a time and we send two, so nodes decide. The loop takes 36 s
/// whatever they are: two labs are enough.
const NODES: [u32; 2] = [3, 10];
/// Longest that the measuring of one lab may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// The scanner's own pace: never while this runs.
const NEVER_S: u64 = 3600;

#[tokio::main]
async fn main() {
    let machine = machine();
    let mut table =
        Table::new(&["nodes", "pass", "requests", "time", "against proxmoxer", "messages written"]);
    for nodes in NODES {
        let measured = tokio::time::timeout(PATIENCE, measure(nodes, &mut table)).await;
        measured.unwrap_or_else(|_| panic!("{nodes} nodes were not measured within {PATIENCE:?}"));
    }
    println!("{machine}; {GUESTS} guests, {LATENCY_MS} ms an answer\n\n{table}");
}

async fn measure(nodes: u32, table: &mut Table) {
    let seed = Seed::large(nodes, GUESTS);
    let lab = nhi_sim::serve(LabOptions { latency_ms: LATENCY_MS, ..LabOptions::local(seed) }).await;
    let lab = lab.expect("a simulated lab");
    let (cx, nats) = (Cx::new(), Nats::start().await);
    provision(&nats.connect(&cx, "home").await, &StoreSettings { replicas: 1 }).await.expect("streams");
    let raw = nats.raw("home").await;

    note(&format!("{nodes} nodes: the loop with proxmoxer, about 36 s"));
    let (loop_requests, loop_time) = proxmoxer(&lab).await;
    note(&format!("{nodes} nodes: {} for the loop; our first pass", told(loop_time)));
    let before_first = lab.counts().requests;
    let options = scan::Options {
        clusters: vec![scan::Cluster { name: "home".to_owned(), endpoint: endpoint(&lab) }],
        project_roots: Vec::new(),
        graph: PathBuf::from("dependency_graph.json"),
        index_s: NEVER_S,
        full_s: NEVER_S,
    };
    let scanner = scan::run(&cx, nats.connect(&cx, "scan").await, options).await.expect("a scanner");
    let mut progress = scanner.progress();
    let ready = progress.wait_for(scan::Progress::is_ready).await.expect("the scanner lives").clone();
    let first_requests = lab.counts().requests - before_first;
    let first = ready.sources.values().filter_map(|source| source.last.as_ref());
    let first_time =
        first.map(|done| Duration::from_millis(done.duration_ms)).max().expect("a pass was done");
    let written = last_of(&raw, STATE_BUCKET).await;
    note(&format!("{nodes} nodes: {} for our first pass; the next one", told(first_time)));

    let owner = nats.connect(&cx, "owner").await;
    let gauges = last_of(&raw, LIVE_BUCKET).await;
    let again: ScanDone = call(&owner, "scan", "now", &ScanNow {}).await.expect("a pass");
    let after = last_of(&raw, STATE_BUCKET).await;
    let again_time = Duration::from_millis(again.duration_ms);
    let gauges = last_of(&raw, LIVE_BUCKET).await - gauges;

    let mut row = |pass: &str, requests: u64, time: Duration, written: String| {
        let cells = [requests.to_string(), told(time), times(loop_time, time), written];
        table.row([nodes.to_string(), pass.to_owned()].into_iter().chain(cells));
    };
    row("proxmoxer, one read after the other", loop_requests, loop_time, "–".to_owned());
    row("first pass, committed", first_requests, first_time, format!("{written} facts"));
    let told = format!("{} facts ({written} → {after}), {gauges} gauges", after - written);
    row("next pass, nothing new", u64::from(again.requests), again_time, told);
    scanner.stop().await;
    cx.close().await;
    lab.stop().await;
}

fn endpoint(lab: &Running) -> Endpoint {
    let token = ApiToken::parse(&lab.scan_token.id, &lab.scan_token.secret).expect("the lab's own token");
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).expect("the lab's own authority");
    let addresses = Address::parse_list(&lab.url).expect("the lab's own address");
    Endpoint::new(addresses, token, trust).expect("an endpoint")
}

/// Last sequence of a bucket's stream.
async fn last_of(raw: &Client, bucket: &str) -> u64 {
    let ask = format!("$JS.API.STREAM.INFO.{}", bucket_stream(bucket));
    let answer = raw.request(ask, "".into()).await.expect("an answer");
    let info: Value = serde_json::from_slice(&answer.payload).expect("JSON");
    info["state"]["last_seq"].as_u64().expect("a sequence")
}

/// Requests and time of the loop.
async fn proxmoxer(lab: &Running) -> (u64, Duration) {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let python = Python::prepare(cache, &tests.join("interop/requirements.txt"));
    let python = python.unwrap_or_else(|error| panic!("{error:#}"));
    let dir = tempfile::tempdir().expect("a directory");
    let ca_file = dir.path().join("ca.pem");
    fs::write(&ca_file, &lab.ca_pem).expect("the authority is written");
    let mut command = python.script(&tests.join("benches/proxmoxer_loop.py"));
    command.arg(&lab.url).arg(&ca_file).arg(&lab.scan_token.id);
    command.env("PVE_TOKEN_SECRET", &lab.scan_token.secret);
    let before = lab.counts().requests;
    let output = tokio::process::Command::from(command).output().await.expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let seconds = told["seconds"].as_f64().expect("a time");
    (lab.counts().requests - before, Duration::from_secs_f64(seconds))
}
