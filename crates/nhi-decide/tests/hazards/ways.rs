//! Ways to a cluster that are not quite what the settings say: a certificate that was renewed, an address that the
//! cluster told.

use crate::lab::{Faults, World, time, truth};
use nhi_decide::{
    change::Change,
    observation::{CertificateSight, Detour, Scope},
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

#[test]
fn a_detour_is_told_as_long_as_it_is_taken() {
    let mut world = World::of(&truth());
    let mut seen = truth().seen(time(60), &Faults::default());
    seen.detour = Some(Detour { address: "https://192.0.2.2:8006".to_owned(), node: "pve2".to_owned() });
    assert_eq!(world.see(&seen).len(), 1, "the lab is as it was");
    let summary = &world.alerts()["detour_home"].summary;
    assert!(summary.contains("through node pve2 (https://192.0.2.2:8006)"), "{summary}");
    assert!(world.source().coverage.is_complete());
    seen.at = time(120);
    assert_eq!(world.see(&seen), []);
    world.scan(&truth(), 180, &Faults::default());
    assert_eq!(world.alert_ids(), Vec::<String>::new());
}
