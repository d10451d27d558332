//! OpenAI's `chat.completions`, which is the form inside as well: requests lose what the provider is known to refuse,
//! answers stay as they are. No field is translated.

use crate::{
    backend::Loaded,
    decoder::{Fault, Step},
    endpoint::Options,
    lines::Event,
    ollama,
    provider::{Accent, Limit, Provider},
    refusal,
};
use nhi_model::ai::{Continues, Model, Price};
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, VecDeque};

/// Without these it is no request, or another one.
const ALWAYS: &[&str] = &["messages", "model", "stream"];

/// The request as this provider takes it.
pub(crate) fn request(
    mut request: Map<String, Value>,
    provider: Provider,
    options: &Options,
) -> Map<String, Value> {
    let accent = provider.accent();
    limit(&mut request, accent.limit);
    if request.get("stream") == Some(&Value::Bool(true)) {
        // Without it nobody learns what the answer cost.
        let wanted = request.entry("stream_options").or_insert_with(|| json!({}));
        if let Some(wanted) = wanted.as_object_mut() {
            wanted.entry("include_usage").or_insert(Value::Bool(true));
        }
    } else {
        request.remove("stream_options");
    }
    thinking(&mut request, provider);
    match (&options.fields, accent.fields) {
        (Some(fields), _) => {
            request.retain(|name, _| ALWAYS.contains(&name.as_str()) || fields.contains(name))
        }
        (None, Some(fields)) => request.retain(|name, _| fields.contains(&name.as_str())),
        (None, None) => {}
    }
    for message in request.get_mut("messages").and_then(Value::as_array_mut).into_iter().flatten() {
        narrow(message, &accent);
    }
    request
}

/// Settings of thinking that a provider answers with 400.
fn thinking(request: &mut Map<String, Value>, provider: Provider) {
    let streams = request.get("stream") == Some(&Value::Bool(true));
    let model = request.get("model").and_then(Value::as_str).unwrap_or_default();
    // Open Qwen3 models think unless told otherwise, and thinking comes in pieces only.
    if provider == Provider::Dashscope
        && !streams
        && model.starts_with("qwen3")
        && !model.contains("thinking")
    {
        request.insert("enable_thinking".to_owned(), Value::Bool(false));
    }
    if provider == Provider::Google {
        let effort = request.get_mut("reasoning_effort");
        match effort.as_ref().and_then(|effort| effort.as_str()) {
            Some("minimal") => request.insert("reasoning_effort".to_owned(), "low".into()),
            Some("xhigh" | "max") => request.insert("reasoning_effort".to_owned(), "high".into()),
            _ => None,
        };
    }
}

fn limit(request: &mut Map<String, Value>, limit: Limit) {
    let short = request.remove("max_tokens");
    let long = request.remove("max_completion_tokens");
    let Some(most) = long.or(short) else { return };
    match limit {
        Limit::MaxTokens => {
            request.insert("max_tokens".to_owned(), most);
        }
        Limit::MaxCompletionTokens => {
            request.insert("max_completion_tokens".to_owned(), most);
        }
        Limit::Both => {
            request.insert("max_tokens".to_owned(), most.clone());
            request.insert("max_completion_tokens".to_owned(), most);
        }
    }
}

fn narrow(message: &mut Value, accent: &Accent) {
    let Some(message) = message.as_object_mut() else { return };
    if let Some(fields) = accent.message_fields {
        message.retain(|name, _| fields.contains(&name.as_str()));
    }
    if accent.extra_content {
        return;
    }
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(call) = call.as_object_mut() {
            call.remove("extra_content");
        }
    }
}

/// A whole answer.
pub(crate) fn answer(answer: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let choices = answer.get("choices").and_then(Value::as_array);
    let Some(choices) = choices.filter(|choices| !choices.is_empty()) else {
        return Err(Fault::Garbage("the answer has no choices"));
    };
    if choices.iter().all(|choice| choice.get("message").is_some_and(Value::is_object)) {
        Ok(answer)
    } else {
        Err(Fault::Garbage("the answer has a choice without a message"))
    }
}

