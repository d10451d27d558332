//! Answers in JSON, failures as problem details (RFC 9457) around the mesh's own error. It knows no dialect: those shape
//! their errors themselves.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use nhi_bus::call::CallError;
use nhi_model::fault::Fault;
use serde::Serialize;

/// What problem details are sent as.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";
/// With `no`, a proxy passes on each piece as it comes.
pub(crate) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Why a request failed, with its HTTP status: a service may give a fault whose code nobody here knows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failure {
    pub(crate) status: u16,
    pub(crate) fault: Fault,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { status: fault.status(), fault }
    }
}

impl From<&CallError> for Failure {
    fn from(error: &CallError) -> Self {
        Self { status: error.status(), fault: error.to_fault() }
    }
}

/// A JSON answer that nobody keeps and no browser takes for something else.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// An answer that goes on: nobody keeps it, and no proxy gathers it.
pub(crate) fn stream(kind: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// A failure as problem details. `error` in it is the fault as it goes over the mesh.
#[derive(Serialize)]
struct Problem<'f> {
    r#type: String,
    title: &'static str,
    status: u16,
    detail: &'f str,
    error: &'f Fault,
}

/// A failure with its HTTP status.
pub(crate) fn failure(failure: impl Into<Failure>) -> Response {
    let Failure { status, fault } = failure.into();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let problem = Problem {
        r#type: problem_type(&fault.code),
        title: status.canonical_reason().unwrap_or("Refused"),
        status: status.as_u16(),
        detail: &fault.message,
        error: &fault,
    };
    let body = serde_json::to_vec(&problem).expect("a problem is text and JSON values");
    let mut response = json(status, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
    mark(&mut response, &fault);
    response
}

/// What a program looks for in the head of a failure: whether to show a key, and when to come again.
pub(crate) fn mark(response: &mut Response, fault: &Fault) {
    if response.status() == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"nhi\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if let Some(seconds) = fault.details.get("retry_after_s").and_then(serde_json::Value::as_u64) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// `urn:nhi:problem:<code>`. A code of a service that is no word of ours says nothing more than the status does.
fn problem_type(code: &str) -> String {
    let is_word =
        !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if is_word { format!("urn:nhi:problem:{code}") } else { "about:blank".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::fault::FaultCode;

    #[test]
    fn problems_are_named_by_words_only() {
        assert_eq!(problem_type(FaultCode::NotFound.as_str()), "urn:nhi:problem:not-found");
        for odd in ["", "a b", "x\n", "ü"] {
            assert_eq!(problem_type(odd), "about:blank", "{odd:?}");
        }
    }
}
