//! The control endpoint of a simulated model server: plain HTTP on loopback, JSON, no login. It makes things go
//! wrong and tells what was asked; it is no part of any API that is simulated.

use super::{
    fault::Set,
    http::{Body, Dropped, json},
    state::Shared,
};
use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, Request, Response, body::Incoming, header};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// A control request is small.
const BODY_BYTES_MAX: usize = 256 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearRequest {
    /// A number, or `"all"`.
    clear: Value,
}

/// Answers one control request.
pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let (parts, body) = request.into_parts();
    if parts.headers.contains_key(header::ORIGIN) {
        // A page in somebody's browser must not be able to break it.
        return Ok(json(403, &json!({"error": "not for browsers"})));
    }
    let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
        return Ok(json(413, &json!({"error": "the request is too large"})));
    };
    let (status, value) = match act(&shared, &parts.method, parts.uri.path(), &body.to_bytes()) {
        Ok(value) => (200, value),
        Err((status, message)) => (status, json!({"error": message})),
    };
    Ok(json(status, &value))
}

type Refusal = (u16, String);

fn act(shared: &Shared, method: &Method, path: &str, body: &[u8]) -> Result<Value, Refusal> {
    match (method, path) {
        (&Method::GET, "/") => Ok(json!({"calls": [
            "GET /counts", "GET /requests", "GET /loaded", "GET /fault", "POST /fault", "POST /reset",
        ]})),
        (&Method::GET, "/counts") => Ok(json!(shared.counts())),
        (&Method::GET, "/requests") => Ok(json!(shared.seen())),
        (&Method::GET, "/loaded") => {
            let loaded = shared.loaded();
            let vram_bytes: u64 = loaded.iter().map(|loaded| loaded.vram_bytes).sum();
            Ok(json!({"models": loaded, "vram_bytes": vram_bytes}))
        }
        (&Method::GET, "/fault") => Ok(shared.with_faults(|faults| {
            faults.iter().map(|(id, set)| json!({"id": id, "fault": set.fault, "on": set.on})).collect()
        })),
        (&Method::POST, "/fault") => fault(shared, body),
        (&Method::POST, "/reset") => {
            shared.with_faults(super::fault::Faults::clear_all);
            shared.forget();
            Ok(json!({"reset": true}))
        }
        _ => Err((404, format!("there is no {method} {path}; see docs/simulator.md"))),
    }
}

fn fault(shared: &Shared, body: &[u8]) -> Result<Value, Refusal> {
    let wrong = |error: serde_json::Error| (400, error.to_string());
    let wanted: Value = serde_json::from_slice(body).map_err(wrong)?;
    if wanted.get("clear").is_none() {
        let set: Set = serde_json::from_slice(body).map_err(wrong)?;
        return Ok(json!({"id": shared.with_faults(|faults| faults.set(set))}));
    }
    let request: ClearRequest = serde_json::from_slice(body).map_err(wrong)?;
    let cleared = shared.with_faults(|faults| match request.clear.as_u64() {
        Some(id) if faults.clear(id) => vec![id],
        Some(_) => Vec::new(),
        None => faults.clear_all(),
    });
    Ok(json!({"cleared": cleared}))
}
