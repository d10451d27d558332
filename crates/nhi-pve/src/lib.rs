//! nhi-pve.
