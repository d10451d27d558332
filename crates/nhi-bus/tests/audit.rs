//! The audit log against the real server: many writers, one chain, and every kind of tampering shows.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;

use async_nats::HeaderMap;
use futures::StreamExt;
use lab::{Lab, api, fill};
use nhi_bus::{
    audit::{self, AuditError},
    connect::{Bus, Target},
    cx::Cx,
    store,
};
use nhi_model::{
    audit::{AuditEntry, AuditKind},
    call::AuditList,
    identity::{self, IdentityName},
    plan::PlanId,
};
use nhi_testkit::{Controls, Fault, Nats, Proxy, wait_for};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    cell::Cell,
    collections::BTreeMap,
    time::{Duration, Instant},
};

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
    let first = audit::list(&state, &AuditList { after: None, limit: Some(45), ..AuditList::default() })
        .await
        .unwrap();
    assert_eq!((first.entries.len(), first.more), (45, true));
    let rest = audit::list(&state, &AuditList { after: Some(45), limit: None, ..AuditList::default() })
        .await
        .unwrap();
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

/// What acting does: one agent writes a lot from many tasks, while others write now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_writers_loses_no_entry_and_waits_for_none() {
    let lab = Lab::start().await;
    let mut writers = Vec::new();
    for who in ["act", "act", "scan", "state", "route", "mirror"] {
        writers.push(lab.nats.connect(&lab.cx, who).await);
    }
    let began = Instant::now();
    let appends = writers.iter().flat_map(|bus| (0..8).map(move |task| (bus, task)));
    let tasks = appends.map(|(bus, task)| async move {
        for number in 0..10 {
            append(bus, task * 10 + number).await;
        }
    });
    futures::future::join_all(tasks).await;
    let took = began.elapsed();
    let verified = audit::verify(&lab.scan).await.unwrap();
    assert_eq!((verified.entries, verified.intact, verified.fault), (480, true, None));
    assert_eq!(fill(&lab.nats.raw("home").await, STREAM).await, (480, 480), "each once");
    assert!(took < SOON, "{took:?}");
}

#[tokio::test]
async fn a_lone_writer_needs_one_round_trip() {
    let lab = Lab::start().await;
    append(&lab.scan, 0).await;
    let asked = lab.nats.raw("home").await;
    let mut asked = asked.subscribe("$JS.API.STREAM.>").await.unwrap();
    lab.home.ready().await.unwrap();
    for number in 1..50 {
        append(&lab.scan, number).await;
    }
    lab.home.ready().await.unwrap();
    let heard = tokio::time::timeout(Duration::from_millis(200), asked.next()).await;
    assert!(heard.is_err(), "it asked where the log ends: {heard:?}");
    // Somebody else's entry is met once, and then it goes on as before.
    append(&lab.home, 50).await;
    assert_eq!(append(&lab.scan, 51).await, 52);
    assert!(audit::verify(&lab.home).await.unwrap().intact);
}

async fn about(bus: &Bus, kind: AuditKind, what: &[(&str, &str)]) -> u64 {
    let details = what.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    audit::append(bus, kind, None, details).await.unwrap()
}

#[tokio::test]
async fn entries_are_found_by_plan_and_by_kind() {
    let lab = Lab::start().await;
    let act = lab.nats.connect(&lab.cx, "act").await;
    let mut wanted = Vec::new();
    for number in 0..40 {
        append(&lab.scan, number).await;
        let plan = format!("p-{number:04}");
        wanted.push(about(&act, AuditKind::PlanMade, &[("plan", &plan)]).await);
        wanted.push(about(&act, AuditKind::StepBegun, &[("run", &format!("r-{number:04}"))]).await);
    }
    let find = async |plan: Option<&str>, kind, after, limit| {
        let plan = plan.map(|plan| PlanId::parse(plan).unwrap());
        let listed = audit::list(&lab.scan, &AuditList { after, limit, plan, kind }).await.unwrap();
        let found: Vec<u64> = listed.entries.iter().map(|row| row.sequence).collect();
        assert_eq!(listed.more, listed.next.is_some());
        (found, listed.next)
    };
    assert_eq!(find(Some("p-0007"), None, None, None).await, (wanted[14..16].to_vec(), None));
    let made = find(Some("p-0007"), Some(AuditKind::PlanMade), None, None).await;
    assert_eq!(made, (wanted[14..15].to_vec(), None));
    assert_eq!(find(Some("p-none"), None, None, None).await, (vec![], None));
    assert_eq!(find(None, Some(AuditKind::AuthRevoked), None, None).await, (vec![], None));
    // In pages, without one twice or left out.
    let (mut begun, mut after, mut pages) = (Vec::new(), None, 0);
    loop {
        let (found, next) = find(None, Some(AuditKind::StepBegun), after, Some(7)).await;
        begun.extend(found);
        pages += 1;
        after = next;
        if next.is_none() {
            break;
        }
    }
    let expected: Vec<u64> = wanted.iter().skip(1).step_by(2).copied().collect();
    assert_eq!((begun, pages), (expected, 6));
    let row = audit::show(&act, wanted[14]).await.unwrap().unwrap();
    assert_eq!((row.sequence, row.entry.details["plan"].as_str()), (wanted[14], Some("p-0007")));
    assert!(audit::show(&act, 10_000).await.unwrap().is_none());
}

