//! MCP: `/mcp` over streamable HTTP, and the same server over stdio. Tools, resources and prompts are made from what
//! discovery shows and what the caller may do; every call is made over the caller's own connection.
//!
//! Each identity has its own sessions: one that knows the id of another's finds nothing there. The credential is taken
//! out of a request before the library sees it. It decides nothing about rights, and keeps nothing of an answer.

mod ask;
mod chat;
mod check;
mod groups;
mod plans;
mod prompts;
mod resources;
mod runs;
mod schema;
mod server;
mod stdio;
mod tools;
mod watch;

pub use self::stdio::{StdioError, stdio};

use self::{
    ask::Asker,
    server::{Desk, Server},
};
use crate::{
    App,
    catalog::Catalog,
    mesh,
    reply::{self, Failure},
    visitor::Visitor,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header},
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::Full;
use nhi_bus::{connect::Link, cx::Cx};
use nhi_model::{
    call::PAYLOAD_BYTES_MAX,
    fault::{Fault, FaultCode},
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio_util::sync::CancellationToken;

/// Sessions of one identity at once: an agent has one or two, and each is a task and some buffers.
const SESSIONS_MAX: usize = 64;
/// Identities whose sessions are kept; more than connections are.
const IDENTITIES_MAX: usize = 128;
/// Since this version there are no sessions.
const SESSIONLESS: &str = "2026-07-28";
const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Where whoever is refused reads what is wanted of them.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";
/// Headers that hold a credential.
const CREDENTIALS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

type Service = StreamableHttpService<Server, LocalSessionManager>;

/// The sessions of all identities.
pub(crate) struct Mcp {
    desk: Arc<Desk>,
    stop: CancellationToken,
    /// By public key.
    rooms: Mutex<BTreeMap<String, Room>>,
}

/// The sessions of one identity.
#[derive(Clone)]
struct Room {
    service: Service,
    sessions: Arc<LocalSessionManager>,
}

impl std::fmt::Debug for Mcp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mcp").finish_non_exhaustive()
    }
}

impl Mcp {
    /// The sessions, which end with `cx`.
    pub(crate) fn start(cx: &Cx, catalog: Arc<Catalog>) -> Arc<Self> {
        let stop = CancellationToken::new();
        let (stopped, token) = (cx.clone(), stop.clone());
        cx.spawn("gateway.mcp", async move {
            stopped.cancelled().await;
            token.cancel();
        });
        let desk = Arc::new(Desk { cx: cx.clone(), catalog });
        Arc::new(Self { desk, stop, rooms: Mutex::default() })
    }

    /// The sessions of whoever has this key.
    fn room(&self, public_key: &str) -> Room {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(public_key) {
            return room.clone();
        }
        if rooms.len() >= IDENTITIES_MAX {
            // Those without a session lose nothing.
            rooms.retain(|_, room| {
                room.sessions.sessions.try_read().is_ok_and(|sessions| !sessions.is_empty())
            });
        }
        let desk = self.desk.clone();
        let sessions = Arc::new(LocalSessionManager::default());
        // Host and Origin are the guard's to judge, before anything comes here.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_max_request_body_bytes(PAYLOAD_BYTES_MAX)
            .with_cancellation_token(self.stop.child_token());
        let service =
            StreamableHttpService::new(move || Ok(Server::new(desk.clone(), None)), sessions.clone(), config);
        let room = Room { service, sessions };
        rooms.insert(public_key.to_owned(), room.clone());
        room
    }
}

/// Every method of `/mcp`.
pub(crate) async fn serve(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let host = request.headers().get(header::HOST).cloned();
    match answer(&app, request).await {
        Ok(response) => response,
        Err(failure) => refused(&app, host.as_ref(), failure),
    }
}

async fn answer(app: &App, request: Request<Body>) -> Result<Response, Failure> {
    let (mut parts, body) = request.into_parts();
    let visitor = mesh::authenticate(app, &parts).await?;
    let caller = visitor.caller.clone();
    let body = match parts.method {
        Method::POST => mesh::read(&parts.headers, body).await?,
        _ => Bytes::new(),
    };
    let room = app.mcp.room(&caller.public_key);
    if parts.method == Method::POST && begins_session(&parts.headers) {
        let open = room.sessions.sessions.read().await.len();
        if open >= SESSIONS_MAX {
            let message = format!("{open} sessions of this identity are open");
            return Err(
                Fault::new(FaultCode::TooMany, message, "close one (DELETE), or wait five minutes").into()
            );
        }
    }
    for name in CREDENTIALS {
        parts.headers.remove(name);
    }
    parts.uri = Uri::from_static("/mcp");
    parts.extensions.clear();
    parts.extensions.insert(Asker { bus: caller.bus.clone(), _caller: Some(caller) });
    let response = room.service.handle(Request::from_parts(parts, Full::new(body))).await;
    Ok(kept(response.map(Body::new), visitor))
}

/// Whether it may be the beginning of a session.
fn begins_session(headers: &HeaderMap) -> bool {
    let version = headers.get(PROTOCOL_VERSION).and_then(|version| version.to_str().ok());
    !headers.contains_key(SESSION_ID) && version.is_none_or(|version| version < SESSIONLESS)
}

/// The answer, which ends when the caller's identity is taken away or its session is over. The visitor is kept as long
/// as it lasts.
fn kept(response: Response, mut visitor: Visitor) -> Response {
    let (mut parts, body) = response.into_parts();
    let is_stream = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    parts.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    parts.headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_stream {
        return Response::from_parts(parts, body);
    }
    parts.headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let mut link = visitor.caller.bus.link();
    let over = async move {
        tokio::select! {
            _closed = link.wait_for(|link| matches!(link, Link::Revoked { .. } | Link::Closed)) => {}
            () = visitor.over() => {}
        }
    };
    let body = body.into_data_stream().take_until(Box::pin(over));
    Response::from_parts(parts, Body::from_stream(body))
}

fn refused(app: &App, host: Option<&HeaderValue>, failure: Failure) -> Response {
    let is_unknown = failure.status == 401;
    let is_busy = failure.status == 429;
    let mut response = reply::failure(failure);
    let headers = response.headers_mut();
    if is_unknown {
        let place = host.and_then(|host| host.to_str().ok()).unwrap_or("localhost");
        let told = format!(
            "Bearer realm=\"nhi\", resource_metadata=\"{}://{place}{METADATA_PATH}\"",
            app.guard.scheme()
        );
        if let Ok(told) = told.parse() {
            headers.insert(header::WWW_AUTHENTICATE, told);
        }
    }
    if is_busy {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("30"));
    }
    response
}

/// `GET /.well-known/oauth-protected-resource`: what a client must show here. There is no authorization server: keys are
/// made with `nhi auth add`, not by signing in.
pub(crate) async fn metadata(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let place = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let body = json!({
        "resource": format!("{}://{place}/mcp", app.guard.scheme()),
        "resource_name": "Neural-Home",
        "authorization_servers": [],
        "bearer_methods_supported": ["header"],
    });
    reply::json(StatusCode::OK, body.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_session_and_needs_one_begins_one() {
        let begins = |headers: &[(HeaderName, &'static str)]| {
            begins_session(&headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect())
        };
        assert!(begins(&[]) && begins(&[(PROTOCOL_VERSION, "2025-11-25")]));
        assert!(!begins(&[(SESSION_ID, "x")]) && !begins(&[(PROTOCOL_VERSION, "2026-07-28")]));
    }
}
