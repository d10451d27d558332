//! OpenAI's `chat.completions`, in the ways its imitators speak it: requests into [`Ask`], answers out of
//! [`Answer`], lists of models, vectors.

use super::{
    ask::{Answer, Ask, Call, Choice, Finish, Item, Role, Tool, Turn},
    refusal::{self, Dialect, Voice},
    script::{End, Usage, Writer},
    settings::{ModelSettings, Provider},
    text::{self, Form},
};
use serde_json::{Map, Value, json};

/// What Google's OpenAI mode knows; anything else is an error there.
const GEMINI_FIELDS: [&str; 16] = [
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "presence_penalty",
];
/// What Groq knows of a message.
const GROQ_MESSAGE_FIELDS: [&str; 7] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning"];

/// Reads a request; the error is what is wrong with it.
pub(crate) fn read(body: &Map<String, Value>, provider: Provider) -> Result<Ask, String> {
    if provider == Provider::Gemini
        && let Some(name) = body.keys().find(|name| !GEMINI_FIELDS.contains(&name.as_str()))
    {
        return Err(format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field."));
    }
    let model = body.get("model").and_then(Value::as_str).ok_or("you must provide a model parameter")?;
    let messages = body
        .get("messages")
        .and_then(Value::as_array)
        .filter(|list| !list.is_empty())
        .ok_or("Missing required parameter: 'messages'.")?;
    let is = |name: &str| body.get(name).and_then(Value::as_bool);
    if provider == Provider::Vllm
        && is("continue_final_message") == Some(true)
        && is("add_generation_prompt") != Some(false)
    {
        return Err(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True.".to_owned()
        );
    }
    let mut ask = Ask::of(model.to_owned());
    ask.goes_on = is("continue_final_message") == Some(true);
    ask.is_stream = is("stream") == Some(true);
    ask.wants_usage = body.get("stream_options").and_then(|options| options.get("include_usage"))
        == Some(&Value::Bool(true));
    for (index, message) in messages.iter().enumerate() {
        ask.turns.push(turn(message, index, provider)?);
    }
    ask.tools = tools(body.get("tools"));
    ask.choice = choice(body.get("tool_choice"));
    let format = body.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    if matches!(format, Some("json_object" | "json_schema")) {
        ask.form = Form::Json;
    }
    let limit = body.get("max_completion_tokens").or_else(|| body.get("max_tokens")).and_then(Value::as_u64);
    ask.tokens_max = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    Ok(ask)
}

fn turn(message: &Value, index: usize, provider: Provider) -> Result<Turn, String> {
    let word = message.get("role").and_then(Value::as_str).unwrap_or_default();
    let role = match word {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        _ => {
            return Err(format!(
                "Invalid value: '{word}'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'."
            ));
        }
    };
    let unknown = message
        .as_object()
        .and_then(|fields| fields.keys().find(|name| !GROQ_MESSAGE_FIELDS.contains(&name.as_str())));
    if let (Provider::Groq, Some(name)) = (provider, unknown) {
        return Err(format!(
            "'messages.{index}' : for 'role:{word}' the following must be satisfied[('messages.{index}' : property '{name}' is unsupported)]"
        ));
    }
    let calls = message.get("tool_calls").and_then(Value::as_array).filter(|list| !list.is_empty());
    let signed = |call: &Value| call.pointer("/extra_content/google/thought_signature").is_some();
    if provider == Provider::Gemini && calls.is_some_and(|list| !list.iter().all(signed)) {
        return Err(UNSIGNED.to_owned());
    }
    let (text, images) = content(message.get("content"));
    let is_partial = message.get("partial") == Some(&Value::Bool(true));
    Ok(Turn { role, text, images, is_partial, calls: calls.is_some() })
}

/// What Google says about a call that comes back without its signature.
pub(crate) const UNSIGNED: &str = "Function call is missing a thought_signature in functionCall parts. This is required for tools to work correctly, and missing thought_signature may lead to degraded model performance.";

/// The text of a message, and its images.
fn content(content: Option<&Value>) -> (String, usize) {
    match content {
        Some(Value::String(text)) => (text.clone(), 0),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str));
            let images =
                parts.iter().filter(|part| part.get("type").and_then(Value::as_str) == Some("image_url"));
            (texts.collect(), images.count())
        }
        _ => (String::new(), 0),
    }
}

/// The tools of OpenAI's form, which Ollama has taken over.
pub(crate) fn tools(list: Option<&Value>) -> Vec<Tool> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|tool| {
        let function = tool.get("function")?;
        let schema = function.get("parameters").cloned().unwrap_or_else(|| json!({}));
        Some(Tool { name: function.get("name")?.as_str()?.to_owned(), schema })
    })
    .collect()
}

