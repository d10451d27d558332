//! Streams made and corrected, and records written, against the real server.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/records.rs"]
mod records;

use async_nats::HeaderMap;
use lab::{Lab, api, fill, settings};
use nhi_bus::{
    audit,
    connect::{Bus, Target},
    cx::Cx,
    store::{self, CommitError, Committed, Outcome, ProvisionError, StoreSettings},
};
use nhi_decide::change::{Change, What};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    audit::AuditKind,
    call::AuditList,
    envelope::{Live, OpId},
    identity::IdentityName,
};
use nhi_testkit::{Fault, Nats, Proxy, wait_for};
use records::{at, commit, key, put, retire};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How long anything that happens by itself may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
const STATE: &str = "KV_nhi-state";

#[tokio::test]
async fn provisioning_twice_changes_nothing() {
    let nats = Nats::start().await;
    let home = nats.connect(&Cx::new(), "home").await;
    let names = |done: Vec<store::Provisioned>| -> Vec<(String, bool)> {
        done.into_iter().map(|p| (p.stream, p.outcome == Outcome::Kept)).collect()
    };
    let streams = [
        "KV_nhi-state",
        "KV_nhi-live",
        "KV_nhi-plans",
        "NHI_TIMERS",
        "NHI_AUDIT",
        "KV_nhi-usage",
        "NHI_LEDGER",
        "KV_nhi-jobs",
        "KV_nhi-results",
    ];
    let first = names(store::provision(&home, &settings()).await.unwrap());
    assert_eq!(first, streams.map(|s| (s.to_owned(), false)));
    let second = names(store::provision(&home, &settings()).await.unwrap());
    assert_eq!(second, streams.map(|s| (s.to_owned(), true)));
}

#[tokio::test]
async fn copies_no_server_can_keep_are_refused_in_one_sentence() {
    let nats = Nats::start().await;
    let home = nats.connect(&Cx::new(), "home").await;
    for replicas in [0, 6, 255] {
        let error = store::provision(&home, &StoreSettings { replicas }).await.unwrap_err();
        assert!(matches!(error, ProvisionError::BadReplicas { .. }), "{error}");
        assert!(error.to_string().contains("1 to 5"), "{error}");
    }
    // This server is alone.
    let error = store::provision(&home, &StoreSettings { replicas: 3 }).await.unwrap_err();
    assert!(matches!(error, ProvisionError::TooFewServers { replicas: 3, .. }), "{error:?}");
}

#[tokio::test]
async fn a_stream_that_is_deleted_comes_back_and_that_is_written_down() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    store::keep_every(&lab.cx, &lab.home, settings(), Duration::from_millis(50));
    for stream in [STATE, "KV_nhi-live"] {
        remove(&raw, stream).await;
        wait_for("the stream to be made anew", SOON, async || {
            let info = api(&raw, &format!("STREAM.INFO.{stream}"), Value::Null).await;
            if info.get("error").is_none() { Ok(()) } else { Err(info) }
        })
        .await;
    }
    let entries = wait_for("the entry", SOON, async || {
        let list = AuditList::default();
        let entries = audit::list(&lab.home, &list).await.unwrap().entries;
        if entries.is_empty() { Err("none") } else { Ok(entries) }
    })
    .await;
    let (kind, details) = (entries[0].entry.kind, &entries[0].entry.details);
    assert_eq!((kind, &details["stream"], entries.len()), (AuditKind::StoreChanged, &json!(STATE), 1));
}

/// The configuration of a provisioned stream, taken down again.
async fn template(home: &Bus, raw: &async_nats::Client, stream: &str) -> Map<String, Value> {
    store::provision(home, &settings()).await.unwrap();
    let info = api(raw, &format!("STREAM.INFO.{stream}"), Value::Null).await;
    remove(raw, stream).await;
    let mut config = info["config"].as_object().unwrap().clone();
    // So that one of them can be made wrong without contradicting another.
    for field in ["deny_purge", "deny_delete", "metadata"] {
        config.remove(field);
    }
    config
}

async fn remove(raw: &async_nats::Client, stream: &str) {
    let removed = api(raw, &format!("STREAM.DELETE.{stream}"), Value::Null).await;
    assert_eq!(removed["success"], json!(true), "{removed}");
}

