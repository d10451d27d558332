//! What a gateway adds to a model's answer: ours (with its hop over NATS) between plain proxies as the floor and other
//! gateways, all before the same model server, in rounds that take turns. Figures are medians of the rounds.
//!
//! `cargo bench -p nhi-tests --bench ai` (`-- --peers`: other gateways too, installed first; `-- --memory`: memory after
//! 100,000 requests)

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

mod load;
mod mock;
#[path = "../../examples/wall_peers/products.rs"]
mod products;
mod ways;

use anyhow::{Context as _, Result, ensure};
use load::Figures;
use mock::MODEL;
use nhi_testkit::Nats;
use nhi_tests::{
    measure::{Table, Usage, machine, note, percentile, size, told},
    program::Program,
};
use products::Product;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;
use ways::Way;

const ROUNDS: u32 = 3;
/// Requests after which memory is looked at.
const MANY: u32 = 100_000;
/// Other work on the machine above which figures mean nothing.
const LOAD_MAX: f64 = 2.0;

/// What is measured of each way: its name, connections, whether streamed, requests a round.
const RUNS: [(&str, u32, bool, u32); 5] = [
    ("plain, 1", 1, false, 1_500),
    ("plain, 16", 16, false, 6_000),
    ("plain, 64", 64, false, 6_000),
    ("streamed, 1", 1, true, 20),
    ("streamed, 16", 16, true, 96),
];
/// Of a slow way a tenth of that tells the same.
const SLOW: u32 = 10;
/// The open loop: requests a second, seconds.
const OPEN: (u32, u32) = (200, 5);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let wants = |flag: &str| std::env::args().any(|argument| argument == flag);
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let busy = fs::read_to_string("/proc/loadavg")?;
    let busy: f64 = busy.split(' ').next().and_then(|text| text.parse().ok()).context("a load average")?;
    ensure!(
        busy <= LOAD_MAX || wants("--busy"),
        "the load average is {busy}: wait until the machine is quiet, or take `--busy` and distrust the figures"
    );
    let machine = machine();
    let (dir, mock) = (tempfile::tempdir()?, mock::start());
    let mut ways = vec![Way::direct(mock)];
    ways.extend(Way::nginx(mock, dir.path()).await?);
    ways.extend(Way::haproxy(mock, dir.path()).await?);
    ways.push(Way::ours(mock, dir.path(), &program).await?);
    if wants("--peers") {
        ways.extend(peers(mock).await);
    }
    let measured = rounds(&ways).await?;
    println!("{machine}; medians of {ROUNDS} rounds, lowest to highest of the rounds in brackets\n");
    println!("{}", plain_table(&ways, &measured));
    println!("{}", stream_table(&ways, &measured));
    println!("one bare NATS request and its answer of the same size: {}\n", bare_hop().await?);
    if wants("--memory") {
        println!("{}", memory(&ways).await?);
    }
    Ok(())
}

async fn peers(mock: std::net::SocketAddr) -> Vec<Way> {
    let mut ways = Vec::new();
    for product in Product::ALL {
        note(&format!("installing and starting {}", product.name()));
        match Way::peer(product, mock).await {
            Ok(way) => ways.push(way),
            Err(error) => note(&format!("{} is left out: {error:#}", product.name())),
        }
    }
    ways
}

