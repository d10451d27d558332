//! The running simulator: faults on the wire, counters, the control endpoint, the seeded identities.

use crate::wire::{Client, Lab};
use nhi_sim::{Breakage, Fault, LabOptions, Match, SimError, serve};
use serde_json::{Value, json};
use std::net::SocketAddr;

fn http(path: &str, answer: Breakage) -> Fault {
    Fault::Http { on: Match { path: Some(path.to_owned()), ..Match::default() }, answer }
}

#[tokio::test]
async fn a_proxy_answers_html_where_json_was_asked_for() {
    let lab = Lab::start().await;
    lab.running.set_fault(http("/cluster/resources", Breakage::Html { status: 200 })).expect("a fault");
    let answer = lab.get("/cluster/resources").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(answer.text().starts_with("<html>"));
    assert_eq!(lab.get("/version").await.status, 200, "other paths are fine");
}

#[tokio::test]
async fn a_dropped_request_was_not_carried_out_and_a_dropped_answer_was() {
    let lab = Lab::start().await;
    let path = "/nodes/pve1/qemu/107/config";
    let description = |lab: &Lab| lab.running.with_lab(|lab| lab.guests[&107].line("description").to_owned());
    let before = lab.running.set_fault(http(path, Breakage::DropBefore {})).expect("a fault");
    assert!(lab.send("PUT", path, "description=a").await.is_none());
    assert_eq!(description(&lab), "");
    lab.running.clear_fault(before).expect("cleared");
    lab.running.set_fault(http(path, Breakage::DropAfter {})).expect("a fault");
    assert!(lab.send("PUT", path, "description=b").await.is_none());
    assert_eq!(description(&lab), "b");
}

#[tokio::test]
async fn a_truncated_body_ends_before_its_length() {
    let lab = Lab::start().await;
    lab.running.set_fault(http("/nodes", Breakage::Truncate {})).expect("a fault");
    let answer = lab.get("/nodes").await;
    let promised: usize = answer.header("content-length").expect("a length").parse().expect("a number");
    assert!(answer.body.len() < promised && !answer.body.is_empty());
}

#[tokio::test]
async fn an_answer_can_be_huge_and_still_valid() {
    let lab = Lab::start().await;
    lab.running.set_fault(http("/nodes", Breakage::Huge { bytes: 3 << 20 })).expect("a fault");
    let answer = lab.get("/nodes").await;
    assert!(answer.body.len() > 3 << 20);
    assert_eq!(answer.json()["data"].as_array().expect("a list").len(), 3);
}

#[tokio::test]
async fn types_can_be_swapped_and_bodies_be_no_json() {
    let lab = Lab::start().await;
    let swap = lab.running.set_fault(http("/qemu", Breakage::SwapTypes {})).expect("a fault");
    assert_eq!(lab.get("/nodes/pve1/qemu").await.json()["data"][0]["vmid"], "100");
    lab.running.clear_fault(swap).expect("cleared");
    lab.running.set_fault(http("/qemu", Breakage::Garbage {})).expect("a fault");
    let answer = lab.get("/nodes/pve1/qemu").await;
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
}

#[tokio::test]
async fn a_fault_can_wait_and_wear_off() {
    let lab = Lab::start().await;
    let on = Match { after: 1, times: Some(2), ..Match::default() };
    let answer = Breakage::Status { code: 596, message: "Connection timed out".to_owned() };
    lab.running.set_fault(Fault::Http { on, answer }).expect("a fault");
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(lab.get("/version").await.status);
    }
    assert_eq!(seen, [200, 596, 596, 200]);
}

#[tokio::test]
async fn every_write_is_counted_and_reads_are_not_writes() {
    let lab = Lab::start().await;
    lab.get("/nodes/pve1/qemu/100/config").await;
    lab.send("PUT", "/nodes/pve1/qemu/100/config", "cores=2").await.expect("an answer");
    lab.send("PUT", "/nodes/pve1/qemu/100/config", "nonsense=2").await.expect("an answer");
    lab.send("DELETE", "/nodes/pve1/qemu/100", "").await.expect("an answer");
    let counts = lab.running.counts();
    assert_eq!((counts.requests, counts.writes, counts.writes_accepted), (4, 3, 1));
    assert_eq!(counts.by_route["PUT /nodes/{node}/qemu/{vmid}/config"], 2);
    assert_eq!((counts.by_guest[&100].reads, counts.by_guest[&100].writes), (1, 3));
    let statuses: Vec<u16> = counts.write_log.iter().map(|write| write.status).collect();
    assert_eq!(statuses, [200, 400, 500]);
    assert_eq!(counts.write_log[0].by, lab.running.act_token.id);
}

#[tokio::test]
async fn protected_calls_queue_for_three_workers_of_their_node() {
    let lab = Lab::start().await;
    lab.running
        .set_fault(Fault::Slow { on: Match { path: Some("/qemu".to_owned()), ..Match::default() }, ms: 100 })
        .expect("a fault");
    let begun = std::time::Instant::now();
    let calls = (0..6).map(|_| lab.get("/nodes/pve1/qemu"));
    assert!(futures::future::join_all(calls).await.iter().all(|answer| answer.status == 200));
    assert!(begun.elapsed().as_millis() >= 200, "two rounds");
    assert_eq!(lab.running.counts().protected_in_flight_max["pve1"], 6);
}

