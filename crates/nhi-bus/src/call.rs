//! Calls an endpoint of the mesh, as the identity of the connection.
//!
//! Every way a call can fail is told apart and told at once: nobody answers, the server refuses, the link is down or
//! goes down, too large, too late, or the service's own fault. It never retries: only the caller knows whether that
//! is safe.

pub(crate) mod flow;
mod stream;

pub use self::stream::{Frame, FrameStream, Opened, stream};

use crate::{
    connect::{Bus, PublishError},
    registry,
    service::is_name,
    trace::Trace,
};
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use jiff::Timestamp;
use nhi_model::{
    call::{CALL_SECONDS_DEFAULT, CALL_SECONDS_MAX, PAYLOAD_BYTES_MAX},
    fault::{Fault, FaultBody, FaultCode},
    header, subject,
};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use uuid::Uuid;

/// How long a call may take: at least 1 ms, at most 110 s, because a reply across accounts dies after two minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timeout(Duration);

impl Timeout {
    /// 30 s.
    pub const DEFAULT: Self = Self(Duration::from_secs(CALL_SECONDS_DEFAULT));
    /// 110 s.
    pub const LONGEST: Self = Self(Duration::from_secs(CALL_SECONDS_MAX));

    /// The time given, or the nearest that is allowed.
    pub fn of(time: Duration) -> Self {
        Self(time.clamp(Duration::from_millis(1), Self::LONGEST.0))
    }

    /// As a duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// A call to make.
#[derive(Clone, Debug)]
pub struct Call {
    service: String,
    /// Where to: `nhi.<service>.<endpoint>.<me>`.
    subject: String,
    body: Bytes,
    timeout: Timeout,
    id: String,
    trace: Option<Trace>,
}

impl Call {
    /// A call of an endpoint with a fresh idempotency id and 30 s.
    ///
    /// # Errors
    /// [`CallError::BadName`] when service or endpoint cannot be one.
    pub fn new(bus: &Bus, service: &str, endpoint: &str, body: Bytes) -> Result<Self, CallError> {
        if !is_name(service) || !is_name(endpoint) {
            return Err(CallError::BadName { name: format!("{service}.{endpoint}") });
        }
        let subject = subject::call(service, endpoint, bus.me());
        let (service, id) = (service.to_owned(), Uuid::now_v7().to_string());
        Ok(Self { service, subject, body, timeout: Timeout::DEFAULT, id, trace: None })
    }

