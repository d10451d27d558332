//! HTTP: the mesh's calls, events, metrics and dashboard, MCP, and the doors of AI programs; whatever is asked goes on
//! with the caller's own identity.
//!
//! Invariants:
//! - no request of a caller goes over the gateway's own identity: that one serves discovery, health and metrics;
//! - nothing of a request but its head is read before `Host` and `Origin` are known to be ours, whatever the path;
//! - no body is read before the credential is known to be an identity's, but the two kilobytes of a sign-in;
//! - seeds are never logged, never in errors, and kept only inside connections: for ten idle minutes, or while a
//!   session of the browser or a stream uses them;
//! - beyond loopback there is no plain HTTP;
//! - what a caller may do is not decided here: nats-server refuses.

mod catalog;
mod connections;
mod cors;
mod credential;
mod dialect;
mod directory;
mod doors;
mod events;
mod guard;
mod health;
mod mcp;
mod mesh;
mod metrics;
mod openapi;
mod pages;
mod reply;
mod serve;
mod session;
mod slots;
mod stream;
mod tls;
mod traced;
mod visitor;

pub use self::{
    mcp::{StdioError, stdio},
    tls::CertificateError,
};

use crate::{
    catalog::Catalog,
    connections::Connections,
    events::Events,
    guard::{Guard, Origin, Refusal},
    health::Health,
    mcp::Mcp,
    metrics::Metrics,
    openapi::OpenApi,
    pages::Pages,
    reply::Failure,
    serve::Local,
    session::Sessions,
    tls::Certificate,
    visitor::Places,
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Request, StatusCode, header},
    middleware::{self, Next},
    response::Response,
    routing::{any, get, post},
};
use nhi_bus::{
    connect::{Bus, Target},
    cx::Cx,
    server::ServerTls,
};
use nhi_model::fault::{Fault, FaultCode};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};
use tokio::net::TcpListener;

/// How the gateway serves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Names, beside loopback and the address listened on, under which requests may come in.
    pub allowed_hosts: Vec<String>,
    /// Origins (`https://pages.example`) whose pages may call, beside the gateway's own.
    pub allowed_origins: Vec<String>,
    /// Where callers are connected to.
    pub target: Target,
    /// The gateway's own connection.
    pub bus: Bus,
    /// The certificate to serve with, read again when its files change. Needed beyond loopback.
    pub tls: Option<ServerTls>,
}

/// A gateway that serves until its context stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Why the gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address is beyond loopback, and there is no certificate.
    #[error(
        "serve HTTP on {listen} without TLS: beyond loopback a certificate is needed; set `[http] listen` to \
         127.0.0.1:{} or give it one", listen.port()
    )]
    NeedsTls {
        /// Where it should listen.
        listen: SocketAddr,
    },
    /// The certificate cannot be used.
    #[error("serve HTTP on {listen} with TLS; `nhi doctor` checks the certificates")]
    Certificate {
        /// Where it should listen.
        listen: SocketAddr,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// Somebody else listens there.
    #[error("serve HTTP on {listen}: the port is in use; stop the other program or choose another port")]
    InUse {
        /// Where it should listen.
        listen: SocketAddr,
    },
    /// The system does not let it listen there.
    #[error("serve HTTP on {listen}; choose another address or port")]
    Listen {
        /// Where it should listen.
        listen: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What all requests share.
#[derive(Debug)]
struct App {
    /// Ends the streams, so that a stop does not wait for them.
    stop: Cx,
    guard: Guard,
    connections: Arc<Connections>,
    catalog: Arc<Catalog>,
    sessions: Arc<Sessions>,
    places: Places,
    events: Events,
    pages: Pages,
    mcp: Arc<Mcp>,
    health: Health,
    metrics: Metrics,
    openapi: OpenApi,
}

/// Starts the gateway. It stops with `cx`: requests under way end first, then the callers' connections are closed. The
/// own connection stays the owner's to close.
///
/// # Errors
/// [`GatewayError`], each with its remedy, before anything else is begun.
pub async fn run(cx: &Cx, options: Options) -> Result<Running, GatewayError> {
    let listen = options.listen;
    if !listen.ip().is_loopback() && options.tls.is_none() {
        return Err(GatewayError::NeedsTls { listen });
    }
    let listener = TcpListener::bind(listen).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => GatewayError::InUse { listen },
        _ => GatewayError::Listen { listen, source },
    })?;
    let addr = listener.local_addr().map_err(|source| GatewayError::Listen { listen, source })?;
    let certificate = match options.tls {
        Some(files) => {
            let opened = Certificate::open(cx, files).await;
            Some(opened.map_err(|source| GatewayError::Certificate { listen, source })?)
        }
        None => None,
    };
    let connections = Connections::start(cx, options.target, options.bus.clone());
    let catalog = Catalog::start(cx, options.bus.clone());
    let app = Arc::new(App {
        stop: cx.clone(),
        guard: Guard::new(&options.allowed_hosts, &options.allowed_origins, certificate.is_some()),
        connections: connections.clone(),
        mcp: Mcp::start(cx, catalog.clone()),
        catalog,
        sessions: Sessions::start(cx),
        places: Places::default(),
        events: Events::default(),
        pages: Pages::default(),
        health: Health::new(options.bus),
        metrics: Metrics::default(),
        openapi: OpenApi::default(),
    });
    let (context, router) = (cx.clone(), router(app));
    cx.spawn("gateway.http", async move {
        serve::serve(context, listener, router, certificate).await;
        connections.close().await;
    });
    tracing::debug!(node = %addr, "gateway serves");
    Ok(Running { addr })
}

