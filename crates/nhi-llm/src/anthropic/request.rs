//! A `chat.completions` body as Anthropic's `/v1/messages` takes it. It refuses fields it does not know, so only known
//! ones go out.

use crate::{
    content::{self, Format, MustCall, Part},
    decoder::Fault,
    endpoint::Hints,
};
use serde_json::{Map, Value, json};

/// Tokens of an answer when nobody says: it wants a figure, and its smallest served model writes more.
const OUTPUT_TOKENS_DEFAULT: u64 = 8192;
/// Its own fields, which pass as they are.
const OWN: &[&str] = &[
    "container",
    "context_management",
    "mcp_servers",
    "metadata",
    "output_config",
    "service_tier",
    "stream",
    "thinking",
    "top_k",
    "top_p",
];

/// The body of `/v1/messages`.
pub(crate) fn request(request: &Map<String, Value>, hints: &Hints) -> Result<Map<String, Value>, Fault> {
    content::one_choice(request)?;
    let mut said = Map::new();
    said.insert("model".to_owned(), content::model(request)?.into());
    let hinted = hints.output_tokens_max.map_or(OUTPUT_TOKENS_DEFAULT, u64::from);
    let most = content::output_tokens_max(request).unwrap_or(hinted);
    said.insert("max_tokens".to_owned(), most.into());
    for name in OWN {
        if let Some(value) = request.get(*name).filter(|value| !value.is_null()) {
            said.insert((*name).to_owned(), value.clone());
        }
    }
    if let Some(warmth) = request.get("temperature").and_then(Value::as_f64) {
        // OpenAI's scale ends at 2, this one at 1, and above it the request is refused.
        said.insert("temperature".to_owned(), warmth.clamp(0.0, 1.0).into());
    }
    if let Some(stops) = content::stops(request) {
        said.insert("stop_sequences".to_owned(), stops);
    }
    if let Some(user) = request.get("user").filter(|user| user.is_string()) {
        said.entry("metadata").or_insert_with(|| json!({ "user_id": user }));
    }
    match content::format(request) {
        Format::Text => {}
        Format::Json => return Err(content::unable("Anthropic has JSON only with a schema (json_schema)")),
        Format::Schema(schema) => {
            let config = said.entry("output_config").or_insert_with(|| json!({}));
            let config =
                config.as_object_mut().ok_or_else(|| content::wrong("output_config is no object"))?;
            config.insert("format".to_owned(), json!({ "type": "json_schema", "schema": schema }));
        }
    }
    add_tools(request, &mut said);
    let (system, messages) = messages(content::messages(request)?)?;
    if !system.is_empty() {
        said.insert("system".to_owned(), system.into());
    }
    said.insert("messages".to_owned(), messages.into());
    Ok(said)
}

fn add_tools(request: &Map<String, Value>, said: &mut Map<String, Value>) {
    let tools = content::tools(request);
    if tools.is_empty() {
        return;
    }
    let tools: Vec<Value> = tools.iter().map(tool).collect();
    said.insert("tools".to_owned(), tools.into());
    let mut choice = match content::must_call(request) {
        MustCall::Nothing => json!({ "type": "auto" }),
        MustCall::Any => json!({ "type": "any" }),
        MustCall::This(name) => json!({ "type": "tool", "name": name }),
    };
    if request.get("parallel_tool_calls") == Some(&Value::Bool(false)) {
        choice["disable_parallel_tool_use"] = Value::Bool(true);
    }
    said.insert("tool_choice".to_owned(), choice);
}

fn tool(tool: &Value) -> Value {
    // One of Anthropic's own, from a caller that speaks to Anthropic.
    let Some(function) = tool.get("function") else { return tool.clone() };
    let mut said = Map::new();
    for name in ["name", "description", "strict"] {
        if let Some(value) = function.get(name).filter(|value| !value.is_null()) {
            said.insert(name.to_owned(), value.clone());
        }
    }
    let schema = function.get("parameters").filter(|schema| schema.is_object()).cloned();
    said.insert("input_schema".to_owned(), schema.unwrap_or_else(|| json!({ "type": "object" })));
    if let Some(cache) = tool.get("cache_control") {
        said.insert("cache_control".to_owned(), cache.clone());
    }
    Value::Object(said)
}

/// The system's blocks, and the messages: neighbours of one role are one message, as tool results have to be.
fn messages(messages: &[Value]) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let mut system = Vec::new();
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, message) = content::role(message)?;
        let (role, blocks) = match role {
            "system" | "developer" => {
                system.extend(blocks(message)?);
                continue;
            }
            "assistant" => ("assistant", assistant(message)?),
            "tool" | "function" => ("user", vec![result(message)?]),
            "user" => ("user", blocks(message)?),
            other => return Err(content::wrong(&format!("nobody knows the role {other:?}"))),
        };
        match turns.last_mut() {
            Some((last, list)) if *last == role => list.extend(blocks),
            _ if blocks.is_empty() => {}
            _ => turns.push((role, blocks)),
        }
    }
    let turns = turns.into_iter().map(|(role, content)| json!({ "role": role, "content": content }));
    Ok((system, turns.collect()))
}

fn blocks(message: &Map<String, Value>) -> Result<Vec<Value>, Fault> {
    let mut blocks = Vec::new();
    for part in content::parts(message)? {
        match part {
            // It refuses empty ones.
            Part::Text { text: "", .. } => {}
            Part::Text { text, part } => {
                let mut block = json!({ "type": "text", "text": text });
                if let Some(cache) = part.and_then(|part| part.get("cache_control")) {
                    block["cache_control"] = cache.clone();
                }
                blocks.push(block);
            }
            Part::Data { mime, data, image } => {
                let source = json!({ "type": "base64", "media_type": mime, "data": data });
                let kind = if image { "image" } else { "document" };
                blocks.push(json!({ "type": kind, "source": source }));
            }
            Part::Url(url) => {
                blocks.push(json!({ "type": "image", "source": { "type": "url", "url": url } }));
            }
        }
    }
    Ok(blocks)
}

fn assistant(message: &Map<String, Value>) -> Result<Vec<Value>, Fault> {
    let kept = |name: &str| {
        let kept =
            message.get("extra_content").and_then(|extra| extra.get("anthropic")?.get(name)?.as_array());
        kept.cloned().unwrap_or_default()
    };
    // Thinking goes back as it came, signed, and first; what another backend thought has no signature and stays here.
    let mut said = kept("thinking");
    said.extend(kept("content"));
    said.extend(blocks(message)?);
    for call in content::calls(message)? {
        said.push(json!({ "type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments }));
    }
    Ok(said)
}

fn result(message: &Map<String, Value>) -> Result<Value, Fault> {
    let id = message.get("tool_call_id").and_then(Value::as_str);
    let id = id.ok_or_else(|| content::wrong("a tool's message has no tool_call_id"))?;
    let mut block = json!({ "type": "tool_result", "tool_use_id": id, "content": blocks(message)? });
    if message.get("is_error") == Some(&Value::Bool(true)) {
        block["is_error"] = Value::Bool(true);
    }
    Ok(block)
}
