//! Google's own API: `generateContent`, its streams (events, or one array), vectors, models.

use super::{
    ask::{Answer, Ask, Choice, Finish, Item, Role, Tool, Turn},
    openai::UNSIGNED,
    refusal::{self, Dialect, Voice},
    script::{End, Usage, Writer},
    settings::{ModelSettings, Provider},
    text::{self, Form},
};
use serde_json::{Map, Value, json};

/// The fields of a request; anything else is an error there.
const FIELDS: [&str; 9] = [
    "contents",
    "tools",
    "toolConfig",
    "safetySettings",
    "systemInstruction",
    "system_instruction",
    "generationConfig",
    "cachedContent",
    "model",
];

/// Reads a request; the error is what is wrong with it.
pub(crate) fn read(body: &Map<String, Value>, model: &str) -> Result<Ask, String> {
    if let Some(name) = body.keys().find(|name| !FIELDS.contains(&name.as_str())) {
        return Err(format!("Invalid JSON payload received. Unknown name \"{name}\": Cannot find field."));
    }
    let contents = body.get("contents").and_then(Value::as_array).filter(|list| !list.is_empty());
    let contents = contents.ok_or("* GenerateContentRequest.contents: contents is not specified\n")?;
    let mut ask = Ask::of(model.to_owned());
    let system = body.get("systemInstruction").or_else(|| body.get("system_instruction"));
    if let Some(system) = system {
        ask.turns.push(turn(system, Role::System)?);
    }
    for content in contents {
        let role = match content.get("role").and_then(Value::as_str) {
            Some("model") => Role::Assistant,
            Some("user" | "function") | None => Role::User,
            Some(_) => return Err("Please use a valid role: user, model.".to_owned()),
        };
        ask.turns.push(turn(content, role)?);
    }
    ask.tools = tools(body.get("tools"));
    let calling = body.get("toolConfig").and_then(|config| config.get("functionCallingConfig"));
    let names = calling.and_then(|calling| calling.get("allowedFunctionNames")).and_then(Value::as_array);
    ask.choice = match calling.and_then(|calling| calling.get("mode")).and_then(Value::as_str) {
        Some("NONE") => Choice::Never,
        Some("ANY") => names
            .and_then(|names| names.first()?.as_str())
            .map_or(Choice::Any, |name| Choice::Named(name.to_owned())),
        _ => Choice::Auto,
    };
    let config = body.get("generationConfig");
    let limit = config.and_then(|config| config.get("maxOutputTokens")).and_then(Value::as_u64);
    ask.tokens_max = limit.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX));
    if config.and_then(|config| config.get("responseMimeType")).and_then(Value::as_str)
        == Some("application/json")
    {
        ask.form = Form::Json;
    }
    Ok(ask)
}

fn turn(content: &Value, role: Role) -> Result<Turn, String> {
    let parts = content.get("parts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let has = |part: &Value, name: &str| part.get(name).is_some();
    let calls = parts.iter().any(|part| has(part, "functionCall"));
    if calls && !parts.iter().any(|part| has(part, "thoughtSignature")) {
        return Err(UNSIGNED.to_owned());
    }
    let answered: String = parts
        .iter()
        .filter_map(|part| Some(part.get("functionResponse")?.get("response")?.to_string()))
        .collect();
    let text: String = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
    let images = parts.iter().filter(|part| has(part, "inlineData") || has(part, "fileData")).count();
    let role = if answered.is_empty() { role } else { Role::Tool };
    Ok(Turn { role, text: format!("{text}{answered}"), images, is_partial: false, calls })
}

fn tools(list: Option<&Value>) -> Vec<Tool> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    let declared = list.filter_map(|tool| tool.get("functionDeclarations")?.as_array()).flatten();
    declared
        .filter_map(|function| {
            let schema = function.get("parameters").or_else(|| function.get("parametersJsonSchema"));
            let schema = schema.cloned().unwrap_or_else(|| json!({}));
            Some(Tool { name: function.get("name")?.as_str()?.to_owned(), schema })
        })
        .collect()
}

/// Writes `GenerateContentResponse`s.
#[derive(Debug)]
pub(crate) struct GeminiWriter {
    model: String,
    number: u64,
    is_sse: bool,
    wrote: bool,
    /// Tokens of the prompt, and of the answer so far.
    usage: (u32, u32),
    tells: bool,
}

impl GeminiWriter {
    pub(crate) fn new(ask: &Ask, number: u64, is_sse: bool, tells: bool) -> Self {
        Self { model: ask.model.clone(), number, is_sse, wrote: false, usage: (0, 0), tells }
    }

