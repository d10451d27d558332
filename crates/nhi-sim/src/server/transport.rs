//! pveproxy's HTTP, with all its rules: HTTP/1.1 only, idle connections closed after five seconds, a hundred
//! requests a connection, every error closes, no chunked bodies, no bodies on DELETE, delayed empty 401s.

use super::{
    Shared,
    body::{Body, form, half, json_object, whole},
};
use crate::{
    api::{Answer, Params, Request, route},
    counts::Write,
    lab::{fault::Breakage, login::Credentials},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Response, StatusCode,
    body::Incoming,
    ext::ReasonPhrase,
    header::{self, HeaderMap, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// An idle connection lives this long.
const IDLE: Duration = Duration::from_secs(5);
/// A connection carries this many requests.
const REQUESTS_MAX: u32 = 100;
/// A request has at most this many header lines.
const HEADER_LINES_MAX: usize = 64;
/// A request's header lines have together at most this many bytes.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// A request's body has at most this many bytes.
const BODY_BYTES_MAX: u64 = 512 << 10;
/// Of a body that is refused, this much is still read.
const DRAINED_BYTES_MAX: usize = 4 << 20;

/// The connection ends without an answer.
#[derive(Debug)]
struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("dropped on purpose")
    }
}

impl std::error::Error for Dropped {}

/// Takes connections for one node until told to stop.
pub(super) async fn accept(
    shared: Arc<Shared>,
    node: String,
    listener: TcpListener,
    tasks: TaskTracker,
    cancelled: CancellationToken,
) {
    loop {
        let stream = tokio::select! {
            () = cancelled.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(err = %error, node, "simulator cannot accept");
                    continue;
                }
            },
        };
        let cancelled = cancelled.clone();
        let connection = serve_connection(Arc::clone(&shared), node.clone(), stream);
        tasks.spawn(async move {
            tokio::select! {
                () = cancelled.cancelled() => {}
                () = connection => {}
            }
        });
    }
}

