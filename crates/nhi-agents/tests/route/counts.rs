//! Quotas that several routers share, their ledger, and what holds while the store is away.

use crate::house::{House, SOON, backend, ordered, question, quick, server};
use futures::future::join_all;
use nhi_agents::route;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store::{StoreSettings, provision},
    usage::Usage,
};
use nhi_decide::{
    quota::{Per, Quota, What},
    route::{CallerSettings, Settings},
};
use nhi_model::{
    ai::{Outcome, UsageKey},
    identity::Agent,
};
use nhi_sim::models::{Fault, ModelSettings, On, Running, Span};
use nhi_testkit::wait_for;
use std::{collections::BTreeMap, time::Duration};
use tokio::runtime::{Builder, Runtime};

fn a_day(limit: u64) -> Quota {
    Quota { what: What::Requests, per: Per::Day, limit, zone: None, resets_at: None, model: None }
}

pub(crate) fn asked(server: &Running) -> u64 {
    server.counts().by_model.values().sum()
}

/// Two routers, a backend with a quota, and one without.
async fn two_routers(limited: &Running, free: &Running, limit: u64) -> House {
    let mut first = backend("limited", limited, "m");
    first.quotas = vec![a_day(limit)];
    let backends = vec![first, backend("free", free, "m")];
    let house = House::new(ordered(backends)).await;
    house.start().await;
    house.start().await;
    house.known().await;
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn two_routers_never_take_more_than_a_quota() {
    let (limited, free) = (quick("m").await, quick("m").await);
    let house = two_routers(&limited, &free, 10).await;
    let asks = (0..60).map(|n| house.ask(question(&format!("{n}?"), n % 2 == 5)));
    let answers = join_all(asks).await;
    assert!(answers.iter().all(Result::is_ok), "nobody notices: {answers:?}");
    assert_eq!(asked(&limited), 10);
    assert_eq!(asked(&free), 50);
    assert_eq!(house.ledger(60).await.len(), 60);
    let usage = house.usage().await;
    assert_eq!((usage.quotas[0].used, usage.quotas[0].limit), (10, 10));
    wait_for("people to be told", SOON, async || {
        let alerts = house.alerts();
        if alerts.iter().any(|alert| alert.starts_with("alert.route.quota_")) { Ok(()) } else { Err(alerts) }
    })
    .await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_their_store_routers_take_their_share() {
    let (limited, free) = (quick("m").await, quick("m").await);
    let mut first = backend("limited", &limited, "m");
    first.quotas = vec![a_day(10)];
    let backends = vec![first, backend("free", &free, "m")];
    let house = House::new(ordered(backends)).await;
    house.start().await;
    house.known().await;
    for _ in 0..2 {
        house.ask(question("?", false)).await.unwrap();
    }
    let usage = Usage::open(&house.cx, &house.home);
    let row = UsageKey::Quota("limited".to_owned());
    wait_for("both to be counted", SOON, async || usage.read().contains_key(&row)).await;
    let raw = house.nats.raw("home").await;
    raw.request("$JS.API.STREAM.DELETE.KV_nhi-usage", "".into()).await.unwrap();
    for _ in 0..20 {
        house.ask(question("?", false)).await.unwrap();
    }
    assert_eq!(asked(&limited), 2 + 8 / 2, "half of what was left: there may be another router");
    let alert = "alert.route.counters".to_owned();
    wait_for("the alert", SOON, async || house.alerts().contains(&alert)).await;
    provision(&house.home, &StoreSettings { replicas: 1 }).await.unwrap();
    wait_for("the alert to go", SOON, async || !house.alerts().contains(&alert)).await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_one_router_was_told_holds_for_all() {
    let (limited, free) = (quick("m").await, quick("m").await);
    let house = two_routers(&limited, &free, 1_000).await;
    limited.set_fault_on(Fault::RateLimited { per: Span::Day, retry_after_s: None }, On::times(1));
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["provider"], "free");
    let usage = Usage::open(&house.cx, &house.home);
    let row = UsageKey::Pause("limited".to_owned());
    wait_for("the pause to be shared", SOON, async || usage.read().contains_key(&row)).await;
    let before = asked(&limited);
    let answers = join_all((0..40).map(|_| house.ask(question("?", false)))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap()["nhi"]["provider"] == "free"));
    assert_eq!(asked(&limited), before, "neither router asks it");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_limits_of_its_own() {
    let only = quick("m").await;
    let mine = CallerSettings { requests_a_minute: Some(2), ..CallerSettings::default() };
    let callers = BTreeMap::from([("aider".to_owned(), mine)]);
    let backends = vec![backend("only", &only, "m")];
    let house = House::new(Settings { callers, ..ordered(backends) }).await;
    house.start().await;
    house.known().await;
    let answers = join_all((0..6).map(|_| house.ask(question("?", false)))).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|fault| fault.code == "too-many" && fault.details.contains_key("until")));
    let lines = house.ledger(6).await;
    assert_eq!(lines.iter().filter(|line| line.outcome == Outcome::Refused).count(), 4);
    house.cx.close().await;
}

