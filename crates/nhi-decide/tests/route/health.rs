//! What an answer or a failure means for the next request.

use super::lab::{later, now};
use nhi_decide::{
    quota::Per,
    route::{BackendSettings, Breaker, Happened, Health, after, begin},
};
use nhi_model::{Timestamp, ai::BackendKind};
use std::time::Duration;

/// The model that is asked.
const M: &str = "m";

fn groq() -> BackendSettings {
    BackendSettings::new("groq", BackendKind::Openai, "https://api.groq.com/openai/v1")
}

fn happen(health: &mut Health, seconds: i64, what: &Happened) {
    after(later(seconds), health, &groq(), M, what);
}

fn cooling(health: &Health, now: Timestamp) -> Option<Timestamp> {
    health.cooling(M, now).map(|(until, _)| until)
}

fn limited(per: Option<Per>, retry_after: Option<u64>) -> Happened {
    Happened::Limited { per, retry_after: retry_after.map(Duration::from_secs) }
}

const OK: Happened = Happened::Answered { first_token_ms: 200 };

fn failed() -> Happened {
    Happened::Failed { text: "groq broke off".to_owned() }
}

fn unreachable() -> Happened {
    Happened::Unreachable { text: "nobody listens at groq".to_owned() }
}

/// Until when a breaker keeps the model out, be it its own or the backend's.
fn broken(health: &Health, now: Timestamp) -> Option<Timestamp> {
    health.failing(M, now).map(|(until, _)| until).max(health.breaker.broken(now))
}

/// Failures in a row, of the model and of the backend.
fn failures(health: &Health) -> (u32, u32) {
    (health.models.get(M).map_or(0, |of| of.breaker.failures), health.breaker.failures)
}

#[test]
fn a_limit_of_the_minute_pauses_as_long_as_it_says_or_a_minute_and_more() {
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Minute), Some(6)));
    assert_eq!(cooling(&health, later(5)), Some(later(6)));
    assert_eq!(cooling(&health, later(6)), None);
    // Without a figure: longer each time, until it answers.
    let mut health = Health::default();
    for (start, pause) in [(0, 60), (1_000, 120), (2_000, 300), (3_000, 600), (4_000, 600)] {
        happen(&mut health, start, &limited(None, None));
        assert_eq!(cooling(&health, later(start)), Some(later(start + pause)));
    }
    happen(&mut health, 5_000, &OK);
    assert_eq!(cooling(&health, later(5_000)), None);
    happen(&mut health, 6_000, &limited(None, None));
    assert_eq!(cooling(&health, later(6_000)), Some(later(6_060)));
    // An absurd figure is not believed.
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Minute), Some(u64::MAX)));
    assert_eq!(cooling(&health, now()), Some(later(3_600)));
}

#[test]
fn a_limit_of_the_day_pauses_until_the_providers_day_ends() {
    let mut health = Health::default();
    let gemini =
        BackendSettings::new("gemini", BackendKind::Gemini, "https://generativelanguage.googleapis.com");
    // 12:00 UTC is 05:00 in Los Angeles, summer time.
    after(now(), &mut health, &gemini, M, &limited(Some(Per::Day), Some(30)));
    assert_eq!(cooling(&health, now()), Some("2026-07-02T07:00:00Z".parse().unwrap()));
    let mut health = Health::default();
    after(now(), &mut health, &groq(), M, &limited(Some(Per::Day), None));
    assert_eq!(cooling(&health, now()), Some("2026-07-02T00:00:00Z".parse().unwrap()));
    let mut own = groq();
    own.quotas = vec![
        toml::from_str(
            "what = \"requests\"\nper = \"day\"\nlimit = 9\nzone = \"Europe/Rome\"\nresets_at = \"09:00\"",
        )
        .unwrap(),
    ];
    let mut health = Health::default();
    after(now(), &mut health, &own, M, &limited(Some(Per::Day), None));
    assert_eq!(cooling(&health, now()), Some("2026-07-02T07:00:00Z".parse().unwrap()));
}

