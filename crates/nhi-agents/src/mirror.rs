//! The mirror.

pub mod files;
