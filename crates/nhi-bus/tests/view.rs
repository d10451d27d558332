//! Views against the real server: whole commits only, outages, and stores that were exchanged behind their backs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;
#[path = "support/records.rs"]
mod records;

use futures::StreamExt;
use lab::{Lab, api, fill, settings};
use nhi_bus::{
    connect::{Bus, Target},
    cx::Cx,
    store,
    view::{LiveView, Snapshot, StoreChangeKind, View, ViewError, ViewSettings},
};
use nhi_decide::change::Change;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    envelope::{Live, OpId},
    identity::IdentityName,
};
use nhi_testkit::{Fault, Nats, Proxy, wait_for};
use records::{at, commit, key, put, retire};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How long anything that happens by itself may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// How long a watcher is given to hear of what a view has seen already.
const DEAF: Duration = Duration::from_secs(1);
const QUICK: ViewSettings = ViewSettings { check_every: Duration::from_millis(200) };
/// Looks at the stream all the time, to meet every race with what is delivered meanwhile.
const RESTLESS: ViewSettings = ViewSettings { check_every: Duration::from_micros(1) };

async fn view(lab: &Lab) -> View {
    let mirror = lab.nats.connect(&lab.cx, "mirror").await;
    View::open_with(&lab.cx, &mirror, QUICK).await.unwrap()
}

fn value(snapshot: &Snapshot, id: &str) -> Option<Value> {
    snapshot.records.get(&key(id)).map(|entry| entry.stored.record["value"].clone())
}

async fn reached(view: &View, revision: u64) -> Arc<Snapshot> {
    let limit = tokio::time::timeout(SOON, view.reached(revision)).await;
    limit.unwrap_or_else(|_| panic!("revision {revision} did not come: {view:?}"))
}

#[tokio::test]
async fn a_view_follows_what_is_written() {
    let lab = Lab::start().await;
    let empty = view(&lab).await;
    assert_eq!((empty.read().revision, empty.read().records.len()), (0, 0));
    assert!(empty.read().stale.is_none());
    let mut changed = empty.changed();
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1)]).await;
    tokio::time::timeout(SOON, changed.wait_for(|revision| *revision == 2)).await.unwrap().unwrap();
    let snapshot = empty.read();
    assert_eq!((value(&snapshot, "a"), value(&snapshot, "b")), (Some(json!(1)), Some(json!(1))));
    assert_eq!(snapshot.records[&key("a")].revision, 1);
    commit(&lab.scan, "b", &[put("a", 1, 2), retire("b", 2)]).await;
    let snapshot = reached(&empty, 4).await;
    assert_eq!((value(&snapshot, "a"), value(&snapshot, "b")), (Some(json!(2)), None));
    // One that is opened later sees the same.
    let later = view(&lab).await;
    assert_eq!(later.read().records, snapshot.records);
    assert_eq!(later.read().revision, 4);
}

