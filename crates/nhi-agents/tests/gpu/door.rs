//! Who comes in at the relay, and who does not.

use crate::house::{HOST, Pc};
use nhi_agents::gpu::OnRed;
use nhi_bus::{keys::Seed, pass, tls};
use nhi_llm::Kind;
use nhi_model::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The status and the body of one request.
async fn ask(pc: &Pc, method: &str, path: &str, pass: Option<&str>) -> (u16, String) {
    let mut stream = TcpStream::connect(pc.relay()).await.unwrap();
    let pass = pass.map_or_else(String::new, |pass| format!("Nhi-Relay: {pass}\r\n"));
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\n{pass}Connection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_routers_come_in_each_pass_once_and_only_to_talk() {
    let pc = Pc::new(OnRed::Cut).await;
    let now = Timestamp::now();
    let fresh = |method: &str, path: &str| pass::issue(&pc.seed, HOST, method, path, now);
    let pass = fresh("GET", "/api/tags?x=1");
    let (status, body) = ask(&pc, "GET", "/api/tags?x=1", Some(&pass)).await;
    assert!(status == 200 && body.contains("sim-8b"), "the control: {status} {body}");

    let (status, body) = ask(&pc, "GET", "/api/tags?x=1", Some(&pass)).await;
    assert!(status == 401 && body.contains("before"), "{status} {body}");
    let (status, body) = ask(&pc, "GET", "/api/tags", None).await;
    assert!(status == 401 && body.contains("Nhi-Relay"), "{status} {body}");
    let other = pass::issue(&Seed::generate(), HOST, "GET", "/api/tags", now);
    let (status, body) = ask(&pc, "GET", "/api/tags", Some(&other)).await;
    assert!(status == 401 && body.contains("not a router's"), "{status} {body}");
    let (status, _) = ask(&pc, "GET", "/api/ps", Some(&fresh("GET", "/api/tags"))).await;
    assert_eq!(status, 401, "a pass is for one path");
    let hour_ago = pass::issue(&pc.seed, HOST, "GET", "/api/tags", now - jiff::SignedDuration::from_hours(1));
    assert_eq!(ask(&pc, "GET", "/api/tags", Some(&hour_ago)).await.0, 401);
    let laptops = pass::issue(&pc.seed, "laptop", "GET", "/api/tags", now);
    let (status, body) = ask(&pc, "GET", "/api/tags", Some(&laptops)).await;
    assert!(status == 401 && body.contains("not signed"), "what another machine was shown: {status} {body}");
    for (method, path) in
        [("DELETE", "/api/delete"), ("POST", "/api/pull"), ("POST", "/api/%70ull"), ("GET", "/x/../api/pull")]
    {
        assert_eq!(ask(&pc, method, path, Some(&fresh(method, path))).await.0, 403, "{method} {path}");
    }
    let paths = pc.sim.counts().by_path;
    assert!(paths.keys().all(|path| path.starts_with("/api/tags") || path == "/api/ps"), "{paths:?}");
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_stops_the_server_and_gives_the_place_back() {
    let pc = Pc::new(OnRed::Cut).await;
    for _ in 0..3 {
        let mut answer = pc.stream("a story").await.unwrap();
        answer.next().await.unwrap().unwrap();
    }
    nhi_testkit::wait_for("the server to stop all", crate::house::SOON, async || {
        let (counts, running) = (pc.sim.counts(), pc.gauges().running);
        if counts.cancelled.len() == 3 && running == 0 {
            Ok(())
        } else {
            Err((counts.cancelled.len(), running))
        }
    })
    .await;
    pc.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_certificate_just_the_one_that_was_told_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let names = tls::names_at([127, 0, 0, 1].into());
    let pc = Pc::with_tls(tls::server_named(dir.path(), &names, Timestamp::now()).unwrap()).await;
    let told = pc.handle.told().unwrap();
    assert!(told.url.starts_with("https://"), "{told:?}");
    let hex = told.fingerprint.unwrap();
    let mut pin = [0; 32];
    for (byte, pair) in pin.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    }
    let models = pc.client(Some(pin)).models().await.unwrap();
    assert_eq!(models.len(), 1, "{models:?}");
    pin[0] ^= 1;
    let refused = pc.client(Some(pin)).models().await.unwrap_err();
    assert_eq!(refused.kind, Kind::Connect, "{refused}");
    pc.end().await;
}
