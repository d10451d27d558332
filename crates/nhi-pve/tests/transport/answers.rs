//! What is made of an answer: where its error text comes from, what is no Proxmox, what is too much.

use crate::{
    answer, reader, reader_with,
    server::{Server, Step},
    version,
};
use nhi_pve::{Kind, PveError};

/// The error that this answer makes of a call about node pve2.
async fn error_of(bytes: impl Into<Vec<u8>>) -> PveError {
    let bytes = bytes.into();
    let server = Server::plain(move |_| vec![Step::Close(bytes.clone())]).await;
    reader(&server).node_status("pve2").await.unwrap_err()
}

#[tokio::test]
async fn error_text_is_the_message_of_the_body() {
    let error = error_of(answer("500 short", r#"{"data":null,"message":"VM is locked (backup)\n"}"#)).await;
    assert_eq!(error.text(), "VM is locked (backup)");
    assert_eq!(*error.kind(), Kind::Locked { lock: "backup".to_owned() });
    assert_eq!(error.status(), Some(500));
}

#[tokio::test]
async fn error_text_is_the_reason_phrase_where_the_body_has_none() {
    let gone = "Configuration file 'nodes/pve2/qemu-server/100.conf' does not exist";
    for body in [r#"{"data":null}"#, r#"{"data":null,"message":""}"#, ""] {
        let error = error_of(answer(&format!("500 {gone}"), body)).await;
        assert_eq!((error.text(), error.kind()), (gone, &Kind::Gone));
    }
}

#[tokio::test]
async fn error_text_is_the_status_text_where_there_is_no_reason() {
    assert_eq!(error_of(answer("500 ", "")).await.text(), "Internal Server Error");
    assert_eq!(error_of(answer("555 ", "")).await.text(), "status 555 without a reason");
}

#[tokio::test]
async fn errors_by_parameter_are_told() {
    let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"vmid":"type check\u001b[2J failed","x":5}}"#;
    let error = error_of(answer("400 Parameter verification failed.", body)).await;
    assert_eq!(error.text(), "Parameter verification failed. (vmid: type check [2J failed)");
    assert_eq!(error.fields().get("vmid").map(String::as_str), Some("type check [2J failed"));
    assert_eq!(*error.kind(), Kind::InvalidParameter);
}

#[tokio::test]
async fn a_node_that_is_offline_is_unreachable_and_nothing_is_gone() {
    for status in 595..=599 {
        let bodies = ["", "{\"data\":null}", "<html>Configuration file 'x' does not exist</html>"];
        for body in bodies {
            let error = error_of(answer(&format!("{status} No route to host"), body)).await;
            assert_eq!(*error.kind(), Kind::NodeUnreachable { node: "pve2".to_owned() });
            assert_eq!(
                error.text(),
                format!("node pve2 cannot be reached from there ({status} No route to host)")
            );
        }
    }
    let error = error_of("HTTP/1.1 595 \r\n\r\n").await;
    assert_eq!(error.text(), "node pve2 cannot be reached from there (595 connection failed)");
    // The control: one below is none.
    let error = error_of(answer("594 No route to host", "")).await;
    assert_eq!(*error.kind(), Kind::Other);
}

#[tokio::test]
async fn an_unknown_path_is_not_implemented() {
    let error = error_of(answer("501 Method 'GET /nodes/pve2/status' not implemented", "")).await;
    assert_eq!(*error.kind(), Kind::NotImplemented);
}

#[tokio::test]
async fn a_missing_right_names_path_and_privilege() {
    let body = r#"{"data":null,"message":"Permission check failed (/nodes/pve2, Sys.Audit)\n"}"#;
    let error = error_of(answer("403 Forbidden", body)).await;
    let expected = Kind::PermissionDenied {
        path: Some("/nodes/pve2".to_owned()),
        privilege: Some("Sys.Audit".to_owned()),
    };
    assert_eq!(*error.kind(), expected);
}

