//! Endpoints that answer in frames, over HTTP: as events and as lines, up to a marked end, and no longer than wanted.

use crate::{
    house::{House, SOON},
    session::sign_in,
};
use nhi_bus::service::{Caller, Ending, Frames, Service, Spec};
use nhi_model::{
    call::Effect,
    fault::{Fault, FaultCode},
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::future::pending;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// Says when the handler is dropped before its end.
struct Mark(UnboundedSender<Value>, Value);

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = self.0.send(self.1.take());
    }
}

/// A house with a fountain, and who of its callers was dropped.
async fn house() -> (House, UnboundedReceiver<Value>) {
    let house = House::open().await;
    let (tell, dropped) = unbounded_channel();
    let handler = move |_: Caller, asked: Value, frames: Frames| pour(asked, frames, tell.clone());
    let spec = Spec { endpoint: "pour", effect: Effect::Write, description: "pours", stream: true };
    let fountain = Service::new("fountain", "1.0.0", "").streaming::<Value, Value, _>(spec, handler);
    fountain.start(&house.cx, &house.nats.connect(&house.cx, "home").await).await.unwrap();
    (house, dropped)
}

/// `{"frames": 2, "then": …}`
async fn pour(asked: Value, frames: Frames, tell: UnboundedSender<Value>) -> Result<Ending, Fault> {
    for n in 0..asked["frames"].as_u64().unwrap_or_default() {
        frames.send_json(&json!({"n": n})).await.unwrap();
    }
    match asked["then"].as_str() {
        Some("fail") => Err(Fault::new(FaultCode::Conflict, "it is dry", "wait for rain")),
        Some("whole") => Ending::whole(&json!({"whole": true})),
        Some("hang") => {
            let _mark = Mark(tell, asked);
            frames.open().await.unwrap();
            pending().await
        }
        _ => Ok(Ending::Done),
    }
}

/// The parts of a chunked body that are there, and whether its end is.
fn chunks(body: &str) -> (String, bool) {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (out, true);
        }
        let Some(chunk) = after.get(..size) else { break };
        out.push_str(chunk);
        rest = after.get(size + 2..).unwrap_or_default();
    }
    (out, false)
}

/// An answer that is being read.
struct Reading {
    stream: TcpStream,
    text: String,
}

impl Reading {
    async fn open(house: &House, body: &str, accept: &str) -> Self {
        Self::open_as(house, &format!("X-Api-Key: {}", house.seed("owner")), body, accept).await
    }

