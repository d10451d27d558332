//! nhi-bus.
