//! Which request wakes a machine, how often, and how long it is worth waiting for.

use super::{at, at_ms};
use nhi_decide::semaphore::{Unavailable, Wake};
use nhi_model::ai::{LostWhy, Priority};

fn wake() -> Wake {
    serde_json::from_value(serde_json::json!({ "mac": "3c:7c:3f:12:34:56" })).unwrap()
}

#[test]
fn it_is_woken_for_whoever_waits_and_not_for_each_request() {
    let wake = wake();
    assert!(
        wake.is_due(at(0), Priority::Chat, false, None) && wake.is_due(at(0), Priority::Chat, true, None)
    );
    assert!(!wake.is_due(at(0), Priority::Bulk, false, None));
    assert!(!wake.is_due(at(0), Priority::Autocomplete, false, None));
    assert!(!wake.is_due(at_ms(299_999), Priority::Chat, false, Some(at(0))));
    assert!(wake.is_due(at(300), Priority::Chat, false, Some(at(0))));
    let frugal = Wake { only_if_needed: true, priorities: [Priority::Bulk].into(), ..wake };
    assert!(frugal.is_due(at(0), Priority::Bulk, false, None));
    assert!(!frugal.is_due(at(0), Priority::Bulk, true, None), "somebody else can answer");
}

#[test]
fn it_sleeps_on_outside_its_hours() {
    // 08:00 in UTC is 09:00 in Rome in winter.
    let hours = |hours: &[u8], zone: Option<&str>| {
        let zone = zone.map(str::to_owned);
        let wake = Wake { hours: hours.iter().copied().collect(), zone, ..wake() };
        wake.is_due(at(0), Priority::Chat, false, None)
    };
    assert!(hours(&[8], None) && !hours(&[9], None) && !hours(&[7], None));
    assert!(hours(&[9], Some("Europe/Rome")) && !hours(&[8], Some("Europe/Rome")));
    assert!(!hours(&[8], Some("Rome")), "a zone that is none allows nothing");
}

#[test]
fn it_is_worth_waiting_for_until_it_should_be_up() {
    let wake = wake();
    let no = |why| Unavailable { why, text: "nothing was heard of the GPU".to_owned(), until: None };
    let silent = no(LostWhy::GpuUnknown);
    let coming = wake.coming(at(59), at(0), &silent).unwrap();
    assert_eq!((coming.why, coming.until), (LostWhy::GpuUnknown, Some(at(60))));
    assert_eq!(coming.text, "nothing was heard of the GPU; it was woken 59 s ago");
    assert_eq!(wake.coming(at(60), at(0), &silent), None);
    assert_eq!(wake.coming(at(0), at(1), &silent), None, "a clock that was set back");
    assert_eq!(wake.coming(at(1), at(0), &no(LostWhy::GpuTaken)), None, "it is up, and somebody plays");
}
