//! nhi.
fn main() {}
