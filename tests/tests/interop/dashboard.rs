//! The dashboard in a real browser: a whole demo mesh, and dashboard/e2e driving Chromium through its pages. Without
//! Node, its packages or Chromium it says so and passes: the pages need none of them to run, and CI has them.

use nhi_tests::program::Program;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

/// How long a demo may take to stand on a busy machine.
const STANDS_WITHIN: Duration = Duration::from_secs(90);
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

/// A demo mesh. It is stopped when dropped.
struct Demo {
    child: Child,
    url: String,
    /// Where the simulated lab is changed behind everybody's back.
    control: String,
}

impl Demo {
    fn start(program: &Program, dir: &Path) -> Self {
        fs::create_dir_all(dir.join("infrastructure")).unwrap();
        fs::write(dir.join("infrastructure/dependency_graph.json"), GRAPH).unwrap();
        let mut command = program.command(dir);
        command.args(["up", "--demo", "--nats-port", "0", "--http-port", "0"]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (lines, said) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        // It ends with the demo, whose output is read to the last so that it is never held up.
        std::thread::spawn(move || {
            output.lines().map_while(Result::ok).for_each(|line| drop(lines.send(line)))
        });
        let mut demo = Self { child, url: String::new(), control: String::new() };
        let last = std::time::Instant::now() + STANDS_WITHIN;
        let mut heard = String::new();
        while demo.control.is_empty() {
            let left = last.saturating_duration_since(std::time::Instant::now());
            let line = said.recv_timeout(left).unwrap_or_else(|_| panic!("the demo does not stand: {heard}"));
            let address =
                line.split_whitespace().find(|word| word.starts_with("http://")).unwrap_or_default();
            match line.split_whitespace().next() {
                Some("http") => address.clone_into(&mut demo.url),
                Some("lab") => address.clone_into(&mut demo.control),
                Some(_) | None => {}
            }
            heard = heard + &line + "\n";
        }
        demo
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let pid = self.child.id().to_string();
        // SIGTERM: it takes its nats-server along.
        let ended = Command::new("kill").arg(&pid).status();
        if ended.is_ok_and(|status| status.success()) {
            drop(self.child.wait());
        } else {
            drop(self.child.kill());
        }
    }
}

/// Why the pages cannot be tried here; `None` when they can.
fn missing(dashboard: &Path, chromium: &Path) -> Option<String> {
    let node = Command::new("node").arg("--version").output().ok().filter(|output| output.status.success());
    if node.is_none() {
        return Some("node is not installed (20.19 or newer)".to_owned());
    }
    if !chromium.is_file() {
        return Some(format!("{} is not there (apt-get install chromium)", chromium.display()));
    }
    let packages = dashboard.join("node_modules/playwright-core");
    (!packages.is_dir()).then(|| format!("{} is not there (npm ci in dashboard)", packages.display()))
}

fn add(program: &Program, dir: &Path, name: &str, role: &str) {
    let output = program.command(dir).args(["auth", "add", name, "--role", role]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn people_find_their_way_through_the_pages() {
    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard");
    let chromium =
        std::env::var_os("NHI_CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    if let Some(what) = missing(&dashboard, &chromium) {
        eprintln!("the dashboard is not tried in a browser: {what}");
        return;
    }
    let program = Program::build(Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let demo = Demo::start(&program, dir.path());
    add(&program, dir.path(), "helper", "agent");
    add(&program, dir.path(), "reader", "viewer");
    let mut command = Command::new("node");
    command.args(["--test", "--test-concurrency=1", "e2e/dashboard.spec.mjs"]).current_dir(&dashboard);
    command.env("NHI_URL", &demo.url).env("NHI_CONTROL", &demo.control).env("NHI_LAB", dir.path());
    let output = command.env("NHI_CHROMIUM", &chromium).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
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
