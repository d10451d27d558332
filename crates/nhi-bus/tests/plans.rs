//! What acting remembers, against the real server: written together or not at all, seen whole, forgotten on purpose,
//! and by nobody but the actuator.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "support/lab.rs"]
mod lab;

use futures::StreamExt;
use lab::{Lab, api, fill, settings};
use nhi_bus::{
    connect::{Bus, Target},
    plans::{self, PlansChange, PlansError, PlansSnapshot, PlansView, Row},
    store::{self, ApiError, AskError},
    view::{StoreChangeKind, ViewSettings},
};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    identity::{self, IdentityName},
    plan::{Digest, PlanId, PlanRecord},
    plans::PlansKey,
    run::{Freeze, Hold, Holder, Lease, Reservation, Run, RunId, RunState},
};
use nhi_testkit::{Fault, Proxy, wait_for};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How long anything that happens by itself may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);
/// Long enough to act between a write and its acknowledgement.
const HELD: Duration = Duration::from_millis(700);
const QUICK: ViewSettings = ViewSettings { check_every: Duration::from_millis(200) };
const STREAM: &str = "KV_nhi-plans";
const CLUSTER: &str = "home";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn op(text: &str) -> OpId {
    OpId(text.to_owned())
}

fn plan_id(tail: &str) -> PlanId {
    PlanId::parse(&format!("p-{tail}")).unwrap()
}

fn run_id(tail: &str) -> RunId {
    plan_id(tail).run()
}

fn run_key(tail: &str) -> PlansKey {
    PlansKey::Run(run_id(tail))
}

fn lease_key(vmid: u32) -> PlansKey {
    PlansKey::Lease { cluster: CLUSTER.to_owned(), vmid }
}

fn a_run(tail: &str, revision: u64) -> Run {
    Run {
        v: 1,
        id: run_id(tail),
        plan: plan_id(tail),
        digest: Digest::of([7; 32]),
        by: identity::owner(),
        at: at(0),
        holder: None,
        state: RunState::Done { revision },
        journal: Vec::new(),
        dead_man: None,
        made: std::collections::BTreeMap::new(),
        ended_at: None,
        acknowledged: None,
        unseen: Vec::new(),
    }
}

fn lease(tail: &str) -> Lease {
    Lease { run: run_id(tail), generation: 1, at: at(0) }
}

fn put_run(tail: &str, expected: u64, revision: u64) -> PlansChange {
    PlansChange::put(run_key(tail), expected, &a_run(tail, revision))
}

fn put_lease(vmid: u32, expected: u64, tail: &str) -> PlansChange {
    PlansChange::put(lease_key(vmid), expected, &lease(tail))
}

fn a_plan(tail: &str) -> PlanRecord {
    serde_json::from_value(json!({
        "plan": {
            "v": 1, "id": format!("p-{tail}"), "cluster": CLUSTER, "by": "aider",
            "intent": { "do": "start", "guest": "105" },
            "made_at": at(0), "expires_at": at(900), "revision": 1, "reads": {}, "targets": [], "requires": [],
            "steps": [], "expects": [], "effects": [], "config_changes": [], "impacts": [], "risk": "low",
            "undo": { "intents": [], "complete": true, "cost": "nothing" }, "on_failure": "stop",
            "digest": Digest::of([7; 32]),
        },
        "gate": { "verdict": "automatic", "reasons": [], "approvals": 0, "rehearse": false },
        "state": { "is": "open" },
    }))
    .unwrap()
}

async fn act(lab: &Lab) -> Bus {
    lab.nats.connect(&lab.cx, "act").await
}

async fn commit(bus: &Bus, name: &str, changes: &[PlansChange]) -> u64 {
    plans::commit(bus, &op(name), at(0), changes).await.unwrap()
}

async fn get(bus: &Bus, tail: &str) -> Option<Row<Run>> {
    plans::get(bus, &run_key(tail)).await.unwrap()
}

async fn reached(view: &PlansView, revision: u64) -> Arc<PlansSnapshot> {
    let limit = tokio::time::timeout(SOON, view.reached(revision)).await;
    limit.unwrap_or_else(|_| panic!("revision {revision} did not come: {view:?}"))
}

