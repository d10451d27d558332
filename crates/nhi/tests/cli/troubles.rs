//! Rare troubles: a killed `nhi up` and what it leaves, a stream that somebody deleted, a full disk that comes twice.

use crate::{
    mesh::nhi,
    outages::{PATIENCE, Process, check, endpoints, kill, server_of},
};
use anyhow::{Context, Result, ensure};
use nhi_bus::{
    connect::{Bus, ConnectError, Target},
    cx::Cx,
    keys::{self, Seed},
};
use nhi_model::identity::IdentityName;
use nhi_testkit::wait_for;
use serde_json::Value;
use std::{fs, path::Path, time::Duration};
use tokio::{runtime::Runtime, time::Instant};

/// How soon a revocation must show.
const SOON: Duration = Duration::from_secs(1);

fn target(dir: &Path) -> Result<Target> {
    Ok(Target::plain(endpoints(dir)?["nats"].as_str().context("a URL")?))
}

fn seed(dir: &Path, name: &str) -> Result<(IdentityName, Seed)> {
    let name = IdentityName::parse(name)?;
    let seed = keys::load(&dir.join(".nhi/keys"), &name)?;
    Ok((name, seed))
}

#[test]
fn revoking_beside_a_killed_mesh_takes_effect_at_once_and_is_recorded() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut up = Process::up(dir.path(), &["--demo"])?;
    for name in ["aider", "vera"] {
        check(dir.path(), &["auth", "add", name, "--role", "agent"], 0, &[])?;
    }
    let (target, aider, vera) = (target(dir.path())?, seed(dir.path(), "aider")?, seed(dir.path(), "vera")?);
    let runtime = Runtime::new()?;
    let cx = Cx::new();
    let connect = |who: &(IdentityName, Seed)| runtime.block_on(Bus::connect(&cx, &target, &who.0, &who.1));
    let (old, stays) = (connect(&aider)?, connect(&vera)?);

    up.child.kill()?;
    up.child.wait()?;
    // The control: the server that is left behind still serves both, with the accounts it had.
    let orphan = server_of(dir.path())?;
    drop((connect(&aider)?, connect(&vera)?));
    ensure!(old.is_up() && stays.is_up(), "nats-server did not outlive the kill");

    check(dir.path(), &["auth", "revoke", "aider"], 0, &["aider is revoked; it is in force"])?;
    let began = Instant::now();
    runtime.block_on(wait_for("the revoked connection to be closed", SOON, async || !old.is_up()));
    let again = connect(&aider);
    ensure!(matches!(again, Err(ConnectError::WrongKey { .. })), "after {:?}: {again:?}", began.elapsed());
    ensure!(stays.is_up() && connect(&vera).is_ok(), "somebody else was shut out");
    check(dir.path(), &["auth", "add", "bob", "--role", "viewer"], 0, &[])?;
    connect(&seed(dir.path(), "bob")?)?;
    ensure!(server_of(dir.path())? == orphan, "it is the same server");
    let told = nhi(dir.path()).args(["doctor"]).output()?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("left its nats-server behind") && told.contains("start nhi up again"), "{told}");
    runtime.block_on(cx.close());

    // What was done meanwhile stands in the audit log, and the chain holds.
    let _again = Process::up(dir.path(), &["--demo"])?;
    let ask = |arguments: &[&str]| -> Result<Value> {
        Ok(serde_json::from_slice(&nhi(dir.path()).args(arguments).arg("--json").output()?.stdout)?)
    };
    let listed = ask(&["audit", "list"])?.to_string();
    ensure!(listed.contains("auth.revoked") && listed.contains("bob"), "{listed}");
    ensure!(ask(&["audit", "verify"])?["intact"] == true);
    Ok(())
}

#[test]
fn a_deleted_stream_is_told_and_the_last_state_stays() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let _up = Process::up(dir.path(), &["--demo"])?;
    let status = || -> Result<Value> {
        let output = nhi(dir.path()).args(["status", "--json"]).output()?;
        ensure!(output.status.code() == Some(0), "{:?}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    };
    // The control: nothing is said of a whole one.
    let before = status()?;
    ensure!(before["stale"].is_null(), "{before}");
    let (target, (home, key)) = (target(dir.path())?, seed(dir.path(), "home")?);
    let runtime = Runtime::new()?;
    let told = runtime.block_on(async {
        let cx = Cx::new();
        let bus = Bus::connect(&cx, &target, &home, &key).await?;
        bus.publish_plain("$JS.API.STREAM.DELETE.KV_nhi-state", "".into()).await?;
        bus.close().await;
        cx.close().await;
        Ok::<_, anyhow::Error>(
            wait_for("the loss to be told", PATIENCE, async || {
                let now = status().map_err(|error| error.to_string())?;
                if now["stale"].is_null() { Err(now.to_string()) } else { Ok(now) }
            })
            .await,
        )
    })?;
    ensure!(told["records"] == before["records"], "the last state is gone: {told}");
    for arguments in [&["status"][..], &["guest", "list"], &["state", "get", "vm"]] {
        check(dir.path(), arguments, 0, &["! not current since"])?;
    }
    Ok(())
}

#[test]
fn an_error_that_lasts_is_logged_once_and_again_after_it_was_over() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut command = nhi(dir.path());
    command.args(["up", "--demo", "--nats-port", "0", "--http-port", "0"]);
    let mut up = Process::spawn(command.env("NHI_LOG", "error,nhi_agents::mirror=debug"))?;
    up.wait_for("Ctrl-C stops everything")?;
    let (there, away) = (dir.path().join("infrastructure"), dir.path().join("away"));
    for round in 0..2 {
        fs::rename(&there, &away)?;
        fs::write(&there, "no directory")?;
        // A change to be shown.
        let report = format!("{{\"os\":\"system {round}\"}}");
        check(dir.path(), &["call", "state", "report", &report], 0, &[])?;
        up.wait_for("the mirror cannot write")?;
        up.wait_for("the mirror still cannot write")?;
        fs::remove_file(&there)?;
        fs::rename(&away, &there)?;
        up.wait_for("files written")?;
    }
    kill("INT", &up.pid())?;
    let (status, said) = up.end()?;
    ensure!(status.code() == Some(0), "{status}: {said}");
    let is_error = |line: &&str| line.contains("ERROR") && line.contains("the mirror cannot write");
    let errors = said.lines().filter(is_error).count();
    ensure!(errors == 2, "{errors} errors for two troubles: {said}");
    Ok(())
}
