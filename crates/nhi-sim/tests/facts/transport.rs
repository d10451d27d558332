//! The rules of pveproxy's HTTP, as they were measured on the real one.

use crate::wire::{Client, Lab};
use nhi_sim::{LabOptions, PveVersion};
use std::time::{Duration, Instant};

async fn client(lab: &Lab) -> Client {
    Client::connect(lab).await.expect("a connection")
}

#[tokio::test]
async fn there_is_only_http_1_1_and_nothing_is_negotiated() {
    let lab = Lab::start().await;
    assert_eq!(client(&lab).await.protocol(), None);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_five_seconds() {
    let lab = Lab::start().await;
    let mut client = client(&lab).await;
    assert_eq!(client.request("GET", "/version", "").await.expect("an answer").status, 200);
    let begun = Instant::now();
    let bytes = tokio::time::timeout(Duration::from_secs(9), client.closed()).await.expect("it closes");
    assert_eq!(bytes, 0, "without a word");
    assert!(begun.elapsed() >= Duration::from_millis(4800), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_ends_with_its_hundredth_request() {
    let lab = Lab::start().await;
    let mut client = client(&lab).await;
    for number in 1..=100 {
        let answer = client.request("GET", "/version", "").await.expect("an answer");
        let expected = if number == 100 { "close" } else { "Keep-Alive" };
        assert_eq!(answer.header("connection"), Some(expected), "request {number}");
    }
    assert!(client.request("GET", "/version", "").await.is_none());
}

#[tokio::test]
async fn every_answer_from_400_up_closes_the_connection() {
    let lab = Lab::start().await;
    for path in ["/nodes/pve1/qemu/1/config", "/nodes/pve1/qemu/4711/config", "/nothing"] {
        let mut client = client(&lab).await;
        let answer = client.request("GET", path, "").await.expect("an answer");
        assert!(answer.status >= 400);
        assert_eq!(answer.header("connection"), Some("close"), "{path}");
        assert_eq!(client.closed().await, 0);
    }
}

#[tokio::test]
async fn delete_with_a_body_is_501_and_with_length_zero_fine() {
    let lab = Lab::start().await;
    let answer = lab.send("DELETE", "/pools/lab", "force=1").await.expect("an answer");
    assert_eq!((answer.status, answer.reason.as_str()), (501, "Unexpected content for method 'DELETE'"));
    let mut client = client(&lab).await;
    let answer = client
        .raw_with_token("DELETE /api2/json/pools/lab", "Content-Length: 0\r\n", "")
        .await
        .expect("an answer");
    assert_eq!(answer.status, 403, "it was heard: {answer:?}");
}

#[tokio::test]
async fn chunked_bodies_large_bodies_and_head_are_501() {
    let lab = Lab::start().await;
    let chunked = "Transfer-Encoding: chunked\r\nContent-Type: application/x-www-form-urlencoded\r\n";
    let body = "8\r\npoolid=x\r\n0\r\n\r\n";
    let answer =
        client(&lab).await.raw_with_token("POST /api2/json/pools", chunked, body).await.expect("an answer");
    assert_eq!(answer.status, 501);
    let large = format!("comment={}", "x".repeat(600 << 10));
    assert_eq!(lab.send("PUT", "/pools/lab", &large).await.expect("an answer").status, 501);
    let head = client(&lab).await.raw_with_token("HEAD /api2/json/version", "", "").await.expect("an answer");
    assert_eq!(head.status, 501);
    assert_eq!(lab.running.counts().requests, 0, "none of these reached the API");
}

#[tokio::test]
async fn too_many_header_lines_or_bytes_close_without_an_answer() {
    let lab = Lab::start().await;
    let lines = |count: usize| (0..count).map(|number| format!("X-{number}: y\r\n")).collect::<String>();
    let start = "GET /api2/json/version";
    assert!(client(&lab).await.raw_with_token(start, &lines(70), "").await.is_none());
    assert_eq!(
        client(&lab).await.raw_with_token(start, &lines(40), "").await.expect("an answer").status,
        200
    );
    let long = format!("X-Long: {}\r\n", "y".repeat(9000));
    assert!(client(&lab).await.raw_with_token(start, &long, "").await.is_none());
}

#[tokio::test]
async fn bodies_are_forms_or_json_and_repeated_keys_are_lists() {
    let lab = Lab::start().await;
    let put = "PUT /api2/json/nodes/pve1/qemu/107/config";
    let json = r#"{"cores": 2, "onboot": true}"#;
    let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", json.len());
    assert_eq!(client(&lab).await.raw_with_token(put, &head, json).await.expect("an answer").status, 200);
    let both = "vmid=106&vmid=107&storage=nas";
    assert_eq!(lab.send("POST", "/nodes/pve1/vzdump", both).await.expect("an answer").status, 200);
    let text = "Content-Type: text/plain\r\nContent-Length: 7\r\n";
    assert_eq!(client(&lab).await.raw_with_token(put, text, "cores=1").await.expect("an answer").status, 506);
    let bad = "Content-Type: application/json\r\nContent-Length: 1\r\n";
    assert_eq!(client(&lab).await.raw_with_token(put, bad, "{").await.expect("an answer").status, 500);
}

#[tokio::test]
async fn a_refused_login_is_empty_without_a_type_and_delayed() {
    let lab = Lab::with(LabOptions { auth_delay_ms: 400, ..LabOptions::demo() }).await;
    let begun = Instant::now();
    let answer = client(&lab)
        .await
        .raw("GET /api2/json/version HTTP/1.1\r\nHost: lab\r\n\r\n")
        .await
        .expect("an answer");
    assert!(begun.elapsed() >= Duration::from_millis(400));
    assert_eq!((answer.status, answer.reason.as_str()), (401, "No ticket"));
    assert!(answer.body.is_empty() && answer.header("content-type").is_none());
    assert_eq!(LabOptions::demo().auth_delay_ms, 3000, "as long as a real one, unless a test says otherwise");
}

#[tokio::test]
async fn an_unknown_path_is_501_and_names_the_method() {
    let lab = Lab::start().await;
    let answer = lab.get("/nothing/here").await;
    assert_eq!((answer.status, answer.reason.as_str()), (501, "Method 'GET /nothing/here' not implemented"));
}

#[tokio::test]
async fn release_8_tells_errors_in_the_reason_phrase_only() {
    let lab = Lab::with(LabOptions { version: PveVersion::V8_2, ..LabOptions::demo() }).await;
    let answer = lab.get("/nodes/pve1/qemu/4711/config").await;
    assert_eq!(answer.text(), r#"{"data":null}"#);
    assert_eq!(answer.reason, "Configuration file 'nodes/pve1/qemu-server/4711.conf' does not exist");
}

#[tokio::test]
async fn a_node_out_of_reach_is_595_with_an_empty_body() {
    let lab = Lab::start().await;
    let fault = nhi_sim::Fault::NodeOffline { node: "pve2".to_owned(), code: 595, power_cut: false };
    lab.running.set_fault(fault).expect("a fault");
    let answer = lab.get("/nodes/pve2/status").await;
    assert_eq!((answer.status, answer.reason.as_str(), answer.body.len()), (595, "No route to host", 0));
}

#[tokio::test]
async fn encoded_paths_are_decoded_and_volumes_may_hold_slashes() {
    let lab = Lab::start().await;
    let all = lab.get("/nodes/pve1/storage/nas/content").await.json();
    let volume =
        all["data"].as_array().expect("a list").iter().find(|row| row["content"] == "iso").expect("an image");
    let volid = volume["volid"].as_str().expect("a name");
    for path in [volid.to_owned(), volid.replace('/', "%2F").replace(':', "%3A")] {
        let answer = lab.get(&format!("/nodes/pve1/storage/nas/content/{path}")).await;
        assert_eq!((answer.status, &answer.json()["data"]["volid"]), (200, &volume["volid"]));
    }
}

#[tokio::test]
async fn a_silent_agent_costs_five_seconds_of_a_worker() {
    let lab = Lab::start().await;
    lab.running.set_fault(nhi_sim::Fault::AgentSilent { vmid: 100 }).expect("a fault");
    let begun = Instant::now();
    let answer = lab.get_as_scanner("/nodes/pve1/qemu/100/agent/network-get-interfaces").await;
    assert!(begun.elapsed() >= Duration::from_secs(5));
    assert_eq!(answer.status, 500);
    assert!(answer.reason.contains("got timeout"), "{}", answer.reason);
    let missing = lab.get_as_scanner("/nodes/pve3/qemu/108/agent/network-get-interfaces").await;
    assert_eq!(missing.reason, "QEMU guest agent is not running");
    let unconfigured = lab.get_as_scanner("/nodes/pve2/qemu/105/agent/network-get-interfaces").await;
    assert_eq!(unconfigured.reason, "No QEMU guest agent configured");
}