#[tokio::test]
async fn rows_are_written_read_removed_and_written_again() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    assert_eq!(commit(&act, "none", &[]).await, 0);
    assert_eq!(get(&act, "aaaa").await, None);
    assert_eq!(commit(&act, "one", &[put_run("aaaa", 0, 1), put_lease(105, 0, "aaaa")]).await, 2);
    let row = get(&act, "aaaa").await.unwrap();
    assert_eq!(row, Row { revision: 1, at: at(0), value: a_run("aaaa", 1) });
    let done = [put_run("aaaa", 1, 2), PlansChange::remove(lease_key(105), 2)];
    assert_eq!(commit(&act, "two", &done).await, 4);
    assert_eq!(plans::get::<Lease>(&act, &lease_key(105)).await.unwrap(), None);
    // Nobody sees the marker: the next one expects nothing.
    assert_eq!(commit(&act, "three", &[put_lease(105, 0, "bbbb"), put_run("bbbb", 0, 1)]).await, 6);
    let taken: Row<Lease> = plans::get(&act, &lease_key(105)).await.unwrap().unwrap();
    assert_eq!((taken.revision, taken.value), (5, lease("bbbb")));
}

#[tokio::test]
async fn a_conflict_leaves_every_row_as_it_was() {
    let lab = Lab::start().await;
    let (act, raw) = (act(&lab).await, lab.nats.raw("home").await);
    commit(&act, "a", &[put_run("aaaa", 0, 1), put_lease(105, 0, "aaaa")]).await;
    let before = fill(&raw, STREAM).await;
    // Somebody else's run wants the guest.
    let changes = [put_run("bbbb", 0, 1), put_lease(105, 0, "bbbb"), put_lease(106, 0, "bbbb")];
    let refused = plans::commit(&act, &op("b"), at(0), &changes).await.unwrap_err();
    assert!(refused.is_conflict());
    let PlansError::Conflict { key, expected: 0, found: 2 } = refused else { panic!("{refused:?}") };
    assert_eq!((key, fill(&raw, STREAM).await), (lease_key(105), before));
    // An older holder's write is refused by the revision it knows.
    commit(&act, "c", &[put_run("aaaa", 1, 2)]).await;
    let late = plans::commit(&act, &op("d"), at(0), &[put_run("aaaa", 1, 3)]).await;
    assert!(matches!(late, Err(PlansError::Conflict { expected: 1, found: 3, .. })), "{late:?}");
    // Control: one by one half of them stays.
    for change in &changes {
        drop(plans::commit(&act, &op("b"), at(0), std::slice::from_ref(change)).await);
    }
    assert_eq!(fill(&raw, STREAM).await.0, before.0 + 3, "the control must tear");
}

#[tokio::test]
async fn what_cannot_land_at_once_is_refused_before_anything_is_written() {
    let lab = Lab::start().await;
    let (act, raw) = (act(&lab).await, lab.nats.raw("home").await);
    let check =
        async |changes: &[PlansChange]| plans::commit(&act, &op("x"), at(0), changes).await.unwrap_err();
    let twice = check(&[put_run("aaaa", 0, 1), put_run("aaaa", 1, 1)]).await;
    assert!(matches!(twice, PlansError::Twice { .. }), "{twice}");
    let nothing = check(&[PlansChange::remove(lease_key(1), 0)]).await;
    assert!(matches!(nothing, PlansError::RemovesNothing { .. }), "{nothing}");
    let text = "x".repeat(plans::VALUE_BYTES_MAX);
    let large = check(&[put_run("aaaa", 0, 1), PlansChange::put(run_key("bbbb"), 0, &text)]).await;
    assert!(matches!(&large, PlansError::TooLarge { key, .. } if *key == run_key("bbbb")), "{large}");
    let many: Vec<_> = (0..1001).map(|vmid| put_lease(vmid, 0, "aaaa")).collect();
    assert!(matches!(check(&many).await, PlansError::TooMany { rows: 1001, .. }));
    let text = "x".repeat(plans::VALUE_BYTES_MAX - 200);
    let heavy: Vec<_> = (0..5).map(|vmid| PlansChange::put(lease_key(vmid), 0, &text)).collect();
    assert!(matches!(check(&heavy).await, PlansError::TooMany { rows: 5, .. }));
    assert_eq!(fill(&raw, STREAM).await, (0, 0));
    // Control: four of these fit, and the server takes what is allowed here.
    assert_eq!(commit(&act, "y", &heavy[..3]).await, 3);
    assert_eq!(commit(&act, "z", &many[3..1000]).await, 1000);
}

