//! Readings one after the other: stricter at once, freer slowly.

use super::{at, at_ms, calm, with_card};
use nhi_decide::semaphore::{Memory, Sight, Thresholds, step};
use nhi_model::gpu::{Light, Reason};

fn game() -> Sight {
    Sight { game: Some("Dota 2".to_owned()), ..calm() }
}

fn steps(rows: &[(i64, Sight, Light, Reason)]) -> Memory {
    let mut memory = Memory::new(at(0));
    for (ms, sight, light, reason) in rows {
        memory = step(at_ms(*ms), &Thresholds::default(), sight, &memory);
        assert_eq!((memory.light, memory.reason), (*light, *reason), "at {ms} ms: {}", memory.text);
    }
    memory
}

#[test]
fn a_game_takes_it_at_once_and_gives_it_back_after_half_a_minute() {
    let memory = steps(&[
        (0, calm(), Light::Green, Reason::Idle),
        (1, game(), Light::Red, Reason::Game),
        (1_000, calm(), Light::Red, Reason::Settling),
        (30_000, calm(), Light::Red, Reason::Settling),
        (30_001, calm(), Light::Green, Reason::Idle),
    ]);
    assert_eq!(memory.since, at_ms(30_001));
}

#[test]
fn a_game_that_shows_again_starts_the_half_minute_anew() {
    steps(&[
        (0, game(), Light::Red, Reason::Game),
        (20_000, calm(), Light::Red, Reason::Settling),
        (29_000, game(), Light::Red, Reason::Game),
        (58_999, calm(), Light::Red, Reason::Settling),
        (59_000, calm(), Light::Green, Reason::Idle),
    ]);
}

#[test]
fn load_that_flickers_around_the_border_does_not_flicker_the_light() {
    let load = |percent| with_card(|card| card.utilization_percent = Some(percent));
    let flicker = [
        (0, load(9), Light::Green, Reason::Idle),
        (10_000, load(10), Light::Yellow, Reason::Busy),
        (20_000, load(9), Light::Yellow, Reason::Settling),
        (30_000, load(11), Light::Yellow, Reason::Busy),
        (40_000, load(9), Light::Yellow, Reason::Settling),
        (59_999, load(9), Light::Yellow, Reason::Settling),
        (60_000, load(9), Light::Green, Reason::Idle),
    ];
    assert_eq!(steps(&flicker[..6]).since, at(10));
    steps(&flicker);
    steps(&[
        (0, load(41), Light::Red, Reason::Busy),
        (10_000, load(40), Light::Red, Reason::Settling),
        (30_000, load(40), Light::Yellow, Reason::Busy),
    ]);
}

#[test]
fn hands_off_need_no_second_wait() {
    let idle = |idle_ms| Sight { idle_ms: Some(idle_ms), ..calm() };
    steps(&[
        (0, idle(300_000), Light::Yellow, Reason::InUse),
        (1, idle(300_001), Light::Green, Reason::Idle),
        (2, idle(0), Light::Yellow, Reason::InUse),
    ]);
}

#[test]
fn what_was_seen_during_a_lock_counts_after_it() {
    let locked = |sight: Sight| Sight { lock: Some(super::lock(60)), ..sight };
    steps(&[
        (0, locked(game()), Light::Red, Reason::Locked),
        (50_000, locked(game()), Light::Red, Reason::Locked),
        (60_000, calm(), Light::Red, Reason::Settling),
        (80_000, calm(), Light::Green, Reason::Idle),
    ]);
}

#[test]
fn our_own_load_and_heat_fade() {
    let ours = |running, percent, degrees| Sight {
        running,
        ..with_card(|card| {
            card.utilization_percent = Some(percent);
            card.temperature_c = Some(degrees);
        })
    };
    steps(&[
        (0, ours(1, 100, 75), Light::Green, Reason::Idle),
        (2_999, ours(0, 100, 75), Light::Green, Reason::Idle),
        (3_000, ours(0, 41, 75), Light::Red, Reason::Busy),
    ]);
    steps(&[
        (0, ours(1, 100, 75), Light::Green, Reason::Idle),
        (119_999, ours(0, 0, 66), Light::Green, Reason::Idle),
        (120_000, ours(0, 0, 66), Light::Red, Reason::Hot),
    ]);
}

#[test]
fn before_the_first_reading_it_is_red() {
    let memory = Memory::new(at(0));
    assert_eq!((memory.light, memory.reason), (Light::Red, Reason::Unreadable));
}

#[test]
fn a_clock_that_was_set_back_does_not_free_it() {
    let red = step(at(100), &Thresholds::default(), &game(), &Memory::new(at(0)));
    let back = step(at(0), &Thresholds::default(), &calm(), &red);
    assert_eq!(back.light, Light::Red);
}