#[tokio::test]
async fn each_wrong_setting_is_corrected() {
    let nats = Nats::start().await;
    let home = nats.connect(&Cx::new(), "home").await;
    let raw = nats.raw("home").await;
    let wrong = [
        (STATE, "allow_rollup_hdrs", json!(true)),
        (STATE, "allow_atomic", json!(false)),
        (STATE, "deny_delete", json!(false)),
        (STATE, "deny_purge", json!(false)),
        (STATE, "allow_direct", json!(false)),
        (STATE, "max_msgs_per_subject", json!(64)),
        (STATE, "max_age", json!(3_600_000_000_000_u64)),
        (STATE, "max_msgs", json!(5)),
        (STATE, "max_bytes", json!(1_000_000)),
        (STATE, "max_msg_size", json!(1000)),
        (STATE, "max_consumers", json!(3)),
        (STATE, "discard", json!("old")),
        (STATE, "discard_new_per_subject", json!(true)),
        (STATE, "no_ack", json!(true)),
        (STATE, "duplicate_window", json!(1_000_000_000)),
        (STATE, "republish", Value::Null),
        (STATE, "republish", json!({ "src": "$KV.nhi-state.>", "dest": "elsewhere.>" })),
        (STATE, "subject_transform", json!({ "src": "$KV.nhi-state.a", "dest": "$KV.nhi-state.b" })),
        ("KV_nhi-live", "allow_rollup_hdrs", json!(true)),
        ("KV_nhi-live", "max_msgs_per_subject", json!(10)),
        ("KV_nhi-live", "max_age", json!(120_000_000_000_u64)),
        ("KV_nhi-plans", "allow_rollup_hdrs", json!(true)),
        ("KV_nhi-plans", "allow_atomic", json!(false)),
        ("KV_nhi-plans", "deny_delete", json!(false)),
        ("KV_nhi-plans", "max_msgs_per_subject", json!(-1)),
        ("KV_nhi-plans", "max_age", json!(3_600_000_000_000_u64)),
        ("KV_nhi-plans", "republish", Value::Null),
        ("NHI_TIMERS", "deny_delete", json!(false)),
        ("NHI_TIMERS", "max_msgs_per_subject", json!(5)),
        ("NHI_TIMERS", "max_age", json!(3_600_000_000_000_u64)),
        ("NHI_TIMERS", "max_msgs", json!(5)),
        ("NHI_TIMERS", "republish", json!({ "src": "nhi-timer.>", "dest": "elsewhere.>" })),
        ("NHI_TIMERS", "allow_msg_schedules", json!(false)),
        ("NHI_AUDIT", "deny_purge", json!(false)),
        ("NHI_AUDIT", "allow_rollup_hdrs", json!(true)),
        ("NHI_AUDIT", "max_age", json!(3_600_000_000_000_u64)),
    ];
    for (stream, field, value) in wrong {
        let mut config = template(&home, &raw, stream).await;
        config.insert(field.to_owned(), value);
        let made = api(&raw, &format!("STREAM.CREATE.{stream}"), json!(config)).await;
        assert!(made.get("error").is_none(), "{stream} {field}: {made}");
        let done = store::provision(&home, &settings()).await.unwrap();
        let done = done.into_iter().find(|p| p.stream == stream).unwrap();
        let Outcome::Corrected(corrections) = done.outcome else { panic!("{stream} {field} was kept") };
        assert!(corrections.iter().any(|c| c.field == field), "{stream} {field}: {corrections:?}");
        let again = store::provision(&home, &settings()).await.unwrap();
        assert!(again.iter().all(|p| p.outcome == Outcome::Kept), "{stream} {field}: {again:?}");
        remove(&raw, stream).await;
    }
}

