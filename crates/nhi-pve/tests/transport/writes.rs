//! A call that changes something goes out once, and whoever sent it learns whether it may have been taken.

use crate::{
    SECRET, answer, endpoint, list, pass,
    server::{Nobody, Server, Step},
    version,
};
use futures::future::join_all;
use nhi_pve::{Accepted, ApiToken, Endpoint, Kind, Limits, Operator, SendError, Trust, Write, WriteMethod};
use std::{collections::BTreeMap, time::Duration};

const START: &str = "/nodes/pve1/qemu/105/status/start";
const UPID: &str = "UPID:pve1:0000A1B2:00000001:6740F0A1:qmstart:105:nh-act@pve!mesh:";

fn of(addresses: &[String]) -> Endpoint {
    endpoint(addresses, Trust::System)
}

fn operator(server: &Server) -> Operator {
    Operator::new(of(&[server.url()])).unwrap()
}

async fn start(operator: &Operator) -> Result<Accepted, SendError> {
    send(operator, WriteMethod::Post, START, &[]).await
}

async fn send(
    operator: &Operator,
    method: WriteMethod,
    path: &str,
    params: &[(&str, &str)],
) -> Result<Accepted, SendError> {
    let params: BTreeMap<String, String> =
        params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    operator.send(&Write { method, path, params: &params, node: "pve1" }).await
}

