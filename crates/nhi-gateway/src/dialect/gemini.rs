//! Google's `generateContent`. Safety settings and cached contents have no meaning here and are left out; code
//! execution and search are refused.

use super::{
    Asked, GeminiCall, Object, Writer, parse,
    pieces::{self, Piece, ToolCall, Usage},
    sentence, typed, unsupported, wrong,
};
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::fault::Fault;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::VecDeque;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    contents: Vec<Content>,
    #[serde(alias = "system_instruction")]
    system_instruction: Option<Content>,
    #[serde(default)]
    tools: Vec<Object>,
    #[serde(alias = "tool_config")]
    tool_config: Option<Value>,
    #[serde(default, alias = "generation_config")]
    generation_config: Object,
    /// What is said of privacy, project and priority.
    nhi: Option<Value>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    role: String,
    #[serde(default)]
    parts: Vec<Object>,
}

pub(super) fn read(call: &GeminiCall, body: &[u8]) -> Result<Asked, Fault> {
    let request: Request = parse(body)?;
    let mut body = Object::new();
    let mut messages = Vec::new();
    if let Some(system) = &request.system_instruction {
        let texts: Vec<&str> =
            system.parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)).collect();
        messages.push(pieces::message("system", texts.join("\n")));
    }
    let mut names = Names::default();
    for (place, content) in request.contents.iter().enumerate() {
        add(&mut messages, content, &mut names, &format!("contents[{place}]"))?;
    }
    body.insert("model".to_owned(), call.model.as_str().into());
    body.insert("messages".to_owned(), messages.into());
    body.extend(request.nhi.map(|wishes| (nhi_model::ai::ORIGIN_FIELD.to_owned(), wishes)));
    let tools = tools(&request.tools)?;
    if !tools.is_empty() {
        body.insert("tools".to_owned(), tools.into());
        if let Some(config) = &request.tool_config {
            body.insert("tool_choice".to_owned(), choice(config));
        }
    }
    configure(&mut body, request.generation_config)?;
    Ok(Asked::new(body, call.stream))
}

/// Calls that wait for their results: Google's have no ids, results are found by name.
#[derive(Default)]
struct Names {
    waiting: VecDeque<(String, String)>,
    made: u32,
}

impl Names {
    fn call(&mut self, name: &str, id: Option<&str>) -> String {
        self.made += 1;
        let id = id.map_or_else(|| format!("call_{}", self.made), str::to_owned);
        self.waiting.push_back((name.to_owned(), id.clone()));
        id
    }

    fn result(&mut self, name: &str, id: Option<&str>) -> String {
        let is_it = |waits: &(String, String)| id.map_or(waits.0 == name, |id| waits.1 == id);
        let found = self.waiting.iter().position(is_it).and_then(|place| self.waiting.remove(place));
        found.map_or_else(|| id.unwrap_or("call_0").to_owned(), |(_, id)| id)
    }
}

