//! Services of others that describe themselves so as to harm: whoever lists and calls tools is not harmed, and one service
//! crowds out nobody. And one identity that wants more sessions than there are.

use super::{client::Client, names_until};
use crate::house::{House, SOON};
use futures::StreamExt as _;
use nhi_model::identity::Role;
use nhi_testkit::wait_for;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// How many endpoints the greedy service has.
const ENDPOINTS: usize = 60;
/// How many the hoarding one has in each version, and how long the schema of each is: nearly 2 MiB, which is what is read.
const HOARDED: usize = 440;
const HOARDED_BYTES: usize = 4_000;

/// Schemas that go round, that double at each step, and that are none.
fn schemas() -> [Value; 4] {
    let twice = json!({"properties": {}, "anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
    let next = |n: usize| json!({"$ref": format!("#/$defs/s{}", n + 1)});
    let doubled: Map<String, Value> =
        (0..64).map(|n| (format!("s{n}"), json!({"allOf": [next(n), next(n)]}))).collect();
    let wide = |n: usize| -> Map<String, Value> { (0..64).map(|p| (format!("p{p}"), next(n))).collect() };
    let wide: Map<String, Value> =
        (0..12).map(|n| (format!("s{n}"), json!({"type": "object", "properties": wide(n)}))).collect();
    let none = json!({"type": "object", "required": [1], "properties": {"a": {"type": "float", "enum": []}, "b c": {"pattern": "["}}});
    [
        twice,
        json!({"$ref": "#/$defs/s0", "$defs": doubled}),
        json!({"$ref": "#/$defs/s0", "$defs": wide}),
        none,
    ]
}

/// Somebody else's service with all of them.
async fn greedy(house: &House) {
    let schemas = schemas().map(|schema| schema.to_string());
    let endpoints = (0..ENDPOINTS).map(|n| {
        let schema = &schemas[n % schemas.len()];
        let metadata = json!({"effect": "read", "request_schema": schema, "response_schema": schema});
        json!({"name": format!("e{n:02}"), "subject": format!("nhi.bulk.e{n:02}.*"), "metadata": metadata})
    });
    let endpoints: Vec<Value> = endpoints.collect();
    offer(
        house,
        "bulk",
        vec![json!({"name": "bulk", "id": "B1", "version": "1.0.0", "endpoints": endpoints})],
    )
    .await;
}

/// One that says as much as is read, in each of three versions, each of other endpoints.
async fn hoard(house: &House) {
    let version = |n: usize| {
        let endpoint = |m: usize| {
            let (name, text) = (format!("e{n}x{m:03}"), format!("{n} {m} {}", "x".repeat(HOARDED_BYTES)));
            let schema = json!({"type": "object", "description": text}).to_string();
            json!({"name": name, "subject": format!("nhi.hoard.{name}.*"), "metadata": {"request_schema": schema}})
        };
        let endpoints: Vec<Value> = (0..HOARDED).map(endpoint).collect();
        json!({"name": "hoard", "id": format!("H{n}"), "version": format!("1.{n}.0"), "endpoints": endpoints})
    };
    offer(house, "hoard", (0..3).map(version).collect()).await;
}

/// Answers as these instances of somebody else's service do, and each call with its subject.
async fn offer(house: &House, name: &'static str, instances: Vec<Value>) {
    house.nats.add(name, Role::Service).await;
    let client = house.nats.raw(name).await;
    let mut heard = Vec::new();
    let calls = format!("nhi.{name}.*.*");
    let own = ["INFO", "PING"].map(|verb| format!("$SRV.{verb}.{name}"));
    for subject in ["$SRV.INFO", "$SRV.PING", &own[0], &own[1], &calls] {
        heard.push(client.subscribe(subject.to_owned()).await.unwrap());
    }
    client.flush().await.unwrap();
    let there = |info: &Value| {
        json!({"name": info["name"], "id": info["id"], "version": info["version"]}).to_string()
    };
    let pings: Vec<String> = instances.iter().map(there).collect();
    let infos: Vec<String> = instances.iter().map(Value::to_string).collect();
    let stop = house.cx.clone();
    house.cx.spawn(name, async move {
        let mut heard = futures::stream::select_all(heard);
        loop {
            let message = tokio::select! {
                message = heard.next() => message.unwrap(),
                () = stop.cancelled() => return,
            };
            let answers = match message.subject.split('.').nth(1) {
                Some("INFO") => infos.clone(),
                Some("PING") => pings.clone(),
                _ => vec![json!({"called": message.subject.as_str()}).to_string()],
            };
            let reply = message.reply.unwrap();
            for answer in answers {
                client.publish(reply.clone(), answer.into()).await.unwrap();
            }
        }
    });
}

/// Whether all that stands there is JSON Schema, as far as a client's library would complain.
fn assert_schema(schema: &Value, tool: &str) {
    let types = ["null", "boolean", "object", "array", "number", "string", "integer"];
    if let Some(kind) = schema.get("type") {
        let kinds = kind.as_array().cloned().unwrap_or_else(|| vec![kind.clone()]);
        assert!(kinds.iter().all(|kind| types.contains(&kind.as_str().unwrap())), "{tool}: {kind}");
    }
    if let Some(words) = schema.get("enum") {
        assert!(!words.as_array().unwrap().is_empty(), "{tool}");
    }
    if let Some(required) = schema.get("required") {
        assert!(required.as_array().unwrap().iter().all(Value::is_string), "{tool}");
    }
    assert!(schema.get("$ref").is_none() && schema.get("pattern").is_none(), "{tool}: {schema}");
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        assert!(!name.contains(' '), "{tool}: {name}");
        assert_schema(inner, tool);
    }
}

#[tokio::test]
async fn hostile_schemas_harm_nobody_and_one_service_crowds_out_nobody() {
    let house = House::open().await;
    greedy(&house).await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "both services", |names| {
        ["bulk_e00", "kettle_tell"].iter().all(|name| names.iter().any(|n| n == name))
    })
    .await;
    let tools = owner.tools().await;
    let is_bulk = |tool: &&Value| tool["name"].as_str().unwrap().starts_with("bulk_");
    let bulk: Vec<&Value> = tools.iter().filter(is_bulk).collect();
    assert_eq!(bulk.len(), 24, "of {ENDPOINTS}");
    let last = bulk[23]["description"].as_str().unwrap();
    assert!(last.ends_with("[36 more endpoints of it are not listed]"), "{last}");
    for tool in &tools {
        let name = tool["name"].as_str().unwrap();
        assert_eq!(tool["inputSchema"]["type"], "object", "{name}");
        for schema in ["inputSchema", "outputSchema"] {
            assert!(tool[schema].to_string().len() < 16_000, "{name}");
            assert_schema(&tool[schema], name);
        }
    }
    // What is listed can be called, and what is not listed as well; whatever its schema, the check comes to an end.
    for n in [0, 1, 2, 3, ENDPOINTS - 1] {
        let result = owner.call(&format!("bulk_e{n:02}"), json!({"x": {"y": [1, 2]}})).await;
        assert_eq!(result["structuredContent"]["called"], format!("nhi.bulk.e{n:02}.owner"), "{result}");
    }
    house.close().await;
}

