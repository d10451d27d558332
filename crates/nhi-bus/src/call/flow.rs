//! What a caller says about a stream it has asked for: that it is no longer wanted. Best effort, and no answer; a
//! caller that is killed says nothing.
//!
//! It goes to `nhi.<service>.flow.<caller>` with the header `Nhi-Cancel: <Nhi-Id>`. Why not let the service see who
//! still listens? Across accounts nats-server does not tell it.

use crate::connect::Bus;
use async_nats::HeaderMap;
use bytes::Bytes;
use futures::FutureExt as _;
use nhi_model::{rights, subject};

/// The endpoint every instance of a service hears, outside the queue group.
pub(crate) const ENDPOINT: &str = "flow";
/// The `Nhi-Id` of the request that is no longer wanted.
pub(crate) const CANCEL: &str = "Nhi-Cancel";

/// Whether callers may speak to a service's streams: to a built-in one when the table of rights says so, else the
/// server would refuse each word.
pub(crate) fn is_spoken(service: &str) -> bool {
    let in_table = rights::ENDPOINTS.iter().any(|e| e.service == service && e.endpoint == ENDPOINT);
    in_table || !rights::SERVICES.contains(&service)
}

/// Says that a request is no longer wanted. It does not wait: when the connection is behind, nothing is said.
pub(super) fn cancel(bus: &Bus, service: &str, id: &str) {
    if !bus.is_up() || !is_spoken(service) {
        return;
    }
    let mut headers = HeaderMap::new();
    headers.insert(CANCEL, id);
    let subject = subject::call(service, ENDPOINT, bus.me());
    match bus.client().publish_with_headers(subject, headers, Bytes::new()).now_or_never() {
        Some(Ok(())) => {}
        Some(Err(_)) | None => tracing::debug!(agent = service, "stream not cancelled"),
    }
}
