//! What the whole-system tests share: the architecture checks, and Python for outside peers. It runs no agents.
//!
//! Invariants: nothing in the product depends on this crate; a check is a function from text to violations, so
//! that each has a control beside it.

pub mod python;
pub mod tidy;
