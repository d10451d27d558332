//! One terminal answer, or a stream of frames that ends in one. Sending the answer takes the reply away, so nobody
//! can send two.

use super::{SLACK_BYTES, stats::Mishap};
use crate::{
    call::flow::HEARS,
    connect::{Bus, PublishError},
};
use async_nats::HeaderMap;
use bytes::Bytes;
use nhi_model::{
    call::PAYLOAD_BYTES_MAX,
    fault::{Fault, FaultBody, FaultCode},
    header,
};

/// Longest text in the error header; the body has all of it.
const HEADER_CHARS_MAX: usize = 200;

/// Largest payload that fits into a message with our headers, bytes.
pub(super) fn payload_bytes_max(bus: &Bus) -> usize {
    bus.payload_bytes_max().min(PAYLOAD_BYTES_MAX).saturating_sub(SLACK_BYTES)
}

/// Where the answer to one request goes.
pub(super) struct Reply {
    bus: Bus,
    subject: String,
    /// Frames sent; 0 means that the stream is not open and a plain answer is expected.
    sent: u64,
    /// Whether the caller may speak to the stream, which its first frame says.
    is_heard: bool,
}

impl Reply {
    pub(super) fn new(bus: Bus, subject: String) -> Self {
        Self { bus, subject, sent: 0, is_heard: false }
    }

    /// The same for a caller that may speak to the stream.
    pub(super) fn heard(self, is_heard: bool) -> Self {
        Self { is_heard, ..self }
    }

    pub(super) const fn is_stream(&self) -> bool {
        self.sent > 0
    }

    /// The last message of all: a plain answer, or the last frame.
    pub(super) async fn whole(self, body: Bytes) -> Option<Mishap> {
        if self.is_stream() {
            tracing::warn!(key = self.subject, "handler gave a whole answer after frames");
            return self.fault(internal()).await;
        }
        let limit = payload_bytes_max(&self.bus);
        if body.len() > limit {
            let message = format!("the answer has {} bytes, {limit} fit into a message", body.len());
            return self.fault(Fault::new(FaultCode::TooLarge, message, "ask for less at a time")).await;
        }
        self.last(HeaderMap::new(), body, None).await
    }

    /// The last frame of a stream that went well.
    pub(super) async fn done(mut self) -> Option<Mishap> {
        let headers = self.frame(Some(header::END_DONE));
        self.last(headers, Bytes::new(), None).await
    }

    /// The last message of all, when it did not go well.
    pub(super) async fn fault(mut self, fault: Fault) -> Option<Mishap> {
        let mut headers =
            if self.is_stream() { self.frame(Some(header::END_FAILED)) } else { HeaderMap::new() };
        headers.insert(header::ERROR, header_text(&fault.message));
        headers.insert(header::ERROR_CODE, fault.status().to_string());
        let mishap = Mishap { status: fault.status(), code: fault.code.clone() };
        let body = self.fault_body(fault);
        self.last(headers, body, Some(mishap)).await
    }

    /// A frame that is not the last. An error means that the caller cannot be reached any more.
    pub(super) async fn push(&mut self, payload: Bytes) -> Result<(), PublishError> {
        let headers = self.frame(None);
        self.bus.publish(&self.subject, headers, payload).await
    }

    /// A frame that only says that the stream is alive.
    pub(super) async fn keep_alive(&mut self) -> Result<(), PublishError> {
        let mut headers = self.frame(None);
        headers.insert(header::KEEPALIVE, "1");
        self.bus.publish(&self.subject, headers, Bytes::new()).await
    }

    fn frame(&mut self, end: Option<&str>) -> HeaderMap {
        self.sent += 1;
        let mut headers = HeaderMap::new();
        headers.insert(header::SEQ, self.sent.to_string());
        if self.sent == 1 && self.is_heard {
            headers.insert(HEARS, "1");
        }
        if let Some(end) = end {
            headers.insert(header::END, end);
        }
        headers
    }

    fn fault_body(&self, mut fault: Fault) -> Bytes {
        let encode = |fault: Fault| serde_json::to_vec(&FaultBody { error: fault }).ok();
        let fits = |body: &Vec<u8>| body.len() <= payload_bytes_max(&self.bus);
        if let Some(body) = encode(fault.clone()).filter(fits) {
            return body.into();
        }
        fault.details.clear();
        fault.message = header_text(&fault.message);
        fault.hint = header_text(&fault.hint);
        encode(fault).unwrap_or_default().into()
    }

    async fn last(self, headers: HeaderMap, body: Bytes, mishap: Option<Mishap>) -> Option<Mishap> {
        match self.bus.publish(&self.subject, headers, body).await {
            Ok(()) => mishap,
            Err(error) => {
                // The caller sees the link go as well.
                tracing::debug!(err = %error, "answer not sent");
                Some(Mishap { status: 503, code: "unanswered".to_owned() })
            }
        }
    }
}

pub(super) fn internal() -> Fault {
    Fault::new(FaultCode::Internal, "the service failed", "look into its log; try again later")
}

/// Text as a header may carry it: one line, not long.
fn header_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(HEADER_CHARS_MAX).collect()
}
