//! Ollama's own API. Its OpenAI mode ignores `num_ctx` and cuts prompts silently; this one does neither.

mod models;
mod request;

pub(crate) use models::{Row, elsewhere, loaded, model, rows};
pub(crate) use request::request;

use crate::{
    completion::{Chunker, Usage},
    decoder::{Fault, Step},
    lines::Event,
    refusal,
};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// Reads a stream, and a whole answer, which is the same as one line that is done.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    chunker: Chunker,
}

impl Decoder {
    pub(crate) fn take(
        &mut self,
        event: &Event,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        match serde_json::from_str(&event.data) {
            Ok(Value::Object(line)) if refusal::tells_error(&line) => Err(Fault::Told(Value::Object(line))),
            Ok(Value::Object(line)) => self.line(line, chunks),
            Ok(_) => Err(Fault::Garbage("it sent a line that is no object")),
            Err(_) => Err(Fault::Garbage("it sent a line that is not JSON")),
        }
    }

    pub(crate) fn line(
        &mut self,
        mut line: Map<String, Value>,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        let done = line.remove("done") == Some(Value::Bool(true));
        let message = line.remove("message");
        if message.is_none() && !done {
            return Err(Fault::Garbage("it sent a line without a message"));
        }
        let at = line.get("created_at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
        let at = at.unwrap_or(Timestamp::UNIX_EPOCH);
        let model = line.get("model").and_then(Value::as_str).unwrap_or_default();
        self.chunker.head(&format!("chatcmpl-{}", at.as_nanosecond()), at.as_second(), model);
        if let Some(Value::Object(message)) = message {
            self.message(&message, &line, chunks);
        }
        if !done {
            return Ok(Step::More);
        }
        let native = line.get("done_reason").and_then(Value::as_str);
        let reason = if native == Some("length") { "length" } else { "stop" };
        chunks.push_back(self.chunker.finish(reason, native));
        let count = |name: &str| line.get(name).and_then(Value::as_u64).unwrap_or(0);
        let usage =
            Usage { prompt: count("prompt_eval_count"), completion: count("eval_count"), ..Usage::default() };
        let mut last = self.chunker.usage(usage, Map::new());
        // How long it loaded, read and wrote: the ledger makes tokens a second of it.
        line.retain(|name, _| !matches!(name.as_str(), "model" | "created_at" | "logprobs"));
        last.insert("ollama".to_owned(), Value::Object(line));
        chunks.push_back(last);
        Ok(Step::Done)
    }

    fn message(
        &mut self,
        message: &Map<String, Value>,
        line: &Map<String, Value>,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) {
        let text = |name: &str| message.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(thinking) = text("thinking") {
            chunks.push_back(self.chunker.text("reasoning_content", thinking));
        }
        let logprobs = line.get("logprobs").filter(|logprobs| logprobs.is_array());
        if let Some(content) = text("content") {
            let mut chunk = self.chunker.text("content", content);
            if let Some(logprobs) = logprobs {
                chunk["choices"][0]["logprobs"] = json!({ "content": logprobs });
            }
            chunks.push_back(chunk);
        }
        for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            let name = call.pointer("/function/name").and_then(Value::as_str).unwrap_or_default();
            let arguments =
                call.pointer("/function/arguments").map_or_else(|| "{}".to_owned(), Value::to_string);
            let id = call.get("id").and_then(Value::as_str);
            chunks.push_back(self.chunker.call(id, name, &arguments).1);
        }
    }

    pub(crate) fn end(&self) -> Result<(), Fault> {
        if self.chunker.finished() { Ok(()) } else { Err(Fault::Cut("it ended without done")) }
    }
}
