//! Ollama's API: conversations, completions, embeddings, its lists. What it does to models on disk is not offered.

use super::{
    Asked, Object, Writer, parse,
    pieces::{self, Piece, ToolCall, Usage},
    sentence, unsupported, wrong,
};
use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::{Timestamp, ai::ModelRow, fault::Fault};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{collections::VecDeque, time::Instant};

/// Whether the answer is a message or plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `/api/chat`
    Chat,
    /// `/api/generate`
    Generate,
}

#[derive(Deserialize)]
struct Common {
    model: String,
    format: Option<Value>,
    options: Option<Object>,
    /// Ollama streams unless told otherwise.
    stream: Option<bool>,
    think: Option<Value>,
    keep_alive: Option<Value>,
    /// What is said of privacy, project and priority.
    nhi: Option<Value>,
}

#[derive(Deserialize)]
struct ChatRequest {
    #[serde(flatten)]
    common: Common,
    #[serde(default)]
    messages: Vec<Message>,
    tools: Option<Value>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    images: Vec<String>,
    #[serde(default)]
    tool_calls: Vec<Call>,
    tool_name: Option<String>,
    tool_call_id: Option<String>,
    thinking: Option<String>,
}

#[derive(Deserialize)]
struct Call {
    id: Option<String>,
    function: Function,
}

#[derive(Deserialize)]
struct Function {
    name: String,
    #[serde(default)]
    arguments: Value,
}

#[derive(Deserialize)]
struct GenerateRequest {
    #[serde(flatten)]
    common: Common,
    #[serde(default)]
    prompt: String,
    #[serde(default)]
    system: String,
    #[serde(default)]
    images: Vec<String>,
    suffix: Option<String>,
    template: Option<String>,
    #[serde(default)]
    raw: bool,
}

pub(super) fn read_chat(body: &[u8]) -> Result<Asked, Fault> {
    let request: ChatRequest = parse(body)?;
    if request.messages.is_empty() {
        return Ok(loaded(request.common, Form::Chat));
    }
    let mut waiting = VecDeque::new();
    let mut number = 0;
    let messages: Vec<Value> =
        request.messages.into_iter().map(|message| of_message(message, &mut waiting, &mut number)).collect();
    let mut asked = begin(request.common, messages)?;
    if let Some(tools) = request.tools.filter(|tools| !tools.is_null()) {
        asked.body.insert("tools".to_owned(), tools);
    }
    Ok(asked)
}

pub(super) fn read_generate(body: &[u8]) -> Result<Asked, Fault> {
    let request: GenerateRequest = parse(body)?;
    for (name, is_there) in [
        ("suffix", request.suffix.is_some_and(|text| !text.is_empty())),
        ("template", request.template.is_some_and(|text| !text.is_empty())),
        ("raw", request.raw),
    ] {
        if is_there {
            return Err(unsupported(&format!("{name:?} of /api/generate")));
        }
    }
    if request.prompt.is_empty() && request.images.is_empty() {
        return Ok(loaded(request.common, Form::Generate));
    }
    let mut messages = Vec::new();
    if !request.system.is_empty() {
        messages.push(pieces::message("system", request.system));
    }
    messages.push(pieces::message("user", with_images(&request.prompt, &request.images)));
    begin(request.common, messages)
}

/// Without a prompt a program only wants the model loaded, or unloaded. Routers see to that by themselves.
fn loaded(common: Common, form: Form) -> Asked {
    let reason = if common.keep_alive == Some(json!(0)) { "unload" } else { "load" };
    let mut answer = line(&common.model, form, "");
    answer.extend([("done".to_owned(), json!(true)), ("done_reason".to_owned(), json!(reason))]);
    let body = Object::from_iter([("model".to_owned(), Value::from(common.model))]);
    Asked { at_once: Some(Value::Object(answer)), ..Asked::of(body) }
}

/// Everything but tools.
fn begin(common: Common, messages: Vec<Value>) -> Result<Asked, Fault> {
    let mut body = Object::new();
    body.insert("model".to_owned(), common.model.into());
    body.insert("messages".to_owned(), messages.into());
    body.extend(common.nhi.map(|wishes| (nhi_model::ai::ORIGIN_FIELD.to_owned(), wishes)));
    for (name, value) in common.options.unwrap_or_default() {
        let name = match name.as_str() {
            "num_predict" if value.as_i64().is_some_and(|tokens| tokens <= 0) => continue,
            "num_predict" => "max_tokens",
            other => other,
        };
        body.insert(name.to_owned(), value);
    }
    match common.format {
        None | Some(Value::Null) => {}
        Some(Value::String(format)) if format.is_empty() => {}
        Some(Value::String(format)) if format == "json" => {
            body.insert("response_format".to_owned(), json!({ "type": "json_object" }));
        }
        Some(schema @ Value::Object(_)) => {
            let format =
                json!({ "type": "json_schema", "json_schema": { "name": "answer", "schema": schema } });
            body.insert("response_format".to_owned(), format);
        }
        Some(_) => return Err(wrong("format: \"json\" or a JSON Schema is expected")),
    }
    match common.think {
        Some(Value::Bool(false)) => _ = body.insert("reasoning_effort".to_owned(), json!("none")),
        Some(Value::String(effort)) => _ = body.insert("reasoning_effort".to_owned(), effort.into()),
        Some(_) | None => {}
    }
    Ok(Asked::new(body, common.stream.unwrap_or(true)))
}

