//! What a caller says about a stream it has asked for: that it is no longer wanted, how much more of it may come, and
//! that it wants a sign of life. Best effort, and no answer but the stream's own frames and the sign of life, which is
//! none of them; a caller that is killed says nothing.
//!
//! It goes to `nhi.<service>.flow.<caller>` with one of the headers `Nhi-Cancel: <Nhi-Id>`, `Nhi-Nudge: <Nhi-Id>`, or
//! with `Nhi-Credit: <bytes>` beside `Nhi-Id`. Why not let the service see who still listens, and the caller who still
//! serves? Across accounts nats-server does not tell it.

use crate::connect::Bus;
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::FutureExt as _;
use nhi_model::{header, rights, subject};

/// The endpoint every instance of a service hears, outside the queue group.
pub(crate) const ENDPOINT: &str = rights::FLOW;
/// The `Nhi-Id` of the request that is no longer wanted.
pub(crate) const CANCEL: &str = "Nhi-Cancel";
/// The `Nhi-Id` of the request whose caller has heard nothing for a while: a message that says it is alive, and is no
/// frame, is sent at once.
pub(crate) const NUDGE: &str = "Nhi-Nudge";
/// Bytes of frames that may come beyond those that were allowed before; on a request, those at first.
pub(crate) const CREDIT: &str = "Nhi-Credit";
/// On a stream's first frame: its service hears all these words.
pub(crate) const HEARS: &str = "Nhi-Flow";
/// On a request: its caller does not take a sign of life for the answer.
pub(crate) const READS: &str = HEARS;
/// Bytes of frames that may come before a caller says anything.
pub(crate) const CREDIT_BYTES: usize = 4 * 1024 * 1024;

/// Whether callers may speak to a service's streams: to a built-in one when the table of rights says so, else the
/// server would refuse each word.
pub(crate) fn is_spoken(service: &str) -> bool {
    let in_table = rights::ENDPOINTS.iter().any(|e| e.service == service && e.endpoint == ENDPOINT);
    in_table || !rights::SERVICES.contains(&service)
}

/// Whether every instance of a service shows life when it is asked for, of any request and before a first frame too: those
/// of this program.
pub(super) fn is_always_answered(service: &str) -> bool {
    rights::SERVICES.contains(&service) && is_spoken(service)
}

/// Says that a request is no longer wanted. It does not wait: when the connection is behind, nothing is said.
pub(super) fn cancel(bus: &Bus, service: &str, id: &str) {
    if !say(bus, service, &[(CANCEL, id)]) {
        tracing::debug!(agent = service, "stream not cancelled");
    }
}

/// Asks for a sign of life; whether that was said.
pub(super) fn nudge(bus: &Bus, service: &str, id: &str) -> bool {
    say(bus, service, &[(NUDGE, id)])
}

/// Lets more come; whether that was said.
pub(super) fn grant(bus: &Bus, service: &str, id: &str, bytes: usize) -> bool {
    say(bus, service, &[(header::ID, id), (CREDIT, &bytes.to_string())])
}

fn say(bus: &Bus, service: &str, words: &[(&str, &str)]) -> bool {
    if !bus.is_up() || !is_spoken(service) {
        return false;
    }
    let mut headers = HeaderMap::new();
    for (name, value) in words {
        headers.insert(*name, *value);
    }
    let subject = subject::call(service, ENDPOINT, bus.me());
    let said = bus.client().publish_with_headers(subject, headers, Bytes::new()).now_or_never();
    matches!(said, Some(Ok(())))
}