#[tokio::test]
async fn all_of_it_is_exported_as_it_stands() {
    let lab = Lab::start().await;
    for number in 0..30 {
        append(&lab.home, number).await;
    }
    let raw = lab.nats.raw("home").await;
    for text in ["no \"json\"", "{ \"a\": \n1 }"] {
        raw.request("nhi-audit.home", text.into()).await.unwrap();
    }
    let mut out = Vec::new();
    let mut progress = Vec::new();
    let written = audit::export(&lab.scan, 0, &mut out, |now| progress.push(now)).await.unwrap();
    assert_eq!((written, progress), (32, vec![audit::Progress { read: 32, of: 32 }]));
    let lines: Vec<Value> = out.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(parse).collect();
    assert_eq!(lines.len(), 32);
    for (number, line) in (1_u64..).zip(&lines[..30]) {
        let shown = audit::show(&lab.scan, number).await.unwrap().unwrap();
        assert_eq!(*line, json!({ "sequence": number, "entry": shown.entry }));
    }
    assert_eq!(lines[30], json!({ "sequence": 31, "text": "no \"json\"" }));
    assert_eq!(lines[31], json!({ "sequence": 32, "text": "{ \"a\": \n1 }" }));
    let mut rest = Vec::new();
    assert_eq!(audit::export(&lab.scan, 31, &mut rest, |_| {}).await.unwrap(), 1);
    assert_eq!(audit::export(&lab.scan, 32, &mut rest, |_| {}).await.unwrap(), 0);
}

fn parse(line: &[u8]) -> Value {
    serde_json::from_slice(line).unwrap()
}

/// Entries enough that a reading takes a while, written without waiting for each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_goes_on_after_the_server_was_killed() {
    // Without a sync for each entry; what was killed is the process, not the machine.
    let mut nats = Nats::start_with(Controls { default_sync_interval: true, ..Controls::default() }).await;
    let cx = Cx::new();
    let home = nats.connect(&cx, "home").await;
    store::provision(&home, &lab::settings()).await.unwrap();
    let scan = nats.connect(&cx, "scan").await;
    let count = 40_000;
    append(&home, 0).await;
    let texts = chained(&home, count).await;
    let raw = nats.raw("home").await;
    for text in texts {
        raw.publish("nhi-audit.home", text.into()).await.unwrap();
    }
    wait_for("all entries", SOON, async || fill(&raw, STREAM).await.1 == count).await;
    let killed = Cell::new(false);
    let (told, mut half) = tokio::sync::watch::channel(false);
    let reading = audit::verify_with(&scan, |progress| {
        let _sent = told.send(progress.read >= 10_000);
    });
    let kill = async {
        half.wait_for(|half| *half).await.unwrap();
        nats.kill9().await;
        nats.restart().await;
        killed.set(true);
    };
    let (verified, ()) = tokio::join!(reading, kill);
    let verified = verified.unwrap();
    assert!(killed.get());
    assert_eq!((verified.entries, verified.intact, verified.fault), (count, true, None));
}

/// The texts of the next entries, chained as they would be.
async fn chained(home: &Bus, count: u64) -> Vec<String> {
    let mut entry = audit::show(home, 1).await.unwrap().unwrap().entry;
    let mut texts = Vec::new();
    for number in 1..count {
        entry.prev = entry.hash;
        entry.details = details(number);
        entry.hash = String::new();
        let text = serde_json::to_string(&entry).unwrap();
        let hash = Sha256::digest(&text).iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        entry.hash = hash;
        texts.push(serde_json::to_string(&entry).unwrap());
    }
    texts
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
    // Long texts are cut and not refused: what happened has to be written down.
    let large = [("text".to_owned(), json!("x".repeat(20_000))), ("list".to_owned(), json!(vec!["y"; 5000]))];
    let sequence = audit::append(&lab.scan, AuditKind::MessageDropped, None, large.into()).await.unwrap();
    let entry = audit::show(&lab.scan, sequence).await.unwrap().unwrap().entry;
    let kept = entry.details["text"].as_str().unwrap();
    assert!(kept.ends_with('…') && kept.chars().count() <= 1001, "{} characters", kept.chars().count());
    assert!(entry.details["list"].as_array().unwrap().last().unwrap().as_str().unwrap().contains("more"));
    // What cannot be cut is.
    let names: BTreeMap<String, Value> =
        (0..2000).map(|number| (format!("field-{number:05}"), json!(1))).collect();
    let refused = audit::append(&lab.scan, AuditKind::MessageDropped, None, names).await;
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
        // Damage comes with a crash, after which nobody remembers the end.
        let home = lab.nats.connect(&lab.cx, "home").await;
        assert_eq!((append(&home, 9).await, append(&lab.scan, 10).await), (4, 5));
        let rows = audit::list(&lab.home, &AuditList { after: Some(3), limit: None, ..AuditList::default() })
            .await
            .unwrap()
            .entries;
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
        let listed =
            audit::list(&lab.home, &AuditList { after: Some(after), limit: None, ..AuditList::default() })
                .await
                .unwrap();
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
