//! Reads who calls and what the headers say. It trusts the subject and nothing else: nats-server lets an identity
//! publish only with its own name in the last token.

use super::{drops::DropReason, flow::Wanted};
use crate::trace::Trace;
use async_nats::Message;
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use nhi_model::{
    call::{CALL_SECONDS_DEFAULT, CALL_SECONDS_MAX},
    fault::{Fault, FaultCode},
    header,
    identity::IdentityName,
    subject,
};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Who calls, and on which terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The identity; nats-server vouches for it.
    pub name: IdentityName,
    /// Idempotency id: the caller's `Nhi-Id`, else one made here.
    pub request_id: String,
    /// When the answer is no longer wanted: the caller's `Nhi-Expires`, else 30 s after arrival.
    pub expires: Timestamp,
    /// Whether the caller gave `Nhi-Id`; an endpoint that must not happen twice demands it.
    pub gave_id: bool,
    /// Whether the caller gave `Nhi-Expires`; an endpoint that must not happen late demands it.
    pub gave_expiry: bool,
    /// Where in a trace the request belongs, when the caller says so.
    pub trace: Option<Trace>,
}

/// A request that may be answered.
pub(super) struct Request {
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
    pub(super) reply: String,
    pub(super) body: Bytes,
    /// Of a service with streams: whether the caller still waits.
    pub(super) wanted: Option<Wanted>,
}

/// What to do with a message that is no request to work on.
pub(super) enum Unfit {
    /// Tell nobody but the audit.
    Drop(DropReason),
    /// Tell the caller.
    Answer { reply: String, fault: Fault },
}

/// Checks that a message is a call of this very endpoint which may be answered, and reads its headers.
///
/// A message can come here with another subject (a push consumer delivers with the stored one) and can name any
/// subject as its reply: what it names would be written with this service's rights.
pub(super) fn read(
    service: &str,
    endpoint: &str,
    message: &Message,
    now: Timestamp,
) -> Result<Request, Unfit> {
    let Some(name) = subject::caller_of(service, endpoint, &message.subject) else {
        return Err(Unfit::Drop(DropReason::ForeignSubject));
    };
    let reply = match &message.reply {
        None => return Err(Unfit::Drop(DropReason::NoReply)),
        Some(reply) if !subject::is_answerable(reply) => {
            return Err(Unfit::Drop(DropReason::UnanswerableReply));
        }
        Some(reply) => reply.to_string(),
    };
    let value = |name: &str| message.headers.as_ref().and_then(|h| h.get(name)).map(|v| v.as_str());
    let terms = read_id(value(header::ID)).and_then(|id| Ok((id, read_expiry(value(header::EXPIRES), now)?)));
    let (id, expiry) = match terms {
        Ok(terms) => terms,
        Err(fault) => return Err(Unfit::Answer { reply, fault }),
    };
    let ordinary = now + Duration::from_secs(CALL_SECONDS_DEFAULT);
    let longest = now + Duration::from_secs(CALL_SECONDS_MAX);
    let expires = expiry.unwrap_or(ordinary).min(longest);
    let left = expires.duration_since(now).max(SignedDuration::ZERO).unsigned_abs();
    let caller = Caller {
        name,
        gave_id: id.is_some(),
        request_id: id.unwrap_or_else(|| Uuid::now_v7().to_string()),
        expires,
        gave_expiry: expiry.is_some(),
        trace: value(header::TRACEPARENT).and_then(Trace::parse),
    };
    let deadline = Instant::now() + left;
    Ok(Request { caller, deadline, reply, body: message.payload.clone(), wanted: None })
}

fn read_id(id: Option<&str>) -> Result<Option<String>, Fault> {
    let fits =
        |id: &str| (1..=header::ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    match id {
        None => Ok(None),
        Some(id) if fits(id) => Ok(Some(id.to_owned())),
        Some(_) => Err(Fault::new(
            FaultCode::BadRequest,
            format!("{} is not 1 to {} printable characters", header::ID, header::ID_CHARS_MAX),
            "use a UUID",
        )),
    }
}

fn read_expiry(expiry: Option<&str>, now: Timestamp) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = expiry else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        Fault::new(
            FaultCode::BadRequest,
            format!("{} is not a time", header::EXPIRES),
            format!("write it in RFC 3339, as {now}"),
        )
    })
}

/// The answer for a request that came, or was looked at, too late.
pub(super) fn expired(caller: &Caller, now: Timestamp) -> Fault {
    Fault::new(
        FaultCode::Timeout,
        format!("the request expired at {} and was not started", caller.expires),
        "ask again with more time; if it happens always, compare the clocks of both machines",
    )
    .with("expired", caller.expires.to_string())
    .with("now", now.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn message(subject: &str, reply: Option<&str>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: subject.into(),
            reply: reply.map(Into::into),
            payload: Bytes::new(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    fn check(subject: &str, reply: Option<&str>, headers: &[(&str, &str)]) -> Result<Caller, String> {
        match read("state", "get", &message(subject, reply, headers), now()) {
            Ok(request) => Ok(request.caller),
            Err(Unfit::Drop(reason)) => Err(reason.as_str().to_owned()),
            Err(Unfit::Answer { fault, .. }) => Err(fault.message),
        }
    }

    #[test]
    fn only_answerable_calls_of_the_own_endpoint_pass() {
        let good = check("nhi.state.get.aider", Some("_R_.a.b"), &[]).unwrap();
        assert_eq!(good.name.as_str(), "aider");
        assert!(!good.gave_id && !good.gave_expiry && !good.request_id.is_empty());
        assert_eq!(good.expires, now() + Duration::from_secs(30));
        for (subject, reply, reason) in [
            ("$KV.nhi-state.vm.home.100", Some("_R_.a.b"), "foreign-subject"),
            ("nhi.state.diff.aider", Some("_R_.a.b"), "foreign-subject"),
            ("nhi.state.get.aider", Some("$KV.nhi-state.vm.home.100"), "unanswerable-reply"),
            ("nhi.state.get.aider", Some("nhi.act.approve.aider"), "unanswerable-reply"),
            ("nhi.state.get.aider", Some("$JS.ACK.x"), "unanswerable-reply"),
            ("nhi.state.get.aider", None, "no-reply"),
        ] {
            assert_eq!(check(subject, reply, &[]).unwrap_err(), reason, "{subject} {reply:?}");
        }
    }

    #[test]
    fn headers_are_read_and_bounded() {
        let with = |headers: &[(&str, &str)]| check("nhi.state.get.aider", Some("_INBOX_home.x"), headers);
        let caller = with(&[("Nhi-Id", "op-1"), ("Nhi-Expires", "2026-01-02T03:04:15Z")]).unwrap();
        assert_eq!((caller.request_id.as_str(), caller.gave_id, caller.gave_expiry), ("op-1", true, true));
        assert_eq!(caller.expires, now() + Duration::from_secs(10));
        let far = with(&[("Nhi-Expires", "2030-01-01T00:00:00Z")]).unwrap();
        assert_eq!(far.expires, now() + Duration::from_secs(110), "a reply across accounts dies after 120 s");
        assert!(with(&[("Nhi-Expires", "soon")]).unwrap_err().contains("Nhi-Expires"));
        assert!(with(&[("Nhi-Id", &"x".repeat(129))]).unwrap_err().contains("Nhi-Id"));
    }
}
