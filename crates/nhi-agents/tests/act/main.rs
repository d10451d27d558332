//! The actuator as its callers know it: a real nats-server with the accounts of the mesh, a simulated home, and
//! identities of different roles. What is refused is counted at the lab: it costs no write.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod carried;
mod crowd;
mod deadman;
mod decisions;
mod house;
mod refusals;
mod waits;