/// Ollama's tool calls often have no ids: they get some, and results take them in the same order.
fn of_message(message: Message, waiting: &mut VecDeque<(String, String)>, number: &mut u32) -> Value {
    if message.role == "tool" {
        let place = message.tool_name.as_ref().and_then(|name| waiting.iter().position(|(n, _)| n == name));
        let taken = waiting.remove(place.unwrap_or(0)).map(|(_, id)| id);
        let id = message.tool_call_id.or(taken).unwrap_or_else(|| "call_0".to_owned());
        return json!({ "role": "tool", "tool_call_id": id, "content": message.content });
    }
    let mut out = pieces::message(&message.role, with_images(&message.content, &message.images));
    let calls: Vec<Value> = message
        .tool_calls
        .into_iter()
        .map(|call| {
            *number += 1;
            let id = call.id.unwrap_or_else(|| format!("call_{number}"));
            waiting.push_back((call.function.name.clone(), id.clone()));
            let arguments = match call.function.arguments {
                Value::String(text) => text,
                other => other.to_string(),
            };
            json!({ "id": id, "type": "function", "function": { "name": call.function.name, "arguments": arguments } })
        })
        .collect();
    if !calls.is_empty() {
        out["tool_calls"] = calls.into();
    }
    if let Some(thinking) = message.thinking {
        out["reasoning_content"] = thinking.into();
    }
    out
}

fn with_images(text: &str, images: &[String]) -> Value {
    let mut parts = vec![pieces::text(text)];
    // Ollama does not tell the type; the first characters of the base64 do.
    parts.extend(images.iter().map(|image| {
        let media_type = match image.as_bytes() {
            [b'/', b'9', b'j', ..] => "image/jpeg",
            [b'R', b'0', b'l', b'G', ..] => "image/gif",
            [b'U', b'k', b'l', b'G', ..] => "image/webp",
            _ => "image/png",
        };
        pieces::image(media_type, image)
    }));
    pieces::content(parts)
}

/// What every line has.
fn line(model: &str, form: Form, text: &str) -> Object {
    let mut line = Object::new();
    line.insert("model".to_owned(), model.into());
    line.insert("created_at".to_owned(), Timestamp::now().to_string().into());
    match form {
        Form::Chat => line.insert("message".to_owned(), json!({ "role": "assistant", "content": text })),
        Form::Generate => line.insert("response".to_owned(), text.into()),
    };
    line
}

/// The same with thoughts and tool calls.
fn full_line(model: &str, form: Form, piece: &Piece, calls: Vec<ToolCall>) -> Object {
    let mut line = line(model, form, &piece.text);
    let message = match form {
        Form::Chat => line.get_mut("message").and_then(Value::as_object_mut).expect("a line has its message"),
        Form::Generate => &mut line,
    };
    if !piece.thinking.is_empty() {
        message.insert("thinking".to_owned(), piece.thinking.as_str().into());
    }
    let calls: Vec<Value> = calls
        .into_iter()
        .map(|call| json!({ "id": call.id, "function": { "name": call.name, "arguments": call.value() } }))
        .collect();
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), calls.into());
    }
    line
}

