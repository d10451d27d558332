//! What a command leaves when nobody hears it: its work, its exit code, and no panic.

use crate::{
    mesh::{Up, nhi},
    outages::{PATIENCE, check},
};
use anyhow::{Result, ensure};
use std::{
    fs::OpenOptions,
    io::pipe,
    process::{Command, Output, Stdio},
};

/// A pipe whose reader has gone.
fn nobody() -> Result<Stdio> {
    let (reader, writer) = pipe()?;
    drop(reader);
    Ok(writer.into())
}

fn unheard(command: &mut Command) -> Result<Output> {
    Ok(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(nobody()?).output()?)
}

#[test]
fn a_closed_standard_error_turns_no_failure_into_success() -> Result<()> {
    let dir = tempfile::tempdir()?;
    for (arguments, code) in [
        (&["status"][..], 4),
        (&["auth", "revoke", "nobody"], 3),
        (&["--config", "/nowhere.toml", "status"], 3),
        (&["no-such-command"], 2),
        (&["auth", "init"], 0),
        (&["auth", "revoke", "nobody"], 6),
    ] {
        let output = unheard(nhi(dir.path()).args(arguments))?;
        ensure!(output.status.code() == Some(code), "{arguments:?} ended with {:?}", output.status);
        // The control: with somebody who listens it ends the same way.
        if arguments != ["auth", "init"] {
            check(dir.path(), arguments, code, &[])?;
        }
    }
    // A line of the log has nobody to hear it either.
    let output = unheard(nhi(dir.path()).args(["status"]).env("NHI_LOG", "trace"))?;
    ensure!(output.status.code() == Some(4), "{:?}", output.status);
    Ok(())
}

#[test]
fn a_closed_standard_output_does_not_stop_the_work() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let ends = |arguments: &[&str], stdout: Stdio| -> Result<(Option<i32>, String)> {
        let output = nhi(up.path()).args(arguments).stdout(stdout).stderr(Stdio::piped()).output()?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (code, said) = ends(&["auth", "add", "aider", "--role", "agent"], nobody()?)?;
    ensure!(code == Some(0) && !said.contains("panicked"), "{code:?} {said}");
    let audited = up.json(&["audit", "list"])?.to_string();
    ensure!(
        audited.contains("auth.added") && audited.contains("aider"),
        "unheard and not recorded: {audited}"
    );
    for arguments in
        [&["state", "get"][..], &["call"], &["completions", "bash"], &["man"], &["guest", "list"]]
    {
        let (code, said) = ends(arguments, nobody()?)?;
        ensure!(code == Some(0) && said.is_empty(), "{arguments:?}: {code:?} {said}");
    }
    // A failure stays one.
    let (code, _) = ends(&["call", "state", "nosuch"], nobody()?)?;
    ensure!(code == Some(6), "{code:?}");
    // Half an answer must not pass for a whole one.
    let full = OpenOptions::new().write(true).open("/dev/full")?;
    let (code, said) = ends(&["state", "get", "--json"], full.into())?;
    ensure!(code == Some(1) && said.contains("cannot write to standard output"), "{code:?} {said}");
    Ok(())
}

#[test]
fn following_ends_when_nobody_reads() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let mut watch = nhi(up.path());
    let mut child = watch.args(["state", "watch"]).stdout(nobody()?).stderr(Stdio::null()).spawn()?;
    let (runtime, mut round) = (tokio::runtime::Runtime::new()?, 0);
    let ended = runtime.block_on(nhi_testkit::wait_for("the end of watching", PATIENCE, async || {
        // Each report is a change to be told.
        round += 1;
        let reported = up.json(&["call", "state", "report", &format!("{{\"os\":\"system {round}\"}}")]);
        if let Err(error) = reported {
            return Err(error.to_string());
        }
        match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still watches".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }));
    ensure!(ended.code() == Some(0), "{ended:?}");
    Ok(())
}
