//! Policy, gate, linter and the floor in Proxmox: each rule at its border, each with a control that the other side of
//! it passes, and the promises as properties. It needs no server.

mod approval;
mod guard;
mod hours;
mod lab;
mod lint;
mod policy;
mod verdict;
