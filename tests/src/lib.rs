//! nhi-tests.
