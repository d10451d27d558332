//! A `chat.completions` body as Ollama's `/api/chat` takes it. Nothing is dropped silently: what it cannot do is refused.

use crate::{
    content::{self, Format, MustCall, Part},
    decoder::Fault,
    endpoint::Hints,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What OpenAI's clients, and Ollama's, say at the top and Ollama takes as an option.
const OPTIONS: &[&str] = &[
    "frequency_penalty",
    "min_p",
    "mirostat",
    "mirostat_eta",
    "mirostat_tau",
    "num_ctx",
    "num_keep",
    "presence_penalty",
    "repeat_last_n",
    "repeat_penalty",
    "seed",
    "temperature",
    "tfs_z",
    "top_k",
    "top_p",
    "typical_p",
];
/// What is translated, or means nothing there.
const TAKEN: &[&str] = &[
    // How long a model stays in a GPU is the router's to say, not a caller's.
    "keep_alive",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "n",
    "options",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "stop",
    "stream_options",
    "tool_choice",
    "tools",
];

/// The body of `/api/chat`.
pub(crate) fn request(mut request: Map<String, Value>, hints: &Hints) -> Result<Map<String, Value>, Fault> {
    content::one_choice(&request)?;
    if content::must_call(&request) != MustCall::Nothing {
        return Err(content::unable("Ollama cannot be made to call a tool"));
    }
    let model = content::model(&request)?.to_owned();
    let messages = messages(content::messages(&request)?)?;
    let tools = content::tools(&request).to_vec();
    let format = match content::format(&request) {
        Format::Text => None,
        Format::Json => Some("json".into()),
        Format::Schema(schema) => Some(schema.clone()),
    };
    let options = options(&request, hints);
    let effort = request.get("reasoning_effort").and_then(Value::as_str);
    let think = match effort {
        Some("none" | "minimal") => Some(Value::Bool(false)),
        // The only family with degrees. Others think when they can; asking one that cannot is an error there.
        Some(effort) if model.starts_with("gpt-oss") => Some(effort.into()),
        Some(_) | None => None,
    };
    request.retain(|name, _| !TAKEN.contains(&name.as_str()) && !OPTIONS.contains(&name.as_str()));
    request.insert("messages".to_owned(), messages);
    request.insert("options".to_owned(), Value::Object(options));
    request.entry("stream").or_insert(Value::Bool(false));
    // What does not fit is an error, not a conversation without its beginning. Older servers ignore both.
    request.insert("truncate".to_owned(), Value::Bool(false));
    request.insert("shift".to_owned(), Value::Bool(false));
    if !tools.is_empty() {
        request.insert("tools".to_owned(), Value::Array(tools));
    }
    if let Some(format) = format {
        request.insert("format".to_owned(), format);
    }
    if let Some(think) = think {
        request.entry("think").or_insert(think);
    }
    if let Some(keep) = hints.keep_alive {
        request.insert("keep_alive".to_owned(), keep.as_secs().into());
    }
    Ok(request)
}

fn options(request: &Map<String, Value>, hints: &Hints) -> Map<String, Value> {
    let mut options = request.get("options").and_then(Value::as_object).cloned().unwrap_or_default();
    for name in OPTIONS {
        if let Some(value) = request.get(*name).filter(|value| !value.is_null()) {
            options.insert((*name).to_owned(), value.clone());
        }
    }
    if let Some(most) = content::output_tokens_max(request) {
        options.insert("num_predict".to_owned(), most.into());
    }
    if let Some(stops) = content::stops(request) {
        options.insert("stop".to_owned(), stops);
    }
    // The router knows what fits into the GPU; a figure of the caller's would load the model anew.
    if let Some(tokens) = hints.num_ctx {
        options.insert("num_ctx".to_owned(), tokens.into());
    }
    options
}

fn messages(messages: &[Value]) -> Result<Value, Fault> {
    let names = content::call_names(messages);
    messages.iter().map(|message| one(message, &names)).collect()
}

fn one(message: &Value, names: &BTreeMap<&str, &str>) -> Result<Value, Fault> {
    let (role, message) = content::role(message)?;
    let mut said = Map::new();
    let role = match role {
        "developer" => "system",
        "function" => "tool",
        other => other,
    };
    said.insert("role".to_owned(), role.into());
    let mut text = String::new();
    let mut images = Vec::new();
    for part in content::parts(message)? {
        match part {
            Part::Text { text: more, .. } => text.push_str(more),
            Part::Data { data, image: true, .. } => images.push(Value::from(data)),
            Part::Data { image: false, .. } => return Err(content::unable("Ollama takes no files")),
            Part::Url(_) => {
                return Err(content::unable("Ollama takes images only as data: urls, it fetches none"));
            }
        }
    }
    said.insert("content".to_owned(), text.into());
    if !images.is_empty() {
        said.insert("images".to_owned(), images.into());
    }
    if let Some(thinking) = content::reasoning(message) {
        said.insert("thinking".to_owned(), thinking.into());
    }
    let calls = content::calls(message)?.into_iter().enumerate().map(|(index, call)| {
        json!({ "id": call.id, "function": { "index": index, "name": call.name, "arguments": call.arguments } })
    });
    let calls: Vec<Value> = calls.collect();
    if !calls.is_empty() {
        said.insert("tool_calls".to_owned(), calls.into());
    }
    if role == "tool" {
        let id = message.get("tool_call_id").and_then(Value::as_str).unwrap_or_default();
        let name = names.get(id).copied().or_else(|| message.get("name").and_then(Value::as_str));
        if let Some(name) = name {
            said.insert("tool_name".to_owned(), name.into());
        }
        said.insert("tool_call_id".to_owned(), id.into());
    }
    Ok(Value::Object(said))
}