/// Every path. The guard is the outermost layer: it sees unknown paths and methods too.
fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics::scrape))
        .route("/openapi.json", get(openapi::page))
        .route("/mesh", get(catalog::page))
        .route("/events", get(events::listen))
        .route("/session", post(session::open).get(session::show).delete(session::close))
        .route("/mcp", any(mcp::serve))
        .route(mcp::METADATA_PATH, get(mcp::metadata))
        .route("/.well-known/oauth-protected-resource/mcp", get(mcp::metadata))
        .route("/mesh/{service}/{endpoint}", post(mesh::call))
        .route("/v1/chat/completions", post(doors::chat))
        .route("/v1/responses", post(doors::responses))
        .route("/v1/messages", post(doors::messages))
        .route("/v1/embeddings", post(doors::embeddings))
        .route("/v1/models", get(doors::models))
        .route("/v1beta/models/{*call}", post(doors::gemini))
        .route("/api/chat", post(doors::ollama_chat))
        .route("/api/generate", post(doors::ollama_generate))
        .route("/api/embed", post(doors::ollama_embed))
        .route("/api/tags", get(doors::tags))
        .route("/api/show", post(doors::show))
        .route("/api/version", get(doors::version))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(app.clone(), watch))
        .with_state(app)
}

/// The guard before everything else, and the counters after it.
async fn watch(State(app): State<Arc<App>>, mut request: Request<Body>, next: Next) -> Response {
    let local = request.extensions().get::<Local>().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |local| local.0);
    let begun = Instant::now();
    let route = metrics::route(request.uri().path());
    let verdict = app.guard.check(request.method(), request.uri(), request.headers(), local);
    let response = match verdict {
        Ok(Origin::Ours) => next.run(request).await,
        Ok(Origin::Allowed(page)) => match cors::preflight(&request) {
            Some(permission) => cors::readable(permission, page),
            None => {
                // Sessions look at it: they are for pages of our own.
                request.extensions_mut().insert(Origin::Allowed(page.clone()));
                cors::readable(next.run(request).await, page)
            }
        },
        Err(refusal) => {
            tracing::debug!(err = %refusal, "request refused by its head");
            app.metrics.refused();
            refused(&refusal)
        }
    };
    app.metrics.answered(response.status());
    app.metrics.took(route, begun.elapsed());
    response
}

/// The body is not read, so the connection cannot be used again.
fn refused(refusal: &Refusal) -> Response {
    let mut response = reply::failure(Fault::new(FaultCode::Forbidden, refusal.to_string(), refusal.hint()));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

async fn alive() -> Response {
    reply::json(StatusCode::OK, r#"{"alive":true}"#)
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    app.health.ready().await
}

/// The dashboard has whatever paths nobody else has.
async fn unknown_path(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    app.pages.find(&parts).unwrap_or_else(|| reply::failure(mesh::no_such_path()))
}

async fn wrong_method() -> Response {
    let hint = "calls are POST, everything else is GET";
    let fault = Fault::new(FaultCode::BadRequest, "the path does not take this method", hint);
    reply::failure(Failure { status: 405, fault })
}
