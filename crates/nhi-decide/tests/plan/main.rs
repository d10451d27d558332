//! The planner: each intent on a small lab, each refusal, what a plan is bound to; and for random labs and intents that
//! a plan does what it says, harms nothing that is protected or needed, and can be taken back.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod building;
mod compound;
mod guests;
mod hostile;
mod lab;
mod power;
mod properties;
mod proxmox;
mod refusals;
mod sealed;
mod snapshots;
mod speed;