async fn serve_connection(shared: Arc<Shared>, node: String, stream: TcpStream) {
    // A node that is cut off does not even shake hands.
    let offline = shared.with_lab(|lab| !lab.is_online(&node));
    let Some(leaf) = shared.leaf(&node).filter(|_| !offline) else { return };
    shared.counts().connections += 1;
    let Ok(stream) = TlsAcceptor::from(leaf.config).accept(stream).await else { return };
    let served = AtomicU32::new(0);
    let handler = service_fn(|request| {
        let number = served.fetch_add(1, Ordering::Relaxed) + 1;
        answer(&shared, &node, request, number)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(64 << 10).max_headers(1024);
    if let Err(error) = builder.serve_connection(TokioIo::new(stream), handler).await {
        tracing::trace!(err = %error, "simulated connection ended");
    }
}

async fn answer(
    shared: &Shared,
    node: &str,
    request: hyper::Request<Incoming>,
    number: u32,
) -> Result<Response<Body>, Dropped> {
    if too_many_headers(request.headers()) || shared.with_lab(|lab| !lab.is_online(node)) {
        return Err(Dropped);
    }
    let head = Head::of(&request);
    let outcome = match read(request).await {
        Ok(params) => carry_out(shared, node, &head, params).await?,
        Err(refused) => Sent::Answer(refused),
    };
    let is_last = number >= REQUESTS_MAX;
    Ok(match outcome {
        Sent::Answer(answer) => to_response(answer, is_last),
        Sent::Raw(mut response) => {
            close(&mut response, is_last);
            response
        }
    })
}

enum Sent {
    Answer(Answer),
    Raw(Response<Body>),
}

struct Head {
    method: String,
    path: String,
    credentials: Credentials,
}

impl Head {
    fn of(request: &hyper::Request<Incoming>) -> Self {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let ticket = text("cookie").and_then(|cookies| {
            let found = cookies.split(';').find_map(|cookie| cookie.trim().strip_prefix("PVEAuthCookie="))?;
            Some(percent_decode_str(found).decode_utf8_lossy().into_owned())
        });
        Self {
            method: request.method().as_str().to_owned(),
            path: percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned(),
            credentials: Credentials {
                authorization: text("authorization"),
                ticket,
                csrf: text("csrfpreventiontoken"),
            },
        }
    }

    /// The path below `/api2/json`.
    fn below(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("/api2/json")?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

fn too_many_headers(headers: &HeaderMap) -> bool {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    headers.len() > HEADER_LINES_MAX || bytes > HEADER_BYTES_MAX
}

fn refusal(status: u16, reason: impl Into<String>) -> Answer {
    Answer {
        status,
        reason: reason.into(),
        body: None,
        delay_ms: 0,
        is_refused_login: false,
        route: None,
        vmid: None,
    }
}

/// Reads the parameters, or says why pveproxy does not.
async fn read(request: hyper::Request<Incoming>) -> Result<Params, Answer> {
    let (parts, body) = request.into_parts();
    // A refused body is read all the same, up to a limit, so that the client hears the refusal instead of a
    // connection that broke while it wrote.
    let bytes =
        Limited::new(body, DRAINED_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
    let kind = body_kind(&parts)?;
    let mut params = match (kind, bytes) {
        (BodyKind::None, _) => Params::new(),
        (_, Err(_)) => return Err(refusal(500, "unable to read the request body")),
        (BodyKind::Form, Ok(bytes)) => form(&String::from_utf8_lossy(&bytes)),
        (BodyKind::Json, Ok(bytes)) => json_object(&bytes).map_err(|reason| refusal(500, reason))?,
    };
    params.extend(parts.uri.query().map(form).unwrap_or_default());
    Ok(params)
}

enum BodyKind {
    None,
    Form,
    Json,
}

/// What the body is, by the headers alone; most kinds are refused.
fn body_kind(parts: &hyper::http::request::Parts) -> Result<BodyKind, Answer> {
    let method = parts.method.as_str();
    if !matches!(method, "GET" | "POST" | "PUT" | "DELETE") {
        return Err(refusal(501, format!("method '{method}' not available")));
    }
    let text = |name: header::HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    if parts.headers.contains_key(header::TRANSFER_ENCODING) {
        return Err(refusal(501, "chunked transfer encoding not supported"));
    }
    let length: u64 = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok()).unwrap_or(0);
    if length == 0 {
        return Ok(BodyKind::None);
    }
    if !matches!(method, "POST" | "PUT") {
        return Err(refusal(501, format!("Unexpected content for method '{method}'")));
    }
    if length > BODY_BYTES_MAX {
        return Err(refusal(501, "for requests with a body larger than 524288 bytes use an upload"));
    }
    let kind = text(header::CONTENT_TYPE).unwrap_or("");
    match kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
        "application/x-www-form-urlencoded" | "" => Ok(BodyKind::Form),
        "application/json" => Ok(BodyKind::Json),
        other => Err(refusal(506, format!("Content-Type '{other}' not implemented"))),
    }
}

/// Lets the lab answer, or the fault that stands before it.
async fn carry_out(shared: &Shared, node: &str, head: &Head, params: Params) -> Result<Sent, Dropped> {
    let Some(path) = head.below() else { return Ok(outside(head)) };
    let (breakage, slow_ms) = shared.with_lab(|lab| {
        (lab.faults.breakage(&head.method, path), lab.faults.slowness_ms(&head.method, path))
    });
    let route = route::find(&head.method, path);
    let worker_node = route.as_ref().filter(|(route, _)| route.is_protected).map(|(_, vars)| {
        vars.get("node").filter(|name| *name != "localhost").map_or(node, String::as_str).to_owned()
    });
    let _permit = match worker_node.as_deref() {
        Some(name) => shared.worker(name).await,
        None => None,
    };
    let is_before = matches!(
        breakage,
        Some(
            Breakage::Html { .. } | Breakage::Status { .. } | Breakage::DropBefore {} | Breakage::Garbage {}
        )
    );
    let answer = if is_before {
        refusal(0, "")
    } else {
        let request =
            Request { method: &head.method, path, params, credentials: &head.credentials, via: node };
        shared.with_lab(|lab| lab.serve(request))
    };
    let status = match &breakage {
        Some(Breakage::Html { status }) => *status,
        Some(Breakage::Status { code, .. } | Breakage::GiveUp { code }) => *code,
        Some(Breakage::Garbage {}) => 200,
        _ => answer.status,
    };
    shared.note(head, path, status, &answer, route.map(|(route, _)| route.path));
    // What takes long is the answer: the request is carried out though its sender goes away meanwhile.
    let mut delay_ms = answer.delay_ms + shared.latency_ms.load(Ordering::SeqCst) + slow_ms;
    if answer.is_refused_login {
        delay_ms += shared.options.auth_delay_ms;
    }
    pause(delay_ms).await;
    breakage.map_or_else(|| Ok(Sent::Answer(answer.clone())), |breakage| broken(breakage, answer.clone()))
}

async fn pause(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

impl Shared {
    /// Waits for one of the three workers of a node's pvedaemon.
    async fn worker(&self, node: &str) -> Option<Worker<'_>> {
        let workers = self.workers.get(node)?;
        let count = self.in_flight.get(node)?;
        let now = count.fetch_add(1, Ordering::SeqCst) + 1;
        let waiting = Waiting(count);
        self.counts().note_in_flight(node, now);
        let permit = Arc::clone(workers).acquire_owned().await.ok()?;
        Some(Worker { _permit: permit, _waiting: waiting })
    }

    fn note(&self, head: &Head, path: &str, status: u16, answer: &Answer, route: Option<&'static str>) {
        let by = match (&head.credentials.authorization, &head.credentials.ticket) {
            (Some(header), _) => {
                header.trim_start_matches("PVEAPIToken=").split('=').next().unwrap_or_default().to_owned()
            }
            (None, Some(ticket)) => ticket.split(':').nth(1).unwrap_or_default().to_owned(),
            (None, None) => String::new(),
        };
        let at_ms = self.clock.now_ms();
        let write = Write { at_ms, method: head.method.clone(), path: path.to_owned(), by, status };
        self.counts().note(write, route.or(answer.route), answer.vmid);
    }
}

struct Waiting<'a>(&'a std::sync::atomic::AtomicU64);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Worker<'a> {
    _permit: tokio::sync::OwnedSemaphorePermit,
    _waiting: Waiting<'a>,
}

/// What is not the API: the web page, and files that are not there.
fn outside(head: &Head) -> Sent {
    if head.path == "/" && head.method == "GET" {
        return Sent::Raw(page(
            200,
            "<!DOCTYPE html><html><head><title>Proxmox Virtual Environment (simulated)</title></head><body></body></html>",
        ));
    }
    Sent::Answer(refusal(501, format!("no such file '{}'", head.path)))
}

fn page(status: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(whole(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

fn broken(breakage: Breakage, mut answer: Answer) -> Result<Sent, Dropped> {
    match breakage {
        Breakage::Html { status } => Ok(Sent::Raw(page(
            status,
            "<html><head><title>Sign in</title></head><body>Please sign in to the proxy.</body></html>",
        ))),
        Breakage::Status { code, message } => {
            let body =
                (code < 595).then(|| serde_json::json!({"data": null, "message": format!("{message}\n")}));
            Ok(Sent::Answer(Answer { body, ..refusal(code, message) }))
        }
        Breakage::GiveUp { code: code @ 595.. } => Ok(Sent::Answer(refusal(code, "Connection timed out"))),
        Breakage::GiveUp { code } => {
            Ok(Sent::Raw(page(code, "<html><body><h1>Gateway Time-out</h1></body></html>")))
        }
        Breakage::DropBefore {} | Breakage::DropAfter {} => Err(Dropped),
        Breakage::Garbage {} => {
            let mut response = Response::new(whole("{\"data\":[{\"vmid\":10"));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
            Ok(Sent::Raw(response))
        }
        Breakage::Truncate {} => {
            let bytes = Bytes::from(answer.body.as_ref().map(ToString::to_string).unwrap_or_default());
            let mut response = to_response(answer, false);
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
            *response.body_mut() = half(&bytes);
            Ok(Sent::Raw(response))
        }
        Breakage::Huge { bytes } => {
            if let Some(body) = answer.body.as_mut().and_then(serde_json::Value::as_object_mut) {
                body.insert("padding".to_owned(), serde_json::json!("x".repeat(bytes)));
            }
            Ok(Sent::Answer(answer))
        }
        Breakage::SwapTypes {} => {
            if let Some(body) = &mut answer.body {
                swap_types(body);
            }
            Ok(Sent::Answer(answer))
        }
    }
}

/// Numbers become strings, strings of digits numbers: Perl has done both.
fn swap_types(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(number) => *value = serde_json::json!(number.to_string()),
        serde_json::Value::String(text) => {
            if let Ok(number) = text.parse::<u64>() {
                *value = serde_json::json!(number);
            }
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(swap_types),
        serde_json::Value::Object(map) => map.values_mut().for_each(swap_types),
        serde_json::Value::Null | serde_json::Value::Bool(_) => {}
    }
}

fn to_response(answer: Answer, is_last: bool) -> Response<Body> {
    let bytes = answer.body.as_ref().map(ToString::to_string);
    let mut response = Response::new(whole(bytes.clone().unwrap_or_default()));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let first_line = answer.reason.lines().next().unwrap_or_default();
    if let (false, Ok(reason)) =
        (first_line.is_empty(), ReasonPhrase::try_from(first_line.as_bytes().to_vec()))
    {
        response.extensions_mut().insert(reason);
    }
    let headers = response.headers_mut();
    if bytes.is_some() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=UTF-8"));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
    close(&mut response, is_last);
    response
}

/// Says whether the connection goes on: not after an error, not after the last request.
fn close(response: &mut Response<Body>, is_last: bool) {
    let ends = is_last || response.status().as_u16() >= 400;
    let word = if ends { "close" } else { "Keep-Alive" };
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static(word));
}
