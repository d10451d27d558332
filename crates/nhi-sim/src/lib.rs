//! A simulated home lab that is a product feature: a Proxmox VE API over HTTPS, with faults on request.
//! Demo mode, rehearsal of plans and our own tests use the same one.
//!
//! Invariants:
//! - [`Lab`] is pure: no socket, no clock, no randomness but its own sequence. Time is told to it.
//! - The API layer knows no sockets, the transport no guests.
//! - Nothing here is shared with the client we test against it (`nhi-pve`): a misunderstanding on one side
//!   must not be able to hide on the other.
//! - Secrets are never logged and their types do not print them.

mod api;
mod clock;
mod control;
pub mod counts;
pub mod lab;
pub mod models;
mod seed;
mod server;
mod tls;

pub use api::{Answer, Params, Request};
pub use lab::{
    HaResource, Identities, Lab, Node, PveVersion, TokenSecret,
    access::Secret,
    edit::{Edit, EditError, PowerWord},
    fault::{Breakage, Fault, Faults, Match},
    guest::{Agent, Guest, Interface, Kind, Power, Snapshot},
    login::{Credentials, Who},
    storage::{Storage, Volume},
    task::{Stage, Task},
};
pub use seed::{Seed, SeedBackup, SeedError, SeedFile, SeedGuest, SeedNode, SeedSnapshot};
pub use server::{LabOptions, Running, SimError, serve};
