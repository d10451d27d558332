//! Sends finished spans to a collector as OTLP over HTTP, in its JSON form, by hand: one fixed POST in plain HTTP/1.1. It
//! keeps nothing: what the collector does not take is dropped, and the mesh does not notice.

use nhi_bus::{
    cx::Cx,
    trace::{Span, Tracer},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

/// Spans of one message.
const BATCH_MAX: usize = 512;
/// How long a span waits for others.
const GATHERING: Duration = Duration::from_secs(1);
/// How long the collector may take.
const SENDING_MAX: Duration = Duration::from_secs(5);
/// How much of its answer is read: the first line tells.
const ANSWER_BYTES_MAX: usize = 1_024;

/// Where a collector listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Collector {
    /// `host:port`
    address: String,
    /// Below which `/v1/traces` is.
    path: String,
}

impl Collector {
    /// Reads `http://host[:port][/path]`.
    ///
    /// # Errors
    /// One sentence saying what is wrong.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            format!(
                "{url:?} does not begin with http://; run a collector on this machine that passes spans on"
            )
        })?;
        let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if host.is_empty() || !host.bytes().all(is_plain) || path.bytes().any(|b| !b.is_ascii_graphic()) {
            return Err(format!("{url:?} is no address; write one such as http://127.0.0.1:4318"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { host.to_owned() } else { format!("{host}:4318") };
        let path = path.trim_end_matches('/').trim_end_matches("v1/traces").trim_end_matches('/');
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { address, path })
    }
}

/// Begins to export everything that is traced in this context.
pub(crate) fn start(cx: &Cx, collector: &Collector) {
    let (tracer, spans) = Tracer::new();
    cx.trace_with(tracer);
    let (stop, collector) = (cx.clone(), collector.clone());
    cx.spawn("otlp", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = export(spans, collector) => {}
        }
    });
}

async fn export(mut spans: mpsc::Receiver<Span>, collector: Collector) {
    let mut is_well = true;
    while let Some(first) = spans.recv().await {
        tokio::time::sleep(GATHERING).await;
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX
            && let Ok(span) = spans.try_recv()
        {
            batch.push(span);
        }
        let body = message(&batch).to_string();
        let sent = timeout(SENDING_MAX, post(&collector, &body)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        // Once when it begins and once when it ends, not for each message.
        match (&sent, is_well) {
            (Err(error), true) => {
                tracing::warn!(err = %error, node = collector.address, "spans are dropped: the collector does not take them");
            }
            (Ok(()), false) => {
                tracing::info!(node = collector.address, "the collector takes spans again")
            }
            (Ok(()), true) | (Err(_), false) => {}
        }
        is_well = sent.is_ok();
    }
}

async fn post(collector: &Collector, body: &str) -> io::Result<()> {
    let Collector { address, path } = collector;
    let mut stream = TcpStream::connect(address).await?;
    let head = format!(
        "POST {path}/v1/traces HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX as u64).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    let is_taken = line.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
    if is_taken { Ok(()) } else { Err(io::Error::other(format!("it answers {line:?}"))) }
}

/// `ExportTraceServiceRequest`: ids in hex, times in nanoseconds as text, enumerations as numbers.
fn message(spans: &[Span]) -> Value {
    let mut services: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for span in spans {
        services.entry(&span.service).or_default().push(written(span));
    }
    let resources = services.into_iter().map(|(service, spans)| {
        let attributes = [
            attribute("service.name", &format!("nhi-{service}")),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.namespace", "neural-home"),
        ];
        json!({ "resource": { "attributes": attributes }, "scopeSpans": [{ "scope": { "name": "nhi" }, "spans": spans }] })
    });
    json!({ "resourceSpans": resources.collect::<Vec<_>>() })
}

fn written(span: &Span) -> Value {
    let attributes: Vec<Value> = span.attributes.iter().map(|(name, value)| attribute(name, value)).collect();
    json!({
        "traceId": span.trace.trace_id(),
        "spanId": span.trace.span_id(),
        "parentSpanId": span.parent.map_or_else(String::new, |parent| parent.span_id()),
        "name": span.name,
        "kind": 2,
        "startTimeUnixNano": span.begun.as_nanosecond().to_string(),
        "endTimeUnixNano": span.ended.as_nanosecond().to_string(),
        "attributes": attributes,
        "status": { "code": if span.has_failed { 2 } else { 0 } },
    })
}

fn attribute(name: &str, value: &str) -> Value {
    json!({ "key": name, "value": { "stringValue": value } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::trace::Trace;
    use nhi_model::Timestamp;

    #[test]
    fn collectors_are_addresses() {
        let check = |url: &str| Collector::parse(url).map(|c| (c.address, c.path));
        let at = |address: &str, path: &str| Ok((address.to_owned(), path.to_owned()));
        assert_eq!(check("http://127.0.0.1:4318"), at("127.0.0.1:4318", ""));
        assert_eq!(check("http://otel.lan/"), at("otel.lan:4318", ""));
        assert_eq!(check("http://[::1]:1/in/v1/traces"), at("[::1]:1", "/in"));
        for bad in ["https://otel.lan", "otel.lan", "http://", "http://a b", "http://a/\r\nx"] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_span_is_written_as_the_protocol_wants() {
        let parent = Trace::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        let begun: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let span = Span {
            service: "state".to_owned(),
            name: "state.get".to_owned(),
            trace: parent.child(),
            parent: Some(parent),
            begun,
            ended: begun,
            attributes: vec![("nhi.caller", "aider".to_owned())],
            has_failed: true,
        };
        let told = message(&[span]);
        let resource = &told["resourceSpans"][0];
        assert_eq!(resource["resource"]["attributes"][0]["value"]["stringValue"], "nhi-state");
        let span = &resource["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((&span["parentSpanId"], &span["status"]["code"]), (&"00f067aa0ba902b7".into(), &2.into()));
        assert_eq!(span["startTimeUnixNano"], "1767225600000000000");
        assert_eq!(span["attributes"][0]["key"], "nhi.caller");
    }
}
