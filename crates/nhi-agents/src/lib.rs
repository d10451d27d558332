//! nhi-agents.
