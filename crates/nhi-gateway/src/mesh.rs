//! `POST /mesh/<service>/<endpoint>`: the call of the mesh as it is. The payload is not looked at; whose call it is
//! says the caller's own connection. It knows no service by name, and by its answer alone which endpoint streams.

use crate::{
    App,
    connections::AccessError,
    credential::{self, CredentialError},
    reply::{self, Failure},
    session,
    stream::{self, Form},
    traced::Traced,
    visitor::{self, Visitor},
};
use axum::{
    body::Body,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, Request, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use nhi_bus::{
    call::{self, Call, CallError, Opened, Timeout},
    connect::Bus,
};
use nhi_model::{
    Timestamp,
    call::PAYLOAD_BYTES_MAX,
    fault::{Fault, FaultCode},
    header as mesh_header,
};
use std::{fmt::Display, sync::Arc, time::Duration};

/// How long a body may take to arrive: 8 MB over a slow wireless link.
const BODY_SECONDS_MAX: u64 = 60;

/// Forwards one call.
pub(crate) async fn call(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request<Body>,
) -> Response {
    let answer = match path {
        Ok(Path((service, endpoint))) => forward(&app, &service, &endpoint, request).await,
        Err(_) => Err(no_such_path().into()),
    };
    answer.unwrap_or_else(reply::failure)
}

async fn forward(
    app: &App,
    service: &str,
    endpoint: &str,
    request: Request<Body>,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let visitor = authenticate(app, &parts).await?;
    let caller = &visitor.caller;
    let payload = read(&parts.headers, body).await?;
    let call = Call::new(&caller.bus, service, endpoint, payload).map_err(|error| Failure::from(&error))?;
    let call = with_headers(call, &parts.headers)?;
    let traced = Traced::begin(&app.stop, &parts);
    let asked = match ask(&caller.bus, traced.of(call)).await {
        Ok(asked) => Ok(asked),
        Err(error) => Err(told(app, &visitor, &error).await),
    };
    traced.end(asked.as_ref().map_or_else(|failure| failure.status, |_| 200));
    Ok(match asked? {
        (Opened::Whole(payload), _) => reply::json(StatusCode::OK, payload),
        (Opened::Stream, frames) => {
            let form = Form::accepted(&parts.headers);
            stream::response(form, frames, visitor, app.stop.clone())
        }
    })
}

/// What whoever asked is told of a call that failed.
pub(crate) async fn told(app: &App, visitor: &Visitor, error: &CallError) -> Failure {
    match error {
        CallError::Disconnected { .. } if app.connections.is_revoked(&visitor.caller).await => {
            unknown_caller().into()
        }
        error => {
            if matches!(error, CallError::NobodyAnswers { .. }) {
                app.catalog.look_soon();
            }
            Failure::from(error)
        }
    }
}

/// Makes the call and waits for the first message of the answer: until then a failure still has its status.
pub(crate) async fn ask(bus: &Bus, call: Call) -> Result<(Opened, call::FrameStream), CallError> {
    let mut frames = call::stream(bus, call).await?;
    let opened = frames.opened().await?;
    Ok((opened, frames))
}

/// Whether a request says at all who sends it.
pub(crate) fn is_somebody(parts: &Parts) -> bool {
    let found = credential::find(&parts.headers, &parts.uri);
    !matches!(found, Err(CredentialError::Missing)) || session::id_in(&parts.headers).is_some()
}

/// Whoever sent the request, when there is room for one more.
pub(crate) async fn authenticate(app: &App, parts: &Parts) -> Result<Visitor, Fault> {
    let (caller, hold) = match credential::find(&parts.headers, &parts.uri) {
        Ok(seed) => (app.connections.of(&seed).await.map_err(|error| refused(&error))?, None),
        Err(CredentialError::Missing) => {
            let (caller, hold) = session::caller(app, parts).await?;
            (caller, Some(hold))
        }
        Err(error @ CredentialError::Malformed) => return Err(unauthorized(&error.to_string())),
    };
    app.places.admit(caller, hold)
}

pub(crate) fn refused(error: &AccessError) -> Fault {
    let message = error.to_string();
    match error {
        AccessError::Unknown => unauthorized(&message),
        AccessError::Busy => visitor::full(message),
        AccessError::Unavailable => {
            Fault::new(FaultCode::Unavailable, message, "GET /readyz says what is missing")
        }
    }
}

/// The caller's identity was taken away while it was connected.
fn unknown_caller() -> Fault {
    refused(&AccessError::Unknown)
}

pub(crate) fn unauthorized(message: &str) -> Fault {
    let hint = "send the identity's key as `Authorization: Bearer SU…`; `nhi auth add NAME` makes one";
    Fault::new(FaultCode::Unauthorized, message, hint)
}

/// The whole body, when it is not too large; one that says so beforehand is not read at all.
pub(crate) async fn read(headers: &HeaderMap, body: Body) -> Result<Bytes, Failure> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > PAYLOAD_BYTES_MAX as u64) {
        return Err(too_large().into());
    }
    let collecting = Limited::new(body, PAYLOAD_BYTES_MAX).collect();
    match tokio::time::timeout(Duration::from_secs(BODY_SECONDS_MAX), collecting).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large().into()),
        Ok(Err(_)) => Err(Fault::new(FaultCode::BadRequest, "the body ended early", "send it again").into()),
        Err(_) => Err(late(BODY_SECONDS_MAX, "send it faster or send less")),
    }
}

