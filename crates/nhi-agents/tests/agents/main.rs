//! The agents against a real nats-server and the simulated lab: what is seen, written, mirrored and answered.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod backups;
mod files;
mod house;
mod keeper;
mod lab;
mod longwinded;
mod outage;
mod refused;
mod ways;
