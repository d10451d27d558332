//! Signals to a nats-server by process id, and whether a process is one of ours. Not for other processes.

use std::{io, path::Path};

/// What a nats-server is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Read the configuration again.
    Reload,
    /// End in good order.
    Stop,
    /// End now.
    Kill,
}

#[cfg(unix)]
pub(super) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    use rustix::process::{Pid, Signal as Unix, kill_process};
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    let signal = match signal {
        Signal::Reload => Unix::HUP,
        Signal::Stop => Unix::TERM,
        Signal::Kill => Unix::KILL,
    };
    Ok(kill_process(pid, signal)?)
}

/// Only services can be signalled on this system; a server of our own ends by being killed, which loses nothing
/// with `sync_interval: always`.
#[cfg(not(unix))]
pub(super) fn send(_pid: u32, _signal: Signal) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the process lives and was started with this configuration file: a process id alone may have been
/// given to somebody else. A zombie does not live.
pub(super) fn is_ours(pid: u32, config_file: &Path) -> bool {
    let Some(arguments) = arguments_of(pid) else { return false };
    arguments.contains("nats-server") && arguments.contains(&*config_file.to_string_lossy())
}

#[cfg(target_os = "linux")]
fn arguments_of(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
}

#[cfg(not(target_os = "linux"))]
fn arguments_of(pid: u32) -> Option<String> {
    let ps = std::process::Command::new("ps")
        .args(["-ww", "-o", "command=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&ps.stdout).into_owned())
}