    /// With headers that say who asks.
    async fn open_as(house: &House, who: &str, body: &str, accept: &str) -> Self {
        let mut stream = TcpStream::connect(house.addr).await.unwrap();
        let head = format!(
            "POST /mesh/fountain/pour HTTP/1.1\r\nHost: localhost\r\n{who}\r\nAccept: {accept}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, text: String::new() }
    }

    /// Reads until the text is there, or the connection ends.
    async fn until(&mut self, what: &str) -> &str {
        let reading = async {
            let mut bytes = [0; 4096];
            while !self.text.contains(what) {
                let count = self.stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "no {what:?} in {:?}", self.text);
                self.text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
        };
        let read = tokio::time::timeout(SOON, reading).await;
        assert!(read.is_ok(), "no {what:?} yet in {:?}", self.text);
        &self.text
    }
}

#[tokio::test]
async fn frames_are_events_for_who_accepts_them_and_lines_for_the_rest() {
    let (house, _dropped) = house().await;
    let ask = async |accept: &str, body: &str| {
        let headers = [("X-Api-Key", house.seed("owner")), ("Accept", accept.to_owned())];
        let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        let answer = house.send("POST", "/mesh/fountain/pour", &headers, body).await;
        let (body, is_whole) = chunks(&answer.body);
        assert!(answer.status == 200 && is_whole, "{answer:?}");
        assert!(answer.head.contains("cache-control: no-store"), "{answer:?}");
        (answer.head, body)
    };
    let two = r#"{"frames":2}"#;
    let (head, body) = ask("application/json, text/event-stream", two).await;
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let events = "data: {\"n\":0}\n\ndata: {\"n\":1}\n\nevent: end\ndata: {\"Nhi-End\":\"done\"}\n\n";
    assert_eq!(body, events);
    let (head, body) = ask("*/*", two).await;
    assert!(head.contains("content-type: application/x-ndjson"), "{head}");
    assert_eq!(body, "{\"n\":0}\n{\"n\":1}\n{\"Nhi-End\":\"done\"}\n");

    let (_, body) = ask("*/*", r#"{"frames":1,"then":"fail"}"#).await;
    let last: Value = serde_json::from_str(body.lines().last().unwrap()).unwrap();
    assert_eq!(body.lines().count(), 2);
    let fault = json!({"code": "conflict", "message": "it is dry", "hint": "wait for rain"});
    assert_eq!(last, json!({"Nhi-End": "failed", "status": 409, "error": fault}));
    let (_, body) = ask("text/event-stream", r#"{"frames":1,"then":"fail"}"#).await;
    assert!(body.contains("\nevent: end\ndata: {") && body.contains("\"failed\""), "{body}");
    house.close().await;
}

#[tokio::test]
async fn what_ends_before_its_first_frame_is_an_ordinary_answer() {
    let (house, _dropped) = house().await;
    let failed = house.post("owner", "/mesh/fountain/pour", r#"{"then":"fail"}"#).await;
    assert_eq!((failed.status, failed.code().as_str()), (409, "conflict"), "{failed:?}");
    let whole = house.post("owner", "/mesh/fountain/pour", r#"{"then":"whole"}"#).await;
    assert_eq!((whole.status, whole.json()), (200, json!({"whole": true})), "{whole:?}");
    assert!(whole.head.contains("content-type: application/json"), "{whole:?}");
    house.close().await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_work() {
    let (house, mut dropped) = house().await;
    let ask = |who: &str| json!({"frames": 1, "then": "hang", "who": who}).to_string();
    let mut readers = Vec::new();
    for (who, accept) in [("events", "text/event-stream"), ("lines", "*/*"), ("stays", "*/*")] {
        let mut reading = Reading::open(&house, &ask(who), accept).await;
        reading.until("{\"n\":0}").await;
        readers.push((who, reading));
    }
    let (_, stays) = readers.pop().unwrap();
    for (who, reading) in readers {
        assert!(dropped.try_recv().is_err(), "{who} was dropped before its client went away");
        drop(reading);
        let gone = tokio::time::timeout(SOON, dropped.recv()).await.unwrap().unwrap();
        assert_eq!(gone["who"], who);
    }
    // The control: who stays is worked for.
    assert_eq!(house.metric("nhi_gateway_connections").await, 1);
    assert!(dropped.try_recv().is_err(), "the one who stays was dropped");
    drop(stays);
    house.close().await;
}

#[tokio::test]
async fn the_head_does_not_wait_for_the_first_frame_and_a_stop_marks_the_end() {
    let (house, _dropped) = house().await;
    let mut reading = Reading::open(&house, r#"{"then":"hang"}"#, "*/*").await;
    let head = reading.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    house.cx.cancel();
    let ended = reading.until("0\r\n\r\n").await;
    assert!(ended.contains(r#"{"Nhi-End":"failed","#), "{ended}");
    wait_for("the gateway to be gone", SOON, async || TcpStream::connect(house.addr).await.is_err()).await;
    house.close().await;
}

#[tokio::test]
async fn signing_out_ends_what_is_under_way_over_the_session() {
    let (house, mut dropped) = house().await;
    let ask = |who: &str| json!({"frames": 1, "then": "hang", "who": who}).to_string();
    let (leaves, stays) = (sign_in(&house, "owner").await, sign_in(&house, "owner").await);
    let mut readers = Vec::new();
    for (who, browser) in [("events", &leaves), ("lines", &leaves), ("stays", &stays)] {
        let headers = format!("Cookie: {}\r\nX-Nhi-Csrf: {}", browser.cookie, browser.csrf);
        let accept = if who == "events" { "text/event-stream" } else { "*/*" };
        let mut reading = Reading::open_as(&house, &headers, &ask(who), accept).await;
        reading.until("{\"n\":0}").await;
        readers.push(reading);
    }
    let out = [("Cookie", leaves.cookie.as_str()), ("X-Nhi-Csrf", leaves.csrf.as_str())];
    assert_eq!(house.send("DELETE", "/session", &out, "").await.status, 204);
    let mut gone = Vec::new();
    for reading in &mut readers[..2] {
        let ended = reading.until("0\r\n\r\n").await;
        assert!(ended.contains(r#""Nhi-End":"failed""#) && ended.contains(r#""status":401"#), "{ended}");
        let mark = tokio::time::timeout(SOON, dropped.recv()).await.unwrap().unwrap();
        gone.push(mark["who"].as_str().unwrap().to_owned());
    }
    gone.sort();
    assert_eq!(gone, ["events", "lines"], "nobody works for who is signed out");
    // The control: the other session of the same caller goes on, over the same connection.
    assert!(dropped.try_recv().is_err(), "the one who stays was dropped");
    assert_eq!(house.metric("nhi_gateway_connections").await, 1);
    drop(readers);
    house.close().await;
}
