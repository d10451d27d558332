//! Certificates that were renewed: the settings still name the one before, and the pinned authority signed the new.

use crate::lab::{Faults, World, time, truth};
use nhi_decide::{
    change::Change,
    observation::{CertificateSight, Scope},
};
use std::collections::BTreeMap;

fn see(world: &mut World, second: i64, certificates: &[(&str, CertificateSight)]) -> Vec<Change> {
    let mut seen = truth().seen(time(second), &Faults::default());
    seen.certificates = certificates.iter().map(|(at, sight)| ((*at).to_owned(), sight.clone())).collect();
    world.see(&seen)
}

fn rotated(print: &str) -> CertificateSight {
    CertificateSight::Rotated { fingerprint: print.to_owned() }
}

const FIRST: &str = "https://pve1.test:8006";
const SECOND: &str = "https://pve2.test:8006";

#[test]
fn a_rotated_certificate_is_a_fact_until_the_settings_follow() {
    let mut world = World::default();
    see(&mut world, 0, &[(FIRST, CertificateSight::AsSet), (SECOND, CertificateSight::NotSeen)]);
    assert!(world.source().rotated.is_empty() && world.alert_ids().is_empty());
    let both = [(FIRST, rotated("AB:CD")), (SECOND, CertificateSight::NotSeen)];
    assert_eq!(see(&mut world, 60, &both).len(), 2, "the record and the alert");
    assert_eq!(world.source().rotated, BTreeMap::from([(FIRST.to_owned(), "AB:CD".to_owned())]));
    let alerts = world.alerts();
    let summary = &alerts["certificate-rotated_home"].summary;
    assert!(summary.contains("https://pve1.test:8006 shows AB:CD"), "{summary}");
    assert_eq!(see(&mut world, 120, &both), [], "it stays as it is");

    // A scanner that has just started has not connected to it.
    let unseen = [(FIRST, CertificateSight::NotSeen), (SECOND, CertificateSight::NotSeen)];
    assert_eq!(see(&mut world, 180, &unseen), []);
    // The settings follow; the second address may never be asked.
    see(&mut world, 240, &[(FIRST, CertificateSight::AsSet), (SECOND, CertificateSight::NotSeen)]);
    assert_eq!((world.source().rotated.len(), world.alert_ids().len()), (0, 0));
}

#[test]
fn an_address_that_left_the_settings_is_forgotten() {
    let mut world = World::default();
    see(&mut world, 0, &[(FIRST, rotated("AB:CD"))]);
    assert_eq!(world.source().rotated.len(), 1);
    see(&mut world, 60, &[(SECOND, CertificateSight::AsSet)]);
    assert_eq!((world.source().rotated.len(), world.alert_ids().len()), (0, 0));
}

#[test]
fn a_pass_of_narrow_scope_tells_it_as_well() {
    let mut world = World::default();
    see(&mut world, 0, &[(FIRST, CertificateSight::AsSet)]);
    let mut seen = truth().seen(time(60), &Faults::default());
    seen.scope = Scope::Only { nodes: ["pve1".to_owned()].into(), guests: [].into() };
    seen.certificates = BTreeMap::from([(FIRST.to_owned(), rotated("AB:CD"))]);
    world.see(&seen);
    assert_eq!((world.source().rotated.len(), world.alert_ids().len()), (1, 1));
}
