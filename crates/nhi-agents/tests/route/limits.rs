//! Limits of one request over all its attempts, what its caller is told when it meets one, and vectors.

use crate::{
    counts::asked,
    house::{House, Json, SOON, backend, ordered, question, quick, server},
};
use nhi_bus::{
    call::{CallError, call},
    usage::{Step, Usage},
};
use nhi_decide::{
    quota::{Per, Quota, What},
    route::{BackendSettings, Budget, Guard, Settings},
};
use nhi_model::{
    ai::{Outcome, Price, UsageKey},
    fault::Fault,
};
use nhi_sim::models::{Fault as Broken, ModelSettings, On, Options, Provider, Span, answer_text, serve};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

/// Each token of an answer costs a dollar.
fn dear(backend: BackendSettings) -> BackendSettings {
    BackendSettings { price: Some(Price { input: 0.0, output: 1e6 }), ..backend }
}

/// Answers are reckoned with twenty tokens, and a request may cost so much.
async fn capped(dollars: f64, backends: Vec<BackendSettings>) -> House {
    let guard = Guard { answer_tokens: 20, ..Guard::default() };
    let budget = Budget { dollars_a_request: Some(dollars), ..Budget::default() };
    let house = House::new(Settings { guard, budget, ..ordered(backends) }).await;
    house.start().await;
    house.known().await;
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_costs_no_more_than_a_request_may() {
    let only = quick("m").await;
    for (dollars, tokens, finish) in [(30.5, 30, "length"), (100.5, 60, "stop")] {
        let house = capped(dollars, vec![dear(backend("only", &only, "m"))]).await;
        let answer = house.ask(question("?", false)).await.unwrap();
        assert_eq!(answer["usage"]["completion_tokens"], tokens, "{answer:?}");
        assert_eq!(answer["choices"][0]["finish_reason"], finish);
        house.cx.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_together_cost_no_more_than_a_request_may() {
    let model = ModelSettings { tokens_per_s: 2_000.0, ..ModelSettings::named("m") };
    let (first, second) = (server(model).await, quick("m").await);
    for (dollars, is_whole) in [(55.5, false), (300.5, true)] {
        let backends = vec![dear(backend("first", &first, "m")), dear(backend("second", &second, "m"))];
        let house = capped(dollars, backends).await;
        first.set_fault_on(Broken::Cut { tokens: 40 }, On::times(1));
        let told = house.read(question("Go on?", true)).await;
        assert_eq!((told.fault.is_none(), asked(&second) == 1), (is_whole, is_whole), "{told:?}");
        assert_eq!(told.text() == answer_text("Go on?", 60), is_whole);
        let lines = house.ledger(1).await;
        assert!(lines[0].cost > 20.0 && lines[0].cost <= dollars, "{lines:?}");
        house.cx.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_attempts_together_have_one_deadline() {
    let servers = [quick("m").await, quick("m").await, quick("m").await];
    let names = ["first", "second", "third"];
    let backends = names.iter().zip(&servers).map(|(name, server)| backend(name, server, "m")).collect();
    let guard = Guard { deadline_s: 3, ..Guard::default() };
    let house = House::new(Settings { guard, ..ordered(backends) }).await;
    house.start().await;
    house.known().await;
    for (n, stream) in [false, true].into_iter().enumerate() {
        for server in &servers {
            server.set_fault_on(Broken::SlowHeaders { ms: 60_000 }, On::times(1));
        }
        let before = Instant::now();
        let fault = match stream {
            true => house.read(question("?", true)).await.fault.expect("nobody answers"),
            false => house.ask(question("?", false)).await.unwrap_err(),
        };
        let elapsed = before.elapsed();
        assert_eq!(fault.code, "timeout", "{fault}");
        assert!((Duration::from_secs(2)..Duration::from_secs(8)).contains(&elapsed), "{elapsed:?}");
        let asked_of = servers.iter().map(asked).collect::<Vec<_>>();
        assert!(asked_of.iter().all(|asked| *asked == n as u64 + 1), "each had its share: {asked_of:?}");
    }
    house.cx.close().await;
}

fn seconds(fault: &Fault) -> u64 {
    fault.details["retry_after_s"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_when_to_come_again() {
    let guard = Guard { wait_s: 1, ..Guard::default() };
    let only = quick("m").await;
    let mut limited = backend("only", &only, "m");
    limited.quotas = vec![Quota::new(What::Requests, Per::Minute, 1)];
    let house = House::new(Settings { guard: guard.clone(), ..ordered(vec![limited]) }).await;
    house.start().await;
    house.known().await;
    house.ask(question("?", false)).await.unwrap();
    let usage = Usage::open(&house.cx, &house.home);
    let row = UsageKey::Quota("only".to_owned());
    wait_for("it to be counted", SOON, async || usage.read().contains_key(&row)).await;
    let fault = house.ask(question("?", false)).await.unwrap_err();
    assert_eq!((fault.code.as_str(), fault.status()), ("too-many", 429), "{fault:?}");
    assert!((50..=71).contains(&seconds(&fault)), "{fault:?}");
    house.cx.close().await;

    let only = serve(Options::local(Provider::Groq, vec![ModelSettings::named("m")])).await.unwrap();
    let house = House::new(Settings { guard, ..ordered(vec![backend("only", &only, "m")]) }).await;
    house.start().await;
    house.known().await;
    only.set_fault_on(Broken::RateLimited { per: Span::Minute, retry_after_s: Some(9) }, On::times(1));
    house.ask(question("?", false)).await.unwrap_err();
    let before = asked(&only);
    let fault = house.ask(question("?", false)).await.unwrap_err();
    assert_eq!((fault.code.as_str(), asked(&only)), ("unavailable", before), "it rests: {fault:?}");
    assert!((1..=10).contains(&seconds(&fault)) && fault.details.contains_key("until"), "{fault:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_nowhere_is_refused_and_never_cut() {
    let small = server(ModelSettings { context_tokens: 2_000, ..ModelSettings::named("m") }).await;
    let house = House::with(vec![backend("small", &small, "m")]).await;
    let is_too_long = |fault: &Fault| {
        assert_eq!((fault.code.as_str(), fault.status()), ("context-too-long", 400), "{fault:?}");
    };
    let long = "heron ".repeat(3_000);
    for stream in [false, true] {
        match stream {
            true => is_too_long(&house.read(question(&long, true)).await.fault.unwrap()),
            false => is_too_long(&house.ask(question(&long, false)).await.unwrap_err()),
        }
    }
    assert_eq!(asked(&small), 0, "nobody was asked");
    small.set_fault_on(Broken::TooLong {}, On::times(1));
    is_too_long(&house.ask(question("?", false)).await.unwrap_err());
    // The control: what fits is answered.
    house.ask(question("?", false)).await.unwrap();
    house.cx.close().await;
}

/// What the router says of one of its endpoints.
async fn described(house: &House, endpoint: &str) -> Value {
    let info = house.nats.raw("home").await.request("$SRV.INFO.ai", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let all = info["endpoints"].as_array().unwrap();
    let one = all.iter().find(|told| told["name"] == endpoint).unwrap_or_else(|| panic!("{info}"));
    let schema = |name: &str| serde_json::from_str::<Value>(one["metadata"][name].as_str().unwrap()).unwrap();
    json!({ "request_schema": schema("request_schema"), "response_schema": schema("response_schema") })
}

async fn embed(house: &House, body: Value) -> Result<Json, Box<Fault>> {
    match call::<Value, Json>(&house.aider, "ai", "embed", &body).await {
        Ok(answer) => Ok(answer),
        Err(CallError::Fault { fault, .. }) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_come_from_who_makes_them_and_by_the_same_rules() {
    let vectors = ModelSettings { embeds: true, dimensions: 8, ..ModelSettings::named("e") };
    let (talks, cloud, home) = (quick("m").await, server(vectors.clone()).await, server(vectors).await);
    let makes = |name: &str, server, home: bool| {
        let model = nhi_decide::route::ModelSettings {
            embeds: Some(true),
            ..nhi_decide::route::ModelSettings::named("e")
        };
        BackendSettings { home, models: vec![model], ..backend(name, server, "e") }
    };
    let mut limited = makes("cloud", &cloud, false);
    limited.quotas = vec![Quota::new(What::Requests, Per::Day, 3)];
    let house = House::with(vec![backend("talks", &talks, "m"), limited, makes("home", &home, true)]).await;
    let body = |privacy: &str| json!({ "model": "auto", "input": ["a", "b"], "nhi": { "privacy": privacy } });
    let answer = embed(&house, body("any")).await.unwrap();
    let told = described(&house, "embed").await;
    let (needed, given) = (&told["request_schema"]["required"], &told["response_schema"]["required"]);
    assert_eq!(needed, &json!(["input"]), "{told}");
    let given = given.as_array().unwrap_or_else(|| panic!("{told}"));
    assert!(given.iter().all(|name| answer.contains_key(name.as_str().unwrap())), "{given:?} {answer:?}");
    let data = answer["data"].as_array().unwrap();
    assert_eq!((data.len(), data[0]["embedding"].as_array().unwrap().len()), (2, 8), "{answer:?}");
    assert_eq!((&answer["nhi"]["provider"], &answer["model"]), (&json!("cloud"), &json!("auto")));
    let before = asked(&cloud);
    assert_eq!(embed(&house, body("home")).await.unwrap()["nhi"]["provider"], "home");
    assert_eq!(asked(&cloud), before, "nothing of it went out");
    cloud.set_fault_on(Broken::ServerError {}, On::times(1));
    let answer = embed(&house, body("any")).await.unwrap();
    assert_eq!(
        (&answer["nhi"]["provider"], &answer["nhi"]["failed"][0]["provider"]),
        (&json!("home"), &json!("cloud"))
    );
    assert_eq!(embed(&house, body("any")).await.unwrap()["nhi"]["provider"], "cloud");
    assert_eq!(embed(&house, body("any")).await.unwrap()["nhi"]["provider"], "home", "the quota is used up");
    for (bad, field) in [(json!({ "input": [] }), "input"), (json!({ "messages": [] }), "messages")] {
        let fault = embed(&house, bad).await.unwrap_err();
        assert_eq!((fault.code.as_str(), fault.message.contains(field)), ("bad-request", true), "{fault}");
    }
    let lines = house.ledger(5).await;
    assert!(lines.iter().all(|line| line.outcome == Outcome::Done && line.input_tokens > 0), "{lines:?}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_pause_never_takes_the_place_of_a_long_one() {
    // A server that is asked before the long pause is known, and refuses after it is.
    let (asked, refuse) = (Notify::new(), Notify::new());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let serve = async {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 4_096];
            let read = socket.read(&mut head).await.unwrap();
            let is_question = head[..read].starts_with(b"POST");
            if is_question {
                asked.notify_one();
                refuse.notified().await;
            }
            let status =
                if is_question { "429 Too Many Requests\r\nretry-after: 5" } else { "404 Not Found" };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket.shutdown().await.unwrap();
        }
    };
    let free = quick("m").await;
    let limited = BackendSettings { url, ..backend("limited", &free, "m") };
    let house = House::new(ordered(vec![limited, backend("free", &free, "m")])).await;
    house.start().await;
    let usage = Usage::open(&house.cx, &house.nats.connect(&house.cx, "route").await);
    let row = UsageKey::Pause("limited".to_owned());
    let far = (jiff::Timestamp::now() + Duration::from_secs(3_600)).to_string();
    let pause = json!({ "until": far, "text": "its limit of the day is reached" });
    let test = async {
        let told = async {
            asked.notified().await;
            usage.change(&row, |_| Step::Put(pause.clone(), ())).await.unwrap();
            refuse.notify_one();
        };
        let (answer, ()) = futures::join!(house.ask(question("?", false)), told);
        assert_eq!(answer.unwrap()["nhi"]["failed"][0]["provider"], "limited");
        // Its pause was written before its line of the ledger.
        house.ledger(1).await;
        let stands = usage.change(&row, |row| Step::Keep(row.cloned())).await.unwrap();
        assert_eq!(stands, Some(pause.clone()), "the other router was told of the day");
    };
    tokio::select! {
        () = serve => panic!("it serves for ever"),
        () = test => {}
    }
    house.cx.close().await;
}

/// A question to one model by its name.
fn to(model: &str) -> Value {
    let mut body = question("?", false);
    body["model"] = json!(model);
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_one_model_does_not_close_the_others_of_its_backend() {
    let named = nhi_decide::route::ModelSettings::named;
    let models = vec![ModelSettings::named("large"), ModelSettings::named("small")];
    let both = serve(Options::local(Provider::Groq, models)).await.unwrap();
    let other = quick("m").await;
    let first =
        BackendSettings { models: vec![named("large"), named("small")], ..backend("both", &both, "m") };
    let guard = Guard { wait_s: 1, ..Guard::default() };
    let settings = Settings { guard, ..ordered(vec![first, backend("other", &other, "m")]) };
    let house = House::new(settings).await;
    house.start().await;
    house.known().await;
    let is_limited = Broken::RateLimited { per: Span::Minute, retry_after_s: Some(600) };
    both.set_fault_on(is_limited, On::times(1));
    // Whoever was meant next comes before another model of the same backend.
    let answer = house.ask(question("?", false)).await.unwrap();
    assert_eq!((&answer["nhi"]["provider"], asked(&both)), (&json!("other"), 1), "{answer:?}");
    assert_eq!(house.ask(to("small")).await.unwrap()["nhi"]["provider"], "both");
    assert_eq!(house.ask(question("?", false)).await.unwrap()["nhi"]["model"], "small");
    // The control: the one that was limited rests, here and at a router that was not told itself.
    let usage = Usage::open(&house.cx, &house.home);
    let row = UsageKey::Pause("both".to_owned());
    wait_for("the pause to be shared", SOON, async || {
        usage.read().get(&row).is_some_and(|row| row["models"]["large"]["until"].is_string())
    })
    .await;
    house.start().await;
    for _ in 0..10 {
        let fault = house.ask(to("large")).await.unwrap_err();
        assert_eq!(fault.code, "unavailable", "{fault}");
        assert_eq!(house.ask(to("small")).await.unwrap()["nhi"]["provider"], "both");
    }
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_only_a_backend_that_just_broke_hears_so_at_once() {
    let free = quick("m").await;
    let url = "http://127.0.0.1:1/v1".to_owned();
    let house = House::new(ordered(vec![BackendSettings { url, ..backend("gone", &free, "m") }])).await;
    assert!(house.settings.guard.wait_s >= 30, "there would be time to wait");
    house.start().await;
    let fault = wait_for("its breaker to open", SOON, async || {
        let before = Instant::now();
        let fault = house.ask(question("?", false)).await.unwrap_err();
        assert!(before.elapsed() < Duration::from_secs(10), "{:?} for {fault:?}", before.elapsed());
        assert_eq!(fault.status(), 503, "{fault:?}");
        // Nobody who reads it knows what a chunk or a kind of failure is.
        assert!(fault.message.contains("could not be reached"), "{fault}");
        assert!(!fault.message.contains("error") && !fault.message.contains("(connect)"), "{fault}");
        if fault.details.contains_key("lost") { Ok(fault) } else { Err(fault) }
    })
    .await;
    assert!((10..=31).contains(&seconds(&fault)), "{fault:?}");
    house.cx.close().await;
}
