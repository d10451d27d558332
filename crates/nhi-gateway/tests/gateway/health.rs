//! `/healthz`, `/readyz`, `/metrics`.

use crate::house::{House, SOON};
use nhi_testkit::wait_for;

#[tokio::test]
async fn a_living_gateway_says_what_it_lacks() {
    let mut house = House::open().await;
    assert_eq!(house.get("/healthz").await.status, 200);
    let ready = house.get("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(ready.json(), serde_json::json!({"ready": true, "bus": {"ok": true}, "state": {"ok": true}}));

    for service in house.keeper.drain(..) {
        service.stop().await;
    }
    let reason = wait_for("the keeper to be missed", SOON, async || {
        let ready = house.get("/readyz").await;
        if ready.status == 503 { Ok(ready.json()) } else { Err(ready) }
    })
    .await;
    assert_eq!(reason["ready"], false);
    assert_eq!(reason["bus"]["ok"], true);
    assert!(reason["state"]["reason"].as_str().unwrap().contains("nobody answers"), "{reason}");

    house.nats.kill9().await;
    let reason = wait_for("the link to be missed", SOON, async || {
        let ready = house.get("/readyz").await.json();
        if ready["bus"]["ok"] == false { Ok(ready) } else { Err(ready) }
    })
    .await;
    assert!(reason["bus"]["reason"].as_str().unwrap().starts_with("not connected"), "{reason}");
    assert_eq!(house.get("/healthz").await.status, 200, "it lives all the same");
    assert_eq!(house.metric("nhi_gateway_linked").await, 0);
    house.close().await;
}

#[tokio::test]
async fn answers_are_counted() {
    let house = House::open().await;
    house.get("/nowhere").await;
    house.raw("GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert_eq!(house.metric("nhi_gateway_refused_total").await, 1);
    assert_eq!(house.metric("nhi_gateway_requests_total{code=\"4xx\"}").await, 2);
    assert_eq!(house.metric("nhi_gateway_requests_total{code=\"2xx\"}").await, 2, "the two questions before");
    house.close().await;
}
