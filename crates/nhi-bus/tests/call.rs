//! Calls and discovery against a real server: each way to fail is told apart and told at once, across the border of
//! accounts too.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures::StreamExt;
use nhi_bus::{
    call::{Call, CallError, Timeout, call, call_raw},
    connect::Bus,
    cx::Cx,
    discover::{DiscoverError, discover, survey},
    service::{Caller, Service, Spec},
};
use nhi_model::{
    call::{Effect, PAYLOAD_BYTES_MAX},
    fault::Fault,
    identity::Role,
};
use nhi_testkit::{Nats, settle};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{future::pending, time::Duration};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};

const SOON: Duration = Duration::from_secs(10);
/// Far less than any time-out, and enough for a machine that does much else.
const AT_ONCE: Duration = Duration::from_secs(3);

#[derive(Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Cups {
    #[serde(default)]
    cups: u32,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Terms {
    caller: String,
    id: String,
    gave_id: bool,
    gave_expiry: bool,
    left_ms: i64,
}

const fn spec(endpoint: &'static str) -> Spec {
    Spec { endpoint, effect: Effect::Write, description: "for the tests", stream: false }
}

fn kettle() -> Service {
    Service::new("kettle", "1.2.3", "boils water")
        .endpoint(spec("boil"), async |_, cups: Cups| Ok(Cups { cups: cups.cups + 1 }))
        .endpoint(spec("hang"), async |_, _: Cups| pending::<Result<Cups, Fault>>().await)
        .endpoint(spec("refuse"), async |_, cups: Cups| {
            let mut fault = Fault {
                code: "too-hot".to_owned(),
                message: "the kettle is too hot".to_owned(),
                hint: "wait".to_owned(),
                details: [].into(),
            };
            fault.details.insert("cups".to_owned(), cups.cups.into());
            Err::<Cups, Fault>(fault)
        })
        .endpoint(spec("terms"), async |caller: Caller, _: Cups| {
            Ok(Terms {
                caller: caller.name.to_string(),
                id: caller.request_id,
                gave_id: caller.gave_id,
                gave_expiry: caller.gave_expiry,
                left_ms: caller.expires.duration_since(nhi_model::Timestamp::now()).as_millis() as i64,
            })
        })
}

/// A server, the kettle, and two who may call it: inside HOME and in an account of its own.
async fn house(cx: &Cx) -> (Nats, Bus, Bus) {
    let nats = Nats::start().await;
    nats.add("kettle", Role::Service).await;
    nats.add("aider", Role::Agent).await;
    nats.grant("aider", "kettle").await;
    let service = nats.connect(cx, "kettle").await;
    kettle().start(cx, &service).await.unwrap();
    let (home, aider) = (nats.connect(cx, "home").await, nats.connect(cx, "aider").await);
    (nats, home, aider)
}

#[tokio::test]
async fn typed_calls_go_through_and_carry_their_terms() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    for (bus, name) in [(&home, "home"), (&aider, "aider")] {
        let cups: Cups = call(bus, "kettle", "boil", &Cups { cups: 2 }).await.unwrap();
        assert_eq!(cups.cups, 3);
        let asked = Call::new(bus, "kettle", "terms", Bytes::new()).unwrap().id("op-7").unwrap();
        let answer = asked.timeout(Timeout::of(Duration::from_secs(60))).send(bus).await.unwrap();
        let terms: Terms = serde_json::from_slice(&answer).unwrap();
        assert_eq!((terms.caller.as_str(), terms.id.as_str()), (name, "op-7"));
        assert!(
            terms.gave_id && terms.gave_expiry && (50_000..=60_000).contains(&terms.left_ms),
            "{terms:?}"
        );
    }
    let other: Result<Terms, _> = call(&home, "kettle", "boil", &Cups::default()).await;
    assert!(matches!(other, Err(CallError::Malformed { .. })), "{other:?}");
    assert!(Call::new(&home, "kettle.boil", "x", Bytes::new()).is_err());
}

#[tokio::test]
async fn a_fault_arrives_whole_whatever_its_code() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    for bus in [&home, &aider] {
        let error = call::<_, Cups>(bus, "kettle", "refuse", &Cups { cups: 9 }).await.unwrap_err();
        let CallError::Fault { fault, .. } = &error else { panic!("{error}") };
        assert_eq!(
            (fault.code.as_str(), fault.hint.as_str(), &fault.details["cups"]),
            ("too-hot", "wait", &json!(9))
        );
        assert_eq!(error.to_fault(), **fault);
    }
}

