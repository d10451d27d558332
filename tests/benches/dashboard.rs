//! How long the dashboard takes to load: Chromium with nothing cached opens the overview of one `nhi up --demo`, and in
//! turn the smallest page of the same gateway, from the start of the navigation until the records were drawn.
//!
//! `cargo bench -p nhi-tests --bench dashboard`; `-- 30` loads each so often. Without Node, its packages or Chromium it
//! says so and measures nothing.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use anyhow::{Context as _, Result, ensure};
use nhi_tests::{
    browser::Browser,
    measure::{Table, machine, note, percentile, times, told},
    program::Program,
    running::{Mesh, pass},
};
use serde::Deserialize;
use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

const LOADS: usize = 100;
/// The first scan of the simulated home is over then, and what follows from it.
const SETTLED: Duration = Duration::from_secs(10);

/// One of each, as `dashboard/e2e/load.mjs` tells them.
#[derive(Deserialize)]
struct Loads {
    overview: Load,
    health: Load,
}

#[derive(Clone, Copy, Deserialize)]
struct Load {
    ms: f64,
    /// Over the wire, heads and bodies, until the records were drawn.
    bytes: u64,
    requests: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let browser = match Browser::find() {
        Ok(browser) => browser,
        Err(missing) => {
            note(&format!("the dashboard's load is not measured: {missing}"));
            return Ok(());
        }
    };
    // cargo itself adds `--bench`.
    let loads = env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(LOADS);
    note("building nhi, when it is older than its sources");
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR")))?;
    let dir = tempfile::tempdir()?;
    let mesh = Mesh::start(&program, dir.path(), &["--demo"]).await?;
    pass(SETTLED).await;
    let machine = machine();
    note(&format!("{loads} loads of each page"));
    let output = Command::new("node")
        .args(["e2e/load.mjs", &loads.to_string()])
        .current_dir(&browser.dashboard)
        .env("NHI_CHROMIUM", &browser.chromium)
        .env("NHI_URL", format!("http://{}", mesh.http))
        .env("NHI_LAB", dir.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running node")?;
    ensure!(output.status.success(), "dashboard/e2e/load.mjs failed: {}", output.status);
    drop(mesh);
    let lines = str::from_utf8(&output.stdout)?.lines();
    let all: Vec<Loads> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (overview, health) = (all.iter().map(|one| one.overview), all.iter().map(|one| one.health));
    println!(
        "{machine}; {loads} loads of each, taking turns\n\n{}",
        table(&overview.collect::<Vec<_>>(), &health.collect::<Vec<_>>())
    );
    Ok(())
}

fn table(overview: &[Load], health: &[Load]) -> Table {
    let at = |loads: &[Load], percent| {
        let all: Vec<Duration> = loads.iter().map(|load| Duration::from_secs_f64(load.ms / 1000.0)).collect();
        percentile(&all, percent)
    };
    let mut table = Table::new(&["page", "p50", "ratio", "p99", "ratio", "most requests", "most bytes"]);
    for (name, loads) in [("/healthz", health), ("the overview with its records", overview)] {
        let most = |count: fn(&Load) -> u64| loads.iter().map(count).max().unwrap_or_default();
        let ratio = |percent| times(at(loads, percent), at(health, percent));
        let [p50, p99] = [50, 99].map(|percent| told(at(loads, percent)));
        let requests = most(|load| load.requests).to_string();
        let bytes = most(|load| load.bytes);
        let bytes = format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100);
        table.row([name.to_owned(), p50, ratio(50), p99, ratio(99), requests, bytes]);
    }
    table
}
