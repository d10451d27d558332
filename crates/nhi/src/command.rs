//! One module a command. Each turns arguments into calls and answers into text.

pub mod audit;
pub mod auth;
pub mod call;
pub mod doctor;
pub mod join;
pub mod man;
pub mod sim;
pub mod state;
pub mod status;
