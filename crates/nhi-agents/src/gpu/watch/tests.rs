//! Who is believed about our own memory, and what of it counts.

use super::{Held, held};
use crate::gpu::book::Loaded;
use nhi_host::{CardReading, Reading};
use nhi_model::gpu::{Card, FreedBy};

const MAX: u64 = 768 << 20;

fn seen(bytes: Option<u64>, processes: Option<usize>) -> Reading {
    let card = CardReading {
        card: Card { id: "one".to_owned(), name: "one".to_owned(), vram_bytes: 16 << 30 },
        utilization_percent: None,
        utilization_ours_percent: None,
        vram_used_bytes: Some(9 << 30),
        vram_ours_bytes: bytes,
        processes_ours: processes,
        temperature_c: None,
        power_w: None,
    };
    Reading { cards: vec![card], ..Reading::default() }
}

fn loaded(vram_bytes: Option<u64>) -> Vec<Loaded> {
    vec![Loaded { name: "m".to_owned(), vram_bytes, context_tokens: None }]
}

fn check(reading: &Reading, loaded: Option<&[Loaded]>, expected: Option<(bool, FreedBy)>) {
    let told = held(reading, loaded, MAX).map(|Held { is_held, by, .. }| (is_held, by));
    assert_eq!(told, expected, "{reading:?} {loaded:?}");
}

#[test]
fn the_driver_is_believed_before_the_server() {
    let of_driver = |is_held| Some((is_held, FreedBy::Driver));
    check(&seen(Some(MAX), Some(1)), Some(&[]), of_driver(false));
    check(&seen(Some(MAX + 1), Some(1)), Some(&[]), of_driver(true));
    check(&seen(Some(MAX + 1), Some(1)), None, of_driver(true));
    // A small model takes less than a server that stays, and is a model all the same.
    check(&seen(Some(300 << 20), Some(1)), Some(&loaded(None)), of_driver(true));
    check(&seen(Some(300 << 20), Some(1)), Some(&loaded(Some(300 << 20))), of_driver(true));
    check(&seen(Some(300 << 20), Some(1)), Some(&loaded(Some(0))), of_driver(false));
    check(&seen(Some(0), Some(0)), Some(&loaded(None)), of_driver(false));
}

#[test]
fn where_it_tells_no_sizes_its_processes_count_and_then_the_server() {
    check(&seen(None, Some(0)), Some(&loaded(None)), Some((false, FreedBy::Processes)));
    check(&seen(None, Some(1)), Some(&loaded(None)), Some((true, FreedBy::Server)));
    check(&seen(None, Some(1)), Some(&[]), Some((false, FreedBy::Server)));
    check(&seen(None, Some(1)), None, None);
    check(&seen(None, None), None, None);
    check(&Reading::default(), Some(&loaded(None)), Some((true, FreedBy::Server)));
}
