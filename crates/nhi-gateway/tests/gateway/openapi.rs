//! `/openapi.json`: what the mesh offers is in it, what it refers to is there, and failures look as it says.

use crate::house::{House, SOON};
use nhi_bus::service::{Service, Spec};
use nhi_model::call::Effect;
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn document(house: &House, who: Option<&str>) -> Value {
    let key = who.map(|who| format!("Bearer {}", house.seed(who)));
    let headers: Vec<(&str, &str)> = key.iter().map(|key| ("Authorization", key.as_str())).collect();
    let answer = house.send("GET", "/openapi.json", &headers, "").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Every reference in a document.
fn references<'v>(value: &'v Value, found: &mut BTreeSet<&'v str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[tokio::test]
async fn what_the_mesh_offers_is_described_to_those_who_may_know() {
    let house = House::open().await;
    let whole = wait_for("the kettle to be described", SOON, async || {
        let document = document(&house, Some("owner")).await;
        if document["paths"]["/mesh/kettle/tell"].is_object() { Ok(document) } else { Err(document) }
    })
    .await;
    assert_eq!(whole["openapi"], "3.1.0");
    let get = &whole["paths"]["/mesh/state/get"]["post"];
    assert_eq!((&get["x-nhi-effect"], &get["operationId"]), (&"read".into(), &"state_get".into()));
    assert_eq!(
        get["requestBody"]["content"]["application/json"]["schema"]["$ref"],
        "#/components/schemas/StateGet"
    );
    let ids = get["parameters"].as_array().unwrap();
    assert!(
        ids.iter().any(|parameter| parameter["name"] == "Nhi-Id" && parameter["in"] == "header"),
        "{get}"
    );
    for path in ["/healthz", "/readyz", "/metrics", "/events", "/session", "/mesh", "/v1/chat/completions"] {
        assert!(whole["paths"][path].is_object(), "{path}");
    }
    let mut all = BTreeSet::new();
    references(&whole, &mut all);
    assert!(all.len() > 10, "{all:?}");
    for reference in all {
        let pointer = reference.strip_prefix('#').unwrap_or_else(|| panic!("{reference} points elsewhere"));
        assert!(whole.pointer(pointer).is_some(), "{reference} points to nothing");
    }

    let open = document(&house, None).await;
    assert!(open["paths"]["/mesh/state/get"].is_object(), "built-in services are no secret");
    assert!(open["paths"]["/mesh/kettle/tell"].is_null(), "what else there is, is");
    let refused = house.send("GET", "/openapi.json", &[("Authorization", "Bearer SUnothing")], "").await;
    assert_eq!(refused.status, 401, "{refused:?}");
    house.close().await;
}

#[tokio::test]
async fn what_only_an_older_version_has_is_described_too() {
    let house = House::open().await;
    let home = house.nats.connect(&house.cx, "home").await;
    for (version, endpoints) in [("1.9.0", &["crumbs", "toast"][..]), ("1.10.0", &["toast"])] {
        let mut service = Service::new("toaster", version, "a toaster");
        for endpoint in endpoints {
            let spec = Spec { endpoint, effect: Effect::Write, description: "", stream: false };
            service = service.endpoint(spec, |_, _: Value| async { Ok(json!({})) });
        }
        service.start(&house.cx, &home).await.unwrap();
    }
    let version = |document: &Value, endpoint: &str| {
        document["paths"][format!("/mesh/toaster/{endpoint}")]["post"]["x-nhi-version"].clone()
    };
    let whole = wait_for("both versions", SOON, async || {
        let document = document(&house, Some("owner")).await;
        if version(&document, "toast") == "1.10.0" { Ok(document) } else { Err(document["tags"].to_string()) }
    });
    let whole = whole.await;
    assert_eq!(version(&whole, "crumbs"), "1.9.0", "{}", whole["paths"]["/mesh/toaster/crumbs"]);
    let tags = whole["tags"].as_array().unwrap().iter();
    assert_eq!(tags.filter(|tag| tag["name"] == "toaster").count(), 1);
    house.close().await;
}

#[tokio::test]
async fn failures_are_problem_details_around_the_error_of_the_mesh() {
    let house = House::open().await;
    let refused = house.post("owner", "/mesh/kettle/refuse", "{}").await;
    assert!(refused.head.contains("content-type: application/problem+json"), "{refused:?}");
    let body = refused.json();
    assert_eq!((refused.status, &body["status"]), (409, &409.into()));
    assert_eq!(
        (&body["type"], &body["title"], &body["detail"]),
        (&"urn:nhi:problem:conflict".into(), &"Conflict".into(), &"it boils".into())
    );
    assert_eq!(body["error"]["details"]["celsius"], 99, "what was there before stays: {body}");
    let method = house.get("/mesh/kettle/tell").await;
    assert_eq!(method.status, 405);
    assert!(method.head.contains("allow: post"), "{method:?}");
    house.close().await;
}
