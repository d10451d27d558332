//! Everything that touches NATS: the server, identities and accounts, buckets, views, the audit log, services, calls.
//!
//! Invariants:
//! - no other crate uses async-nats, and no type of it is needed to use this one;
//! - no connection is made without the identity's own key, and none is anonymous;
//! - nothing is published while the link is down, and what the server refuses is an error, not a time-out;
//! - a service answers only what may be answered, and every request once;
//! - tasks start through [`cx::Cx`] and nowhere else;
//! - no seed is logged or shown by `Debug`.

pub mod accounts;
pub mod audit;
pub mod call;
pub mod commands;
pub mod connect;
pub mod cx;
pub mod discover;
pub mod enrol;
pub mod feed;
pub mod jobs;
pub mod keys;
pub mod ledger;
pub mod pass;
pub mod past;
pub mod plans;
pub mod private;
pub mod registry;
pub mod server;
pub mod service;
pub mod store;
pub mod timers;
pub mod tls;
pub mod trace;
pub mod usage;
pub mod view;
