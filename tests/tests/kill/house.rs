//! One mesh of real processes over a simulated lab that never rests. It starts, kills and restarts them, and judges
//! nothing.

use crate::{SOON, moment::Dice};
use nhi_bus::{
    connect::{Bus, Target},
    cx::Cx,
    keys,
    store::{self, StoreSettings},
};
use nhi_model::identity::{IdentityName, Role};
use nhi_sim::{Edit, LabOptions, PowerWord};
use nhi_testkit::{Nats, wait_for};
use nhi_tests::program::Program;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{MissedTickBehavior, interval},
};

/// Names the variable that holds the token's secret.
const SECRET: &str = "NHI_KILL_TEST_SECRET";
/// The guest whose name tells that a change got through. The restless hand leaves it alone.
const MARKED: u32 = 101;
/// Between two changes of the lab: each of the home's guests changes every few seconds.
const CHANGE_INTERVAL: Duration = Duration::from_millis(150);
/// What an answer of the lab takes, so that a pass has a middle to be killed in.
const LATENCY_MS: u64 = 5;
/// The machine that reports about itself.
pub(crate) const EDGE: &str = "gaming-pc";

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// nats-server.
    Server,
    /// `nhi agent scan`.
    Scan,
    /// `nhi agent mirror`.
    Mirror,
    /// `nhi agent state`.
    State,
    /// `nhi up` with everything in it.
    Up,
}

/// Who starts nats-server again.
enum Server {
    /// The test.
    Ours(Box<Nats>),
    /// `nhi up`.
    Supervised {
        /// Holds everything.
        dir: TempDir,
        /// The same at each start, so that clients find it again.
        port: u16,
    },
}

pub(crate) struct House {
    pub(crate) cx: Cx,
    root: PathBuf,
    pub(crate) lab: Arc<nhi_sim::Running>,
    program: Program,
    server: Server,
    processes: BTreeMap<Part, Child>,
}

impl House {
    /// nats-server, scanner, mirror and keeper as processes of their own.
    pub(crate) async fn apart() -> Self {
        let nats = Nats::start().await;
        nats.add(EDGE, Role::Edge).await;
        let mut house = Self::new(Server::Ours(Box::new(nats))).await;
        // What `nhi up` does with its own connection.
        let home = house.connect("home").await;
        let settings = StoreSettings { replicas: 1 };
        store::provision(&home, &settings).await.unwrap();
        store::keep(&house.cx, &home, settings);
        for part in [Part::State, Part::Scan, Part::Mirror] {
            house.start(part);
        }
        house
    }

    /// `nhi up`.
    pub(crate) async fn together() -> Self {
        let server = Server::Supervised { dir: TempDir::new().unwrap(), port: 0 };
        let mut house = Self::new(server).await;
        house.start(Part::Up);
        house.until_up().await;
        let mut add = Command::from(house.program.command(house.dir()));
        let added = add.args(["auth", "add", EDGE, "--role", "edge"]).output().await.unwrap();
        assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
        house
    }

    async fn new(server: Server) -> Self {
        let lab = nhi_sim::serve(LabOptions { latency_ms: LATENCY_MS, ..LabOptions::demo() }).await.unwrap();
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = tokio::task::spawn_blocking(|| Program::build(place)).await.unwrap();
        let program = program.unwrap_or_else(|error| panic!("{error:#}"));
        let root = match &server {
            Server::Ours(nats) => nats.dir().parent().unwrap().to_owned(),
            Server::Supervised { dir, .. } => dir.path().to_owned(),
        };
        let (cx, lab) = (Cx::new(), Arc::new(lab));
        let house = Self { cx, root, lab, program, server, processes: BTreeMap::new() };
        house.configure();
        house.cx.spawn("restless hand", change_for_ever(house.cx.clone(), house.lab.clone()));
        house
    }

