//! Services against a real server: the protocol others speak too, what is dropped, one answer for every request.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use async_nats::{Client, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use nhi_bus::{
    audit,
    connect::Bus,
    cx::Cx,
    service::{Caller, DropReason, Dropped, Limits, Running, Service, ServiceError, Spec},
    store::{self, StoreSettings},
};
use nhi_model::{
    audit::AuditKind,
    call::{AuditList, Effect, PAYLOAD_BYTES_MAX},
    fault::{Fault, FaultBody, FaultCode},
    identity::Role,
};
use nhi_testkit::{Nats, settle, wait_for};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};

const SOON: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Order {
    #[serde(default)]
    cups: Vec<u32>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Served {
    text: String,
}

const fn spec(endpoint: &'static str) -> Spec {
    Spec { endpoint, effect: Effect::Write, description: "for the tests", stream: false }
}

/// What the handlers did.
#[derive(Clone, Default)]
struct Seen {
    runs: Arc<AtomicU64>,
    dropped: Arc<Mutex<Vec<Dropped>>>,
}

impl Seen {
    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> Vec<Dropped> {
        self.dropped.lock().unwrap().clone()
    }
}

fn kettle(seen: &Seen, gate: &Arc<Semaphore>) -> Service {
    let (runs, gate, dropped) = (seen.runs.clone(), gate.clone(), seen.dropped.clone());
    Service::new("kettle", "1.2.3", "boils water")
        .on_drop(Arc::new(move |message| dropped.lock().unwrap().push(message)))
        .endpoint(spec("boil"), move |_: Caller, order: Order| {
            let runs = runs.clone();
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                Ok(Served { text: format!("{:?}", order.cups) })
            }
        })
        .endpoint(spec("burst"), async |_, order: Order| -> Result<Served, Fault> {
            panic!("{:?} cups burst it", order.cups)
        })
        .endpoint(spec("hang"), async |_, _: Order| pending::<Result<Served, Fault>>().await)
        .endpoint(spec("flood"), async |_, _: Order| Ok(Served { text: "x".repeat(PAYLOAD_BYTES_MAX) }))
        .endpoint(spec("spill"), async |_, _: Order| {
            let fault = Fault::new(FaultCode::Conflict, "no\r\nNats-Rollup: all", "")
                .with("x", "y".repeat(PAYLOAD_BYTES_MAX));
            Err::<Served, Fault>(fault)
        })
        .limits(Limits { running: 1, waiting: 2, each_caller: 10 })
        .endpoint(spec("wait"), move |_: Caller, _: Order| {
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok(Served { text: "waited".to_owned() })
            }
        })
}

/// A server with the kettle, `home` as a raw client, and what the handlers did.
struct House {
    cx: Cx,
    nats: Nats,
    home: Client,
    seen: Seen,
    gate: Arc<Semaphore>,
    running: Running,
}

impl House {
    async fn new() -> Self {
        let (cx, nats, seen) = (Cx::new(), Nats::start().await, Seen::default());
        nats.add("kettle", Role::Service).await;
        let gate = Arc::new(Semaphore::new(0));
        let bus = nats.connect(&cx, "kettle").await;
        let running = kettle(&seen, &gate).start(&cx, &bus).await.unwrap();
        let home = nats.raw("home").await;
        Self { cx, nats, home, seen, gate, running }
    }

    async fn ask(&self, endpoint: &str, body: &str) -> Message {
        self.ask_with(endpoint, body, HeaderMap::new()).await
    }

    async fn ask_with(&self, endpoint: &str, body: &str, headers: HeaderMap) -> Message {
        let subject = format!("nhi.kettle.{endpoint}.home");
        let asked = self.home.request_with_headers(subject, headers, body.to_owned().into());
        timeout(SOON, asked).await.unwrap().unwrap()
    }

