//! Anthropic's Messages. Thinking blocks keep their signatures in `extra_content.anthropic`, so that they can be sent
//! back.

mod request;

pub(crate) use request::request;

use crate::{
    completion::{Chunker, Usage},
    decoder::{Fault, Step},
    lines::Event,
};
use jiff::Timestamp;
use nhi_model::ai::Model;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Reads a stream.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    chunker: Chunker,
    /// Blocks that are open, by their index.
    blocks: BTreeMap<u64, Block>,
    usage: Map<String, Value>,
}

#[derive(Debug)]
enum Block {
    Text,
    /// Sent back as it came.
    Thinking(Map<String, Value>),
    /// The index among tool calls, and whether its arguments began.
    Call(u64, bool),
    Unknown,
}

impl Decoder {
    pub(crate) fn take(
        &mut self,
        event: &Event,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        match serde_json::from_str(&event.data) {
            Ok(Value::Object(said)) => self.event(&said, chunks),
            Ok(_) => Err(Fault::Garbage("it sent an event that is no object")),
            Err(_) => Err(Fault::Garbage("it sent an event that is not JSON")),
        }
    }

    fn event(
        &mut self,
        said: &Map<String, Value>,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        let index = said.get("index").and_then(Value::as_u64).unwrap_or(0);
        let part = |name: &str| said.get(name).and_then(Value::as_object);
        match said.get("type").and_then(Value::as_str) {
            Some("error") => return Err(Fault::Told(Value::Object(said.clone()))),
            Some("message_start") => {
                let message = part("message").ok_or(Fault::Garbage("it began without a message"))?;
                self.begin(message);
            }
            Some("content_block_start") => {
                let block = part("content_block").ok_or(Fault::Garbage("it began a block without one"))?;
                self.open(index, block, chunks);
            }
            Some("content_block_delta") => {
                let delta = part("delta").ok_or(Fault::Garbage("it sent a delta without one"))?;
                self.delta(index, delta, chunks);
            }
            Some("content_block_stop") => self.close(index, chunks),
            Some("message_delta") => {
                if let Some(usage) = part("usage") {
                    self.usage.extend(usage.clone());
                }
                if let Some(native) = part("delta").and_then(|delta| delta.get("stop_reason")?.as_str()) {
                    chunks.push_back(self.chunker.finish(reason(native), Some(native)));
                }
            }
            Some("message_stop") => {
                self.end()?;
                chunks.push_back(self.cost());
                return Ok(Step::Done);
            }
            // Pings, and what later versions add: its documents ask for passing over those.
            Some(_) => {}
            None => return Err(Fault::Garbage("it sent an event without a type")),
        }
        Ok(Step::More)
    }

