//! Answers about the whole cluster.

use super::{ClusterResources, ClusterStatus, HaResource, HaStatus, NotBackedUp, Permissions, Version};
use crate::{
    guest::GuestKind,
    rows::{Unknown, many, one},
};
use serde_json::{Value, json};

fn status(data: Value) -> ClusterStatus {
    ClusterStatus::read(data, &mut Unknown::default()).unwrap()
}

#[test]
fn a_stand_alone_host_is_quorate() {
    let status =
        status(json!([{"type": "node", "id": "node/pve", "name": "pve", "ip": "192.0.2.7", "local": 1,
        "nodeid": 0, "online": 1, "level": ""}]));
    assert_eq!((status.quorate(), status.local()), (Some(true), Some("pve")));
    assert!(status.cluster.is_none() && status.nodes.rows[0].rest.is_empty());
}

#[test]
fn quorum_is_what_the_cluster_says_in_any_type() {
    for (said, expected) in [
        (json!(1), Some(true)),
        (json!("1"), Some(true)),
        (json!(true), Some(true)),
        (json!(0), Some(false)),
        (json!("0"), Some(false)),
        (json!(false), Some(false)),
        (json!(null), None),
        (json!([]), None),
    ] {
        let status =
            status(json!([{"type": "cluster", "name": "home", "quorate": said, "nodes": "3", "version": 4}]));
        assert_eq!(status.quorate(), expected, "{said}");
    }
    assert_eq!(status(json!([{"type": "cluster", "name": "home"}])).quorate(), None);
}

#[test]
fn a_status_row_of_a_new_kind_is_counted() {
    let status =
        status(json!([{"type": "node", "name": "a", "online": "0"}, {"type": "qdevice", "name": "q"}, 5]));
    assert_eq!((status.nodes.rows.len(), status.nodes.unreadable), (1, 2));
    assert_eq!(status.nodes.rows[0].online, Some(false));
    assert!(ClusterStatus::read(json!({}), &mut Unknown::default()).is_err());
}

#[test]
fn resources_are_sorted_by_kind_and_unknown_kinds_are_counted() {
    let data = json!([
        {"type": "node", "id": "node/a", "node": "a", "status": "online", "maxcpu": "8", "new": 2},
        {"type": "storage", "id": "storage/a/local", "node": "a", "storage": "local", "content": "iso,backup",
         "plugintype": "dir", "shared": 0, "status": "available", "maxdisk": "100"},
        {"type": "pool", "id": "/pool/lab", "pool": "lab"},
        {"type": "qemu", "id": "qemu/100", "node": "a", "vmid": 100},
        {"type": "sdn", "id": "sdn/a/x"}, {"type": "network", "id": "network/a"}, {"type": "new"},
        {"type": "storage", "id": "storage/a/x"}, {"type": "pool"}, {"id": "x"}, [], null,
    ]);
    let mut unknown = Unknown::default();
    let read = ClusterResources::read(data, &mut unknown).unwrap();
    assert_eq!((read.guests.len(), read.nodes.len(), read.storages.len()), (1, 1, 1));
    assert_eq!((read.pools, read.others, read.unreadable), (vec!["lab".to_owned()], 3, 5));
    assert_eq!(unknown.names().keys().collect::<Vec<_>>(), ["node.new"]);
    assert_eq!(read.storages[0].content.iter().collect::<Vec<_>>(), ["backup", "iso"]);
}

#[test]
fn no_list_is_not_an_empty_one() {
    for data in [json!(null), json!({}), json!("[]"), json!(0)] {
        assert!(ClusterResources::read(data.clone(), &mut Unknown::default()).is_err(), "{data}");
        assert!(HaStatus::read(data, &mut Unknown::default()).is_err());
    }
    assert!(Permissions::read(json!(null)).is_err());
    assert!(Permissions::read(json!([1])).is_err());
    assert_eq!(Permissions::read(json!([])), Ok(Permissions::default()));
}

#[test]
fn rights_spread_down_and_deeper_ones_replace() {
    let rights = Permissions::read(json!({
        "/": {"Sys.Audit": 1, "VM.Audit": "1"},
        "/vms": {"VM.Audit": true, "VM.Backup": 0},
        "/vms/101": {"VM.PowerMgmt": 1},
        "/storage": {},
        "/odd": 5,
    }))
    .unwrap();
    let cases = [
        ("/", "Sys.Audit", true),
        ("/nodes/pve1", "Sys.Audit", true),
        ("/vms", "VM.Backup", true),
        ("/vms/100", "VM.Audit", true),
        ("/vms/100", "VM.Backup", false),
        ("/vms/101", "VM.Audit", false),
        ("/vms/101", "VM.PowerMgmt", true),
        ("/storage/local", "VM.Audit", false),
        ("/odd", "Sys.Audit", false),
        ("/vmsx", "Sys.Audit", true),
        ("", "Sys.Audit", false),
        ("vms", "Sys.Audit", false),
    ];
    for (path, privilege, expected) in cases {
        assert_eq!(rights.allows(path, privilege), expected, "{path} {privilege}");
    }
    assert!(!Permissions::default().allows("/", "Sys.Audit"));
}

#[test]
fn ha_rows() {
    let data = json!([
        {"id": "quorum", "type": "quorum", "quorate": "1", "node": "a", "status": "OK"},
        {"id": "master", "type": "master", "node": "b", "status": "b (active)"},
        {"id": "lrm:a", "type": "lrm", "node": "a", "status": "a (idle)"},
        {"id": "service:vm:100", "type": "service", "sid": "vm:100", "node": "a", "state": "started"},
        {"id": "service:ct:101", "type": "service", "node": "a", "state": "error"},
        {"type": "service"}, {"id": "x"},
    ]);
    let read = HaStatus::read(data, &mut Unknown::default()).unwrap();
    assert_eq!((read.quorate, read.master.as_deref(), read.unreadable), (Some(true), Some("b"), 2));
    let guests: Vec<_> = read.services.iter().map(super::HaService::guest).collect();
    assert_eq!(guests, [Some((GuestKind::Qemu, 100)), Some((GuestKind::Lxc, 101))]);
    let rows = json!([{"sid": "vm:x", "state": "started", "group": "g", "max_restart": "3"}]);
    let resources = many::<HaResource>(rows, &mut Unknown::default()).unwrap();
    assert_eq!((resources.rows[0].guest(), resources.rows[0].max_restart), (None, Some(3)));
}

#[test]
fn versions_and_guests_without_a_backup_job() {
    let mut unknown = Unknown::default();
    for (said, major) in
        [(json!("9.1.1"), Some(9)), (json!(9), Some(9)), (json!("8.4-1"), Some(8)), (json!("x"), None)]
    {
        let version: Version = one(json!({ "version": said }), &mut unknown).unwrap();
        assert_eq!(version.major(), major);
    }
    assert!(one::<Version>(json!({"release": "9.1"}), &mut unknown).is_err());
    let rows =
        json!([{"vmid": "100", "type": "qemu"}, {"vmid": 101, "type": "lxc", "name": "dns"}, {"vmid": 102}]);
    let read = many::<NotBackedUp>(rows, &mut unknown).unwrap();
    assert_eq!((read.rows.len(), read.unreadable), (2, 1));
}
