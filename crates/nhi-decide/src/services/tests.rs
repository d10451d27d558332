//! The graph over small labs: what needs what, who carries what, and the order of stopping.

use super::*;
use crate::observe::Known;
use nhi_model::{guest::GuestKind, intent::GuestRef};
use serde_json::json;

fn guest(vmid: u32) -> Key {
    Key::guest(GuestKind::Lxc, "home", vmid)
}

fn known(guests: &[(u32, &str)], services: Value) -> BTreeMap<Key, Known> {
    let fresh = |record| Known { revision: 3, record, stale: None };
    let mut known: BTreeMap<Key, Known> = guests
        .iter()
        .map(|(vmid, name)| (guest(*vmid), fresh(json!({"cluster": "home", "name": name}))))
        .collect();
    known.insert(Key::graph(), fresh(json!({ "services": services })));
    known
}

#[test]
fn what_needs_a_guest_is_found_through_services_without_guests() {
    let known = known(
        &[(1, "DB"), (2, "web")],
        json!({"db": {"required_by": ["api"]}, "api": {}, "web": {"depends_on": ["api"]}, "other": {"depends_on": ["web"]}}),
    );
    let (roster, links, policy) = (Roster::new(&known), Links::of(&known), Policy::default());
    let services = Services::new(&links, &known, &policy);
    let found = services.dependents(&guest(1), &roster);
    let names: Vec<&str> = found.rows.iter().map(|dependent| dependent.service).collect();
    assert_eq!(names, ["api", "web", "other"]);
    assert_eq!(found.chain(&found.rows[1]).collect::<Vec<_>>(), ["api", "db"]);
    assert_eq!(found.rows[1].guests, [&guest(2)]);
    assert!(services.dependents(&guest(2), &roster).guests().next().is_none());
    assert_eq!(services.needed("web"), ["web", "api", "db"]);
    assert_eq!((services.find("WEB"), services.find("nosuch")), (Some("web"), None));
}

#[test]
fn policy_says_who_carries_a_service() {
    let known = known(&[(1, "a"), (2, "b"), (3, "dns")], json!({"dns": {}, "web": {"depends_on": ["dns"]}}));
    let mut policy = Policy::default();
    let carriers = ["1", "b"].map(|text| GuestRef::parse(text).unwrap());
    policy.services = [("dns".to_owned(), carriers.to_vec())].into();
    let (roster, links) = (Roster::new(&known), Links::of(&known));
    let services = Services::new(&links, &known, &policy);
    assert_eq!(services.carriers("dns", &roster), [&guest(1), &guest(2)]);
    assert_eq!(services.dependents(&guest(1), &roster).rows.len(), 1);
    assert_eq!(services.dependents(&guest(3), &roster).rows, []);
}

#[test]
fn guests_stop_before_what_they_need() {
    // Guest 1 carries the lowest and the highest service; the order holds through services without guests.
    let known = known(
        &[(1, "a"), (2, "b"), (3, "c"), (4, "free")],
        json!({"a": {"depends_on": ["x"]}, "x": {"depends_on": ["b"]}, "b": {"depends_on": ["c"]}, "c": {}}),
    );
    let (roster, links, policy) = (Roster::new(&known), Links::of(&known), Policy::default());
    let services = Services::new(&links, &known, &policy);
    let order = services.stop_order(&[1, 2, 3, 4].map(guest).into(), &roster);
    let at = |vmid| order.iter().position(|key| *key == guest(vmid)).unwrap();
    assert_eq!(order.len(), 4);
    assert!(at(1) < at(2) && at(2) < at(3));
}

#[test]
fn a_circle_between_guests_loses_nobody() {
    let known = known(&[(1, "a"), (2, "b")], json!({"a": {"depends_on": ["b"]}, "b": {"depends_on": ["a"]}}));
    let (roster, links, policy) = (Roster::new(&known), Links::of(&known), Policy::default());
    let services = Services::new(&links, &known, &policy);
    assert_eq!(services.stop_order(&[1, 2].map(guest).into(), &roster), [guest(1), guest(2)]);
    assert_eq!(services.dependents(&guest(1), &roster).rows.len(), 1);
}
