//! OpenAI's Responses. Nothing is stored here, so `previous_response_id` is refused, and so are the provider's own
//! tools; functions, free-form tools, pictures, schemas and reasoning pass. How tools are named is [`tools`]' matter.

mod tools;

pub(super) use self::tools::Offered;
use super::{
    Asked, Object, Writer, parse,
    pieces::{self, Piece, ToolCall, Usage},
    typed, unsupported, wrong,
};
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::{Timestamp, fault::Fault};
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Request {
    model: String,
    input: Value,
    instructions: Option<String>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    tools: Vec<Object>,
    tool_choice: Option<Value>,
    max_output_tokens: Option<u64>,
    text: Option<Text>,
    reasoning: Option<Reasoning>,
    previous_response_id: Option<String>,
    #[serde(default)]
    background: Option<bool>,
    /// Passed on as it is, but for what only says how answers are kept.
    #[serde(flatten)]
    rest: Object,
}

#[derive(Deserialize)]
struct Text {
    format: Option<Object>,
}

#[derive(Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

/// Fields that have no meaning where nothing is kept.
const KEEPING: &[&str] = &[
    "store",
    "include",
    "truncation",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "service_tier",
    "safety_identifier",
    "client_metadata",
    "conversation",
    "max_tool_calls",
    "stream_options",
];

pub(super) fn read(body: &[u8]) -> Result<Asked, Fault> {
    let request: Request = parse(body)?;
    if request.previous_response_id.is_some() {
        return Err(unsupported(
            "previous_response_id: answers are not kept here, send the whole conversation;",
        ));
    }
    if request.background == Some(true) {
        return Err(unsupported("background"));
    }
    let mut body = request.rest;
    body.retain(|name, _| !KEEPING.contains(&name.as_str()));
    let (offered, functions) = Offered::read(request.tools)?;
    let mut messages = Vec::new();
    if let Some(instructions) = request.instructions {
        messages.push(pieces::message("system", instructions));
    }
    match &request.input {
        Value::String(text) => messages.push(pieces::message("user", text.as_str())),
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                add(&mut messages, &offered, item, &format!("input[{place}]"))?;
            }
        }
        _ => return Err(wrong("input: a text or a list of items is expected")),
    }
    body.insert("model".to_owned(), request.model.into());
    body.insert("messages".to_owned(), messages.into());
    body.extend(request.max_output_tokens.map(|tokens| ("max_tokens".to_owned(), tokens.into())));
    if !functions.is_empty() {
        body.insert("tools".to_owned(), functions.into());
        body.extend(request.tool_choice.map(|choice| ("tool_choice".to_owned(), chosen(choice, &offered))));
    }
    if let Some(format) = request.text.and_then(|text| text.format) {
        body.extend(response_format(format).map(|format| ("response_format".to_owned(), format)));
    }
    if let Some(effort) = request.reasoning.and_then(|reasoning| reasoning.effort) {
        body.insert("reasoning_effort".to_owned(), effort.into());
    }
    Ok(Asked { offered, ..Asked::new(body, request.stream.unwrap_or(false)) })
}

fn chosen(choice: Value, offered: &Offered) -> Value {
    match choice.get("name").and_then(Value::as_str) {
        Some(name) => {
            let name = offered.function_of(choice.get("namespace").and_then(Value::as_str), name);
            json!({ "type": "function", "function": { "name": name } })
        }
        None => choice,
    }
}

fn response_format(mut format: Object) -> Option<Value> {
    match format.remove("type").as_ref().and_then(Value::as_str) {
        Some("json_schema") => Some(json!({ "type": "json_schema", "json_schema": format })),
        Some("json_object") => Some(json!({ "type": "json_object" })),
        Some(_) | None => None,
    }
}

/// Adds an item of the conversation.
fn add(messages: &mut Vec<Value>, offered: &Offered, item: &Value, place: &str) -> Result<(), Fault> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    let lacks = |name: &str| wrong(&format!("{place}.{name} is missing"));
    match text("type").unwrap_or("message") {
        "message" => {
            let role = match text("role").ok_or_else(|| lacks("role"))? {
                "developer" => "system",
                role => role,
            };
            let content = content(item.get("content").unwrap_or(&Value::Null), place)?;
            messages.push(pieces::message(role, content));
        }
        kind @ ("function_call" | "custom_tool_call") => {
            let arguments = match kind {
                "custom_tool_call" => tools::arguments_of(text("input").unwrap_or_default()),
                _ => text("arguments").unwrap_or("{}").to_owned(),
            };
            let name = text("name").ok_or_else(|| lacks("name"))?;
            let call = json!({
                "id": text("call_id").ok_or_else(|| lacks("call_id"))?, "type": "function",
                "function": { "name": offered.function_of(text("namespace"), name), "arguments": arguments },
            });
            // Calls of one turn stand in one message.
            let open = messages.last_mut().filter(|last| last["role"] == "assistant");
            match open.and_then(Value::as_object_mut) {
                Some(last) => {
                    let calls = last.entry("tool_calls").or_insert_with(|| json!([]));
                    calls.as_array_mut().expect("it was made a list").push(call);
                }
                None => messages.push(json!({ "role": "assistant", "content": null, "tool_calls": [call] })),
            }
        }
        "function_call_output" | "custom_tool_call_output" => {
            let id = text("call_id").ok_or_else(|| lacks("call_id"))?;
            let output = match item.get("output") {
                Some(Value::String(text)) => Value::from(text.as_str()),
                Some(parts @ Value::Array(_)) => content(parts, place)?,
                Some(other) => Value::from(other.to_string()),
                None => Value::from(""),
            };
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": output }));
        }
        // What a model thought is of no use to another one.
        "reasoning" => {}
        kind => return Err(unsupported(&typed(&format!("{place}: an item"), Some(kind)))),
    }
    Ok(())
}

