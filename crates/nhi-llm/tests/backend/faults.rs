//! Everything that goes wrong on the way ends as a typed error, and a half answer never looks whole.

use crate::server::{Piece, Server, ask, open, stream, streamed, text, whole};
use nhi_llm::{Backend, Endpoint, Hints, Key, Kind, Span};
use nhi_model::ai::BackendKind;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

const DELTA: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}]}\n\n";

fn hello() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] })
}

fn and(mut pieces: Vec<Piece>, last: Piece) -> Vec<Piece> {
    pieces.push(last);
    pieces
}

#[tokio::test]
async fn half_an_answer_is_an_error_after_what_came() {
    let sse = "text/event-stream";
    let error = "data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n";
    let long = format!("data: {}\n\n", "x".repeat(70_000));
    for (pieces, said, kind) in [
        (and(open(sse, &[DELTA]), Piece::Cut), "Hel", Kind::Cut),
        (streamed(sse, &[DELTA]), "Hel", Kind::Cut),
        (streamed(sse, &[DELTA, "data: [DONE]\n\n"]), "Hel", Kind::Cut),
        (streamed(sse, &[DELTA, "data: {\"choices\":[{\"del"]), "Hel", Kind::Cut),
        (streamed(sse, &[]), "", Kind::Cut),
        (streamed(sse, &["data: [DONE]\n\n"]), "", Kind::Cut),
        (and(open(sse, &[DELTA]), Piece::Silence), "Hel", Kind::Stalled),
        (and(open(sse, &[]), Piece::Silence), "", Kind::Timeout),
        (vec![Piece::Silence], "", Kind::Timeout),
        (streamed(sse, &[DELTA, "data: {oops\n\n", DELTA]), "Hel", Kind::Garbage),
        (streamed(sse, &[DELTA, "data: 7\n\n", DELTA]), "Hel", Kind::Garbage),
        (streamed(sse, &[DELTA, error, "data: [DONE]\n\n"]), "Hel", Kind::Overloaded),
        (streamed(sse, &[error]), "", Kind::Overloaded),
        (streamed(sse, &[DELTA, &long]), "Hel", Kind::TooLarge),
        (streamed("text/html", &["<html>hello</html>"]), "", Kind::Garbage),
        (
            whole("200 OK", "", "{\"error\":{\"message\":\"m\",\"code\":\"context_length_exceeded\"}}"),
            "",
            Kind::TooLong,
        ),
        (whole("302 Found", "location: http://elsewhere/v1?key=1\r\n", ""), "", Kind::Redirected),
        (whole("429 Too Many Requests", "retry-after: 7\r\n", "{}"), "", Kind::RateLimited(Span::Minute)),
    ] {
        let shown = format!("{pieces:?}");
        let shown = shown.chars().take(200).collect::<String>();
        let server = Server::saying(pieces).await;
        let mut endpoint = server.endpoint(BackendKind::Openai);
        endpoint.options.first_byte = Duration::from_millis(300);
        endpoint.options.stall = Duration::from_millis(300);
        endpoint.options.answer_bytes_max = 60_000;
        let backend = Backend::new(endpoint).unwrap();
        let (chunks, end) = stream(&backend, hello(), &Hints::default()).await;
        let error = end.unwrap_err();
        assert_eq!((text(&chunks).as_str(), error.kind), (said, kind), "{error} {shown}");
        assert!(error.message.starts_with("backend there: ") && !error.message.contains("key="), "{error}");
    }
}

#[tokio::test]
async fn a_whole_answer_is_one_or_an_error() {
    let large = format!("{{\"choices\":\"{}\"}}", "x".repeat(70_000));
    for (pieces, kind) in [
        (whole("200 OK", "", "<html>"), Kind::Garbage),
        (whole("200 OK", "", "[1]"), Kind::Garbage),
        (whole("200 OK", "", "{\"choices\":[]}"), Kind::Garbage),
        (whole("200 OK", "", &large), Kind::TooLarge),
        (open("application/json", &[&large]), Kind::TooLarge),
        (and(open("application/json", &["{\"choices\":"]), Piece::Cut), Kind::Cut),
        (and(open("application/json", &["{"]), Piece::Silence), Kind::Timeout),
        (vec![Piece::Bytes(b"what?\r\n\r\n".to_vec()), Piece::Cut], Kind::Cut),
        (vec![Piece::Cut], Kind::Cut),
        (whole("307 Temporary Redirect", "location: /v2\r\n", ""), Kind::Redirected),
        (whole("200 OK", "", "{\"error\":\"llama runner process has terminated\"}"), Kind::Server),
    ] {
        let shown = format!("{pieces:?}").chars().take(200).collect::<String>();
        let server = Server::saying(pieces).await;
        let mut endpoint = server.endpoint(BackendKind::Openai);
        endpoint.options.whole = Duration::from_millis(300);
        endpoint.options.answer_bytes_max = 60_000;
        let error = ask(&Backend::new(endpoint).unwrap(), hello(), &Hints::default()).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error} {shown}");
        assert_eq!(server.seen().len(), 1, "asked twice: {shown}");
    }
}

