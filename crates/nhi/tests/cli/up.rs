//! `nhi up --demo` as its user meets it: the real binary, a real nats-server, the simulated home.

use crate::mesh::{Up, nhi};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

fn pid_of_server(dir: &Path) -> Result<String> {
    Ok(fs::read_to_string(dir.join(".nhi/run/nats-server.pid"))?.trim().to_owned())
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid).exists()
}

#[test]
fn one_command_runs_the_mesh_and_leaves_nothing_behind() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;

    let endpoints: Value = serde_json::from_slice(&fs::read(up.path().join(".nhi/run/endpoints.json"))?)?;
    ensure!(
        endpoints["nats"].as_str().is_some_and(|url| url.starts_with("nats://127.0.0.1:")),
        "{endpoints}"
    );
    ensure!(
        endpoints["http"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:")),
        "{endpoints}"
    );

    let state = fs::read(up.path().join("infrastructure/state.json"))?;
    let digest: String = Sha256::digest(&state).iter().map(|b| format!("{b:02x}")).collect();
    let checksum = fs::read_to_string(up.path().join("infrastructure/state.json.checksum"))?;
    ensure!(checksum == digest, "the checksum is {checksum}, the file's is {digest}");
    let state: Value = serde_json::from_slice(&state)?;
    ensure!(state["infrastructure"]["nodes"].as_array().map(Vec::len) == Some(3), "{}", state["meta"]);

    let guests = up.json(&["guest", "list"])?;
    let guests = guests.as_array().context("a list")?;
    ensure!(guests.len() >= 20, "{} guests", guests.len());
    let vmid = |guest: &Value| guest["record"]["vmid"].as_u64();
    ensure!(guests.iter().any(|guest| vmid(guest) == Some(100)), "the control machine has id 100");

    let status = up.json(&["status"])?;
    ensure!(status["sources"]["proxmox-home"]["coverage"]["kind"] == "complete", "{status}");

    let server = pid_of_server(up.path())?;
    let (code, dir) = up.interrupt()?;
    ensure!(code == Some(0), "Ctrl-C ended with {code:?}");
    ensure!(!dir.path().join(".nhi/run/endpoints.json").exists(), "endpoints.json is still there");
    ensure!(!is_alive(&server), "nats-server {server} is still there");

    // A backend of the file is asked beside the simulated one, which alone was there before.
    let backend =
        "name = \"own\"\nkind = \"openai\"\nurl = \"http://127.0.0.1:1\"\nmodels = [\"own-model\"]\n";
    fs::write(dir.path().join("nhi.toml"), format!("[[ai.backend]]\n{backend}"))?;
    let again = Up::start(dir, &["--demo"])?;
    let models = again.json(&["ai", "models"])?.to_string();
    ensure!(models.contains("\"own-model\"") && models.contains("\"simulated\""), "{models}");
    let revision = again.json(&["state", "get", "graph"])?["revision"].as_u64().context("a revision")?;
    ensure!(revision > 0, "the state survived");
    Ok(())
}

#[test]
fn a_program_is_told_in_one_line_where_the_mesh_is() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = nhi(dir.path());
    command.args(["up", "--demo", "--nats-port", "0", "--http-port", "0", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("standard output is piped")?).lines();
    let told: Value = serde_json::from_str(&lines.next().context("a line")??)?;
    let file: Value = serde_json::from_slice(&fs::read(dir.path().join(".nhi/run/endpoints.json"))?)?;
    ensure!(told == file && told["pid"] == child.id(), "{told} is not {file}");
    ensure!(Command::new("kill").args(["-INT", &child.id().to_string()]).status()?.success(), "kill");
    ensure!(lines.next().is_none(), "it says nothing else there");
    ensure!(child.wait()?.code() == Some(0), "it did not end in good order");
    Ok(())
}

#[test]
fn a_second_copy_is_refused_and_the_first_goes_on() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let second = up.run(&["up", "--demo", "--nats-port", "0", "--http-port", "0"])?;
    let said = String::from_utf8_lossy(&second.stderr);
    ensure!(second.status.code() == Some(8), "{:?}: {said}", second.status);
    ensure!(said.contains(&up.child.id().to_string()), "names the process: {said}");
    up.json(&["status"])?;
    Ok(())
}

