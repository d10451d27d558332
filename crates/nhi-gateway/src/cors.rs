//! What a browser wants to hear before a page of another origin may read an answer. Only pages that were allowed by
//! `[http] origins` hear it; to all others nothing is said, and the guard has refused them before.
//!
//! No `Access-Control-Allow-Credentials`: a page sends its key in a header, and the browser nothing by itself.

use axum::{
    body::Body,
    http::{HeaderValue, Method, Request, Response, StatusCode, header},
};

/// How long a browser may remember the permission, seconds: ten minutes after `[http] origins` has changed it is true.
const REMEMBERED_SECONDS: &str = "600";

/// The answer to a browser that asks whether it may send a request; `None` for a request itself.
pub(crate) fn preflight(request: &Request<Body>) -> Option<Response<Body>> {
    let headers = request.headers();
    if *request.method() != Method::OPTIONS || !headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let permission = response.headers_mut();
    permission.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, DELETE"));
    permission.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBERED_SECONDS));
    // Client libraries add headers of their own; to a page that is allowed to call, none of them opens more.
    if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        permission.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    Some(response)
}

/// The answer, readable by that page.
pub(crate) fn readable(mut response: Response<Body>, page: HeaderValue) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    response
}
