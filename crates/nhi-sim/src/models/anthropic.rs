//! Anthropic's Messages.

use super::{
    ask::{Answer, Ask, Choice, Finish, Item, Role, Tool, Turn},
    openai::split,
    refusal::{self, Dialect, Voice},
    script::{End, Writer},
    settings::{ModelSettings, Provider},
};
use serde_json::{Map, Value, json};

/// Reads a request; the error is what is wrong with it.
pub(crate) fn read(body: &Map<String, Value>) -> Result<Ask, String> {
    let model = body.get("model").and_then(Value::as_str).ok_or("model: Field required")?;
    let limit = body.get("max_tokens").and_then(Value::as_u64).ok_or("max_tokens: Field required")?;
    let messages = body.get("messages").and_then(Value::as_array).ok_or("messages: Field required")?;
    if messages.is_empty() {
        return Err("messages: at least one message is required".to_owned());
    }
    let mut ask = Ask::of(model.to_owned());
    ask.tokens_max = Some(u32::try_from(limit).unwrap_or(u32::MAX));
    ask.is_stream = body.get("stream").and_then(Value::as_bool) == Some(true);
    if let Some(system) = body.get("system") {
        ask.turns.push(turn(Role::System, Some(system)));
    }
    for (index, message) in messages.iter().enumerate() {
        let role = match message.get("role").and_then(Value::as_str) {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            Some("system") => {
                return Err("messages: Unexpected role \"system\". The Messages API accepts a top-level `system` parameter, not \"system\" as an input message role.".to_owned());
            }
            _ => return Err(format!("messages.{index}.role: Input should be 'user' or 'assistant'")),
        };
        ask.turns.push(turn(role, message.get("content")));
    }
    let tools = body.get("tools").and_then(Value::as_array).into_iter().flatten();
    ask.tools = tools
        .filter_map(|tool| {
            let schema = tool.get("input_schema").cloned().unwrap_or_else(|| json!({}));
            Some(Tool { name: tool.get("name")?.as_str()?.to_owned(), schema })
        })
        .collect();
    let choice = body.get("tool_choice");
    let named = choice.and_then(|choice| choice.get("name")).and_then(Value::as_str);
    ask.choice = match (choice.and_then(|choice| choice.get("type")).and_then(Value::as_str), named) {
        (Some("none"), _) => Choice::Never,
        (Some("any"), _) => Choice::Any,
        (Some("tool"), Some(name)) => Choice::Named(name.to_owned()),
        _ => Choice::Auto,
    };
    Ok(ask)
}

