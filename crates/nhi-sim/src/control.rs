//! The control endpoint: plain HTTP on loopback, JSON, no login. It looks at the lab from outside and makes
//! things go wrong; it is no part of the API that is simulated. `docs/simulator.md` shows every call.

use crate::{
    lab::{edit::Edit, fault::Fault},
    seed::Seed,
    server::Shared,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A control request is small.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Takes control connections until told to stop.
pub(crate) async fn accept(
    shared: Arc<Shared>,
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
                    tracing::warn!(err = %error, "simulator control cannot accept");
                    continue;
                }
            },
        };
        let (shared, cancelled) = (Arc::clone(&shared), cancelled.clone());
        tasks.spawn(async move {
            let handler = service_fn(|request| handle(&shared, request));
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), handler);
            tokio::select! {
                () = cancelled.cancelled() => {}
                _ = connection => {}
            }
        });
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    advance_s: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearRequest {
    /// A number, or `"all"`.
    clear: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyRequest {
    ms: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestRequest {
    vmid: u32,
    edit: Edit,
}

async fn handle(shared: &Shared, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    if parts.headers.contains_key(header::ORIGIN) {
        // A page in somebody's browser must not be able to break the lab.
        return Ok(Response::builder()
            .status(StatusCode::FORBIDDEN)
            .body(Full::new(Bytes::from_static(b"{\"error\":\"not for browsers\"}\n")))
            .expect("a status and a body make a response"));
    }
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => act(shared, &parts.method, parts.uri.path(), &body.to_bytes()),
        Err(_) => Err((StatusCode::PAYLOAD_TOO_LARGE, "the request is too large".to_owned())),
    };
    let (status, value) = match answer {
        Ok(value) => (StatusCode::OK, value),
        Err((status, message)) => (status, json!({"error": message})),
    };
    let mut response = Response::new(Full::new(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

type Refusal = (StatusCode, String);

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))
}

fn act(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Result<Value, Refusal> {
    match (method, path) {
        (&Method::GET, "/") => Ok(json!({"calls": [
            "GET /ca", "GET /state", "GET /seed", "GET /counts", "GET /fault", "POST /fault", "POST /clock", "POST /guest", "POST /latency", "POST /reset",
        ]})),
        (&Method::GET, "/ca") => Ok(json!({"ca_pem": shared.ca_pem})),
        (&Method::GET, "/state") => Ok(shared.with_lab(|lab| lab.to_json())),
        (&Method::GET, "/seed") => Ok(json!(shared.with_lab(|lab| Seed::of_lab(lab)))),
        (&Method::POST, "/guest") => guest(shared, body),
        (&Method::GET, "/counts") => Ok(json!(*shared.counts())),
        (&Method::GET, "/fault") => Ok(faults(shared)),
        (&Method::POST, "/fault") => fault(shared, body),
        (&Method::POST, "/clock") => {
            let wanted: ClockRequest = parse(body)?;
            if !(0.0..=1e9).contains(&wanted.advance_s) {
                return Err((StatusCode::BAD_REQUEST, "advance_s must be between 0 and 1e9".to_owned()));
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just above")]
            let now_ms = shared.advance((wanted.advance_s * 1000.0) as u64);
            Ok(json!({"now_ms": now_ms}))
        }
        (&Method::POST, "/latency") => {
            let wanted: LatencyRequest = parse(body)?;
            shared.latency_ms.store(wanted.ms, Ordering::SeqCst);
            Ok(json!({"latency_ms": wanted.ms}))
        }
        (&Method::POST, "/reset") => {
            shared.reset();
            Ok(json!({"reset": true}))
        }
        _ => Err((StatusCode::NOT_FOUND, format!("there is no {method} {path}; see docs/simulator.md"))),
    }
}

fn faults(shared: &Shared) -> Value {
    shared.with_lab(|lab| lab.faults.iter().map(|(id, fault)| json!({"id": id, "fault": fault})).collect())
}

fn fault(shared: &Shared, body: &[u8]) -> Result<Value, Refusal> {
    let wanted: Value = parse(body)?;
    let failed = |error: crate::server::SimError| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    if wanted.get("clear").is_some() {
        let request: ClearRequest = parse(body)?;
        let ids: Vec<u64> = match request.clear.as_u64() {
            Some(id) => vec![id],
            None => shared.with_lab(|lab| lab.faults.iter().map(|(id, _)| id).collect()),
        };
        let mut cleared = Vec::new();
        for id in ids {
            if shared.clear_fault(id).map_err(failed)? {
                cleared.push(id);
            }
        }
        return Ok(json!({"cleared": cleared}));
    }
    let fault: Fault = parse(body)?;
    Ok(json!({"id": shared.set_fault(fault).map_err(failed)?}))
}

fn guest(shared: &Shared, body: &[u8]) -> Result<Value, Refusal> {
    let request: GuestRequest = parse(body)?;
    let vmid = request.vmid;
    shared
        .with_lab(|lab| lab.edit(vmid, request.edit))
        .map_err(|error| (StatusCode::CONFLICT, error.to_string()))?;
    Ok(json!({"vmid": vmid}))
}
