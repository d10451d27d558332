//! Builds OpenAI's chunks for backends that speak otherwise, and puts chunks together to a whole answer. It knows no
//! backend.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Makes the chunks of one answer with one choice.
#[derive(Debug, Default)]
pub(crate) struct Chunker {
    /// The fields that each chunk has.
    head: Map<String, Value>,
    spoken: bool,
    finished: bool,
    calls: u64,
}

/// What an answer cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    pub(crate) completion: u64,
    pub(crate) cached: Option<u64>,
    pub(crate) reasoning: Option<u64>,
}

impl Chunker {
    /// Sets what each chunk says of the answer; the first words count.
    pub(crate) fn head(&mut self, id: &str, created: i64, model: &str) {
        if !self.head.is_empty() {
            return;
        }
        let id = if id.is_empty() { format!("chatcmpl-{created}") } else { id.to_owned() };
        self.head.insert("id".to_owned(), id.into());
        self.head.insert("object".to_owned(), "chat.completion.chunk".into());
        self.head.insert("created".to_owned(), created.into());
        self.head.insert("model".to_owned(), model.into());
    }

    /// The first words about the answer, as its id.
    pub(crate) fn id(&self) -> &str {
        self.head.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// A piece of the message.
    pub(crate) fn delta(&mut self, mut delta: Map<String, Value>) -> Map<String, Value> {
        if !self.spoken {
            self.spoken = true;
            delta.insert("role".to_owned(), "assistant".into());
        }
        self.choice(json!({ "index": 0, "delta": delta, "finish_reason": null }))
    }

    /// A piece of one field of the message.
    pub(crate) fn text(&mut self, field: &str, text: &str) -> Map<String, Value> {
        self.delta(Map::from_iter([(field.to_owned(), text.into())]))
    }

    /// A tool call that begins; gives its index as well.
    pub(crate) fn call(
        &mut self,
        id: Option<&str>,
        name: &str,
        arguments: &str,
    ) -> (u64, Map<String, Value>) {
        let index = self.calls;
        self.calls += 1;
        let id = id.filter(|id| !id.is_empty());
        // Ids meet those of other answers in the same conversation: the answer's own id keeps them apart.
        let id = id.map_or_else(|| format!("call_{}_{index}", self.id()), str::to_owned);
        let call = json!({ "index": index, "id": id, "type": "function", "function": { "name": name, "arguments": arguments } });
        (index, self.delta(Map::from_iter([("tool_calls".to_owned(), json!([call]))])))
    }

    /// More of a tool call's arguments.
    pub(crate) fn arguments(&mut self, index: u64, more: &str) -> Map<String, Value> {
        let call = json!({ "index": index, "function": { "arguments": more } });
        self.delta(Map::from_iter([("tool_calls".to_owned(), json!([call]))]))
    }

    /// The end; `native` is the backend's own word for it.
    pub(crate) fn finish(&mut self, reason: &str, native: Option<&str>) -> Map<String, Value> {
        self.finished = true;
        let mut delta = Map::new();
        if !self.spoken {
            self.spoken = true;
            delta.insert("role".to_owned(), "assistant".into());
            delta.insert("content".to_owned(), "".into());
        }
        let reason = if reason == "stop" && self.calls > 0 { "tool_calls" } else { reason };
        let mut choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        if let Some(native) = native {
            choice["native_finish_reason"] = native.into();
        }
        self.choice(choice)
    }

    pub(crate) const fn finished(&self) -> bool {
        self.finished
    }

    /// What it cost; `extra` stands beside the figures.
    pub(crate) fn usage(&self, usage: Usage, extra: Map<String, Value>) -> Map<String, Value> {
        let mut said = Map::new();
        said.insert("prompt_tokens".to_owned(), usage.prompt.into());
        said.insert("completion_tokens".to_owned(), usage.completion.into());
        said.insert("total_tokens".to_owned(), usage.prompt.saturating_add(usage.completion).into());
        if let Some(cached) = usage.cached {
            said.insert("prompt_tokens_details".to_owned(), json!({ "cached_tokens": cached }));
        }
        if let Some(reasoning) = usage.reasoning {
            said.insert("completion_tokens_details".to_owned(), json!({ "reasoning_tokens": reasoning }));
        }
        said.extend(extra);
        let mut chunk = self.head.clone();
        chunk.insert("choices".to_owned(), json!([]));
        chunk.insert("usage".to_owned(), Value::Object(said));
        chunk
    }

    fn choice(&self, choice: Value) -> Map<String, Value> {
        let mut chunk = self.head.clone();
        chunk.insert("choices".to_owned(), Value::Array(vec![choice]));
        chunk
    }
}

/// Chunks put together to the `chat.completion` they are the pieces of. Fields nobody knows stay, the last word counts.
pub fn assembled(chunks: impl IntoIterator<Item = Map<String, Value>>) -> Map<String, Value> {
    let mut whole = Map::new();
    let mut choices: BTreeMap<u64, Map<String, Value>> = BTreeMap::new();
    for chunk in chunks {
        for (name, value) in chunk {
            match (name.as_str(), value) {
                ("choices", Value::Array(list)) => {
                    for choice in list {
                        let index = choice.get("index").and_then(Value::as_u64).unwrap_or(0);
                        if let Value::Object(choice) = choice {
                            add_choice(choices.entry(index).or_default(), choice);
                        }
                    }
                }
                ("usage", Value::Null) => {}
                (_, value) => {
                    whole.insert(name, value);
                }
            }
        }
    }
    whole.insert("object".to_owned(), "chat.completion".into());
    let choices = choices.into_iter().map(|(index, choice)| Value::Object(closed(index, choice)));
    whole.insert("choices".to_owned(), choices.collect());
    whole
}

fn closed(index: u64, mut choice: Map<String, Value>) -> Map<String, Value> {
    choice.insert("index".to_owned(), index.into());
    let mut message = match choice.remove("message") {
        Some(Value::Object(message)) => message,
        _ => Map::new(),
    };
    message.insert("role".to_owned(), "assistant".into());
    if message.get("content").and_then(Value::as_str).is_none_or(str::is_empty) {
        let calls = message.contains_key("tool_calls");
        message.insert("content".to_owned(), if calls { Value::Null } else { "".into() });
    }
    choice.insert("message".to_owned(), Value::Object(message));
    choice
}

fn add_choice(choice: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (name, value) in piece {
        match (name.as_str(), value) {
            ("delta", Value::Object(delta)) => {
                let message = choice.entry("message").or_insert_with(|| json!({}));
                if let Some(message) = message.as_object_mut() {
                    delta.into_iter().for_each(|(name, value)| add_field(message, name, value));
                }
            }
            ("logprobs", Value::Object(logprobs)) => {
                let all = choice.entry("logprobs").or_insert_with(|| json!({}));
                if let Some(all) = all.as_object_mut() {
                    logprobs.into_iter().for_each(|(name, value)| add_field(all, name, value));
                }
            }
            (_, Value::Null) => {
                choice.entry(name).or_insert(Value::Null);
            }
            (_, value) => {
                choice.insert(name, value);
            }
        }
    }
}

fn add_field(message: &mut Map<String, Value>, name: String, value: Value) {
    let joins = matches!(name.as_str(), "content" | "reasoning_content" | "reasoning" | "refusal");
    match (message.get_mut(&name), value) {
        (Some(Value::String(text)), Value::String(more)) if joins => text.push_str(&more),
        (Some(Value::Array(calls)), Value::Array(more)) if name == "tool_calls" => {
            more.into_iter().for_each(|call| add_call(calls, call));
        }
        (None, Value::Array(more)) if name == "tool_calls" => {
            let mut calls = Vec::new();
            more.into_iter().for_each(|call| add_call(&mut calls, call));
            message.insert(name, Value::Array(calls));
        }
        (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
        (Some(_), Value::Null) => {}
        (_, value) => {
            message.insert(name, value);
        }
    }
}

/// Pieces of a call have its index; the whole one does not.
fn add_call(calls: &mut Vec<Value>, mut piece: Value) {
    let index = piece.as_object_mut().and_then(|piece| piece.remove("index"));
    // Some servers give whole calls without an index.
    let index = index.and_then(|index| index.as_u64()).and_then(|index| usize::try_from(index).ok());
    // An index far off would be a list of nothing, as long as the backend likes.
    let index = index.unwrap_or(calls.len()).min(calls.len());
    let Some(call) = calls.get_mut(index) else { return calls.push(piece) };
    let Some(piece) = piece.as_object_mut() else { return };
    if let Some(more) = piece.get("function").and_then(|function| function.get("arguments")?.as_str()) {
        let before = call.pointer("/function/arguments").and_then(Value::as_str).unwrap_or_default();
        let arguments = format!("{before}{more}");
        if let Some(function) = piece.get_mut("function") {
            function["arguments"] = arguments.into();
        }
    }
    let Some(call) = call.as_object_mut() else { return };
    for (name, value) in std::mem::take(piece) {
        match (call.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => {
                known.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
            }
            (Some(_), Value::Null) => {}
            (_, value) => {
                call.insert(name, value);
            }
        }
    }
}
