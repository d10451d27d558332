//! The calls of Proxmox's API: paths with every segment encoded, and nothing but the parameters that are needed.

use nhi_model::{
    guest::GuestKind,
    plan::{ApiCall, Ends, Method},
};
use std::collections::BTreeMap;

/// Parameters of a call.
pub(super) type Params = BTreeMap<String, String>;

/// A call below a guest: `/nodes/pve1/qemu/105/status/start`.
pub(super) fn guest(
    method: Method,
    node: &str,
    kind: GuestKind,
    vmid: u32,
    rest: &[&str],
    params: Params,
) -> ApiCall {
    let number = vmid.to_string();
    let mut segments = vec!["nodes", node, kind.as_str(), number.as_str()];
    segments.extend(rest);
    ApiCall { method, path: path(&segments), params }
}

/// A call below a node: `/nodes/pve1/qemu`.
pub(super) fn node(method: Method, node: &str, rest: &[&str], params: Params) -> ApiCall {
    let mut segments = vec!["nodes", node];
    segments.extend(rest);
    ApiCall { method, path: path(&segments), params }
}

fn path(segments: &[&str]) -> String {
    let mut out = String::new();
    for segment in segments {
        out.push('/');
        // A segment of dots alone would be resolved away.
        let dots = segment.bytes().all(|byte| byte == b'.');
        for byte in segment.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_~".contains(&byte) || byte == b'.' && !dots {
                out.push(char::from(byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
    }
    out
}

/// Parameters from pairs.
pub(super) fn params<const N: usize>(pairs: [(&str, String); N]) -> Params {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A call that ends with the task it starts.
pub(super) fn task(kinds: &[&str], vmid: u32, seconds_max: u32) -> Ends {
    Ends::Task { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), vmid, seconds_max }
}

/// The word for a kind of guest in task types.
pub(super) const fn by_kind(kind: GuestKind, qemu: &'static str, lxc: &'static str) -> &'static str {
    match kind {
        GuestKind::Qemu => qemu,
        GuestKind::Lxc => lxc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_segment_leaves_its_place() {
        let call =
            guest(Method::Delete, "pve1", GuestKind::Lxc, 7, &["snapshot", "../a?b=c#d e%"], Params::new());
        assert_eq!(call.path, "/nodes/pve1/lxc/7/snapshot/..%2Fa%3Fb%3Dc%23d%20e%25");
        assert_eq!(node(Method::Post, "..", &["."], Params::new()).path, "/nodes/%2E%2E/%2E");
        assert_eq!(node(Method::Post, "pve1", &["vzdump"], Params::new()).path, "/nodes/pve1/vzdump");
    }
}
