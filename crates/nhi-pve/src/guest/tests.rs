//! Guests as lists tell them, odd types among them.

use super::{GuestKind, GuestResource, GuestStatus, Interface, LxcRow, NodeGuest, QemuRow, Snapshot};
use crate::rows::{Unknown, many};
use serde_json::{Value, json};

fn guests(rows: Value) -> (Vec<NodeGuest>, usize, Unknown) {
    let mut unknown = Unknown::default();
    let read = many::<QemuRow>(rows, &mut unknown).unwrap();
    (read.rows.into_iter().map(|row| row.0).collect(), read.unreadable, unknown)
}

#[test]
fn a_row_with_every_number_as_text_equals_one_with_numbers() {
    let numbers = json!([{"vmid": 103, "name": "a", "status": "running", "cpus": 2, "maxmem": 2147483648_u64,
        "mem": 1e9, "template": 1, "pid": 4242, "lock": "backup", "tags": "x;y", "uptime": 7, "cpu": 0.25}]);
    let texts = json!([{"vmid": "103", "name": "a", "status": "running", "cpus": "2", "maxmem": "2147483648",
        "mem": "1000000000", "template": "1", "pid": "4242", "lock": "backup", "tags": "x,y", "uptime": "7",
        "cpu": "0.25"}]);
    assert_eq!(guests(numbers).0, guests(texts).0);
}

#[test]
fn nothing_and_empty_are_the_same() {
    let absent = json!([{"vmid": 1}]);
    let empty =
        json!([{"vmid": 1, "name": "", "lock": "", "tags": "", "template": "", "pid": null, "disk": null}]);
    let (rows, unreadable, unknown) = guests(empty);
    assert_eq!(rows, guests(absent).0);
    assert_eq!((unreadable, unknown.names().len()), (0, 0));
    assert_eq!(rows[0].status, GuestStatus::Unknown);
    assert!(!rows[0].template);
}

#[test]
fn a_row_without_an_id_is_counted_and_hides_no_other() {
    let (rows, unreadable, _) =
        guests(json!([{"name": "a"}, 7, null, {"vmid": -1}, {"vmid": 1e308}, {"vmid": 2}]));
    assert_eq!((rows.len(), rows[0].vmid, unreadable), (1, 2, 5));
    assert!(many::<QemuRow>(json!({}), &mut Unknown::default()).is_err());
    assert!(many::<QemuRow>(json!(null), &mut Unknown::default()).is_err(), "no list is not an empty list");
}

#[test]
fn unknown_and_unreadable_fields_are_kept_and_counted() {
    let (rows, _, unknown) = guests(json!([{"vmid": 1, "new": [1]}, {"vmid": 2, "new": {}, "mem": "much"}]));
    assert_eq!(Value::Object(rows[1].rest.clone()), json!({"new": {}, "mem": "much"}));
    let counted: Vec<(&str, u64)> =
        unknown.names().iter().map(|(name, seen)| (name.as_str(), *seen)).collect();
    assert_eq!(counted, [("qemu.mem", 1), ("qemu.new", 2)]);
}

#[test]
fn the_count_of_unknown_fields_is_bounded() {
    let row: serde_json::Map<String, Value> =
        (0..10_000).map(|at| (format!("{at}{}", "x".repeat(100)), json!(1))).collect();
    let mut row = Value::Object(row);
    row["vmid"] = json!(1);
    let (_, _, unknown) = guests(json!([row.clone(), row]));
    assert_eq!(unknown.names().len(), 256);
    assert!(unknown.names().iter().all(|(name, seen)| name.len() < 80 && *seen == 2));
}

#[test]
fn names_are_passed_on_as_they_are() {
    let long = "n".repeat(4096);
    for name in ["a\u{0}b\u{1b}[31m\r\n", "\u{1f4a9}\u{202e}live", &long, "-1", "current"] {
        assert_eq!(guests(json!([{"vmid": 1, "name": name}])).0[0].name.as_deref(), Some(name));
    }
    assert_eq!(guests(json!([{"vmid": 1, "name": 100}])).0[0].name.as_deref(), Some("100"));
}

#[test]
fn qmpstatus_is_apart_from_status() {
    let (rows, ..) = guests(json!([
        {"vmid": 1, "status": "running", "qmpstatus": "paused"},
        {"vmid": 2, "status": "running", "qmpstatus": "prelaunch"},
        {"vmid": 3, "status": "stopped"},
    ]));
    assert_eq!((&rows[0].status, &rows[0].qmpstatus), (&GuestStatus::Running, &Some(GuestStatus::Paused)));
    assert_eq!(rows[1].qmpstatus, Some(GuestStatus::Other("prelaunch".to_owned())));
    assert_eq!((&rows[2].status, &rows[2].qmpstatus), (&GuestStatus::Stopped, &None));
}

