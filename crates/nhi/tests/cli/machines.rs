//! More than one machine: TLS and enrolment, a server that is not ours, agents on their own.

use crate::mesh::{Up, nhi};
use anyhow::{Context, Result, ensure};
use nhi_bus::server::{Locate, locate};
use serde_json::Value;
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

fn endpoints(dir: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(dir.join(".nhi/run/endpoints.json"))?)?)
}

/// Beyond loopback, on a port the system chose.
const OPEN: &str = "[nats]\nlisten = \"0.0.0.0:0\"\n[http]\nlisten = \"0.0.0.0:0\"\n";

#[test]
fn beyond_loopback_there_is_tls_and_one_line_enrols_a_machine() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("nhi.toml"), OPEN)?;
    let up = Up::start(dir, &["--demo"])?;
    let endpoints = endpoints(up.path())?;
    ensure!(endpoints["nats"].as_str().is_some_and(|url| url.starts_with("tls://")), "{endpoints}");
    ensure!(endpoints["http"].as_str().is_some_and(|url| url.starts_with("https://")), "{endpoints}");

    let context = String::from_utf8(up.run(&["auth", "context", "owner"])?.stdout)?;
    let authority = up.path().join(".nhi/tls/ca.pem").display().to_string();
    for words in ["--tlsca ", "curl --cacert ", "SSL_CERT_FILE="] {
        ensure!(context.contains(&format!("{words}{authority}")), "{words} is not told: {context}");
    }

    let added = up.json(&["auth", "add", "gaming-pc", "--role", "edge"])?;
    let line = added["join"].as_str().context("a line to join with")?;
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let machine = tempfile::tempdir()?;
    let joined = nhi(machine.path()).args(&words).output()?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));

    let as_machine =
        |arguments: &[&str]| nhi(machine.path()).args(["--as", "gaming-pc"]).args(arguments).output();
    let reported = as_machine(&["call", "state", "report", "{\"os\":\"test\"}"])?;
    ensure!(reported.status.success(), "{}", String::from_utf8_lossy(&reported.stderr));
    let refused = as_machine(&["call", "state", "get"])?;
    ensure!(refused.status.code() == Some(5), "an edge machine read the state: {:?}", refused.status);
    let host = up.json(&["state", "get", "host"])?;
    ensure!(host["records"]["host.gaming-pc"]["record"]["os"] == "test", "{host}");

    // The control: with another digest the same line must not enrol, and must leave no key behind.
    let digest =
        words.iter().position(|w| *w == "--ca-sha256").map(|at| words[at + 1]).context("a digest")?;
    let wrong: String = digest.chars().map(|c| if c == '0' { '1' } else { '0' }).collect();
    let other = tempfile::tempdir()?;
    let words: Vec<&str> = words.iter().map(|w| if *w == digest { wrong.as_str() } else { w }).collect();
    let fooled = nhi(other.path()).args(&words).output()?;
    ensure!(fooled.status.code() == Some(4), "{:?}", fooled.status);
    ensure!(!other.path().join(".nhi/keys/gaming-pc.nk").exists(), "the key was kept");
    Ok(())
}