fn content(value: &Value, place: &str) -> Result<Value, Fault> {
    let parts = match value {
        Value::String(_) | Value::Null => return Ok(value.clone()),
        Value::Array(parts) => parts,
        _ => return Err(wrong(&format!("{place}.content: a text or a list of parts is expected"))),
    };
    let part = |part: &Value| {
        let text = |name: &str| part.get(name).and_then(Value::as_str);
        match (text("type"), text("text").or_else(|| text("refusal")), text("image_url")) {
            (Some("input_text" | "output_text" | "text" | "refusal"), Some(text), _) => {
                Ok(pieces::text(text))
            }
            (Some("input_image"), _, Some(url)) => {
                Ok(json!({ "type": "image_url", "image_url": { "url": url } }))
            }
            (kind, ..) => Err(unsupported(&typed(&format!("{place}: a part"), kind))),
        }
    };
    parts.iter().map(part).collect::<Result<_, _>>().map(pieces::content)
}

fn tokens(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input, "input_tokens_details": { "cached_tokens": usage.cached },
        "output_tokens": usage.output, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": usage.input.saturating_add(usage.output),
    })
}

fn message_item(id: &str, text: &str, status: &str) -> Value {
    let part = json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
    let content = if status == "in_progress" { json!([]) } else { json!([part]) };
    json!({ "id": format!("msg_{id}"), "type": "message", "role": "assistant", "status": status, "content": content })
}

/// A `response`, at its begin or at its end.
fn response(id: &str, model: &str, status: &str, output: Vec<Value>, usage: Option<Usage>) -> Value {
    let cut = (status == "incomplete").then(|| json!({ "reason": "max_output_tokens" }));
    json!({
        "id": format!("resp_{id}"), "object": "response", "created_at": Timestamp::now().as_second(),
        "status": status, "error": null, "incomplete_details": cut, "instructions": null, "model": model,
        "output": output, "parallel_tool_calls": true, "tool_choice": "auto", "tools": [], "metadata": {},
        "temperature": null, "top_p": null, "usage": usage.map(tokens),
    })
}

const fn status(finish: Option<&str>) -> &'static str {
    match finish {
        Some(reason) if matches!(reason.as_bytes(), b"length") => "incomplete",
        Some(_) | None => "completed",
    }
}

pub(super) fn write(asked: &Asked, answer: &Object) -> Value {
    let piece = pieces::of_answer(answer);
    let id = piece.id.as_deref().unwrap_or("0");
    let mut output = Vec::new();
    if !piece.text.is_empty() {
        output.push(message_item(id, &piece.text, "completed"));
    }
    let mut calls = pieces::Calls::default();
    piece.calls.iter().cloned().for_each(|call| calls.add(call));
    output.extend(calls.take().iter().map(|call| asked.offered.item(call, "completed")));
    let status = status(piece.finish.as_deref());
    let mut response = response(id, &asked.model(), status, output, Some(piece.usage.unwrap_or_default()));
    response[nhi_model::ai::ORIGIN_FIELD] = piece.origin.into();
    response
}

/// Events from chunks. Tool calls are told when they are whole: half of one is of no use.
pub(super) struct Stream {
    model: String,
    offered: Offered,
    id: Option<String>,
    number: u64,
    /// The text so far, once its item is open.
    text: Option<String>,
    calls: pieces::Calls,
    output: Vec<Value>,
    finish: Option<String>,
    usage: Usage,
    origin: Option<Value>,
}

impl Stream {
    pub(super) fn new(asked: &Asked) -> Self {
        Self {
            model: asked.model(),
            offered: asked.offered.clone(),
            id: None,
            number: 0,
            text: None,
            calls: pieces::Calls::default(),
            output: Vec::new(),
            finish: None,
            usage: Usage::default(),
            origin: None,
        }
    }