    fn configure(&self) {
        let (url, token) = (&self.lab.url, &self.lab.scan_token.id);
        let settings = format!(
            "[scan]\nindex_s = 1\nfull_s = 1\n\n[proxmox.home]\nurl = {url:?}\ntoken_id = {token:?}\n\
             token_secret_env = {SECRET:?}\nca_file = \"lab-ca.pem\"\n"
        );
        fs::write(self.dir().join("nhi.toml"), settings).unwrap();
        fs::write(self.dir().join("lab-ca.pem"), &self.lab.ca_pem).unwrap();
        fs::write(self.dir().join(".env"), format!("{SECRET}={}\n", self.lab.scan_token.secret)).unwrap();
    }

    /// What `--dir` names.
    pub(crate) fn dir(&self) -> &Path {
        &self.root
    }

    /// Where `state.json` is.
    pub(crate) fn infrastructure(&self) -> PathBuf {
        self.dir().join("infrastructure")
    }

    /// A connection of the test, as an identity of the mesh.
    pub(crate) async fn connect(&self, who: &str) -> Bus {
        let who = IdentityName::parse(who).unwrap();
        let seed = keys::load(&self.dir().join(".nhi/keys"), &who).unwrap();
        Bus::connect(&self.cx, &Target::plain(self.url()), &who, &seed).await.unwrap()
    }

    fn url(&self) -> String {
        match &self.server {
            Server::Ours(nats) => nats.url(),
            Server::Supervised { port, .. } => format!("nats://127.0.0.1:{port}"),
        }
    }

    fn start(&mut self, part: Part) {
        let mut command = self.program.command(self.dir());
        match part {
            Part::Scan => command.args(["agent", "scan", "--nats", &self.url()]),
            Part::Mirror => command.args(["agent", "mirror", "--nats", &self.url()]),
            Part::State => command.args(["agent", "state", "--nats", &self.url()]),
            Part::Up => {
                let Server::Supervised { port, .. } = &self.server else {
                    panic!("nobody runs `nhi up` here")
                };
                command.args(["up", "--http-port", "0", "--nats-port", &port.to_string()])
            }
            Part::Server => panic!("nats-server is no `nhi`"),
        };
        let log = File::options().create(true).append(true).open(self.log(part)).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = Command::from(command).kill_on_drop(true).spawn().unwrap();
        self.processes.insert(part, child);
    }

    fn log(&self, part: Part) -> PathBuf {
        self.dir().join(format!("{part:?}.log"))
    }

    /// Until `nhi up` says that it is ready, and where.
    async fn until_up(&mut self) {
        let file = self.dir().join(".nhi/run/endpoints.json");
        let pid = self.processes[&Part::Up].id();
        let url = wait_for("nhi up to be ready", SOON, async || {
            self.check_alive()?;
            let told: Value = serde_json::from_slice(&fs::read(&file).map_err(|e| e.to_string())?)
                .map_err(|error| error.to_string())?;
            let is_new = told["pid"].as_u64() == pid.map(u64::from);
            let url = told["nats"].as_str().filter(|_| is_new);
            url.map(str::to_owned).ok_or_else(|| format!("an old endpoints.json: {told}"))
        })
        .await;
        if let Server::Supervised { port, .. } = &mut self.server {
            *port = url.rsplit(':').next().unwrap().parse().unwrap();
        }
    }

    /// `kill -9`; when it returns, the process is gone.
    pub(crate) async fn kill(&mut self, part: Part) {
        match (&mut self.server, part) {
            (Server::Ours(nats), Part::Server) => nats.kill9().await,
            (Server::Supervised { dir, .. }, Part::Server) => {
                let pid = supervised_pid(dir.path()).expect("nhi up supervises a nats-server");
                kill(pid, "-KILL");
                let gone = async || supervised_pid(dir.path()) != Some(pid);
                wait_for("nats-server to be gone", SOON, gone).await;
            }
            (_, part) => self.processes.get_mut(&part).unwrap().kill().await.unwrap(),
        }
    }