#[tokio::test]
async fn a_key_is_in_no_error_and_no_debug() {
    let echo = "{\"error\":{\"message\":\"bad request with sk-very-secret in it\"}}";
    let server = Server::saying(whole("400 Bad Request", "", echo)).await;
    let backend = server.backend(BackendKind::Openai);
    let error = ask(&backend, hello(), &Hints::default()).await.unwrap_err();
    assert_eq!(error.message, "backend there: bad request with … in it (HTTP 400)");
    assert!(!format!("{backend:?} {error:?}").contains("very-secret"));
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_is_refused_before_anything_is_sent() {
    let server = Server::saying(Vec::new()).await;
    let usual = server.endpoint(BackendKind::Openai);
    for url in ["ftp://host/", "http://user:pass@host/", "data:text/plain,x"] {
        let endpoint = Endpoint { url: url.parse().unwrap(), ..usual.clone() };
        assert_eq!(Backend::new(endpoint).unwrap_err().kind, Kind::Unsupported, "{url}");
    }
    let endpoint = Endpoint { key: Some(Key::new("a\nb".to_owned())), ..usual.clone() };
    let error = Backend::new(endpoint).unwrap_err();
    assert!(!error.message.contains("a\nb") && error.kind == Kind::Unsupported);
    let nobody = Endpoint { url: "http://127.0.0.1:1".parse().unwrap(), ..usual };
    let error = ask(&Backend::new(nobody).unwrap(), hello(), &Hints::default()).await.unwrap_err();
    assert_eq!(error.kind, Kind::Connect, "{error}");
}

#[tokio::test]
async fn a_request_on_a_connection_that_was_kept_too_long_is_asked_again_once() {
    let answer = || whole("200 OK", "", "{\"choices\":[{\"message\":{\"content\":\"Hello\"}}]}");
    // The other side closes the connection that it kept just as the second request comes.
    for (last, is_answered) in [(answer(), true), (vec![Piece::Cut], false)] {
        let count = AtomicU32::new(0);
        let server = Server::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0 => answer(),
            1 => vec![Piece::Cut],
            _ => last.clone(),
        })
        .await;
        let backend = server.backend(BackendKind::Openai);
        ask(&backend, hello(), &Hints::default()).await.unwrap();
        let second = ask(&backend, hello(), &Hints::default()).await;
        assert_eq!(second.is_ok(), is_answered, "{second:?}");
        assert!(second.err().is_none_or(|error| error.kind == Kind::Cut));
        assert_eq!((server.seen().len(), server.connections()), (3, 2), "once more, on a fresh one");
    }
    // The control: what broke off after a part of its answer may have been done.
    let begun = vec![Piece::Bytes(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{".to_vec()), Piece::Cut];
    let count = AtomicU32::new(0);
    let server =
        Server::start(
            move |_| {
                if count.fetch_add(1, Ordering::SeqCst) == 0 { answer() } else { begun.clone() }
            },
        )
        .await;
    let backend = server.backend(BackendKind::Openai);
    ask(&backend, hello(), &Hints::default()).await.unwrap();
    let error = ask(&backend, hello(), &Hints::default()).await.unwrap_err();
    assert_eq!((error.kind, server.seen().len()), (Kind::Cut, 2), "{error}");
}

#[tokio::test]
async fn what_failed_is_told_without_the_words_of_libraries() {
    let answer = |pieces| async move {
        let server = Server::saying(pieces).await;
        ask(&server.backend(BackendKind::Openai), hello(), &Hints::default()).await.unwrap_err()
    };
    let limited =
        whole("429 Too Many Requests", "retry-after: 7\r\n", "{\"error\":{\"message\":\"slow down\"}}");
    for (error, message, plain) in [
        (
            answer(and(open("application/json", &["{"]), Piece::Cut)).await,
            "backend there: the answer broke off before its end",
            "there/m broke off before the end of its answer",
        ),
        (
            answer(vec![Piece::Cut]).await,
            "backend there: it closed the connection without an answer",
            "there/m broke off before the end of its answer",
        ),
        (
            answer(limited).await,
            "backend there: slow down (HTTP 429)",
            "there/m was asked too often for the moment: slow down (HTTP 429)",
        ),
        (
            answer(whole("429 Too Many Requests", "retry-after: 7\r\n", "{}")).await,
            "backend there: HTTP 429",
            "there/m was asked too often for the moment",
        ),
    ] {
        assert_eq!((error.message.as_str(), error.plain("there/m").as_str()), (message, plain));
    }
    let server = Server::saying(Vec::new()).await;
    let nobody =
        Endpoint { url: "http://127.0.0.1:1".parse().unwrap(), ..server.endpoint(BackendKind::Openai) };
    let error = ask(&Backend::new(nobody).unwrap(), hello(), &Hints::default()).await.unwrap_err();
    assert_eq!(error.message, "backend there: no connection: nobody listens at its address");
}
