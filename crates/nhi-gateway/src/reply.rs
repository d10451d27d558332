//! Answers in JSON. It knows no dialect: those will shape their errors themselves.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use nhi_bus::call::CallError;
use nhi_model::fault::{Fault, FaultBody};

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

/// A fault as it goes over the mesh, with its HTTP status.
pub(crate) fn failure(failure: impl Into<Failure>) -> Response {
    let Failure { status, fault } = failure.into();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&FaultBody { error: fault }).expect("a fault is text and JSON values");
    let mut response = json(status, body);
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Bearer realm=\"nhi\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
