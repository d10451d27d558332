//! What stands in OpenAI's answers and chunks, for the dialects that are written from them. It writes nothing.

use super::Object;
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::fault::{Fault, FaultCode};
use serde_json::{Value, json};

/// What one chunk, or the message of a whole answer, says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) id: Option<String>,
    pub(crate) text: String,
    pub(crate) thinking: String,
    pub(crate) calls: Vec<CallPiece>,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Usage>,
    pub(crate) origin: Option<Value>,
    /// Anthropic's thoughts as its models want them back.
    pub(crate) thoughts: Vec<Value>,
    /// What Google's models want back with the text.
    pub(crate) signature: Option<String>,
}

/// A piece of a tool call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CallPiece {
    pub(crate) index: usize,
    pub(crate) id: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
    /// What only Google's models need back.
    pub(crate) signature: Option<String>,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input: u64,
    pub(crate) output: u64,
    pub(crate) cached: u64,
}

/// A tool call that is whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) arguments: String,
    pub(crate) signature: Option<String>,
}

impl ToolCall {
    /// The arguments as a value; what is not JSON stays a text.
    pub(super) fn value(&self) -> Value {
        if self.arguments.trim().is_empty() {
            return json!({});
        }
        serde_json::from_str(&self.arguments).unwrap_or_else(|_| json!({ "arguments": self.arguments }))
    }
}

/// Tool calls that come in pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls(Vec<ToolCall>);

impl Calls {
    pub(crate) fn add(&mut self, piece: CallPiece) {
        // Who leaves holes or counts without end is held to what a conversation has.
        let index = piece.index.min(self.0.len());
        if index == self.0.len() {
            self.0.push(ToolCall::default());
        }
        let call = &mut self.0[index];
        call.id.push_str(piece.id.as_deref().filter(|_| call.id.is_empty()).unwrap_or_default());
        call.name.push_str(piece.name.as_deref().unwrap_or_default());
        call.arguments.push_str(&piece.arguments);
        call.signature = piece.signature.or(call.signature.take());
    }

    pub(crate) fn take(&mut self) -> Vec<ToolCall> {
        std::mem::take(&mut self.0)
    }
}

/// Reads a chunk as it comes over the mesh.
pub(super) fn read(payload: &Bytes) -> Result<Piece, Failure> {
    let chunk: Object = serde_json::from_slice(payload).map_err(|_| {
        Failure::from(Fault::new(FaultCode::Internal, "a piece of the answer is not readable", "ask again"))
    })?;
    Ok(of_chunk(&chunk))
}

/// What a chunk says.
pub(crate) fn of_chunk(chunk: &Object) -> Piece {
    of(chunk, "delta")
}

/// What a whole answer says.
pub(crate) fn of_answer(answer: &Object) -> Piece {
    of(answer, "message")
}

fn of(object: &Object, part: &str) -> Piece {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let choice = object.get("choices").and_then(|choices| choices.get(0));
    let message = choice.and_then(|choice| choice.get(part));
    let of_message = |name: &str| text(message.and_then(|message| message.get(name)));
    let calls = message.and_then(|message| message.get("tool_calls")).and_then(Value::as_array);
    let kept = |path: &str| message.and_then(|message| message.pointer(path));
    Piece {
        id: text(object.get("id")),
        text: of_message("content").unwrap_or_default(),
        thinking: of_message("reasoning_content").or_else(|| of_message("reasoning")).unwrap_or_default(),
        calls: calls.into_iter().flatten().enumerate().map(|(place, call)| call_piece(place, call)).collect(),
        finish: text(choice.and_then(|choice| choice.get("finish_reason"))),
        usage: object.get("usage").filter(|usage| usage.is_object()).map(usage),
        origin: object.get(nhi_model::ai::ORIGIN_FIELD).cloned(),
        thoughts: kept("/extra_content/anthropic/thinking")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default(),
        signature: text(kept("/extra_content/google/thought_signature")),
    }
}

fn call_piece(place: usize, call: &Value) -> CallPiece {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let function = call.get("function");
    let index = call.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
    CallPiece {
        index: index.unwrap_or(place),
        id: text(call.get("id")),
        name: text(function.and_then(|function| function.get("name"))),
        arguments: text(function.and_then(|function| function.get("arguments"))).unwrap_or_default(),
        signature: text(call.pointer("/extra_content/google/thought_signature")),
    }
}

fn usage(usage: &Value) -> Usage {
    let number = |path: &str| usage.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    Usage {
        input: number("/prompt_tokens"),
        output: number("/completion_tokens"),
        cached: number("/prompt_tokens_details/cached_tokens"),
    }
}

/// One message of a conversation in OpenAI's form.
pub(super) fn message(role: &str, content: impl Into<Value>) -> Value {
    json!({ "role": role, "content": content.into() })
}

/// A picture in a message.
pub(super) fn image(media_type: &str, base64: &str) -> Value {
    json!({ "type": "image_url", "image_url": { "url": format!("data:{media_type};base64,{base64}") } })
}

/// Text in a message that also has pictures.
pub(super) fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

/// The parts of a message: plain text where they are only that.
pub(super) fn content(parts: Vec<Value>) -> Value {
    let texts: Option<Vec<&str>> =
        parts.iter().map(|part| part.get("text").filter(|_| part["type"] == "text")?.as_str()).collect();
    match texts {
        Some(texts) => Value::from(texts.join("\n")),
        None => Value::Array(parts),
    }
}