fn turn(role: Role, content: Option<&Value>) -> Turn {
    let mut turn = Turn { role, text: String::new(), images: 0, is_partial: false, calls: false };
    match content {
        Some(Value::String(text)) => turn.text.clone_from(text),
        Some(Value::Array(blocks)) => {
            for block in blocks {
                match block.get("type").and_then(Value::as_str) {
                    Some("text") => {
                        turn.text.push_str(block.get("text").and_then(Value::as_str).unwrap_or_default());
                    }
                    Some("image") => turn.images += 1,
                    Some("tool_use") => turn.calls = true,
                    Some("tool_result") => {
                        turn.role = Role::Tool;
                        turn.text.push_str(&block.get("content").map(Value::to_string).unwrap_or_default());
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    turn
}

/// A block that is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Text,
    Thinking,
    Tool,
}

/// Writes messages and their events.
#[derive(Debug)]
pub(crate) struct AnthropicWriter {
    model: String,
    number: u64,
    index: u32,
    block: Option<Block>,
}

impl AnthropicWriter {
    pub(crate) fn new(ask: &Ask, number: u64) -> Self {
        Self { model: ask.model.clone(), number, index: 0, block: None }
    }

    fn message(&self, content: Value, stop: Value, input_tokens: u32, output_tokens: u32) -> Value {
        json!({
            "id": format!("msg_sim{:08}", self.number), "type": "message", "role": "assistant",
            "model": self.model, "content": content, "stop_reason": stop, "stop_sequence": null,
            "usage": {"input_tokens": input_tokens, "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0, "output_tokens": output_tokens},
        })
    }

    fn tool_id(&self) -> String {
        format!("toolu_sim{:08}{}", self.number, self.index)
    }

    /// Ends the block before, if it is another one, and begins this one.
    fn begin(&mut self, block: Block, content: &Value, events: &mut Vec<String>) {
        if self.block == Some(block) && block != Block::Tool {
            return;
        }
        self.finish(events);
        self.block = Some(block);
        let start = json!({"type": "content_block_start", "index": self.index, "content_block": content});
        events.push(event("content_block_start", &start));
    }

    fn finish(&mut self, events: &mut Vec<String>) {
        if self.block.take().is_some() {
            let stop = json!({"type": "content_block_stop", "index": self.index});
            events.push(event("content_block_stop", &stop));
            self.index += 1;
        }
    }

    fn delta(&self, delta: &Value) -> String {
        let value = json!({"type": "content_block_delta", "index": self.index, "delta": delta});
        event("content_block_delta", &value)
    }
}

fn event(name: &str, value: &Value) -> String {
    format!("event: {name}\ndata: {value}\n\n")
}

fn stop_word(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Tools => "tool_use",
    }
}

impl Writer for AnthropicWriter {
    fn content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    fn open(&mut self, answer: &Answer) -> Vec<String> {
        let message = self.message(json!([]), Value::Null, answer.prompt_tokens, 1);
        vec![
            event("message_start", &json!({"type": "message_start", "message": message})),
            event("ping", &json!({"type": "ping"})),
        ]
    }

    fn item(&mut self, item: &Item) -> Vec<String> {
        let mut events = Vec::new();
        match item {
            Item::Text(text) => {
                self.begin(Block::Text, &json!({"type": "text", "text": ""}), &mut events);
                events.push(self.delta(&json!({"type": "text_delta", "text": text})));
            }
            Item::Reason(text) => {
                let start = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.begin(Block::Thinking, &start, &mut events);
                events.push(self.delta(&json!({"type": "thinking_delta", "thinking": text})));
            }
            Item::Call(call) => {
                self.finish(&mut events);
                let start = json!({"type": "tool_use", "id": self.tool_id(), "name": call.name, "input": {}});
                self.begin(Block::Tool, &start, &mut events);
                events.push(self.delta(&json!({"type": "input_json_delta", "partial_json": ""})));
                for part in split(&call.arguments.to_string(), 7) {
                    events.push(self.delta(&json!({"type": "input_json_delta", "partial_json": part})));
                }
            }
        }
        events
    }

    fn close(&mut self, end: End) -> Vec<String> {
        let mut events = Vec::new();
        self.finish(&mut events);
        let mut delta = json!({
            "type": "message_delta", "delta": {"stop_reason": stop_word(end.finish), "stop_sequence": null},
        });
        if end.usage.is_told {
            delta["usage"] = json!({"output_tokens": end.usage.answer});
        }
        events.push(event("message_delta", &delta));
        if end.done {
            events.push(event("message_stop", &json!({"type": "message_stop"})));
        }
        events
    }

    fn error(&self) -> Vec<String> {
        let voice = Voice { dialect: Dialect::Anthropic, provider: Provider::Anthropic };
        vec![event("error", &refusal::in_band(voice))]
    }

    fn garbage(&self) -> String {
        "event: content_block_delta\ndata: {\"type\":\"content_block_del\n\n".to_owned()
    }

    fn comment(&self) -> Option<&'static str> {
        Some("event: ping\ndata: {\"type\": \"ping\"}\n\n")
    }

    fn whole(&self, answer: &Answer, end: End) -> Value {
        let mut content = Vec::new();
        if !answer.reasoning().is_empty() {
            content.push(json!({"type": "thinking", "thinking": answer.reasoning(), "signature": "c2lt"}));
        }
        if !answer.text().is_empty() {
            content.push(json!({"type": "text", "text": answer.text()}));
        }
        content.extend(answer.calls().map(
            |call| json!({"type": "tool_use", "id": self.tool_id(), "name": call.name, "input": call.arguments}),
        ));
        self.message(json!(content), json!(stop_word(end.finish)), end.usage.prompt, end.usage.answer)
    }
}

/// `GET /v1/models` with Anthropic's version header.
pub(crate) fn models(models: &[ModelSettings]) -> Value {
    let of = |model: &ModelSettings| json!({"type": "model", "id": model.name, "display_name": model.name, "created_at": "2026-01-01T00:00:00Z"});
    let list: Vec<Value> = models.iter().map(of).collect();
    let id = |model: Option<&ModelSettings>| model.map(|model| model.name.clone());
    json!({"data": list, "has_more": false, "first_id": id(models.first()), "last_id": id(models.last())})
}
