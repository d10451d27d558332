//! Which connection a request takes, and when it is sent again.

use crate::{
    answer, endpoint, list, pass, reader, reader_with,
    server::{Nobody, Server, Step},
    version,
};
use nhi_pve::{Kind, Limits, PveError, Reader, Trust};
use std::time::Duration;

fn kind<T: std::fmt::Debug>(outcome: Result<T, PveError>) -> Kind {
    outcome.unwrap_err().kind().clone()
}

#[tokio::test]
async fn a_request_is_these_bytes() {
    let server = Server::plain(|_| vec![list()]).await;
    reader(&server).node_qemu_full("pve 1/../x").await.unwrap();
    let port = server.port();
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "GET /api2/json/nodes/pve%201%2F%2E%2E%2Fx/qemu?full=1 HTTP/1.1\r\n\
         host: 127.0.0.1:{port}\r\n\
         authorization: PVEAPIToken=nh-scan@pve!mesh={}\r\n\
         accept: application/json\r\n\
         user-agent: nhi/{version}\r\n\r\n",
        crate::SECRET
    );
    assert_eq!(server.log().requests, [(0, expected)]);
}

#[tokio::test]
async fn a_connection_is_used_again_within_four_seconds_and_not_after() {
    let server = Server::plain(|_| vec![version(), version(), version()]).await;
    let reader = reader(&server);
    reader.version().await.unwrap();
    pass(Duration::from_millis(3900)).await;
    reader.version().await.unwrap();
    // The control is the call before: the same connection was good then.
    pass(Duration::from_millis(4000)).await;
    reader.version().await.unwrap();
    let connections: Vec<usize> = server.log().requests.iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert_eq!(reader.requests(), 3);
}

#[tokio::test]
async fn after_an_answer_of_400_and_above_the_connection_is_not_used_again() {
    let gone = answer("500 x", r#"{"data":null,"message":"x\n"}"#);
    let server = Server::plain(move |_| vec![Step::Answer(gone.clone()), version()]).await;
    let reader = reader(&server);
    assert_eq!(kind(reader.version().await), Kind::Other);
    assert_eq!(kind(reader.version().await), Kind::Other);
    assert_eq!(server.log().connections, 2);
}

#[tokio::test]
async fn a_get_on_a_reused_connection_that_breaks_is_sent_once_more_on_a_fresh_one() {
    let server = Server::plain(|connection| match connection {
        0 => vec![version(), Step::Close(Vec::new())],
        _ => vec![version()],
    })
    .await;
    let reader = reader(&server);
    reader.version().await.unwrap();
    reader.version().await.unwrap();
    let connections: Vec<usize> = server.log().requests.iter().map(|(connection, _)| *connection).collect();
    assert_eq!(connections, [0, 0, 1]);
    assert_eq!(reader.requests(), 3);
}

#[tokio::test]
async fn an_answer_that_breaks_off_on_a_reused_connection_is_asked_for_once_more() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":".to_vec();
    let server = Server::plain(move |connection| match connection {
        0 => vec![version(), Step::Close(half.clone())],
        _ => vec![version()],
    })
    .await;
    let reader = reader(&server);
    reader.version().await.unwrap();
    assert_eq!(reader.version().await.unwrap().version, "9.1.1");
    assert_eq!(reader.requests(), 3);
}

#[tokio::test]
async fn it_is_never_sent_a_third_time() {
    let server = Server::plain(|connection| match connection {
        0 => vec![version(), Step::Close(Vec::new())],
        _ => vec![Step::Close(Vec::new())],
    })
    .await;
    let reader = reader(&server);
    reader.version().await.unwrap();
    assert_eq!(kind(reader.version().await), Kind::Connect);
    assert_eq!(server.log().requests.len(), 3);
}

#[tokio::test]
async fn a_fresh_connection_that_breaks_is_not_tried_again() {
    let server = Server::plain(|_| vec![Step::Close(Vec::new())]).await;
    let reader = reader(&server);
    assert_eq!(kind(reader.version().await), Kind::Connect);
    assert_eq!(server.log().requests.len(), 1);
    assert_eq!(server.log().connections, 1);
}

