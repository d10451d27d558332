//! Records that change one by one answer as if everything had been found out anew.

use super::*;
use crate::plan::{Needs, Prepared};
use nhi_model::{
    intent::{GuestRef, Intent},
    policy::Policy,
    refusal::Refusal,
};
use serde_json::{Value, json};

fn known(revision: u64, record: Value) -> Known {
    Known { revision, record, stale: None }
}

fn guest(name: &str, status: &str) -> Value {
    json!({ "cluster": "home", "name": name, "status": status })
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// What is asked of every state.
fn wishes() -> Vec<Intent> {
    let shutdown = |guest: &str| Intent::Shutdown {
        guest: GuestRef::parse(guest).unwrap(),
        with_dependents: true,
        timeout_s: None,
    };
    let guests = ["db", "web", "api", "name:101", "home/104", "other/101"].map(shutdown);
    let services = ["db", "web", "dns"].map(|service| Intent::ServiceUp { service: service.to_owned() });
    guests.into_iter().chain(services).collect()
}

fn answers<'a>(prepared: &'a Prepared<'a>) -> Vec<Result<Needs, Refusal>> {
    wishes().iter().map(|wish| prepared.needs(wish, None)).collect()
}

#[test]
fn what_was_found_out_about_other_records_is_never_asked() {
    let graph = |services: Value| known(9, json!({ "services": services }));
    let mut records = Records::default();
    let services = [("DNS".to_owned(), vec![GuestRef::parse("web").unwrap()])].into();
    let policy = Policy { services, ..Policy::default() };
    let mut seen = Vec::new();
    for (at, what) in [
        ("vm.home.101", Some(known(1, guest("db", "running")))),
        ("vm.home.102", Some(known(2, guest("web", "running")))),
        ("graph", Some(graph(json!({ "web": { "depends_on": ["db"] } })))),
        // Another is named so, then so is the first, then neither.
        ("lxc.home.103", Some(known(3, guest("DB", "running")))),
        ("vm.home.101", Some(known(4, guest("api", "running")))),
        ("lxc.home.103", Some(known(5, guest("", "running")))),
        ("vm.home.101", Some(known(6, guest("db", "stopped")))),
        ("vm.home.104", Some(known(7, guest("api", "running")))),
        ("graph", Some(graph(json!({ "web": { "depends_on": ["api"] }, "api": { "depends_on": ["db"] } })))),
        ("graph", Some(graph(json!({ "dns": { "required_by": ["web"] } })))),
        ("vm.other.101", Some(known(8, guest("db", "running")))),
        ("vm.home.102", None),
        ("graph", None),
        ("vm.other.101", None),
    ] {
        match what {
            Some(record) => records.put(key(at), record),
            None => records.remove(&key(at)),
        }
        for policy in [&Policy::default(), &policy] {
            let anew = answers(&Prepared::new(&records, policy));
            assert_eq!(answers(&Prepared::of(&records, policy)), anew, "after {at}");
            seen.push(anew);
        }
    }
    // A step that changes no answer proves nothing.
    let changes = seen.windows(3).filter(|states| states[0] != states[2]).count();
    assert_eq!(changes, seen.len() - 2);
}

#[test]
fn what_did_not_change_is_not_found_out_again() {
    let mut records = Records::default();
    records.put(key("vm.home.101"), known(1, guest("db", "running")));
    records.put(Key::graph(), known(2, json!({ "services": { "web": { "depends_on": ["db"] } } })));
    let policy = Policy::default();
    drop(answers(&Prepared::of(&records, &policy)));
    records.put(key("vm.home.101"), known(3, guest("db", "stopped")));
    records.put(key("node.home.pve1"), known(4, json!({ "name": "db" })));
    assert!(records.guests.get().is_some() && records.links.get().is_some());
    records.put(key("vm.home.101"), known(5, guest("dbs", "stopped")));
    assert!(records.guests.get().is_none() && records.links.get().is_some());
}
