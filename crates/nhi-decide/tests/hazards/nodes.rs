//! Nodes that die, hang, come back, leave, and guests that move between them.

use crate::lab::{
    CLUSTER, Faults, Truth, World, ct, guest, is_retired, node_record, offline, time, truth, vm, whole,
};
use nhi_decide::observation::{GuestRef, NodeSight, Observation, Part, Scope};
use nhi_model::{
    guest::{AddressSource, GuestKind, GuestStatus},
    key::Key,
    lab::NodeStatus,
    source::Coverage,
};
use std::collections::BTreeSet;

#[test]
fn node_dies_its_guests_are_stale_never_stopped_renamed_or_gone() {
    let truth = truth();
    let mut world = World::of(&truth);
    let before = world.guest(vm(101));
    // For five minutes the index still says "running"; then "unknown" without a name. Neither counts.
    world.see(&Observation { index: truth.seen(time(60), &Faults::default()).index, ..dead(&truth, 60) });
    assert_eq!(world.guest(vm(101)), before);
    let first = world.entry(vm(101)).unwrap().clone();
    assert_eq!(first.stale.as_ref().unwrap().since, time(60));
    assert_eq!(world.why(ct(201)).unwrap(), "node pve2 does not answer (595)");
    assert_eq!(world.why(vm(100)), None, "the other node's guests are fresh");

    let later = world.see(&dead(&truth, 400));
    assert_eq!(later, [], "a dead node costs no further writes");
    assert_eq!(world.entry(vm(101)), Some(&first), "since stays");
    assert_eq!(world.alert_ids(), ["node-offline_home_pve2"]);
    assert_eq!(world.alerts()["node-offline_home_pve2"].since, time(60));
    let node: nhi_model::lab::Node =
        serde_json::from_value(world.known[&Key::node(CLUSTER, "pve2")].record.clone()).unwrap();
    assert_eq!((node.status, node.cpus, node.level.as_str()), (NodeStatus::Offline, Some(8), "c"));
    assert!(matches!(world.source().parts["pve2"], Coverage::Unseen { .. }));
    assert!(matches!(world.source().coverage, Coverage::Partial { .. }));

    world.scan(&truth, 500, &Faults::default());
    assert_eq!(world.why(vm(101)), None);
    assert_eq!(world.alert_ids(), [""; 0]);
    assert_eq!(world.source().coverage, Coverage::Complete);
}

fn dead(truth: &Truth, second: i64) -> Observation {
    truth.seen(time(second), &offline("pve2"))
}

#[test]
fn pvestatd_stuck_on_a_healthy_node_changes_nothing() {
    let truth = truth();
    let mut world = World::of(&truth);
    let stuck = Faults { stuck: true, ..Faults::default() };
    assert_eq!(world.scan(&truth, 60, &stuck), []);
}

#[test]
fn random_order_changes_nothing() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    seen.index.as_mut().unwrap().reverse();
    for node in seen.nodes.values_mut() {
        node.guests.reverse();
        for sight in &mut node.guests {
            sight.guest.tags.reverse();
            sight.guest.addresses.reverse();
        }
    }
    assert_eq!(world.see(&seen), []);
}

#[test]
fn one_failed_list_makes_only_its_guests_stale() {
    let truth = truth();
    let mut world = World::of(&truth);
    let broken = [("pve1".to_owned(), nhi_decide::observation::List::Qemu)].into();
    world.scan(&truth, 60, &Faults { broken, ..Faults::default() });
    assert_eq!(world.why(vm(100)).unwrap(), "a list of node pve1 failed");
    assert_eq!(world.why(ct(200)), None);
    assert_eq!(world.alert_ids(), ["node-unseen_home_pve1"]);
}

#[test]
fn first_scan_with_a_dead_node_shows_its_guests_as_unknown() {
    let truth = truth();
    let mut world = World::default();
    world.see(&dead(&truth, 0));
    let unseen = world.guest(vm(101));
    assert_eq!(
        (unseen.status, unseen.name.as_str(), unseen.node.as_str()),
        (GuestStatus::Unknown, "VM 101", "pve2")
    );
    assert_eq!((unseen.protection, unseen.tags.len()), (None, 2), "what is not known is not claimed");
    assert!(world.why(vm(101)).is_some());
    world.scan(&truth, 60, &Faults::default());
    assert_eq!(world.guest(vm(101)).name, "media");
}