#[tokio::test]
async fn what_cannot_be_corrected_is_refused_and_left_alone() {
    let nats = Nats::start().await;
    let home = nats.connect(&Cx::new(), "home").await;
    let raw = nats.raw("home").await;
    let mirror = json!({ "name": "ORIGIN" });
    let wrong = [
        (STATE, "storage", vec![("storage", json!("memory"))]),
        (STATE, "retention", vec![("retention", json!("workqueue"))]),
        (STATE, "subjects", vec![("subjects", json!(["$KV.nhi-state.>", "other.>"]))]),
        (STATE, "allow_msg_ttl", vec![("allow_msg_ttl", json!(true))]),
        (STATE, "persist_mode", vec![("persist_mode", json!("async")), ("allow_atomic", json!(false))]),
        (STATE, "sources", vec![("sources", json!([mirror]))]),
        ("KV_nhi-live", "storage", vec![("storage", json!("file"))]),
        (STATE, "allow_msg_schedules", vec![("allow_msg_schedules", json!(true)), ("discard", json!("old"))]),
        ("KV_nhi-plans", "storage", vec![("storage", json!("memory"))]),
        ("KV_nhi-plans", "deny_purge", vec![("deny_purge", json!(true))]),
        ("KV_nhi-plans", "allow_msg_ttl", vec![("allow_msg_ttl", json!(true))]),
        (
            "KV_nhi-plans",
            "allow_msg_schedules",
            vec![("allow_msg_schedules", json!(true)), ("discard", json!("old"))],
        ),
        ("NHI_TIMERS", "storage", vec![("storage", json!("memory"))]),
        ("NHI_TIMERS", "subjects", vec![("subjects", json!(["nhi-timer.>", "other.>"]))]),
        ("NHI_TIMERS", "retention", vec![("retention", json!("workqueue"))]),
        ("NHI_AUDIT", "storage", vec![("storage", json!("memory"))]),
    ];
    for (stream, field, changes) in wrong {
        let mut config = template(&home, &raw, stream).await;
        for (name, value) in changes {
            config.insert(name.to_owned(), value);
        }
        let made = api(&raw, &format!("STREAM.CREATE.{stream}"), json!(config)).await;
        assert!(made.get("error").is_none(), "{stream} {field}: {made}");
        match store::provision(&home, &settings()).await {
            Err(ProvisionError::Wrong { stream: s, field: f, .. }) => assert_eq!((&*s, f), (stream, field)),
            other => panic!("{stream} {field}: {other:?}"),
        }
        let info = api(&raw, &format!("STREAM.INFO.{stream}"), Value::Null).await;
        assert_eq!(info["config"], made["config"], "{stream} {field}");
        remove(&raw, stream).await;
    }
    // A sealed stream can only be made by sealing it.
    store::provision(&home, &settings()).await.unwrap();
    let info = api(&raw, "STREAM.INFO.KV_nhi-state", Value::Null).await;
    let mut config = info["config"].clone();
    config["sealed"] = json!(true);
    api(&raw, "STREAM.UPDATE.KV_nhi-state", config).await;
    let refused = store::provision(&home, &settings()).await;
    assert!(matches!(refused, Err(ProvisionError::Wrong { field: "sealed", .. })), "{refused:?}");
}

#[tokio::test]
async fn a_rollup_header_erases_nothing_but_would_without_the_flag() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1)]).await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Rollup", "all");
    let attack = async || {
        let subject = "$KV.nhi-state.project.a";
        let answer = raw.request_with_headers(subject, headers.clone(), "x".into()).await.unwrap();
        serde_json::from_slice::<Value>(&answer.payload).unwrap()
    };
    assert_eq!(attack().await["error"]["err_code"], json!(10111));
    assert_eq!(fill(&raw, STATE).await, (2, 2));
    // Control: the same stream with the flag on loses everything.
    let mut config = template(&lab.home, &raw, STATE).await;
    config.insert("allow_rollup_hdrs".to_owned(), json!(true));
    api(&raw, "STREAM.CREATE.KV_nhi-state", json!(config)).await;
    commit(&lab.scan, "b", &[put("a", 0, 1), put("b", 0, 1)]).await;
    attack().await;
    assert_eq!(fill(&raw, STATE).await.0, 1, "the control must fail");
}

#[tokio::test]
async fn records_are_written_retired_and_written_again() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    assert_eq!(commit(&lab.scan, "none", &[]).await, Committed { revision: 0, messages: 0 });
    assert_eq!(fill(&raw, STATE).await, (0, 0));
    let first = commit(&lab.scan, "one", &[put("a", 0, 1), put("b", 0, 1), put("c", 0, 1)]).await;
    assert_eq!(first, Committed { revision: 3, messages: 3 });
    let second = commit(&lab.scan, "two", &[put("a", 1, 2), retire("b", 2)]).await;
    assert_eq!(second.revision, 5);
    // Readers do not see the marker, so a decision to write b again expects nothing.
    let third = commit(&lab.scan, "three", &[put("b", 0, 3), put("d", 0, 1)]).await;
    assert_eq!(third.revision, 7);
    let marker = api(&raw, "STREAM.MSG.GET.KV_nhi-state", json!({ "seq": 5 })).await;
    let decode = |text: &Value| {
        use base64::{Engine, prelude::BASE64_STANDARD};
        String::from_utf8(BASE64_STANDARD.decode(text.as_str().unwrap()).unwrap()).unwrap()
    };
    let headers = decode(&marker["message"]["hdrs"]);
    for line in ["KV-Operation: DEL", "Nhi-Op: two", &format!("Nhi-At: {}", at(0)), "Nats-Batch-Commit: 1"] {
        assert!(headers.contains(line), "{line} in {headers}");
    }
    let value = api(&raw, "STREAM.MSG.GET.KV_nhi-state", json!({ "seq": 4 })).await;
    let value: Value = serde_json::from_str(&decode(&value["message"]["data"])).unwrap();
    let expect = json!({ "v": 1, "op": "two", "at": at(0), "record": { "value": 2 } });
    assert_eq!(value, expect);
}

