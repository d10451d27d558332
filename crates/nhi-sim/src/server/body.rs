//! Request parameters out of a query or body, and bodies that break off in the middle.

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::Frame;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::time::Duration;

use crate::api::Params;

/// A body as the transport sends it.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// A whole body.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// How long the half of a body is given to leave before the connection breaks.
const HALF_LEAVES: Duration = Duration::from_millis(50);

/// Half of a body, then an error, which closes the connection.
pub(super) fn half(bytes: &Bytes) -> Body {
    let first = bytes.slice(..bytes.len() / 2);
    let sent = stream::iter([Ok(Frame::data(first))]);
    // Without the pause nothing would be sent at all: hyper throws its buffer away with the connection.
    let broken = stream::once(async {
        tokio::time::sleep(HALF_LEAVES).await;
        Err(std::io::Error::other("truncated on request"))
    });
    BoxBody::new(StreamBody::new(sent.chain(broken)))
}

/// Decodes `a=1&b=2`; a repeated key becomes an array.
pub(super) fn form(text: &str) -> Params {
    let mut params = Params::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (decode(key), json!(decode(value)));
        match params.get_mut(&key) {
            None => drop(params.insert(key, value)),
            Some(Value::Array(list)) => list.push(value),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    params
}

fn decode(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// Decodes a JSON object.
pub(super) fn json_object(bytes: &[u8]) -> Result<Params, String> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(map)) => Ok(map.into_iter().collect()),
        Ok(_) => Err("JSON input is not an object".to_owned()),
        Err(error) => Err(format!("malformed JSON string, {error}")),
    }
}
