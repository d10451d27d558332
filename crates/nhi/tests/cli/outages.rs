//! What happens when things go away: the server, the process, the terminal, the patience of its user.

use crate::mesh::{Up, nhi};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

/// A loaded machine that fetches nats-server first takes long; nothing here waits this long otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// As `nhi up` is started in tests: on any free ports.
const UP: [&str; 5] = ["up", "--nats-port", "0", "--http-port", "0"];

pub(crate) fn endpoints(dir: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(dir.join(".nhi/run/endpoints.json"))?)?)
}

#[test]
fn a_mesh_opens_http_then_nats_and_goes_back_to_loopback() -> Result<()> {
    let mut dir = tempfile::tempdir()?;
    let http = "[http]\nlisten = \"0.0.0.0:0\"\n";
    let nats = "[nats]\nlisten = \"0.0.0.0:0\"\n";
    for (toml, nats_scheme, http_scheme) in
        [(http, "nats://", "https://"), (nats, "tls://", "http://"), ("", "nats://", "http://")]
    {
        fs::write(dir.path().join("nhi.toml"), toml)?;
        let up = Up::start(dir, &["--demo"]).with_context(|| format!("with {toml:?}"))?;
        let told = endpoints(up.path())?;
        ensure!(told["nats"].as_str().is_some_and(|url| url.starts_with(nats_scheme)), "{toml:?}: {told}");
        ensure!(told["http"].as_str().is_some_and(|url| url.starts_with(http_scheme)), "{toml:?}: {told}");
        up.json(&["status"])?;
        let (code, kept) = up.interrupt()?;
        ensure!(code == Some(0), "{toml:?} ended with {code:?}");
        dir = kept;
    }
    Ok(())
}

/// A long-running `nhi`, everything it prints, and its end.
pub(crate) struct Process {
    pub(crate) child: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (tell, lines) = mpsc::channel();
        let pipes: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(child.stdout.take().context("standard output is piped")?),
            Box::new(child.stderr.take().context("standard error is piped")?),
        ];
        for pipe in pipes {
            let tell = tell.clone();
            std::thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| tell.send(line))
            });
        }
        Ok(Self { child, lines, said: Vec::new() })
    }

    /// `nhi up` that is ready.
    pub(crate) fn up(dir: &Path, arguments: &[&str]) -> Result<Self> {
        let mut up = Self::spawn(nhi(dir).args(UP).args(arguments))?;
        up.wait_for("Ctrl-C stops everything")?;
        Ok(up)
    }

    pub(crate) fn pid(&self) -> String {
        self.child.id().to_string()
    }

    pub(crate) fn wait_for(&mut self, what: &str) -> Result<()> {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                bail!("did not say {what:?}, but {:#?}", self.said);
            };
            let found = line.contains(what);
            self.said.push(line);
            if found {
                return Ok(());
            }
        }
    }

    /// Whether it ends within that time.
    fn ends_within(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(mpsc::RecvTimeoutError::Timeout) => return false,
                Err(mpsc::RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    pub(crate) fn end(&mut self) -> Result<(ExitStatus, String)> {
        ensure!(self.ends_within(PATIENCE), "did not end: {:#?}", self.said);
        Ok((self.child.wait()?, self.said.join("\n")))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill("TERM", &self.pid());
            let _ = self.child.wait();
        }
    }
}

pub(crate) fn kill(signal: &str, pid: &str) -> Result<()> {
    ensure!(Command::new("kill").args([&format!("-{signal}"), pid]).status()?.success(), "kill {pid}");
    Ok(())
}

pub(crate) fn server_of(dir: &Path) -> Result<String> {
    Ok(fs::read_to_string(dir.join(".nhi/run/nats-server.pid"))?.trim().to_owned())
}

/// A zombie that nobody waits for, as in a container without an init, does not live.
pub(crate) fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs to its end, which must have this code and these words.
pub(crate) fn check(dir: &Path, arguments: &[&str], code: i32, says: &[&str]) -> Result<String> {
    let output = nhi(dir).args(arguments).output()?;
    let told = said(&output);
    ensure!(
        output.status.code() == Some(code) && says.iter().all(|words| told.contains(words)),
        "{arguments:?} ended with {:?} and said {told:?}",
        output.status
    );
    Ok(told)
}

#[test]
fn a_mesh_that_was_killed_is_named_and_starts_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut up = Process::up(dir.path(), &["--demo"])?;
    let (pid, orphan) = (up.pid(), server_of(dir.path())?);
    up.child.kill()?;
    up.child.wait()?;
    let gone = format!("(process {pid}) is gone: start it again");
    check(dir.path(), &["status"], 4, &[&gone])?;

    let again = Process::up(dir.path(), &["--demo"])?;
    check(dir.path(), &["status"], 0, &[])?;
    ensure!(!is_alive(&orphan), "the orphan of the killed one is still there");
    drop(again);
    Ok(())
}