    fn event(&mut self, kind: &str, mut data: Value, out: &mut String) {
        data["type"] = kind.into();
        data["sequence_number"] = self.number.into();
        self.number += 1;
        out.push_str(&super::event(Some(kind), &data));
    }

    fn begin(&mut self, piece: &Piece, out: &mut String) -> String {
        if let Some(id) = &self.id {
            return id.clone();
        }
        let id = piece.id.clone().unwrap_or_else(|| "0".to_owned());
        self.id = Some(id.clone());
        for kind in ["response.created", "response.in_progress"] {
            let response = response(&id, &self.model, "in_progress", Vec::new(), None);
            self.event(kind, json!({ "response": response }), out);
        }
        id
    }

    fn add_text(&mut self, id: &str, delta: &str, out: &mut String) {
        let at = self.output.len();
        let part = json!({ "type": "output_text", "text": "", "annotations": [], "logprobs": [] });
        if self.text.is_none() {
            self.text = Some(String::new());
            let item = message_item(id, "", "in_progress");
            self.event("response.output_item.added", json!({ "output_index": at, "item": item }), out);
            let data = json!({ "item_id": format!("msg_{id}"), "output_index": at, "content_index": 0, "part": part });
            self.event("response.content_part.added", data, out);
        }
        self.text.get_or_insert_default().push_str(delta);
        let data = json!({
            "item_id": format!("msg_{id}"), "output_index": at, "content_index": 0, "delta": delta, "logprobs": [],
        });
        self.event("response.output_text.delta", data, out);
    }

    fn close_text(&mut self, id: &str, out: &mut String) {
        let Some(text) = self.text.take() else { return };
        let (at, item_id) = (self.output.len(), format!("msg_{id}"));
        let data = json!({
            "item_id": item_id, "output_index": at, "content_index": 0, "text": text, "logprobs": [],
        });
        self.event("response.output_text.done", data, out);
        let part = json!({ "type": "output_text", "text": text, "annotations": [], "logprobs": [] });
        let data = json!({ "item_id": item_id, "output_index": at, "content_index": 0, "part": part });
        self.event("response.content_part.done", data, out);
        let item = message_item(id, &text, "completed");
        self.event("response.output_item.done", json!({ "output_index": at, "item": item }), out);
        self.output.push(item);
    }

    fn call(&mut self, call: &ToolCall, out: &mut String) {
        let at = self.output.len();
        let begun = ToolCall { arguments: String::new(), ..call.clone() };
        let (begun, item) = (self.offered.item(&begun, "in_progress"), self.offered.item(call, "completed"));
        let (kind, field) = match item.get("input") {
            Some(_) => ("response.custom_tool_call_input", "input"),
            None => ("response.function_call_arguments", "arguments"),
        };
        self.event("response.output_item.added", json!({ "output_index": at, "item": begun }), out);
        let data = json!({ "item_id": item["id"], "output_index": at, "delta": item[field] });
        self.event(&format!("{kind}.delta"), data, out);
        let mut data = json!({ "item_id": item["id"], "output_index": at, "name": item["name"] });
        data[field] = item[field].clone();
        self.event(&format!("{kind}.done"), data, out);
        self.event("response.output_item.done", json!({ "output_index": at, "item": item }), out);
        self.output.push(item);
    }
}

impl Writer for Stream {
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure> {
        let piece = pieces::read(payload)?;
        let mut out = String::new();
        let id = self.begin(&piece, &mut out);
        if !piece.text.is_empty() {
            self.add_text(&id, &piece.text, &mut out);
        }
        piece.calls.into_iter().for_each(|call| self.calls.add(call));
        self.finish = piece.finish.or(self.finish.take());
        self.usage = piece.usage.unwrap_or(self.usage);
        self.origin = piece.origin.or(self.origin.take());
        Ok(out.into())
    }

    fn end(&mut self) -> Bytes {
        let mut out = String::new();
        let id = self.begin(&Piece::default(), &mut out);
        self.close_text(&id, &mut out);
        for call in self.calls.take() {
            self.call(&call, &mut out);
        }
        let status = status(self.finish.as_deref());
        let output = std::mem::take(&mut self.output);
        let mut response = response(&id, &self.model, status, output, Some(self.usage));
        response[nhi_model::ai::ORIGIN_FIELD] = self.origin.take().into();
        let kind = if status == "incomplete" { "response.incomplete" } else { "response.completed" };
        self.event(kind, json!({ "response": response }), &mut out);
        out.into()
    }

    fn failed(&mut self, failure: &Failure) -> Bytes {
        let mut out = String::new();
        let id = self.begin(&Piece::default(), &mut out);
        let error = &super::chat::failure(failure)["error"];
        let mut response = response(&id, &self.model, "failed", std::mem::take(&mut self.output), None);
        response["error"] = json!({ "code": error["code"], "message": error["message"] });
        self.event("response.failed", json!({ "response": response }), &mut out);
        out.into()
    }
}
