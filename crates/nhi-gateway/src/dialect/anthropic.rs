//! Anthropic's Messages. Blocks of server-side tools and documents are refused, everything else passes.

use super::{
    Asked, Object, Writer, event, parse,
    pieces::{self, CallPiece, Piece, Usage},
    sentence, typed, unsupported, wrong,
};
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::{ai::ModelRow, fault::Fault};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Request {
    model: String,
    messages: Vec<Message>,
    max_tokens: u64,
    system: Option<Value>,
    #[serde(default)]
    stop_sequences: Vec<String>,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    tools: Vec<Tool>,
    tool_choice: Option<ToolChoice>,
    metadata: Option<Metadata>,
    /// Passed on as it is.
    #[serde(flatten)]
    rest: Object,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: Value,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    description: Option<String>,
    input_schema: Option<Value>,
}

#[derive(Deserialize)]
struct ToolChoice {
    #[serde(rename = "type")]
    kind: String,
    name: Option<String>,
    #[serde(default)]
    disable_parallel_tool_use: bool,
}

#[derive(Deserialize)]
struct Metadata {
    user_id: Option<String>,
}

pub(super) fn read(body: &[u8]) -> Result<Asked, Fault> {
    let request: Request = parse(body)?;
    let mut body = request.rest;
    let mut messages = Vec::new();
    if let Some(system) = &request.system {
        messages.push(pieces::message("system", pieces::content(texts(system, "system")?)));
    }
    for (place, message) in request.messages.iter().enumerate() {
        add(&mut messages, message, &format!("messages[{place}].content"))?;
    }
    body.insert("model".to_owned(), request.model.into());
    body.insert("messages".to_owned(), messages.into());
    body.insert("max_tokens".to_owned(), request.max_tokens.into());
    if !request.stop_sequences.is_empty() {
        body.insert("stop".to_owned(), request.stop_sequences.into());
    }
    if let Some(user) = request.metadata.and_then(|metadata| metadata.user_id) {
        body.insert("user".to_owned(), user.into());
    }
    if !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(tool).collect::<Result<_, _>>()?;
        body.insert("tools".to_owned(), tools.into());
    }
    if let Some(choice) = request.tool_choice {
        if choice.disable_parallel_tool_use {
            body.insert("parallel_tool_calls".to_owned(), false.into());
        }
        let choice = match (choice.kind.as_str(), choice.name) {
            ("any", _) => json!("required"),
            ("tool", Some(name)) => json!({ "type": "function", "function": { "name": name } }),
            ("auto" | "none", _) => json!(choice.kind),
            _ => return Err(wrong("tool_choice.type: auto, any, none or tool with a name is expected")),
        };
        body.insert("tool_choice".to_owned(), choice);
    }
    Ok(Asked::new(body, request.stream))
}

fn tool(tool: &Tool) -> Result<Value, Fault> {
    if tool.kind.as_deref().is_some_and(|kind| kind != "custom") {
        return Err(unsupported(&format!("the server-side tool {:?}", tool.name)));
    }
    let schema = tool.input_schema.clone().unwrap_or_else(|| json!({ "type": "object" }));
    let mut function = json!({ "name": tool.name, "parameters": schema });
    if let Some(description) = &tool.description {
        function["description"] = json!(description);
    }
    Ok(json!({ "type": "function", "function": function }))
}

/// Text, or blocks of text.
fn texts(value: &Value, place: &str) -> Result<Vec<Value>, Fault> {
    match value {
        Value::String(text) => Ok(vec![pieces::text(text)]),
        Value::Array(blocks) => blocks
            .iter()
            .map(|block| {
                let text = block.get("text").and_then(Value::as_str);
                text.map(pieces::text).ok_or_else(|| wrong(&format!("{place}: blocks of text are expected")))
            })
            .collect(),
        _ => Err(wrong(&format!("{place}: a text or a list of blocks is expected"))),
    }
}