#[tokio::test]
async fn the_document_has_room_for_all_whoever_hoards() {
    let house = House::open().await;
    greedy(&house).await;
    hoard(&house).await;
    let bearer = format!("Bearer {}", house.seed("owner"));
    let hoarded = |document: &Value| {
        let paths = document["paths"].as_object().unwrap().keys();
        let shown = paths.filter(|path| path.starts_with("/mesh/hoard/")).count();
        let tags = document["tags"].as_array().unwrap().iter();
        let tag = tags.clone().find(|tag| tag["name"] == "hoard").cloned().unwrap_or_default();
        let left_out = tag["description"].as_str().and_then(|text| text[1..].split(' ').next()?.parse().ok());
        (shown, left_out.unwrap_or(0_usize))
    };
    let (document, bytes) = wait_for("both services", SOON, async || {
        let answer = house.send("GET", "/openapi.json", &[("Authorization", &bearer)], "").await;
        assert_eq!(answer.status, 200, "{}", answer.head);
        let document = answer.json();
        let (shown, left_out) = hoarded(&document);
        let is_all = shown + left_out == 3 * HOARDED && document["paths"]["/mesh/bulk/e59"].is_object();
        if is_all { Ok((document, answer.body.len())) } else { Err((shown, left_out)) }
    })
    .await;
    for path in [
        "/mesh/kettle/tell",
        "/mesh/bulk/e00",
        "/mesh/state/get",
        "/mesh/auth/whoami",
        "/healthz",
        "/v1/messages",
    ] {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    // 2 MiB for each service of others; they say more than twice that.
    let (shown, _) = hoarded(&document);
    assert!(shown * HOARDED_BYTES > 1_000_000, "the control: {shown} have their room");
    assert!(3 * HOARDED * HOARDED_BYTES > 5 << 20 && bytes < 4 << 20, "{bytes}");
    house.close().await;
}

#[tokio::test]
async fn sessions_are_bounded_whatever_version_they_are_begun_with() {
    let house = House::open().await;
    house.nats.add("eye", Role::Viewer).await;
    let key = format!("Bearer {}", house.seed("owner"));
    let begin = |version: &'static str| {
        let params = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
        let (house, key) = (&house, key.as_str());
        async move {
            let headers = [
                ("Authorization", key),
                ("Accept", "application/json, text/event-stream"),
                ("MCP-Protocol-Version", version),
            ];
            house.send("POST", "/mcp", &headers, &body).await
        }
    };
    let (new, old) = ((0..50).map(|_| begin("2026-07-28")), (0..50).map(|_| begin("2025-11-25")));
    let answers = futures::future::join_all(new.chain(old)).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    let sessions: BTreeSet<&str> = answers
        .iter()
        .filter_map(|a| a.head.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")))
        .collect();
    // While all come at once some are refused that would have found a place, but never one is let in that should not.
    assert!((1..=64).contains(&sessions.len()), "{}", sessions.len());
    while begin("2026-07-28").await.status == 200 {}
    assert_eq!(begin("2025-11-25").await.status, 429);
    // The control: others have places of their own, and a place that is given back can be taken.
    Client::open(&house, "eye").await;
    let one = sessions.iter().next().unwrap().trim();
    let ended = house.send("DELETE", "/mcp", &[("Authorization", &key), ("Mcp-Session-Id", one)], "").await;
    assert!(ended.status < 300, "{ended:?}");
    wait_for("a place", SOON, async || {
        let status = begin("2025-11-25").await.status;
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
    house.close().await;
}
