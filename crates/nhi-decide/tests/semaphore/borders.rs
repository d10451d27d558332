//! One reading alone, at each border of Neural-Home v3: the last value on one side, the first on the other.

use super::{GIB, at, calm, card, check, first, lock, with_card};
use nhi_decide::semaphore::{Memory, Sight, Thresholds, step};
use nhi_model::gpu::{Light, Reason};
use proptest::prelude::*;

#[test]
fn nobody_there_and_nothing_runs_is_green() {
    check(&calm(), Light::Green, Reason::Idle);
}

#[test]
fn load_turns_it_at_ten_and_above_forty_percent() {
    let load = |percent| with_card(|card| card.utilization_percent = Some(percent));
    check(&load(0), Light::Green, Reason::Idle);
    check(&load(9), Light::Green, Reason::Idle);
    check(&load(10), Light::Yellow, Reason::Busy);
    check(&load(11), Light::Yellow, Reason::Busy);
    check(&load(39), Light::Yellow, Reason::Busy);
    check(&load(40), Light::Yellow, Reason::Busy);
    check(&load(41), Light::Red, Reason::Busy);
    check(&load(100), Light::Red, Reason::Busy);
}

#[test]
fn heat_turns_it_above_sixty_five_degrees() {
    let heat = |degrees| with_card(|card| card.temperature_c = Some(degrees));
    check(&heat(64), Light::Green, Reason::Idle);
    check(&heat(65), Light::Green, Reason::Idle);
    check(&heat(66), Light::Red, Reason::Hot);
}

#[test]
fn memory_of_others_turns_it_above_eight_gibibytes() {
    let memory = |bytes| with_card(|card| card.memory_used_bytes = Some(bytes));
    check(&memory(8 * GIB - 1), Light::Green, Reason::Idle);
    check(&memory(8 * GIB), Light::Green, Reason::Idle);
    check(&memory(8 * GIB + 1), Light::Red, Reason::MemoryTaken);
}

#[test]
fn hands_turn_it_until_more_than_five_minutes_passed() {
    let idle = |idle_ms| Sight { idle_ms, ..calm() };
    check(&idle(Some(0)), Light::Yellow, Reason::InUse);
    check(&idle(Some(299_999)), Light::Yellow, Reason::InUse);
    check(&idle(Some(300_000)), Light::Yellow, Reason::InUse);
    check(&idle(Some(300_001)), Light::Green, Reason::Idle);
    // Who cannot tell is not idle.
    check(&idle(None), Light::Yellow, Reason::InUse);
}

#[test]
fn a_game_beats_every_figure_and_a_lock_beats_the_game() {
    let game = Sight { game: Some("Dota 2".to_owned()), ..calm() };
    check(&game, Light::Red, Reason::Game);
    assert_eq!(first(&game).text, "the game Dota 2 runs");
    check(&Sight { lock: Some(lock(60)), ..game }, Light::Red, Reason::Locked);
    check(&Sight { lock: Some(lock(60)), ..calm() }, Light::Red, Reason::Locked);
}

#[test]
fn a_lock_ends_with_its_time_and_not_before() {
    let sight = Sight { lock: Some(lock(60)), ..calm() };
    let limits = Thresholds::default();
    let locked = step(at(59), &limits, &sight, &Memory::new(at(0)));
    assert_eq!((locked.light, locked.text.as_str()), (Light::Red, "anna locked it until 08:01 UTC"));
    // Nothing spoke for red meanwhile, so it does not settle either.
    assert_eq!(step(at(60), &limits, &sight, &locked).light, Light::Green);
    // Whoever unlocks while a game runs gets no green: it is judged anew.
    let game = Sight { game: Some(String::new()), ..calm() };
    let unlocked = step(at(59), &limits, &game, &locked);
    assert_eq!((unlocked.light, unlocked.reason), (Light::Red, Reason::Game));
    assert_eq!(unlocked.since, locked.since, "the light itself did not change");
}

#[test]
fn somebody_at_the_machine_from_elsewhere_is_yellow_or_what_they_chose() {
    let sight = Sight { remote_desktop: Some("RDP".to_owned()), ..calm() };
    check(&sight, Light::Yellow, Reason::RemoteDesktop);
    for light in [Light::Red, Light::Green] {
        let limits = Thresholds { remote_desktop: light, ..Thresholds::default() };
        assert_eq!(step(at(0), &limits, &sight, &Memory::new(at(0))).light, light);
    }
}

