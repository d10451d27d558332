//! Through HTTP an identity may do exactly what nats-server lets it: the table of rights that the tests of nats-server's
//! permissions use, tried over the gateway, with the key and over a session.

use crate::{house::House, session::sign_in};
use futures::StreamExt as _;
use nhi_model::{
    identity::Role,
    rights::{ENDPOINTS, may_call},
    subject,
};
use nhi_testkit::settle;
use std::sync::{Arc, Mutex};

/// A service that answers every built-in endpoint but those the house has, and tells which calls arrived.
async fn naive_services(house: &House) -> Arc<Mutex<Vec<String>>> {
    let client = house.nats.raw("home").await;
    let mut calls = Vec::new();
    for endpoint in ENDPOINTS.iter().filter(|e| !is_kept(e.service, e.endpoint)) {
        let subject = subject::endpoint(endpoint.service, endpoint.endpoint);
        calls.push(client.subscribe(subject).await.unwrap());
    }
    settle(&client).await;
    let (arrived, stop) = (Arc::new(Mutex::new(Vec::new())), house.cx.clone());
    let heard = arrived.clone();
    house.cx.spawn("naive services", async move {
        let mut calls = futures::stream::select_all(calls);
        loop {
            let call = tokio::select! {
                call = calls.next() => call.unwrap(),
                () = stop.cancelled() => return,
            };
            heard.lock().unwrap().push(call.subject.to_string());
            client.publish(call.reply.unwrap(), "{}".into()).await.unwrap();
        }
    });
    arrived
}

/// What the house itself answers.
fn is_kept(service: &str, endpoint: &str) -> bool {
    matches!((service, endpoint), ("auth", "list" | "whoami") | ("state", "get"))
}

#[tokio::test]
async fn a_caller_may_through_http_what_nats_server_lets_it() {
    let house = House::open().await;
    let arrived = naive_services(&house).await;
    let everybody = house.everybody().await;
    // Operators may call whatever is registered.
    house.nats.add("kettle", Role::Service).await;
    let (mut allowed, mut refused) = (0, 0);
    for (who, role) in everybody {
        let browser = sign_in(&house, who).await;
        for endpoint in ENDPOINTS {
            let (service, endpoint) = (endpoint.service, endpoint.endpoint);
            let path = format!("/mesh/{service}/{endpoint}");
            let by_key = house.post(who, &path, "{}").await;
            let session = [("Cookie", browser.cookie.as_str()), ("x-nhi-csrf", browser.csrf.as_str())];
            let by_session = house.send("POST", &path, &session, "{}").await;
            let call = format!("nhi.{service}.{endpoint}.{who}");
            let heard = arrived.lock().unwrap().iter().filter(|subject| **subject == call).count();
            let times = if is_kept(service, endpoint) { 0 } else { 2 };
            if may_call(role, &[], service, endpoint) {
                allowed += 1;
                assert_eq!(
                    (by_key.status, by_session.status),
                    (200, 200),
                    "{call}: {by_key:?} {by_session:?}"
                );
                assert_eq!(heard, times, "{call}");
            } else {
                refused += 1;
                assert_eq!(
                    (by_key.status, by_session.status),
                    (403, 403),
                    "{call}: {by_key:?} {by_session:?}"
                );
                assert_eq!((by_key.code().as_str(), heard), ("forbidden", 0), "{call}");
            }
        }
        // What is not built in: the owner's and operators', as on the bus.
        let may = may_call(role, &[], "kettle", "tell");
        let answer = house.post(who, "/mesh/kettle/tell", "{}").await;
        assert_eq!(answer.status, if may { 200 } else { 403 }, "{who}: {answer:?}");
    }
    // The control: the table has both, so that neither an open nor a closed gateway passes.
    assert!(allowed > 50 && refused > 20, "{allowed} {refused}");
    house.close().await;
}