fn taken() -> Step {
    Step::Answer(answer("200 OK", &format!(r#"{{"data":"{UPID}"}}"#)))
}

/// What came of one write that was answered so, and how often it arrived.
async fn answered(step: Step) -> (Result<Accepted, SendError>, usize) {
    let server = Server::plain(move |_| vec![step.clone()]).await;
    let outcome = start(&operator(&server)).await;
    (outcome, server.log().requests.len())
}

#[tokio::test]
async fn a_write_is_these_bytes() {
    let done = answer("200 OK", r#"{"data":null}"#);
    let server = Server::plain(move |_| vec![Step::Answer(done.clone())]).await;
    let operator = operator(&server);
    let params = [("digest", "ab"), ("description", "a=1&b ü")];
    send(&operator, WriteMethod::Put, "/nodes/pve1/qemu/105/config", &params).await.unwrap();
    send(&operator, WriteMethod::Delete, "/nodes/pve1/lxc/105", &[("purge", "1")]).await.unwrap();
    start(&operator).await.unwrap();
    let head = |line: &str, rest: &str| {
        format!(
            "{line} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nauthorization: PVEAPIToken=nh-scan@pve!mesh={SECRET}\r\n\
             accept: application/json\r\nuser-agent: nhi/{}\r\n{rest}\r\n",
            server.port(),
            env!("CARGO_PKG_VERSION")
        )
    };
    let form = |length: usize| {
        format!("content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n")
    };
    let body = "description=a%3D1%26b%20%C3%BC&digest=ab";
    assert_eq!(
        server.log().requests,
        [
            (0, head("PUT /api2/json/nodes/pve1/qemu/105/config", &form(body.len())) + body),
            (1, head("DELETE /api2/json/nodes/pve1/lxc/105?purge=1", "")),
            (2, head(&format!("POST /api2/json{START}"), &form(0))),
        ]
    );
}

#[tokio::test]
async fn what_proxmox_took_is_a_task_or_done() {
    let (outcome, arrivals) = answered(taken()).await;
    let Ok(Accepted::Task(upid)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((upid.as_str(), upid.vmid(), arrivals), (UPID, Some(105), 1));
    for done in [r#"{"data":null}"#, r#"{"data":"OK"}"#] {
        let (outcome, arrivals) = answered(Step::Answer(answer("200 OK", done))).await;
        assert_eq!((outcome, arrivals), (Ok(Accepted::Done), 1), "{done}");
    }
}

#[tokio::test]
async fn what_proxmox_refuses_was_not_done() {
    let said = |text: &str| format!("{{\"data\":null,\"message\":\"{text}\\n\"}}");
    let errors = r#"{"data":null,"errors":{"vmid":"no"},"message":"Parameter verification failed.\n"}"#;
    let denied = "403 Permission check failed (/vms/105, VM.PowerMgmt)";
    let cases = [
        (answer("400 Parameter verification failed.", errors), Kind::InvalidParameter),
        (answer("401 invalid token value!", ""), Kind::Unauthorized),
        (
            answer(denied, r#"{"data":null}"#),
            Kind::PermissionDenied {
                path: Some("/vms/105".to_owned()),
                privilege: Some("VM.PowerMgmt".to_owned()),
            },
        ),
        (answer("500 x", &said("VM 105 is running - destroy failed")), Kind::StillRunning),
        (answer("500 x", &said("can't remove VM 105 - protection mode enabled")), Kind::Protected),
        // Before Proxmox VE 8.3 the text is nowhere else.
        (answer("500 CT is locked (backup)", r#"{"data":null}"#), Kind::Locked { lock: "backup".to_owned() }),
        (answer("500 unable to do it", ""), Kind::Other),
        (answer("500 x", &said("can't lock file '/x' - got timeout")), Kind::LockTimeout),
        (
            answer("500 x", &said("hostname lookup 'pve1' failed - no such name")),
            Kind::NodeUnreachable { node: "pve1".to_owned() },
        ),
        (answer("501 Method 'POST /x' not implemented", r#"{"data":null}"#), Kind::NotImplemented),
    ];
    for (bytes, kind) in cases {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (outcome, arrivals) = answered(Step::Close(bytes)).await;
        let Err(SendError::Refused(error)) = outcome else { panic!("{text}: {outcome:?}") };
        assert_eq!((error.kind(), arrivals), (&kind, 1), "{text}");
        assert!(error.to_string().starts_with(&format!("send POST {START} to ")), "{error}");
    }
}

#[tokio::test]
async fn whatever_else_comes_back_may_have_been_taken() {
    let page = |status: &str| {
        let page = "<html>Sign in</html>";
        let length = page.len();
        format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}")
            .into_bytes()
    };
    let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 5].to_vec();
    let json = |status: &str, body: &str| answer(status, body);
    let cases = [
        Vec::new(),
        b"HTTP/1.1 200 OK\r\n".to_vec(),
        b"\x16\x03\x01 nonsense\r\n\r\n".to_vec(),
        cut(json("200 OK", &format!(r#"{{"data":"{UPID}"}}"#))),
        cut(json("500 x", r#"{"data":null,"message":"VM is locked"}"#)),
        json("200 OK", "{\"data\":"),
        json("200 OK", "[]"),
        json("200 OK", r#"{"data":5}"#),
        json("200 OK", r#"{"data":{}}"#),
        json("200 OK", r#"{"data":"done"}"#),
        json("200 OK", r#"{"message":"hello"}"#),
        json("302 Found", ""),
        json("500 Internal Server Error", ""),
        json("500 Internal Server Error", r#"{"message":"upstream failed"}"#),
        json("500 x", r#"{"data":null,"message":"VM 105 qmp command 'x' failed - got timeout\n"}"#),
        json("502 Bad Gateway", r#"{"data":null,"message":"x"}"#),
        json("503 Service Unavailable", ""),
        json("504 Gateway Time-out", r#"{"message":"The upstream server is timing out"}"#),
        json("595 No route to host", ""),
        json("596 Connection timed out", ""),
        json("597 Broken pipe", ""),
        json("599 Too many redirections", ""),
        page("200 OK"),
        page("403 Forbidden"),
        page("500 Internal Server Error"),
        page("502 Bad Gateway"),
    ];
    for bytes in cases {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (outcome, arrivals) = answered(Step::Close(bytes)).await;
        assert!(matches!(outcome, Err(SendError::Lost(_))), "{text:?}: {outcome:?}");
        assert_eq!(arrivals, 1, "{text:?}");
    }
}

#[tokio::test]
async fn a_write_that_is_not_answered_in_time_is_lost_and_not_sent_elsewhere() {
    let silent = Server::plain(|_| vec![Step::Silent]).await;
    let other = Server::plain(|_| vec![taken()]).await;
    let mut endpoint = of(&[silent.url(), other.url()]);
    endpoint.limits = Limits { deadline: Duration::from_millis(200), ..Limits::STANDARD };
    let operator = Operator::new(endpoint).unwrap();
    let outcome = start(&operator).await;
    let Err(SendError::Lost(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((error.kind(), error.text()), (&Kind::Timeout, "no answer within 0.2 s"));
    assert_eq!((silent.log().requests.len(), other.log().requests.len()), (1, 0));
    // The control: the next one begins with the other address.
    assert!(start(&operator).await.is_ok());
    assert_eq!((silent.log().requests.len(), other.log().requests.len()), (1, 1));
}

#[tokio::test]
async fn an_answer_that_is_cut_sends_nothing_to_the_next_address() {
    let cuts = Server::plain(|_| vec![Step::Close(Vec::new())]).await;
    let other = Server::plain(|_| vec![taken()]).await;
    let operator = Operator::new(of(&[cuts.url(), other.url()])).unwrap();
    let outcome = start(&operator).await;
    assert!(matches!(outcome, Err(SendError::Lost(_))), "{outcome:?}");
    assert_eq!((cuts.log().requests.len(), other.log().connections), (1, 0));
    // The control: a call that reads asks the other address for the same.
    let reads = Server::plain(|_| vec![version()]).await;
    let reader = Operator::new(of(&[cuts.url(), reads.url()])).unwrap().reader().clone();
    reader.version().await.unwrap();
}

#[tokio::test]
async fn another_address_is_taken_only_while_none_was_connected_to() {
    let nobody = Nobody::new();
    let server = Server::plain(|_| vec![taken()]).await;
    let operator = Operator::new(of(&[nobody.url(), server.url()])).unwrap();
    assert!(start(&operator).await.is_ok());
    assert_eq!(server.log().requests.len(), 1);

    let operator = Operator::new(of(&[nobody.url()])).unwrap();
    let outcome = start(&operator).await;
    let Err(SendError::NotSent(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(*error.kind(), Kind::Connect);
    assert_eq!(operator.reader().requests(), 0);
}

#[tokio::test]
async fn a_connection_that_was_used_is_not_written_on() {
    // What a server does with an idle connection just when a request comes: it closes.
    let server = Server::plain(|connection| match connection {
        0 => vec![version(), Step::Close(Vec::new())],
        _ => vec![taken()],
    })
    .await;
    let operator = operator(&server);
    operator.reader().version().await.unwrap();
    assert!(start(&operator).await.is_ok());
    let connections: Vec<usize> = server.log().requests.iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [0, 1]);
    // The connection of the write is good for reading: nothing is lost by asking twice.
    assert_eq!(server.log().connections, 2);
}

#[tokio::test]
async fn after_a_401_nothing_is_written_until_the_pause_is_over() {
    let refused = answer("401 invalid token value!", "");
    let server = Server::plain(move |connection| match connection {
        0 => vec![Step::Close(refused.clone())],
        _ => vec![taken()],
    })
    .await;
    let operator = operator(&server);
    assert!(operator.reader().version().await.is_err());
    for _ in 0..3 {
        let outcome = start(&operator).await;
        assert!(matches!(&outcome, Err(SendError::NotSent(error)) if *error.kind() == Kind::Unauthorized));
    }
    assert_eq!(server.log().requests.len(), 1);
    pass(Limits::STANDARD.unauthorized).await;
    assert!(start(&operator).await.is_ok());
}

#[tokio::test]
async fn a_refused_write_pauses_reading_too() {
    let server = Server::plain(|_| vec![Step::Close(answer("401 No ticket", ""))]).await;
    let operator = operator(&server);
    assert!(matches!(start(&operator).await, Err(SendError::Refused(_))));
    assert_eq!(operator.reader().version().await.unwrap_err().status(), None);
    assert_eq!(server.log().requests.len(), 1);
}

#[tokio::test]
async fn writes_and_reads_share_the_turns_at_a_node() {
    let held = answer("200 OK", r#"{"data":[]}"#);
    let server = Server::plain(move |_| vec![Step::Hold(held.clone()); 4]).await;
    let operator = operator(&server);
    let reads = join_all((0..4).map(|_| operator.reader().node_qemu("pve1")));
    let writes = join_all((0..4).map(|_| start(&operator)));
    let release = async {
        for done in 1..=8 {
            server.wait_for("a call", |log| log.requests.len() >= done).await;
            server.release();
        }
    };
    let (reads, writes, ()) = tokio::join!(reads, writes, release);
    assert!(reads.iter().all(Result::is_ok) && writes.len() == 4);
    assert_eq!((server.log().held_max, server.log().requests.len()), (2, 8));
}

#[tokio::test]
async fn a_write_goes_to_the_address_of_its_own_node() {
    let status = |local: &str| {
        let row = |name: &str| {
            format!(r#"{{"type":"node","name":"{name}","local":{},"online":1}}"#, u8::from(name == local))
        };
        let cluster = r#"{"type":"cluster","name":"home","quorate":0}"#;
        let rows = format!("{{\"data\":[{cluster},{},{}]}}", row("pve1"), row("pve2"));
        Step::Answer(answer("200 OK", &rows))
    };
    let (one, two) = (status("pve1"), status("pve2"));
    let first =
        Server::plain(move |connection| if connection == 0 { vec![one.clone()] } else { vec![taken()] })
            .await;
    let second =
        Server::plain(move |connection| if connection == 0 { vec![two.clone()] } else { vec![taken()] })
            .await;
    let operator = Operator::new(of(&[first.url(), second.url()])).unwrap();
    operator.reader().cluster_status().await.unwrap();
    operator.reader().demote();
    operator.reader().cluster_status().await.unwrap();
    // Calls begin with the second now; the first is the guest's node.
    assert!(start(&operator).await.is_ok());
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (2, 1));
}

#[tokio::test]
async fn the_cluster_tells_which_address_of_the_settings_is_whose() {
    let status = r#"{"data":[{"type":"node","name":"pve2","local":1,"online":1,"ip":"192.0.2.2"},
        {"type":"node","name":"pve1","local":0,"online":1,"ip":"127.0.0.1"}]}"#;
    let status = Step::Answer(answer("200 OK", status));
    let first = Server::plain(move |_| vec![status.clone(), taken()]).await;
    let second = Server::plain(|_| vec![taken()]).await;
    let mut endpoint = of(&[first.url(), second.url()]);
    endpoint.node_port = second.port();
    let operator = Operator::new(endpoint).unwrap();
    operator.reader().cluster_status().await.unwrap();
    assert!(start(&operator).await.is_ok());
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (1, 1));
}

#[tokio::test]
async fn what_is_no_call_for_a_guest_is_not_sent() {
    let server = Server::plain(|_| vec![list()]).await;
    let operator = operator(&server);
    let long = "x".repeat(100_000);
    for (method, path, params) in [
        (WriteMethod::Post, "/nodes/pve1/stopall", vec![]),
        (WriteMethod::Post, "/nodes/pve1/qemu/105/agent/exec", vec![("command", "id")]),
        (WriteMethod::Delete, "/nodes/pve1/qemu/../../x", vec![]),
        (WriteMethod::Put, "/nodes/pve1/qemu/105/config", vec![("description", long.as_str())]),
        (WriteMethod::Delete, "/nodes/pve1/qemu/105", vec![("x", long.as_str())]),
    ] {
        let outcome = send(&operator, method, path, &params).await;
        assert!(
            matches!(&outcome, Err(SendError::NotSent(error)) if *error.kind() == Kind::InvalidParameter),
            "{path}: {outcome:?}"
        );
    }
    assert_eq!(server.log().connections, 0);
}

#[tokio::test]
async fn no_error_repeats_the_secret() {
    let echo = format!(r#"{{"data":null,"message":"bad token {SECRET}"}}"#);
    let (outcome, _) = answered(Step::Close(answer("500 x", &echo))).await;
    let error = outcome.unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    let endpoint = Endpoint::new(
        vec!["https://127.0.0.1:1".parse().unwrap()],
        ApiToken::parse("nh-act@pve!mesh", SECRET).unwrap(),
        Trust::System,
    );
    assert!(!format!("{:?}", Operator::new(endpoint.unwrap()).unwrap()).contains(SECRET));
}