    /// What a supervisor does: systemd for an agent, `nhi up` for its server.
    pub(crate) async fn restart(&mut self, part: Part) {
        match (&mut self.server, part) {
            (Server::Ours(nats), Part::Server) => nats.restart().await,
            (Server::Supervised { .. }, Part::Server) => {}
            (_, Part::Up) => {
                self.start(Part::Up);
                self.until_up().await;
            }
            (_, part) => self.start(part),
        }
    }

    /// Whether every process that should run does; otherwise what the other one said last.
    pub(crate) fn check_alive(&mut self) -> Result<(), String> {
        let ended = self.processes.iter_mut().find_map(|(part, child)| {
            let status = child.try_wait().unwrap()?;
            Some((*part, status))
        });
        let Some((part, status)) = ended else { return Ok(()) };
        let log = fs::read_to_string(self.log(part)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        Err(format!("{part:?} ended by itself with {status}:\n{last}"))
    }

    /// Gives the marked guest a name.
    pub(crate) fn mark(&self, name: &str) {
        let rename = Edit::Rename { name: name.to_owned() };
        self.lab.with_lab(|lab| lab.edit(MARKED, rename)).unwrap();
    }

    /// The name of the marked guest as `state.json` tells it.
    pub(crate) fn marked_in(state: &Value) -> Option<&str> {
        let guests = ["vms", "lxcs"].into_iter().filter_map(|kind| state["infrastructure"][kind].as_array());
        guests.flatten().find(|row| row["vmid"] == MARKED)?["name"].as_str()
    }

    /// The keys the marked guest may have.
    pub(crate) fn marked_keys() -> Vec<String> {
        ["vm", "lxc"].map(|section| format!("{section}.home.{MARKED}")).to_vec()
    }

    /// Stops everything in good order.
    pub(crate) async fn end(mut self) {
        self.cx.close().await;
        for (part, child) in &mut self.processes {
            kill(child.id().unwrap(), "-TERM");
            let status = tokio::time::timeout(SOON, child.wait()).await.expect("it stops when told").unwrap();
            assert!(status.success(), "{part:?} ended with {status}");
        }
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Server::Supervised { dir, .. } = &self.server
            && let Some(pid) = supervised_pid(dir.path())
        {
            // A failed test must not leave a server behind; its supervisor is killed with this value.
            self.processes.clear();
            kill(pid, "-KILL");
        }
    }
}

/// The nats-server that was started with the files of this directory, when it lives.
fn supervised_pid(dir: &Path) -> Option<u32> {
    let pid: u32 = fs::read_to_string(dir.join(".nhi/run/nats-server.pid")).ok()?.trim().parse().ok()?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&arguments).contains(&*dir.to_string_lossy()).then_some(pid)
}

fn kill(pid: u32, signal: &str) {
    // It may be gone already, which is what was wanted.
    let _ = std::process::Command::new("kill").args([signal, &pid.to_string()]).status();
}

/// Somebody at the lab who renames, tags, starts and stops, behind the API's back and for ever.
async fn change_for_ever(stop: Cx, lab: Arc<nhi_sim::Running>) {
    let mut dice = Dice::new(0x6e68_6935);
    let mut pace = interval(CHANGE_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut number = 0_u64;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = pace.tick() => {}
        }
        number += 1;
        lab.with_lab(|lab| {
            let guests: Vec<u32> = lab.guests.keys().copied().filter(|vmid| *vmid != MARKED).collect();
            let vmid = guests[dice.below(guests.len() as u64) as usize];
            let edit = match dice.below(4) {
                0 => Edit::Rename { name: format!("name-{number}") },
                1 => Edit::Power { to: PowerWord::Running },
                2 => Edit::Power { to: PowerWord::Stopped },
                _ => {
                    let set = BTreeMap::from([("tags".to_owned(), format!("tag-{number}"))]);
                    Edit::Config { set, delete: Vec::new() }
                }
            };
            lab.edit(vmid, edit).unwrap();
        });
    }
}
