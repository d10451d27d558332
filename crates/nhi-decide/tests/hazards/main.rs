//! Every way in which Proxmox VE misleads a scanner, as a sequence of observations and what must hold after it;
//! and the same as properties over random labs and faults. It needs no server.

mod backups;
mod lab;
mod nodes;
mod places;
mod properties;
mod records;
mod rights;
mod ways;
