//! Services that do not give one whole answer in time: they answer twice, too late, or with far too much. Whoever asked
//! hears one thing, and whoever asks something else notices nothing.

use crate::{
    house::{Answer, House, SOON},
    mcp::{Client, names_until},
};
use futures::{StreamExt as _, stream::select_all};
use nhi_bus::service::{Caller, Ending, Frames, Service, Spec};
use nhi_model::{
    Timestamp,
    call::{Effect, PAYLOAD_BYTES_MAX},
    identity::Role,
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

/// What the flood sends: frames, and the bytes of one. 20 MB.
const FLOOD: (usize, usize) = (20, 1 << 20);

/// Somebody's service in another library. `twice` answers with two numbers, `late` when somebody asks for `now`, `most`
/// with as much as one message holds, `more` with 20 MB in one message, which nats-server does not take.
async fn unruly(house: &House) {
    house.nats.add("unruly", Role::Service).await;
    let client = house.nats.raw("unruly").await;
    let endpoint = |name: &str| json!({"name": name, "subject": format!("nhi.unruly.{name}.*"), "metadata": {"effect": "read"}});
    let endpoints: Vec<Value> = ["twice", "late", "now", "most", "more"].map(endpoint).into();
    let info = json!({"name": "unruly", "id": "U1", "version": "1.0.0", "endpoints": endpoints}).to_string();
    let mut heard = Vec::new();
    for subject in ["$SRV.INFO", "$SRV.INFO.unruly", "$SRV.PING", "$SRV.PING.unruly", "nhi.unruly.*.*"] {
        heard.push(client.subscribe(subject).await.unwrap());
    }
    client.flush().await.unwrap();
    let stop = house.cx.clone();
    house.cx.spawn("unruly", async move {
        let (mut heard, mut kept) = (select_all(heard), Vec::new());
        loop {
            let message = tokio::select! {
                message = heard.next() => message.unwrap(),
                () = stop.cancelled() => return,
            };
            let asked: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            let reply = message.reply.unwrap();
            let tell = |told: Value| client.publish(reply.clone(), told.to_string().into());
            match message.subject.split('.').nth(2) {
                Some("twice") => {
                    tell(json!({"asked": asked["n"], "answer": 1})).await.unwrap();
                    tell(json!({"asked": asked["n"], "answer": 2})).await.unwrap();
                }
                Some("late") => kept.push(reply),
                Some("now") => {
                    for late in kept.drain(..) {
                        client.publish(late, r#"{"answer":"late"}"#.into()).await.unwrap();
                    }
                    tell(json!({"answer": "now"})).await.unwrap();
                }
                Some("most") => tell(json!("x".repeat(PAYLOAD_BYTES_MAX - 2))).await.unwrap(),
                Some("more") => {
                    tell(json!("x".repeat(FLOOD.0 * FLOOD.1)))
                        .await
                        .expect_err("the control: it is too much");
                }
                _ => client.publish(reply, info.clone().into()).await.unwrap(),
            }
        }
    });
}

/// One that says 20 MB in frames.
async fn flood(house: &House) {
    let pour = |_: Caller, _: Value, frames: Frames| async move {
        for n in 0..FLOOD.0 {
            frames.send_json(&json!({"n": n, "x": "x".repeat(FLOOD.1)})).await.unwrap();
        }
        Ok(Ending::Done)
    };
    let spec = Spec { endpoint: "pour", effect: Effect::Read, description: "", stream: true };
    let service = Service::new("flood", "1.0.0", "").streaming::<Value, Value, _>(spec, pour);
    service.start(&house.cx, &house.nats.connect(&house.cx, "home").await).await.unwrap();
}

/// A call that may last a moment.
async fn within_a_moment(house: &House, path: &str) -> Answer {
    let bearer = format!("Bearer {}", house.seed("owner"));
    let until = (Timestamp::now() + Duration::from_millis(500)).to_string();
    house.send("POST", path, &[("Authorization", &bearer), ("Nhi-Expires", &until)], "{}").await
}

async fn assert_undisturbed(house: &House) {
    assert_eq!(house.post("owner", "/mesh/kettle/tell", "{}").await.status, 200);
}

#[tokio::test]
async fn a_second_or_late_answer_is_nobodys() {
    let house = House::open().await;
    unruly(&house).await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "the service", |names| names.contains(&"unruly_twice".to_owned())).await;
    for n in 0..20 {
        let told = house.post("owner", "/mesh/unruly/twice", &json!({"n": n}).to_string()).await;
        assert_eq!((told.status, told.json()), (200, json!({"asked": n, "answer": 1})), "{told:?}");
        let told = owner.call("unruly_twice", json!({"n": n})).await;
        assert_eq!(told["structuredContent"], json!({"asked": n, "answer": 1}), "{told}");
    }
    let told = within_a_moment(&house, "/mesh/unruly/late").await;
    assert_eq!(told.code(), "timeout", "{told:?}");
    // The answer to it comes while others are under way.
    let told = house.post("owner", "/mesh/unruly/now", "{}").await;
    assert_eq!(told.json(), json!({"answer": "now"}), "{told:?}");
    // Whoever still waits hears it, by either door.
    let (body, late) = (json!({"name": "unruly_late", "arguments": {}}), "/mesh/unruly/late");
    let waiting = futures::future::join(owner.request("tools/call", body), house.post("owner", late, "{}"));
    let calling = wait_for("both to have an answer", SOON, async || {
        house.post("owner", "/mesh/unruly/now", "{}").await;
        Err::<(), _>("they wait")
    });
    tokio::select! {
        (tool, rest) = waiting => {
            assert_eq!(tool.answer["result"]["structuredContent"]["answer"], "late", "{tool:?}");
            assert_eq!((rest.status, rest.json()), (200, json!({"answer": "late"})), "{rest:?}");
        }
        () = calling => unreachable!("it ends with a panic"),
    }
    assert_undisturbed(&house).await;
    house.close().await;
}

#[tokio::test]
async fn too_much_is_passed_on_in_pieces_or_told_as_too_much() {
    let house = House::open().await;
    unruly(&house).await;
    flood(&house).await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "the services", |names| {
        ["unruly_most", "flood_pour"].iter().all(|name| names.iter().any(|n| n == name))
    })
    .await;
    // As much as one message holds is an answer; a model is told that it is too much, and what to do.
    let told = house.post("owner", "/mesh/unruly/most", "{}").await;
    assert_eq!((told.status, told.body.len()), (200, PAYLOAD_BYTES_MAX));
    let told = owner.failed("unruly_most", json!({})).await;
    assert!(told.contains("[too-large]") && told.contains("Hint: narrow the question"), "{told}");
    // More than that never arrives: whoever asked hears so when the time is over.
    let told = within_a_moment(&house, "/mesh/unruly/more").await;
    assert_eq!(told.code(), "timeout", "{told:?}");
    // In frames all of it is passed on to who reads, and a model is told how much it was spared.
    let told = house.post("owner", "/mesh/flood/pour", "{}").await;
    assert_eq!((told.status, told.body.matches(r#"{"n":"#).count()), (200, FLOOD.0), "{}", told.head);
    assert!(told.body.len() > FLOOD.0 * FLOOD.1 && told.body.contains(r#"{"Nhi-End":"done"}"#));
    let told = owner.call("flood_pour", json!({})).await;
    assert_eq!(told["structuredContent"]["dropped"], FLOOD.0, "{}", told["isError"]);
    assert_undisturbed(&house).await;
    house.close().await;
}