#[test]
fn migration_changes_the_node() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(101)).node = "pve1".to_owned();
    let changes = world.scan(&truth, 60, &Faults::default());
    assert_eq!(changes.len(), 1);
    assert_eq!(world.guest(vm(101)).node, "pve1");
}

#[test]
fn high_availability_moves_a_guest_off_a_dead_node() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(101)).node = "pve1".to_owned();
    world.scan(&truth, 60, &offline("pve2"));
    assert_eq!((world.guest(vm(101)).node.as_str(), world.why(vm(101))), ("pve1", None));
    assert!(world.why(ct(201)).is_some());
}

#[test]
fn migration_mid_scan_seen_on_neither_node_retires_nothing() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    // pve1 was listed before it arrived, pve2 after it had left; pve2 rightly denies its configuration.
    let mut seen = truth.seen(time(60), &Faults::default());
    seen.nodes.get_mut("pve2").unwrap().guests.retain(|sight| sight.guest.vmid != 101);
    seen.index.as_mut().unwrap().iter_mut().find(|row| row.vmid == 101).unwrap().node = "pve1".to_owned();
    let gone = nhi_decide::observation::Gone { guest: vm(101), node: "pve2".to_owned() };
    seen.gone.insert(gone);
    assert!(!is_retired(&world.see(&seen)));
    assert_eq!(world.why(vm(101)).unwrap(), "the cluster knows it, but no node lists it");
    truth.guest(vm(101)).node = "pve1".to_owned();
    world.scan(&truth, 120, &Faults::default());
    assert_eq!((world.guest(vm(101)).node.as_str(), world.why(vm(101))), ("pve1", None));
}

#[test]
fn migration_mid_scan_seen_on_both_nodes_takes_where_it_arrived() {
    let truth = truth();
    for (lock, status, want) in [
        (Some("migrate"), GuestStatus::Running, "pve1"),
        (None, GuestStatus::Stopped, "pve1"),
        (None, GuestStatus::Running, "pve1"),
    ] {
        let mut world = World::of(&truth);
        let mut seen = truth.seen(time(60), &Faults::default());
        let left =
            seen.nodes.get_mut("pve2").unwrap().guests.iter_mut().find(|s| s.guest.vmid == 101).unwrap();
        left.guest.lock = lock.map(str::to_owned);
        left.guest.status = status;
        let mut arrived = whole(&truth.guests[&vm(101)]);
        arrived.guest.node = "pve1".to_owned();
        seen.nodes.get_mut("pve1").unwrap().guests.push(arrived);
        seen.index.as_mut().unwrap().iter_mut().find(|row| row.vmid == 101).unwrap().node = "pve1".to_owned();
        world.see(&seen);
        let guest = world.guest(vm(101));
        assert_eq!((guest.node.as_str(), guest.lock, guest.status), (want, None, GuestStatus::Running));
        assert_eq!(world.alert_ids(), [""; 0], "one guest seen twice is no alert");
    }
}

#[test]
fn standalone_host_has_no_quorum_and_needs_none() {
    let mut truth = truth();
    truth.nodes.remove("pve2");
    truth.guests.retain(|_, guest| guest.node == "pve1");
    let mut world = World::of(&truth);
    assert_eq!(world.alert_ids(), [""; 0]);
    truth.guests.remove(&ct(200));
    let changes = world.scan(&truth, 60, &Faults::default());
    assert_eq!((changes.len(), world.entry(ct(200))), (1, None), "quorate is Some(true) on a lone host");
}

