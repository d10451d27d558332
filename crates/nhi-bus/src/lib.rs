//! nhi-bus.

pub mod accounts;
pub mod audit;
pub mod call;
pub mod connect;
pub mod cx;
pub mod discover;
pub mod enrol;
pub mod feed;
pub mod keys;
pub mod past;
pub mod private;
pub mod registry;
pub mod server;
pub mod service;
pub mod store;
pub mod tls;
pub mod view;