#[test]
fn an_added_identity_works_at_once_and_a_revoked_one_no_longer() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    up.json(&["auth", "add", "aider", "--role", "agent"])?;
    let who = up.json(&["call", "auth", "whoami", "--as", "aider"])?;
    ensure!(who["name"] == "aider" && who["role"] == "agent", "{who}");

    let refused = up.run(&["call", "state", "report", "{}", "--as", "aider"])?;
    ensure!(refused.status.code() == Some(5), "{}", String::from_utf8_lossy(&refused.stderr));

    ensure!(up.run(&["auth", "revoke", "aider"])?.status.success(), "revoke");
    let gone = up.run(&["call", "auth", "whoami", "--as", "aider"])?;
    ensure!(!gone.status.success(), "a revoked identity still connects");

    let verified = up.json(&["audit", "verify"])?;
    ensure!(verified["intact"] == true && verified["entries"].as_u64() >= Some(3), "{verified}");
    Ok(())
}

#[test]
fn the_state_can_be_read_as_it_was() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let now = up.json(&["state", "get", "vm"])?;
    let revision = now["revision"].as_u64().context("a revision")?.to_string();
    let then = up.json(&["state", "get", "vm", "--at", &revision])?;
    ensure!(now["records"] == then["records"], "the state at the newest revision is the state now");
    let diff = up.json(&["state", "diff", &revision])?;
    // A router learns what models there are after the lab is there.
    let is_still = |key: &String| key.starts_with("provider.");
    ensure!(diff["changes"].as_object().is_some_and(|changes| changes.keys().all(is_still)), "{diff}");
    let history = up.json(&["state", "history", "vm.home.100"])?;
    ensure!(history["versions"].as_array().is_some_and(|v| !v.is_empty()), "{history}");
    Ok(())
}

#[test]
fn bad_input_gets_one_sentence_and_its_code() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let check = |arguments: &[&str], code: i32, says: &str| -> Result<()> {
        let output = nhi(dir.path()).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(code) || !said.contains(says) || said.contains("panicked") {
            bail!("{arguments:?} ended with {:?} and said {said:?}", output.status.code());
        }
        Ok(())
    };
    check(&["status"], 4, "no mesh runs in")?;
    check(&["state", "get", "--at", "yesterday"], 4, "no mesh runs in")?;
    check(&["auth", "add", "owner", "--role", "agent"], 3, "nhi up")?;
    check(&["auth", "init"], 0, "made")?;
    check(&["auth", "add", "owner", "--role", "agent"], 5, "belongs to the mesh")?;
    check(&["auth", "add", "Big Name", "--role", "agent"], 2, "[a-z]")?;
    check(&["auth", "revoke", "nobody"], 6, "no identity nobody")?;
    check(&["auth", "grant", "owner", "a.b.c"], 2, "SERVICE")?;
    check(&["--config", "/nowhere/nhi.toml", "status"], 3, "/nowhere/nhi.toml")?;
    check(&["no-such-command"], 2, "unrecognized subcommand")?;

    fs::write(dir.path().join("nhi.toml"), "[scan]\nindex = 5\n")?;
    check(&["up", "--demo"], 3, "nhi.toml:2: unknown key `index`: did you mean `index_s`?")?;
    fs::remove_file(dir.path().join("nhi.toml"))?;

    fs::write(dir.path().join(".nhi/identities.json"), "{ not json")?;
    check(&["auth", "list"], 3, "is damaged")?;
    check(&["up", "--demo", "--nats-port", "0", "--http-port", "0"], 3, "is damaged")?;
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port().to_string();
    for flag in ["--nats-port", "--http-port"] {
        let other = if flag == "--nats-port" { "--http-port" } else { "--nats-port" };
        let dir = tempfile::tempdir()?;
        let output = nhi(dir.path()).args(["up", "--demo", flag, &port, other, "0"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(3) && said.contains(&port),
            "{flag}: {:?} {said}",
            output.status
        );
    }
    Ok(())
}
