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
mod room;
mod runs;
mod schema;
mod server;
mod stdio;
mod tools;
mod watch;

pub use self::stdio::{StdioError, stdio};

use self::{
    ask::Asker,
    room::{IDLE_MAX, Room, Use},
    server::Desk,
};
use crate::{
    App,
    catalog::Catalog,
    mesh,
    reply::{self, Failure},
    traced::Traced,
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
use nhi_bus::cx::Cx;
use serde::Deserialize;
use serde_json::json;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How often it is looked for sessions that nobody uses.
const LOOK: Duration = Duration::from_secs(60);
const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
/// Where whoever is refused reads what is wanted of them.
pub(crate) const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";
/// Headers that hold a credential.
const CREDENTIALS: [HeaderName; 4] = [
    header::AUTHORIZATION,
    header::COOKIE,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
];

/// The sessions of all identities.
pub(crate) struct Mcp {
    desk: Arc<Desk>,
    stop: CancellationToken,
    /// By public key.
    rooms: Mutex<BTreeMap<String, Arc<Room>>>,
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
        let desk = Desk::new(cx.clone(), catalog);
        let this = Arc::new(Self { desk, stop, rooms: Mutex::default() });
        let (stopped, mcp) = (cx.clone(), this.clone());
        cx.spawn("gateway.mcp", async move {
            loop {
                tokio::select! {
                    () = stopped.cancelled() => break,
                    () = tokio::time::sleep(LOOK) => mcp.look().await,
                }
            }
            mcp.stop.cancel();
        });
        this
    }

    /// The sessions of whoever has this key.
    fn room(&self, public_key: &str) -> Arc<Room> {
        self.with(|rooms| {
            let room = rooms.entry(public_key.to_owned());
            room.or_insert_with(|| Room::new(&self.desk, self.stop.child_token())).clone()
        })
    }

    /// Ends what nobody uses any more.
    async fn look(&self) {
        let rooms: Vec<Arc<Room>> = self.with(|rooms| rooms.values().cloned().collect());
        for room in rooms {
            room.end_idle(IDLE_MAX).await;
        }
        // One that somebody else holds may have a session in a moment.
        self.with(|rooms| rooms.retain(|_, room| Arc::strong_count(room) > 1 || !room.is_empty()));
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<String, Arc<Room>>) -> R) -> R {
        work(&mut self.rooms.lock().unwrap_or_else(PoisonError::into_inner))
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
    let place = match parts.method == Method::POST && may_begin(&parts.headers, &body) {
        true => Some(room.begin().await?),
        false => None,
    };
    if parts.method == Method::GET {
        visitor.may_listen()?;
    }
    let used = used(&room, &parts.headers).await;
    let traced = Traced::begin(&app.stop, &parts);
    for name in CREDENTIALS {
        parts.headers.remove(name);
    }
    parts.uri = Uri::from_static("/mcp");
    parts.extensions.clear();
    let trace = traced.trace();
    parts.extensions.insert(Asker { bus: caller.bus.clone(), _caller: Some(caller), trace });
    let response = room.service.handle(Request::from_parts(parts, Full::new(body))).await;
    traced.end(response.status().as_u16());
    let used = match used {
        Some(used) => Some(used),
        None => self::used(&room, response.headers()).await,
    };
    drop(place);
    Ok(kept(response.map(Body::new), visitor, used))
}

/// The session that these headers name, in use from now on.
async fn used(room: &Room, headers: &HeaderMap) -> Option<Use> {
    room.used(headers.get(SESSION_ID)?.to_str().ok()?).await
}

/// Whether a request may begin a session: by what it asks for, as whoever reads it then will. Only what is surely
/// something else is not.
fn may_begin(headers: &HeaderMap, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Named {
        method: String,
    }
    let has_session = headers.get(SESSION_ID).is_some_and(|id| id.to_str().is_ok());
    let is_other = serde_json::from_slice(body).is_ok_and(|named: Named| named.method != "initialize");
    !has_session && !is_other
}

/// The answer, which ends when the caller's identity is taken away or its session is over. The visitor is kept as long
/// as it lasts, and so is its use of a session of MCP.
fn kept(response: Response, mut visitor: Visitor, used: Option<Use>) -> Response {
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
    parts.headers.insert(reply::ACCEL_BUFFERING, HeaderValue::from_static("no"));
    let mut link = visitor.caller.bus.link();
    let over = async move {
        let _used = used;
        tokio::select! {
            _closed = link.wait_for(|link| link.is_over()) => {}
            () = visitor.over() => {}
        }
    };
    let body = body.into_data_stream().take_until(Box::pin(over));
    Response::from_parts(parts, Body::from_stream(body))
}

fn refused(app: &App, host: Option<&HeaderValue>, failure: Failure) -> Response {
    let is_unknown = failure.status == 401;
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
    fn a_session_begins_by_what_is_asked_for_whatever_version_it_names() {
        let (none, mut session, mut odd) = (HeaderMap::new(), HeaderMap::new(), HeaderMap::new());
        session.insert(SESSION_ID, HeaderValue::from_static("x"));
        odd.insert(SESSION_ID, HeaderValue::from_bytes(b"\xff").unwrap());
        let newest = br#"{"method": "initialize", "params": {"protocolVersion": "2026-07-28"}}"#;
        for body in [
            &newest[..],
            br#"{"method": "\u0069nitialize"}"#,
            b"",
            br#"{"method": "ping", "method": "initialize"}"#,
        ] {
            assert!(may_begin(&none, body) && may_begin(&odd, body), "{}", String::from_utf8_lossy(body));
            assert!(!may_begin(&session, body));
        }
        assert!(!may_begin(&none, br#"{"method": "tools/list"}"#), "the control");
    }
}
