//! Storages and nodes as records.

use crate::lab::{CLUSTER, Faults, World, offline, time, truth};
use nhi_decide::observation::List;
use nhi_model::{key::Key, lab::Storage};

#[test]
fn a_shared_storage_is_a_record_on_each_node() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    for (name, node) in &mut seen.nodes {
        let mut storage = node.storages[0].clone();
        storage.storage = "nas".to_owned();
        storage.shared = true;
        storage.node = "somewhere".to_owned();
        storage.active = Some(name == "pve1");
        node.storages.push(storage.clone());
        node.storages.push(storage);
    }
    world.see(&seen);
    for (node, active) in [("pve1", true), ("pve2", false)] {
        let known = &world.known[&Key::storage(CLUSTER, node, "nas")];
        let storage: Storage = serde_json::from_value(known.record.clone()).unwrap();
        assert_eq!((storage.node.as_str(), storage.active), (node, Some(active)));
    }
}

#[test]
fn a_storage_goes_only_when_its_node_lists_all_storages_without_it() {
    let truth = truth();
    let key = Key::storage(CLUSTER, "pve1", "local");
    let without = |world: &mut World, change: &dyn Fn(&mut nhi_decide::observation::Observation)| {
        let mut seen = truth.seen(time(60), &Faults::default());
        let storages = &mut seen.nodes.get_mut("pve1").unwrap().storages;
        storages[0].storage = "other".to_owned();
        change(&mut seen);
        world.see(&seen);
        assert!(world.known[&key].stale.is_some(), "one pass is not enough");
        world.see(&seen);
        world.known.get(&key).map(|known| known.stale.is_some())
    };
    assert_eq!(without(&mut World::of(&truth), &|_| {}), None);
    let stale = Some(true);
    let blind = |seen: &mut nhi_decide::observation::Observation| {
        seen.rights.as_mut().unwrap().sees_all_storages = false;
    };
    assert_eq!(without(&mut World::of(&truth), &blind), stale);
    assert_eq!(without(&mut World::of(&truth), &|seen| seen.quorate = None), stale);
    let empty = |seen: &mut nhi_decide::observation::Observation| {
        seen.nodes.get_mut("pve1").unwrap().storages.clear();
    };
    assert_eq!(without(&mut World::of(&truth), &empty), stale);
    let broken = [("pve1".to_owned(), List::Storage)].into();
    let mut world = World::of(&truth);
    world.scan(&truth, 60, &Faults { broken, ..Faults::default() });
    assert!(world.known[&key].stale.is_some());
    world.scan(&truth, 120, &Faults::default());
    assert!(world.known[&key].stale.is_none());
    world.scan(&truth, 180, &offline("pve1"));
    assert!(world.known[&key].stale.is_some());
}

#[test]
fn an_empty_level_does_not_come_from_a_dead_node() {
    let truth = truth();
    let mut world = World::of(&truth);
    let level = |world: &World| world.known[&Key::node(CLUSTER, "pve1")].record["level"].clone();
    world.scan(&truth, 60, &offline("pve1"));
    assert_eq!(level(&world), "c");
    let mut seen = truth.seen(time(120), &Faults::default());
    seen.nodes.get_mut("pve1").unwrap().record.as_mut().unwrap().level = String::new();
    world.see(&seen);
    assert_eq!(level(&world), "", "an online node without a subscription has none");
}
