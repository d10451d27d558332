//! Policy, gate, linter and the floor in Proxmox: each rule at its border, each with a control that the other side of
//! it passes, and the promises as properties. It needs no server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod approval;
mod changed;
mod guard;
mod hours;
mod lab;
mod lint;
mod marks;
mod planned;
mod policy;
mod replayed;
mod steps;
mod verdict;
mod waiting;