#[tokio::test]
async fn a_rotated_certificate_is_of_the_same_authority_and_a_foreign_one_is_not() {
    let lab = Lab::start().await;
    let old = lab.running.fingerprint.clone();
    let shown = |lab: &Lab| lab.running.with_lab(|lab| lab.nodes["pve1"].fingerprint.clone());
    assert_eq!(shown(&lab), old);
    lab.running
        .set_fault(Fault::CertificateRotated { node: "pve1".to_owned(), foreign: false })
        .expect("a fault");
    assert_ne!(shown(&lab), old);
    assert_eq!(lab.get("/version").await.status, 200, "the pinned authority vouches for it");
    let foreign = Fault::CertificateRotated { node: "pve1".to_owned(), foreign: true };
    let fault = lab.running.set_fault(foreign).expect("a fault");
    assert!(Client::connect(&lab).await.is_none(), "nobody vouches for this one");
    lab.running.clear_fault(fault).expect("cleared");
    assert_eq!(lab.get("/version").await.status, 200);
}

#[tokio::test]
async fn with_all_nodes_a_dead_entry_is_survived_through_another() {
    let options = LabOptions { all_nodes: true, auth_delay_ms: 0, ..LabOptions::demo() };
    let lab = Lab::with(options).await;
    lab.running
        .set_fault(Fault::NodeOffline { node: "pve1".to_owned(), code: 595, power_cut: false })
        .expect("a fault");
    assert!(Client::connect(&lab).await.is_none(), "it does not even shake hands");
    let other = Client::connect_to(&lab, &lab.running.node_urls["pve2"]).await.expect("another node");
    let answer = other.get("/nodes/pve2/qemu").await;
    assert_eq!(answer.status, 200);
    let other = Client::connect_to(&lab, &lab.running.node_urls["pve2"]).await.expect("another node");
    assert_eq!(other.get("/nodes/pve1/qemu").await.status, 595);
}

#[tokio::test]
async fn the_control_endpoint_shows_and_breaks_the_lab() {
    let lab = Lab::start().await;
    let state = lab.control("GET", "/state", Value::Null).await.1;
    assert_eq!(state["guests"]["100"]["config"]["name"], "neural-home");
    let made = lab.control("POST", "/fault", json!({"kind": "node_offline", "node": "pve3"})).await.1;
    assert_eq!(lab.get("/nodes/pve3/qemu").await.status, 595);
    assert_eq!(lab.control("GET", "/fault", Value::Null).await.1[0]["fault"]["kind"], "node_offline");
    assert_eq!(
        lab.control("POST", "/fault", json!({"clear": made["id"]})).await.1["cleared"],
        json!([made["id"]])
    );
    assert_eq!(lab.get("/nodes/pve3/qemu").await.status, 200);
    let before = state["now_ms"].as_i64().expect("a time");
    let after =
        lab.control("POST", "/clock", json!({"advance_s": 300})).await.1["now_ms"].as_i64().expect("a time");
    assert!(after - before >= 300_000);
    let edit = json!({"vmid": 205, "edit": {"do": "rename", "name": "renamed"}});
    assert_eq!(lab.control("POST", "/guest", edit).await.0, 200);
    assert_eq!(lab.get("/nodes/pve2/lxc/205/config").await.json()["data"]["hostname"], "renamed");
    assert_eq!(lab.control("POST", "/guest", json!({"vmid": 1, "edit": {"do": "remove"}})).await.0, 409);
    assert_eq!(lab.control("POST", "/fault", json!({"kind": "weather"})).await.0, 400);
    assert_eq!(lab.control("GET", "/nothing", Value::Null).await.0, 404);
    assert!(lab.control("GET", "/counts", Value::Null).await.1["requests"].as_u64().expect("a number") >= 3);
    assert_eq!(lab.control("GET", "/ca", Value::Null).await.1["ca_pem"], lab.running.ca_pem.as_str());
    lab.control("POST", "/reset", Value::Null).await;
    assert_eq!(lab.get("/nodes/pve2/lxc/205/config").await.json()["data"]["hostname"], "media-downloader");
    assert_eq!(lab.running.counts().requests, 1, "counters too");
}

#[tokio::test]
async fn a_guest_can_be_replaced_under_its_number() {
    let lab = Lab::start().await;
    let guest = json!({"vmid": 205, "kind": "qemu", "node": "pve1", "name": "stranger", "config": {"scsi0": "local-lvm:4"}});
    let edit = json!({"vmid": 205, "edit": {"do": "replace", "guest": guest}});
    assert_eq!(lab.control("POST", "/guest", edit).await.0, 200);
    assert_eq!(lab.get("/nodes/pve1/qemu/205/config").await.json()["data"]["name"], "stranger");
    assert_eq!(lab.get("/nodes/pve2/lxc/205/config").await.status, 500);
}

#[tokio::test]
async fn the_control_endpoint_is_on_loopback_only_and_not_for_browsers() {
    let options = LabOptions { control_listen: SocketAddr::from(([0, 0, 0, 0], 0)), ..LabOptions::demo() };
    assert!(matches!(serve(options).await, Err(SimError::ControlNotLoopback { .. })));
    let lab = Lab::start().await;
    let answer = lab.control_with("POST", "/reset", "Origin: https://example.org\r\n", &Value::Null).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn a_port_in_use_is_told_with_the_remedy() {
    let lab = Lab::start().await;
    let taken: SocketAddr = lab.running.url.trim_start_matches("https://").parse().expect("an address");
    let error = serve(LabOptions { listen: taken, ..LabOptions::demo() }).await.expect_err("it is taken");
    assert_eq!(
        error.to_string(),
        format!("cannot listen on {taken}; choose another port, or 0 for any free one")
    );
}

#[tokio::test]
async fn no_secret_is_printed() {
    let lab = Lab::start().await;
    let running = &lab.running;
    let shown = format!("{running:?}");
    for secret in [&running.scan_token.secret, &running.act_token.secret, &running.admin.1.0] {
        assert!(!shown.contains(secret.as_str()));
    }
    assert!(!shown.contains("PRIVATE KEY"));
}