#[tokio::test]
async fn a_connection_the_server_closed_in_time_costs_nothing() {
    let server = Server::plain(|_| match version() {
        Step::Answer(bytes) => vec![Step::Close(bytes)],
        other => vec![other],
    })
    .await;
    let reader = reader(&server);
    for _ in 0..3 {
        reader.version().await.unwrap();
    }
    assert_eq!(server.log().connections, 3);
}

#[tokio::test]
async fn an_answer_has_a_deadline() {
    let server = Server::plain(|_| vec![Step::Silent]).await;
    let reader = reader(&server);
    let call = async {
        let error = reader.version().await.unwrap_err();
        assert_eq!(*error.kind(), Kind::Timeout);
        assert_eq!(error.text(), "no answer within 35 s");
    };
    let clock = async {
        server.wait_for("the request", |log| log.requests.len() == 1).await;
        // Nothing else can happen now, so the clock jumps to the deadline by itself.
        tokio::time::pause();
    };
    tokio::join!(call, clock);
    assert_eq!(reader.requests(), 1, "a time-out is not a broken connection");
}

#[tokio::test]
async fn a_slow_body_is_held_to_the_deadline_too() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":".to_vec();
    let server = Server::plain(move |_| vec![Step::Answer(half.clone()), Step::Silent]).await;
    let reader = reader_with(&server, |limits| limits.deadline = Duration::from_millis(200));
    assert_eq!(kind(reader.version().await), Kind::Timeout);
}

#[tokio::test]
async fn the_next_address_is_asked_when_one_cannot_be_connected_to_and_stays_preferred() {
    let (nobody, none_either) = (Nobody::new(), Nobody::new());
    let server = Server::plain(|_| vec![version(), version()]).await;
    let reader = Reader::new(endpoint(&[nobody.url(), server.url()], Trust::System)).unwrap();
    reader.version().await.unwrap();
    reader.version().await.unwrap();
    assert_eq!(server.log().connections, 1);

    let reader = Reader::new(endpoint(&[nobody.url(), none_either.url()], Trust::System)).unwrap();
    let error = reader.version().await.unwrap_err();
    assert_eq!(*error.kind(), Kind::Connect);
    assert!(
        error.to_string().contains(&nobody.url()) && error.text().contains(&none_either.url()),
        "{error}"
    );
    assert!(error.text().contains("nothing listens there"), "{error}");
    assert_eq!(reader.requests(), 0);
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_asked_last_the_next_time() {
    let silent = Server::plain(|_| vec![Step::Silent]).await;
    let server = Server::plain(|_| vec![version()]).await;
    let mut endpoint = endpoint(&[silent.url(), server.url()], Trust::System);
    endpoint.limits = Limits { deadline: Duration::from_millis(200), ..Limits::STANDARD };
    let reader = Reader::new(endpoint).unwrap();
    assert_eq!(kind(reader.version().await), Kind::Timeout);
    reader.version().await.unwrap();
    assert_eq!(silent.log().requests.len(), 1);
}

#[tokio::test]
async fn dropping_a_call_closes_its_connection() {
    let late = answer("200 OK", r#"{"data":{"version":"0.0.0"}}"#);
    let server = Server::plain(move |connection| match connection {
        0 => vec![Step::Hold(late.clone()), version()],
        _ => vec![version()],
    })
    .await;
    let reader = reader(&server);
    {
        let call = std::pin::pin!(reader.version());
        let asked = std::pin::pin!(server.wait_for("the request", |log| log.held == 1));
        assert!(matches!(futures::future::select(call, asked).await, futures::future::Either::Right(_)));
    }
    server.release();
    // Were the connection still in use, its late answer would be taken for this call's.
    assert_eq!(reader.version().await.unwrap().version, "9.1.1");
    assert_eq!(server.log().connections, 2);
}

#[test]
fn a_reader_can_be_shared_between_tasks() {
    fn shared<T: Send + Sync + Clone + 'static>() {}
    fn sent<T: Send>(_: &T) {}
    shared::<Reader>();
    let reader = Reader::new(endpoint(&["https://127.0.0.1:1".to_owned()], Trust::System)).unwrap();
    sent(&reader.cluster_resources());
    sent(&reader.qemu_agent_interfaces("a", 1));
}
