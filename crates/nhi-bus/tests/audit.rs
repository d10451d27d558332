//! The audit log against the real server: many writers, one chain, and every kind of tampering shows.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;

use async_nats::HeaderMap;
use lab::{Lab, api, fill};
use nhi_bus::{
    audit::{self, AuditError},
    connect::{Bus, Target},
};
use nhi_model::{
    audit::{AuditEntry, AuditKind},
    call::AuditList,
    identity::{self, IdentityName},
};
use nhi_testkit::{Fault, Proxy, wait_for};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How long anything that happens by itself may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const STREAM: &str = "NHI_AUDIT";

fn details(number: u64) -> BTreeMap<String, Value> {
    [("number".to_owned(), json!(number)), ("ratio".to_owned(), json!(0.1))].into()
}

async fn append(bus: &Bus, number: u64) -> u64 {
    audit::append(bus, AuditKind::AuthAdded, Some(&identity::owner()), details(number)).await.unwrap()
}

#[tokio::test]
async fn many_writers_make_one_chain() {
    let lab = Lab::start().await;
    let state = lab.nats.connect(&lab.cx, "state").await;
    let empty = audit::verify(&lab.home).await.unwrap();
    assert_eq!((empty.entries, empty.intact, &*empty.head), (0, true, ""));
    let write = async |bus: &Bus| {
        for number in 0..20 {
            append(bus, number).await;
        }
    };
    tokio::join!(write(&lab.home), write(&lab.scan), write(&state));
    let verified = audit::verify(&lab.scan).await.unwrap();
    assert_eq!((verified.entries, verified.intact, verified.fault), (60, true, None));
    let first = audit::list(&state, &AuditList { after: None, limit: Some(45) }).await.unwrap();
    assert_eq!((first.entries.len(), first.more), (45, true));
    let rest = audit::list(&state, &AuditList { after: Some(45), limit: None }).await.unwrap();
    assert_eq!((rest.entries.len(), rest.more), (15, false));
    let rows: Vec<_> = first.entries.into_iter().chain(rest.entries).collect();
    assert!((1..).zip(&rows).all(|(sequence, row)| row.sequence == sequence));
    assert!(rows.windows(2).all(|pair| pair[1].entry.prev == pair[0].entry.hash));
    assert_eq!(rows.last().unwrap().entry.hash, verified.head);
    let agents: Vec<_> = ["home", "scan", "state"].map(|n| IdentityName::parse(n).unwrap()).into();
    for agent in agents {
        let mine = rows.iter().filter(|row| row.entry.agent == agent).count();
        assert_eq!(mine, 20, "{agent}");
    }
}

#[tokio::test]
async fn an_agent_cannot_write_as_another_or_take_away() {
    let lab = Lab::start().await;
    append(&lab.scan, 1).await;
    append(&lab.scan, 2).await;
    let raw = lab.nats.raw("home").await;
    let before = fill(&raw, STREAM).await;
    let deleted = api(&raw, "STREAM.MSG.DELETE.NHI_AUDIT", json!({ "seq": 1 })).await;
    assert_eq!(deleted["error"]["err_code"], json!(10057), "{deleted}");
    let purged = api(&raw, "STREAM.PURGE.NHI_AUDIT", Value::Null).await;
    assert_eq!(purged["error"]["err_code"], json!(10110), "{purged}");
    let mut rollup = HeaderMap::new();
    rollup.insert("Nats-Rollup", "all");
    let rolled = raw.request_with_headers("nhi-audit.home", rollup, "{}".into()).await.unwrap();
    assert!(String::from_utf8_lossy(&rolled.payload).contains("10111"), "{rolled:?}");
    let forged = lab.nats.raw("scan").await;
    let forged =
        tokio::time::timeout(Duration::from_millis(300), forged.request("nhi-audit.state", "{}".into()))
            .await;
    assert!(!matches!(forged, Ok(Ok(_))), "{forged:?}");
    assert_eq!(fill(&raw, STREAM).await, before);
    let large = [("text".to_owned(), json!("x".repeat(20_000)))].into();
    let refused = audit::append(&lab.scan, AuditKind::MessageDropped, None, large).await;
    assert!(matches!(refused, Err(AuditError::TooLarge { .. })), "{refused:?}");
}

/// A damaged block leaves a log that has counted further than what can be read, to nothing in the worst case.
#[tokio::test]
async fn a_log_that_lost_its_end_goes_on_and_says_so() {
    let lab = Lab::start().await;
    let texts = entries(&lab).await;
    for (kept, lost) in [(2, "3 to 3"), (0, "1 to 3")] {
        assert_eq!(verdict(&lab, &texts, None).await, None);
        let raw = lab.nats.raw("home").await;
        for sequence in kept + 1..=3 {
            let deleted = api(&raw, "STREAM.MSG.DELETE.NHI_AUDIT", json!({ "seq": sequence })).await;
            assert_eq!(deleted["success"], json!(true), "{deleted}");
        }
        assert_eq!(fill(&raw, STREAM).await, (kept, 3));
        assert_eq!((append(&lab.home, 9).await, append(&lab.scan, 10).await), (4, 5));
        let rows = audit::list(&lab.home, &AuditList { after: Some(3), limit: None }).await.unwrap().entries;
        assert_eq!(rows[0].entry.details["entries_lost"], json!(lost));
        assert_eq!((rows.len(), rows[1].entry.details.contains_key("entries_lost")), (2, false));
        assert_eq!(rows[1].entry.prev, rows[0].entry.hash);
        let verified = audit::verify(&lab.home).await.unwrap();
        assert!(!verified.intact && verified.fault.unwrap().contains("missing"));
    }
}

