//! Sign-in for browsers: an identity's key is exchanged for a random id, and only that is the cookie. It grants nothing:
//! a session is the caller's own connection, and ends with it.
//!
//! A cookie comes along with whatever a browser sends, so a request that changes something also shows the session's
//! `csrf` in a header, which no page of others can read or send. Pages of others, allowed ones too, have no session.

mod store;

pub(crate) use self::store::{Hold, Sessions};

use self::store::{HOURS_MAX, Opened};
use crate::{
    App,
    connections::Caller,
    credential,
    guard::Origin,
    mesh,
    reply::{self, Failure},
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request::Parts},
    response::Response,
};
use http_body_util::{BodyExt as _, Limited};
use nhi_bus::keys::Seed;
use nhi_model::{
    Timestamp,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use zeroize::{Zeroize as _, Zeroizing};

/// The name of the cookie.
pub(crate) const COOKIE: &str = "nhi-session";
/// The header that shows the session's `csrf`.
pub(crate) const CSRF_HEADER: &str = "x-nhi-csrf";
/// Largest body of a sign-in: a key of 58 characters and some JSON around it.
const BODY_BYTES_MAX: usize = 2 * 1024;
/// How long it may take to arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(10);
/// When to come again, for who came when all sessions were taken.
const RETRY_SECONDS: u64 = 30;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    key: String,
}

/// What a page is told about its session.
#[derive(Serialize)]
struct Told<'s> {
    name: &'s IdentityName,
    /// Absent for the mesh's own agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    expires_at: Timestamp,
    csrf: &'s str,
}

/// `POST /session`: signs in. A session the browser had before ends.
pub(crate) async fn open(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let opened = match sign_in(&app, &parts, body).await {
        Ok(opened) => opened,
        Err(failure) => return reply::failure(failure),
    };
    let seconds = HOURS_MAX * 3_600;
    let mut response = told(&opened);
    set_cookie(&app, &mut response, &opened.id, seconds);
    response
}

/// `GET /session`: whose it is.
pub(crate) async fn show(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    match find(&app, &parts).await {
        Ok(opened) => told(&opened),
        Err(fault) => reply::failure(fault),
    }
}

/// `DELETE /session`: signs out. What is under way over it ends.
pub(crate) async fn close(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    let mut response = match find(&app, &parts).await {
        Ok(opened) => {
            app.sessions.remove(&opened.id);
            tracing::debug!(agent = %opened.caller.bus.me(), "signed out");
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Err(fault) => reply::failure(fault),
    };
    if response.status() == StatusCode::NO_CONTENT {
        set_cookie(&app, &mut response, "", 0);
    }
    response
}

/// The caller a request is of by its cookie, and the session, which a long answer hangs on.
pub(crate) async fn caller(app: &App, parts: &Parts) -> Result<(Arc<Caller>, Hold), Fault> {
    find(app, parts).await.map(|opened| (opened.caller, opened.hold))
}

/// For whoever comes with a session that is none, or is none any more.
pub(crate) fn over() -> Fault {
    let hint = "sign in again: POST /session with {\"key\":\"SU…\"}";
    Fault::new(FaultCode::Unauthorized, "the session is over or was never opened", hint)
}

/// The session of a request, checked in every way.
async fn find(app: &App, parts: &Parts) -> Result<Opened, Fault> {
    // Only pages of our own have sessions; those of others that may call bring a key.
    let is_foreign = matches!(parts.extensions.get(), Some(Origin::Allowed(_)));
    let Some(id) = id_in(&parts.headers).filter(|_| !is_foreign) else {
        return Err(mesh::unauthorized(&credential::CredentialError::Missing.to_string()));
    };
    let opened = app.sessions.find(&id, Instant::now()).ok_or_else(over)?;
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        let shown = parts.headers.get(CSRF_HEADER).map_or(&b""[..], |value| value.as_bytes());
        if !opened.is_csrf(shown) {
            let message = format!("a request over a session that is no GET needs its {CSRF_HEADER}");
            let hint = "send the `csrf` that GET /session gives, or a key in Authorization";
            return Err(Fault::new(FaultCode::Forbidden, message, hint));
        }
    }
    let is_good = app.connections.is_good(&opened.caller).await;
    // Somebody may have signed out meanwhile.
    if is_good && !opened.hold.is_over() {
        return Ok(opened);
    }
    app.sessions.remove(&opened.id);
    Err(over())
}