    /// The same with another time limit.
    #[must_use]
    pub fn timeout(mut self, timeout: Timeout) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same with the caller's own idempotency id: a retry uses the id of the first try.
    ///
    /// # Errors
    /// [`CallError::BadId`] when it is not 1 to 128 printable characters.
    pub fn id(mut self, id: &str) -> Result<Self, CallError> {
        let fits = (1..=header::ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        if !fits {
            return Err(CallError::BadId);
        }
        id.clone_into(&mut self.id);
        Ok(self)
    }

    /// The same as part of a trace.
    #[must_use]
    pub fn trace(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }

    fn headers(&self) -> HeaderMap {
        let expires = Timestamp::now() + self.timeout.get();
        let mut headers = HeaderMap::new();
        headers.insert(header::ID, self.id.as_str());
        headers.insert(header::EXPIRES, expires.to_string());
        if let Some(trace) = self.trace {
            headers.insert(header::TRACEPARENT, trace.to_string());
        }
        headers
    }

    /// Makes the call and returns the answer as it is. Dropping the future gives up the answer, not the work.
    ///
    /// # Errors
    /// [`CallError`]
    pub async fn send(self, bus: &Bus) -> Result<Bytes, CallError> {
        let size = self.body.len();
        if size > PAYLOAD_BYTES_MAX {
            return Err(CallError::TooLarge { subject: self.subject, size, limit: PAYLOAD_BYTES_MAX });
        }
        let (place, answer) = bus.inbox().expect();
        let mut losses = bus.losses();
        let refused = bus.refused(&self.subject);
        let (headers, subject) = (self.headers(), self.subject);
        bus.send(&subject, Some(place.subject()), headers, self.body).await?;
        tokio::select! {
            // The answer first: when it is there, nothing that came after it matters.
            biased;
            answer = answer => match answer {
                Ok(message) => read(&subject, message),
                Err(_) => Err(CallError::Disconnected { subject, sent: true }),
            },
            () = refused => Err(CallError::Refused { subject }),
            _ = losses.changed() => Err(CallError::Disconnected { subject, sent: true }),
            () = tokio::time::sleep(self.timeout.get()) => {
                Err(CallError::Timeout { subject, seconds: self.timeout.get().as_secs_f64() })
            }
        }
    }
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The service answered with a fault.
    #[error("call {subject}: {fault}")]
    Fault {
        /// Where to.
        subject: String,
        /// The fault; its code may be one this program does not know.
        fault: Box<Fault>,
        /// The HTTP-like number the service gave with it, from 400 to 599; without one that of the code.
        status: u16,
    },
    /// No instance of the service is connected.
    #[error("call {subject}: nobody answers there; `nhi status` shows which services run")]
    NobodyAnswers {
        /// Where to.
        subject: String,
    },
    /// The server lets this identity not call that.
    #[error("call {subject}: the server refuses it to this identity; {}", who_helps(subject))]
    Refused {
        /// Where to.
        subject: String,
    },
    /// No answer in time. The work may have been done.
    #[error("call {subject}: no answer within {seconds} s; look whether it happened before trying again")]
    Timeout {
        /// Where to.
        subject: String,
        /// How long was waited.
        seconds: f64,
    },
    /// The request does not fit into a message. Nothing was sent.
    #[error("call {subject}: the request has {size} bytes, {limit} are allowed; send less at a time")]
    TooLarge {
        /// Where to.
        subject: String,
        /// Its size, bytes.
        size: usize,
        /// What fits, bytes.
        limit: usize,
    },
    /// The link is down, or went down before the answer came.
    #[error("call {subject}: the mesh is not connected{}", if *sent { "; the call may have arrived" } else { "; nothing was sent" })]
    Disconnected {
        /// Where to.
        subject: String,
        /// Whether the request may have arrived.
        sent: bool,
    },
    /// A frame of the stream is missing: it was read too slowly, or the service is broken.
    #[error("call {subject}: frame {expected} is missing, {got} came; read faster or ask again")]
    Gap {
        /// Where to.
        subject: String,
        /// The number that should have come.
        expected: u64,
        /// The number that came; 0 for a message without one.
        got: u64,
    },
    /// The instance that was asked is gone, and has not answered. The work may have been done.
    #[error(
        "call {subject}: who was asked is gone without an answer; look whether it happened before trying again"
    )]
    Lost {
        /// Where to.
        subject: String,
    },
    /// The instance that worked on it is gone in the middle of its answer, and said nothing.
    #[error("call {subject}: who answered is gone in the middle; ask again")]
    Gone {
        /// Where to.
        subject: String,
    },
    /// The answer is not what the caller expects.
    #[error(
        "call {subject}: the answer does not have the expected shape; are both sides of the same version?"
    )]
    Malformed {
        /// Where to.
        subject: String,
        /// Where it differs.
        source: serde_json::Error,
    },
    /// The request cannot be written as JSON.
    #[error("call {subject}: the request cannot be written as JSON")]
    NotJson {
        /// Where to.
        subject: String,
        /// Why.
        source: serde_json::Error,
    },
    /// Service or endpoint cannot be a name.
    #[error("call {name:?}: that is not SERVICE.ENDPOINT of letters, digits, - and _")]
    BadName {
        /// As given.
        name: String,
    },
    /// The idempotency id cannot be one.
    #[error("call with that idempotency id: it is not 1 to {} printable characters", header::ID_CHARS_MAX)]
    BadId,
}

/// Whether a grant of what was called there would change nothing.
fn is_for_people(subject: &str) -> bool {
    let mut words = subject.split('.').skip(1);
    let (service, endpoint) = (words.next(), words.next());
    service.zip(endpoint).is_some_and(|(service, endpoint)| registry::is_peoples(service, endpoint))
}

