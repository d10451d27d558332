//! pool.
use super::route::Route;
pub(super) const ROUTES: &[Route] = &[];
