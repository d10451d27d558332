//! The agents against a real nats-server and the simulated lab: what is seen, written, mirrored and answered.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod files;
mod house;
mod keeper;
mod lab;
mod outage;
mod refused;
