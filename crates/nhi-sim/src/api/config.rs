//! config
use super::route::Route;
use crate::lab::{Lab, task::ConfigChange};
pub(super) const ROUTES: &[Route] = &[];
pub(super) const OPTIONS_QEMU: &str = "";
pub(super) const OPTIONS_LXC: &str = "";
impl Lab {
    pub(crate) fn apply_change(&mut self, _vmid: u32, _change: &ConfigChange) {}
}
