//! Answers about one guest and one task, odd ones among them.

use super::*;
use serde_json::json;

#[test]
fn a_check_of_a_migration_is_read_in_both_spellings() {
    let machine = MigrateCheck::of(json!({
        "running": 0, "allowed_nodes": ["pve2"],
        "not_allowed_nodes": {"pve3": {"unavailable_storages": ["a", "b"], "blocking-ha-resources": [{"sid": "vm:1", "cause": "x"}]}},
        "local_disks": [{"volid": "local-lvm:vm-1-disk-0", "size": 1}], "local_resources": ["usb0"],
    }))
    .unwrap();
    assert_eq!(machine.allowed, Some(BTreeSet::from(["pve2".to_owned()])));
    assert_eq!(machine.refused["pve3"], "blocking ha resources: vm:1; unavailable storages: a, b");
    assert_eq!((machine.local_disks.len(), machine.local_resources.len()), (1, 1));
    let container =
        MigrateCheck::of(json!({"running": true, "allowed-nodes": [], "not-allowed-nodes": {"a": 1}}));
    let container = container.unwrap();
    assert_eq!((container.running, container.allowed), (true, Some(BTreeSet::new())));
    assert!(container.refused.contains_key("a"));
    assert_eq!(MigrateCheck::of(json!({"running": 1})).unwrap().allowed, None);
    assert!(MigrateCheck::of(json!(null)).is_err());
}

#[test]
fn a_task_that_says_nothing_readable_is_not_ended() {
    let of = |value| TaskNow::of(value).ok();
    assert_eq!(of(json!({"status": "running"})), Some(TaskNow::Running));
    assert_eq!(of(json!({"status": "stopped", "exitstatus": "OK"})), Some(TaskNow::Ended("OK".to_owned())));
    assert_eq!(of(json!({"status": "stopped"})), Some(TaskNow::Ended(String::new())));
    for odd in [json!(null), json!({}), json!({"status": "?"}), json!([]), json!("OK")] {
        assert_eq!(of(odd.clone()), None, "{odd}");
    }
}