#[tokio::test]
async fn only_the_actuator_writes_and_forgets() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let act = act(&lab).await;
    let revision = commit(&act, "a", &[put_run("aaaa", 0, 1)]).await;
    let before = fill(&raw, STREAM).await;
    for who in ["scan", "mirror", "state", "route"] {
        let other = lab.nats.connect(&lab.cx, who).await;
        let write = plans::commit(&other, &op("b"), at(0), &[put_run("aaaa", revision, 2)]).await;
        assert!(matches!(write, Err(PlansError::Refused { .. })), "{who}: {write:?}");
        let forget = plans::forget(&other, &run_key("aaaa")).await;
        assert!(matches!(forget, Err(PlansError::Refused { .. })), "{who}: {forget:?}");
        assert!(get(&other, "aaaa").await.is_some(), "{who} may read");
    }
    let owner = lab.nats.connect(&lab.cx, "owner").await;
    let read = plans::get::<Run>(&owner, &run_key("aaaa")).await;
    let refused = PlansError::Api(ApiError::Ask(AskError::Refused { subject: String::new() }));
    assert_eq!(read.unwrap_err().to_string(), refused.to_string());
    assert_eq!(fill(&raw, STREAM).await, before);
    // A marker that stands there already: then the purge itself is refused.
    commit(&act, "c", &[PlansChange::remove(run_key("aaaa"), revision)]).await;
    let forget = plans::forget(&lab.scan, &run_key("aaaa")).await;
    assert!(matches!(forget, Err(PlansError::Refused { .. })), "{forget:?}");
    assert_eq!(fill(&raw, STREAM).await.0, 2);
}

#[tokio::test]
async fn what_is_over_can_be_forgotten_and_everybody_hears_of_it() {
    let lab = Lab::start().await;
    let (act, raw) = (act(&lab).await, lab.nats.raw("home").await);
    let view = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap();
    let owner = lab.nats.raw("owner").await;
    let mut feed = owner.subscribe("nhi-pub.plan.>").await.unwrap();
    nhi_testkit::settle(&owner).await;
    let mut revision = 0;
    for number in 0..100 {
        revision = commit(&act, &format!("n{number}"), &[put_run("old0", revision, number)]).await;
    }
    let kept = commit(&act, "keep", &[put_run("keep", 0, 1), put_lease(105, 0, "keep")]).await;
    assert_eq!(fill(&raw, STREAM).await, (66, kept), "64 versions of each");
    assert_eq!(reached(&view, kept).await.runs.len(), 2);
    plans::forget(&act, &run_key("old0")).await.unwrap();
    assert_eq!(fill(&raw, STREAM).await, (3, kept + 1), "a marker is left");
    assert_eq!(get(&act, "old0").await, None);
    let snapshot = reached(&view, kept + 1).await;
    assert_eq!(snapshot.runs.keys().collect::<Vec<_>>(), [&run_id("keep")]);
    let mut heard = Vec::new();
    while heard.len() < 103 {
        let message = tokio::time::timeout(SOON, feed.next()).await.unwrap().unwrap();
        let is_marker = message.headers.unwrap().get("KV-Operation").is_some();
        heard.push((message.subject.to_string(), is_marker));
    }
    assert_eq!(heard[102], ("nhi-pub.plan.run.r-old0".to_owned(), true));
    // Again, and what never was, changes nothing.
    plans::forget(&act, &run_key("old0")).await.unwrap();
    plans::forget(&act, &run_key("none")).await.unwrap();
    assert_eq!(fill(&raw, STREAM).await, (3, kept + 1));
    let opened = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap().read();
    assert_eq!((opened.revision, opened.runs.len(), opened.leases.len()), (kept + 1, 1, 1));
    commit(&act, "more", &[put_run("keep", kept - 1, 2)]).await;
    assert_eq!(reached(&view, kept + 2).await.runs[&run_id("keep")].value, a_run("keep", 2));
}

