//! Counters that several take from at the same time, and the ledger.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use futures::future::join_all;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    ledger::{self, Page},
    store::{StoreSettings, provision},
    usage::{Step, Usage},
};
use nhi_model::{
    Timestamp,
    ai::{LedgerEntry, Outcome, UsageKey},
    identity::IdentityName,
};
use nhi_testkit::{Nats, wait_for};
use serde_json::{Value, json};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);
const LIMIT: u64 = 50;

async fn provisioned(cx: &Cx) -> Nats {
    let nats = Nats::start().await;
    provision(&nats.connect(cx, "home").await, &StoreSettings { replicas: 1 }).await.unwrap();
    nats
}

fn key() -> UsageKey {
    UsageKey::Quota("groq cloud".to_owned())
}

/// Takes one, when there is one left.
fn take(row: Option<&Value>) -> Step<bool> {
    let used = row.and_then(Value::as_u64).unwrap_or(0);
    if used >= LIMIT { Step::Keep(false) } else { Step::Put(json!(used + 1), true) }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_take_no_more_than_there_is() {
    let cx = Cx::new();
    let nats = provisioned(&cx).await;
    let mut takers = Vec::new();
    for _ in 0..3 {
        takers.push(Usage::open(&cx, &nats.connect(&cx, "route").await));
    }
    let key = key();
    let shown = takers[0].read();
    let takes = (0..40).flat_map(|_| &takers).map(|taker| taker.change(&key, take));
    let taken = join_all(takes).await.into_iter().filter(|took| *took.as_ref().unwrap()).count();
    assert_eq!(taken as u64, LIMIT);
    for taker in &takers {
        wait_for("everybody to see it", SOON, async || taker.read().get(&key) == Some(&json!(LIMIT))).await;
    }
    // The control: who goes by what was shown when it began takes too many.
    let by_what_was_shown = (0..120).filter(|_| matches!(take(shown.get(&key)), Step::Put(_, true)));
    assert!(by_what_was_shown.count() as u64 > LIMIT);
    cx.close().await;
}

#[tokio::test]
async fn only_routers_count_and_a_missing_bucket_is_told_at_once() {
    let cx = Cx::new();
    let nats = provisioned(&cx).await;
    let scan = Usage::open(&cx, &nats.connect(&cx, "scan").await);
    assert!(scan.change(&key(), take).await.unwrap_err().is_refused());
    let route = Usage::open(&cx, &nats.connect(&cx, "route").await);
    assert!(route.change(&key(), take).await.unwrap());
    let home = nats.raw("home").await;
    home.request("$JS.API.STREAM.DELETE.KV_nhi-usage", "".into()).await.unwrap();
    let error = route.change(&key(), |_| Step::Keep(())).await.unwrap_err();
    assert!(!error.is_refused(), "who keeps a known row has looked: {error:?}");
    let error = route.change(&key(), take).await.unwrap_err();
    assert!(!error.is_refused(), "{error:?}");
    provision(&nats.connect(&cx, "home").await, &StoreSettings { replicas: 1 }).await.unwrap();
    assert!(route.change(&key(), take).await.unwrap(), "it counts again once the bucket is back");
    wait_for("it to be followed again", SOON, async || route.read().get(&key()) == Some(&json!(1))).await;
    cx.close().await;
}

#[tokio::test]
async fn nothing_is_refused_by_what_was_known_before() {
    let cx = Cx::new();
    let nats = provisioned(&cx).await;
    let [mine, other] = [(); 2].map(|()| nats.connect(&cx, "route"));
    let (mine, other) = (Usage::open(&cx, &mine.await), Usage::open(&cx, &other.await));
    mine.change(&key(), |_| Step::Put(json!(LIMIT), ())).await.unwrap();
    assert!(!mine.change(&key(), take).await.unwrap(), "the control: nothing is left");
    other.change(&key(), |_| Step::Put(json!(LIMIT - 1), ())).await.unwrap();
    assert!(mine.change(&key(), take).await.unwrap(), "somebody else gave one back");
    cx.close().await;
}

fn entry(id: &str, at: &str) -> LedgerEntry {
    LedgerEntry {
        at: at.parse::<Timestamp>().unwrap(),
        id: id.to_owned(),
        caller: IdentityName::parse("aider").unwrap(),
        project: None,
        asked: "auto".to_owned(),
        task: None,
        provider: Some("groq".to_owned()),
        model: Some("llama".to_owned()),
        input_tokens: 7,
        output_tokens: 9,
        estimated: false,
        duration_ms: 12,
        first_token_ms: Some(3),
        cost: 0.25,
        outcome: Outcome::Done,
        reason: "it was free".to_owned(),
        attempts: 1,
        seams: 0,
        judge_failed: false,
    }
}

#[tokio::test]
async fn a_line_is_kept_once_and_read_by_day() {
    let cx = Cx::new();
    let nats = provisioned(&cx).await;
    let route: Bus = nats.connect(&cx, "route").await;
    let day = jiff::civil::date(2026, 1, 2);
    let none = |last| Page { entries: Vec::new(), last, has_more: false };
    assert_eq!(ledger::read(&route, day, 0).await.unwrap(), none(0));
    let (first, next) = (entry("a", "2026-01-02T23:59:59Z"), entry("b", "2026-01-03T00:00:00Z"));
    let later = day.tomorrow().unwrap();
    assert_eq!((ledger::day_of(&first), ledger::day_of(&next)), (day, later));
    for (once, entry) in [("1", &first), ("1", &first), ("2", &next)] {
        ledger::append(&route, once, std::slice::from_ref(entry)).await.unwrap();
    }
    let Page { entries, last, has_more } = ledger::read(&route, day, 0).await.unwrap();
    assert_eq!((entries, has_more), (vec![first], false));
    assert_eq!(ledger::read(&route, day, last).await.unwrap(), none(last), "no line twice");
    // More than is read at once, by messages and by bytes.
    let mut lines = vec![next.clone()];
    for n in 0..600_usize {
        let count = if n < 100 { 40 } else { 1 };
        let some: Vec<_> = (0..count).map(|m| entry(&format!("{n}-{m}"), "2026-01-03T00:00:00Z")).collect();
        ledger::append(&route, &format!("n{n}"), &some).await.unwrap();
        lines.extend(some);
    }
    let (mut pages, mut read, mut after) = (0, Vec::new(), 0);
    loop {
        let page = ledger::read(&route, later, after).await.unwrap();
        (pages, after) = (pages + 1, page.last);
        read.extend(page.entries);
        if !page.has_more {
            break;
        }
    }
    assert!(pages > 3, "{pages} pages; by messages alone there are two");
    assert_eq!(read, lines);
    let scan = nats.connect(&cx, "scan").await;
    assert!(ledger::append(&scan, "x", &[next]).await.is_err(), "nobody else writes it");
    cx.close().await;
}