/// A body that did not arrive in time. Nothing was begun, so it is the caller's 408 and not our 504.
pub(crate) fn late(seconds: impl Display, hint: &str) -> Failure {
    let message = format!("the body did not arrive within {seconds} s");
    Failure { status: 408, fault: Fault::new(FaultCode::Timeout, message, hint) }
}

fn too_large() -> Fault {
    let message = format!("the body is larger than {PAYLOAD_BYTES_MAX} bytes");
    Fault::new(FaultCode::TooLarge, message, "send less at a time").with("limit", PAYLOAD_BYTES_MAX)
}

/// The call with the caller's own idempotency id and time limit, where the request gives them.
fn with_headers(mut call: Call, headers: &HeaderMap) -> Result<Call, Failure> {
    if let Some(id) = headers.get(mesh_header::ID) {
        let id = id.to_str().map_err(|_| CallError::BadId.to_fault())?;
        call = call.id(id).map_err(|error| error.to_fault())?;
    }
    if let Some(expires) = headers.get(mesh_header::EXPIRES) {
        let expires: Option<Timestamp> = expires.to_str().ok().and_then(|text| text.parse().ok());
        let expires = expires.ok_or_else(|| {
            let message = format!("{} is not a time such as 2026-01-31T12:00:00Z", mesh_header::EXPIRES);
            Fault::new(FaultCode::BadRequest, message, "give an RFC 3339 time, or leave it out")
        })?;
        let left = Duration::try_from(expires.duration_since(Timestamp::now())).ok();
        let left = left.filter(|left| !left.is_zero()).ok_or_else(|| {
            let message = format!("the request expired at {expires}");
            let hint = "look whether it is still wanted, then send it with a later time";
            // Nothing was begun, so it is the caller's 408 and not our 504.
            Failure { status: 408, fault: Fault::new(FaultCode::Timeout, message, hint) }
        })?;
        call = call.timeout(Timeout::of(left));
    }
    Ok(call)
}

/// For every path that is none.
pub(crate) fn no_such_path() -> Fault {
    let hint = "GET /openapi.json tells what there is";
    Fault::new(FaultCode::NotFound, "there is nothing at this path", hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_the_callers_fault() {
        let stuck = futures::stream::pending::<Result<Bytes, Infallible>>();
        let failure = read(&HeaderMap::new(), Body::from_stream(stuck)).await.unwrap_err();
        assert_eq!((failure.status, failure.fault.code.as_str()), (408, "timeout"), "{failure:?}");
        let whole = read(&HeaderMap::new(), Body::from("{}")).await.unwrap();
        assert_eq!(&whole[..], b"{}");
    }
}
