//! Tests of selecting, paging and ages.

use super::*;
use nhi_model::{SCHEMA_VERSION, call::At, envelope::OpId};
use proptest::prelude::*;
use serde_json::{Value, json};

fn now() -> Timestamp {
    "2026-07-01T12:00:00Z".parse().expect("a time")
}

fn stored(record: Value) -> Stored {
    Stored { v: SCHEMA_VERSION, op: OpId("op".to_owned()), at: now(), stale: None, record }
}

fn lab(hosts: usize, filling: usize) -> BTreeMap<Key, Stored> {
    let records =
        (0..hosts).map(|n| (Key::host(&format!("h{n}")), stored(json!({"text": "x".repeat(filling)}))));
    records.collect()
}

fn ask(
    records: &BTreeMap<Key, Stored>,
    live: &BTreeMap<Key, Live>,
    request: &StateGet,
) -> Result<StateGot, Fault> {
    let records = records.iter().enumerate().map(|(n, (key, stored))| (key, n as u64, stored));
    let gone = [Key::host("gone"), Key::gpu("gone")];
    get(Moment { revision: 9, now: now(), records, unknown: &gone, live, stale: None }, request)
}

#[test]
fn selections_are_sections_prefixes_and_keys() {
    let mut records = lab(3, 1);
    records.insert(Key::gpu("h1"), stored(json!({})));
    let check = |select: &[&str], want: usize| {
        let select = select.iter().map(|s| (*s).to_owned()).collect();
        let got = ask(&records, &BTreeMap::new(), &StateGet { select, ..StateGet::default() }).unwrap();
        assert_eq!(got.records.len(), want);
        got.unknown.len()
    };
    assert_eq!(check(&[], 4), 2);
    assert_eq!(check(&["host"], 3), 1);
    assert_eq!(check(&["host.h1"], 1), 0);
    assert_eq!(check(&["*.h1"], 2), 0);
    assert_eq!(check(&["gpu", "host.h2"], 2), 1);
}

#[test]
fn nonsense_is_refused_with_a_hint() {
    let check = |request: StateGet| {
        let fault = ask(&lab(1, 1), &BTreeMap::new(), &request).unwrap_err();
        assert_eq!((fault.code.as_str(), fault.hint.is_empty()), ("bad-request", false), "{fault}");
    };
    check(StateGet { limit: Some(0), ..StateGet::default() });
    check(StateGet { live: true, at: Some(At::Revision(1)), ..StateGet::default() });
    check(StateGet { cursor: Some("nonsense".to_owned()), ..StateGet::default() });
    for select in ["", "vms", "vm..100", "vm."] {
        check(StateGet { select: vec![select.to_owned()], ..StateGet::default() });
    }
}

#[test]
fn a_page_is_at_most_a_megabyte_and_never_empty() {
    let records = lab(300, 10_000);
    let got = ask(&records, &BTreeMap::new(), &StateGet::default()).unwrap();
    let bytes = serde_json::to_vec(&got).unwrap().len();
    assert!((900_000..=PAGE_BYTES_MAX).contains(&bytes), "{bytes}");
    assert!(got.next.is_some());
    let huge = lab(2, 2 * PAGE_BYTES_MAX);
    let got = ask(&huge, &BTreeMap::new(), &StateGet::default()).unwrap();
    assert_eq!((got.records.len(), got.next.as_deref()), (1, Some("host.h0")));
}

#[test]
fn gauges_are_joined_while_they_are_valid() {
    let records = lab(2, 1);
    let gauge = |seconds: i64| Live {
        v: SCHEMA_VERSION,
        at: now(),
        valid_until: now() + jiff::SignedDuration::from_secs(seconds),
        record: json!({"cpu": 0.5}),
    };
    let live: BTreeMap<Key, Live> = [(Key::host("h0"), gauge(10)), (Key::host("h1"), gauge(0))].into();
    let got = ask(&records, &live, &StateGet { live: true, ..StateGet::default() }).unwrap();
    assert!(got.records[&Key::host("h0")].live.is_some());
    assert!(got.records[&Key::host("h1")].live.is_none());
    let got = ask(&records, &live, &StateGet::default()).unwrap();
    assert!(got.records[&Key::host("h0")].live.is_none());
}

#[test]
fn every_answer_tells_how_old_its_sources_are() {
    let key = Key::source("proxmox-home");
    let source = |coverage: Value| {
        stored(json!({"kind": "proxmox", "place": "https://pve.test:8006", "coverage": coverage}))
    };
    let age = |record: Stored, valid_s: Option<i64>, at: Option<At>| {
        let live: BTreeMap<Key, Live> = valid_s
            .map(|seconds| Live {
                v: SCHEMA_VERSION,
                at: now(),
                valid_until: now() + jiff::SignedDuration::from_secs(seconds),
                record: json!({"last_attempt": "2026-07-01T11:59:00Z", "last_success": "2026-07-01T11:59:00Z",
                    "duration_ms": 5, "requests": 7}),
            })
            .map(|live| (key.clone(), live))
            .into_iter()
            .collect();
        let mut got = ask(
            &[(key.clone(), record)].into(),
            &live,
            &StateGet { at, select: vec!["vm".to_owned()], ..StateGet::default() },
        )
        .unwrap();
        assert!(got.records.is_empty());
        got.sources.remove("proxmox-home").unwrap()
    };
    let complete = || source(json!({"kind": "complete"}));
    let fresh = age(complete(), Some(60), None);
    assert_eq!((fresh.age_s, fresh.stale), (Some(60), None));
    assert_eq!(age(complete(), Some(0), None).stale.unwrap(), "the scanner does not report");
    assert_eq!(age(complete(), None, None).age_s, None);
    assert_eq!(age(complete(), None, Some(At::Revision(3))).stale, None, "of the past there are no gauges");
    let unseen = source(json!({"kind": "unseen", "reason": "401"}));
    assert_eq!(age(unseen, Some(60), None).stale.unwrap(), "401");
    let odd = age(stored(json!({"kind": 1})), Some(60), None);
    assert!(odd.stale.unwrap().contains("source.proxmox-home"));
}

proptest! {
    /// Pages put together are the whole, whatever their size.
    #[test]
    fn pages_are_the_whole(count in 0..30usize, limit in 1..8u32, filling in 0..100usize) {
        let records = lab(count, filling);
        let mut seen = BTreeMap::new();
        let mut cursor = None;
        loop {
            let request = StateGet { limit: Some(limit), cursor, ..StateGet::default() };
            let got = ask(&records, &BTreeMap::new(), &request).unwrap();
            prop_assert!(got.records.len() <= limit as usize);
            for (key, record) in got.records {
                prop_assert!(seen.insert(key, record.record).is_none());
            }
            cursor = got.next;
            if cursor.is_none() {
                break;
            }
        }
        let want: BTreeMap<Key, Value> = records.into_iter().map(|(key, stored)| (key, stored.record)).collect();
        prop_assert_eq!(seen, want);
    }
}
