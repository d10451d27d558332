//! A GPU that is kept for its owner: at the machine itself, from elsewhere, with and without the mesh.

use crate::mesh::{Up, nhi};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

const SOON: Duration = Duration::from_secs(30);

/// A machine without a card, whose light depends on its people alone.
fn settings(dir: &Path, more: &str) -> Result<()> {
    let path = dir.join("nhi.toml");
    let before = fs::read_to_string(&path).unwrap_or_default();
    let gpu = format!(
        "[gpu]\nhost = \"gaming-pc\"\nremote_ports = []\n{more}[gpu.thresholds]\ncard_needed = false\n"
    );
    fs::write(path, before + &gpu)?;
    Ok(())
}

fn told(dir: &Path, arguments: &[&str]) -> Result<Value> {
    let output = nhi(dir).args(arguments).arg("--json").output()?;
    ensure!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn wait(what: &str, look: impl Fn() -> Result<Value>, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(nhi_testkit::wait_for(what, SOON, async || match look() {
        Ok(seen) if is_it(&seen) => Ok(seen),
        other => Err(format!("{other:?}")),
    })))
}

fn light(seen: &Value) -> &str {
    seen["gpus"]["gaming-pc"]["gauges"]["light"].as_str().unwrap_or_default()
}

fn reason(seen: &Value) -> &str {
    seen["gpus"]["gaming-pc"]["gauges"]["reason"].as_str().unwrap_or_default()
}

#[test]
fn a_hotkey_keeps_the_gpu_and_gives_it_back() -> Result<()> {
    let dir = tempfile::tempdir()?;
    settings(dir.path(), "backend = \"http://127.0.0.1:1\"\nlisten = \"127.0.0.1:0\"\n")?;
    let up = Up::start(dir, &["--demo"])?;
    let status = || told(up.path(), &["gpu", "status"]);
    let seen = wait("the light to be judged", status, |seen| reason(seen) != "unreadable")?;
    ensure!(light(&seen) != "red", "{seen}");
    let relay = seen["gpus"]["gaming-pc"]["gpu"]["relay"]["url"].as_str().unwrap_or_default();
    ensure!(relay.starts_with("http://127.0.0.1:"), "{seen}");

    let locked = told(up.path(), &["gpu", "toggle", "--minutes", "5"])?;
    ensure!(locked["gpu"]["lock"]["until"].is_string(), "{locked}");
    let seen = status()?;
    ensure!((light(&seen), reason(&seen)) == ("red", "locked"), "{seen}");
    let in_mesh = || told(up.path(), &["call", "gpu", "get", "{}"]);
    wait("the mesh to know", in_mesh, |seen| seen["gpus"]["gaming-pc"]["available"] == false)?;
    let said = up.run(&["gpu", "status"])?;
    let said = String::from_utf8(said.stdout)?;
    ensure!(said.contains("gaming-pc") && said.contains("locked at the machine itself"), "{said}");

    told(up.path(), &["gpu", "toggle"])?;
    wait("the lock to end", status, |seen| reason(seen) != "locked")?;
    ensure!(up.run(&["gpu", "lock", "other-pc"])?.status.code() == Some(6), "no such machine");
    ensure!(up.run(&["gpu", "lock", "--minutes", "0"])?.status.code() == Some(2), "no such time");
    Ok(())
}

/// `nhi agent gpu` on another machine.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

#[test]
fn another_machine_is_kept_from_here_and_gives_itself_back() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let none = up.run(&["gpu", "lock"])?;
    ensure!(none.status.code() == Some(6), "{}", String::from_utf8_lossy(&none.stderr));
    up.json(&["auth", "add", "gaming-pc", "--role", "edge"])?;
    let key = fs::read_to_string(up.path().join(".nhi/keys/gaming-pc.nk"))?;
    let endpoints: Value = serde_json::from_slice(&fs::read(up.path().join(".nhi/run/endpoints.json"))?)?;
    let url = endpoints["nats"].as_str().context("an address")?;
    let machine = tempfile::tempdir()?;
    let words = ["join", url, "--as", "gaming-pc", "--key", key.trim()];
    let joined = nhi(machine.path()).args(words).output()?;
    ensure!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    settings(machine.path(), "")?;
    let mut agent = nhi(machine.path());
    agent.args(["agent", "gpu"]).stdout(Stdio::null()).stderr(Stdio::null());
    let agent = Machine(agent.spawn()?);

    let from_here = || up.json(&["gpu", "status"]);
    wait("the machine to be told of", from_here, |seen| seen["gpus"]["gaming-pc"]["available"] == true)?;
    up.json(&["gpu", "lock", "--minutes", "5"])?;
    let there = || told(machine.path(), &["gpu", "status"]);
    let seen = wait("the lock to arrive", there, |seen| reason(seen) == "locked")?;
    ensure!(seen["gpus"]["gaming-pc"]["gpu"]["lock"]["by"] == "owner", "{seen}");
    told(machine.path(), &["gpu", "unlock"])?;
    wait("the mesh to hear of it", from_here, |seen| seen["gpus"]["gaming-pc"]["available"] == true)?;

    // The mesh goes; at the machine the hotkey works on.
    drop(up);
    told(machine.path(), &["gpu", "lock"])?;
    ensure!(reason(&there()?) == "locked", "{}", there()?);
    drop(agent);
    let gone = nhi(machine.path()).args(["gpu", "status"]).output()?;
    ensure!(gone.status.code() == Some(4), "{:?}", gone.status);
    Ok(())
}
