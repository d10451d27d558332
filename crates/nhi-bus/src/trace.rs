//! Traces across the mesh: the W3C trace context that requests carry, and finished pieces of work on their way to
//! whoever collects them. It exports nothing: whoever starts the program gives a [`Tracer`] to the context, or not.
//!
//! Why not OpenTelemetry's own crates? They bring a dozen others and a global registry for what is two dozen fields
//! here; and without a tracer this costs nothing but passing one header on.

use jiff::Timestamp;
use std::fmt;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Finished spans that wait to be exported; more are dropped. Some seconds of a busy house.
const WAITING_MAX: usize = 4_096;

/// Where in a trace a request belongs: W3C's `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    trace: u128,
    span: u64,
    is_sampled: bool,
}

impl Trace {
    /// The beginning of a trace.
    pub fn fresh() -> Self {
        Self { trace: Uuid::new_v4().as_u128(), span: span_id(), is_sampled: true }
    }

    /// Reads `00-<32 hex>-<16 hex>-<2 hex>`; later versions may have more behind it. Anything else is no trace: the
    /// standard wants it ignored.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let is_hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let is_form = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        if !is_form || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace, span, is_sampled })
    }

    /// A piece of work below this one.
    #[must_use]
    pub fn child(self) -> Self {
        Self { span: span_id(), ..self }
    }

    /// The trace, 32 hex digits.
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The piece of work, 16 hex digits.
    pub fn span_id(self) -> String {
        format!("{:016x}", self.span)
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

fn span_id() -> u64 {
    let id = Uuid::new_v4().as_u128() >> 64;
    u64::try_from(id).map_or(1, |id| id.max(1))
}

/// A finished piece of work. No payload of anybody's is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Whose: the agent, or the gateway.
    pub service: String,
    /// What: `state.get`, `POST /mesh/*`.
    pub name: String,
    /// Its place.
    pub trace: Trace,
    /// The piece of work it belongs to.
    pub parent: Option<Trace>,
    /// When it began, UTC.
    pub begun: Timestamp,
    /// When it ended, UTC.
    pub ended: Timestamp,
    /// Names and values that tell it from others.
    pub attributes: Vec<(&'static str, String)>,
    /// Whether it failed.
    pub has_failed: bool,
}

/// Takes finished spans. Clones are the same.
#[derive(Clone, Debug)]
pub struct Tracer {
    finished: mpsc::Sender<Span>,
}

impl Tracer {
    /// A tracer and what comes out of it.
    pub fn new() -> (Self, mpsc::Receiver<Span>) {
        let (finished, spans) = mpsc::channel(WAITING_MAX);
        (Self { finished }, spans)
    }

    /// Takes a span, unless the trace is not wanted or too many wait: whoever works does not wait for that.
    pub fn record(&self, span: Span) {
        if span.trace.is_sampled && self.finished.try_send(span).is_err() {
            tracing::debug!("span dropped: too many wait");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparents_are_read_as_the_standard_says() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace = Trace::parse(good).unwrap();
        assert_eq!(trace.to_string(), good);
        let child = trace.child();
        assert_eq!(child.trace_id(), trace.trace_id());
        assert_ne!(child.span_id(), trace.span_id());
        assert_eq!(
            Trace::parse("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00-more").unwrap().to_string(),
            good.replace("-01", "-00")
        );
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Trace::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_sampled_is_passed_on_and_not_recorded() {
        let (tracer, mut spans) = Tracer::new();
        let now = Timestamp::UNIX_EPOCH;
        let span = |trace| Span {
            service: "state".to_owned(),
            name: "state.get".to_owned(),
            trace,
            parent: None,
            begun: now,
            ended: now,
            attributes: Vec::new(),
            has_failed: false,
        };
        let unsampled = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").unwrap();
        tracer.record(span(unsampled.child()));
        assert!(spans.try_recv().is_err());
        tracer.record(span(Trace::fresh()));
        assert!(spans.try_recv().is_ok());
    }
}