#[tokio::test]
async fn what_cannot_succeed_fails_at_once() {
    let cx = Cx::new();
    let (_nats, home, aider) = house(&cx).await;
    let fails = async |bus: &Bus, service: &str, endpoint: &str, body: Bytes| {
        let before = Instant::now();
        let error = call_raw(bus, service, endpoint, body, Timeout::DEFAULT).await.unwrap_err();
        assert!(before.elapsed() < AT_ONCE, "{:?} for {error}", before.elapsed());
        error
    };
    let nobody = fails(&home, "toaster", "toast", Bytes::new()).await;
    assert!(matches!(nobody, CallError::NobodyAnswers { .. }), "{nobody}");
    let nobody = fails(&aider, "state", "get", Bytes::new()).await;
    assert!(matches!(nobody, CallError::NobodyAnswers { .. }), "{nobody}");
    let refused = fails(&aider, "act", "approve", Bytes::new()).await;
    assert!(matches!(refused, CallError::Refused { .. }), "{refused}");
    assert_eq!(refused.to_fault().status(), 403);
    let told = |error: &CallError| format!("{error} {}", error.to_fault().hint);
    // A grant would change nothing there; elsewhere it does.
    assert!(
        told(&refused).contains("ask an operator") && !told(&refused).contains("auth grant"),
        "{refused}"
    );
    let refused = fails(&aider, "toaster", "toast", Bytes::new()).await;
    assert!(told(&refused).contains("nhi auth grant"), "{refused}");
    let large = fails(&aider, "kettle", "boil", vec![b' '; PAYLOAD_BYTES_MAX + 1].into()).await;
    assert!(matches!(large, CallError::TooLarge { .. }), "{large}");
    // The limit holds for headers and payload together.
    let large = fails(&aider, "kettle", "boil", vec![b' '; PAYLOAD_BYTES_MAX].into()).await;
    assert!(matches!(large, CallError::TooLarge { .. }), "{large}");
    assert!(aider.is_up(), "the server closes a connection that sends too much");
}

/// The client tells of refusals by a channel of 128 that drops the rest; 64 in flight stay below it.
#[tokio::test]
async fn many_refused_calls_are_all_told() {
    let cx = Cx::new();
    let (_nats, _home, aider) = house(&cx).await;
    let before = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..64 {
        let aider = aider.clone();
        workers.spawn(async move {
            for _ in 0..20 {
                let refused = call::<_, Cups>(&aider, "act", "approve", &Cups::default()).await;
                assert!(matches!(refused, Err(CallError::Refused { .. })), "{refused:?}");
            }
        });
    }
    timeout(SOON, workers.join_all()).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    let cups: Cups = call(&aider, "kettle", "boil", &Cups::default()).await.unwrap();
    assert_eq!(cups.cups, 1);
}

#[tokio::test]
async fn a_call_ends_with_its_time_or_with_the_link() {
    let cx = Cx::new();
    let (mut nats, home, aider) = house(&cx).await;
    let brief = Timeout::of(Duration::from_millis(100));
    let late = call_raw(&aider, "kettle", "hang", Bytes::new(), brief).await.unwrap_err();
    assert!(matches!(late, CallError::Timeout { .. }) || late.to_fault().status() == 504, "{late}");

    let hanging = [&home, &aider].map(|bus| {
        let bus = bus.clone();
        async move { call_raw(&bus, "kettle", "hang", Bytes::new(), Timeout::LONGEST).await }
    });
    let hanging = futures::future::join_all(hanging);
    let mut hanging = std::pin::pin!(hanging);
    assert!(timeout(Duration::from_millis(200), &mut hanging).await.is_err(), "they hang");
    let before = Instant::now();
    nats.kill9().await;
    for outcome in timeout(SOON, hanging).await.unwrap() {
        assert!(matches!(outcome, Err(CallError::Disconnected { sent: true, .. })), "{outcome:?}");
    }
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
    let before = Instant::now();
    let down = call::<_, Cups>(&aider, "kettle", "boil", &Cups::default()).await;
    assert!(matches!(down, Err(CallError::Disconnected { sent: false, .. })), "{down:?}");
    assert!(matches!(discover(&aider, SOON).await, Err(DiscoverError::Disconnected)));
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());

    nats.restart().await;
    for bus in [&home, &aider] {
        timeout(SOON, bus.link().wait_for(|link| link.is_up())).await.unwrap().unwrap();
    }
    // The service's own connection may be the last to come back.
    nhi_testkit::wait_for("the kettle", SOON, async || {
        call::<_, Cups>(&aider, "kettle", "boil", &Cups::default()).await.map(drop)
    })
    .await;
}

