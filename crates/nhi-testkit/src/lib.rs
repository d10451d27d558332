//! What tests of the mesh stand on: a real nats-server each, a way to wait, a TCP path that breaks on request, people
//! who ask the actuator.
//!
//! Invariants:
//! - no product crate depends on this one;
//! - nothing here skips: without nats-server a test fails, and says what to do;
//! - the unsafe variants that controls need ([`Controls`]) are made here from what the product renders, so the
//!   product itself has no switch for them.

mod nats;
mod person;
mod proxy;
mod wait;

pub use self::{
    nats::{Controls, Nats, settle},
    person::{Person, wish},
    proxy::{Fault, Proxy},
    wait::{Look, wait_for},
};