/// Adds a message; results of tools become messages of their own.
fn add(messages: &mut Vec<Value>, message: &Message, place: &str) -> Result<(), Fault> {
    let role = match message.role.as_str() {
        role @ ("user" | "assistant" | "system") => role,
        role => return Err(wrong(&format!("{place}: the role {role:?} is not known"))),
    };
    let Value::Array(blocks) = &message.content else {
        messages.push(pieces::message(role, pieces::content(texts(&message.content, place)?)));
        return Ok(());
    };
    let (mut parts, mut calls, mut thinking) = (Vec::new(), Vec::new(), Vec::new());
    for (number, block) in blocks.iter().enumerate() {
        let place = format!("{place}[{number}]");
        let text = |name: &str| block.get(name).and_then(Value::as_str);
        let lacks = |name: &str| wrong(&format!("{place}.{name} is missing"));
        match text("type").ok_or_else(|| lacks("type"))? {
            "text" => parts.push(pieces::text(text("text").ok_or_else(|| lacks("text"))?)),
            "image" => parts.push(image(block, &place)?),
            "tool_use" => {
                let (id, name) = (text("id"), text("name"));
                let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
                calls.push(json!({
                    "id": id.ok_or_else(|| lacks("id"))?, "type": "function",
                    "function": { "name": name.ok_or_else(|| lacks("name"))?, "arguments": input.to_string() },
                }));
            }
            "tool_result" => messages.push(result(block, &place)?),
            "thinking" | "redacted_thinking" => thinking.push(block.clone()),
            kind => return Err(unsupported(&typed(&format!("{place}: a block"), Some(kind)))),
        }
    }
    if parts.is_empty() && calls.is_empty() && thinking.is_empty() {
        return Ok(());
    }
    let mut out = pieces::message(role, if parts.is_empty() { Value::Null } else { pieces::content(parts) });
    if !calls.is_empty() {
        out["tool_calls"] = calls.into();
    }
    if !thinking.is_empty() {
        out["extra_content"] = json!({ "anthropic": { "thinking": thinking } });
    }
    messages.push(out);
    Ok(())
}

fn image(block: &Value, place: &str) -> Result<Value, Fault> {
    let of = |name: &str| block.pointer(&format!("/source/{name}")).and_then(Value::as_str);
    match (of("type"), of("media_type"), of("data"), of("url")) {
        (Some("base64"), Some(media_type), Some(data), _) => Ok(pieces::image(media_type, data)),
        (Some("url"), _, _, Some(url)) => Ok(json!({ "type": "image_url", "image_url": { "url": url } })),
        _ => Err(wrong(&format!("{place}.source: base64 with media_type and data, or url with url"))),
    }
}

fn result(block: &Value, place: &str) -> Result<Value, Fault> {
    let id = block.get("tool_use_id").and_then(Value::as_str);
    let id = id.ok_or_else(|| wrong(&format!("{place}.tool_use_id is missing")))?;
    let content = match block.get("content") {
        None | Some(Value::Null) => Value::from(""),
        Some(content) => pieces::content(texts(content, &format!("{place}.content"))?),
    };
    let content = match content {
        Value::String(text) if block["is_error"] == json!(true) => Value::from(format!("Error: {text}")),
        other => other,
    };
    Ok(json!({ "role": "tool", "tool_call_id": id, "content": content }))
}

fn stop_reason(finish: &str) -> &'static str {
    match finish {
        "length" => "max_tokens",
        "tool_calls" | "function_call" => "tool_use",
        "content_filter" => "refusal",
        _ => "end_turn",
    }
}

fn tokens(usage: Usage) -> Value {
    json!({ "input_tokens": usage.input, "output_tokens": usage.output, "cache_read_input_tokens": usage.cached })
}

fn message_id(piece: &Piece) -> String {
    format!("msg_{}", piece.id.as_deref().unwrap_or("0"))
}

pub(super) fn write(asked: &Asked, answer: &Object) -> Value {
    let piece = pieces::of_answer(answer);
    let mut content = Vec::new();
    if !piece.thoughts.is_empty() {
        content.extend(piece.thoughts.iter().cloned());
    } else if !piece.thinking.is_empty() {
        content.push(json!({ "type": "thinking", "thinking": piece.thinking, "signature": "" }));
    }
    if !piece.text.is_empty() {
        content.push(json!({ "type": "text", "text": piece.text }));
    }
    let mut calls = pieces::Calls::default();
    piece.calls.iter().cloned().for_each(|call| calls.add(call));
    for call in calls.take() {
        let input = call.value();
        content.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": input }));
    }
    json!({
        "id": message_id(&piece), "type": "message", "role": "assistant", "model": asked.model(), "content": content,
        "stop_reason": stop_reason(piece.finish.as_deref().unwrap_or_default()), "stop_sequence": null,
        "usage": tokens(piece.usage.unwrap_or_default()), "nhi": piece.origin,
    })
}

/// A block that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    /// With the call's number.
    Call(usize),
}

/// Events from chunks.
pub(super) struct Stream {
    model: String,
    begun: bool,
    open: Option<Block>,
    blocks: u64,
    finish: Option<String>,
    usage: Usage,
    origin: Option<Value>,
}

