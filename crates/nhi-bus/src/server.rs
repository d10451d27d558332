//! nats-server as a program: found or fetched, started, reloaded, restarted, stopped.
//!
//! It does not say who may do what ([`crate::accounts`]), and it opens no NATS connection.

pub mod fetch;
pub mod locate;
pub mod plan;
pub mod process;
mod signal;
pub mod source;
pub mod supervise;

pub use {
    locate::{Locate, LocateError, ServerBinary, locate, locate_reporting},
    plan::{Listen, NeedsTls, ServerFiles, ServerPlan, ServerTls},
    process::{ReloadError, ServerProcess, StartError, reload_running, running_url},
    supervise::{ServerState, Supervisor},
};
