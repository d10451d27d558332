//! Ollama's own API: `/api/chat`, `/api/generate`, vectors, and what is there and loaded.

use super::{
    ask::{Answer, Ask, Finish, Item, Role, Turn},
    openai::tools,
    refusal::{self, Dialect, Voice},
    script::{End, Writer},
    settings::{ModelSettings, Provider},
    state::Loaded,
    text::{self, Form},
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;

/// Reads `/api/chat`.
pub(crate) fn read_chat(body: &Map<String, Value>) -> Result<Ask, String> {
    let mut ask = read(body)?;
    let messages = body.get("messages").and_then(Value::as_array).into_iter().flatten();
    for message in messages {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        let role = match text("role") {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => return Err(format!("invalid role: {other}")),
        };
        let is_full =
            |name: &str| message.get(name).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        let images = message.get("images").and_then(Value::as_array).map_or(0, Vec::len);
        let text = text("content").to_owned();
        ask.turns.push(Turn { role, text, images, is_partial: false, calls: is_full("tool_calls") });
    }
    Ok(ask)
}

/// Reads `/api/generate`.
pub(crate) fn read_generate(body: &Map<String, Value>) -> Result<Ask, String> {
    let mut ask = read(body)?;
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let images = body.get("images").and_then(Value::as_array).map_or(0, Vec::len);
    for (role, text, images) in [(Role::System, text("system"), 0), (Role::User, text("prompt"), images)] {
        if !text.is_empty() {
            ask.turns.push(Turn { role, text, images, is_partial: false, calls: false });
        }
    }
    Ok(ask)
}

fn read(body: &Map<String, Value>) -> Result<Ask, String> {
    let model = body.get("model").and_then(Value::as_str).ok_or("model is required")?;
    let mut ask = Ask::of(model.to_owned());
    // Unlike everybody else's, its answers are streams unless one says no.
    ask.is_stream = body.get("stream").and_then(Value::as_bool) != Some(false);
    let option =
        |name: &str| body.get("options").and_then(|options| options.get(name)).and_then(Value::as_i64);
    ask.num_ctx = option("num_ctx").and_then(|number| u32::try_from(number).ok());
    ask.tokens_max = option("num_predict").and_then(|number| u32::try_from(number).ok());
    ask.keep_alive_s = keep_alive(body.get("keep_alive"))?;
    ask.tools = tools(body.get("tools"));
    if body.get("format").is_some_and(|format| format == "json" || format.is_object()) {
        ask.form = Form::Json;
    }
    Ok(ask)
}

/// Seconds as a number, or a span such as `5m`; negative is for ever.
fn keep_alive(value: Option<&Value>) -> Result<Option<i64>, String> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64().map(|seconds| seconds as i64)),
        Some(Value::String(text)) => {
            let wrong = || format!("time: invalid duration {text:?}");
            let (sign, bare) = text.strip_prefix('-').map_or((1, text.as_str()), |bare| (-1, bare));
            let units = [("ms", 0), ("s", 1), ("m", 60), ("h", 3600)];
            let spanned = units.iter().find_map(|(unit, seconds)| Some((bare.strip_suffix(unit)?, seconds)));
            let (number, seconds) = match (spanned, bare) {
                (Some(found), _) => found,
                (None, "0") => ("0", &1),
                (None, _) => return Err(wrong()),
            };
            let number: i64 = number.parse().map_err(|_| wrong())?;
            Ok(Some(sign * number.saturating_mul(*seconds)))
        }
        Some(_) => Err("invalid keep_alive".to_owned()),
    }
}

/// Writes lines of JSON.
#[derive(Debug)]
pub(crate) struct OllamaWriter {
    model: String,
    is_chat: bool,
}

impl OllamaWriter {
    pub(crate) fn chat(ask: &Ask) -> Self {
        Self { model: ask.model.clone(), is_chat: true }
    }

    pub(crate) fn generate(ask: &Ask) -> Self {
        Self { model: ask.model.clone(), is_chat: false }
    }

    fn line(&self, text: &str, thinking: &str, calls: &[Value], is_done: bool) -> Value {
        let mut line =
            json!({"model": self.model, "created_at": Timestamp::now().to_string(), "done": is_done});
        if !self.is_chat {
            line["response"] = json!(text);
            if !thinking.is_empty() {
                line["thinking"] = json!(thinking);
            }
            return line;
        }
        line["message"] = json!({"role": "assistant", "content": text});
        if !thinking.is_empty() {
            line["message"]["thinking"] = json!(thinking);
        }
        if !calls.is_empty() {
            line["message"]["tool_calls"] = json!(calls);
        }
        line
    }

    fn ends(line: &mut Value, end: End) {
        let ns = |ms: u64| json!(ms.saturating_mul(1_000_000).saturating_add(1000));
        let usage = end.usage;
        line["done_reason"] = json!(if end.finish == Finish::Length { "length" } else { "stop" });
        line["total_duration"] = ns(usage.first_ms.saturating_add(usage.rest_ms));
        line["load_duration"] = ns(usage.load_ms);
        if usage.is_told {
            line["prompt_eval_count"] = json!(usage.prompt);
            line["eval_count"] = json!(usage.answer);
        }
        line["prompt_eval_duration"] = ns(usage.first_ms.saturating_sub(usage.load_ms));
        line["eval_duration"] = ns(usage.rest_ms);
    }
}