#[test]
fn overload_pauses_longer_each_time() {
    let mut health = Health::default();
    for (index, pause) in [60, 120, 180, 300, 600, 600].into_iter().enumerate() {
        let start = i64::try_from(index).unwrap() * 1_000;
        happen(&mut health, start, &Happened::Overloaded { retry_after: None });
        assert_eq!(cooling(&health, later(start)), Some(later(start + pause)));
    }
    happen(&mut health, 9_000, &OK);
    happen(&mut health, 9_001, &Happened::Overloaded { retry_after: Some(Duration::from_secs(90)) });
    assert_eq!(cooling(&health, later(9_001)), Some(later(9_091)));
}

#[test]
fn a_shorter_pause_never_ends_a_longer_one() {
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Day), None));
    let until = cooling(&health, now());
    happen(&mut health, 1, &limited(Some(Per::Minute), Some(1)));
    assert_eq!(cooling(&health, later(2)), until);
}

#[test]
fn a_breaker_opens_at_the_fifth_failure_and_lets_one_try() {
    for fails in [failed, unreachable] {
        let mut health = Health::default();
        for _ in 0..4 {
            happen(&mut health, 0, &fails());
        }
        assert_eq!(broken(&health, now()), None);
        happen(&mut health, 0, &fails());
        assert_eq!(broken(&health, now()), Some(later(30)));
        assert_eq!(broken(&health, later(29)), Some(later(30)));
        // One tries; the others wait for it.
        assert_eq!(broken(&health, later(30)), None);
        begin(later(30), &mut health, M);
        assert_eq!(broken(&health, later(31)), Some(later(90)));
        happen(&mut health, 32, &fails());
        assert_eq!(broken(&health, later(32)), Some(later(92)), "twice as long");
        begin(later(92), &mut health, M);
        happen(&mut health, 93, &OK);
        assert_eq!((broken(&health, later(93)), failures(&health)), (None, (0, 0)));
    }
    // One that vanished does not keep it shut.
    let breaker = Breaker { open_until: Some(later(0)), ..Breaker::default() };
    let mut health = Health { breaker, ..Health::default() };
    begin(later(0), &mut health, M);
    assert_eq!(broken(&health, later(60)), None);
}

#[test]
fn a_success_between_failures_keeps_it_closed_and_a_callers_fault_is_none() {
    let mut health = Health::default();
    for _ in 0..4 {
        happen(&mut health, 0, &failed());
    }
    happen(&mut health, 0, &OK);
    for _ in 0..4 {
        happen(&mut health, 0, &failed());
    }
    for _ in 0..9 {
        happen(&mut health, 0, &Happened::NotItsFault);
    }
    assert_eq!(broken(&health, now()), None);
    // A limit is an answer: the server is there.
    happen(&mut health, 0, &limited(None, None));
    assert_eq!(failures(&health), (0, 0));
    // So is one that broke off.
    for _ in 0..4 {
        happen(&mut health, 0, &unreachable());
    }
    happen(&mut health, 0, &failed());
    assert_eq!(failures(&health), (1, 0));
}

#[test]
fn names_that_callers_make_up_are_not_kept_for_ever() {
    let mut health = Health::default();
    for n in 0..2_000 {
        after(now(), &mut health, &groq(), &format!("made-up-{n}"), &failed());
    }
    assert!(health.models.len() <= 256, "{}", health.models.len());
}

#[test]
fn a_refused_key_and_a_missing_model_are_believed_for_ten_minutes() {
    let mut health = Health::default();
    happen(&mut health, 0, &Happened::KeyRefused);
    happen(&mut health, 0, &Happened::NoModel { model: "m".to_owned() });
    assert_eq!((health.key_refused(later(599)), health.key_refused(later(600))), (Some(later(600)), None));
    assert_eq!(health.lacks("m", later(599)), Some(later(600)));
    assert_eq!((health.lacks("m", later(600)), health.lacks("n", now())), (None, None));
}

#[test]
fn the_mean_follows_new_times() {
    let mut health = Health::default();
    happen(&mut health, 0, &Happened::Answered { first_token_ms: 1_000 });
    assert_eq!(health.latency_ms, Some(1_000.0));
    happen(&mut health, 0, &Happened::Answered { first_token_ms: 500 });
    assert_eq!(health.latency_ms, Some(900.0));
}