#[tokio::test]
async fn a_view_has_rows_of_every_kind_and_keeps_apart_what_cannot_be_read() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let view = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap();
    assert!(view.read().stale.is_none() && view.read().plans.is_empty());
    let guest = || (CLUSTER.to_owned(), 105);
    let owner = identity::owner();
    let hold = Hold { by: owner.clone(), reason: "mine".to_owned(), until: at(60) };
    let freeze = Freeze { by: owner, reason: "stop".to_owned(), since: at(0) };
    let holder = Holder { actuator: "a1".to_owned(), generation: 3, until: at(30) };
    let reservation = Reservation { plan: plan_id("aaaa"), until: at(60) };
    let (cluster, vmid) = guest();
    let changes = [
        PlansChange::put(PlansKey::Plan(plan_id("aaaa")), 0, &a_plan("aaaa")),
        put_run("aaaa", 0, 1),
        put_lease(105, 0, "aaaa"),
        PlansChange::put(PlansKey::Hold { cluster: cluster.clone(), vmid }, 0, &hold),
        PlansChange::put(PlansKey::Vmid { cluster, vmid }, 0, &reservation),
        PlansChange::put(PlansKey::Freeze, 0, &freeze),
        PlansChange::put(PlansKey::Actuator, 0, &holder),
    ];
    let revision = commit(&act, "all", &changes).await;
    let snapshot = reached(&view, revision).await;
    assert_eq!(snapshot.plans[&plan_id("aaaa")].value, a_plan("aaaa"));
    assert_eq!((&snapshot.runs[&run_id("aaaa")].value, snapshot.runs.len()), (&a_run("aaaa", 1), 1));
    assert_eq!((&snapshot.leases[&guest()].value, snapshot.leases[&guest()].revision), (&lease("aaaa"), 3));
    assert_eq!((&snapshot.holds[&guest()].value, &snapshot.vmids[&guest()].value), (&hold, &reservation));
    assert_eq!(snapshot.freeze.as_ref().unwrap().value, freeze);
    assert_eq!(snapshot.actuator.as_ref().unwrap().value, holder);

    let raw = lab.nats.raw("home").await;
    let newer = r#"{"v":9,"shape":"new"}"#;
    let wrong = r#"{"v":1,"op":"x","at":"2026-01-01T00:00:00Z","record":{"id":7}}"#;
    for (key, value) in [("run.r-aaaa", newer), ("lease.home.105", wrong), ("moon.x", "{}")] {
        raw.request(format!("$KV.nhi-plans.{key}"), value.into()).await.unwrap();
    }
    let thaw = [PlansChange::remove(PlansKey::Freeze, 6)];
    let revision = commit(&act, "thaw", &thaw).await;
    let followed = reached(&view, revision).await;
    let opened = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap().read();
    for snapshot in [followed, opened] {
        assert!(snapshot.runs.is_empty() && snapshot.leases.is_empty() && snapshot.freeze.is_none());
        let kept: Vec<_> = snapshot.quarantined.keys().map(String::as_str).collect();
        assert_eq!(kept, ["lease.home.105", "moon.x", "run.r-aaaa"]);
        assert!(snapshot.quarantined["run.r-aaaa"].contains("version 9"), "{:?}", snapshot.quarantined);
    }
    let read = plans::get::<Run>(&act, &run_key("aaaa")).await;
    assert!(matches!(read, Err(PlansError::Unreadable { .. })), "{read:?}");
}

