//! The `nhi` binary as a test runs it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

/// A mesh starts in two seconds; a loaded machine that fetches nats-server first takes longer.
const START: Duration = Duration::from_secs(180);
const STOP: Duration = Duration::from_secs(40);

/// A running `nhi up`, ended when dropped.
pub(crate) struct Up {
    pub(crate) child: Child,
    ended: mpsc::Receiver<()>,
    dir: tempfile::TempDir,
}

pub(crate) fn nhi(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nhi"));
    command.arg("--dir").arg(dir).env_remove("NHI_DIR").env_remove("NHI_LOG");
    for key in ["PROXMOX_HOST", "PROXMOX_USER", "PROXMOX_TOKEN_ID", "PROXMOX_SECRET_KEY"] {
        command.env_remove(key);
    }
    command
}

impl Up {
    /// Starts a mesh on any free ports and waits until it says that it is ready.
    pub(crate) fn start(dir: tempfile::TempDir, arguments: &[&str]) -> Result<Self> {
        let mut command = nhi(dir.path());
        command.args(["up", "--nats-port", "0", "--http-port", "0"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn()?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let (ready, is_ready) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.starts_with("Ctrl-C") {
                    let _ = ready.send(());
                }
            }
            drop(end);
        });
        let up = Self { child, ended, dir };
        is_ready.recv_timeout(START).context("nhi up did not become ready")?;
        Ok(up)
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(nhi(self.path()).args(arguments).output()?)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.run(&[arguments, &["--json"]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?}"))
    }

    /// Ctrl-C; returns the exit code.
    pub(crate) fn interrupt(mut self) -> Result<(Option<i32>, tempfile::TempDir)> {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-INT", &pid]).status()?;
        let _ = self.ended.recv_timeout(STOP);
        let status = self.child.wait()?;
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir()?);
        Ok((status.code(), dir))
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
            let _ = self.child.wait();
        }
    }
}