impl Stream {
    pub(super) fn new(asked: &Asked) -> Self {
        let (begun, open, blocks, finish, usage) = (false, None, 0, None, Usage::default());
        Self { model: asked.model(), begun, open, blocks, finish, usage, origin: None }
    }

    fn begin(&mut self, piece: &Piece, out: &mut String) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        let message = json!({
            "id": message_id(piece), "type": "message", "role": "assistant", "model": self.model, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": tokens(Usage::default()), "nhi": piece.origin,
        });
        out.push_str(&event(Some("message_start"), &json!({ "type": "message_start", "message": message })));
    }

    /// Closes what is open and opens a block, unless it is the one.
    fn block(&mut self, block: Block, begin: impl FnOnce() -> Value, out: &mut String) {
        if self.open == Some(block) {
            return;
        }
        self.close(out);
        self.open = Some(block);
        let data = json!({ "type": "content_block_start", "index": self.blocks, "content_block": begin() });
        out.push_str(&event(Some("content_block_start"), &data));
    }

    fn close(&mut self, out: &mut String) {
        if self.open.take().is_some() {
            let data = json!({ "type": "content_block_stop", "index": self.blocks });
            out.push_str(&event(Some("content_block_stop"), &data));
            self.blocks += 1;
        }
    }

    fn delta(&self, delta: &Value, out: &mut String) {
        let data = json!({ "type": "content_block_delta", "index": self.blocks, "delta": delta });
        out.push_str(&event(Some("content_block_delta"), &data));
    }

    fn call(&mut self, call: &CallPiece, out: &mut String) {
        let begin = || {
            json!({ "type": "tool_use", "id": call.id.as_deref().unwrap_or_default(),
                    "name": call.name.as_deref().unwrap_or_default(), "input": {} })
        };
        self.block(Block::Call(call.index), begin, out);
        if !call.arguments.is_empty() {
            self.delta(&json!({ "type": "input_json_delta", "partial_json": call.arguments }), out);
        }
    }
}

impl Writer for Stream {
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure> {
        let piece = pieces::read(payload)?;
        let mut out = String::new();
        self.begin(&piece, &mut out);
        if !piece.thinking.is_empty() {
            self.block(Block::Thinking, || json!({ "type": "thinking", "thinking": "" }), &mut out);
            self.delta(&json!({ "type": "thinking_delta", "thinking": piece.thinking }), &mut out);
        }
        // A model of Anthropic's takes its thoughts back only signed.
        for signature in piece.thoughts.iter().filter_map(|thought| thought.get("signature")) {
            if self.open == Some(Block::Thinking) {
                self.delta(&json!({ "type": "signature_delta", "signature": signature }), &mut out);
            }
        }
        if !piece.text.is_empty() {
            self.block(Block::Text, || json!({ "type": "text", "text": "" }), &mut out);
            self.delta(&json!({ "type": "text_delta", "text": piece.text }), &mut out);
        }
        for call in &piece.calls {
            self.call(call, &mut out);
        }
        self.finish = piece.finish.or(self.finish.take());
        self.usage = piece.usage.unwrap_or(self.usage);
        self.origin = piece.origin.or(self.origin.take());
        Ok(out.into())
    }

    fn end(&mut self) -> Bytes {
        let mut out = String::new();
        self.begin(&Piece::default(), &mut out);
        self.close(&mut out);
        let reason = stop_reason(self.finish.as_deref().unwrap_or_default());
        let delta = json!({
            "type": "message_delta", "delta": { "stop_reason": reason, "stop_sequence": null },
            "usage": tokens(self.usage), "nhi": self.origin,
        });
        out.push_str(&event(Some("message_delta"), &delta));
        out.push_str(&event(Some("message_stop"), &json!({ "type": "message_stop" })));
        out.into()
    }

    fn failed(&mut self, failure: &Failure) -> Bytes {
        event(Some("error"), &self::failure(failure)).into()
    }
}

/// `{"type":"error","error":{"type","message"}}`
pub(super) fn failure(failure: &Failure) -> Value {
    let kind = match failure.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        status if status < 500 => "invalid_request_error",
        _ => "api_error",
    };
    json!({ "type": "error", "error": { "type": kind, "message": sentence(failure) } })
}

/// `/v1/models`
pub(super) fn models(rows: &[ModelRow]) -> Value {
    let model = |row: &ModelRow| json!({ "type": "model", "id": row.id, "display_name": row.id, "created_at": "1970-01-01T00:00:00Z" });
    let data: Vec<Value> = rows.iter().map(model).collect();
    let (first, last) = (rows.first().map(|row| &row.id), rows.last().map(|row| &row.id));
    json!({ "data": data, "has_more": false, "first_id": first, "last_id": last })
}