    fn response(&self, parts: Value, finish: Option<Finish>) -> Value {
        let mut candidate = json!({"content": {"parts": parts, "role": "model"}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = json!(match finish {
                Finish::Length => "MAX_TOKENS",
                // Calls end in STOP too.
                Finish::Stop | Finish::Tools => "STOP",
            });
        }
        let id = format!("sim-{:08}", self.number);
        json!({"candidates": [candidate], "modelVersion": self.model, "responseId": id})
    }

    fn event(&mut self, value: &Value) -> String {
        let first = !std::mem::replace(&mut self.wrote, true);
        match (self.is_sse, first) {
            (true, _) => format!("data: {value}\r\n\r\n"),
            (false, true) => format!("[{value}"),
            (false, false) => format!("\n,\r\n{value}"),
        }
    }
}

fn part(item: &Item) -> Value {
    match item {
        Item::Text(text) => json!({"text": text}),
        Item::Reason(text) => json!({"text": text, "thought": true}),
        Item::Call(call) => {
            json!({"functionCall": {"name": call.name, "args": call.arguments}, "thoughtSignature": "c2ltdWxhdGVk"})
        }
    }
}

fn usage_of(usage: Usage) -> Value {
    let mut told = json!({
        "promptTokenCount": usage.prompt, "candidatesTokenCount": usage.answer.saturating_sub(usage.reasoning),
        "totalTokenCount": usage.prompt.saturating_add(usage.answer),
    });
    if usage.reasoning > 0 {
        told["thoughtsTokenCount"] = json!(usage.reasoning);
    }
    told
}

impl Writer for GeminiWriter {
    fn content_type(&self) -> &'static str {
        if self.is_sse { "text/event-stream" } else { "application/json; charset=UTF-8" }
    }

    fn open(&mut self, answer: &Answer) -> Vec<String> {
        self.usage = (answer.prompt_tokens, 0);
        Vec::new()
    }

    fn item(&mut self, item: &Item) -> Vec<String> {
        let mut response = self.response(json!([part(item)]), None);
        self.usage.1 += 1;
        if self.tells {
            // In each event, counted from the beginning: who adds them up is wrong.
            let (prompt, so_far) = self.usage;
            response["usageMetadata"] = json!({
                "promptTokenCount": prompt, "candidatesTokenCount": so_far,
                "totalTokenCount": prompt.saturating_add(so_far),
            });
        }
        vec![self.event(&response)]
    }

    fn close(&mut self, end: End) -> Vec<String> {
        let mut response = self.response(json!([{"text": ""}]), Some(end.finish));
        if end.usage.is_told {
            response["usageMetadata"] = usage_of(end.usage);
        }
        let mut events = vec![self.event(&response)];
        if !self.is_sse && end.done {
            events.push("\n]\n".to_owned());
        }
        events
    }

    fn error(&self) -> Vec<String> {
        let error = refusal::in_band(Voice { dialect: Dialect::Gemini, provider: Provider::Gemini });
        match (self.is_sse, self.wrote) {
            (true, _) => vec![format!("data: {error}\r\n\r\n")],
            (false, true) => vec![format!("\n,\r\n{error}\n]\n")],
            (false, false) => vec![format!("[{error}\n]\n")],
        }
    }

    fn garbage(&self) -> String {
        let broken = "{\"candidates\":[{\"content\":{\"par";
        if self.is_sse { format!("data: {broken}\r\n\r\n") } else { format!("\n,\r\n{broken}") }
    }

    fn comment(&self) -> Option<&'static str> {
        self.is_sse.then_some(": keep-alive\r\n\r\n")
    }

    fn whole(&self, answer: &Answer, end: End) -> Value {
        let mut parts = Vec::new();
        if !answer.reasoning().is_empty() {
            parts.push(part(&Item::Reason(answer.reasoning())));
        }
        if !answer.text().is_empty() {
            parts.push(part(&Item::Text(answer.text())));
        }
        parts.extend(answer.calls().map(|call| part(&Item::Call(call.clone()))));
        let mut whole = self.response(json!(parts), Some(end.finish));
        if end.usage.is_told {
            whole["usageMetadata"] = usage_of(end.usage);
        }
        whole
    }
}

/// One model.
pub(crate) fn model(model: &ModelSettings) -> Value {
    let methods =
        if model.embeds { json!(["embedContent"]) } else { json!(["generateContent", "countTokens"]) };
    json!({
        "name": format!("models/{}", model.name), "version": "001", "displayName": model.name,
        "inputTokenLimit": model.context_tokens, "outputTokenLimit": model.context_tokens / 4,
        "supportedGenerationMethods": methods, "thinking": model.reasoning_tokens > 0,
    })
}

/// `GET /v1beta/models`.
pub(crate) fn models(models: &[ModelSettings]) -> Value {
    json!({"models": models.iter().map(model).collect::<Vec<_>>()})
}

/// `embedContent` and `batchEmbedContents`.
pub(crate) fn embed(body: &Map<String, Value>, is_batch: bool, dimensions: u32) -> Value {
    let vector = |request: Option<&Value>| {
        let parts = request.and_then(|content| content.get("parts")).and_then(Value::as_array);
        let texts = parts.into_iter().flatten().filter_map(|part| part.get("text")?.as_str());
        json!({"values": text::vector(&texts.collect::<String>(), dimensions)})
    };
    if !is_batch {
        return json!({"embedding": vector(body.get("content"))});
    }
    let requests = body.get("requests").and_then(Value::as_array).into_iter().flatten();
    json!({"embeddings": requests.map(|request| vector(request.get("content"))).collect::<Vec<_>>()})
}