#[tokio::test]
async fn a_reader_never_sees_a_lease_without_its_run() {
    let lab = Lab::start().await;
    let act = act(&lab).await;
    let view = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap();
    let rounds: u64 = 150;
    let write = async {
        let mut revisions = [0; 4];
        for round in 0..rounds {
            let changes: Vec<_> = (0_u32..3)
                .map(|n| PlansChange {
                    expected: revisions[n as usize],
                    ..PlansChange::put(lease_key(n), 0, &Lease { generation: round, ..lease("aaaa") })
                })
                .chain([put_run("aaaa", revisions[3], round)])
                .collect();
            let last = commit(&act, &format!("r{round}"), &changes).await;
            revisions = [last - 3, last - 2, last - 1, last];
        }
    };
    let read = async {
        let mut changed = view.changed();
        loop {
            let snapshot = view.read();
            let mut rounds: Vec<u64> = snapshot.leases.values().map(|row| row.value.generation).collect();
            rounds.extend(snapshot.runs.values().map(|row| match row.value.state {
                RunState::Done { revision } => revision,
                _ => panic!("it is always done"),
            }));
            rounds.dedup();
            assert!(rounds.len() <= 1, "torn at {}: {rounds:?}", snapshot.revision);
            if snapshot.revision == 4 * rounds_of(&rounds) + 4 && rounds == [149] {
                return;
            }
            changed.changed().await.unwrap();
        }
    };
    tokio::join!(write, tokio::time::timeout(SOON, read)).1.unwrap();
}

fn rounds_of(rounds: &[u64]) -> u64 {
    rounds.first().copied().unwrap_or_default()
}

#[tokio::test]
async fn a_lost_acknowledgement_is_recognised_as_the_own_write() {
    let lab = Lab::start().await;
    let raw = lab.nats.raw("home").await;
    let proxy = Proxy::start(&lab.cx, lab.nats.address()).await.unwrap();
    let name = IdentityName::parse("act").unwrap();
    let target = Target::plain(proxy.url());
    let act = Bus::connect(&lab.cx, &target, &name, &lab.nats.seed("act")).await.unwrap();
    proxy.set(Fault::Delay(HELD));
    let lose = async {
        wait_for("the write to arrive", SOON, async || fill(&raw, STREAM).await.0 == 2).await;
        let mut link = act.link();
        proxy.set(Fault::Cut);
        link.wait_for(|link| !link.is_up()).await.unwrap();
        proxy.set(Fault::Pass);
    };
    let changes = [put_run("aaaa", 0, 1), put_lease(105, 0, "aaaa")];
    let (op, at) = (op("mine"), at(0));
    let (done, ()) = tokio::join!(plans::commit(&act, &op, at, &changes), lose);
    assert_eq!(done.unwrap(), 2);
    assert_eq!(fill(&raw, STREAM).await, (2, 2), "it was not written twice");
    assert_eq!(plans::commit(&act, &op, at, &changes).await.unwrap(), 2, "the same decision again");
}

#[tokio::test]
async fn an_outage_and_a_bucket_made_anew_are_marked_and_heal() {
    let mut lab = Lab::start().await;
    let act = act(&lab).await;
    commit(&act, "a", &[put_run("aaaa", 0, 1), put_run("bbbb", 0, 1)]).await;
    let view = PlansView::open_with(&lab.cx, &lab.scan, QUICK).await.unwrap();
    lab.nats.kill9().await;
    wait_for("the mark", SOON, async || view.read().stale.clone()).await;
    assert_eq!(view.read().runs.len(), 2, "what was known stays");
    let refused = plans::commit(&act, &op("b"), at(0), &[put_run("cccc", 0, 1)]).await;
    assert!(matches!(refused, Err(PlansError::Disconnected)), "{refused:?}");
    lab.nats.restart().await;
    wait_for("fresh rows", SOON, async || view.read().stale.is_none() && act.is_up() && lab.home.is_up())
        .await;
    assert_eq!(*view.events().borrow(), None, "it is the same store");
    let raw = lab.nats.raw("home").await;
    api(&raw, "STREAM.DELETE.KV_nhi-plans", Value::Null).await;
    store::provision(&lab.home, &settings()).await.unwrap();
    commit(&act, "c", &[put_run("dddd", 0, 1)]).await;
    let mut events = view.events();
    let limit = tokio::time::timeout(SOON, events.wait_for(Option::is_some));
    assert_eq!(limit.await.unwrap().unwrap().unwrap().kind, StoreChangeKind::Recreated);
    let snapshot = wait_for("the new bucket", SOON, async || {
        let snapshot = view.read();
        (snapshot.stale.is_none() && snapshot.revision == 1).then_some(snapshot)
    })
    .await;
    assert_eq!(snapshot.runs.keys().collect::<Vec<_>>(), [&run_id("dddd")]);
}