#[test]
fn a_member_that_answers_as_a_single_host_retires_nothing() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let (media, nodes) = (world.guest(vm(101)), world.known.len());
    let alone = Faults { alone: Some("pve1".to_owned()), ..Faults::default() };
    for second in [60, 120, 180] {
        assert!(!is_retired(&world.scan(&truth, second, &alone)));
    }
    assert_eq!(world.alert_ids(), ["single-host_home"]);
    assert_eq!(world.known.len(), nodes + 1, "everything is there, and the alert");
    assert!(world.why(vm(101)).unwrap().contains("answers as a single host"), "{:?}", world.why(vm(101)));
    assert!(world.known[&Key::node(CLUSTER, "pve2")].stale.is_some());
    assert_eq!(world.why(vm(100)), None, "its own guests are seen");
    // It has a guest of its own under the number of one that it does not see.
    let mut split_off = truth.clone();
    split_off.guests.insert(vm(101), guest(vm(101), "pve1", "other"));
    world.scan(&split_off, 240, &alone);
    assert_eq!(world.guest(vm(101)), media);
    assert!(world.why(vm(101)).is_some());
    // A guest of its own that is gone may be one that moved to the other nodes.
    truth.guests.remove(&vm(100));
    assert!(!is_retired(&world.scan(&truth, 300, &alone)));
    world.scan(&truth, 360, &Faults::default());
    assert_eq!((world.why(vm(101)), world.alert_ids().len(), world.entry(vm(100))), (None, 0, None));
}

#[test]
fn a_node_leaves_with_its_guests_only_when_the_cluster_says_so() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let whole_lab = truth.clone();
    truth.nodes.remove("pve2");
    // Its directory is still there: the index names its guests.
    world.see(&Observation {
        index: whole_lab.seen(time(60), &offline("pve2")).index,
        ..truth.seen(time(60), &Faults::default())
    });
    assert_eq!(world.why(vm(101)).unwrap(), "the cluster no longer lists node pve2");
    assert!(world.known.contains_key(&Key::node(CLUSTER, "pve2")));
    truth.guests.retain(|_, guest| guest.node == "pve1");
    assert!(!is_retired(&world.scan(&truth, 120, &Faults::default())), "one answer is not enough");
    assert_eq!(world.why(vm(101)).unwrap(), "the cluster no longer lists node pve2, nor anything on it");
    // A pass that proves nothing does not count as the second.
    let split = Faults { split: true, ..Faults::default() };
    assert!(!is_retired(&world.scan(&truth, 130, &split)));
    world.scan(&truth, 140, &Faults::default());
    assert!(world.entry(vm(101)).is_some());
    world.scan(&truth, 180, &Faults::default());
    assert_eq!(world.entry(vm(101)), None);
    assert_eq!(world.known.keys().filter(|key| key.as_str().contains("pve2")).count(), 0);
}

#[test]
fn another_cluster_at_the_same_address_takes_nothing_away() {
    let before = truth();
    let mut world = World::of(&before);
    let node = "other".to_owned();
    let other =
        Truth { nodes: [node.clone()].into(), guests: [(vm(900), guest(vm(900), &node, "stranger"))].into() };
    for second in [60, 120] {
        let changes = world.scan(&other, second, &Faults::default());
        assert!(!is_retired(&changes));
    }
    assert_eq!(world.alert_ids(), ["other-cluster_home"]);
    assert!(world.why(vm(100)).is_some());
    assert_eq!(world.guest(ct(200)).name, "dns");
    assert_eq!(world.entry(vm(900)), None, "two clusters are not mixed under one name");
    world.scan(&before, 180, &Faults::default());
    assert_eq!((world.alert_ids().len(), world.why(vm(100))), (0, None));
}

#[test]
fn a_renamed_host_is_known_by_its_guests() {
    let mut truth = truth();
    truth.nodes.remove("pve2");
    truth.guests.retain(|_, guest| guest.node == "pve1");
    let mut world = World::of(&truth);
    truth.nodes = ["renamed".to_owned()].into();
    truth.guests.values_mut().for_each(|guest| guest.node = "renamed".to_owned());
    world.scan(&truth, 60, &Faults::default());
    assert_eq!((world.guest(vm(100)).node.as_str(), world.why(vm(100))), ("renamed", None));
    world.scan(&truth, 120, &Faults::default());
    assert!(!world.known.contains_key(&Key::node(CLUSTER, "pve1")));
    assert_eq!(world.alert_ids(), [""; 0]);
}