/// A nats-server that somebody else runs.
struct Theirs(Child);

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts nats-server on a configuration of its administrator, with our accounts or without; returns its URL.
fn start_theirs(dir: &Path, accounts: &str) -> Result<(Theirs, String)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let binary = runtime.block_on(locate(&Locate::from_environment()))?;
    let ports = dir.join("ports");
    fs::create_dir_all(&ports)?;
    fs::write(dir.join("accounts.conf"), accounts)?;
    let store = dir.join("theirs");
    let config = format!(
        "listen: \"127.0.0.1:-1\"\nmax_payload: 8388608\njetstream {{ store_dir: {:?}, sync_interval: always }}\ninclude \"accounts.conf\"\n",
        store.display().to_string()
    );
    fs::write(dir.join("theirs.conf"), config)?;
    let child = Command::new(&binary.path)
        .args(["-c", "theirs.conf", "--ports_file_dir", "ports"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .spawn()?;
    let server = Theirs(child);
    let url = runtime.block_on(nhi_testkit::wait_for("the port", Duration::from_secs(20), async || {
        let file = fs::read_dir(&ports).ok()?.find_map(Result::ok)?;
        let told: Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
        Some(told["nats"][0].as_str()?.to_owned())
    }));
    Ok((server, url))
}

#[test]
fn a_server_of_somebody_else_is_joined_and_probed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    ensure!(nhi(dir.path()).args(["auth", "init"]).status()?.success(), "auth init");
    let block = nhi(dir.path()).args(["auth", "block"]).output()?;
    let (_server, url) = start_theirs(dir.path(), &String::from_utf8(block.stdout)?)?;
    fs::write(dir.path().join("nhi.toml"), format!("[nats]\nservers = [\"{url}\"]\n"))?;
    let up = Up::start(dir, &["--demo"])?;
    let guests = up.json(&["guest", "list"])?;
    ensure!(guests.as_array().is_some_and(|g| g.len() >= 20), "{guests}");
    let probed = up.json(&["auth", "probe"])?;
    let holds = |check: &Value| check["holds"] == true;
    ensure!(
        probed.as_array().is_some_and(|checks| checks.len() > 30 && checks.iter().all(holds)),
        "{probed}"
    );
    Ok(())
}

/// Opening HTTP makes an authority of our own in `.nhi/tls`. It is none of the servers we join.
#[test]
fn a_joined_server_without_tls_is_joined_again_beside_open_http() -> Result<()> {
    let mut dir = tempfile::tempdir()?;
    ensure!(nhi(dir.path()).args(["auth", "init"]).status()?.success(), "auth init");
    let block = nhi(dir.path()).args(["auth", "block"]).output()?;
    let (_server, url) = start_theirs(dir.path(), &String::from_utf8(block.stdout)?)?;
    let toml = format!("[nats]\nservers = [\"{url}\"]\n[http]\nlisten = \"0.0.0.0:0\"\n");
    fs::write(dir.path().join("nhi.toml"), &toml)?;
    for start in ["the first", "the second"] {
        let up = Up::start(dir, &["--demo"]).with_context(|| format!("{start} start"))?;
        let told = endpoints(up.path())?;
        ensure!(told["http"].as_str().is_some_and(|url| url.starts_with("https://")), "{told}");
        ensure!(up.path().join(".nhi/tls/ca.key").exists(), "the gateway has an authority");
        up.json(&["status"])?;
        // Nor may other machines be told to believe the server by it.
        let added = up.json(&["auth", "add", &start.replace(' ', "-"), "--role", "edge"])?;
        let line = added["join"].as_str().context("a line to join with")?;
        ensure!(line.contains(&url) && !line.contains("--ca-sha256"), "{line}");
        let (code, kept) = up.interrupt()?;
        ensure!(code == Some(0), "{start} ended with {code:?}");
        dir = kept;
    }
    // The control: an authority that was named is asked for, and this server has no certificate of it.
    fs::write(dir.path().join("nhi.toml"), toml.replace("[http]", "ca_file = \".nhi/tls/ca.pem\"\n[http]"))?;
    let refused = nhi(dir.path()).args(["up", "--demo", "--http-port", "0"]).output()?;
    ensure!(
        refused.status.code() == Some(4),
        "{:?}: {}",
        refused.status,
        String::from_utf8_lossy(&refused.stderr)
    );
    Ok(())
}

#[test]
fn a_server_without_our_accounts_does_not_pass_the_probe() -> Result<()> {
    let dir = tempfile::tempdir()?;
    ensure!(nhi(dir.path()).args(["auth", "init"]).status()?.success(), "auth init");
    // The control: everybody may connect, and to the one account.
    let (_server, url) = start_theirs(dir.path(), "")?;
    fs::write(dir.path().join("nhi.toml"), format!("[nats]\nservers = [\"{url}\"]\n"))?;
    let probed = nhi(dir.path()).args(["auth", "probe"]).output()?;
    ensure!(probed.status.code() == Some(10), "{:?}", probed.status);
    ensure!(String::from_utf8_lossy(&probed.stdout).contains("BROKEN"), "it names what does not hold");
    Ok(())
}