/// A whole answer as the chunks it would have been.
pub(crate) fn chunks_of(mut answer: Map<String, Value>) -> Vec<Map<String, Value>> {
    let choices = answer.remove("choices");
    let usage = answer.remove("usage");
    answer.insert("object".to_owned(), "chat.completion.chunk".into());
    let chunk = |choices: Value| {
        let mut chunk = answer.clone();
        chunk.insert("choices".to_owned(), choices);
        chunk
    };
    let mut chunks = Vec::new();
    let choices =
        choices.and_then(|choices| if let Value::Array(list) = choices { Some(list) } else { None });
    for (at, mut choice) in choices.unwrap_or_default().into_iter().enumerate() {
        let index = choice.get("index").cloned().unwrap_or_else(|| at.into());
        let reason = choice.get("finish_reason").cloned().filter(|reason| !reason.is_null());
        let mut delta = choice.get_mut("message").map(Value::take).unwrap_or_else(|| json!({}));
        let calls = delta.get_mut("tool_calls").and_then(Value::as_array_mut);
        for (at, call) in calls.into_iter().flatten().enumerate() {
            if let Some(call) = call.as_object_mut() {
                call.entry("index").or_insert_with(|| at.into());
            }
        }
        chunks.push(chunk(json!([{ "index": index, "delta": delta, "finish_reason": null }])));
        let reason = reason.unwrap_or_else(|| "stop".into());
        chunks.push(chunk(json!([{ "index": index, "delta": {}, "finish_reason": reason }])));
    }
    if let Some(usage) = usage {
        let mut last = chunk(json!([]));
        last.insert("usage".to_owned(), usage);
        chunks.push(last);
    }
    chunks
}

/// Reads a stream.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// How many answers were asked for.
    choices: usize,
    open: BTreeSet<u64>,
    finished: BTreeSet<u64>,
}

impl Decoder {
    pub(crate) fn new(request: &Map<String, Value>) -> Self {
        let choices = request.get("n").and_then(Value::as_u64).unwrap_or(1);
        let choices = usize::try_from(choices).unwrap_or(usize::MAX);
        Self { choices, open: BTreeSet::new(), finished: BTreeSet::new() }
    }

    pub(crate) fn take(
        &mut self,
        event: &Event,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        let data = event.data.trim();
        if data == "[DONE]" {
            // Servers that give one answer, however many were asked for, say so here.
            self.choices = self.choices.min(self.finished.len().max(1));
            self.end()?;
            return Ok(Step::Done);
        }
        let Ok(value) = serde_json::from_str::<Value>(data) else {
            return match event.name.as_deref() {
                Some("error") => Err(Fault::Told(json!({ "error": { "message": data } }))),
                _ => Err(Fault::Garbage("it sent an event that is not JSON")),
            };
        };
        let named_error = event.name.as_deref() == Some("error");
        let chunk = match value {
            Value::Object(chunk) if !named_error && !refusal::tells_error(&chunk) => chunk,
            value @ (Value::Object(_) | Value::Array(_)) => return Err(Fault::Told(value)),
            _ => return Err(Fault::Garbage("it sent an event that is no chunk")),
        };
        let Some(choices) = chunk.get("choices").and_then(Value::as_array) else {
            // Named events beside the chunks are a server's own remarks.
            return match event.name {
                Some(_) => Ok(Step::More),
                None => Err(Fault::Garbage("it sent an event without choices")),
            };
        };
        for choice in choices {
            let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
            let done = choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
            if done {
                self.open.remove(&index);
                self.finished.insert(index);
            } else if !self.finished.contains(&index) {
                self.open.insert(index);
            }
        }
        chunks.push_back(chunk);
        Ok(Step::More)
    }

    /// A `finish_reason` for each choice is the end: some servers forget `[DONE]`, and `[DONE]` alone proves nothing.
    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.finished.len() < self.choices.max(1) || !self.open.is_empty() {
            return Err(Fault::Cut("it ended without a finish_reason"));
        }
        Ok(())
    }
}