#[tokio::test]
async fn a_value_from_a_newer_program_is_kept_apart_and_the_rest_goes_on() {
    let lab = Lab::start().await;
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1)]).await;
    let followed = view(&lab).await;
    let raw = lab.nats.raw("home").await;
    for (name, value) in [("project.a", r#"{"v":2,"all":"new"}"#), ("project.c", "\u{1}"), ("planet.x", "{}")]
    {
        raw.request(format!("$KV.nhi-state.{name}"), value.into()).await.unwrap();
    }
    commit(&lab.scan, "b", &[put("b", 2, 2)]).await;
    let snapshot = reached(&followed, 6).await;
    let opened = view(&lab).await.read();
    for snapshot in [snapshot, opened] {
        assert_eq!((value(&snapshot, "a"), value(&snapshot, "b")), (None, Some(json!(2))));
        let kept: Vec<_> = snapshot.quarantined.keys().map(String::as_str).collect();
        assert_eq!(kept, ["planet.x", "project.a", "project.c"]);
        assert!(snapshot.quarantined["project.a"].contains("schema version 2"));
    }
}

#[tokio::test]
async fn without_a_bucket_or_a_right_there_is_no_view() {
    let nats = Nats::start().await;
    let cx = Cx::new();
    let home = nats.connect(&cx, "home").await;
    let missing = View::open(&cx, &home).await;
    assert!(matches!(missing, Err(ViewError::Api(_))), "{missing:?}");
    store::provision(&home, &settings()).await.unwrap();
    let owner = nats.connect(&cx, "owner").await;
    let refused = View::open(&cx, &owner).await;
    assert!(matches!(refused, Err(ViewError::Api(_))), "{refused:?}");
    let refused = LiveView::open(&cx, &owner).await;
    assert!(matches!(refused, Err(ViewError::Api(_))), "{refused:?}");
}

/// Rounds of the torn-read test.
fn rounds() -> u64 {
    if std::env::var_os("NHI_FULL").is_some() { 2_000 } else { 150 }
}

/// Records of one batch. All carry the same number.
const WIDTH: u64 = 40;

/// Writes batches in which all records carry the number of the batch.
async fn write_rounds(lab: &Lab, rounds: u64) {
    for round in 0..rounds {
        // A record of its own now and then, so that batches do not simply alternate.
        let changes: Vec<Change> = (0..WIDTH)
            .map(|n| put(&format!("p{n}"), if round == 0 { 0 } else { (round - 1) * WIDTH + n + 1 }, round))
            .collect();
        commit(&lab.scan, &format!("r{round}"), &changes).await;
    }
}

fn numbers(snapshot: &Snapshot) -> BTreeSet<Option<u64>> {
    (0..WIDTH).map(|n| value(snapshot, &format!("p{n}")).and_then(|v| v.as_u64())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_half_a_batch() {
    let lab = Lab::start().await;
    let mirror = lab.nats.connect(&lab.cx, "mirror").await;
    let followed = View::open_with(&lab.cx, &mirror, RESTLESS).await.unwrap();
    let end = rounds() * WIDTH;
    let read = async {
        let mut changed = followed.changed();
        let mut seen = 0;
        loop {
            let snapshot = followed.read();
            assert_eq!(numbers(&snapshot).len(), 1, "torn at revision {}", snapshot.revision);
            assert_eq!(snapshot.revision % WIDTH, 0, "inside a batch");
            seen += 1;
            if snapshot.revision == end {
                return seen;
            }
            changed.changed().await.unwrap();
        }
    };
    // The list a new view starts with is made while batches are being written.
    let open = async {
        let mut opened = 0;
        loop {
            let fresh = View::open_with(&lab.cx, &mirror, QUICK).await.unwrap();
            let snapshot = fresh.read();
            assert_eq!(numbers(&snapshot).len(), 1, "torn when opened at revision {}", snapshot.revision);
            opened += 1;
            if snapshot.revision == end {
                return opened;
            }
        }
    };
    let (torn, seen, opened, ()) =
        tokio::join!(torn_control(&lab, end), read, open, write_rounds(&lab, rounds()));
    assert!(seen > 10 && opened > 2, "{seen} snapshots, {opened} views");
    assert_eq!(*followed.events().borrow(), None, "a store that is written to is not another one");
    assert!(torn > 0, "the control must be torn: a view that applies message by message");
}

/// How often a view that applies each message as it comes shows different numbers.
async fn torn_control(lab: &Lab, end: u64) -> u64 {
    let raw = lab.nats.raw("home").await;
    let stream = async_nats::jetstream::new(raw.clone()).get_stream("KV_nhi-state").await.unwrap();
    let config = async_nats::jetstream::consumer::push::OrderedConfig {
        deliver_subject: raw.new_inbox(),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(config).await.unwrap().messages().await.unwrap();
    let mut numbers = vec![None; usize::try_from(WIDTH).unwrap()];
    let mut torn = 0;
    loop {
        let message = messages.next().await.unwrap().unwrap();
        let stored: Value = serde_json::from_slice(&message.payload).unwrap();
        let id: usize = message.subject.rsplit_once(".p").unwrap().1.parse().unwrap();
        numbers[id] = stored["record"]["value"].as_u64();
        torn += u64::from(numbers.iter().collect::<BTreeSet<_>>().len() > 1);
        if message.info().unwrap().stream_sequence == end {
            return torn;
        }
    }
}

/// Commits a round for as long as it takes, as an agent does that decides the same again.
async fn insist(scan: &Bus, round: u64) {
    let expected = |n| if round == 0 { 0 } else { (round - 1) * WIDTH + n + 1 };
    let changes: Vec<Change> = (0..WIDTH).map(|n| put(&format!("p{n}"), expected(n), round)).collect();
    let op = OpId(format!("r{round}"));
    let done = wait_for("the commit", Duration::from_secs(60), async || {
        let done = store::commit(scan, &op, at(0), &changes).await;
        done.map(|done| done.revision).map_err(|error| error.to_string())
    });
    assert_eq!(done.await, (round + 1) * WIDTH, "written twice, or in part");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_killed_in_the_middle_neither_loses_nor_tears() {
    let kills = if std::env::var_os("NHI_FULL").is_some() { 25 } else { 3 };
    let lab = Lab::start().await;
    let followed = view(&lab).await;
    let Lab { mut nats, scan, .. } = lab;
    let is_over = AtomicBool::new(false);
    let write = async {
        let mut rounds = 0;
        while !is_over.load(Ordering::Relaxed) {
            insist(&scan, rounds).await;
            rounds += 1;
        }
        rounds
    };
    let kill = async {
        for number in 0..kills {
            // Some rounds later, and then anywhere in the next ones.
            reached(&followed, followed.read().revision + 3 * WIDTH).await;
            let moment = Duration::from_micros(number * 1_700 % 9_000);
            drop(tokio::time::timeout(moment, std::future::pending::<()>()).await);
            nats.kill9().await;
            nats.restart().await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    let read = async {
        let mut changed = followed.changed();
        loop {
            let snapshot = followed.read();
            assert_eq!(numbers(&snapshot).len(), 1, "torn at revision {}", snapshot.revision);
            changed.changed().await.unwrap();
        }
    };
    let rounds = tokio::select! {
        (rounds, ()) = async { tokio::join!(write, kill) } => rounds,
        () = read => unreachable!("it reads for ever"),
    };
    let snapshot = reached(&followed, rounds * WIDTH).await;
    assert_eq!(numbers(&snapshot), [Some(rounds - 1)].into());
    assert_eq!(fill(&nats.raw("home").await, "KV_nhi-state").await.1, rounds * WIDTH);
    assert_eq!(*followed.events().borrow(), None, "a crash is not a rollback");
}

#[tokio::test]
async fn an_outage_leaves_the_last_state_marked_and_heals_by_itself() {
    let mut lab = Lab::start().await;
    commit(&lab.scan, "a", &[put("a", 0, 1)]).await;
    let followed = view(&lab).await;
    lab.nats.kill9().await;
    wait_for("the mark", SOON, async || followed.read().stale.clone()).await;
    assert_eq!(value(&followed.read(), "a"), Some(json!(1)), "the last state stays");
    lab.nats.restart().await;
    let snapshot = wait_for("fresh state", SOON, async || {
        let snapshot = followed.read();
        if snapshot.stale.is_none() { Ok(snapshot) } else { Err(snapshot.stale.clone()) }
    })
    .await;
    assert_eq!(value(&snapshot, "a"), Some(json!(1)));
    wait_for("the writer's link", SOON, async || lab.scan.is_up()).await;
    commit(&lab.scan, "b", &[put("a", 1, 2)]).await;
    assert_eq!(value(&*reached(&followed, 2).await, "a"), Some(json!(2)));
    assert_eq!(*followed.events().borrow(), None, "it is the same store");
}

#[tokio::test]
async fn a_delivery_that_dies_without_a_word_is_noticed() {
    let lab = Lab::start().await;
    commit(&lab.scan, "a", &[put("a", 0, 1)]).await;
    let followed = view(&lab).await;
    let raw = lab.nats.raw("home").await;
    let names = api(&raw, "CONSUMER.NAMES.KV_nhi-state", Value::Null).await;
    for name in names["consumers"].as_array().unwrap() {
        let verb = format!("CONSUMER.DELETE.KV_nhi-state.{}", name.as_str().unwrap());
        assert_eq!(api(&raw, &verb, Value::Null).await["success"], json!(true));
    }
    commit(&lab.scan, "b", &[put("a", 1, 2)]).await;
    assert_eq!(value(&*reached(&followed, 2).await, "a"), Some(json!(2)));
}

#[tokio::test]
async fn nothing_is_left_behind_on_the_server() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let followed = view(&lab).await;
    let count = async || {
        let names = api(&raw, "CONSUMER.NAMES.KV_nhi-state", Value::Null).await;
        names["consumers"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count().await, 1);
    drop(followed);
    wait_for("no consumer", SOON, async || count().await == 0).await;
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

type Watch = async_nats::jetstream::kv::Watch;

/// The library's own watcher, over the same path.
async fn watcher(lab: &Lab, proxy: &Proxy) -> Watch {
    let raw = lab.nats.raw_options("home").connect(proxy.url()).await.unwrap();
    let bucket = async_nats::jetstream::new(raw).get_key_value("nhi-state").await.unwrap();
    let mut watch = bucket.watch_with_history("project.a").await.unwrap();
    let first = tokio::time::timeout(SOON, watch.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(first.revision, 3);
    watch
}

/// A lab whose store is put back to a copy while the view is connected through a proxy: two records before the
/// copy, one after it.
async fn rolled_back(written_since: u64) -> (Lab, View, Watch, Proxy) {
    let mut lab = Lab::start().await;
    let proxy = Proxy::start(&lab.cx, lab.nats.address()).await.unwrap();
    let target = Target::plain(proxy.url());
    let name = IdentityName::parse("mirror").unwrap();
    let seed = lab.nats.seed("mirror");
    let mirror = Bus::connect(&lab.cx, &target, &name, &seed).await.unwrap();
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1)]).await;
    lab.nats.stop().await;
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&lab.nats.store_dir(), copy.path());
    lab.nats.restart().await;
    wait_for("the writer's link", SOON, async || lab.scan.is_up()).await;
    commit(&lab.scan, "b", &[put("a", 1, 2)]).await;
    let followed = View::open_with(&lab.cx, &mirror, QUICK).await.unwrap();
    assert_eq!(value(&followed.read(), "a"), Some(json!(2)));
    let watch = watcher(&lab, &proxy).await;
    proxy.set(Fault::Cut);
    lab.nats.stop().await;
    fs::remove_dir_all(lab.nats.store_dir()).unwrap();
    copy_dir(copy.path(), &lab.nats.store_dir());
    lab.nats.restart().await;
    wait_for("the writer's link", SOON, async || lab.scan.is_up()).await;
    for number in 0..written_since {
        commit(&lab.scan, &format!("c{number}"), &[put(&format!("n{number}"), 0, 1)]).await;
    }
    proxy.set(Fault::Pass);
    (lab, followed, watch, proxy)
}

#[tokio::test]
async fn a_store_that_was_rolled_back_is_noticed_and_read_anew() {
    for (written_since, kind) in [(0, StoreChangeKind::RolledBack), (3, StoreChangeKind::Rewritten)] {
        let (lab, followed, mut watch, _proxy) = rolled_back(written_since).await;
        let mut events = followed.events();
        let event =
            tokio::time::timeout(SOON, events.wait_for(Option::is_some)).await.unwrap().unwrap().unwrap();
        assert_eq!((event.kind, event.before.last_seq), (kind, 3));
        let snapshot = wait_for("fresh state", SOON, async || {
            let snapshot = followed.read();
            if snapshot.stale.is_none() { Ok(snapshot) } else { Err(snapshot.stale.clone()) }
        })
        .await;
        assert_eq!(value(&snapshot, "a"), Some(json!(1)), "what the store says now");
        assert_eq!(snapshot.revision, 2 + written_since);
        let next = commit(&lab.scan, "d", &[put("a", 1, 9)]).await;
        assert_eq!(value(&*reached(&followed, next.revision).await, "a"), Some(json!(9)));
        if kind == StoreChangeKind::RolledBack {
            // The control: the library's own watcher, with the same write before it, is deaf.
            let heard = tokio::time::timeout(DEAF, async {
                loop {
                    if let Some(Ok(entry)) = watch.next().await {
                        return entry;
                    }
                }
            });
            assert!(heard.await.is_err(), "the control must be deaf");
        }
    }
}

#[tokio::test]
async fn a_bucket_made_anew_is_noticed_within_seconds() {
    let lab = Lab::start().await;
    commit(&lab.scan, "a", &[put("a", 0, 1), put("b", 0, 1)]).await;
    let followed = view(&lab).await;
    let raw = lab.nats.raw("home").await;
    api(&raw, "STREAM.DELETE.KV_nhi-state", Value::Null).await;
    store::provision(&lab.home, &settings()).await.unwrap();
    commit(&lab.scan, "b", &[put("z", 0, 1)]).await;
    let mut events = followed.events();
    let limit = tokio::time::timeout(Duration::from_secs(10), events.wait_for(Option::is_some));
    assert_eq!(limit.await.unwrap().unwrap().unwrap().kind, StoreChangeKind::Recreated);
    let snapshot = wait_for("the new bucket", SOON, async || {
        let snapshot = followed.read();
        (snapshot.stale.is_none() && snapshot.revision == 1).then_some(snapshot)
    })
    .await;
    assert_eq!((value(&snapshot, "a"), value(&snapshot, "z")), (None, Some(json!(1))));
}

fn live(value: u64, seconds: i64) -> Live {
    let now = Timestamp::now();
    let valid_until = now + jiff::SignedDuration::from_secs(seconds);
    Live { v: SCHEMA_VERSION, at: now, valid_until, record: json!({ "cpu": value }) }
}

#[tokio::test]
async fn gauges_are_followed_and_say_nothing_when_they_are_old() {
    let mut lab = Lab::start().await;
    store::keep(&lab.cx, &lab.home, settings());
    let gauges = |value| vec![(key("a"), live(value, 60)), (key("b"), live(value, -1))];
    store::put_live(&lab.scan, &gauges(1)).await.unwrap();
    let mirror = lab.nats.connect(&lab.cx, "mirror").await;
    let followed = LiveView::open(&lab.cx, &mirror).await.unwrap();
    assert_eq!(followed.read().len(), 2);
    let valid = followed.valid_at(Timestamp::now());
    assert_eq!(valid.keys().collect::<Vec<_>>(), [&key("a")]);
    store::put_live(&lab.scan, &gauges(2)).await.unwrap();
    let cpu = |view: &LiveView| view.read().get(&key("a")).map(|live| live.record["cpu"].clone());
    wait_for("the second", SOON, async || cpu(&followed) == Some(json!(2))).await;
    lab.nats.kill9().await;
    lab.nats.restart().await;
    wait_for("the third", SOON, async || {
        drop(store::put_live(&lab.scan, &gauges(3)).await);
        cpu(&followed) == Some(json!(3))
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_is_retried_is_seen_once() {
    let lab = Lab::start().await;
    let followed = view(&lab).await;
    let op = OpId("same".to_owned());
    for _ in 0..3 {
        store::commit(&lab.scan, &op, at(0), &[put("a", 0, 1), put("b", 0, 1)]).await.unwrap();
    }
    let snapshot = reached(&followed, 2).await;
    assert_eq!((snapshot.revision, snapshot.records.len()), (2, 2));
    assert_eq!(fill(&lab.nats.raw("home").await, "KV_nhi-state").await, (2, 2));
}