#[test]
fn what_cannot_be_read_is_never_green() {
    check(&Sight { unreadable: Some("GPU is lost".to_owned()), ..calm() }, Light::Red, Reason::Unreadable);
    check(&with_card(|card| card.utilization_percent = None), Light::Yellow, Reason::Unreadable);
    let none = Sight { cards: Vec::new(), ..calm() };
    check(&none, Light::Red, Reason::Unreadable);
    let limits = Thresholds { card_needed: false, ..Thresholds::default() };
    assert_eq!(step(at(0), &limits, &none, &Memory::new(at(0))).light, Light::Green);
    // A card without a thermometer is no reason.
    check(&with_card(|card| card.temperature_c = None), Light::Green, Reason::Idle);
}

#[test]
fn the_worst_of_several_cards_counts() {
    let mut sight = calm();
    sight.cards.push(card());
    check(&sight, Light::Green, Reason::Idle);
    sight.cards[0].utilization_percent = Some(10);
    sight.cards[1].utilization_percent = Some(41);
    check(&sight, Light::Red, Reason::Busy);
}

#[test]
fn what_our_own_inference_takes_is_no_sign_of_a_person() {
    let ours = |running| Sight {
        running,
        ..with_card(|card| {
            card.utilization_percent = Some(100);
            card.memory_used_bytes = Some(13 * GIB);
            card.memory_ours_bytes = Some(12 * GIB);
            card.temperature_c = Some(80);
        })
    };
    check(&ours(1), Light::Green, Reason::Idle);
    check(&ours(0), Light::Red, Reason::Busy);
    // Told apart by the driver, the rest counts at the same borders.
    let rest = |percent: u32| {
        let mut sight = ours(1);
        sight.cards[0].utilization_ours_percent = Some(100 - percent);
        sight
    };
    check(&rest(9), Light::Green, Reason::Idle);
    check(&rest(10), Light::Yellow, Reason::Busy);
    check(&rest(41), Light::Red, Reason::Busy);
    // So does memory that is not ours, and heat no work of ours explains.
    let mut memory = ours(1);
    memory.cards[0].memory_ours_bytes = Some(5 * GIB - 1);
    check(&memory, Light::Red, Reason::MemoryTaken);
    memory.cards[0].memory_ours_bytes = Some(5 * GIB);
    check(&memory, Light::Green, Reason::Idle);
    let mut hot = ours(1);
    hot.cards[0].temperature_c = Some(81);
    check(&hot, Light::Red, Reason::Hot);
    // Memory nobody can tell apart is taken for others'.
    let mut unknown = ours(1);
    unknown.cards[0].memory_ours_bytes = None;
    check(&unknown, Light::Red, Reason::MemoryTaken);
}

fn any_sight() -> impl Strategy<Value = Sight> {
    let some = |most: u64| proptest::option::of(0..=most);
    let lists = (proptest::bool::ANY, proptest::bool::ANY, proptest::bool::ANY);
    let figures = (some(100), some(100), some(24 * GIB), some(24 * GIB), some(100));
    (lists, some(600_000), figures, 0_u32..3).prop_map(
        |((game, remote, broken), idle_ms, figures, running)| {
            let (load, ours, memory, memory_ours, heat) = figures;
            let small = |number: Option<u64>| number.map(|number| u32::try_from(number).unwrap());
            let mut sight = with_card(|card| {
                card.utilization_percent = small(load);
                card.utilization_ours_percent = small(ours);
                card.memory_used_bytes = memory;
                card.memory_ours_bytes = memory_ours;
                card.temperature_c = small(heat);
            });
            sight.game = game.then(|| "a game".to_owned());
            sight.remote_desktop = remote.then(|| "VNC".to_owned());
            sight.unreadable = broken.then(|| "lost".to_owned());
            (sight.idle_ms, sight.running) = (idle_ms, running);
            sight
        },
    )
}

proptest! {
    /// Green is only ever said where nothing at all speaks against it, whatever came before.
    #[test]
    fn green_has_no_exception(before in any_sight(), sight in any_sight()) {
        let limits = Thresholds::default();
        let memory = step(at(0), &limits, &before, &Memory::new(at(0)));
        let memory = step(at(10), &limits, &sight, &memory);
        if memory.light == Light::Green {
            prop_assert!(sight.game.is_none() && sight.unreadable.is_none() && sight.remote_desktop.is_none());
            prop_assert!(sight.idle_ms.unwrap() > 300_000);
            prop_assert!(sight.cards[0].temperature_c.is_none_or(|degrees| degrees <= 80));
        }
        if sight.game.is_some() {
            prop_assert_eq!(memory.light, Light::Red);
        }
    }
}
