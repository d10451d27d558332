//! When another address is asked for the same, and which is asked first afterwards.

use crate::{
    answer, endpoint, list, pass, reader,
    server::{Nobody, Server, Step},
    version,
};
use futures::future::join_all;
use nhi_pve::{Kind, Limits, Reader, Trust};
use std::time::Duration;
use tokio::time::timeout;

fn reader_of(addresses: &[String]) -> Reader {
    Reader::new(endpoint(addresses, Trust::System)).unwrap()
}

/// A server that answers everything with these bytes and closes, as Proxmox does with errors.
async fn always(bytes: impl Into<Vec<u8>>) -> Server {
    let bytes = bytes.into();
    Server::plain(move |_| vec![Step::Close(bytes.clone())]).await
}

/// A server that answers everything with an empty list.
async fn lists() -> Server {
    Server::plain(|_| vec![list(); 50]).await
}

fn page(status: &str) -> Vec<u8> {
    let page = "<html>Welcome</html>";
    let length = page.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}").into()
}

fn empty(status: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into()
}

fn status_of(node: &str, quorate: u8) -> Vec<u8> {
    let rows = format!(
        r#"{{"data":[{{"type":"cluster","name":"lab","id":"cluster","nodes":2,"quorate":{quorate}}},
            {{"type":"node","name":"{node}","local":1,"online":1,"id":"node/{node}"}}]}}"#
    );
    answer("200 OK", &rows)
}

const OFFLINE: &str = "595 No route to host";
const REFUSED: &str = "401 invalid token value!";