    /// Reads a whole answer, as the events it would have been.
    pub(crate) fn whole(
        &mut self,
        answer: &Map<String, Value>,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<(), Fault> {
        let blocks = answer.get("content").and_then(Value::as_array);
        let blocks = blocks.ok_or(Fault::Garbage("the answer has no content"))?;
        let native = answer.get("stop_reason").and_then(Value::as_str);
        let native = native.ok_or(Fault::Garbage("the answer has no stop_reason"))?;
        self.begin(answer);
        for (index, block) in (0_u64..).zip(blocks) {
            let block = block.as_object().ok_or(Fault::Garbage("a block of the answer is no object"))?;
            self.open(index, block, chunks);
            self.close(index, chunks);
        }
        chunks.push_back(self.chunker.finish(reason(native), Some(native)));
        chunks.push_back(self.cost());
        Ok(())
    }

    fn begin(&mut self, message: &Map<String, Value>) {
        let text = |name: &str| message.get(name).and_then(Value::as_str).unwrap_or_default();
        // Anthropic does not tell when an answer was made.
        self.chunker.head(text("id"), Timestamp::now().as_second(), text("model"));
        if let Some(usage) = message.get("usage").and_then(Value::as_object) {
            self.usage.extend(usage.clone());
        }
    }

    fn open(&mut self, index: u64, block: &Map<String, Value>, chunks: &mut VecDeque<Map<String, Value>>) {
        let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
        let opened = match text("type") {
            "text" => {
                if !text("text").is_empty() {
                    chunks.push_back(self.chunker.text("content", text("text")));
                }
                Block::Text
            }
            "thinking" | "redacted_thinking" => {
                if !text("thinking").is_empty() {
                    chunks.push_back(self.chunker.text("reasoning_content", text("thinking")));
                }
                Block::Thinking(block.clone())
            }
            "tool_use" => {
                let input =
                    block.get("input").filter(|input| input.as_object().is_some_and(|map| !map.is_empty()));
                let begun = input.is_some();
                let input = input.map(Value::to_string).unwrap_or_default();
                let (call, chunk) = self.chunker.call(Some(text("id")), text("name"), &input);
                chunks.push_back(chunk);
                Block::Call(call, begun)
            }
            // Server-side tools: their blocks are kept as they are.
            _ => {
                let kept = json!({ "anthropic": { "content": [block] } });
                chunks.push_back(self.chunker.delta(Map::from_iter([("extra_content".to_owned(), kept)])));
                Block::Unknown
            }
        };
        self.blocks.insert(index, opened);
    }

    fn delta(&mut self, index: u64, delta: &Map<String, Value>, chunks: &mut VecDeque<Map<String, Value>>) {
        let text = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
        match (text("type"), self.blocks.get_mut(&index)) {
            ("text_delta", _) if !text("text").is_empty() => {
                chunks.push_back(self.chunker.text("content", text("text")));
            }
            ("thinking_delta", Some(Block::Thinking(block))) => {
                let before = block.get("thinking").and_then(Value::as_str).unwrap_or_default();
                let thinking = format!("{before}{}", text("thinking"));
                block.insert("thinking".to_owned(), thinking.into());
                chunks.push_back(self.chunker.text("reasoning_content", text("thinking")));
            }
            ("signature_delta", Some(Block::Thinking(block))) => {
                block.insert("signature".to_owned(), text("signature").into());
            }
            ("input_json_delta", Some(Block::Call(call, begun))) if !text("partial_json").is_empty() => {
                *begun = true;
                let call = *call;
                chunks.push_back(self.chunker.arguments(call, text("partial_json")));
            }
            _ => {}
        }
    }

    fn close(&mut self, index: u64, chunks: &mut VecDeque<Map<String, Value>>) {
        match self.blocks.remove(&index) {
            // A tool without arguments comes without any JSON.
            Some(Block::Call(call, false)) => chunks.push_back(self.chunker.arguments(call, "{}")),
            Some(Block::Thinking(block)) => {
                let kept = json!({ "anthropic": { "thinking": [block] } });
                chunks.push_back(self.chunker.delta(Map::from_iter([("extra_content".to_owned(), kept)])));
            }
            Some(Block::Text | Block::Call(_, true) | Block::Unknown) | None => {}
        }
    }

    fn cost(&self) -> Map<String, Value> {
        let count = |name: &str| self.usage.get(name).and_then(Value::as_u64);
        let (read, written) = (count("cache_read_input_tokens"), count("cache_creation_input_tokens"));
        let usage = Usage {
            // Its figure is without what the cache had, OpenAI's is with it.
            prompt: [count("input_tokens"), read, written].into_iter().flatten().fold(0, u64::saturating_add),
            completion: count("output_tokens").unwrap_or(0),
            cached: read,
            reasoning: None,
        };
        let mut extra = self.usage.clone();
        extra.retain(|name, value| {
            !matches!(name.as_str(), "input_tokens" | "output_tokens") && !value.is_null()
        });
        self.chunker.usage(usage, extra)
    }

    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.chunker.finished() { Ok(()) } else { Err(Fault::Cut("it ended without a stop_reason")) }
    }
}

fn reason(native: &str) -> &'static str {
    match native {
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        _ => "stop",
    }
}

/// Its models.
pub(crate) fn models(answer: &Map<String, Value>) -> Result<Vec<Model>, Fault> {
    let list = answer.get("data").and_then(Value::as_array);
    let list = list.ok_or(Fault::Garbage("its list of models has no data"))?;
    let rows = list.iter().filter_map(|row| {
        let tokens = |name: &str| row.get(name)?.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
        Some(Model {
            name: row.get("id")?.as_str()?.to_owned(),
            context_tokens: tokens("max_input_tokens"),
            output_tokens_max: tokens("max_tokens"),
            // All that are served can.
            tools: Some(true),
            vision: Some(true),
            ..Model::default()
        })
    });
    Ok(rows.collect())
}
