//! Windows, reservations and their ends; days in zones that change their clocks.

use super::lab::{later, now};
use nhi_decide::quota::{Meter, Per, Quota, What, share};
use nhi_model::Timestamp;
use proptest::prelude::*;

fn day(zone: &str, resets_at: &str) -> Quota {
    let mut quota = Quota::new(What::Requests, Per::Day, 3);
    (quota.zone, quota.resets_at) = (Some(zone.to_owned()), Some(resets_at.parse().unwrap()));
    quota
}

fn utc(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn window(quota: &Quota, at: &str, from: &str, to: &str) {
    let window = quota.window(utc(at));
    assert_eq!((window.slot, window.ends), (utc(from), utc(to)), "{quota:?} at {at}");
}

#[test]
fn days_begin_at_their_zones_wall_clock() {
    let rome = day("Europe/Rome", "00:01");
    window(&rome, "2026-07-01T22:00:59Z", "2026-06-30T22:01:00Z", "2026-07-01T22:01:00Z");
    window(&rome, "2026-07-01T22:01:00Z", "2026-07-01T22:01:00Z", "2026-07-02T22:01:00Z");
    let angeles = day("America/Los_Angeles", "00:00");
    window(&angeles, "2026-01-01T07:59:59Z", "2025-12-31T08:00:00Z", "2026-01-01T08:00:00Z");
    window(
        &Quota::new(What::Requests, Per::Day, 1),
        "2026-07-01T12:00:00Z",
        "2026-07-01T00:00:00Z",
        "2026-07-02T00:00:00Z",
    );
}

#[test]
fn clock_changes_make_days_of_23_and_25_hours_and_lose_none() {
    let angeles = day("America/Los_Angeles", "00:00");
    window(&angeles, "2026-03-08T12:00:00Z", "2026-03-08T08:00:00Z", "2026-03-09T07:00:00Z");
    window(&angeles, "2026-11-01T12:00:00Z", "2026-11-01T07:00:00Z", "2026-11-02T08:00:00Z");
    // 02:30 is left out that night: the day begins when the clock goes on, at 03:30 summer time.
    let gap = day("Europe/Rome", "02:30");
    window(&gap, "2026-03-29T01:29:59Z", "2026-03-28T01:30:00Z", "2026-03-29T01:30:00Z");
    window(&gap, "2026-03-29T01:30:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:30:00Z");
    // It comes twice in autumn: the first counts, and the second begins no day.
    window(&gap, "2026-10-25T00:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
    window(&gap, "2026-10-25T01:30:00Z", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
    // A midnight that is left out.
    let cairo = day("Africa/Cairo", "00:00");
    window(&cairo, "2026-04-23T21:59:59Z", "2026-04-22T22:00:00Z", "2026-04-23T22:00:00Z");
    window(&cairo, "2026-04-23T22:00:00Z", "2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z");
}

#[test]
fn a_limit_is_taken_whole_and_not_one_more_and_begins_anew() {
    let quota = Quota::new(What::Requests, Per::Day, 3);
    let mut meter = Meter::default();
    for left in [2, 1, 0] {
        meter.reserve(&quota, now(), 1).unwrap();
        assert_eq!(meter.left(&quota, now()), left);
    }
    let gone = meter.reserve(&quota, now(), 1).unwrap_err();
    assert_eq!((gone.left, gone.wanted, gone.until), (0, 1, utc("2026-07-02T00:00:00Z")));
    assert_eq!(meter.used(&quota, now()), 3, "a refusal takes nothing");
    assert!(meter.reserve(&quota, utc("2026-07-01T23:59:59.999Z"), 1).is_err());
    meter.reserve(&quota, utc("2026-07-02T00:00:00Z"), 3).unwrap();
    assert_eq!(meter.slots.len(), 1, "yesterday is forgotten");
}

#[test]
fn a_minute_is_any_sixty_seconds() {
    let quota = Quota::new(What::Requests, Per::Minute, 2);
    let mut meter = Meter::default();
    meter.reserve(&quota, later(9), 1).unwrap();
    meter.reserve(&quota, later(55), 1).unwrap();
    // A window by the clock's minute would give two more here.
    assert_eq!(meter.reserve(&quota, later(60), 1).unwrap_err().until, later(70));
    meter.reserve(&quota, later(70), 1).unwrap();
    assert!(meter.reserve(&quota, later(70), 1).is_err());
}

#[test]
fn what_was_reserved_becomes_what_was_taken() {
    let quota = Quota::new(What::Tokens, Per::Minute, 1_000);
    let mut meter = Meter::default();
    let ticket = meter.reserve(&quota, now(), 800).unwrap();
    assert!(meter.reserve(&quota, now(), 300).is_err());
    meter.settle(ticket, 100);
    meter.reserve(&quota, now(), 300).unwrap();
    // More than reserved counts as well.
    let ticket = meter.reserve(&quota, now(), 100).unwrap();
    meter.settle(ticket, 900);
    assert_eq!((meter.used(&quota, now()), meter.left(&quota, now())), (1_300, 0));
    // Given back.
    let ticket = meter.reserve(&quota, later(100), 900).unwrap();
    meter.settle(ticket, 0);
    assert_eq!(meter.used(&quota, later(100)), 0);
    // Settled after its slot was forgotten: nothing to change, nothing below zero.
    meter.reserve(&quota, later(300), 5).unwrap();
    meter.settle(ticket, 900);
    assert_eq!(meter.used(&quota, later(300)), 5);
}

#[test]
fn a_request_larger_than_the_limit_never_fits() {
    let quota = Quota::new(What::Tokens, Per::Minute, 100);
    assert_eq!(Meter::default().check(&quota, now(), 101).unwrap_err().until, later(70));
    Meter::default().check(&quota, now(), 100).unwrap();
}

#[test]
fn shares_of_workers_never_exceed_what_is_left() {
    for (left, workers, each) in [(10, 3, 3), (2, 3, 0), (7, 0, 7), (7, 1, 7)] {
        assert_eq!(share(left, workers), each);
        assert!(share(left, workers) * u64::from(workers.max(1)) <= left);
    }
}

#[test]
fn it_is_told_before_it_is_gone() {
    let quota = Quota::new(What::Requests, Per::Day, 100);
    // At noon half of the day is over: 50 are as many as there may be, 51 are too many.
    let runs_out = |used| {
        let mut meter = Meter::default();
        meter.reserve(&quota, now(), used).unwrap();
        (meter.runs_out(&quota, now()), meter.runs_out(&quota, later(-43_199)))
    };
    assert_eq!(runs_out(50), (false, true));
    assert_eq!(runs_out(51), (true, true));
    assert_eq!(runs_out(9), (false, false), "nine just after midnight are no trend");
    let minute = Quota::new(What::Requests, Per::Minute, 10);
    let mut meter = Meter::default();
    meter.reserve(&minute, now(), 10).unwrap();
    assert!(!meter.runs_out(&minute, now()), "a minute is over soon");
}

#[test]
fn a_meter_is_read_back_as_it_was_written() {
    let quota = Quota::new(What::Tokens, Per::Minute, 100);
    let mut meter = Meter::default();
    meter.reserve(&quota, now(), 7).unwrap();
    let text = serde_json::to_string(&meter).unwrap();
    assert_eq!(text, r#"{"slots":{"2026-07-01T12:00:00Z":7}}"#);
    assert_eq!(serde_json::from_str::<Meter>(&text).unwrap(), meter);
}

proptest! {
    /// However requests come, no sixty seconds and no day have more than the limit.
    #[test]
    fn no_window_holds_more_than_the_limit(
        gaps in proptest::collection::vec((0_i64..40_000, 1_u64..4), 1..80),
        per in proptest::sample::select(vec![Per::Minute, Per::Day]),
    ) {
        let quota = Quota::new(What::Tokens, per, 5);
        let mut meter = Meter::default();
        let mut taken: Vec<(Timestamp, u64)> = Vec::new();
        let mut at = now();
        for (ms, amount) in gaps {
            at = at.saturating_add(jiff::SignedDuration::from_millis(ms)).unwrap();
            if meter.reserve(&quota, at, amount).is_ok() {
                taken.push((at, amount));
            }
        }
        for (start, _) in &taken {
            let minute = |at: &Timestamp| *at >= *start && at.duration_since(*start) < jiff::SignedDuration::from_mins(1);
            let day = |at: &Timestamp| quota.window(*at).slot == quota.window(*start).slot;
            let sum: u64 = taken
                .iter()
                .filter(|(at, _)| if per == Per::Minute { minute(at) } else { day(at) })
                .map(|(_, amount)| amount)
                .sum();
            prop_assert!(sum <= 5, "{sum} from {start} on");
        }
    }
}
