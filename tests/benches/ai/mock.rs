//! The model server of the bench: one thread, two ready-made answers, nothing else, so that what is measured is what
//! stands before it. It looks at a request only as far as it has to.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::{convert::Infallible, net::SocketAddr, sync::mpsc, thread, time::Duration};
use tokio::{net::TcpListener, task::JoinSet, time::interval};

/// The model it has.
pub(crate) const MODEL: &str = "bench";
/// Pieces of a streamed answer.
pub(crate) const PIECES: u32 = 60;
/// Between two of them: 200 tokens a second, a small model on a good card.
const PACE: Duration = Duration::from_millis(5);

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Starts it on a thread of its own, which lives as long as the process.
pub(crate) fn start() -> SocketAddr {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(serve(&tell));
    });
    told.recv().expect("the model server listens")
}

async fn serve(tell: &mpsc::Sender<SocketAddr>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    tell.send(listener.local_addr().expect("an address")).expect("somebody waits for it");
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        socket.set_nodelay(true).expect("a socket");
        connections.spawn(async move {
            // Whoever hangs up has its reasons; the load generator counts what it misses.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let Ok(body) = request.into_body().collect().await else { return Ok(plain(json!({}))) };
    let body = body.to_bytes();
    let is_streamed = body.windows(13).any(|part| part == b"\"stream\":true");
    Ok(match path.as_str() {
        "/v1/chat/completions" if is_streamed => streamed(),
        "/v1/chat/completions" => plain(json!({
            "id": "chatcmpl-bench", "object": "chat.completion", "created": 1_700_000_000, "model": MODEL,
            "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "word ".repeat(100)}}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 100, "total_tokens": 112},
        })),
        "/v1/models" => plain(json!({"object": "list", "data": [
            {"id": MODEL, "object": "model", "created": 1_700_000_000, "owned_by": "bench", "max_model_len": 131_072}]})),
        _ => plain(json!({"status": "ok"})),
    })
}

fn plain(value: serde_json::Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).boxed();
    Response::builder().header(CONTENT_TYPE, "application/json").body(body).expect("a response")
}

fn streamed() -> Answer {
    let chunk = |delta: serde_json::Value, finish: Option<&str>| {
        let chunk = json!({"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1_700_000_000,
            "model": MODEL, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let piece = chunk(json!({"content": "word "}), None);
    let end = Bytes::from([&chunk(json!({}), Some("stop"))[..], b"data: [DONE]\n\n"].concat());
    let frames = stream::unfold((0, interval(PACE)), move |(sent, mut pace)| {
        let (piece, end) = (piece.clone(), end.clone());
        async move {
            // The first comes at once.
            pace.tick().await;
            match sent {
                sent if sent < PIECES => Some((piece, (sent + 1, pace))),
                PIECES => Some((end, (PIECES + 1, pace))),
                _ => None,
            }
        }
    });
    let body = StreamBody::new(frames.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes))));
    let response = Response::builder().header(CONTENT_TYPE, "text/event-stream");
    response.body(BodyExt::boxed(body)).expect("a response")
}
