//! The log: to standard error for people at a terminal, JSON lines when asked. `NHI_LOG` sets the level in
//! the usual `target=level` form.

use crate::cli::Command;
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// Starts logging for the life of the process.
///
/// A command at a terminal shows warnings; an agent run by a supervisor shows changes. `nhi up` says by itself when
/// the link or its server is lost and when it is back, so what each part remarks about that is left out unless
/// `NHI_LOG` asks for it.
pub(crate) fn start(command: &Command, json: bool) {
    let default = match command {
        Command::Agent(_) => "info,rmcp=warn",
        Command::Up(_) => "warn,nhi_bus::server::supervise=error,nhi_bus::view=error",
        _ => "warn",
    };
    let asked = std::env::var("NHI_LOG").ok().filter(|asked| !asked.is_empty());
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::WARN.into())
        .parse_lossy(asked.as_deref().unwrap_or(default))
        // The client library repeats what our own link state already says.
        .add_directive("async_nats=off".parse().expect("a constant directive"))
        // And the certificate verifier what the refused connection says.
        .add_directive("rustls_platform_verifier=off".parse().expect("a constant directive"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        // It would tell standard error that standard error is closed, and panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if json {
        logs.json().init();
    } else {
        logs.compact().init();
    }
}