async fn sign_in(app: &App, parts: &Parts, body: Body) -> Result<Opened, Failure> {
    if matches!(parts.extensions.get(), Some(Origin::Allowed(_))) {
        let hint = "a page of another origin sends a key in Authorization";
        return Err(Fault::new(FaultCode::Forbidden, "only pages of this gateway have sessions", hint).into());
    }
    let seed = read(body).await?;
    let caller = app.connections.of(&seed).await.map_err(|error| mesh::refused(&error))?;
    drop(seed);
    let role = app.connections.role_of(&caller);
    let opened = app.sessions.open(caller, role, Instant::now()).ok_or_else(|| {
        let message = "too many sessions are open";
        Fault::new(FaultCode::TooMany, message, "sign out elsewhere, or wait until others are over")
            .with("retry_after_s", RETRY_SECONDS)
    })?;
    if let Some(before) = id_in(&parts.headers) {
        app.sessions.remove(&before);
    }
    tracing::debug!(agent = %opened.caller.bus.me(), "signed in");
    Ok(opened)
}

/// The key in the body. What was sent is not repeated, and wiped where it is ours.
async fn read(body: Body) -> Result<Seed, Failure> {
    let hint = "send {\"key\":\"SU…\"}, the identity's key";
    let bad = |code, message: &str| Failure::from(Fault::new(code, message, hint));
    let collecting = Limited::new(body, BODY_BYTES_MAX).collect();
    let whole = tokio::time::timeout(BODY_TIME_MAX, collecting).await;
    let whole = whole.map_err(|_| mesh::late(BODY_TIME_MAX.as_secs(), hint))?;
    let whole = whole.map_err(|_| bad(FaultCode::BadRequest, "the body is too large or ended early"))?;
    let bytes = whole.to_bytes();
    let asked: Result<SignIn, _> = serde_json::from_slice(&bytes);
    if let Ok(mut bytes) = bytes.try_into_mut() {
        bytes.zeroize();
    }
    // The parser's words would quote the body.
    let SignIn { key } = asked.map_err(|_| bad(FaultCode::BadRequest, "the body is no sign-in"))?;
    let key = Zeroizing::new(key);
    Seed::parse(&key).map_err(|_| bad(FaultCode::Unauthorized, "the credential is not an identity's key"))
}

/// The one session a request names; with two nobody knows who put the other there.
pub(crate) fn id_in(headers: &HeaderMap) -> Option<String> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs.flat_map(|pairs| pairs.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == COOKIE).then(|| value.trim())
    });
    let id = values.next()?;
    values.next().is_none().then(|| id.to_owned())
}

fn told(opened: &Opened) -> Response {
    let Opened { caller, role, expires_at, csrf, .. } = opened;
    let told = Told { name: caller.bus.me(), role: *role, expires_at: *expires_at, csrf };
    reply::json(StatusCode::OK, serde_json::to_vec(&told).expect("it is four short texts"))
}

fn set_cookie(app: &App, response: &mut Response, id: &str, seconds: u64) {
    let secure = if app.guard.scheme() == "https" { "; Secure" } else { "" };
    let cookie = format!("{COOKIE}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}");
    let cookie = HeaderValue::try_from(cookie).expect("an id is letters, digits, `-` and `_`");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_cookie_counts_and_two_do_not() {
        let check = |cookies: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for cookie in cookies {
                headers.append(header::COOKIE, HeaderValue::from_static(cookie));
            }
            id_in(&headers)
        };
        assert_eq!(check(&["theme=dark; nhi-session=abc"]).as_deref(), Some("abc"));
        assert_eq!(check(&["theme=dark", " nhi-session = abc "]).as_deref(), Some("abc"));
        for bad in [&[][..], &["nhi-session"], &["nhi-sessions=x"], &["nhi-session=a; nhi-session=b"]] {
            assert_eq!(check(bad), None, "{bad:?}");
        }
        assert_eq!(check(&["nhi-session=a", "nhi-session=b"]), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_in_that_does_not_come_is_the_callers_fault() {
        let stuck = futures::stream::pending::<Result<bytes::Bytes, std::convert::Infallible>>();
        let failure = read(Body::from_stream(stuck)).await.unwrap_err();
        assert_eq!(failure.status, 408, "{failure:?}");
        let key = Seed::generate();
        let body = Body::from(format!(r#"{{"key":"{}"}}"#, key.expose()));
        assert_eq!(read(body).await.unwrap().public_key(), key.public_key());
    }
}
