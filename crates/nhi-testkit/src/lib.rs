//! nhi-testkit.