#[test]
fn a_mesh_that_is_starting_is_not_taken_for_none() -> Result<()> {
    let dir = tempfile::tempdir()?;
    check(dir.path(), &["auth", "init"], 0, &[])?;
    check(dir.path(), &["status"], 4, &["no mesh runs in"])?;
    let _lock = nhi_bus::private::Lock::acquire(&dir.path().join(".nhi/run/up.lock"))?;
    check(dir.path(), &["status"], 4, &["`nhi up` is still starting"])?;
    Ok(())
}

/// A simulated Proxmox for as long as the runtime lives, and the `.env` that leads to it.
fn lab(latency_ms: u64) -> Result<(tokio::runtime::Runtime, nhi_sim::Running, String)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let lab = runtime
        .block_on(nhi_sim::serve(nhi_sim::LabOptions { latency_ms, ..nhi_sim::LabOptions::demo() }))?;
    let (user, token) = lab.scan_token.id.split_once('!').context("user!token")?;
    let env = format!(
        "PROXMOX_HOST={}\nPROXMOX_USER={user}\nPROXMOX_TOKEN_ID={token}\nPROXMOX_SECRET_KEY={}\nPROXMOX_FINGERPRINT={}\n",
        lab.url, lab.scan_token.secret, lab.fingerprint
    );
    Ok((runtime, lab, env))
}

#[test]
fn an_agent_ends_in_good_order_in_the_middle_of_its_first_pass() -> Result<()> {
    let (_runtime, _lab, env) = lab(2_000)?;
    let mesh = Up::start(tempfile::tempdir()?, &[])?;
    let url = endpoints(mesh.path())?["nats"].as_str().context("a URL")?.to_owned();
    let machine = tempfile::tempdir()?;
    fs::create_dir_all(machine.path().join(".nhi/keys"))?;
    for key in fs::read_dir(mesh.path().join(".nhi/keys"))? {
        let key = key?;
        fs::copy(key.path(), machine.path().join(".nhi/keys").join(key.file_name()))?;
    }
    fs::write(machine.path().join(".env"), env)?;
    let arguments = ["agent", "scan", "mirror", "--nats", &url];
    let mut agent = Process::spawn(nhi(machine.path()).args(arguments))?;
    agent.wait_for("first pass over home")?;
    kill("INT", &agent.pid())?;
    let (status, said) = agent.end()?;
    ensure!(matches!(status.code(), Some(0 | 130)), "{status}: {said}");
    ensure!(said.contains("stopping") && !said.contains("panicked"), "{said}");
    Ok(())
}

#[test]
fn a_closed_terminal_leaves_nothing_behind() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut up = Process::spawn(&mut heeds_hangup(nhi(dir.path()).args(UP).arg("--demo")))?;
    up.wait_for("Ctrl-C stops everything")?;
    let server = server_of(dir.path())?;
    kill("HUP", &up.pid())?;
    let (status, said) = up.end()?;
    ensure!(status.code() == Some(0), "{status}: {said}");
    ensure!(!is_alive(&server), "nats-server {server} is still there");
    Ok(())
}

#[test]
fn a_reader_that_goes_away_leaves_nothing_behind() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = nhi(dir.path());
    command.args(UP).arg("--demo").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    drop(child.stdout.take());
    let stderr = child.stderr.take().context("standard error is piped")?;
    let mut lines = BufReader::new(stderr).lines();
    let announced = dir.path().join(".nhi/run/endpoints.json");
    ensure!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("state.json shows")), "ended");
    // What it says next goes to nobody. It is ready once the file is there, and must not end by itself.
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(nhi_testkit::wait_for("the file", PATIENCE, async || announced.exists().then_some(())));
    let server = server_of(dir.path())?;
    kill("INT", &child.id().to_string())?;
    let stopped = lines.map_while(Result::ok).any(|line| line.contains("stopping"));
    let status = child.wait()?;
    ensure!(stopped && status.code() == Some(0), "{status}: it did not stop in good order");
    ensure!(!is_alive(&server), "nats-server {server} is still there");
    Ok(())
}

/// The command as a login shell starts it: whoever runs these tests under `nohup` hands an ignored SIGHUP down to
/// every process, and no shell gives it back.
fn heeds_hangup(command: &Command) -> Command {
    const RESTORE: &str = "import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])";
    let mut restored = Command::new("python3");
    restored.args(["-c", RESTORE]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => restored.env(key, value),
            None => restored.env_remove(key),
        };
    }
    restored
}

#[test]
fn nohup_is_heeded() -> Result<()> {
    const MOMENT: Duration = Duration::from_millis(500);
    for (trap, ends) in [("", true), ("trap '' HUP;", false)] {
        let script = format!("{trap} exec \"$0\" sim pve --listen 127.0.0.1:0 --control 127.0.0.1:0");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_nhi")]);
        let mut sim = Process::spawn(&mut heeds_hangup(&shell))?;
        sim.wait_for("Ctrl-C ends")?;
        kill("HUP", &sim.pid())?;
        ensure!(sim.ends_within(if ends { PATIENCE } else { MOMENT }) == ends, "{trap:?}: {:?}", sim.said);
    }
    Ok(())
}