fn add(messages: &mut Vec<Value>, content: &Content, names: &mut Names, place: &str) -> Result<(), Fault> {
    let role = match content.role.as_str() {
        "model" => "assistant",
        "" | "user" | "function" => "user",
        role => return Err(wrong(&format!("{place}.role: {role:?} is not known"))),
    };
    let (mut parts, mut calls, mut thinking) = (Vec::new(), Vec::new(), String::new());
    let mut signed = None;
    for (number, part) in content.parts.iter().enumerate() {
        let place = format!("{place}.parts[{number}]");
        let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let one = |camel: &str, snake: &str| part.get(camel).or_else(|| part.get(snake));
        let signature = one("thoughtSignature", "thought_signature");
        if one("functionCall", "function_call").is_none() {
            signed = signature.or(signed);
        }
        if let Some(said) = part.get("text").and_then(Value::as_str) {
            if part.get("thought") == Some(&json!(true)) {
                thinking.push_str(said)
            } else {
                parts.push(pieces::text(said))
            }
        } else if let Some(data) = one("inlineData", "inline_data") {
            let kind = text(data, "mimeType").or_else(|| text(data, "mime_type"));
            let (Some(kind), Some(data)) = (kind, text(data, "data")) else {
                return Err(wrong(&format!("{place}.inlineData: mimeType and data are expected")));
            };
            if !kind.starts_with("image/") {
                return Err(unsupported(&typed(&format!("{place}: data"), Some(&kind))));
            }
            parts.push(pieces::image(&kind, &data));
        } else if let Some(call) = one("functionCall", "function_call") {
            let name =
                text(call, "name").ok_or_else(|| wrong(&format!("{place}.functionCall.name is missing")))?;
            let id = names.call(&name, text(call, "id").as_deref());
            let arguments = call.get("args").cloned().unwrap_or_else(|| json!({})).to_string();
            let mut call =
                json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
            if let Some(signature) = signature {
                call["extra_content"] = json!({ "google": { "thought_signature": signature } });
            }
            calls.push(call);
        } else if let Some(result) = one("functionResponse", "function_response") {
            let name = text(result, "name").unwrap_or_default();
            let id = names.result(&name, text(result, "id").as_deref());
            let content = result.get("response").cloned().unwrap_or_else(|| json!({})).to_string();
            messages.push(json!({ "role": "tool", "tool_call_id": id, "content": content }));
        } else if signature.is_none() {
            return Err(unsupported(&format!("{place}: this kind of part")));
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
        out["reasoning_content"] = thinking.into();
    }
    if let Some(signature) = signed {
        out["extra_content"] = json!({ "google": { "thought_signature": signature } });
    }
    messages.push(out);
    Ok(())
}

fn tools(tools: &[Object]) -> Result<Vec<Value>, Fault> {
    let mut out = Vec::new();
    for tool in tools {
        let functions = tool.get("functionDeclarations").or_else(|| tool.get("function_declarations"));
        let Some(functions) = functions.and_then(Value::as_array) else {
            let name = tool.keys().next().map_or("", String::as_str);
            return Err(unsupported(&format!("the tool {name:?}")));
        };
        for function in functions {
            let schema = match (function.get("parametersJsonSchema"), function.get("parameters")) {
                (Some(schema), _) => schema.clone(),
                (None, Some(schema)) => lowered(schema),
                (None, None) => json!({ "type": "object", "properties": {} }),
            };
            let mut out_function = json!({ "name": function["name"], "parameters": schema });
            if let Some(description) = function.get("description") {
                out_function["description"] = description.clone();
            }
            out.push(json!({ "type": "function", "function": out_function }));
        }
    }
    Ok(out)
}

/// Google writes the types of a schema in capitals.
fn lowered(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let lower = |(name, value): (&String, &Value)| match value {
                Value::String(kind) if name == "type" => (name.clone(), json!(kind.to_ascii_lowercase())),
                other => (name.clone(), lowered(other)),
            };
            Value::Object(fields.iter().map(lower).collect())
        }
        Value::Array(items) => items.iter().map(lowered).collect(),
        other => other.clone(),
    }
}

fn choice(config: &Value) -> Value {
    let config = config.get("functionCallingConfig").or_else(|| config.get("function_calling_config"));
    let of = |name: &str| config.and_then(|config| config.get(name));
    let names = of("allowedFunctionNames").and_then(Value::as_array);
    match (of("mode").and_then(Value::as_str), names.map(Vec::as_slice)) {
        (Some("ANY"), Some([name])) => json!({ "type": "function", "function": { "name": name } }),
        (Some("ANY"), _) => json!("required"),
        (Some("NONE"), _) => json!("none"),
        (Some(_) | None, _) => json!("auto"),
    }
}

/// `generationConfig`; what is not known is passed on under its own name.
fn configure(body: &mut Object, config: Object) -> Result<(), Fault> {
    let is_json = config.get("responseMimeType").and_then(Value::as_str) == Some("application/json");
    let schema =
        config.get("responseJsonSchema").cloned().or_else(|| config.get("responseSchema").map(lowered));
    match schema {
        Some(schema) => {
            let format =
                json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
            body.insert("response_format".to_owned(), format);
        }
        None if is_json => _ = body.insert("response_format".to_owned(), json!({ "type": "json_object" })),
        None => {}
    }
    for (name, value) in config {
        let name = match name.as_str() {
            "responseMimeType" | "responseSchema" | "responseJsonSchema" | "responseModalities" => continue,
            "candidateCount" if value == json!(1) => continue,
            "candidateCount" => return Err(unsupported("more than one candidate")),
            "thinkingConfig" => {
                let none = value.get("thinkingBudget") == Some(&json!(0));
                body.extend(none.then(|| ("reasoning_effort".to_owned(), json!("none"))));
                continue;
            }
            "maxOutputTokens" => "max_tokens",
            "topP" => "top_p",
            "topK" => "top_k",
            "stopSequences" => "stop",
            "presencePenalty" => "presence_penalty",
            "frequencyPenalty" => "frequency_penalty",
            other => other,
        };
        body.insert(name.to_owned(), value);
    }
    Ok(())
}

