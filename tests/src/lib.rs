//! What the whole-system tests share: the architecture checks. It does not run agents.
//!
//! Invariants: nothing in the product depends on this crate; a check is a function from text to violations, so
//! that each has a control beside it.

pub mod tidy;
