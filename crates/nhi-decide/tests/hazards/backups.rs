//! Backups of which only traces are seen, because the token may not list them: a trace proves that there is one,
//! never that there is none, and a number may have been another guest's when it was made.

use crate::lab::{Faults, Truth, World, ct, guest, identity, offline, time, truth, vm};
use nhi_decide::observation::{GuestRef, Observation, Part};
use nhi_model::guest::{Backups, Guest};

fn newest(second: i64) -> Backups {
    Backups::Newest { at: time(second), storage: None }
}

/// A pass that sees of backups only these traces.
fn traces(truth: &Truth, second: i64, told: &[(GuestRef, Backups)]) -> Observation {
    let mut seen = truth.seen(time(second), &Faults::default());
    for sight in seen.nodes.values_mut().flat_map(|node| &mut node.guests) {
        let is_told = |(guest, _): &&(GuestRef, Backups)| {
            (guest.kind, guest.vmid) == (sight.guest.kind, sight.guest.vmid)
        };
        sight.read.remove(&Part::Backups);
        sight.guest.backups =
            told.iter().find(is_told).map_or(Backups::NotVisible, |(_, backups)| backups.clone());
    }
    seen
}

/// A world whose token never saw a list of backups.
fn blind(truth: &Truth) -> World {
    let mut world = World::default();
    world.see(&traces(truth, 0, &[]));
    world
}

#[test]
fn a_trace_only_ever_makes_a_backup_newer() {
    let truth = truth();
    let mut world = blind(&truth);
    assert_eq!(world.guest(vm(100)).backups, Backups::NotVisible);
    assert_eq!(world.see(&traces(&truth, 60, &[(vm(100), newest(-500))])).len(), 1);
    assert_eq!(world.guest(vm(100)).backups, newest(-500));
    assert_eq!(world.guest(vm(101)).backups, Backups::NotVisible);
    // The log was rotated, told again, or told less: none of this is news.
    for told in [newest(-500), newest(-900), Backups::NotVisible, Backups::None] {
        assert_eq!(world.see(&traces(&truth, 120, &[(vm(100), told.clone())])), [], "{told:?}");
    }
    assert_eq!(world.see(&traces(&truth, 180, &[(vm(100), newest(100))])).len(), 1);
    assert_eq!(world.guest(vm(100)).backups, newest(100));
    // The control: a list that is seen whole is believed when it tells less.
    let mut listed = truth.clone();
    listed.guest(vm(100)).backups = Backups::None;
    world.scan(&listed, 240, &Faults::default());
    assert_eq!(world.guest(vm(100)).backups, Backups::None);
    // And when it can be seen no longer nothing is claimed.
    world.see(&traces(&truth, 300, &[]));
    assert_eq!(world.guest(vm(100)).backups, Backups::NotVisible);
}

#[test]
fn what_was_seen_on_a_storage_stays_when_the_right_to_list_it_is_lost() {
    let mut truth = truth();
    let seen = Backups::Newest { at: time(-100), storage: Some("pbs".to_owned()) };
    truth.guest(vm(100)).backups = seen.clone();
    let mut world = World::of(&truth);
    // The task that made it began a moment before.
    assert_eq!(world.see(&traces(&truth, 60, &[(vm(100), newest(-102))])), []);
    assert_eq!(world.guest(vm(100)).backups, seen);
}

#[test]
fn a_trace_waits_for_the_configuration_that_tells_whose_it_is() {
    let truth = truth();
    let mut world = World::default();
    let told = [(vm(100), newest(-500))];
    let mut seen = traces(&truth, 0, &told);
    for sight in seen.nodes.values_mut().flat_map(|node| &mut node.guests) {
        sight.read.remove(&Part::Config);
    }
    world.see(&seen);
    assert_eq!(world.guest(vm(100)).backups, Backups::NotVisible);
    world.see(&traces(&truth, 60, &told));
    assert_eq!(world.guest(vm(100)).backups, newest(-500));
}

#[test]
fn a_backup_that_is_older_than_its_guest_is_another_guests() {
    let mut truth = truth();
    truth.guest(vm(100)).identity.created = Some(time(-300));
    let mut world = blind(&truth);
    world.see(&traces(&truth, 60, &[(vm(100), newest(-301)), (vm(101), newest(-301))]));
    assert_eq!(world.guest(vm(100)).backups, Backups::NotVisible);
    assert_eq!(world.guest(vm(101)).backups, newest(-301), "the control: nobody says when it was made");
    world.see(&traces(&truth, 120, &[(vm(100), newest(-300))]));
    assert_eq!(world.guest(vm(100)).backups, newest(-300));
}

/// Container 200 made again; its configuration does not say when.
fn successor() -> Guest {
    let mut new = guest(ct(200), "pve1", "dns");
    new.identity = identity(ct(200), "second");
    new
}

#[test]
fn a_number_used_again_does_not_inherit_a_backup() {
    let told = |second| [(ct(200), newest(second))];
    for sees_the_gap in [true, false] {
        let mut truth = truth();
        let mut world = blind(&truth);
        world.see(&traces(&truth, 60, &told(-500)));
        assert_eq!(world.guest(ct(200)).backups, newest(-500));
        assert_eq!(world.first_seen(ct(200)), None, "nobody looked before");
        if sees_the_gap {
            truth.guests.remove(&ct(200));
            world.scan(&truth, 120, &Faults::default());
            assert!(world.entry(ct(200)).is_none());
        }
        truth.guests.insert(ct(200), successor());
        // The log still tells the old one's, in this pass and in every later one, after a restart too.
        for second in [180, 240] {
            world.see(&traces(&truth, second, &told(-500)));
            assert_eq!(world.guest(ct(200)).backups, Backups::NotVisible);
            assert_eq!(world.first_seen(ct(200)), Some(time(180)));
        }
        assert_eq!(world.see(&traces(&truth, 300, &told(170))), [], "made before it came into sight");
        world.see(&traces(&truth, 360, &told(181)));
        assert_eq!(world.guest(ct(200)).backups, newest(181));
    }
}

#[test]
fn a_guest_that_was_out_of_sight_is_not_taken_for_a_new_one() {
    let truth = truth();
    let mut world = World::default();
    world.see(&truth.seen(time(0), &offline("pve2")));
    let back = traces(&truth, 60, &[(ct(201), newest(-500))]);
    world.see(&back);
    assert_eq!((world.guest(ct(201)).backups, world.first_seen(ct(201))), (newest(-500), None));
    // Nor is one of which a token could not tell before.
    let mut world = World::default();
    world.scan(&truth, 0, &Faults { blind: true, rights_told: true, ..Faults::default() });
    world.see(&back);
    assert_eq!((world.guest(ct(201)).backups, world.first_seen(ct(201))), (newest(-500), None));
}
