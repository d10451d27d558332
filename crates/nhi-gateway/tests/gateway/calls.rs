//! `POST /mesh/<service>/<endpoint>`: credential, connection, call, and every way it can fail.

use crate::house::{House, SOON};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::SignedDuration;
use nhi_bus::keys::Seed;
use nhi_model::{Timestamp, call::PAYLOAD_BYTES_MAX, identity::Role};
use nhi_testkit::wait_for;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn a_call_is_made_as_its_caller_whatever_the_dialect() {
    let house = House::open().await;
    house.nats.add("ann", Role::Operator).await;
    let (ann, owner) = (house.seed("ann"), house.seed("owner"));
    let basic = format!("Basic {}", STANDARD.encode(format!("whoever:{ann}")));
    let bearer = format!("Bearer {owner}");
    let in_query = format!("/mesh/kettle/tell?key={ann}");
    for (path, headers, name) in [
        ("/mesh/kettle/tell", vec![("Authorization", bearer.as_str())], "owner"),
        ("/mesh/kettle/tell", vec![("Authorization", basic.as_str())], "ann"),
        ("/mesh/kettle/tell", vec![("X-Api-Key", ann.as_str())], "ann"),
        ("/mesh/kettle/tell", vec![("X-Goog-Api-Key", owner.as_str())], "owner"),
        (in_query.as_str(), vec![], "ann"),
    ] {
        house.nats.grant("ann", "kettle").await;
        let answer = house.send("POST", path, &headers, r#"{"n": 1.0}"#).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!((&answer.json()["caller"], &answer.json()["asked"]), (&json!(name), &json!({"n": 1.0})));
        assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
    }
    assert_eq!(house.metric("nhi_gateway_connections").await, 2, "one for each caller, kept");
    house.close().await;
}

#[tokio::test]
async fn mesh_headers_go_along() {
    let house = House::open().await;
    let bearer = format!("Bearer {}", house.seed("owner"));
    let send = async |headers: &[(&str, &str)]| {
        let headers: Vec<_> = [("Authorization", bearer.as_str())].iter().chain(headers).copied().collect();
        house.send("POST", "/mesh/kettle/tell", &headers, "{}").await
    };
    let soon = (Timestamp::now() + Duration::from_secs(5)).to_string();
    let told = send(&[("Nhi-Id", "try-1"), ("Nhi-Expires", &soon)]).await.json();
    assert_eq!(told["id"], "try-1");
    let expires: Timestamp = told["expires"].as_str().unwrap().parse().unwrap();
    let given: Timestamp = soon.parse().unwrap();
    assert!(
        given.duration_since(expires).abs() < SignedDuration::from_secs(3),
        "{expires} is not about {given}"
    );
    for (headers, status, code) in [
        ([("Nhi-Id", "")], 400, "bad-request"),
        ([("Nhi-Expires", "tomorrow")], 400, "bad-request"),
        ([("Nhi-Expires", "2020-01-01T00:00:00Z")], 408, "timeout"),
    ] {
        let answer = send(&headers).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{headers:?}");
    }
    house.close().await;
}

#[tokio::test]
async fn who_is_nobody_gets_401() {
    let house = House::open().await;
    let stranger = Seed::generate();
    let cases = [
        vec![],
        vec![("Authorization", "Bearer sk-something".to_owned())],
        vec![("Authorization", format!("Bearer {}", stranger.expose()))],
        vec![("X-Api-Key", stranger.public_key())],
    ];
    for headers in cases {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        // The body does not matter: it is not read. Longer than allowed, it would be 413 otherwise.
        let long = format!(
            "POST /mesh/kettle/tell HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n{}\r\n",
            headers.iter().map(|(n, v)| format!("{n}: {v}\r\n")).collect::<String>()
        );
        for answer in [house.send("POST", "/mesh/kettle/tell", &headers, "{}").await, house.raw(&long).await]
        {
            assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{answer:?}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        }
    }
    assert_eq!(house.metric("nhi_gateway_connections").await, 0);
    house.close().await;
}

#[tokio::test]
async fn every_failure_has_its_status() {
    let house = House::open().await;
    house.samovar().await;
    house.nats.add("vera", Role::Viewer).await;
    for (who, path, status, code) in [
        ("owner", "/mesh/kettle/refuse", 409, "conflict"),
        ("owner", "/mesh/samovar/guarded", 409, "guarded"),
        ("owner", "/mesh/samovar/teapot", 418, "teapot"),
        ("owner", "/mesh/samovar/lucky", 500, "lucky"),
        ("vera", "/mesh/kettle/tell", 403, "forbidden"),
        ("owner", "/mesh/toaster/toast", 503, "unavailable"),
        ("owner", "/mesh/kettle/*", 400, "bad-request"),
        ("owner", "/mesh/kettle/a.b", 400, "bad-request"),
        ("owner", "/mesh/%ff/x", 404, "not-found"),
        ("owner", "/mesh/kettle", 404, "not-found"),
        ("owner", "/v2/what", 404, "not-found"),
    ] {
        let answer = house.post(who, path, "{}").await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}: {answer:?}");
    }
    let refused = house.post("owner", "/mesh/kettle/refuse", "{}").await.json();
    let fault =
        json!({"code": "conflict", "message": "it boils", "hint": "wait", "details": {"celsius": 99}});
    assert_eq!(refused["error"], fault, "the service's own words");
    let method = house.get("/mesh/kettle/tell").await;
    assert_eq!((method.status, &method.json()["status"]), (405, &json!(405)), "{method:?}");
    house.close().await;
}

