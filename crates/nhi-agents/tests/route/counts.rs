//! Quotas that several routers share, their ledger, and what holds while the store is away.

use crate::house::{House, LATE, SOON, backend, ordered, question, quick, server};
use futures::future::join_all;
use nhi_agents::route;
use nhi_bus::{
    call::{Call, Timeout, stream},
    connect::Bus,
    cx::Cx,
    store::{StoreSettings, provision},
    usage::Usage,
};
use nhi_decide::{
    quota::{Per, Quota, What},
    route::{BackendSettings, Budget, CallerSettings, Settings},
};
use nhi_model::{
    ai::{Outcome, Price, UsageKey},
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
    let house = &house;
    let asks = (0..60).map(|n| async move {
        let text = format!("{n}?");
        if n % 2 == 1 {
            let told = house.read(question(&text, true)).await;
            return told.finish() == Some("stop") && told.fault.is_none();
        }
        house.ask(question(&text, false)).await.is_ok()
    });
    let answers = join_all(asks).await;
    assert!(answers.iter().all(|is_whole| *is_whole), "nobody notices");
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
    let alert = "alert.route.counters".to_owned();
    // The store that comes back is empty: what stands there then is what was taken without it.
    for (before, share) in [(2, (10 - 2) / 2), (2 + 4, (10 - 4) / 2)] {
        raw.request("$JS.API.STREAM.DELETE.KV_nhi-usage", "".into()).await.unwrap();
        for _ in 0..12 {
            house.ask(question("?", false)).await.unwrap();
        }
        assert_eq!(asked(&limited), before + share, "half of what was left: there may be another router");
        wait_for("the alert", SOON, async || house.alerts().contains(&alert)).await;
        provision(&house.home, &StoreSettings { replicas: 1 }).await.unwrap();
        wait_for("the alert to go", SOON, async || !house.alerts().contains(&alert)).await;
        let used = async || Some(house.usage().await.quotas[0].used).filter(|used| *used == share);
        wait_for("what was taken alone to be counted", SOON, used).await;
    }
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

/// A backend whose answers are reckoned with about as many dollars.
fn priced(dollars: u32, backend: BackendSettings) -> BackendSettings {
    let price = Price { input: 0.0, output: f64::from(dollars) * 1e6 / 1_024.0 };
    BackendSettings { price: Some(price), ..backend }
}

fn a_dollar_day(dollars: f64, backends: Vec<BackendSettings>) -> Settings {
    let budget = Budget { dollars_a_day: Some(dollars), alert_percent: 99, ..Budget::default() };
    Settings { budget, ..ordered(backends) }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_a_failure_costs_no_more_than_the_budget_has() {
    let (cheap, dear, free) = (quick("m").await, quick("m").await, quick("m").await);
    for (dollars, answers) in [(5.2, "free"), (6.0, "dear")] {
        let first = priced(1, backend("cheap", &cheap, "m"));
        let second = priced(5, backend("dear", &dear, "m"));
        let backends = vec![first, second, backend("free", &free, "m")];
        let house = House::new(a_dollar_day(dollars, backends)).await;
        house.start().await;
        house.known().await;
        // About 0.3 dollars are spent before.
        let mut before = question("?", false);
        before["model"] = serde_json::json!("dear/m");
        house.ask(before).await.unwrap();
        house.ledger(1).await;
        cheap.set_fault_on(Fault::ServerError {}, On::times(1));
        let answer = house.ask(question("?", false)).await.unwrap();
        assert_eq!(answer["nhi"]["provider"], answers, "{dollars}: {answer:?}");
        let lines = house.ledger(2).await;
        let micro: f64 = lines.iter().map(|line| (line.cost * 1e6).ceil()).sum();
        let usage = Usage::open(&house.cx, &house.home);
        let row = UsageKey::Spent("everybody".to_owned());
        wait_for("it to be counted once", SOON, async || {
            let row = usage.read().get(&row).cloned().unwrap_or_default();
            let slots = row["dollars-day"]["slots"].as_object().cloned().unwrap_or_default();
            let sum: f64 = slots.values().filter_map(serde_json::Value::as_f64).sum();
            if (sum - micro).abs() < 2.0 { Ok(()) } else { Err((row, micro)) }
        })
        .await;
        house.cx.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_a_budget_taken_is_refused_and_not_gone() {
    let model = ModelSettings { tokens_per_s: 40.0, ..ModelSettings::named("m") };
    let slow = server(model).await;
    let house = House::new(a_dollar_day(1.5, vec![priced(1, backend("slow", &slow, "m"))])).await;
    house.start().await;
    house.known().await;
    let answers = join_all((0..6).map(|_| house.ask(question("?", false)))).await;
    let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
    assert_eq!((refused.len(), asked(&slow)), (5, 1), "{refused:?}");
    assert!(refused.iter().all(|fault| fault.code == "too-many"), "{refused:?}");
    let lines = house.ledger(6).await;
    assert_eq!(lines.iter().filter(|line| line.outcome == Outcome::Refused).count(), 5, "{lines:?}");
    let alert = "alert.route.budget_everybody".to_owned();
    wait_for("people to be told", SOON, async || house.alerts().contains(&alert)).await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_are_told_before_a_manifests_budget_is_gone() {
    let only = quick("m").await;
    let budget = Budget { alert_percent: 99, ..Budget::default() };
    let backends = vec![priced(1, backend("only", &only, "m"))];
    let house = House::new(Settings { budget, ..ordered(backends) }).await;
    house.start().await;
    house.known().await;
    for (project, dollars) in [("shop", 2.0), ("museum", 100_000.0)] {
        house.project(project, serde_json::json!({ "dollars_a_day": dollars })).await;
        let mut body = question("?", false);
        body["nhi"] = serde_json::json!({ "project": project });
        let usage = Usage::open(&house.cx, &house.home);
        let row = UsageKey::Spent(format!("project/{project}"));
        wait_for("its budget to count", SOON, async || {
            house.ask(body.clone()).await.map_err(|fault| fault.to_string())?;
            let counts = usage.read().get(&row).is_some_and(|row| row.get("dollars-day").is_some());
            if counts { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
    }
    let is_of = |alert: &String, project: &str| alert.contains("budget_") && alert.contains(project);
    wait_for("people to be told", SOON, async || {
        let alerts = house.alerts();
        if alerts.iter().any(|alert| is_of(alert, "shop")) { Ok(()) } else { Err(alerts) }
    })
    .await;
    assert!(!house.alerts().iter().any(|alert| is_of(alert, "museum")), "the control: it has plenty left");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_was_sent_is_counted_whatever_came_back() {
    let (first, free) = (quick("m").await, quick("m").await);
    let mut limited = backend("limited", &first, "m");
    limited.quotas = vec![Quota::new(What::Tokens, Per::Day, 100_000)];
    let house = House::with(vec![limited, backend("free", &free, "m")]).await;
    first.set_fault_on(Fault::ServerError {}, On::times(1));
    let text = "heron ".repeat(400);
    assert_eq!(house.ask(question(&text, false)).await.unwrap()["nhi"]["provider"], "free");
    wait_for("the prompt alone to be counted", SOON, async || {
        let used = house.usage().await.quotas[0].used;
        if (300..900).contains(&used) { Ok(()) } else { Err(used) }
    })
    .await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_in_vain_says_nothing_against_a_busy_backend() {
    let model = ModelSettings { tokens_per_s: 25.0, ..ModelSettings::named("m") };
    let slow = server(model).await;
    let alone = BackendSettings { parallel: Some(1), ..backend("slow", &slow, "m") };
    let house = House::with(vec![alone]).await;
    let waits = async {
        wait_for("it to be busy", SOON, async || asked(&slow) == 1).await;
        join_all((0..6).map(|_| async {
            let body = serde_json::to_vec(&question("?", false)).unwrap();
            let call = Call::new(&house.aider, "ai", "chat", body.into()).unwrap();
            let call = call.timeout(Timeout::of(Duration::from_millis(1_500)));
            let mut frames = stream(&house.aider, call).await.unwrap();
            matches!(frames.next().await, Some(Err(_)))
        }))
        .await
    };
    let (told, waited) = futures::join!(house.read(question("?", true)), waits);
    assert_eq!(told.finish(), Some("stop"));
    assert!(waited.iter().all(|is_refused| *is_refused), "nobody had a place: {waited:?}");
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["provider"], "slow");
    let lines = house.ledger(8).await;
    let given_up = lines.iter().filter(|line| line.outcome == Outcome::Refused && line.attempts == 0);
    assert_eq!(given_up.count(), 6, "the others were not sent, and heard so in time: {lines:?}");
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
        async move { tokio::time::timeout(LATE, read).await.ok() }
    };
    let streams = join_all((0..16).map(stream));
    let kill = async {
        wait_for("all to be asked", SOON, async || asked(&slow) == 16).await;
        mortal.shutdown_background();
        wait_for("its backend to notice", SOON, async || !slow.counts().cancelled.is_empty()).await
    };
    let (told, _) = futures::join!(streams, kill);
    assert!(told.iter().all(Option::is_some), "each has an end, soon");
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