#[test]
fn a_targeted_pass_leaves_the_rest_alone() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(100)).status = GuestStatus::Stopped;
    truth.guest(vm(101)).status = GuestStatus::Stopped;
    let mut seen = truth.seen(time(60), &Faults::default());
    seen.scope = Scope::Only { nodes: BTreeSet::new(), guests: [vm(100)].into() };
    seen.nodes.retain(|node, _| node == "pve1");
    seen.nodes.get_mut("pve1").unwrap().guests.retain(|sight| sight.guest.vmid == 100);
    let changes = world.see(&seen);
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert_eq!(world.guest(vm(100)).status, GuestStatus::Stopped);
    assert_eq!(world.guest(vm(101)).status, GuestStatus::Running);

    // A node of a targeted pass that does not answer is told at once.
    let mut seen = truth.seen(time(70), &offline("pve2"));
    seen.scope = Scope::Only { nodes: ["pve2".to_owned()].into(), guests: BTreeSet::new() };
    seen.nodes.retain(|node, _| node == "pve2");
    world.see(&seen);
    assert_eq!(world.alert_ids(), ["node-offline_home_pve2"]);
    assert!(world.why(vm(101)).is_some());
    assert!(matches!(world.source().parts["pve2"], Coverage::Unseen { .. }));
    assert_eq!(world.source().parts["pve1"], Coverage::Complete);
}

#[test]
fn two_guests_with_one_number_are_an_alert() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    let twin = guest(ct(101), "pve1", "twin");
    seen.nodes.get_mut("pve1").unwrap().guests.push(whole(&twin));
    world.see(&seen);
    assert_eq!(world.alert_ids(), ["id-twice_home_101"]);
    world.scan(&truth, 120, &Faults::default());
    assert_eq!(world.alert_ids(), [""; 0]);
}

#[test]
fn a_node_that_nobody_asked_keeps_its_record() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    seen.nodes.get_mut("pve1").unwrap().record = None;
    assert_eq!(world.see(&seen), []);
    let silent = NodeSight {
        coverage: Coverage::Unseen { reason: "time-out".to_owned() },
        record: Some(nhi_model::lab::Node { status: NodeStatus::Unknown, ..node_record("pve1", true) }),
        lists: BTreeSet::new(),
        guests: Vec::new(),
        storages: Vec::new(),
    };
    seen.nodes.insert("pve1".to_owned(), silent);
    world.see(&seen);
    let known = &world.known[&Key::node(CLUSTER, "pve1")];
    assert_eq!((known.record["status"].as_str(), known.stale.is_some()), (Some("online"), true));
}

#[test]
fn a_configuration_alone_does_not_make_a_status_fresh() {
    let truth = truth();
    let mut world = World::of(&truth);
    world.scan(&truth, 60, &offline("pve2"));
    let mut seen = truth.seen(time(120), &offline("pve2"));
    let mut sight = whole(&truth.guests[&vm(101)]);
    sight.read = [Part::Config].into();
    sight.guest.status = GuestStatus::Unknown;
    sight.guest.protection = Some(true);
    seen.nodes.get_mut("pve2").unwrap().guests.push(sight);
    world.see(&seen);
    let guest = world.guest(vm(101));
    assert_eq!((guest.status, guest.protection), (GuestStatus::Running, Some(true)));
    assert_eq!(world.entry(vm(101)).unwrap().stale.as_ref().unwrap().since, time(60));
    // The same for a guest nobody knew.
    let unknown = GuestRef { kind: GuestKind::Qemu, vmid: 150 };
    let mut sight = whole(&guest_of(unknown));
    sight.read = [Part::Config].into();
    let mut seen = truth.seen(time(180), &Faults::default());
    seen.nodes.get_mut("pve1").unwrap().guests.push(sight);
    world.see(&seen);
    assert_eq!(world.guest(unknown).status, GuestStatus::Unknown);
    assert_eq!(world.guest(unknown).address_source, AddressSource::NotRead);
    assert_eq!(world.why(unknown).unwrap(), "its status was not read yet");
}

fn guest_of(id: GuestRef) -> nhi_model::guest::Guest {
    guest(id, "pve1", "new")
}
