//! Whether a router may send anything there: missing, old, locked and red are each a no.

use super::{at, at_ms, lock};
use nhi_decide::semaphore::available;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    ai::LostWhy,
    envelope::Live,
    gpu::{Gpu, GpuGauges, Light, Reason},
};
use std::collections::BTreeMap;

fn live(read_at: Timestamp, light: Light) -> Live {
    let gauges = GpuGauges {
        light,
        reason: Reason::Idle,
        text: "nobody is there".to_owned(),
        since: read_at,
        cards: Vec::new(),
        idle_s: None,
        running: 0,
        waiting: 0,
        loaded: Vec::new(),
        loaded_tokens: BTreeMap::new(),
        freed: None,
    };
    let record = serde_json::to_value(gauges).unwrap();
    Live { v: SCHEMA_VERSION, at: read_at, valid_until: read_at + jiff::SignedDuration::from_mins(5), record }
}

fn check(now: Timestamp, gpu: Option<&Gpu>, live: Option<&Live>, expect: Result<Light, LostWhy>) {
    let found = available(now, gpu, live);
    assert_eq!(found.clone().map_err(|no| no.why), expect, "{found:?}");
}

#[test]
fn a_reading_counts_for_thirty_seconds() {
    let green = live(at(0), Light::Green);
    check(at(0), None, Some(&green), Ok(Light::Green));
    check(at(30), None, Some(&green), Ok(Light::Green));
    check(at_ms(30_001), None, Some(&green), Err(LostWhy::GpuUnknown));
    check(at(0), None, None, Err(LostWhy::GpuUnknown));
    check(at(0), None, Some(&live(at(0), Light::Yellow)), Ok(Light::Yellow));
    check(at(0), None, Some(&live(at(0), Light::Red)), Err(LostWhy::GpuTaken));
}

#[test]
fn its_own_end_counts_when_it_is_earlier() {
    let mut green = live(at(0), Light::Green);
    green.valid_until = at(5);
    check(at_ms(4_999), None, Some(&green), Ok(Light::Green));
    check(at(5), None, Some(&green), Err(LostWhy::GpuUnknown));
}

#[test]
fn a_clock_ahead_does_not_keep_a_reading_young() {
    let green = live(at(100), Light::Green);
    check(at(70), None, Some(&green), Ok(Light::Green));
    check(at_ms(69_999), None, Some(&green), Err(LostWhy::GpuUnknown));
}

#[test]
fn a_lock_says_until_when() {
    let gpu = Gpu { host: "pc".to_owned(), lock: Some(lock(60)), ..Gpu::default() };
    let green = live(at(59), Light::Green);
    let no = available(at(59), Some(&gpu), Some(&green)).unwrap_err();
    assert_eq!((no.why, no.until), (LostWhy::GpuTaken, Some(at(60))));
    check(at(60), Some(&gpu), Some(&green), Ok(Light::Green));
}

#[test]
fn what_nobody_understands_is_a_no() {
    let mut odd = live(at(0), Light::Green);
    odd.record["light"] = "blue".into();
    check(at(0), None, Some(&odd), Err(LostWhy::GpuUnknown));
}
