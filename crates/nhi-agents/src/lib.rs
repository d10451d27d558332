//! The agents of the mesh, one module each: the keeper of the state, the scanner, the actuator, the
//! mirror.
//!
//! Invariants:
//! - agents never import or call each other: they meet on the bus;
//! - an agent writes only the sections that `nhi_model::writers` gives it;
//! - nothing the lab answers or a disk refuses ends an agent: it becomes a record, an alert or a stale mark;
//! - what is decided is decided in `nhi-decide`; here it is fetched, carried and published.

pub mod act;
mod alerts;
mod bodies;
mod book;
mod fits;
pub mod gpu;
mod jobs;
mod judge;
mod lab;
pub mod look;
pub mod mirror;
mod numbers;
mod ourselves;
mod overdue;
mod proxmox;
mod rehearse;
pub mod route;
mod rules;
pub mod runner;
pub mod scan;
pub mod state;
mod sweep;
mod turns;
mod wake;
