//! One request as part of a trace: its place in the logs of the service, and its span for whoever collects them. Without
//! a tracer and without a `traceparent` it is nothing.

use super::request::Request;
use crate::{
    connect::Bus,
    trace::{Span, Trace},
};
use jiff::Timestamp;
use tracing::field;

/// A request that is worked on.
pub(super) struct Traced(Option<Work>);

struct Work {
    service: String,
    endpoint: &'static str,
    caller: String,
    request: String,
    parent: Option<Trace>,
    trace: Trace,
    begun: Timestamp,
}

impl Traced {
    pub(super) fn begin(bus: &Bus, service: &str, endpoint: &'static str, request: &Request) -> Self {
        let parent = request.caller.trace;
        if parent.is_none() && bus.tracer().is_none() {
            return Self(None);
        }
        Self(Some(Work {
            service: service.to_owned(),
            endpoint,
            caller: request.caller.name.to_string(),
            request: request.caller.request_id.clone(),
            parent,
            trace: parent.map_or_else(Trace::fresh, Trace::child),
            begun: Timestamp::now(),
        }))
    }

    /// What the handler logs carries the trace.
    pub(super) fn log_span(&self) -> tracing::Span {
        match &self.0 {
            None => tracing::Span::none(),
            Some(work) => tracing::info_span!(
                "call",
                agent = work.service,
                endpoint = work.endpoint,
                req = work.request,
                trace = field::display(work.trace.trace_id()),
            ),
        }
    }

    pub(super) fn end(self, bus: &Bus, has_failed: bool) {
        let (Some(work), Some(tracer)) = (self.0, bus.tracer()) else { return };
        let name = format!("{}.{}", work.service, work.endpoint);
        tracer.record(Span {
            service: work.service,
            attributes: vec![
                ("messaging.system", "nats".to_owned()),
                ("rpc.method", name.clone()),
                ("nhi.caller", work.caller),
                ("nhi.request_id", work.request),
            ],
            name,
            trace: work.trace,
            parent: work.parent,
            begun: work.begun,
            ended: Timestamp::now(),
            has_failed,
        });
    }
}