#[test]
fn pressure_is_read_in_both_forms() {
    let (rows, _, unknown) = guests(json!([
        {"vmid": 1, "pressurecpusome": 0.5, "pressureiofull": "0"},
        {"vmid": 2, "pressure": {"cpu": {"some": 0.5, "full": 0}}},
    ]));
    assert_eq!(rows[0].usage.pressure.keys().collect::<Vec<_>>(), ["pressurecpusome", "pressureiofull"]);
    assert_eq!(rows[1].usage.pressure.get("pressurecpusome"), Some(&0.5));
    assert!(unknown.names().is_empty(), "{unknown:?}");
}

#[test]
fn containers_are_containers() {
    let read = many::<LxcRow>(
        json!([{"vmid": "101", "type": "lxc", "swap": 0, "maxswap": 1}]),
        &mut Unknown::default(),
    );
    let guest = &read.unwrap().rows[0].0;
    assert_eq!((guest.kind, guest.vmid, guest.usage.maxswap), (GuestKind::Lxc, 101, Some(1)));
}

#[test]
fn a_resource_of_a_dead_node_has_only_what_its_configuration_tells() {
    let mut unknown = Unknown::default();
    let rows = json!([
        {"id": "qemu/100", "type": "qemu", "node": "pve2", "status": "unknown", "tags": "nas", "lock": "backup",
         "pool": "lab", "vmid": 100},
        {"id": "lxc/101", "type": "openvz", "node": "pve2", "status": "running", "name": "dns", "hastate": "started"},
        {"id": "qemu/x", "type": "qemu", "node": "pve2"},
        {"id": "qemu/102", "type": "qemu"},
    ]);
    let read = many::<GuestResource>(rows, &mut unknown).unwrap();
    let [dead, alive] = &read.rows[..] else { panic!("{read:?}") };
    assert_eq!(
        (dead.vmid, &dead.status, &dead.name, dead.template),
        (100, &GuestStatus::Unknown, &None, None)
    );
    assert_eq!(
        (dead.lock.as_deref(), dead.pool.as_deref(), dead.tags.len()),
        (Some("backup"), Some("lab"), 1)
    );
    assert_eq!((alive.kind, alive.vmid, alive.hastate.as_deref()), (GuestKind::Lxc, 101, Some("started")));
    assert_eq!(read.unreadable, 2);
}

#[test]
fn interfaces_of_agent_and_container_look_the_same() {
    let agent = json!([{"name": "eth0", "hardware-address": "BC:24:11:00:00:01", "statistics": {"rx-bytes": 1},
        "ip-addresses": [
            {"ip-address": "192.0.2.4", "ip-address-type": "ipv4", "prefix": 24},
            {"ip-address": "2001:db8::4", "ip-address-type": "ipv6", "prefix": "64"}]}]);
    let older = json!([{"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "inet": "192.0.2.4/24", "inet6": "2001:db8::4/64"}]);
    let newer = json!([{"name": "eth0", "hwaddr": "bc:24:11:00:00:01", "hardware-address": "bc:24:11:00:00:01",
        "inet": "192.0.2.4/24", "ip-addresses": [
            {"ip-address": "192.0.2.4", "ip-address-type": "inet", "prefix": 24},
            {"ip-address": "2001:db8::4", "ip-address-type": "inet6", "prefix": 64}]}]);
    let read = |rows| many::<Interface>(rows, &mut Unknown::default()).unwrap();
    assert_eq!(read(agent.clone()), read(older));
    assert_eq!(read(agent), read(newer));
}

#[test]
fn addresses_that_are_none_are_left_out() {
    let rows = json!([{"name": "x", "ip-addresses": [
        {"ip-address": "fe80::1%12", "prefix": 64}, {"ip-address": "192.0.2.4", "prefix": 99},
        {"ip-address": "dhcp"}, {"prefix": 1}, 5, {"ip-address": "999.1.1.1"}]},
        {"name": "lo", "ip-addresses": null}, {"ip-addresses": []}]);
    let read = many::<Interface>(rows, &mut Unknown::default()).unwrap();
    let addresses: Vec<String> =
        read.rows[0].addresses.iter().map(|found| format!("{} {:?}", found.address, found.prefix)).collect();
    assert_eq!(addresses, ["192.0.2.4 None", "fe80::1 Some(64)"]);
    assert_eq!((read.rows.len(), read.unreadable), (2, 1));
}

#[test]
fn snapshots() {
    let rows = json!([{"name": "before", "snaptime": "1718000000", "vmstate": "1", "description": "x\n", "parent": ""}]);
    let read = many::<Snapshot>(rows, &mut Unknown::default()).unwrap();
    let snapshot = &read.rows[0];
    assert_eq!((snapshot.snaptime, snapshot.vmstate, &snapshot.parent), (Some(1_718_000_000), true, &None));
}
