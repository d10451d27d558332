//! The sockets of a simulated model server: takes connections, hands requests to [`serve`](super::serve), sends
//! scripts at their pace. Knows no API.

use super::{
    script::Step,
    state::{Ended, Ticket},
};
use bytes::Bytes;
use futures::{future::BoxFuture, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{fmt, io, sync::Arc};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A body as it is sent.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The connection ends without an answer.
#[derive(Debug)]
pub(super) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

/// What answers requests.
pub(super) type Handler =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Result<Response<Body>, Dropped>> + Send + Sync>;

/// Takes connections until told to stop.
pub(super) async fn accept(
    listener: TcpListener,
    handler: Handler,
    tasks: TaskTracker,
    cancelled: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            () = cancelled.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(err = %error, "simulated model server cannot accept");
                    continue;
                }
            },
        };
        // Each token leaves at once: with Nagle's algorithm some would wait for the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::trace!(err = %error, "simulated connection keeps its delay");
        }
        let (handler, cancelled) = (Arc::clone(&handler), cancelled.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| handler(request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = cancelled.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

/// A whole body.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response of any type.
pub(super) fn response(status: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response of JSON.
pub(super) fn json(status: u16, value: &serde_json::Value) -> Response<Body> {
    response(status, "application/json", whole(value.to_string()))
}

/// Adds a header, if it can be one.
pub(super) fn header(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

struct Flow<Steps> {
    steps: Steps,
    ticket: Ticket,
    due: Instant,
}

/// A body that follows a script. The ticket goes with it: when the client goes away, both are dropped.
pub(super) fn body_of(steps: impl Iterator<Item = Step> + Send + 'static, ticket: Ticket) -> Body {
    let flow = Flow { steps, ticket, due: Instant::now() };
    StreamBody::new(stream::unfold(flow, follow)).boxed_unsync()
}

async fn follow<Steps: Iterator<Item = Step>>(
    mut flow: Flow<Steps>,
) -> Option<(io::Result<Frame<Bytes>>, Flow<Steps>)> {
    while let Some(step) = flow.steps.next() {
        match step {
            Step::Send(bytes, tokens) => {
                flow.ticket.sent(tokens);
                return Some((Ok(Frame::data(Bytes::from(bytes))), flow));
            }
            Step::Wait(pause) if pause.is_zero() => tokio::task::yield_now().await,
            Step::Wait(pause) => {
                // Against the plan, not against the last token: a slow reader does not make the model slower.
                flow.due += pause;
                tokio::time::sleep_until(flow.due).await;
            }
            Step::Stall => std::future::pending().await,
            Step::Cut => {
                flow.ticket.ends(Ended::Broken);
                return Some((Err(io::Error::other("cut on request")), flow));
            }
            Step::End(ended) => flow.ticket.ends(ended),
        }
    }
    None
}