#[tokio::test]
async fn bodies_are_bounded() {
    let house = House::open().await;
    let most = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX / 2));
    assert_eq!(house.post("owner", "/mesh/kettle/refuse", &most).await.status, 409, "a large one passes");
    let long = format!("\"{}\"", "x".repeat(PAYLOAD_BYTES_MAX));
    assert_eq!(house.post("owner", "/mesh/kettle/tell", &long).await.status, 413, "announced");
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20));
    let chunked = format!(
        "POST /mesh/kettle/tell HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         Connection: close\r\n\r\n{}0\r\n\r\n",
        house.seed("owner"),
        chunk.repeat(9)
    );
    let answer = house.raw(&chunked).await;
    assert_eq!((answer.status, answer.code().as_str()), (413, "too-large"), "not announced");
    house.close().await;
}

#[tokio::test]
async fn identities_come_and_go_at_once() {
    let house = House::open().await;
    assert_eq!(house.post("owner", "/mesh/state/get", "{}").await.status, 200);
    house.nats.add("bob", Role::Viewer).await;
    let bob = format!("Bearer {}", house.seed("bob"));
    let call = async || house.send("POST", "/mesh/state/get", &[("Authorization", &bob)], "{}").await;
    wait_for("the new identity to be known", Duration::from_secs(2), async || {
        let answer = call().await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    assert_eq!(house.metric("nhi_gateway_connections").await, 2);

    house.nats.revoke("bob").await;
    let answer = call().await;
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "the first call after it");
    assert_eq!(house.metric("nhi_gateway_connections").await, 1, "its connection is gone");
    assert_eq!(call().await.status, 401);
    assert_eq!(house.post("owner", "/mesh/state/get", "{}").await.status, 200, "others go on");
    house.close().await;
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let house = House::open().await;
    let calls = (0..40).map(|_| house.post("owner", "/mesh/kettle/tell", "{}"));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(house.metric("nhi_gateway_connections").await, 1);
    house.close().await;
}

#[tokio::test]
async fn a_broken_link_is_told_and_heals() {
    let mut house = House::open().await;
    assert_eq!(house.post("owner", "/mesh/state/get", "{}").await.status, 200);
    house.nats.kill9().await;
    let answer = house.post("owner", "/mesh/state/get", "{}").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "unavailable"), "{answer:?}");
    house.nats.restart().await;
    wait_for("calls to work again", SOON, async || {
        let answer = house.post("owner", "/mesh/state/get", "{}").await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await;
    house.close().await;
}