#[tokio::test]
async fn what_cannot_speak_for_the_cluster_is_asked_once_and_then_last() {
    let cases = [
        (page("200 OK"), Kind::NotProxmox),
        (page("502 Bad Gateway"), Kind::NotProxmox),
        (page("503 Service Unavailable"), Kind::NotProxmox),
        (empty("302 Found"), Kind::NotProxmox),
        (empty("503 Service Unavailable"), Kind::Busy),
        (answer("503 x", r#"{"data":null,"message":"too many connections\n"}"#), Kind::Busy),
        (empty("429 Too Many Requests"), Kind::Busy),
        (b"HTTP/1.1 200 OK\r\n\r\n{\"data\":[".to_vec(), Kind::Connect),
        (Vec::new(), Kind::Connect),
    ];
    for (bytes, kind) in cases {
        let (broken, good) = (always(bytes).await, lists().await);
        let reader = reader_of(&[broken.url(), good.url()]);
        for _ in 0..3 {
            reader.nodes().await.unwrap();
        }
        assert_eq!((broken.log().requests.len(), good.log().requests.len()), (1, 3), "{kind:?}");
        // The control: alone it is an error, and asked each time.
        let alone = reader_of(&[broken.url()]);
        for _ in 0..2 {
            assert_eq!(*alone.nodes().await.unwrap_err().kind(), kind);
        }
        assert_eq!(broken.log().requests.len(), 3, "{kind:?}");
    }
}

#[tokio::test]
async fn proxmoxs_own_refusals_are_not_asked_for_elsewhere() {
    let cases = [
        "500 Configuration file 'nodes/pve3/qemu-server/1.conf' does not exist",
        "500 VM is locked (backup)",
        // A worker that is late with this one answer, not a web server that takes none.
        "500 got timeout",
        "500 Can't connect to backup:8007 (No route to host)",
        "403 Permission check failed (/, Sys.Audit)",
        "400 Parameter verification failed.",
        "501 Method 'GET /x' not implemented",
    ];
    for status in cases {
        let (first, second) = (always(answer(status, r#"{"data":null}"#)).await, lists().await);
        let reader = reader_of(&[first.url(), second.url()]);
        for _ in 0..2 {
            assert!(reader.node_qemu("pve3").await.is_err());
        }
        assert_eq!((first.log().requests.len(), second.log().connections), (2, 0), "{status}");
    }
}

#[tokio::test]
async fn a_node_that_one_address_cannot_reach_is_looked_for_from_the_next_and_nobody_is_demoted() {
    let first = Server::plain(|connection| match connection {
        0 => vec![Step::Close(empty(OFFLINE))],
        _ => vec![version()],
    })
    .await;
    let second = lists().await;
    let reader = reader_of(&[first.url(), second.url()]);
    reader.node_qemu("pve3").await.unwrap();
    reader.version().await.unwrap();
    assert_eq!(first.log().paths(), ["/api2/json/nodes/pve3/qemu", "/api2/json/version"]);
    assert_eq!(second.log().paths(), ["/api2/json/nodes/pve3/qemu"]);
}

#[tokio::test]
async fn a_node_out_of_reach_is_asked_for_elsewhere_only_in_a_path_of_another_node() {
    let first = Server::plain(|connection| match connection {
        0 => vec![Step::Close(status_of("pve1", 1))],
        _ => vec![Step::Close(empty(OFFLINE))],
    })
    .await;
    let second = lists().await;
    let reader = reader_of(&[first.url(), second.url()]);
    reader.cluster_status().await.unwrap();
    let its_own = reader.node_qemu("pve1").await.unwrap_err();
    assert_eq!(*its_own.kind(), Kind::NodeUnreachable { node: "pve1".to_owned() });
    let no_nodes = reader.cluster_resources().await.unwrap_err();
    assert_eq!(*no_nodes.kind(), Kind::NodeUnreachable { node: String::new() });
    assert_eq!(second.log().connections, 0);
    // The control: another node's is.
    reader.node_qemu("pve2").await.unwrap();
    assert_eq!(second.log().connections, 1);
}

#[tokio::test]
async fn each_address_is_asked_at_most_once_and_the_error_is_one_sentence() {
    let servers = [always(empty(OFFLINE)).await, always(page("200 OK")).await, always(empty(OFFLINE)).await];
    let urls: Vec<String> = servers.iter().map(Server::url).collect();
    let reader = reader_of(&urls);
    let mut texts = Vec::new();
    for round in 1..=4 {
        let error = reader.node_qemu("pve3").await.unwrap_err();
        assert_eq!(*error.kind(), Kind::NodeUnreachable { node: "pve3".to_owned() });
        assert_eq!((error.place(), error.status()), (urls[0].as_str(), Some(595)));
        texts.push(error.text().to_owned());
        assert!(servers.iter().all(|server| server.log().requests.len() == round));
    }
    let expected = format!(
        "node pve3 cannot be reached from there (595 No route to host); the same from {}; {}: something that is not \
         Proxmox VE answered (status 200, text/html): is the address right, is a proxy in between?",
        urls[2], urls[1]
    );
    assert!(texts.iter().all(|text| *text == expected), "{texts:?}");
}

#[tokio::test]
async fn an_unreachable_node_stays_one_whatever_is_wrong_with_the_other_address() {
    let first = always(empty(OFFLINE)).await;
    let nobody = Nobody::new();
    let silent = Server::plain(|_| vec![Step::Silent]).await;
    let (breaking, refusing) = (always(Vec::new()).await, always(empty(REFUSED)).await);
    let others = [
        (nobody.url(), "nothing listens there"),
        (silent.url(), "no answer within 0.2 s"),
        (breaking.url(), "the connection broke"),
        (refusing.url(), "invalid token value!"),
        (nobody.url().replace("http:", "https:"), "nothing listens there"),
    ];
    for (other, said) in others {
        let mut endpoint = endpoint(&[first.url(), other.clone()], Trust::System);
        endpoint.limits = Limits { deadline: Duration::from_millis(200), ..Limits::STANDARD };
        let error = Reader::new(endpoint).unwrap().node_qemu("pve3").await.unwrap_err();
        assert_eq!(*error.kind(), Kind::NodeUnreachable { node: "pve3".to_owned() }, "{error}");
        assert!(error.text().contains(&other) && error.text().contains(said), "{error}");
    }
    // Nor does it matter which is asked first.
    let error = reader_of(&[breaking.url(), first.url()]).node_qemu("pve3").await.unwrap_err();
    assert_eq!((error.kind().as_str(), error.place()), ("node-unreachable", first.url().as_str()));
    assert!(error.text().contains("the connection broke"), "{error}");
}

#[tokio::test]
async fn a_refused_token_is_tried_once_on_the_other_address_and_stays_there() {
    let (first, second) = (always(empty(REFUSED)).await, lists().await);
    let reader = reader_of(&[first.url(), second.url()]);
    for _ in 0..10 {
        reader.nodes().await.unwrap();
    }
    pass(Duration::from_secs(61)).await;
    reader.nodes().await.unwrap();
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (1, 11));
}

#[tokio::test]
async fn an_address_that_refused_the_token_is_not_asked_in_the_pause_whatever_becomes_of_the_other() {
    let first = always(empty(REFUSED)).await;
    let second = Server::plain(|connection| match connection {
        0 => vec![Step::Close(answer("200 OK", r#"{"data":[]}"#))],
        _ => vec![Step::Close(Vec::new())],
    })
    .await;
    let reader = reader_of(&[first.url(), second.url()]);
    reader.nodes().await.unwrap();
    let mut texts = Vec::new();
    for _ in 0..3 {
        let error = reader.nodes().await.unwrap_err();
        assert_eq!(*error.kind(), Kind::Unauthorized);
        texts.push(error.to_string());
    }
    assert!(texts[0].contains("the connection broke"), "{texts:?}");
    assert!(texts.windows(2).all(|pair| pair[0] == pair[1]), "the same words each time: {texts:?}");
    assert_eq!(first.log().requests.len(), 1);
    assert_eq!(second.log().requests.len(), 4);
}

#[tokio::test]
async fn a_token_that_all_refuse_is_tried_once_on_each_per_pause() {
    let (first, second) = (always(empty(REFUSED)).await, always(empty("401 No ticket")).await);
    let reader = reader_of(&[first.url(), second.url()]);
    let error = reader.version().await.unwrap_err();
    assert_eq!((error.kind(), error.status()), (&Kind::Unauthorized, Some(401)));
    for _ in 0..10 {
        let held_back = reader.nodes().await.unwrap_err();
        assert_eq!((held_back.kind(), held_back.status()), (&Kind::Unauthorized, None));
        assert_eq!(held_back.text(), error.text());
    }
    pass(Duration::from_secs(59)).await;
    assert_eq!(reader.version().await.unwrap_err().status(), None);
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (1, 1));
    pass(Duration::from_secs(2)).await;
    assert_eq!(reader.version().await.unwrap_err().text(), error.text());
    assert_eq!(reader.version().await.unwrap_err().text(), error.text());
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (2, 2));
    reader.reset();
    assert_eq!(reader.version().await.unwrap_err().status(), Some(401));
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (3, 3));
}

/// Ten calls at once whose token the first address refuses; how often the second is asked, and how many succeed.
async fn refused_at_once(second: &Server) -> usize {
    let refused = empty(REFUSED);
    let first = Server::plain(move |_| vec![Step::Hold(refused.clone())]).await;
    let reader = reader_of(&[first.url(), second.url()]);
    let calls = join_all((0..10).map(|_| reader.nodes()));
    let release = async {
        first.wait_for("all calls", |log| log.held == 10).await;
        (0..10).for_each(|_| first.release());
    };
    let (outcomes, ()) = tokio::join!(calls, release);
    assert_eq!(first.log().requests.len(), 10);
    outcomes.iter().filter(|outcome| outcome.is_ok()).count()
}

#[tokio::test]
async fn calls_that_are_refused_at_once_do_not_hammer_the_next_address() {
    let second = always(empty(REFUSED)).await;
    assert_eq!(refused_at_once(&second).await, 0);
    assert_eq!(second.log().requests.len(), 1);
    // The control: where the token is good all of them get their answer.
    let second = lists().await;
    assert_eq!(refused_at_once(&second).await, 10);
    assert_eq!(second.log().requests.len(), 10);
}

#[tokio::test]
async fn an_address_in_a_minority_is_asked_last_once_somebody_says_so() {
    let first = Server::plain(|_| vec![Step::Answer(status_of("pve1", 0)), list(), list()]).await;
    let second = Server::plain(|_| vec![Step::Answer(status_of("pve2", 1)), list(), list()]).await;
    let reader = reader_of(&[first.url(), second.url()]);
    assert_eq!(reader.cluster_status().await.unwrap().local(), Some("pve1"));
    // The control: unasked, nothing changes.
    reader.nodes().await.unwrap();
    assert_eq!(second.log().connections, 0);
    reader.demote();
    // Said twice about the same answer it must not bring the address back.
    reader.demote();
    assert_eq!(reader.cluster_status().await.unwrap().local(), Some("pve2"));
    reader.nodes().await.unwrap();
    assert_eq!((first.log().requests.len(), second.log().requests.len()), (2, 2));
}

#[tokio::test]
async fn the_only_address_cannot_be_demoted() {
    let server = lists().await;
    let reader = reader(&server);
    reader.demote();
    reader.nodes().await.unwrap();
    assert_eq!(server.log().requests.len(), 1);
}

#[tokio::test]
async fn a_call_that_goes_to_another_address_waits_for_a_worker_there() {
    let first = Server::plain(|connection| match connection {
        0 => vec![Step::Close(status_of("pve1", 1))],
        1 => vec![Step::Hold(answer("200 OK", r#"{"data":[]}"#))],
        _ => vec![Step::Close(empty("503 Service Unavailable"))],
    })
    .await;
    let second = lists().await;
    let mut endpoint = endpoint(&[first.url(), second.url()], Trust::System);
    endpoint.limits.protected_max = 1;
    let reader = Reader::new(endpoint).unwrap();
    reader.cluster_status().await.unwrap();
    // The second address may be pve2 itself, whose one worker is taken.
    let at_pve2 = reader.node_qemu("pve2");
    let here = async {
        first.wait_for("the call about pve2", |log| log.held == 1).await;
        reader.cluster_backup_not_backed_up().await
    };
    let release = async {
        first.wait_for("the other call", |log| log.requests.len() == 3).await;
        let early = second.wait_for("a request", |log| log.connections > 0);
        assert!(timeout(Duration::from_millis(200), early).await.is_err(), "it did not wait");
        first.release();
    };
    let (at_pve2, here, ()) = tokio::join!(at_pve2, here, release);
    assert!(at_pve2.is_ok() && here.is_ok(), "{at_pve2:?} {here:?}");
    assert_eq!(second.log().requests.len(), 1);
}