#[tokio::test]
async fn what_is_not_proxmox_is_said_so() {
    let page = "<html><title>Welcome</title></html>";
    for status in ["200 OK", "502 Bad Gateway", "403 Forbidden", "404 Not Found"] {
        let length = page.len();
        let bytes =
            format!("HTTP/1.1 {status}\r\nContent-Type: text/html\r\nContent-Length: {length}\r\n\r\n{page}");
        let error = error_of(bytes).await;
        assert_eq!(*error.kind(), Kind::NotProxmox, "{status}");
        assert!(error.text().contains("text/html"), "{error}");
        assert!(!error.text().contains("Welcome"), "no page is quoted: {error}");
    }
    for body in ["", "null", "[]", "{\"result\":[]}", "{\"data\":[}", "\u{0}"] {
        assert_eq!(*error_of(answer("200 OK", body)).await.kind(), Kind::NotProxmox, "{body}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target = Server::plain(|_| vec![version()]).await;
    let location = format!("{}/api2/json/version", target.url());
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let bytes = format!("HTTP/1.1 {status}\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let error = error_of(bytes).await;
        assert_eq!(*error.kind(), Kind::NotProxmox);
        assert!(error.text().contains(&location), "{error}");
    }
    assert_eq!(target.log().connections, 0);
    // The control: the target would have answered.
    reader(&target).version().await.unwrap();
}

#[tokio::test]
async fn unknown_keys_beside_data_are_ignored() {
    let body = r#"{"total":7,"changes":"x","success":1,"data":{"version":9.1,"release":"9.1","console":"html5","new":1}}"#;
    let bytes = answer("200 OK", body);
    let server = Server::plain(move |_| vec![Step::Answer(bytes.clone())]).await;
    let reader = reader(&server);
    let version = reader.version().await.unwrap();
    assert_eq!((version.version.as_str(), version.major()), ("9.1", Some(9)));
    assert_eq!(version.rest.keys().collect::<Vec<_>>(), ["new"]);
    assert_eq!(reader.unknown_fields().into_iter().collect::<Vec<_>>(), [("version.new".to_owned(), 1)]);
}

#[tokio::test]
async fn a_chunked_answer_and_one_without_a_length_are_read() {
    let body = r#"{"data":{"version":"8.4.5"}}"#;
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
        &body[..5],
        body.len() - 5,
        &body[5..]
    );
    let endless = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
    for bytes in [chunked, endless] {
        let server = Server::plain(move |_| vec![Step::Close(bytes.clone().into_bytes())]).await;
        assert_eq!(reader(&server).version().await.unwrap().version, "8.4.5");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let whole = r#"{"data":[]}"#;
    let cases = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{whole}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{whole}\r\n", whole.len()),
        "HTTP/1.1 200 OK\r\n\r\n{\"data\":[".to_owned(),
        "HTTP/1.1 200".to_owned(),
    ];
    for bytes in cases {
        let error = error_of(bytes.clone()).await;
        assert_eq!(*error.kind(), Kind::Connect, "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_refused_before_it_fills_memory() {
    let body = format!("{{\"data\":\"{}\"}}", "x".repeat(1000));
    let with_length = answer("200 OK", &body);
    // Only the head ever comes: the length alone is enough to refuse.
    let head_only = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 2).into_bytes();
    let chunked =
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
    for bytes in [with_length.clone(), head_only, chunked.into_bytes()] {
        let server = Server::plain(move |_| vec![Step::Answer(bytes.clone()), Step::Silent]).await;
        let reader = reader_with(&server, |limits| limits.body_bytes_max = 512);
        let error = reader.version().await.unwrap_err();
        assert_eq!((error.kind(), error.text()), (&Kind::TooLarge, "the answer is larger than 512 bytes"));
        assert_eq!(reader.requests(), 1);
    }
    // The control: within the limit it is read, and it is the wrong shape.
    let server = Server::plain(move |_| vec![Step::Answer(with_length.clone())]).await;
    assert_eq!(*reader(&server).version().await.unwrap_err().kind(), Kind::Malformed);
}

#[tokio::test]
async fn bytes_that_are_no_utf8_hide_nothing() {
    let body = b"{\"data\":[{\"poolid\":\"k\xfcche\"},{\"poolid\":\"lab\"}]}";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    let bytes = [head.as_bytes(), body].concat();
    let server = Server::plain(move |_| vec![Step::Answer(bytes.clone())]).await;
    let names: Vec<String> =
        reader(&server).pools().await.unwrap().into_iter().map(|pool| pool.poolid).collect();
    assert_eq!(names, ["k\u{fffd}che", "lab"]);
}

#[tokio::test]
async fn error_text_is_clean_capped_and_without_the_secret() {
    let secret = crate::SECRET;
    let long = "y".repeat(4096);
    let body = format!(r#"{{"data":null,"message":"no\u0000 such\u001b[31m \u202etoken {secret} {long}"}}"#);
    let error = error_of(answer("500 x", &body)).await;
    assert!(error.text().starts_with("no such [31m token [secret] yyy"), "{error}");
    assert!(error.text().chars().count() <= 801, "{}", error.text().len());
    for status in ["401 x", "403 x", "400 x", "595 x"] {
        let errors = format!(r#"{{"data":null,"message":"{secret}","errors":{{"a":"{secret}"}}}}"#);
        let error = error_of(answer(status, &errors)).await;
        assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
    }
    let reader = Server::plain(|_| Vec::new()).await;
    assert!(!format!("{:?}", crate::reader(&reader)).contains(secret));
}
