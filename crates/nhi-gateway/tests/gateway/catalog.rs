//! What the mesh offers, as the gateway tells it: services come, go, run in two versions, and lie.

use crate::house::{House, SOON};
use futures::StreamExt as _;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    service::{Running, Service, Spec},
};
use nhi_model::{call::Effect, identity::Role};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// What the design promises: a service that is there is offered within this.
const OFFERED_WITHIN: Duration = Duration::from_secs(5);

/// Services by name and version, as somebody is told.
async fn offered(house: &House, who: &str) -> BTreeMap<(String, String), Value> {
    let bearer = format!("Bearer {}", house.seed(who));
    let answer = house.send("GET", "/mesh", &[("Authorization", &bearer)], "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told = answer.json();
    let services = told["services"].as_array().unwrap().iter();
    services.map(|s| ((text(&s["name"]), text(&s["version"])), s.clone())).collect()
}

async fn problems(house: &House) -> String {
    let bearer = format!("Bearer {}", house.seed("owner"));
    house.send("GET", "/mesh", &[("Authorization", &bearer)], "").await.json()["problems"].to_string()
}

async fn toaster(cx: &Cx, bus: &Bus, version: &str) -> Running {
    let spec = Spec { endpoint: "toast", effect: Effect::Write, description: "makes toast", stream: false };
    let service = Service::new("toaster", version, "a toaster");
    let service = service.endpoint(spec, |_, _: Value| async { Ok(json!({})) });
    service.start(cx, bus).await.unwrap()
}

fn key(name: &str, version: &str) -> (String, String) {
    (name.to_owned(), version.to_owned())
}

#[tokio::test]
async fn services_come_and_go_and_two_versions_are_told_apart() {
    let house = House::open().await;
    let before = offered(&house, "owner").await;
    assert!(before.contains_key(&key("kettle", "1.0.0")) && before.contains_key(&key("auth", "1.0.0")));
    let home = house.nats.connect(&house.cx, "home").await;
    let began = Instant::now();
    let (old, new) = (toaster(&house.cx, &home, "1.9.0").await, toaster(&house.cx, &home, "1.10.0").await);
    let both = wait_for("both toasters", SOON, async || {
        let now = offered(&house, "owner").await;
        let is = now.contains_key(&key("toaster", "1.9.0")) && now.contains_key(&key("toaster", "1.10.0"));
        if is { Ok(now) } else { Err(now.into_keys().collect::<Vec<_>>()) }
    })
    .await;
    assert!(began.elapsed() < OFFERED_WITHIN, "{:?}", began.elapsed());
    let new_one = &both[&key("toaster", "1.10.0")];
    assert_eq!(new_one["instances"], json!([new.id()]));
    assert_eq!(new_one["endpoints"][0]["path"], "/mesh/toaster/toast");
    assert_eq!(new_one["endpoints"][0]["effect"], "write");
    assert!(new_one["problems"][0].as_str().unwrap().contains("1.9.0"), "{new_one}");
    let began = Instant::now();
    old.stop().await;
    new.stop().await;
    wait_for("the toasters to vanish", SOON, async || {
        let now = offered(&house, "owner").await;
        // The control: nobody else goes with them.
        assert!(now.contains_key(&key("kettle", "1.0.0")), "{:?}", now.keys());
        if now.keys().all(|(name, _)| name != "toaster") { Ok(()) } else { Err(()) }
    })
    .await;
    assert!(began.elapsed() < OFFERED_WITHIN, "{:?}", began.elapsed());
    house.close().await;
}

#[tokio::test]
async fn how_services_fare_is_told_to_who_may_ask() {
    let house = House::open().await;
    house.nats.add("wall", Role::Viewer).await;
    house.nats.add("pc", Role::Edge).await;
    for (endpoint, status) in [("tell", 200), ("tell", 200), ("refuse", 409)] {
        let answer = house.post("owner", &format!("/mesh/kettle/{endpoint}"), "{}").await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let stats = offered(&house, "wall").await[&key("kettle", "1.0.0")]["stats"].clone();
    assert_eq!((&stats["tell"]["requests"], &stats["tell"]["errors"]), (&json!(2), &json!(0)), "{stats}");
    assert_eq!((&stats["refuse"]["requests"], &stats["refuse"]["errors"]), (&json!(1), &json!(1)));
    assert!(stats["tell"]["processing_ms_avg"].is_f64() && stats["boil"]["processing_ms_avg"].is_null());
    let bearer = format!("Bearer {}", house.seed("wall"));
    let small = [("Authorization", bearer.as_str()), ("Accept-Encoding", "gzip;q=0")];
    let plain = house.send("GET", "/mesh", &small, "").await;
    assert!(!plain.head.contains("content-encoding") && plain.body.starts_with('{'), "{plain:?}");
    // nats-server lets machines of the edge ask no service, and a gateway is no way around it.
    let bearer = format!("Bearer {}", house.seed("pc"));
    let answer = house.send("GET", "/mesh", &[("Authorization", &bearer)], "").await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{answer:?}");
    assert_eq!(house.get("/mesh").await.status, 401);
    house.close().await;
}

/// Somebody else's service, in any language: answers what it likes to whatever it may hear.
async fn liar(house: &House) {
    house.nats.add("liar", Role::Service).await;
    let client = house.nats.raw("liar").await;
    let mut questions = Vec::new();
    for verb in ["INFO", "PING", "STATS"] {
        questions.push(client.subscribe(format!("$SRV.{verb}")).await.unwrap());
        questions.push(client.subscribe(format!("$SRV.{verb}.liar")).await.unwrap());
    }
    client.flush().await.unwrap();
    let endpoint = |name: &str, subject: &str, description: &str, schema: &str| {
        json!({"name": name, "subject": subject,
            "metadata": {"description": description, "effect": "read", "request_schema": schema}})
    };
    let own = json!({
        "name": "liar", "id": "L1", "version": "9".repeat(10_000), "description": "x".repeat(100_000),
        "endpoints": [
            endpoint("lie", "nhi.liar.lie.*", "\u{1b}[2J\u{7}calm", "{"),
            endpoint("huge", "nhi.liar.huge.*", "", &json!({"x": "y".repeat(300_000)}).to_string()),
            endpoint("borrow", "nhi.act.approve.*", "", "{}"),
            endpoint("a b\n", "nhi.liar.x.*", "", "{}"),
        ],
    });
    let impostor = json!({"name": "state", "id": "impostor", "endpoints": []});
    let mut answers = vec![own.to_string(), impostor.to_string(), "garbage".to_owned()];
    answers.push(json!({"name": "liar", "id": "big", "description": "x".repeat(3_000_000)}).to_string());
    answers
        .extend((0..100).map(|n| json!({"name": "liar", "id": format!("M{n}"), "version": "1"}).to_string()));
    let stop = house.cx.clone();
    house.cx.spawn("liar", async move {
        let mut questions = futures::stream::select_all(questions);
        loop {
            let question = tokio::select! {
                question = questions.next() => question.unwrap(),
                () = stop.cancelled() => return,
            };
            for answer in &answers {
                client.publish(question.reply.clone().unwrap(), answer.clone().into()).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn hostile_descriptions_are_contained_and_told() {
    let house = House::open().await;
    let before = offered(&house, "owner").await;
    liar(&house).await;
    let version = "9".repeat(64);
    let now = wait_for("the liar", SOON, async || {
        let now = offered(&house, "owner").await;
        if now.contains_key(&key("liar", &version)) {
            Ok(now)
        } else {
            Err(now.into_keys().collect::<Vec<_>>())
        }
    })
    .await;
    let liar = &now[&key("liar", &version)];
    assert_eq!(liar["description"].as_str().unwrap().len(), 4_000);
    let lie = &liar["endpoints"].as_array().unwrap().iter().find(|e| e["name"] == "lie").unwrap();
    assert_eq!((&lie["description"], &lie["request_schema"]), (&json!("[2Jcalm"), &Value::Null));
    let names: Vec<&Value> = liar["endpoints"].as_array().unwrap().iter().map(|e| &e["name"]).collect();
    assert_eq!(names, ["borrow", "huge", "lie"]);
    assert_eq!(liar["endpoints"][0]["path"], Value::Null, "nobody calls others through it");
    assert_eq!(liar["endpoints"][1]["request_schema"], Value::Null);
    let said = liar["problems"].to_string();
    for word in
        ["description of the service", "request_schema of huge", "borrow cannot be called", "left out"]
    {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert!(now[&key("liar", "1")]["instances"].as_array().unwrap().len() < 40, "one crowds out nobody");
    let all = problems(&house).await;
    assert!(all.contains("calls itself state with the id impostor"), "{all}");
    // The control: everybody else is told of as before.
    for (key, service) in &before {
        assert_eq!(now[key]["endpoints"], service["endpoints"], "{key:?}");
        assert_eq!(now[key]["instances"], service["instances"], "{key:?}");
    }
    house.close().await;
}
