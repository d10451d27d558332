//! The gateway as outsiders meet it: real HTTP, a real nats-server, services of the test's own behind it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails where it is, its helpers too")]

mod calls;
mod catalog;
mod deploy;
mod doors;
mod events;
mod health;
mod house;
mod leaving;
mod mcp;
mod metrics;
mod openapi;
mod origins;
mod pages;
mod rights;
mod secrets;
mod serving;
mod session;
mod streams;
mod unruly;
