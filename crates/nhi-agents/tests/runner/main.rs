//! Carrying runs out: without sockets, with a world that breaks and processes that die thousands of times; and with a
//! real nats-server, the simulated lab over HTTP, and actuators that are killed.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod builds;
mod crash;
mod dice;
mod house;
mod judged;
mod matrix;
mod order;
mod pure;
mod steps;
mod truth;
mod turns;