fn who_helps(subject: &str) -> &'static str {
    if is_for_people(subject) {
        return "only an operator or the owner can do that, and a grant does not change it; ask one of them";
    }
    "the owner can allow it with `nhi auth grant`"
}

impl CallError {
    /// The HTTP-like number of the failure.
    pub fn status(&self) -> u16 {
        match self {
            Self::Fault { status, .. } => *status,
            other => other.to_fault().status(),
        }
    }

    /// The same as a fault, for those who pass it on: a gateway, or a service that called another.
    pub fn to_fault(&self) -> Fault {
        let (code, hint) = match self {
            Self::Fault { fault, .. } => return (**fault).clone(),
            Self::NobodyAnswers { .. } => (FaultCode::Unavailable, "start the service, or try again later"),
            Self::Refused { subject } if is_for_people(subject) => {
                (FaultCode::Forbidden, "ask an operator or the owner to do it")
            }
            Self::Refused { .. } => (FaultCode::Forbidden, "ask the owner of the mesh for a grant"),
            Self::Timeout { .. } => {
                (FaultCode::Timeout, "look whether it happened before trying again with the same Nhi-Id")
            }
            Self::Lost { .. } => {
                (FaultCode::Unavailable, "look whether it happened before trying again with the same Nhi-Id")
            }
            Self::TooLarge { .. } => (FaultCode::TooLarge, "send less at a time"),
            Self::Disconnected { .. } => (FaultCode::Unavailable, "try again when the mesh is connected"),
            Self::Gap { .. } | Self::Gone { .. } => (FaultCode::Unavailable, "ask again"),
            Self::Malformed { .. } | Self::NotJson { .. } => (FaultCode::Internal, "check the versions"),
            Self::BadName { .. } | Self::BadId => (FaultCode::BadRequest, "correct the name"),
        };
        Fault::new(code, self.to_string(), hint)
    }

    fn from_publish(error: PublishError) -> Self {
        match error {
            PublishError::Disconnected { subject } => Self::Disconnected { subject, sent: false },
            PublishError::TooLarge { subject, size, limit } => Self::TooLarge { subject, size, limit },
            PublishError::BadSubject { subject } => Self::BadName { name: subject },
        }
    }
}

impl From<PublishError> for CallError {
    fn from(error: PublishError) -> Self {
        Self::from_publish(error)
    }
}

/// Calls an endpoint with typed request and answer, and 30 s.
///
/// # Errors
/// [`CallError`]
pub async fn call<Req: Serialize + Sync, Resp: DeserializeOwned>(
    bus: &Bus,
    service: &str,
    endpoint: &str,
    request: &Req,
) -> Result<Resp, CallError> {
    call_within(bus, service, endpoint, request, Timeout::DEFAULT).await
}

/// The same for who waits less long. The service is told of 30 s all the same: its clock may be another one.
///
/// # Errors
/// [`CallError`]
pub async fn call_within<Req: Serialize + Sync, Resp: DeserializeOwned>(
    bus: &Bus,
    service: &str,
    endpoint: &str,
    request: &Req,
    patience: Timeout,
) -> Result<Resp, CallError> {
    let mut call = Call::new(bus, service, endpoint, Bytes::new())?;
    let subject = call.subject.clone();
    call.body = match serde_json::to_vec(request) {
        Ok(body) => body.into(),
        Err(source) => return Err(CallError::NotJson { subject, source }),
    };
    let answer = match tokio::time::timeout(patience.get(), call.send(bus)).await {
        Ok(answer) => answer?,
        Err(_) => return Err(CallError::Timeout { subject, seconds: patience.get().as_secs_f64() }),
    };
    serde_json::from_slice(&answer).map_err(|source| CallError::Malformed { subject, source })
}

/// Calls an endpoint with a payload as it is, and returns the answer as it is.
///
/// # Errors
/// [`CallError`]
pub async fn call_raw(
    bus: &Bus,
    service: &str,
    endpoint: &str,
    body: Bytes,
    timeout: Timeout,
) -> Result<Bytes, CallError> {
    Call::new(bus, service, endpoint, body)?.timeout(timeout).send(bus).await
}

