//! An answer in frames as HTTP: server-sent events for whoever accepts them, else a JSON line a frame. A frame's payload
//! goes through as it is, and the end is marked in both, so that a cut connection is no end. It reads no frame's
//! meaning.
//!
//! When the client goes away, the HTTP library drops the body, with it the reader of the frames, and that cancels the
//! work.

use crate::{
    reply::{self, Failure},
    session,
    visitor::Visitor,
};
use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use nhi_bus::{
    call::{Frame, FrameStream},
    cx::Cx,
};
use nhi_model::{
    fault::{Fault, FaultCode},
    header as mesh_header,
};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::{convert::Infallible, time::Duration};

/// A quiet stream of events says that it lives this often: proxies and browsers give up after a minute or less.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// How frames are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `text/event-stream`
    Events,
    /// `application/x-ndjson`
    Lines,
}

impl Form {
    /// Events for who names them, lines for everybody else: `*/*` means that any answer will do.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let names_events = |kind: &str| {
            let mut parts = kind.split(';').map(str::trim);
            let is_named = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/event-stream"));
            let is_refused = |part: &str| {
                let weight = part.split_once('=').filter(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
                weight.is_some_and(|(_, weight)| weight.trim().parse() == Ok(0.0))
            };
            is_named && !parts.any(is_refused)
        };
        if values.flat_map(|value| value.split(',')).any(names_events) { Self::Events } else { Self::Lines }
    }

    const fn content_type(self) -> HeaderValue {
        match self {
            Self::Events => HeaderValue::from_static("text/event-stream"),
            Self::Lines => HeaderValue::from_static("application/x-ndjson"),
        }
    }

    fn frame(self, payload: &[u8]) -> Bytes {
        match self {
            Self::Events => event(None, &String::from_utf8_lossy(payload)),
            Self::Lines => line(payload),
        }
    }

    fn end(self, end: &Value) -> Bytes {
        match self {
            Self::Events => event(Some("end"), &end.to_string()),
            Self::Lines => format!("{end}\n").into(),
        }
    }
}

fn event(name: Option<&str>, data: &str) -> Bytes {
    let mut text = name.map(|name| format!("event: {name}\n")).unwrap_or_default();
    for line in data.split(['\r', '\n']) {
        text.extend(["data: ", line, "\n"]);
    }
    text.push('\n');
    text.into()
}

/// One line of JSON. Outside strings a line break is only white space, and inside them JSON has none.
fn line(payload: &[u8]) -> Bytes {
    let mut line = match serde_json::from_slice::<IgnoredAny>(payload) {
        Ok(IgnoredAny) => payload.to_vec(),
        Err(_) => Value::from(String::from_utf8_lossy(payload)).to_string().into_bytes(),
    };
    line.iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    line.into()
}

/// How a stream ended: `{"Nhi-End":"done"}`, or with the failure.
fn end(failure: Option<&Failure>) -> Value {
    match failure {
        None => json!({ mesh_header::END: mesh_header::END_DONE }),
        Some(Failure { status, fault }) => {
            json!({ mesh_header::END: mesh_header::END_FAILED, "status": status, "error": fault })
        }
    }
}

/// A stream on its way to the client.
struct Pump {
    form: Form,
    frames: FrameStream,
    /// Kept, so that its connection is not given up while it is in use.
    visitor: Visitor,
    stop: Cx,
    over: bool,
}

impl Pump {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.over {
            return None;
        }
        let piece = tokio::select! {
            frame = self.frames.next() => match frame {
                Some(Ok(Frame::Part(payload) | Frame::Whole(payload))) => self.form.frame(&payload),
                Some(Err(error)) => self.ended(Some(&Failure::from(&error))),
                None => self.ended(None),
            },
            () = self.stop.cancelled() => {
                let fault = Fault::new(FaultCode::Unavailable, "the gateway stops", "ask again in a few seconds");
                self.ended(Some(&fault.into()))
            }
            () = self.visitor.over() => self.ended(Some(&session::over().into())),
            () = tokio::time::sleep(KEEPALIVE), if self.form == Form::Events => Bytes::from_static(b": alive\n\n"),
        };
        Some((Ok(piece), self))
    }

    fn ended(&mut self, failure: Option<&Failure>) -> Bytes {
        self.over = true;
        self.form.end(&end(failure))
    }
}

/// The answer that goes on until the stream ends, the client goes away, its session is over, or `stop`.
pub(crate) fn response(form: Form, frames: FrameStream, visitor: Visitor, stop: Cx) -> Response {
    let pump = Pump { form, frames, visitor, stop, over: false };
    reply::stream(form.content_type(), Body::from_stream(stream::unfold(pump, Pump::next)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_for_who_names_them() {
        let check = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::ACCEPT, HeaderValue::from_static(value));
            }
            Form::accepted(&headers)
        };
        for events in [
            &["text/event-stream"][..],
            &["application/json, text/event-stream"],
            &["application/json", "Text/Event-Stream; charset=utf-8"],
            &["text/event-stream;q=0.5"],
        ] {
            assert_eq!(check(events), Form::Events, "{events:?}");
        }
        for lines in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["text/*"],
            &["text/event-stream;q=0"],
            &["x; text/event-stream"],
        ] {
            assert_eq!(check(lines), Form::Lines, "{lines:?}");
        }
    }

    #[test]
    fn a_frame_is_one_event_or_one_line_whatever_it_holds() {
        for (payload, events, lines) in [
            (&br#"{"n":1}"#[..], "data: {\"n\":1}\n\n", "{\"n\":1}\n"),
            (
                b"{\n \"n\": 1.00\r\n}",
                "data: {\ndata:  \"n\": 1.00\ndata: \ndata: }\n\n",
                "{  \"n\": 1.00  }\n",
            ),
            (b"two\nlines", "data: two\ndata: lines\n\n", "\"two\\nlines\"\n"),
            (b"x\n\nevent: end", "data: x\ndata: \ndata: event: end\n\n", "\"x\\n\\nevent: end\"\n"),
            (b"\xff", "data: \u{fffd}\n\n", "\"\u{fffd}\"\n"),
            (b"", "data: \n\n", "\"\"\n"),
        ] {
            assert_eq!(Form::Events.frame(payload), events);
            assert_eq!(Form::Lines.frame(payload), lines);
        }
    }
}
