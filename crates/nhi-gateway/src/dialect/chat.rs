//! OpenAI's `chat.completions`: what the mesh carries, so it passes through as it is. It reads only what an answer needs.

use super::{Asked, Object, Writer, parse, sentence, wrong};
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::{ai::ModelRow, fault::Fault};
use serde::Deserialize;
use serde_json::{Value, json};

pub(super) fn read(body: &[u8]) -> Result<Asked, Fault> {
    let body: Object = parse(body)?;
    let stream = match body.get("stream") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(stream)) => *stream,
        Some(_) => return Err(wrong("stream: true or false is expected")),
    };
    Ok(Asked { stream, ..Asked::of(body) })
}

/// A body that goes on as it came, of which only that much is read; nothing where something is wrong with that.
pub(super) fn glance(body: &[u8]) -> Option<Asked> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(default)]
        stream: Option<bool>,
    }
    // What is skipped is not looked at, and a list of the fields' values would do as well.
    let text = std::str::from_utf8(body).ok().filter(|text| text.trim_start().starts_with('{'))?;
    let stream = serde_json::from_str::<Head>(text).ok()?.stream.unwrap_or(false);
    Some(Asked { stream, ..Asked::of(Object::new()) })
}

/// A stream that is passed on.
pub(super) struct Stream;

impl Writer for Stream {
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure> {
        let mut event = Vec::with_capacity(payload.len() + 8);
        event.extend_from_slice(b"data: ");
        // Inside strings JSON has no line breaks, and outside they mean nothing.
        event.extend(payload.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
        event.extend_from_slice(b"\n\n");
        Ok(event.into())
    }

    fn end(&mut self) -> Bytes {
        Bytes::from_static(b"data: [DONE]\n\n")
    }

    fn failed(&mut self, failure: &Failure) -> Bytes {
        super::event(None, &self::failure(failure)).into()
    }
}

/// `{"error":{"message","type","param","code"}}`
pub(super) fn failure(failure: &Failure) -> Value {
    let kind = match failure.status {
        401 => "authentication_error",
        403 => "permission_error",
        429 => "rate_limit_error",
        status if status < 500 => "invalid_request_error",
        _ => "server_error",
    };
    let code = match failure.fault.code.as_str() {
        "unknown-model" => "model_not_found",
        "context-too-long" => "context_length_exceeded",
        "too-many" => "rate_limit_exceeded",
        "unauthorized" => "invalid_api_key",
        code => code,
    };
    let mut error = json!({ "message": sentence(failure), "type": kind, "param": null, "code": code });
    if !failure.fault.details.is_empty() {
        error["details"] = json!(failure.fault.details);
    }
    json!({ "error": error })
}

/// `/v1/models`
pub(super) fn models(rows: &[ModelRow]) -> Value {
    let model = |row: &ModelRow| {
        let owner = row.providers.first().map_or("nhi", String::as_str);
        json!({ "id": row.id, "object": "model", "created": 0, "owned_by": owner })
    };
    json!({ "object": "list", "data": rows.iter().map(model).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_is_an_object_goes_on_unread() {
        let glanced = |body: &str| glance(body.as_bytes()).map(|asked| asked.stream);
        assert_eq!(glanced(r#" {"messages":[{"stream":false}],"stream":true}"#), Some(true));
        assert_eq!(glanced(r#"{"stream":null,"messages":[]}"#), Some(false));
        for wrong in ["[true]", r#"{"stream":"yes"}"#, r#"{"stream":true} {}"#, r#"{"stream":tr"#, ""] {
            assert_eq!(glanced(wrong), None, "{wrong}");
            let read = read(wrong.as_bytes()).map(|asked| asked.stream);
            assert!(read.is_err(), "{wrong}: {read:?}");
        }
        let no_text = b"{\"messages\":[\"\xff\"]}";
        assert!(glance(no_text).is_none() && read(no_text).is_err());
    }
}