fn choice(choice: Option<&Value>) -> Choice {
    match choice {
        Some(Value::String(word)) if word == "none" => Choice::Never,
        Some(Value::String(word)) if word == "required" => Choice::Any,
        Some(Value::Object(_)) => choice
            .and_then(|choice| choice.pointer("/function/name"))
            .and_then(Value::as_str)
            .map_or(Choice::Any, |name| Choice::Named(name.to_owned())),
        _ => Choice::Auto,
    }
}

/// Writes `chat.completion` and its chunks.
#[derive(Debug)]
pub(crate) struct OpenaiWriter {
    pub(crate) provider: Provider,
    pub(crate) model: String,
    pub(crate) number: u64,
    pub(crate) created_s: i64,
    pub(crate) wants_usage: bool,
    calls: usize,
}

impl OpenaiWriter {
    pub(crate) fn new(provider: Provider, ask: &Ask, number: u64, created_s: i64) -> Self {
        let (model, wants_usage) = (ask.model.clone(), ask.wants_usage);
        Self { provider, model, number, created_s, wants_usage, calls: 0 }
    }

    fn head(&self, object: &str, choices: Value) -> Value {
        let id = format!("chatcmpl-sim{:08}", self.number);
        let mut head = json!({"id": id, "object": object, "created": self.created_s, "model": self.model, "choices": choices});
        if self.provider != Provider::Gemini {
            head["system_fingerprint"] = json!("fp_simulated");
        }
        head
    }

    fn chunk(&self, delta: Value, finish: Value) -> Value {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        self.head("chat.completion.chunk", json!([choice]))
    }

    /// Where thoughts stand.
    fn reasoning_field(&self) -> &'static str {
        match self.provider {
            Provider::Groq | Provider::Ollama => "reasoning",
            _ => "reasoning_content",
        }
    }

    fn call(&self, call: &Call, index: usize) -> Value {
        let id = format!("call_sim{:08}{index}", self.number);
        let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
        let mut written = json!({"id": id, "type": "function", "function": function});
        if self.provider == Provider::Gemini {
            written["extra_content"] = json!({"google": {"thought_signature": "c2ltdWxhdGVk"}});
        }
        written
    }
}

fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn finish_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Tools => "tool_calls",
    }
}

fn usage_of(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt, "completion_tokens": usage.answer,
        "total_tokens": usage.prompt.saturating_add(usage.answer),
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    })
}

fn timings_of(usage: Usage) -> Value {
    let per_second = f64::from(usage.answer) * 1000.0 / (usage.rest_ms.max(1) as f64);
    json!({
        "prompt_n": usage.prompt, "prompt_ms": usage.first_ms, "predicted_n": usage.answer,
        "predicted_ms": usage.rest_ms, "predicted_per_second": per_second,
    })
}