/// Answers one question of discovery with whatever is given, as anybody can who may subscribe it.
async fn claim(client: &Client, question: &'static str, answers: Vec<Value>) {
    let mut questions = client.subscribe(question).await.unwrap();
    settle(client).await;
    let client = client.clone();
    Cx::new().spawn("claims", async move {
        while let Some(question) = questions.next().await {
            for answer in &answers {
                let reply = question.reply.clone().unwrap();
                client.publish(reply, answer.to_string().into()).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn discovery_finds_all_and_believes_little() {
    let cx = Cx::new();
    let (nats, home, aider) = house(&cx).await;
    let second = kettle().start(&cx, &nats.connect(&cx, "kettle").await).await.unwrap();
    let foreign = json!({"type": "io.nats.micro.v1.info_response", "name": "alarm", "id": "Z9", "version": "0.1.0",
        "endpoints": [{"name": "ring", "subject": "nhi.alarm.ring.*", "queue_group": "q"}]});
    let claims = vec![foreign.clone(), foreign.clone(), json!("garbage"), json!({"name": "no id"})];
    claim(&nats.raw("home").await, "$SRV.INFO", claims).await;
    claim(&nats.raw("home").await, "$SRV.INFO.alarm", vec![foreign]).await;
    for bus in [&home, &aider] {
        let before = Instant::now();
        let found = survey(bus, Duration::from_secs(5)).await.unwrap();
        assert!(
            before.elapsed() < Duration::from_secs(2),
            "it ends when no more come: {:?}",
            before.elapsed()
        );
        assert_eq!(found.ignored, 2);
        let names: Vec<&str> = found.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["alarm", "kettle", "kettle"]);
        assert!(found.services[1].id < found.services[2].id);
        assert!(found.services.iter().any(|service| service.id == second.id()));
        let boil = found.services[1].endpoint("boil").unwrap();
        assert_eq!(boil.subject_for(bus.me()), Some(format!("nhi.kettle.boil.{}", bus.me())));
        assert_eq!(
            (boil.effect, boil.description.as_str(), boil.stream),
            (Effect::Write, "for the tests", false)
        );
        let schema = boil.request_schema.as_ref().unwrap().read();
        assert_eq!(schema["properties"]["cups"]["type"], "integer", "{schema}");
    }
}

#[tokio::test]
async fn who_may_not_ask_is_told_and_an_empty_mesh_is_no_error() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    nats.add("gaming-pc", Role::Edge).await;
    nats.add("aider", Role::Agent).await;
    let (edge, aider) = (nats.connect(&cx, "gaming-pc").await, nats.connect(&cx, "aider").await);
    let before = Instant::now();
    assert!(matches!(discover(&edge, SOON).await, Err(DiscoverError::Refused)));
    assert_eq!(discover(&aider, SOON).await.unwrap(), []);
    assert!(before.elapsed() < AT_ONCE, "{:?}", before.elapsed());
}

/// What a service of somebody else answers, in any language.
#[tokio::test]
async fn a_foreign_fault_is_read_from_its_headers() {
    let cx = Cx::new();
    let (nats, home, _aider) = house(&cx).await;
    let client = nats.raw("home").await;
    let mut requests = client.subscribe("nhi.alarm.ring.*").await.unwrap();
    settle(&client).await;
    let answering = async {
        let request = requests.next().await.unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Service-Error", "nobody is home");
        headers.insert("Nats-Service-Error-Code", "404");
        client.publish_with_headers(request.reply.unwrap(), headers, Bytes::new()).await.unwrap();
    };
    let none = Cups::default();
    let ring = call::<_, Cups>(&home, "alarm", "ring", &none);
    let (outcome, ()) = timeout(SOON, async { tokio::join!(ring, answering) }).await.unwrap();
    let fault = outcome.unwrap_err().to_fault();
    assert_eq!((fault.code.as_str(), fault.message.as_str()), ("not-found", "nobody is home"));
}
