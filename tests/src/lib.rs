//! What the whole-system tests share: the architecture checks, Python for outside peers, the real `nhi` as a program,
//! a browser for its pages, an independent reader of `state.json`, and what the benches run and print. It runs no
//! agents itself.
//!
//! Invariants: nothing in the product depends on this crate; a check is a function from text to violations, so
//! that each has a control beside it.

pub mod browser;
pub mod measure;
pub mod program;
pub mod python;
pub mod running;
pub mod state_file;
pub mod tidy;
