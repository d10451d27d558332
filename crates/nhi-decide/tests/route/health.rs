//! What an answer or a failure means for the next request.

use super::lab::{later, now};
use nhi_decide::{
    quota::Per,
    route::{BackendSettings, Happened, Health, after, begin},
};
use nhi_model::ai::BackendKind;
use std::time::Duration;

fn groq() -> BackendSettings {
    BackendSettings::new("groq", BackendKind::Openai, "https://api.groq.com/openai/v1")
}

fn happen(health: &mut Health, seconds: i64, what: &Happened) {
    after(later(seconds), health, &groq(), what);
}

fn limited(per: Option<Per>, retry_after: Option<u64>) -> Happened {
    Happened::Limited { per, retry_after: retry_after.map(Duration::from_secs) }
}

const OK: Happened = Happened::Answered { first_token_ms: 200 };

fn failed() -> Happened {
    Happened::Failed { text: "groq broke off".to_owned() }
}

#[test]
fn a_limit_of_the_minute_pauses_as_long_as_it_says_or_a_minute_and_more() {
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Minute), Some(6)));
    assert_eq!(health.cooling(later(5)), Some(later(6)));
    assert_eq!(health.cooling(later(6)), None);
    // Without a figure: longer each time, until it answers.
    let mut health = Health::default();
    for (start, pause) in [(0, 60), (1_000, 120), (2_000, 300), (3_000, 600), (4_000, 600)] {
        happen(&mut health, start, &limited(None, None));
        assert_eq!(health.cooling(later(start)), Some(later(start + pause)));
    }
    happen(&mut health, 5_000, &OK);
    assert_eq!(health.cooling(later(5_000)), None);
    happen(&mut health, 6_000, &limited(None, None));
    assert_eq!(health.cooling(later(6_000)), Some(later(6_060)));
    // An absurd figure is not believed.
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Minute), Some(u64::MAX)));
    assert_eq!(health.cooling(now()), Some(later(3_600)));
}

#[test]
fn a_limit_of_the_day_pauses_until_the_providers_day_ends() {
    let mut health = Health::default();
    let gemini =
        BackendSettings::new("gemini", BackendKind::Gemini, "https://generativelanguage.googleapis.com");
    // 12:00 UTC is 05:00 in Los Angeles, summer time.
    after(now(), &mut health, &gemini, &limited(Some(Per::Day), Some(30)));
    assert_eq!(health.cooling(now()), Some("2026-07-02T07:00:00Z".parse().unwrap()));
    let mut health = Health::default();
    after(now(), &mut health, &groq(), &limited(Some(Per::Day), None));
    assert_eq!(health.cooling(now()), Some("2026-07-02T00:00:00Z".parse().unwrap()));
    let mut own = groq();
    own.quotas = vec![
        toml::from_str(
            "what = \"requests\"\nper = \"day\"\nlimit = 9\nzone = \"Europe/Rome\"\nresets_at = \"09:00\"",
        )
        .unwrap(),
    ];
    let mut health = Health::default();
    after(now(), &mut health, &own, &limited(Some(Per::Day), None));
    assert_eq!(health.cooling(now()), Some("2026-07-02T07:00:00Z".parse().unwrap()));
}

#[test]
fn overload_pauses_longer_each_time() {
    let mut health = Health::default();
    for (index, pause) in [60, 120, 180, 300, 600, 600].into_iter().enumerate() {
        let start = i64::try_from(index).unwrap() * 1_000;
        happen(&mut health, start, &Happened::Overloaded { retry_after: None });
        assert_eq!(health.cooling(later(start)), Some(later(start + pause)));
    }
    happen(&mut health, 9_000, &OK);
    happen(&mut health, 9_001, &Happened::Overloaded { retry_after: Some(Duration::from_secs(90)) });
    assert_eq!(health.cooling(later(9_001)), Some(later(9_091)));
}

#[test]
fn a_shorter_pause_never_ends_a_longer_one() {
    let mut health = Health::default();
    happen(&mut health, 0, &limited(Some(Per::Day), None));
    let until = health.cooling(now());
    happen(&mut health, 1, &limited(Some(Per::Minute), Some(1)));
    assert_eq!(health.cooling(later(2)), until);
}

#[test]
fn the_breaker_opens_at_the_fifth_failure_and_lets_one_try() {
    let mut health = Health::default();
    for _ in 0..4 {
        happen(&mut health, 0, &failed());
    }
    assert_eq!(health.broken(now()), None);
    happen(&mut health, 0, &failed());
    assert_eq!(health.broken(now()), Some(later(30)));
    assert_eq!(health.broken(later(29)), Some(later(30)));
    // One tries; the others wait for it.
    assert_eq!(health.broken(later(30)), None);
    begin(later(30), &mut health);
    assert_eq!(health.broken(later(31)), Some(later(90)));
    happen(&mut health, 32, &failed());
    assert_eq!(health.broken(later(32)), Some(later(92)), "twice as long");
    begin(later(92), &mut health);
    happen(&mut health, 93, &OK);
    assert_eq!((health.broken(later(93)), health.failures), (None, 0));
    // One that vanished does not keep it shut.
    let mut health = Health { open_until: Some(later(0)), ..Health::default() };
    begin(later(0), &mut health);
    assert_eq!(health.broken(later(60)), None);
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
    assert_eq!(health.broken(now()), None);
    // A limit is an answer: the server is there.
    happen(&mut health, 0, &limited(None, None));
    assert_eq!(health.failures, 0);
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
