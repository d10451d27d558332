//! The router against a real nats-server and simulated model servers: who answers, what happens when they fail, what is
//! counted.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod chat;
mod counts;
mod handover;
mod home;
mod house;
mod jobs;
mod judge;
mod limits;
mod wake;
