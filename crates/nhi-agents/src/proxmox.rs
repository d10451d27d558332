//! Looks at one Proxmox cluster: asks in the order that costs it least, and makes one observation of the answers.
//!
//! It knows no bus and keeps nothing; whoever looks decides when, and what becomes of the observation.

pub(crate) mod answers;
pub(crate) mod backup_log;
pub(crate) mod connection;
pub(crate) mod convert;
pub(crate) mod pass;
pub(crate) mod schedule;
#[cfg(test)]
mod tests;