/// Its models, and who it is.
pub(crate) fn models(answer: &Map<String, Value>) -> Result<Vec<Model>, Fault> {
    let list = answer.get("data").and_then(Value::as_array);
    let list = list.ok_or(Fault::Garbage("its list of models has no data"))?;
    Ok(list.iter().filter_map(model).collect())
}

fn model(row: &Value) -> Option<Model> {
    let name = row.get("id").and_then(Value::as_str)?;
    // Gemini's OpenAI mode lists `models/…` and takes both.
    let name = name.strip_prefix("models/").unwrap_or(name).to_owned();
    // Groq, vLLM, OpenRouter, llama.cpp, in this order.
    let context = [
        row.get("context_window"),
        row.get("max_model_len"),
        row.get("context_length"),
        row.pointer("/meta/n_ctx"),
        row.pointer("/meta/n_ctx_train"),
    ];
    let context = context.into_iter().flatten().find_map(Value::as_u64);
    let output = [row.get("max_completion_tokens"), row.pointer("/top_provider/max_completion_tokens")];
    let output = output.into_iter().flatten().find_map(Value::as_u64);
    let told = |list: Option<&Value>, words: &[&str]| {
        let list = list.and_then(Value::as_array)?;
        Some(list.iter().filter_map(Value::as_str).any(|word| words.contains(&word)))
    };
    let parameters = row.pointer("/meta/n_params").and_then(Value::as_f64);
    Some(Model {
        context_tokens: context.and_then(|tokens| u32::try_from(tokens).ok()),
        output_tokens_max: output.and_then(|tokens| u32::try_from(tokens).ok()),
        tools: told(row.get("supported_parameters"), &["tools"]),
        vision: told(row.pointer("/architecture/input_modalities"), &["image"]),
        embeds: name.contains("embed"),
        billions: parameters.map(|count| count / 1e9),
        price: price(row),
        // Behind an Ollama in its OpenAI mode as well, nothing of the house goes to a cloud unasked.
        elsewhere: ollama::elsewhere(&name, row),
        name,
    })
}

/// OpenRouter tells dollars for a token, as text.
fn price(row: &Value) -> Option<Price> {
    let dollars = |name: &str| row.pointer(name)?.as_str()?.parse::<f64>().ok();
    let (input, output) = (dollars("/pricing/prompt")?, dollars("/pricing/completion")?);
    let price = Price { input: input * 1e6, output: output * 1e6 };
    (price.input > 0.0 || price.output > 0.0).then_some(price)
}

/// Whether this server goes on with a text, where its list of models tells who it is.
pub(crate) fn who(answer: &Map<String, Value>) -> Option<Continues> {
    let rows = answer.get("data").and_then(Value::as_array)?;
    rows.iter().find_map(|row| match row.get("owned_by").and_then(Value::as_str)? {
        "llamacpp" => Some(Continues::Prefill),
        "vllm" => Some(Continues::Final),
        _ => None,
    })
}

/// What llama-swap says is running.
pub(crate) fn running(answer: &Map<String, Value>) -> Vec<Loaded> {
    let rows = answer.get("running").and_then(Value::as_array);
    let names = rows.into_iter().flatten().filter_map(|row| row.get("model")?.as_str());
    names.map(|name| Loaded { name: name.to_owned(), ..Loaded::default() }).collect()
}

/// What llama.cpp's router says is loaded; a server with one model says nothing, and has it in memory as long as it
/// runs.
pub(crate) fn loaded(answer: &Map<String, Value>) -> Vec<Loaded> {
    let rows = answer.get("data").and_then(Value::as_array);
    let rows = rows.into_iter().flatten().filter(|row| {
        let state = row.pointer("/status/value").or_else(|| row.get("state")).and_then(Value::as_str);
        state.is_some_and(|state| matches!(state, "loaded" | "loading"))
    });
    let names = rows.filter_map(|row| row.get("id")?.as_str());
    names.map(|name| Loaded { name: name.to_owned(), ..Loaded::default() }).collect()
}

#[cfg(test)]
mod tests;