    async fn verb(&self, verb: &str) -> Value {
        let answer = self.home.request(format!("$SRV.{verb}"), Bytes::new()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    async fn stats_of(&self, endpoint: &str) -> Value {
        let stats = self.verb("STATS.kettle").await;
        let all = stats["endpoints"].as_array().unwrap();
        all.iter().find(|one| one["name"] == endpoint).unwrap().clone()
    }
}

fn fault(message: &Message) -> Fault {
    let headers = message.headers.as_ref().expect("a fault has headers");
    let body: FaultBody = serde_json::from_slice(&message.payload).unwrap();
    assert_eq!(headers.get("Nats-Service-Error-Code").unwrap().as_str(), body.error.status().to_string());
    let text = headers.get("Nats-Service-Error").unwrap().as_str();
    assert!(!text.is_empty() && text.len() <= 200 && !text.contains(['\r', '\n']));
    body.error
}

#[tokio::test]
async fn the_micro_protocol_is_spoken_exactly() {
    let house = House::new().await;
    let id = house.running.id().to_owned();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    for ping in ["PING".to_owned(), "PING.kettle".to_owned(), format!("PING.kettle.{id}")] {
        let ping = house.verb(&ping).await;
        assert_eq!(keys(&ping), "id metadata name type version");
        assert_eq!(ping["type"], "io.nats.micro.v1.ping_response");
        assert_eq!(
            (&ping["name"], &ping["id"], &ping["version"]),
            (&json!("kettle"), &json!(id), &json!("1.2.3"))
        );
    }
    let info = house.verb(&format!("INFO.kettle.{id}")).await;
    assert_eq!(keys(&info), "description endpoints id metadata name type version");
    assert_eq!(info["type"], "io.nats.micro.v1.info_response");
    let boil = &info["endpoints"][0];
    assert_eq!(keys(boil), "metadata name queue_group subject");
    assert_eq!((&boil["subject"], &boil["queue_group"]), (&json!("nhi.kettle.boil.*"), &json!("q")));
    assert_eq!(keys(&boil["metadata"]), "description effect request_schema response_schema");
    assert!(boil["metadata"].as_object().unwrap().values().all(Value::is_string), "ADR-32: strings only");

    house.ask("boil", "{}").await;
    house.ask("boil", "nonsense").await;
    let stats = house.verb("STATS").await;
    assert_eq!(keys(&stats), "endpoints id metadata name started type version");
    assert_eq!(stats["type"], "io.nats.micro.v1.stats_response");
    assert!(stats["started"].as_str().unwrap().parse::<nhi_model::Timestamp>().is_ok());
    let boil = house.stats_of("boil").await;
    assert_eq!((&boil["num_requests"], &boil["num_errors"]), (&json!(2), &json!(1)));
    assert_eq!(boil["last_error"], "400:bad-request");
    let (sum, mean) =
        (boil["processing_time"].as_u64().unwrap(), boil["average_processing_time"].as_u64().unwrap());
    assert!(sum > 0 && mean == sum / 2, "{boil}");
}

#[tokio::test]
async fn mistakes_are_answered_by_name() {
    let house = House::new().await;
    let check = async |body: &str, expect: &str| {
        let fault = fault(&house.ask("boil", body).await);
        assert_eq!(fault.code, "bad-request", "{body}");
        assert!(fault.message.contains(expect), "{body}: {}", fault.message);
    };
    check(r#"{"cups":[1,"x"]}"#, "at cups[1]: ").await;
    check(r#"{"mugs":1}"#, "unknown field `mugs`").await;
    check("{", "line 1 column 1").await;
    check("\u{0}\u{1}", "line 1 column 1").await;
    assert_eq!(house.seen.runs(), 0);
    let good = house.ask("boil", "").await;
    assert_eq!((&good.payload[..], good.headers.is_none()), (&br#"{"text":"[]"}"#[..], true));
}

/// Everything that can go wrong with a request, each answered once and only once.
#[tokio::test]
async fn every_request_gets_one_answer() {
    let house = House::new().await;
    let inbox = house.home.new_inbox();
    let mut answers = house.home.subscribe(inbox.clone()).await.unwrap();
    let soon = (nhi_model::Timestamp::now() + Duration::from_millis(300)).to_string();
    for (endpoint, body, headers, expect) in [
        ("boil", "{}", vec![], ""),
        ("boil", "{", vec![], "bad-request"),
        ("boil", "{}", vec![("Nhi-Id", "with space")], "bad-request"),
        ("boil", "{}", vec![("Nhi-Expires", "tomorrow")], "bad-request"),
        ("boil", "{}", vec![("Nhi-Expires", "2020-01-01T00:00:00Z")], "timeout"),
        ("hang", "{}", vec![("Nhi-Expires", soon.as_str())], "timeout"),
        ("burst", "{}", vec![], "internal"),
        ("flood", "{}", vec![], "too-large"),
        ("spill", "{}", vec![], "conflict"),
        ("burst", "{}", vec![], "internal"),
    ] {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, value);
        }
        let subject = format!("nhi.kettle.{endpoint}.home");
        house.home.publish_with_reply_and_headers(subject, inbox.clone(), map, body.into()).await.unwrap();
        let answer = timeout(SOON, answers.next()).await.unwrap().unwrap();
        let code = if expect.is_empty() { String::new() } else { fault(&answer).code };
        assert_eq!(code, expect, "{endpoint} {body}");
    }
    assert_eq!(house.seen.runs(), 1, "what expired was not run");
    house.ask("boil", "{}").await;
    assert!(answers.next().now_or_never().is_none(), "no second answer came before a later one");
}

#[tokio::test]
async fn no_more_is_taken_on_than_stated() {
    let house = House::new().await;
    let inbox = house.home.new_inbox();
    let mut answers = house.home.subscribe(inbox.clone()).await.unwrap();
    for _ in 0..10 {
        house.home.publish_with_reply("nhi.kettle.wait.home", inbox.clone(), "{}".into()).await.unwrap();
    }
    // One runs, two wait; seven are told at once.
    for _ in 0..7 {
        let refused = fault(&timeout(SOON, answers.next()).await.unwrap().unwrap());
        assert_eq!((refused.code.as_str(), refused.status()), ("too-many", 429));
    }
    house.gate.add_permits(3);
    for _ in 0..3 {
        let served = timeout(SOON, answers.next()).await.unwrap().unwrap();
        assert_eq!(&served.payload[..], br#"{"text":"waited"}"#);
    }
}

/// Publishes a call whose reply names another subject, and returns what arrived at that subject.
async fn lure(client: &Client, subject: &str, heard: &mut Subscriber) -> Option<Message> {
    client.publish_with_reply(subject.to_owned(), "$KV.nhi-state.vm.home.100", "{}".into()).await.unwrap();
    timeout(Duration::from_millis(500), heard.next()).await.ok().flatten()
}

/// A user may name any subject as the reply of a permitted request; the answer would be written there with the
/// service's rights.
#[tokio::test]
async fn replies_elsewhere_are_dropped_and_told() {
    let house = House::new().await;
    let mut heard = house.home.subscribe("$KV.>").await.unwrap();
    settle(&house.home).await;
    for subject in ["nhi.kettle.boil.home", "$SRV.INFO.kettle", "$SRV.PING", "$SRV.STATS"] {
        assert!(lure(&house.home, subject, &mut heard).await.is_none(), "{subject}");
    }
    house.home.publish("nhi.kettle.boil.home", "{}".into()).await.unwrap();
    let dropped = wait_for("five drops", SOON, async || {
        let dropped = house.seen.dropped();
        if dropped.len() == 5 { Ok(dropped) } else { Err(dropped) }
    })
    .await;
    let by_reason = dropped.iter().fold(BTreeMap::new(), |mut counts: BTreeMap<_, u32>, one| {
        *counts.entry(one.reason).or_default() += 1;
        counts
    });
    assert_eq!(by_reason, [(DropReason::UnanswerableReply, 4), (DropReason::NoReply, 1)].into());
    assert_eq!(dropped[0].reply.as_deref(), Some("$KV.nhi-state.vm.home.100"));
    assert_eq!((house.seen.runs(), &house.stats_of("boil").await["data"]), (0, &json!({"dropped": 2})));

    // The control: a service that answers any reply, as the library's own does, writes there.
    let naive = house.home.clone();
    let mut requests = naive.subscribe("nhi.naive.boil.*").await.unwrap();
    settle(&naive).await;
    house.cx.spawn("naive", async move {
        while let Some(request) = requests.next().await {
            naive.publish(request.reply.unwrap(), "{}".into()).await.unwrap();
        }
    });
    let written =
        lure(&house.home, "nhi.naive.boil.home", &mut heard).await.expect("the control must show the hole");
    assert_eq!(written.subject.as_str(), "$KV.nhi-state.vm.home.100");
}

/// A push consumer delivers stored messages to any subject, and their own subject stays what it was.
#[tokio::test]
async fn messages_with_another_subject_are_dropped() {
    let house = House::new().await;
    let jetstream = async_nats::jetstream::new(house.home.clone());
    let config = async_nats::jetstream::stream::Config {
        name: "LURE".to_owned(),
        subjects: vec!["lure.>".to_owned()],
        ..Default::default()
    };
    let stream = jetstream.create_stream(config).await.unwrap();
    jetstream.publish("lure.x", "{}".into()).await.unwrap().await.unwrap();
    let push = async_nats::jetstream::consumer::push::Config {
        deliver_subject: "nhi.kettle.boil.home".to_owned(),
        ..Default::default()
    };
    // The server delivers once somebody listens to that very subject.
    let _literal = house.home.subscribe("nhi.kettle.boil.home").await.unwrap();
    stream.create_consumer(push).await.unwrap();
    let dropped = wait_for("the drop", SOON, async || house.seen.dropped().into_iter().next()).await;
    assert_eq!((dropped.reason, dropped.subject.as_str()), (DropReason::ForeignSubject, "lure.x"));
    assert_eq!(house.seen.runs(), 0);
}

async fn refused(service: Service, cx: &Cx, bus: &Bus) -> ServiceError {
    service.start(cx, bus).await.unwrap_err()
}

#[tokio::test]
async fn a_service_that_cannot_serve_does_not_start() {
    let house = House::new().await;
    let (cx, seen) = (&house.cx, &house.seen);
    let bus = house.nats.connect(cx, "kettle").await;
    let nothing = || async |_: Caller, _: Order| Ok(Served { text: String::new() });
    let toaster = Service::new("toaster", "1.0.0", "").endpoint(spec("toast"), nothing());
    let error = refused(toaster, cx, &bus).await;
    assert!(
        matches!(&error, ServiceError::Refused { subject, .. } if subject == "nhi.toaster.toast.*"),
        "{error}"
    );
    let long: &'static str = "x".repeat(PAYLOAD_BYTES_MAX).leak();
    let wordy = Spec { description: long, ..spec("boil") };
    let error = refused(Service::new("kettle", "1.0.0", "").endpoint(wordy, nothing()), cx, &bus).await;
    assert!(matches!(error, ServiceError::InfoTooLarge { .. }), "{error}");
    for (service, version, endpoint) in [
        ("ket tle", "1.0.0", "boil"),
        ("kettle", "one", "boil"),
        ("kettle", "1.0.0", "a.b"),
        ("state", "1.0.0", "get"),
    ] {
        // The last one says that `state.get` writes, and the table of rights says that it reads.
        let service = Service::new(service, version, "").endpoint(spec(endpoint), nothing());
        let error = refused(service, cx, &bus).await;
        assert!(matches!(error, ServiceError::Malformed { .. }), "{error}");
    }
    let twice =
        Service::new("kettle", "1.0.0", "").endpoint(spec("a"), nothing()).endpoint(spec("a"), nothing());
    assert!(matches!(refused(twice, cx, &bus).await, ServiceError::Malformed { .. }));
    // None of them is left behind.
    house.ask("boil", "{}").await;
    assert_eq!((seen.runs(), house.verb("INFO.kettle").await["id"].as_str()), (1, Some(house.running.id())));
}

/// What the mesh's own agents drop stands in the audit log, a flood of it as one entry.
#[tokio::test]
async fn drops_stand_in_the_audit_log() {
    let (cx, nats) = (Cx::new(), Nats::start().await);
    let (bus, home) = (nats.connect(&cx, "scan").await, nats.connect(&cx, "home").await);
    store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
    let status = Spec { endpoint: "status", effect: Effect::Read, description: "", stream: false };
    let service = Service::new("scan", "1.0.0", "")
        .endpoint(status, async |_: Caller, _: Order| Ok(Served { text: String::new() }));
    service.start(&cx, &bus).await.unwrap();
    let raw = nats.raw("home").await;
    for _ in 0..100 {
        let reply = "$KV.nhi-state.vm.home.100";
        raw.publish_with_reply("nhi.scan.status.home", reply, "{}".into()).await.unwrap();
    }
    let entries = wait_for("an entry", SOON, async || {
        let listed = audit::list(&home, &AuditList::default()).await.unwrap();
        Some(listed.entries).filter(|entries| !entries.is_empty())
    })
    .await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0].entry;
    assert_eq!((entry.kind, entry.agent.as_str()), (AuditKind::MessageDropped, "scan"));
    assert_eq!(entry.actor.as_ref().unwrap().as_str(), "home");
    assert_eq!(entry.details["reply"], "$KV.nhi-state.vm.home.100");
}