/// Tells an answer from a fault and from "nobody".
fn read(subject: &str, message: Message) -> Result<Bytes, CallError> {
    let subject = || subject.to_owned();
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(CallError::NobodyAnswers { subject: subject() });
    }
    match fault_in(&message) {
        Some((fault, status)) => Err(CallError::Fault { subject: subject(), fault: Box::new(fault), status }),
        None => Ok(message.payload),
    }
}

/// The fault a message carries, and its number. A service of somebody else may give the headers alone.
fn fault_in(message: &Message) -> Option<(Fault, u16)> {
    let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
    let (text, code) = (header(header::ERROR), header(header::ERROR_CODE));
    if text.is_none() && code.is_none() {
        return None;
    }
    // Anything else is no number of a failure: whoever maps it to HTTP would call it a success.
    let given = code.and_then(|code| code.parse().ok()).filter(|code| (400..=599).contains(code));
    if let Ok(body) = serde_json::from_slice::<FaultBody>(&message.payload) {
        let status = given.unwrap_or_else(|| body.error.status());
        return Some((body.error, status));
    }
    let status: u16 = given.unwrap_or(500);
    let mut fault = Fault::new(code_of(status), text.unwrap_or("the service failed"), "");
    if !message.payload.is_empty() {
        let body: String = String::from_utf8_lossy(&message.payload).chars().take(1_000).collect();
        fault = fault.with("body", body);
    }
    Some((fault.with("status", status), status))
}

/// The code whose number a foreign service gave, or the nearest.
const fn code_of(status: u16) -> FaultCode {
    match status {
        401 => FaultCode::Unauthorized,
        403 => FaultCode::Forbidden,
        404 => FaultCode::NotFound,
        409 => FaultCode::Conflict,
        410 => FaultCode::Expired,
        413 => FaultCode::TooLarge,
        429 => FaultCode::TooMany,
        503 => FaultCode::Unavailable,
        504 => FaultCode::Timeout,
        400..=499 => FaultCode::BadRequest,
        _ => FaultCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(headers: &[(&str, &str)], payload: &str) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "_INBOX_me.x.0".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[test]
    fn faults_are_read_from_bodies_and_from_headers_alone() {
        let error = [(header::ERROR, "no"), (header::ERROR_CODE, "409")];
        let ours = message(&error, r#"{"error":{"code":"guarded","message":"guest 100 is guarded"}}"#);
        let (fault, status) = fault_in(&ours).unwrap();
        assert_eq!((fault.code.as_str(), status), ("guarded", 409), "a code we do not know is passed on");
        let (theirs, status) = fault_in(&message(&error, "")).unwrap();
        assert_eq!((theirs.code.as_str(), theirs.message.as_str(), status), ("conflict", "no", 409));
        let (odd, status) = fault_in(&message(&[(header::ERROR_CODE, "teapot")], "<html>")).unwrap();
        assert_eq!((odd.code.as_str(), &odd.details["body"], status), ("internal", &"<html>".into(), 500));
        assert!(fault_in(&message(&[], r#"{"error":{"code":"x","message":"y"}}"#)).is_none());
    }

    #[test]
    fn the_number_is_the_services_own_when_it_is_one_of_a_failure() {
        let body = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"no"}}}}"#);
        for (given, code, status) in [
            (Some("409"), "guarded", 409),
            (Some("422"), "conflict", 422),
            (Some("200"), "conflict", 409),
            (Some("200"), "guarded", 500),
            (Some("99999"), "not-found", 404),
            (None, "not-found", 404),
            (None, "guarded", 500),
        ] {
            let mut headers = vec![(header::ERROR, "no")];
            headers.extend(given.map(|given| (header::ERROR_CODE, given)));
            let (_, found) = fault_in(&message(&headers, &body(code))).unwrap();
            assert_eq!(found, status, "{given:?} {code}");
        }
    }

    #[test]
    fn times_are_bounded() {
        assert_eq!(Timeout::of(Duration::from_secs(600)), Timeout::LONGEST);
        assert_eq!(Timeout::of(Duration::ZERO).get(), Duration::from_millis(1));
    }
}
