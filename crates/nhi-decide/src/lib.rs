//! Every decision of the mesh: values and `now` in, values out.
//!
//! Invariants: no I/O, no clock, no randomness, no async, no environment, no logging.

pub mod change;
pub mod clean;
pub mod diff;
mod draft;
pub mod graph;
pub mod live;
pub mod manifest;
pub mod observation;
pub mod observe;
pub mod render;
pub mod retention;
pub mod state_query;