fn written(value: &Value) -> String {
    format!("{value}\n")
}

fn call_of(call: &super::ask::Call) -> Value {
    json!({"function": {"name": call.name, "arguments": call.arguments}})
}

impl Writer for OllamaWriter {
    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn open(&mut self, _: &Answer) -> Vec<String> {
        Vec::new()
    }

    fn item(&mut self, item: &Item) -> Vec<String> {
        let line = match item {
            Item::Text(text) => self.line(text, "", &[], false),
            Item::Reason(text) => self.line("", text, &[], false),
            Item::Call(call) => self.line("", "", &[call_of(call)], false),
        };
        vec![written(&line)]
    }

    fn close(&mut self, end: End) -> Vec<String> {
        let mut line = self.line("", "", &[], true);
        Self::ends(&mut line, end);
        vec![written(&line)]
    }

    fn error(&self) -> Vec<String> {
        vec![written(&refusal::in_band(Voice { dialect: Dialect::Ollama, provider: Provider::Ollama }))]
    }

    fn garbage(&self) -> String {
        "{\"model\":\"sim\",\"message\":{\"role\":\"assis\n".to_owned()
    }

    fn comment(&self) -> Option<&'static str> {
        // An empty line is the only thing a reader of lines can skip.
        Some("\n")
    }

    fn whole(&self, answer: &Answer, end: End) -> Value {
        let calls: Vec<Value> = answer.calls().map(call_of).collect();
        let mut whole = self.line(&answer.text(), &answer.reasoning(), &calls, true);
        Self::ends(&mut whole, end);
        whole
    }
}

/// The answer to a request without a question.
pub(crate) fn loaded_only(model: &str, is_chat: bool, reason: &str) -> Value {
    let writer = OllamaWriter { model: model.to_owned(), is_chat };
    let mut line = writer.line("", "", &[], true);
    line["done_reason"] = json!(reason);
    line
}

fn details(model: &ModelSettings) -> Value {
    json!({
        "parent_model": "", "format": "gguf", "family": "simulated", "families": ["simulated"],
        "parameter_size": format!("{:.1}B", model.billions), "quantization_level": "Q4_K_M",
    })
}

fn digest(name: &str) -> String {
    Sha256::digest(name.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

fn tagged(name: &str) -> String {
    if name.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

/// `GET /api/tags`.
pub(crate) fn tags(models: &[ModelSettings]) -> Value {
    let of = |model: &ModelSettings| {
        let mut entry = json!({
            "name": tagged(&model.name), "model": tagged(&model.name), "modified_at": "2026-01-01T00:00:00Z",
            "size": model.size_bytes, "digest": digest(&model.name), "details": details(model),
        });
        if model.elsewhere {
            entry["remote_model"] = json!(model.name);
            entry["remote_host"] = json!("https://ollama.com:443");
            entry["size"] = json!(384);
        }
        entry
    };
    json!({"models": models.iter().map(of).collect::<Vec<_>>()})
}

/// `GET /api/ps`.
pub(crate) fn ps(loaded: &[Loaded]) -> Value {
    let of = |loaded: &Loaded| {
        let expires = loaded.expires_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
        json!({
            "name": tagged(&loaded.name), "model": tagged(&loaded.name), "size": loaded.size_bytes,
            "digest": digest(&loaded.name), "size_vram": loaded.vram_bytes, "context_length": loaded.context_tokens,
            // For ever is three hundred years there.
            "expires_at": expires.map_or_else(|| "2318-01-01T00:00:00Z".to_owned(), |at| at.to_string()),
        })
    };
    json!({"models": loaded.iter().map(of).collect::<Vec<_>>()})
}

/// `POST /api/show`.
pub(crate) fn show(model: &ModelSettings) -> Value {
    let able = [
        ("completion", !model.embeds),
        ("tools", model.tools && !model.embeds),
        ("vision", model.vision),
        ("thinking", model.reasoning_tokens > 0),
        ("embedding", model.embeds),
    ];
    let capabilities: Vec<&str> = able.iter().filter(|(_, is_so)| *is_so).map(|(name, _)| *name).collect();
    json!({
        "modelfile": "", "parameters": "", "template": "{{ .Prompt }}", "details": details(model),
        "model_info": {
            "general.architecture": "simulated", "general.parameter_count": model.billions * 1e9,
            "simulated.context_length": model.context_tokens, "simulated.embedding_length": model.dimensions,
        },
        "capabilities": capabilities, "modified_at": "2026-01-01T00:00:00Z",
    })
}

/// `POST /api/embed`.
pub(crate) fn embed(model: &ModelSettings, dimensions: u32, texts: &[String]) -> Value {
    let vectors: Vec<_> = texts.iter().map(|text| text::vector(text, dimensions)).collect();
    let tokens: u32 = texts.iter().map(|text| text::tokens_of(text)).sum();
    json!({
        "model": model.name, "embeddings": vectors, "total_duration": 1_000_000, "load_duration": 1000,
        "prompt_eval_count": tokens,
    })
}

/// `POST /api/embeddings`, the older call.
pub(crate) fn embedding(dimensions: u32, text: &str) -> Value {
    json!({"embedding": text::vector(text, dimensions)})
}
