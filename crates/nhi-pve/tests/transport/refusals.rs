//! After a 401 nothing more is sent: each refused try costs the node three seconds.

use crate::{
    answer, pass, reader, reader_with,
    server::{Server, Step},
    version,
};
use nhi_pve::Kind;
use std::time::Duration;

fn refused() -> Step {
    // As Proxmox sends it: no body, no content type, the cause in the reason phrase.
    Step::Close(b"HTTP/1.1 401 invalid token value!\r\nContent-Length: 0\r\n\r\n".to_vec())
}

#[tokio::test]
async fn a_refused_token_is_not_tried_again_until_the_pause_is_over() {
    let server =
        Server::plain(|connection| if connection < 2 { vec![refused()] } else { vec![version()] }).await;
    let reader = reader(&server);
    let first = reader.version().await.unwrap_err();
    assert_eq!((first.kind(), first.status()), (&Kind::Unauthorized, Some(401)));
    let expected = "token nh-scan@pve!mesh was refused (invalid token value!): check PROXMOX_TOKEN_ID and \
                    PROXMOX_SECRET_KEY; the next try comes after a pause of 60 s";
    assert_eq!(first.text(), expected);

    for _ in 0..10 {
        let held_back = reader.cluster_resources().await.unwrap_err();
        assert_eq!((held_back.kind(), held_back.status()), (&Kind::Unauthorized, None));
        // The same words, so that a lab that stays as it is writes nothing.
        assert_eq!(held_back.text(), expected);
    }
    pass(Duration::from_secs(59)).await;
    assert_eq!(*reader.version().await.unwrap_err().kind(), Kind::Unauthorized);
    assert_eq!(server.log().requests.len(), 1);

    pass(Duration::from_secs(2)).await;
    assert_eq!(reader.version().await.unwrap_err().status(), Some(401));
    assert_eq!(server.log().requests.len(), 2, "one try, and the pause begins again");
    assert_eq!(reader.version().await.unwrap_err().status(), None);

    reader.reset();
    reader.version().await.unwrap();
    assert_eq!(reader.requests(), 3);
}

#[tokio::test]
async fn a_missing_right_is_no_refused_token() {
    let denied = answer("403 Permission check failed (/, Sys.Audit)", r#"{"data":null}"#);
    let server = Server::plain(move |_| vec![Step::Close(denied.clone())]).await;
    let reader = reader(&server);
    for _ in 0..3 {
        assert!(matches!(reader.version().await.unwrap_err().kind(), Kind::PermissionDenied { .. }));
    }
    assert_eq!(server.log().requests.len(), 3);
}

#[tokio::test]
async fn a_call_that_waits_for_its_turn_when_the_token_is_refused_is_not_sent() {
    let late = b"HTTP/1.1 401 No ticket\r\nContent-Length: 0\r\n\r\n".to_vec();
    let server = Server::plain(move |_| vec![Step::Hold(late.clone())]).await;
    let reader = reader_with(&server, |limits| limits.protected_max = 1);
    let first = reader.node_qemu("pve1");
    let second = reader.node_lxc("pve1");
    let release = async {
        server.wait_for("the first call", |log| log.held == 1).await;
        server.release();
    };
    let (first, second, ()) = tokio::join!(first, second, release);
    assert_eq!(first.unwrap_err().status(), Some(401));
    let second = second.unwrap_err();
    assert_eq!((second.kind(), second.status()), (&Kind::Unauthorized, None));
    assert_eq!(server.log().requests.len(), 1);
}

#[tokio::test]
async fn somebody_elses_401_pauses_too() {
    let page = "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>";
    let server = Server::plain(move |_| vec![Step::Close(page.as_bytes().to_vec())]).await;
    let reader = reader(&server);
    for _ in 0..3 {
        assert_eq!(*reader.version().await.unwrap_err().kind(), Kind::Unauthorized);
    }
    assert_eq!(server.log().requests.len(), 1);
}