#[test]
fn a_key_can_come_from_standard_input_and_a_bad_one_is_refused() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let url = endpoints(up.path())?["nats"].as_str().context("a URL")?.to_owned();
    let file = up.path().join("laptop.nk");
    let added =
        up.run(&["auth", "add", "laptop", "--role", "viewer", "--out", &file.display().to_string()])?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    ensure!(!up.path().join(".nhi/keys/laptop.nk").exists(), "only that file holds the key");
    let seed = fs::read_to_string(&file)?;
    let join = |dir: &Path, key: &str| -> Result<(Option<i32>, String)> {
        let mut child = nhi(dir)
            .args(["join", &url, "--as", "laptop", "--key", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        child.stdin.take().context("standard input is piped")?.write_all(key.as_bytes())?;
        let output = child.wait_with_output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let laptop = tempfile::tempdir()?;
    let (code, said) = join(laptop.path(), &seed)?;
    ensure!(code == Some(0), "{said}");
    let read = nhi(laptop.path()).args(["--as", "laptop", "guest", "list", "--json"]).output()?;
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let (code, said) = join(tempfile::tempdir()?.path(), "SUNOTAKEY")?;
    ensure!(code == Some(2) && !said.contains("SUNOTAKEY"), "{code:?} {said}");
    Ok(())
}

#[test]
fn a_directory_with_a_mesh_of_its_own_is_not_joined() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let added = up.run(&["auth", "add", "laptop", "--role", "viewer"])?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    let seed = fs::read_to_string(up.path().join(".nhi/keys/laptop.nk"))?;
    let url = endpoints(up.path())?["nats"].as_str().context("a URL")?.to_owned();
    let refused = up.run(&["join", &url, "--as", "laptop", "--key", seed.trim()])?;
    ensure!(refused.status.code() == Some(7), "{:?}", refused.status);
    ensure!(!up.path().join("nhi.toml").exists(), "it was configured to join itself");

    // Nor does a key pass under another name: it must prove whose it is.
    let other = tempfile::tempdir()?;
    let wrong = nhi(other.path()).args(["join", &url, "--as", "owner", "--key", seed.trim()]).output()?;
    ensure!(!wrong.status.success(), "laptop's key was taken for owner's");
    ensure!(!other.path().join(".nhi/keys/owner.nk").exists(), "the key was kept");
    let nameless = nhi(other.path()).args(["join", &url, "--key", seed.trim()]).output()?;
    ensure!(nameless.status.code() == Some(2), "{:?}", nameless.status);
    Ok(())
}

#[test]
fn a_renewed_key_replaces_the_old_one_and_grants_can_be_taken_back() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    up.json(&["auth", "add", "aider", "--role", "agent"])?;
    let old = fs::read_to_string(up.path().join(".nhi/keys/aider.nk"))?;
    let url = endpoints(up.path())?["nats"].as_str().context("a URL")?.to_owned();
    ensure!(up.run(&["auth", "renew", "aider"])?.status.success(), "renew");
    up.json(&["guest", "list", "--as", "aider"])?;
    let elsewhere = tempfile::tempdir()?;
    let with_old =
        nhi(elsewhere.path()).args(["join", &url, "--as", "aider", "--key", old.trim()]).output()?;
    ensure!(with_old.status.code() == Some(5), "the old key still opens: {:?}", with_old.status);

    let report = ["call", "state", "report", "{}", "--as", "aider"];
    ensure!(up.run(&report)?.status.code() == Some(5), "an agent may not report");
    ensure!(up.run(&["auth", "grant", "aider", "state.report"])?.status.success(), "grant");
    up.json(&report)?;
    ensure!(up.run(&["auth", "ungrant", "aider", "state.report"])?.status.success(), "ungrant");
    ensure!(up.run(&report)?.status.code() == Some(5), "what was taken back still works");

    ensure!(up.run(&["auth", "renew", "owner"])?.status.success(), "renew owner");
    let kinds = up.json(&["audit", "list"])?.to_string();
    for kind in ["auth.renewed", "auth.granted", "auth.ungranted"] {
        ensure!(kinds.contains(kind), "{kind} is not in the audit log: {kinds}");
    }
    Ok(())
}
