//! Rights that are lost, quorum that is lost, and answers that are not Proxmox's.

use crate::lab::{Faults, World, ct, is_retired, time, truth, vm};
use nhi_model::{alert::Severity, source::Coverage};

#[test]
fn rights_lost_silently_look_like_deletion_and_are_not() {
    let truth = truth();
    // Once the question for rights already tells it, once it does not yet (they were lost a moment later).
    for rights_told in [true, false] {
        let mut world = World::of(&truth);
        let blind = Faults { blind: true, rights_told, ..Faults::default() };
        let passes: &[i64] = if rights_told { &[60, 120, 180] } else { &[60] };
        for &second in passes {
            assert!(!is_retired(&world.scan(&truth, second, &blind)));
        }
        assert_eq!(world.guests().len(), 4);
        assert_eq!(world.entry(vm(100)).unwrap().stale.as_ref().unwrap().since, time(60));
        let told: &[&str] = if rights_told { &["rights-missing_home"] } else { &[] };
        assert_eq!(world.alert_ids(), told);
        assert_eq!(world.source().coverage.is_complete(), !rights_told);

        world.scan(&truth, 240, &Faults::default());
        assert_eq!(world.why(vm(100)), None);
        assert_eq!(world.alert_ids(), [""; 0]);
    }
}

#[test]
fn rights_that_come_back_do_not_prove_anything_at_once() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    world.scan(&truth, 60, &Faults { blind: true, rights_told: true, ..Faults::default() });
    truth.guests.remove(&vm(101));
    world.scan(&truth, 120, &Faults::default());
    assert!(world.entry(vm(101)).is_some(), "{:?}", world.why(vm(101)));
    world.scan(&truth, 180, &Faults::default());
    assert_eq!(world.entry(vm(101)), None, "the second pass with these rights may");
}

#[test]
fn missing_privileges_are_named() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    let rights = seen.rights.as_mut().unwrap();
    rights.missing.insert("Sys.Audit".to_owned(), "nodes' counters".to_owned());
    world.see(&seen);
    let alert = &world.alerts()["rights-missing_home"];
    assert_eq!(alert.severity, Severity::Warning);
    assert!(alert.summary.contains("Sys.Audit"), "{}", alert.summary);
    assert_eq!(world.source().missing_rights["Sys.Audit"], "nodes' counters");
}

#[test]
fn html_from_a_proxy_makes_everything_stale_and_nothing_else() {
    let truth = truth();
    let mut world = World::of(&truth);
    let before = world.guests().into_values().collect::<Vec<_>>();
    let html = Faults { html: true, ..Faults::default() };
    world.scan(&truth, 60, &html);
    assert_eq!(world.guests().into_values().collect::<Vec<_>>(), before);
    assert_eq!(world.why(ct(200)).unwrap(), "the answer is HTML, not Proxmox");
    assert!(matches!(world.source().coverage, Coverage::Unseen { .. }));
    assert_eq!(world.alert_ids(), ["unreachable_home"]);
    assert_eq!(world.scan(&truth, 120, &html), []);
    world.scan(&truth, 180, &Faults::default());
    assert_eq!((world.why(ct(200)), world.alert_ids().len()), (None, 0));
}

#[test]
fn quorum_lost_retires_nothing() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let removed = truth.guests.remove(&vm(101)).unwrap();
    let split = Faults { split: true, ..Faults::default() };
    assert!(!is_retired(&world.scan(&truth, 60, &split)));
    assert_eq!(world.alert_ids(), ["quorum-lost_home"]);
    assert!(world.why(vm(101)).unwrap().contains("quorum"));
    truth.guests.insert(vm(101), removed);
    world.scan(&truth, 120, &Faults::default());
    assert_eq!((world.why(vm(101)), world.alert_ids().len()), (None, 0));
}

#[test]
fn alerts_of_others_are_left_alone() {
    let truth = truth();
    let mut world = World::of(&truth);
    let mut other = truth.seen(time(0), &crate::lab::offline("pve2"));
    other.cluster = "home_x".to_owned();
    world.see(&other);
    assert_eq!(world.alert_ids(), ["node-offline_home_x_pve2"]);
    assert_eq!(world.scan(&truth, 60, &Faults::default()), []);
    assert_eq!(world.alert_ids(), ["node-offline_home_x_pve2"]);
}
