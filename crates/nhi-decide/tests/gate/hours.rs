//! Hours of the day in zones with gaps and folds, against counting minutes.

use crate::{
    lab::{Lab, lab, now, plan, power_plan},
    steps::power,
};
use jiff::{SignedDuration, tz::TimeZoneDatabase};
use nhi_decide::gate::{self, Recent, hours};
use nhi_model::{
    Timestamp,
    identity::Role,
    intent::{Intent, Operation},
    plan::Gate,
    refusal::{Refusal, RefusalCode},
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Every minute, one by one. All zones of our days change at full minutes.
fn counted(zone: &str, now: Timestamp, allowed: &BTreeSet<u8>) -> Option<Timestamp> {
    let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
    let hour = |at: Timestamp| u8::try_from(zone.to_datetime(at).hour()).unwrap();
    if allowed.contains(&hour(now)) {
        return Some(now);
    }
    let minute = Timestamp::from_second(now.as_second().div_euclid(60) * 60).unwrap();
    (1..=14 * 24 * 60)
        .map(|minutes| minute + SignedDuration::from_mins(minutes))
        .find(|at| allowed.contains(&hour(*at)))
}

fn next(zone: &str, now: &str, allowed: &[u8]) -> Option<Timestamp> {
    let db = TimeZoneDatabase::bundled();
    hours::next(&db.get(zone).unwrap(), at(now), &allowed.iter().copied().collect())
}

#[test]
fn three_in_the_afternoon_waits_for_two_at_night() {
    assert_eq!(next("Europe/Rome", "2026-06-15T13:00:00Z", &[2, 3, 4]), Some(at("2026-06-16T00:00:00Z")));
    // The borders of the window.
    assert_eq!(next("UTC", "2026-06-15T02:00:00Z", &[2, 3, 4]), Some(at("2026-06-15T02:00:00Z")));
    assert_eq!(next("UTC", "2026-06-15T04:59:59.999Z", &[2, 3, 4]), Some(at("2026-06-15T04:59:59.999Z")));
    assert_eq!(next("UTC", "2026-06-15T05:00:00Z", &[2, 3, 4]), Some(at("2026-06-16T02:00:00Z")));
    assert_eq!(next("UTC", "2026-06-15T01:59:59.5Z", &[2, 3, 4]), Some(at("2026-06-15T02:00:00Z")));
    assert_eq!(next("UTC", "2026-06-15T01:00:00Z", &[]), None);
}

#[test]
fn an_hour_that_a_night_has_not_is_the_next_nights() {
    // Rome, 2026-03-29: 02:00 becomes 03:00.
    assert_eq!(next("Europe/Rome", "2026-03-28T12:00:00Z", &[2]), Some(at("2026-03-30T00:00:00Z")));
    assert_eq!(next("Europe/Rome", "2026-03-28T12:00:00Z", &[2, 3]), Some(at("2026-03-29T01:00:00Z")));
    // A gap of half an hour leaves the other half: Lord Howe, 2026-10-04, 02:00 becomes 02:30.
    assert_eq!(next("Australia/Lord_Howe", "2026-10-03T12:00:00Z", &[2]), Some(at("2026-10-03T15:30:00Z")));
}

#[test]
fn an_hour_that_comes_twice_counts_twice() {
    // Rome, 2026-10-25: 03:00 becomes 02:00. 00:30 and 01:30 UTC are both half past two.
    for half in ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"] {
        assert_eq!(next("Europe/Rome", half, &[2]), Some(at(half)));
    }
    assert_eq!(next("Europe/Rome", "2026-10-24T12:00:00Z", &[2]), Some(at("2026-10-25T00:00:00Z")));
    // Casey went back three hours at midnight of 2021-03-14: nine in the evening came again.
    assert_eq!(next("Antarctica/Casey", "2021-03-13T12:30:00Z", &[21]), Some(at("2021-03-13T13:00:00Z")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn the_next_hour_is_the_one_that_counting_finds(
        zone in prop::sample::select(vec!["UTC", "Europe/Rome", "America/New_York", "Australia/Lord_Howe",
            "Asia/Kathmandu", "America/St_Johns", "Pacific/Apia", "Antarctica/Casey", "Africa/Casablanca"]),
        second in 1_300_000_000i64..1_900_000_000,
        near in any::<bool>(),
        allowed in prop::collection::btree_set(0u8..24, 0..6),
    ) {
        let db = TimeZoneDatabase::bundled();
        let found = db.get(zone).unwrap();
        let mut now = Timestamp::from_second(second).unwrap();
        // Half of the cases lie within two days before a clock change.
        if near && let Some(change) = found.following(now).next() {
            now = change.timestamp() - SignedDuration::from_secs(second % (2 * 24 * 3600));
        }
        let next = hours::next(&found, now, &allowed);
        prop_assert_eq!(next, counted(zone, now, &allowed));
        if let Some(next) = next {
            prop_assert!(next >= now);
            prop_assert!(allowed.contains(&u8::try_from(found.to_datetime(next).hour()).unwrap()));
        }
    }
}

fn judged(lab: &Lab, operation: Operation, vmid: u32, role: Role) -> Result<Gate, Refusal> {
    let plan = power_plan(lab, operation, vmid);
    gate::gate(&lab.input(&plan, role, &Recent::default()))
}

#[test]
fn a_services_hours_beat_the_common_ones() {
    let mut lab = lab();
    lab.policy_of("time_zone = \"Europe/Rome\"\n[hours]\nrestart_safe = [5]");
    let start = |vmid| judged(&lab, Operation::Reboot, vmid, Role::Owner).unwrap().not_before;
    assert_eq!(start(201), Some(at("2026-06-16T00:00:00Z")), "dns has hours of its own: two o'clock");
    assert_eq!(start(105), Some(at("2026-06-16T03:00:00Z")), "web has none: five o'clock");
    let told = judged(&lab, Operation::Reboot, 201, Role::Owner).unwrap().reasons;
    assert!(told.iter().any(|why| why.contains("2026-06-16 02:00 Europe/Rome")), "{told:?}");
    // What serves nobody, or is not interrupted, waits for nothing.
    assert_eq!(judged(&lab, Operation::Start, 107, Role::Owner).unwrap().not_before, None);
    let stopped = plan(&lab, Intent::LabDown {}, vec![power(Operation::Shutdown, 107, "pve2")]);
    let gate = gate::gate(&lab.input(&stopped, Role::Owner, &Recent::default())).unwrap();
    assert_eq!(gate.not_before, None, "it is required to be stopped");
    let recent = Recent::default();
    let inside = gate::Input { now: at("2026-06-16T00:30:00Z"), ..lab.input(&stopped, Role::Owner, &recent) };
    let dns = power_plan(&lab, Operation::Reboot, 201);
    assert_eq!(
        gate::gate(&gate::Input { plan: &dns, ..inside }).unwrap().not_before,
        None,
        "it is half past two"
    );
}

#[test]
fn quiet_hours_are_for_agents() {
    let mut lab = lab();
    lab.policy_of("time_zone = \"Europe/Rome\"\n[hours]\nquiet = [15, 16]");
    assert_eq!(
        judged(&lab, Operation::Start, 107, Role::Agent).unwrap().not_before,
        Some(at("2026-06-15T15:00:00Z"))
    );
    assert_eq!(judged(&lab, Operation::Start, 107, Role::Operator).unwrap().not_before, None);
}

#[test]
fn hours_that_never_meet_are_refused() {
    let mut lab = lab();
    lab.policy_of("[hours]\nrestart_safe = [5, 6]\nquiet = [2, 3, 4]");
    let refusal = judged(&lab, Operation::Reboot, 201, Role::Agent).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::Never, "{refusal}");
    assert!(judged(&lab, Operation::Reboot, 201, Role::Owner).is_ok(), "no quiet hours for people");
    let both = plan(
        &lab,
        Intent::LabDown {},
        vec![power(Operation::Reboot, 201, "pve1"), power(Operation::Reboot, 105, "pve1")],
    );
    let refusal = gate::gate(&lab.input(&both, Role::Owner, &Recent::default())).unwrap_err();
    assert!(refusal.message.contains("dns") && refusal.message.contains("web"), "{refusal}");
    assert!(now() < both.expires_at);
}
