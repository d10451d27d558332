//! The nouns and the wire contract of Neural-Home: a difference here is a protocol change.
//!
//! Invariants:
//! - nothing here does I/O, reads a clock or makes random numbers;
//! - subjects and keys are built here and nowhere else ([`subject`], [`key`]);
//! - who may call what, and who writes which key, is said here and nowhere else ([`rights`], [`writers`]);
//! - no type here holds a secret.

pub mod act;
pub mod ai;
pub mod alert;
pub mod audit;
pub mod call;
pub mod envelope;
pub mod fact;
pub mod fault;
pub mod gpu;
pub mod graph;
pub mod guest;
pub mod header;
pub mod identity;
pub mod intent;
pub mod jobs;
pub mod key;
pub mod lab;
pub mod live;
pub mod plan;
pub mod plans;
pub mod policy;
pub mod project;
pub mod refusal;
pub mod rights;
pub mod run;
pub mod source;
pub mod subject;
pub mod writers;

pub use jiff::Timestamp;

/// The version every value in our buckets carries. A reader refuses a higher one instead of guessing.
pub const SCHEMA_VERSION: u32 = 1;
