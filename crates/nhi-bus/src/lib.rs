//! nhi-bus.

pub mod connect;
pub mod cx;
pub mod keys;
pub mod private;
pub mod server;
