//! The dashboard in a real browser: a whole demo mesh, and dashboard/e2e driving Chromium through its pages. Without
//! Node, its packages or Chromium it says so and passes: the pages need none of them to run, and CI has them.

use crate::up::Up;
use nhi_testkit::wait_for;
use nhi_tests::browser::Browser;
use serde_json::json;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Longest that the graph may take to be read on a busy machine, and the lab's address to be said.
const SOON: Duration = Duration::from_secs(60);
/// What is to be seen on the page of the graph.
const GRAPH: &str = r#"{"services": {
    "truenas": {"criticality": "critical", "required_by": ["docker-host", "media-server", "mariadb"]},
    "dns-primary": {"criticality": "critical", "required_by": ["docker-host", "mqtt"]},
    "docker-host": {"criticality": "high", "depends_on": ["truenas", "dns-primary"], "required_by": ["documents"]},
    "mariadb": {"criticality": "high", "depends_on": ["truenas"], "required_by": ["documents"]},
    "mqtt": {"criticality": "high", "depends_on": ["dns-primary"]},
    "documents": {"criticality": "low", "depends_on": ["docker-host", "mariadb"]},
    "media-server": {"criticality": "low", "depends_on": ["truenas"], "can_restart_without_approval": true}
}}"#;

/// Where the simulated lab is changed behind everybody's back: the last thing that is said when all is ready.
async fn control(up: &Up) -> String {
    let said = wait_for("the simulated lab's address", SOON, async || {
        let log = up.log();
        let line = log.lines().find(|line| line.split_whitespace().next() == Some("lab"));
        let address = line.and_then(|line| line.split_whitespace().find(|word| word.starts_with("http://")));
        address.map(str::to_owned).ok_or(log)
    });
    said.await
}

/// Writes the graph and waits until it is known.
async fn draw(up: &Up) {
    fs::write(up.dir().join("infrastructure/dependency_graph.json"), GRAPH).unwrap();
    let known = wait_for("the graph to be read", SOON, async || {
        let (_, text) = up.http("owner", "POST", "/mesh/state/get", &json!({"select": ["graph"]})).await;
        if text.contains("media-server") { Ok(()) } else { Err(text) }
    });
    known.await;
}

#[tokio::test]
async fn people_find_their_way_through_the_pages() {
    let Browser { dashboard, chromium } = match Browser::find() {
        Ok(browser) => browser,
        Err(missing) => {
            eprintln!("the dashboard is not tried in a browser: {missing}");
            return;
        }
    };
    let up = Up::start("").await;
    draw(&up).await;
    up.nhi(&["auth", "add", "helper", "--role", "agent"]).await;
    up.nhi(&["auth", "add", "reader", "--role", "viewer"]).await;
    let mut command = tokio::process::Command::new("node");
    command.args(["--test", "--test-concurrency=1", "e2e/dashboard.spec.mjs"]).current_dir(&dashboard);
    command.env("NHI_URL", &up.http).env("NHI_CONTROL", control(&up).await).env("NHI_LAB", up.dir());
    let output = command.env("NHI_CHROMIUM", &chromium).stdin(Stdio::null()).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    up.stop().await;
}

#[test]
fn the_committed_pages_are_what_the_sources_give() {
    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard");
    if !dashboard.join("node_modules/vite").is_dir() {
        eprintln!("the dashboard is not built anew: its packages are not there (npm ci in dashboard)");
        return;
    }
    for script in [&["run", "-s", "check"][..], &["run", "-s", "test"], &["run", "-s", "check-dist"]] {
        let output = Command::new("npm").args(script).current_dir(&dashboard).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{script:?}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}