#[tokio::test]
async fn after_the_last_possible_entry_there_is_none() {
    let lab = Lab::start().await;
    append(&lab.home, 1).await;
    for after in [u64::MAX, u64::MAX - 1] {
        let listed = audit::list(&lab.home, &AuditList { after: Some(after), limit: None }).await.unwrap();
        assert!(listed.entries.is_empty() && !listed.more, "{listed:?}");
    }
}

/// Three good entries as they are stored.
async fn entries(lab: &Lab) -> Vec<String> {
    for number in 0..3 {
        append(&lab.home, number).await;
    }
    let rows = audit::list(&lab.home, &AuditList::default()).await.unwrap().entries;
    rows.iter().map(|row| serde_json::to_string(&row.entry).unwrap()).collect()
}

/// What is found in a log that holds exactly these texts; `gap` is taken out of the middle afterwards.
async fn verdict(lab: &Lab, texts: &[String], gap: Option<u64>) -> Option<String> {
    let raw = lab.nats.raw("home").await;
    api(&raw, "STREAM.DELETE.NHI_AUDIT", Value::Null).await;
    let config = json!({
        "name": STREAM, "subjects": ["nhi-audit.*"], "retention": "limits", "storage": "file",
        "allow_direct": true, "num_replicas": 1,
    });
    let made = api(&raw, "STREAM.CREATE.NHI_AUDIT", config).await;
    assert!(made.get("error").is_none(), "{made}");
    for text in texts {
        raw.request("nhi-audit.home", text.clone().into()).await.unwrap();
    }
    if let Some(gap) = gap {
        let deleted = api(&raw, "STREAM.MSG.DELETE.NHI_AUDIT", json!({ "seq": gap })).await;
        assert_eq!(deleted["success"], json!(true), "{deleted}");
    }
    let verified = audit::verify(&lab.home).await.unwrap();
    assert_eq!(verified.intact, verified.fault.is_none());
    verified.fault
}

#[tokio::test]
async fn tampering_shows() {
    let lab = Lab::start().await;
    let good = entries(&lab).await;
    assert_eq!(verdict(&lab, &good, None).await, None, "the control must pass");
    let check = async |texts: Vec<String>, gap: Option<u64>, expect: &str| {
        let fault = verdict(&lab, &texts, gap).await.unwrap_or_default();
        assert!(fault.contains(expect), "{fault:?} instead of {expect:?}");
    };
    let changed = good[1].replace("\"number\":1", "\"number\":7");
    assert_ne!(changed, good[1]);
    check(vec![good[0].clone(), changed, good[2].clone()], None, "entry 2 was changed").await;
    check(good.clone(), Some(2), "entries 2 to 2 are missing").await;
    check(good.clone(), Some(3), "entries 3 to 3 are missing").await;
    check(good[1..].to_vec(), None, "entry 1 does not follow").await;
    check([&good[..], &good[1..2]].concat(), None, "entry 4 does not follow").await;
    check(vec![good[0].clone(), "not an entry".to_owned()], None, "entry 2 is not an audit entry").await;
    // The log goes on after a foreign entry, and says so for ever.
    append(&lab.home, 9).await;
    let verified = audit::verify(&lab.home).await.unwrap();
    assert_eq!((verified.entries, verified.intact), (3, false));
    let listed = audit::list(&lab.home, &AuditList::default()).await.unwrap();
    assert_eq!(listed.entries.len(), 2, "one that cannot be read does not stop the others");
    let last: &AuditEntry = &listed.entries[1].entry;
    assert_eq!(last.prev.len(), 64, "it is chained to the foreign text");
}

#[tokio::test]
async fn a_lost_acknowledgement_appends_once() {
    let lab = Lab::start().await;
    let proxy = Proxy::start(&lab.cx, lab.nats.address()).await.unwrap();
    let name = IdentityName::parse("scan").unwrap();
    let target = Target::plain(proxy.url());
    let scan = Bus::connect(&lab.cx, &target, &name, &lab.nats.seed("scan")).await.unwrap();
    let raw = lab.nats.raw("home").await;
    append(&lab.home, 0).await;
    proxy.set(Fault::Delay(Duration::from_millis(400)));
    let lose = async {
        wait_for("the entry", SOON, async || fill(&raw, STREAM).await.0 == 2).await;
        let mut link = scan.link();
        proxy.set(Fault::Cut);
        link.wait_for(|link| !link.is_up()).await.unwrap();
        // Somebody else is faster than our second look.
        append(&lab.home, 1).await;
        proxy.set(Fault::Pass);
    };
    let first = audit::append(&scan, AuditKind::MessageDropped, None, details(5));
    let (first, ()) = tokio::join!(first, lose);
    assert_eq!(first.unwrap(), 2);
    assert_eq!(fill(&raw, STREAM).await, (3, 3));
    assert!(audit::verify(&lab.home).await.unwrap().intact);
}