#[tokio::test]
async fn a_conflict_leaves_every_key_as_it_was() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1), put("c", 0, 1)]).await;
    let before = fill(&raw, STATE).await;
    let stale = [put("a", 1, 2), put("b", 1, 2), put("c", 3, 2)];
    let op = OpId("b".to_owned());
    match store::commit(&lab.scan, &op, at(1), &stale).await {
        Err(CommitError::Conflict { key: k, expected: 1, found: 2 }) => assert_eq!(k, key("b")),
        other => panic!("{other:?}"),
    }
    assert_eq!(fill(&raw, STATE).await, before);
    for (changes, missing) in
        [([put("x", 7, 1), put("y", 0, 1)], "x"), ([put("y", 0, 1), retire("x", 7)], "x")]
    {
        match store::commit(&lab.scan, &op, at(1), &changes).await {
            Err(CommitError::Conflict { key: k, expected: 7, found: 0 }) => assert_eq!(k, key(missing)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fill(&raw, STATE).await, before);
    // Control: the same changes one by one leave half of them.
    for change in &stale {
        drop(store::commit(&lab.scan, &op, at(1), std::slice::from_ref(change)).await);
    }
    assert_eq!(fill(&raw, STATE).await.0, before.0 + 2, "the control must tear");
}

#[tokio::test]
async fn a_large_first_scan_goes_in_several_batches_and_is_recognised_when_repeated() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let changes: Vec<Change> = (0..2500).map(|n| put(&format!("p{n}"), 0, n)).collect();
    let first = commit(&lab.scan, "scan", &changes).await;
    assert_eq!(first, Committed { revision: 2500, messages: 2500 });
    // The caller died before it heard; the same decision again writes nothing.
    let again = commit(&lab.scan, "scan", &changes).await;
    assert_eq!(again, first);
    assert_eq!(fill(&raw, STATE).await, (2500, 2500));
}

/// A bus whose path to the server can be spoilt.
async fn proxied(lab: &Lab, who: &str) -> (Proxy, Bus) {
    let proxy = Proxy::start(&lab.cx, lab.nats.address()).await.unwrap();
    let target = Target::plain(proxy.url());
    let name = IdentityName::parse(who).unwrap();
    let bus = Bus::connect(&lab.cx, &target, &name, &lab.nats.seed(who)).await.unwrap();
    (proxy, bus)
}

/// Closes the connection, with everything on its way, and lets the next one through.
async fn lose(proxy: &Proxy, bus: &Bus) {
    let mut link = bus.link();
    proxy.set(Fault::Cut);
    link.wait_for(|link| !link.is_up()).await.unwrap();
    proxy.set(Fault::Pass);
}

/// Long enough to act between a write and its acknowledgement.
const HELD: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_lost_acknowledgement_is_recognised_as_the_own_write() {
    for count in [1_u64, 5] {
        let lab = Lab::start().await;
        let raw = lab.nats.raw("home").await;
        let (proxy, scan) = proxied(&lab, "scan").await;
        let changes: Vec<Change> = (0..count).map(|n| put(&format!("p{n}"), 0, 1)).collect();
        proxy.set(Fault::Delay(HELD));
        let op = OpId("mine".to_owned());
        let committing = async {
            let done = store::commit(&scan, &op, at(0), &changes).await;
            (done, Instant::now())
        };
        let then_lose = async {
            wait_for("the write to arrive", SOON, async || fill(&raw, STATE).await.0 == count).await;
            lose(&proxy, &scan).await;
            Instant::now()
        };
        let ((done, heard), lost) = tokio::join!(committing, then_lose);
        assert!(lost < heard, "the acknowledgement came through, so this proves nothing");
        assert_eq!(done.unwrap(), Committed { revision: count, messages: changes.len() });
        assert_eq!(fill(&raw, STATE).await, (count, count), "it was not written twice");
    }
}