/// What the last line has besides.
fn last(
    line: &mut Object,
    finish: Option<&str>,
    usage: Usage,
    origin: Option<Value>,
    began: Option<Instant>,
) {
    let reason = if finish == Some("length") { "length" } else { "stop" };
    let duration = began.map_or(0, |began| u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    line.extend([
        ("done".to_owned(), json!(true)),
        ("done_reason".to_owned(), json!(reason)),
        ("total_duration".to_owned(), json!(duration)),
        ("load_duration".to_owned(), json!(0)),
        ("prompt_eval_count".to_owned(), json!(usage.input)),
        ("prompt_eval_duration".to_owned(), json!(0)),
        ("eval_count".to_owned(), json!(usage.output)),
        ("eval_duration".to_owned(), json!(duration)),
    ]);
    line.extend(origin.map(|origin| (nhi_model::ai::ORIGIN_FIELD.to_owned(), origin)));
}

pub(super) fn write(asked: &Asked, answer: &Object, form: Form) -> Value {
    let piece = pieces::of_answer(answer);
    let mut calls = pieces::Calls::default();
    piece.calls.iter().cloned().for_each(|call| calls.add(call));
    let mut line = full_line(&asked.model(), form, &piece, calls.take());
    let usage = piece.usage.unwrap_or_default();
    last(&mut line, piece.finish.as_deref(), usage, piece.origin, None);
    Value::Object(line)
}

/// Lines from chunks.
pub(super) struct Stream {
    model: String,
    form: Form,
    began: Instant,
    calls: pieces::Calls,
    finish: Option<String>,
    usage: Usage,
    origin: Option<Value>,
}

impl Stream {
    pub(super) fn new(asked: &Asked, form: Form) -> Self {
        let (calls, finish, usage) = (pieces::Calls::default(), None, Usage::default());
        Self { model: asked.model(), form, began: Instant::now(), calls, finish, usage, origin: None }
    }
}

fn written(mut line: Object, done: bool) -> Bytes {
    line.entry("done").or_insert_with(|| done.into());
    format!("{}\n", Value::Object(line)).into()
}

impl Writer for Stream {
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure> {
        let mut piece = pieces::read(payload)?;
        std::mem::take(&mut piece.calls).into_iter().for_each(|call| self.calls.add(call));
        self.finish = piece.finish.take().or(self.finish.take());
        self.usage = piece.usage.unwrap_or(self.usage);
        self.origin = piece.origin.take().or(self.origin.take());
        if piece.text.is_empty() && piece.thinking.is_empty() {
            return Ok(Bytes::new());
        }
        Ok(written(full_line(&self.model, self.form, &piece, Vec::new()), false))
    }

    fn end(&mut self) -> Bytes {
        let calls = self.calls.take();
        let mut out = Vec::new();
        if !calls.is_empty() {
            out.extend(written(full_line(&self.model, self.form, &Piece::default(), calls), false));
        }
        let mut line = line(&self.model, self.form, "");
        last(&mut line, self.finish.as_deref(), self.usage, self.origin.take(), Some(self.began));
        out.extend(written(line, true));
        out.into()
    }

    fn failed(&mut self, failure: &Failure) -> Bytes {
        format!("{}\n", self::failure(failure)).into()
    }
}

/// `{"error":"…"}`
pub(super) fn failure(failure: &Failure) -> Value {
    json!({ "error": sentence(failure) })
}

fn details(row: &ModelRow) -> Value {
    let billions = row.model.as_ref().and_then(|model| model.billions);
    json!({
        "parent_model": "", "format": "", "family": "", "families": [],
        "parameter_size": billions.map_or_else(String::new, |billions| format!("{billions}B")),
        "quantization_level": "",
    })
}

/// A stable stand-in for what only Ollama knows: programs cut it and compare it.
fn digest(row: &ModelRow) -> String {
    Sha256::digest(&row.id).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `/api/tags`
pub(super) fn tags(rows: &[ModelRow]) -> Value {
    let model = |row: &ModelRow| {
        json!({
            "name": row.id, "model": row.id, "modified_at": "1970-01-01T00:00:00Z", "size": 0,
            "digest": digest(row), "details": details(row),
        })
    };
    json!({ "models": rows.iter().map(model).collect::<Vec<_>>() })
}

/// `/api/show`
pub(super) fn show(row: &ModelRow) -> Value {
    let model = row.model.clone().unwrap_or_default();
    let mut capabilities = vec![if model.embeds { "embedding" } else { "completion" }];
    // What is not told is not denied: a program would else not even try.
    let is_told_not = |able: Option<bool>| able == Some(false) || model.embeds;
    capabilities.extend((!is_told_not(model.tools)).then_some("tools"));
    capabilities.extend((model.vision == Some(true)).then_some("vision"));
    let mut info = json!({ "general.architecture": "nhi" });
    if let Some(tokens) = model.context_tokens {
        info["nhi.context_length"] = tokens.into();
    }
    json!({
        "modelfile": "", "parameters": "", "template": "", "license": "", "details": details(row),
        "model_info": info, "capabilities": capabilities, "modified_at": "1970-01-01T00:00:00Z",
    })
}

#[derive(Deserialize)]
struct EmbedRequest {
    model: String,
    input: Value,
    dimensions: Option<u64>,
    nhi: Option<Value>,
}

/// `/api/embed` as OpenAI's embeddings.
pub(crate) fn read_embed(body: &[u8]) -> Result<Object, Fault> {
    let request: EmbedRequest = parse(body)?;
    if !request.input.is_string() && !request.input.is_array() {
        return Err(wrong("input: a text or a list of texts is expected"));
    }
    let mut body = Object::new();
    body.insert("model".to_owned(), request.model.into());
    body.insert("input".to_owned(), request.input);
    body.extend(request.nhi.map(|wishes| (nhi_model::ai::ORIGIN_FIELD.to_owned(), wishes)));
    body.extend(request.dimensions.map(|dimensions| ("dimensions".to_owned(), dimensions.into())));
    Ok(body)
}

/// OpenAI's embeddings as the answer of `/api/embed`.
pub(crate) fn write_embed(model: &str, answer: &Object) -> Value {
    let rows = answer.get("data").and_then(Value::as_array);
    let vectors: Vec<Value> =
        rows.into_iter().flatten().filter_map(|row| row.get("embedding").cloned()).collect();
    let tokens = answer.get("usage").and_then(|usage| usage.get("prompt_tokens")).and_then(Value::as_u64);
    json!({
        "model": model, "embeddings": vectors, "total_duration": 0, "load_duration": 0,
        "prompt_eval_count": tokens.unwrap_or(0),
    })
}
