//! The GPU's light at each of its borders, each with a control on the other side; how it settles; and that silence
//! is a no. It needs no GPU.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod available;
mod borders;
mod settling;
mod wake;

use nhi_decide::semaphore::{CardSight, Memory, Sight, Thresholds, step};
use nhi_model::{
    Timestamp,
    gpu::{Light, Lock, Reason},
};

const GIB: u64 = 1 << 30;

fn at(seconds: i64) -> Timestamp {
    at_ms(seconds * 1000)
}

fn at_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

/// Nobody there, nothing runs: green.
fn calm() -> Sight {
    Sight { idle_ms: Some(300_001), cards: vec![card()], ..Sight::default() }
}

fn card() -> CardSight {
    CardSight {
        utilization_percent: Some(3),
        utilization_ours_percent: None,
        memory_used_bytes: Some(GIB),
        memory_ours_bytes: Some(0),
        temperature_c: Some(45),
    }
}

fn with_card(change: impl Fn(&mut CardSight)) -> Sight {
    let mut sight = calm();
    change(&mut sight.cards[0]);
    sight
}

fn lock(until: i64) -> Lock {
    Lock { by: Some("anna".parse().unwrap()), until: at(until) }
}

/// What a first reading says.
fn first(sight: &Sight) -> Memory {
    step(at(0), &Thresholds::default(), sight, &Memory::new(at(0)))
}

fn check(sight: &Sight, light: Light, reason: Reason) {
    let memory = first(sight);
    assert_eq!((memory.light, memory.reason), (light, reason), "{} of {sight:?}", memory.text);
    assert!(!memory.text.is_empty() && !memory.text.contains('\n') && !memory.text.ends_with('.'));
}
