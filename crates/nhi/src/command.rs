//! One module a command. Each turns arguments into calls and answers into text.

pub(crate) mod ai;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod call;
pub(crate) mod doctor;
pub(crate) mod gpu;
pub(crate) mod guard;
pub(crate) mod join;
pub(crate) mod man;
pub(crate) mod mcp;
pub(crate) mod plan;
pub(crate) mod policy;
pub(crate) mod sim;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod top;
