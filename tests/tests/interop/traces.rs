//! Traces through the whole mesh: what a `traceparent` over HTTP says reaches the service, and both tell the collector.

use crate::up::Up;
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const SOON: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const REFUSED: &str = "22222222222222222222222222222222";
const UNWANTED: &str = "11111111111111111111111111111111";

/// The spans a collector was sent, each with its service.
type Spans = Arc<Mutex<Vec<(String, Value)>>>;

async fn take(mut stream: TcpStream, spans: Spans) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
            if body.len() >= length.parse::<usize>().unwrap() {
                assert!(head.starts_with("POST /v1/traces HTTP/1.1"), "{head}");
                let told: Value = serde_json::from_str(body).unwrap();
                let mut spans = spans.lock().unwrap();
                for resource in told["resourceSpans"].as_array().unwrap() {
                    let service =
                        resource["resource"]["attributes"][0]["value"]["stringValue"].as_str().unwrap();
                    for span in resource["scopeSpans"][0]["spans"].as_array().unwrap() {
                        spans.push((service.to_owned(), span.clone()));
                    }
                }
                break;
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{text}");
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}").await.unwrap();
}

#[tokio::test]
async fn a_trace_goes_from_http_through_the_mesh_to_the_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let spans = Spans::default();
    let (mut collector, taken) = (JoinSet::new(), spans.clone());
    collector.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(take(stream, taken.clone()));
        }
    });
    let up = Up::start(&format!("[telemetry]\notlp = \"http://{address}\"\n")).await;
    let ask = json!({"select": ["vm"], "limit": 1});
    for (trace, flags) in [(UNWANTED, "00"), (TRACE, "01")] {
        let header = format!("traceparent: 00-{trace}-00f067aa0ba902b7-{flags}\r\n");
        let (status, body) = up.http_with("owner", "POST", "/mesh/state/get", &ask, &header).await;
        assert_eq!(status, 200, "{body}");
    }
    let of_trace = |trace: &str| -> Vec<(String, Value)> {
        spans.lock().unwrap().iter().filter(|(_, span)| span["traceId"] == trace).cloned().collect()
    };
    let told = wait_for("both spans", SOON, async || {
        let told = of_trace(TRACE);
        if told.len() == 2 { Ok(told) } else { Err(told) }
    })
    .await;
    let of = |service: &str| told.iter().find(|(name, _)| name == service).map(|(_, span)| span).unwrap();
    let (gateway, state) = (of("nhi-gateway"), of("nhi-state"));
    assert_eq!((&gateway["name"], &state["name"]), (&"POST /mesh/state/get".into(), &"state.get".into()));
    assert_eq!(gateway["parentSpanId"], "00f067aa0ba902b7");
    assert_eq!(state["parentSpanId"], gateway["spanId"], "the service's is below the gateway's");
    assert!(of_trace(UNWANTED).is_empty(), "the control: what is not sampled is not told");

    // A door of AI programs tells what its client was told.
    let ask =
        json!({"model": "no-such-model", "messages": [{"role": "user", "content": "hello"}], "stream": true});
    let header = format!("traceparent: 00-{REFUSED}-00f067aa0ba902b7-01\r\n");
    let (status, body) = up.http_with("owner", "POST", "/v1/chat/completions", &ask, &header).await;
    assert_eq!(status, 404, "{body}");
    let door = wait_for("the door's span", SOON, async || {
        let told = of_trace(REFUSED);
        told.iter().find(|(name, _)| name == "nhi-gateway").map(|(_, span)| span.clone()).ok_or(told)
    })
    .await;
    let told = door["attributes"].as_array().unwrap().iter();
    let mut told = told.filter(|attribute| attribute["key"] == "http.response.status_code");
    assert_eq!(told.next().unwrap()["value"]["stringValue"], status.to_string(), "{door}");
    up.stop().await;
}