/// Figures of every round, by way and run.
type Measured = BTreeMap<(usize, &'static str), Vec<Figures>>;

async fn rounds(ways: &[Way]) -> Result<Measured> {
    let mut measured = Measured::new();
    for round in 1..=ROUNDS {
        for (place, way) in ways.iter().enumerate() {
            note(&format!("round {round} of {ROUNDS}: {}", way.name));
            for (name, connections, streamed, requests) in RUNS {
                let requests = if way.is_slow { (requests / SLOW).max(connections * 4) } else { requests };
                let figures = load::closed(way, connections, requests, streamed).await?;
                measured.entry((place, name)).or_default().push(figures);
            }
            let figures = load::open(way, OPEN.0, OPEN.1).await?;
            measured.entry((place, "open")).or_default().push(figures);
        }
    }
    Ok(measured)
}

/// The median of the rounds, and within which bounds they lie.
fn middle(rounds: &[Figures], of: impl Fn(&Figures) -> Duration) -> (Duration, String) {
    let times: Vec<Duration> = rounds.iter().map(of).collect();
    let median = percentile(&times, 50);
    let text =
        format!("{} ({}–{})", told(median), told(percentile(&times, 0)), told(percentile(&times, 100)));
    (median, text)
}

fn per_second(rounds: &[Figures]) -> String {
    let mut rates: Vec<f64> = rounds.iter().map(|figures| figures.per_second).collect();
    rates.sort_by(f64::total_cmp);
    format!("{:.0}", rates[rates.len() / 2])
}

fn added(time: Duration, straight: Duration) -> String {
    let ms = (time.as_secs_f64() - straight.as_secs_f64()) * 1000.0;
    format!("{ms:+.2} ms")
}

fn plain_table(ways: &[Way], measured: &Measured) -> Table {
    let (rate, _) = OPEN;
    let open = format!("p99 at {rate} a second");
    let head =
        ["way", "p50, 1 connection", "added", "added p99", "a second, 16", "p99, 16", "a second, 64", &open];
    let mut table = Table::new(&head);
    for (place, way) in ways.iter().enumerate() {
        let of = |run| &measured[&(place, run)][..];
        let straight = |of: fn(&Figures) -> Duration| middle(&measured[&(0, "plain, 1")], of).0;
        let (p50, text) = middle(of("plain, 1"), |figures| figures.p50);
        let (p99, _) = middle(of("plain, 1"), |figures| figures.p99);
        table.row([
            way.name.clone(),
            text,
            added(p50, straight(|figures| figures.p50)),
            added(p99, straight(|figures| figures.p99)),
            per_second(of("plain, 16")),
            told(middle(of("plain, 16"), |figures| figures.p99).0),
            per_second(of("plain, 64")),
            told(middle(of("open"), |figures| figures.p99).0),
        ]);
    }
    table
}

fn stream_table(ways: &[Way], measured: &Measured) -> Table {
    let head = ["way", "first byte p50", "added", "added p99", "gap p99, 1", "gap p99, 16", "whole, 1"];
    let mut table = Table::new(&head);
    for (place, way) in ways.iter().enumerate() {
        let of = |run| &measured[&(place, run)][..];
        let straight = |of: fn(&Figures) -> Duration| middle(&measured[&(0, "streamed, 1")], of).0;
        let (p50, text) = middle(of("streamed, 1"), |figures| figures.first_p50);
        let (p99, _) = middle(of("streamed, 1"), |figures| figures.first_p99);
        table.row([
            way.name.clone(),
            text,
            added(p50, straight(|figures| figures.first_p50)),
            added(p99, straight(|figures| figures.first_p99)),
            told(middle(of("streamed, 1"), |figures| figures.gap_p99).0),
            told(middle(of("streamed, 16"), |figures| figures.gap_p99).0),
            told(middle(of("streamed, 1"), |figures| figures.p50).0),
        ]);
    }
    table
}

/// A request over nats-server and its answer, with nothing of ours on either side: what the hop itself costs.
async fn bare_hop() -> Result<String> {
    const REQUESTS: usize = 2_000;
    let nats = Nats::start().await;
    let (asker, answerer) = (nats.raw("home").await, nats.raw("home").await);
    let mut questions = answerer.subscribe("bench.hop").await?;
    answerer.flush().await?;
    let replier = answerer.clone();
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some(question) = futures::StreamExt::next(&mut questions).await {
            let Some(reply) = question.reply else { continue };
            if replier.publish(reply, question.payload).await.is_err() {
                return;
            }
        }
    });
    let payload = bytes::Bytes::from("x".repeat(700));
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        asker.request("bench.hop", payload.clone()).await?;
        times.push(began.elapsed());
    }
    drop(answering);
    Ok(format!("p50 {}, p99 {}", told(percentile(&times, 50)), told(percentile(&times, 99))))
}

/// Memory of each way's first process after many requests.
async fn memory(ways: &[Way]) -> Result<Table> {
    let mut table = Table::new(&["way", "requests", "resident", "its own"]);
    for way in ways {
        let Some(pid) = way.pid() else { continue };
        let requests = if way.is_slow { MANY / SLOW } else { MANY };
        note(&format!("{requests} requests over {}", way.name));
        load::closed(way, 16, requests, false).await?;
        let usage = Usage::of(pid)?;
        let sizes = [usage.resident_bytes, usage.own_bytes].map(size);
        table.row([way.name.clone(), requests.to_string()].into_iter().chain(sizes));
    }
    Ok(table)
}