#[test]
fn who_does_not_want_to_wait_asks_twice() -> Result<()> {
    const LOOK: Duration = Duration::from_millis(50);
    let dir = tempfile::tempdir()?;
    let mut up = Process::up(dir.path(), &["--demo"])?;
    let server = server_of(dir.path())?;
    // A server that hangs: in good order this takes its time.
    kill("STOP", &server)?;
    kill("INT", &up.pid())?;
    up.wait_for("stopping")?;
    let began = Instant::now();
    while !up.ends_within(LOOK) {
        ensure!(began.elapsed() < PATIENCE, "did not end: {:#?}", up.said);
        let _ = kill("INT", &up.pid());
    }
    let (status, said) = up.end()?;
    ensure!(status.code() == Some(130), "{status}: {said}");
    ensure!(!is_alive(&server), "nats-server {server} is still there");
    Ok(())
}

#[test]
fn a_second_scanner_or_mirror_in_a_directory_is_refused() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let holder = format!("(process {})", up.child.id());
    for agent in ["scan", "mirror", "state"] {
        let sentence = format!("the agent {agent} already runs in");
        check(up.path(), &["agent", agent], 8, &[&sentence, &holder])?;
    }
    up.json(&["status"])?;
    Ok(())
}

#[test]
fn an_outage_is_told_once_and_so_is_its_end() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut up = Process::up(dir.path(), &["--demo"])?;
    kill("KILL", &server_of(dir.path())?)?;
    up.wait_for("nats-server is lost")?;
    up.wait_for("nats-server is back after")?;
    // Each agent comes back by itself, some a moment after the one that told it.
    let began = Instant::now();
    while let Err(error) = check(dir.path(), &["status"], 0, &[]) {
        ensure!(began.elapsed() < PATIENCE, "{error:#}");
    }
    kill("INT", &up.pid())?;
    up.wait_for("stopping")?;
    let (status, said) = up.end()?;
    ensure!(status.code() == Some(0), "{status}: {said}");
    let count = |words: &str| said.lines().filter(|line| line.contains(words)).count();
    ensure!([count("is lost"), count("is back"), count("WARN"), count("ERROR")] == [1, 1, 0, 0], "{said}");
    Ok(())
}

#[test]
fn the_simulated_lab_and_a_real_one_do_not_mix() -> Result<()> {
    let (_runtime, _lab, env) = lab(0)?;
    let simulated = tempfile::tempdir()?;
    drop(Process::up(simulated.path(), &["--demo"])?);
    fs::write(simulated.path().join(".env"), &env)?;
    let sentence = "holds the simulated lab of `nhi up --demo`: use another --dir for your own";
    check(simulated.path(), &UP, 3, &[sentence])?;
    drop(Process::up(simulated.path(), &["--demo"])?);

    let own = tempfile::tempdir()?;
    fs::write(own.path().join(".env"), &env)?;
    drop(Process::up(own.path(), &[])?);
    check(own.path(), &[&UP[..], &["--demo"]].concat(), 3, &["holds your own lab"])?;
    Ok(())
}

#[test]
fn a_server_that_cannot_be_is_no_joined_one() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let garbage = [&UP[..], &["--demo", "--nats", "garbage://x"]].concat();
    let told = check(dir.path(), &garbage, 2, &["garbage://x", "nats://HOST:4222"])?;
    ensure!(!told.contains("joined"), "{told}");
    let nobody = [&UP[..], &["--demo", "--nats", "nats://127.0.0.1:9"]].concat();
    let told = check(dir.path(), &nobody, 4, &["nothing listens there"])?;
    ensure!(!told.contains("joined"), "{told}");
    Ok(())
}

#[test]
fn an_address_of_another_machine_is_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for table in ["nats", "http"] {
        fs::write(dir.path().join("nhi.toml"), format!("[{table}]\nlisten = \"192.0.2.77:0\"\n"))?;
        let key = format!("{table}.listen: 192.0.2.77 is not an address of this machine");
        check(dir.path(), &["up", "--demo"], 3, &[&key])?;
    }
    Ok(())
}

#[test]
fn a_directory_of_another_user_is_left_alone() -> Result<()> {
    let own = tempfile::tempdir()?;
    let me = std::os::unix::fs::MetadataExt::uid(&fs::metadata(own.path())?);
    // Only root can give a directory away; everybody else has root's.
    let (dir, owner) = match std::os::unix::fs::chown(own.path(), Some(12_345), None) {
        Ok(()) => (own.path(), 12_345),
        Err(_) => (Path::new("/usr"), 0),
    };
    let sentence = format!("belongs to uid {owner}, you are uid {me}");
    for arguments in [&["up", "--demo"][..], &["auth", "init"]] {
        check(dir, arguments, 3, &[&sentence])?;
    }
    ensure!(!dir.join(".nhi").exists(), "something was written there");
    Ok(())
}
