//! nhi-sim.
