//! A cluster leaves the configuration and comes back.

use super::*;
use crate::change::What;
use nhi_model::guest::GuestKind;
use serde_json::{Value, json};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn known(records: impl IntoIterator<Item = (Key, Value)>) -> BTreeMap<Key, Known> {
    records.into_iter().map(|(key, record)| (key, Known { revision: 7, record, stale: None })).collect()
}

fn home() -> BTreeMap<Key, Known> {
    let source =
        json!({"kind": "proxmox", "place": "https://pve1.test:8006", "coverage": {"kind": "complete"}});
    let about = json!({"severity": "critical", "summary": "node pve1 is offline", "hint": "Start it.",
        "since": at(0), "about": "node.old.pve1"});
    known([
        (Key::source("proxmox-old"), source.clone()),
        (Key::source("proxmox-old2"), source),
        (Key::source("projects"), json!({})),
        (Key::node("old", "pve1"), json!({"node": "pve1"})),
        (Key::guest(GuestKind::Qemu, "old", 100), json!({"vmid": 100})),
        (Key::guest(GuestKind::Lxc, "old2", 200), json!({"vmid": 200})),
        (Key::host("gaming-pc"), json!({})),
        (Key::alert("scan", "node-offline_old_pve1"), about.clone()),
        (Key::alert("mirror", "files"), about),
    ])
}

fn apply(known: &mut BTreeMap<Key, Known>, changes: Vec<Change>) {
    for change in changes {
        match change.what {
            What::Put { record, stale } => {
                known.insert(change.key, Known { revision: 8, record, stale });
            }
            What::Retire => drop(known.remove(&change.key)),
        }
    }
}

#[test]
fn what_nobody_looks_at_is_not_current() {
    let mut known = home();
    let first = changes(&known, &BTreeSet::from(["old2".to_owned()]), at(1));
    let keys: Vec<_> = first.iter().map(|change| change.key.to_string()).collect();
    assert_eq!(
        keys,
        [
            "alert.scan.node-offline_old_pve1",
            "alert.scan.unconfigured_old",
            "node.old.pve1",
            "source.proxmox-old",
            "vm.old.100"
        ]
    );
    apply(&mut known, first);
    let guest = &known[&Key::guest(GuestKind::Qemu, "old", 100)];
    let stale = guest.stale.as_ref().unwrap();
    assert_eq!((stale.reason.as_str(), stale.since), ("cluster old is no longer configured", at(1)));
    let source: Source = known[&Key::source("proxmox-old")].typed().unwrap();
    assert!(matches!(source.coverage, Coverage::Unseen { reason } if reason == stale.reason));
    assert!(known.contains_key(&Key::alert("mirror", "files")));

    let second = changes(&known, &BTreeSet::from(["old2".to_owned()]), at(2));
    assert_eq!(second, [], "a second start writes nothing");
}

#[test]
fn a_cluster_that_is_configured_again_is_left_to_its_scan() {
    let mut known = home();
    let none = changes(&known, &BTreeSet::new(), at(1));
    apply(&mut known, none);
    let both = BTreeSet::from(["old".to_owned(), "old2".to_owned()]);
    let back = changes(&known, &both, at(2));
    assert!(back.iter().all(|change| change.what == What::Retire), "{back:?}");
    apply(&mut known, back);
    assert!(!known.keys().any(is_ours));
    assert_eq!(changes(&known, &both, at(3)), []);
}
