//! The log: to standard error for people at a terminal, JSON lines when asked. `NHI_LOG` sets the level in
//! the usual `target=level` form.

use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Starts logging for the life of the process.
///
/// A command at a terminal shows warnings, `nhi up` with its board included; an agent run by a supervisor shows
/// changes.
pub(crate) fn start(supervised: bool, json: bool) {
    let default = if supervised { LevelFilter::INFO } else { LevelFilter::WARN };
    let filter = EnvFilter::builder()
        .with_env_var("NHI_LOG")
        .with_default_directive(default.into())
        .from_env_lossy()
        // The client library repeats what our own link state already says.
        .add_directive("async_nats=off".parse().expect("a constant directive"))
        // And the certificate verifier what the refused connection says.
        .add_directive("rustls_platform_verifier=off".parse().expect("a constant directive"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if json {
        logs.json().init();
    } else {
        logs.compact().init();
    }
}
