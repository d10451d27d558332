//! Every decision of the mesh: values and `now` in, values out.
//!
//! Invariants:
//! - no I/O, no clock, no randomness, no async, no environment, no logging;
//! - only [`observe`] retires a record of the lab or marks it stale ([`manifest`] and [`graph`] do it for the files
//!   they read), and a list of changes names a key once;
//! - equal inputs give equal outputs, byte by byte where they are files ([`render`]);
//! - text from the lab passes [`clean`] before it becomes a name, and is quoted wherever it is shown.

pub mod change;
pub mod clean;
pub mod diff;
mod draft;
pub mod fact;
pub mod gate;
pub mod graph;
pub mod guard;
pub mod jobs;
pub mod lint;
pub mod live;
pub mod manifest;
pub mod next;
pub mod observation;
pub mod observe;
pub mod plan;
pub mod policy;
pub mod quota;
pub mod records;
pub mod render;
pub mod resolve;
pub mod retention;
pub mod route;
pub mod semaphore;
pub mod services;
pub mod sight;
pub mod stale;
pub mod state_query;
pub mod switch;
pub mod verify;
pub mod weave;