#[tokio::test]
async fn a_write_that_never_arrived_is_done_again() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let (proxy, scan) = proxied(&lab, "scan").await;
    proxy.set(Fault::Delay(HELD));
    let op = OpId("mine".to_owned());
    let changes = [put("a", 0, 1), put("b", 0, 1)];
    let committing = store::commit(&scan, &op, at(0), &changes);
    let then_lose = async {
        // The first message leaves us meanwhile; it waits in the proxy, which forgets it when cut.
        lab.home.ready().await.unwrap();
        assert_eq!(fill(&raw, STATE).await, (0, 0));
        lose(&proxy, &scan).await;
    };
    let (done, ()) = tokio::join!(committing, then_lose);
    assert_eq!(done.unwrap(), Committed { revision: 2, messages: 2 });
    assert_eq!(fill(&raw, STATE).await, (2, 2));
}

#[tokio::test]
async fn a_foreign_write_after_a_lost_acknowledgement_is_told_apart() {
    let lab = Lab::start().await;
    let (proxy, scan) = proxied(&lab, "scan").await;
    proxy.set(Fault::Delay(HELD));
    let op = OpId("mine".to_owned());
    let changes = [put("a", 0, 1), put("b", 0, 1)];
    let committing = store::commit(&scan, &op, at(0), &changes);
    let then_lose = async {
        commit(&lab.scan, "other", &[put("b", 0, 2)]).await;
        lose(&proxy, &scan).await;
    };
    let (done, ()) = tokio::join!(committing, then_lose);
    assert!(
        matches!(&done, Err(CommitError::Conflict { key: k, expected: 0, found: 1 }) if *k == key("b")),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_write_without_a_link_or_a_right_is_refused_at_once() {
    let mut lab = Lab::start().await;
    let op = OpId("x".to_owned());
    let mirror = lab.nats.connect(&lab.cx, "mirror").await;
    let before = Instant::now();
    for changes in [vec![put("a", 0, 1)], vec![put("a", 0, 1), put("b", 0, 1)]] {
        let refused = store::commit(&mirror, &op, at(0), &changes).await;
        assert!(matches!(refused, Err(CommitError::Refused { .. })), "{refused:?}");
    }
    let large = Change {
        key: key("a"),
        expected: 0,
        what: What::Put { record: json!("x".repeat(store::VALUE_BYTES_MAX)), stale: None },
    };
    let refused = store::commit(&lab.scan, &op, at(0), &[put("b", 0, 1), large]).await;
    assert!(matches!(&refused, Err(CommitError::TooLarge { key: k, .. }) if *k == key("a")), "{refused:?}");
    assert_eq!(fill(&lab.nats.raw("home").await, STATE).await, (0, 0));
    lab.nats.kill9().await;
    let mut link = lab.scan.link();
    link.wait_for(|link| !link.is_up()).await.unwrap();
    let refused = store::commit(&lab.scan, &op, at(0), &[put("a", 0, 1)]).await;
    assert!(matches!(refused, Err(CommitError::Disconnected)), "{refused:?}");
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
}

fn live(value: u64) -> Live {
    let now = Timestamp::now();
    Live {
        v: SCHEMA_VERSION,
        at: now,
        valid_until: now + Duration::from_secs(60),
        record: json!({ "cpu": value }),
    }
}

#[tokio::test]
async fn gauges_are_written_and_their_bucket_comes_back_after_a_restart() {
    let mut lab = Lab::start().await;
    let gauges: Vec<_> = (0..200).map(|n| (key(&format!("p{n}")), live(n))).collect();
    store::put_live(&lab.scan, &gauges).await.unwrap();
    store::put_live(&lab.scan, &gauges[..100]).await.unwrap();
    let raw = lab.nats.raw("home").await;
    assert_eq!(fill(&raw, "KV_nhi-live").await, (200, 300));
    store::keep(&lab.cx, &lab.home, settings());
    lab.nats.kill9().await;
    assert!(store::put_live(&lab.scan, &gauges).await.unwrap_err().is_passing());
    lab.nats.restart().await;
    wait_for("the bucket to be there again", SOON, async || {
        store::put_live(&lab.scan, &gauges).await.map_err(|error| error.to_string())
    })
    .await;
    let mirror = lab.nats.connect(&lab.cx, "mirror").await;
    assert!(!store::put_live(&mirror, &gauges).await.unwrap_err().is_passing(), "the mirror owns no gauges");
}