impl Writer for OpenaiWriter {
    fn content_type(&self) -> &'static str {
        if self.provider == Provider::Openai {
            "text/event-stream; charset=utf-8"
        } else {
            "text/event-stream"
        }
    }

    fn open(&mut self, _: &Answer) -> Vec<String> {
        let content = if self.provider == Provider::Llamacpp { Value::Null } else { json!("") };
        vec![data(&self.chunk(json!({"role": "assistant", "content": content}), Value::Null))]
    }

    fn item(&mut self, item: &Item) -> Vec<String> {
        match item {
            Item::Text(text) => vec![data(&self.chunk(json!({"content": text}), Value::Null))],
            Item::Reason(text) => {
                let mut delta = Map::new();
                delta.insert(self.reasoning_field().to_owned(), json!(text));
                vec![data(&self.chunk(Value::Object(delta), Value::Null))]
            }
            Item::Call(call) => {
                let index = self.calls;
                self.calls += 1;
                let mut first = self.call(call, index);
                first["index"] = json!(index);
                let arguments = call.arguments.to_string();
                // Google and Groq send a call whole, the others bit by bit.
                if matches!(self.provider, Provider::Gemini | Provider::Groq) {
                    return vec![data(&self.chunk(json!({"tool_calls": [first]}), Value::Null))];
                }
                first["function"]["arguments"] = json!("");
                let mut events = vec![data(&self.chunk(json!({"tool_calls": [first]}), Value::Null))];
                for part in split(&arguments, 7) {
                    let more = json!({"tool_calls": [{"index": index, "function": {"arguments": part}}]});
                    events.push(data(&self.chunk(more, Value::Null)));
                }
                events
            }
        }
    }

    fn close(&mut self, end: End) -> Vec<String> {
        let mut last = self.chunk(json!({}), json!(finish_word(end.finish)));
        if self.provider == Provider::Llamacpp {
            last["timings"] = timings_of(end.usage);
        }
        if self.provider == Provider::Groq && end.usage.is_told {
            last["x_groq"] =
                json!({"id": format!("req_sim{:08}", self.number), "usage": usage_of(end.usage)});
        }
        let mut events = vec![data(&last)];
        if self.wants_usage && end.usage.is_told {
            let mut usage = self.head("chat.completion.chunk", json!([]));
            usage["usage"] = usage_of(end.usage);
            events.push(data(&usage));
        }
        if end.done {
            events.push("data: [DONE]\n\n".to_owned());
        }
        events
    }

    fn error(&self) -> Vec<String> {
        let voice = Voice { dialect: Dialect::Openai, provider: self.provider };
        let event = data(&refusal::in_band(voice));
        match self.provider {
            Provider::Groq => vec![format!("event: error\n{event}")],
            Provider::Vllm => vec![event, "data: [DONE]\n\n".to_owned()],
            _ => vec![event],
        }
    }

    fn garbage(&self) -> String {
        "data: {\"id\":\"chatcmpl-sim\",\"choices\":[{\"index\":0,\"delta\":{\"cont\n\n".to_owned()
    }

    fn comment(&self) -> Option<&'static str> {
        Some(": keep-alive\n\n")
    }

    fn whole(&self, answer: &Answer, end: End) -> Value {
        // llama.cpp repeats what it was given, though its stream does not.
        let head = if self.provider == Provider::Llamacpp { answer.head.as_str() } else { "" };
        let mut message = json!({"role": "assistant", "content": format!("{head}{}", answer.text())});
        let calls: Vec<Value> =
            answer.calls().enumerate().map(|(index, call)| self.call(call, index)).collect();
        if !calls.is_empty() {
            message["content"] = Value::Null;
            message["tool_calls"] = json!(calls);
        }
        let reasoning = answer.reasoning();
        if !reasoning.is_empty() {
            message[self.reasoning_field()] = json!(reasoning);
        }
        let choice = json!({"index": 0, "message": message, "logprobs": null, "finish_reason": finish_word(end.finish)});
        let mut whole = self.head("chat.completion", json!([choice]));
        if end.usage.is_told {
            whole["usage"] = usage_of(end.usage);
        }
        if self.provider == Provider::Llamacpp {
            whole["timings"] = timings_of(end.usage);
        }
        whole
    }
}

/// Parts of so many characters.
pub(crate) fn split(text: &str, characters: usize) -> Vec<String> {
    let all: Vec<char> = text.chars().collect();
    all.chunks(characters).map(|part| part.iter().collect()).collect()
}

/// `GET /v1/models`.
pub(crate) fn models(provider: Provider, models: &[ModelSettings], created_s: i64) -> Value {
    let of = |model: &ModelSettings| {
        let mut entry =
            json!({"id": model.name, "object": "model", "created": created_s, "owned_by": "library"});
        match provider {
            Provider::Vllm => entry["max_model_len"] = json!(model.context_tokens),
            Provider::Groq => {
                entry["active"] = json!(true);
                entry["context_window"] = json!(model.context_tokens);
                entry["max_completion_tokens"] = json!(model.context_tokens);
            }
            Provider::Llamacpp => {
                entry["meta"] = json!({
                    "n_ctx_train": model.context_tokens, "n_params": model.billions * 1e9, "size": model.size_bytes,
                });
            }
            Provider::Gemini => entry["id"] = json!(format!("models/{}", model.name)),
            Provider::Openai | Provider::Dashscope | Provider::Anthropic | Provider::Ollama => {}
        }
        entry
    };
    json!({"object": "list", "data": models.iter().map(of).collect::<Vec<_>>()})
}

/// `POST /v1/embeddings`: its texts.
pub(crate) fn embedding_input(body: &Map<String, Value>, field: &str) -> Vec<String> {
    match body.get(field) {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

/// And its answer.
pub(crate) fn embeddings(model: &ModelSettings, dimensions: u32, texts: &[String]) -> Value {
    let tokens: u32 = texts.iter().map(|text| text::tokens_of(text)).sum();
    let list: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            json!({"object": "embedding", "index": index, "embedding": text::vector(text, dimensions)})
        })
        .collect();
    json!({
        "object": "list", "data": list, "model": model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}