/// Starts a router that can be killed: nothing of it says good-bye.
pub(crate) async fn start_mortal(house: &House) -> Runtime {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (target, seed, settings) = (house.nats.target(), house.nats.seed("route"), house.settings.clone());
    let started = runtime.spawn(async move {
        let cx = Cx::new();
        let bus = Bus::connect(&cx, &target, &Agent::Route.identity(), &seed).await.unwrap();
        let options = route::Options { settings, keys: BTreeMap::new(), seed, workers: 2 };
        (route::run(&cx, bus, options).await.unwrap(), cx)
    });
    std::mem::forget(started.await.unwrap());
    runtime
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_killed_takes_only_its_own_streams() {
    let model = ModelSettings { tokens_per_s: 60.0, ..ModelSettings::named("m") };
    let (slow, free) = (server(model).await, quick("m").await);
    let mut limited = backend("slow", &slow, "m");
    limited.quotas = vec![a_day(20)];
    let house = House::new(ordered(vec![limited, backend("free", &free, "m")])).await;
    let mortal = start_mortal(&house).await;
    house.start().await;
    house.known().await;
    let stream = |n: u32| {
        let body = question(&format!("{n}?"), true);
        let read = house.read(body);
        async move { tokio::time::timeout(Duration::from_secs(8), read).await.ok() }
    };
    let streams = join_all((0..16).map(stream));
    let kill = async {
        wait_for("all to be asked", SOON, async || asked(&slow) == 16).await;
        mortal.shutdown_background();
        wait_for("its backend to notice", SOON, async || !slow.counts().cancelled.is_empty()).await
    };
    let (told, _) = futures::join!(streams, kill);
    let whole = told.iter().flatten().filter(|told| told.finish() == Some("stop")).count();
    let lost = slow.counts().cancelled.len();
    assert_eq!((whole + lost, told.len()), (16, 16), "the other one's go on");
    assert!(lost > 0 && whole > 0, "both had some: {whole} and {lost}");
    for n in 0..8 {
        house.ask(question(&format!("and {n}?"), false)).await.unwrap();
    }
    assert_eq!(asked(&slow), 20, "what the killed one took stays taken, and no more");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_one_router_stops_the_other_goes_on() {
    let model = ModelSettings { tokens_per_s: 100.0, ..ModelSettings::named("m") };
    let slow = server(model).await;
    let house = House::new(ordered(vec![backend("slow", &slow, "m")])).await;
    let (_, first) = house.start().await;
    house.start().await;
    house.known().await;
    let streams = join_all((0..12).map(|n| house.read(question(&format!("{n}?"), true))));
    let stop = async {
        wait_for("all to be asked", SOON, async || asked(&slow) == 12).await;
        first.stop().await;
    };
    let (told, ()) = futures::join!(streams, stop);
    assert!(told.iter().all(|told| told.fault.is_some() || told.finish().is_some()), "each has an end");
    assert!(told.iter().all(|told| told.finish().is_some()), "stopping waits for what it began");
    house.ask(question("?", false)).await.unwrap();
    assert_eq!(house.ledger(13).await.len(), 13);
    house.cx.close().await;
}
