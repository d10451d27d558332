//! nhi-gateway.
