//! Facts about Proxmox VE that the simulator holds, one test each, named after the fact. They speak to the
//! pure lab where they can and to real sockets where the transport is the point.

mod building;
mod chaos;
mod configuration;
mod faults;
mod power;
mod rights;
mod seeds;
mod snapshots;
mod staleness;
mod support;
mod tasks;
mod transport;
mod wire;
