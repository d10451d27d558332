//! What may be sent, and what goes where in a request.

use super::*;

fn send(method: WriteMethod, path: &str) -> bool {
    is_known(&Write { method, path, params: &BTreeMap::new(), node: "pve1" })
}

#[test]
fn only_calls_about_guests_can_be_sent() {
    use WriteMethod::{Delete, Post, Put};
    for (method, path) in [
        (Post, "/nodes/pve1/qemu"),
        (Post, "/nodes/pve1/lxc"),
        (Post, "/nodes/pve1/vzdump"),
        (Post, "/nodes/pve1/qemu/105/status/start"),
        (Post, "/nodes/pve1/lxc/105/status/reboot"),
        (Post, "/nodes/pve1/qemu/105/clone"),
        (Post, "/nodes/pve1/qemu/105/snapshot"),
        (Post, "/nodes/pve1/qemu/105/snapshot/before/rollback"),
        (Post, "/nodes/pve1/lxc/105/migrate"),
        (Put, "/nodes/pve1/qemu/105/config"),
        (Put, "/nodes/pve1/lxc/105/resize"),
        (Delete, "/nodes/pve1/qemu/105"),
        (Delete, "/nodes/pve1/qemu/105/snapshot/before"),
    ] {
        assert!(send(method, path), "{method:?} {path}");
    }
    for (method, path) in [
        (Post, "/nodes/pve1/stopall"),
        (Post, "/nodes/pve1/status"),
        (Post, "/nodes/pve2/qemu/105/status/start"),
        (Post, "/nodes/pve1/qemu/105/agent/exec"),
        (Post, "/nodes/pve1/qemu/105/monitor"),
        (Post, "/nodes/pve1/qemu/105/template"),
        (Post, "/nodes/pve1/qemu/99/status/start"),
        (Post, "/nodes/pve1/qemu/0105/status/start"),
        (Post, "/nodes/pve1/qemu/+105/status/start"),
        (Post, "/nodes/pve1/qemu/105/status/current"),
        (Post, "/nodes/pve1/qemu/105/snapshot/../rollback"),
        (Post, "/nodes/pve1/qemu/105/snapshot/a%2Fb/rollback"),
        (Post, "/nodes/pve1/qemu/105/status/start?skiplock=1"),
        (Post, "/nodes/pve1/qemu/105/status/start#x"),
        (Post, "/nodes/pve1//qemu"),
        (Post, "nodes/pve1/qemu"),
        (Delete, "/nodes/pve1/qemu"),
        (Delete, "/nodes/pve1"),
        (Delete, "/cluster/config/nodes/pve1"),
        (Put, "/access/acl"),
        (Put, "/nodes/pve1/qemu/105"),
        (Post, ""),
    ] {
        assert!(!send(method, path), "{method:?} {path}");
    }
}

#[test]
fn parameters_are_encoded_and_stand_where_the_method_wants_them() {
    let params = BTreeMap::from([
        ("description".to_owned(), "a&b=c d\nü+".to_owned()),
        ("x".to_owned(), "1".to_owned()),
    ]);
    let of = |method| outgoing(&Write { method, path: "/p", params: &params, node: "pve1" });
    let form = "description=a%26b%3Dc%20d%0A%C3%BC%2B&x=1";
    let post = of(WriteMethod::Post);
    assert_eq!((post.call.query.as_str(), post.body.as_deref()), ("", Some(form)));
    let delete = of(WriteMethod::Delete);
    assert_eq!((delete.call.query, delete.body), (format!("?{form}"), None));
}
