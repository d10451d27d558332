//! A request over HTTP as part of a trace: what its `traceparent` says goes on to the service, and where spans are
//! collected, the gateway's own is one of them. It reads nothing else of the request.

use axum::http::request::Parts;
use nhi_bus::{
    call::Call,
    cx::Cx,
    trace::{Span, Trace, Tracer},
};
use nhi_model::{Timestamp, header};

/// A request under way.
#[derive(Debug)]
pub(crate) struct Traced {
    /// What is passed on: the caller's own place, or ours below it where somebody collects spans.
    trace: Option<Trace>,
    span: Option<(Tracer, Span)>,
}

impl Traced {
    pub(crate) fn begin(cx: &Cx, request: &Parts) -> Self {
        let told = request.headers.get(header::TRACEPARENT).and_then(|value| value.to_str().ok());
        let parent = told.and_then(Trace::parse);
        let Some(tracer) = cx.tracer() else {
            return Self { trace: parent, span: None };
        };
        let trace = parent.map_or_else(Trace::fresh, Trace::child);
        let now = Timestamp::now();
        // The path alone: a key may stand behind it.
        let (method, path) = (request.method.to_string(), request.uri.path().to_owned());
        let span = Span {
            service: "gateway".to_owned(),
            name: format!("{method} {path}"),
            trace,
            parent,
            begun: now,
            ended: now,
            attributes: vec![("http.request.method", method), ("url.path", path)],
            has_failed: false,
        };
        Self { trace: Some(trace), span: Some((tracer.clone(), span)) }
    }

    /// The place in the trace of whatever is asked for it.
    pub(crate) const fn trace(&self) -> Option<Trace> {
        self.trace
    }

    /// The call with its place in the trace.
    pub(crate) fn of(&self, call: Call) -> Call {
        match self.trace {
            Some(trace) => call.trace(trace),
            None => call,
        }
    }

    /// There is an answer, or the head of one.
    pub(crate) fn end(self, status: u16) {
        let Some((tracer, mut span)) = self.span else {
            return;
        };
        span.ended = Timestamp::now();
        span.has_failed = status >= 500;
        span.attributes.push(("http.response.status_code", status.to_string()));
        tracer.record(span);
    }
}