fn finish_reason(finish: &str) -> &'static str {
    match finish {
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        _ => "STOP",
    }
}

fn usage_metadata(usage: Usage) -> Value {
    json!({
        "promptTokenCount": usage.input, "candidatesTokenCount": usage.output,
        "totalTokenCount": usage.input.saturating_add(usage.output), "cachedContentTokenCount": usage.cached,
    })
}

fn parts(piece: &Piece, calls: Vec<ToolCall>) -> Vec<Value> {
    let mut parts = Vec::new();
    if !piece.thinking.is_empty() {
        parts.push(json!({ "text": piece.thinking, "thought": true }));
    }
    if !piece.text.is_empty() || piece.signature.is_some() {
        let mut part = json!({ "text": piece.text });
        if let Some(signature) = &piece.signature {
            part["thoughtSignature"] = signature.as_str().into();
        }
        parts.push(part);
    }
    for call in calls {
        let mut part = json!({ "functionCall": { "id": call.id, "name": call.name, "args": call.value() } });
        if let Some(signature) = call.signature {
            part["thoughtSignature"] = signature.into();
        }
        parts.push(part);
    }
    parts
}

/// One `GenerateContentResponse`.
fn response(model: &str, parts: Vec<Value>, end: Option<(&str, Usage)>, origin: Option<&Value>) -> Value {
    let mut candidate = json!({ "content": { "role": "model", "parts": parts }, "index": 0 });
    if let Some((finish, _)) = end {
        candidate["finishReason"] = finish_reason(finish).into();
    }
    let mut response = json!({ "candidates": [candidate], "modelVersion": model });
    if let Some((_, usage)) = end {
        response["usageMetadata"] = usage_metadata(usage);
    }
    if let Some(origin) = origin {
        response[nhi_model::ai::ORIGIN_FIELD] = origin.clone();
    }
    response
}

pub(super) fn write(asked: &Asked, answer: &Object) -> Value {
    let piece = pieces::of_answer(answer);
    let mut calls = pieces::Calls::default();
    piece.calls.iter().cloned().for_each(|call| calls.add(call));
    let end = (piece.finish.as_deref().unwrap_or("stop"), piece.usage.unwrap_or_default());
    response(&asked.model(), parts(&piece, calls.take()), Some(end), piece.origin.as_ref())
}

/// Responses from chunks: as events, or as one JSON array.
pub(super) struct Stream {
    model: String,
    events: bool,
    begun: bool,
    calls: pieces::Calls,
    finish: Option<String>,
    usage: Usage,
    origin: Option<Value>,
}

impl Stream {
    pub(super) fn new(asked: &Asked, events: bool) -> Self {
        let (calls, finish, usage) = (pieces::Calls::default(), None, Usage::default());
        Self { model: asked.model(), events, begun: false, calls, finish, usage, origin: None }
    }

    fn written(&mut self, response: &Value) -> String {
        if self.events {
            return format!("data: {response}\r\n\r\n");
        }
        let before = if std::mem::replace(&mut self.begun, true) { ",\r\n" } else { "[" };
        format!("{before}{response}")
    }
}

impl Writer for Stream {
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure> {
        let mut piece = pieces::read(payload)?;
        std::mem::take(&mut piece.calls).into_iter().for_each(|call| self.calls.add(call));
        self.finish = piece.finish.take().or(self.finish.take());
        self.usage = piece.usage.unwrap_or(self.usage);
        self.origin = piece.origin.take().or(self.origin.take());
        let parts = parts(&piece, Vec::new());
        if parts.is_empty() {
            return Ok(Bytes::new());
        }
        let response = response(&self.model, parts, None, None);
        Ok(self.written(&response).into())
    }

    fn end(&mut self) -> Bytes {
        let parts = parts(&Piece::default(), self.calls.take());
        let end = (self.finish.as_deref().unwrap_or("stop"), self.usage);
        let response = response(&self.model, parts, Some(end), self.origin.as_ref());
        let mut out = self.written(&response);
        out.push_str(if self.events { "" } else { "]" });
        out.into()
    }

    fn failed(&mut self, failure: &Failure) -> Bytes {
        let failure = self::failure(failure);
        self.written(&failure).into()
    }
}

/// `{"error":{"code","message","status"}}`
pub(super) fn failure(failure: &Failure) -> Value {
    let status = match failure.status {
        400 | 413 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        status if status < 500 => "FAILED_PRECONDITION",
        _ => "INTERNAL",
    };
    json!({ "error": { "code": failure.status, "message": sentence(failure), "status": status } })
}
