//! A conversation with a model as a tool: asked for in frames, so that it may take long and can be cancelled, and told
//! whole. It chooses no model.

use super::ask::{self, Asker, Next, Progress};
use nhi_bus::call::Opened;
use nhi_model::fault::{Fault, FaultCode};
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

/// Longest answer kept, bytes: more than any model writes at once.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// `ai.chat`
pub(super) async fn converse(
    asker: &Asker,
    mut body: Value,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    let Some(fields) = body.as_object_mut() else {
        return Err(Fault::new(FaultCode::BadRequest, "the body is not an object", "give `messages`"));
    };
    fields.entry("model").or_insert_with(|| "auto".into());
    fields.insert("stream".to_owned(), true.into());
    let (opened, mut frames) = asker.open("ai", "chat", &body).await?;
    let mut answer = Answer::default();
    if let Opened::Whole(whole) = opened {
        answer.take(&serde_json::from_slice(&whole).unwrap_or_default());
        return Ok(ask::told(answer.told()));
    }
    let until = ask::gathered_until();
    loop {
        let said = format!("{} characters so far", answer.text.len());
        let payload = match ask::next(&mut frames, until, progress, &said).await? {
            Next::Frame(payload) => payload,
            Next::End => break,
            Next::Late => {
                let hint = "set max_tokens, or leave it as a job: ai_jobs";
                return Err(Fault::new(FaultCode::Timeout, "the model did not come to an end", hint));
            }
        };
        answer.take(&serde_json::from_slice(&payload).unwrap_or_default());
        if answer.bytes > ANSWER_BYTES_MAX {
            let message = format!("the model wrote more than {ANSWER_BYTES_MAX} bytes");
            return Err(Fault::new(FaultCode::TooLarge, message, "set max_tokens"));
        }
        progress.tell_some(&format!("{} characters so far", answer.text.len())).await;
    }
    Ok(ask::told(answer.told()))
}

/// What the frames have brought.
#[derive(Debug, Default)]
struct Answer {
    text: String,
    /// Of the text and the calls.
    bytes: usize,
    finish: Value,
    model: Value,
    usage: Value,
    origin: Value,
    calls: Vec<Value>,
}

impl Answer {
    /// Takes a chunk, or a whole completion.
    fn take(&mut self, chunk: &Value) {
        for (name, place) in
            [("model", &mut self.model), ("usage", &mut self.usage), ("nhi", &mut self.origin)]
        {
            if let Some(value) = chunk.get(name).filter(|value| !value.is_null()) {
                *place = value.clone();
            }
        }
        let Some(choice) = chunk.pointer("/choices/0") else { return };
        if let Some(finish) = choice.get("finish_reason").filter(|finish| !finish.is_null()) {
            self.finish = finish.clone();
        }
        let Some(said) = choice.get("delta").or_else(|| choice.get("message")) else { return };
        let text = said.get("content").and_then(Value::as_str).unwrap_or_default();
        self.text.push_str(text);
        self.bytes += text.len();
        if let Some(calls) = said.get("tool_calls").and_then(Value::as_array) {
            self.bytes += calls.iter().map(|call| call.to_string().len()).sum::<usize>();
            self.calls.extend(calls.iter().cloned());
        }
    }

    fn told(self) -> Value {
        let mut told = json!({ "content": self.text });
        for (name, value) in [
            ("finish_reason", self.finish),
            ("model", self.model),
            ("usage", self.usage),
            ("nhi", self.origin),
        ] {
            if !value.is_null() {
                told[name] = value;
            }
        }
        if !self.calls.is_empty() {
            told["tool_calls"] = self.calls.into();
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_and_whole_completions_are_told_alike() {
        let mut chunks = Answer::default();
        for chunk in [
            json!({"model": "m", "choices": [{"delta": {"role": "assistant", "content": "a"}, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": "b"}}], "nhi": {"provider": "p"}}),
            json!({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"total_tokens": 3}}),
            json!({"choices": [], "usage": null}),
            json!("garbage"),
        ] {
            chunks.take(&chunk);
        }
        let mut whole = Answer::default();
        whole.take(&json!({
            "model": "m", "nhi": {"provider": "p"}, "usage": {"total_tokens": 3},
            "choices": [{"message": {"role": "assistant", "content": "ab"}, "finish_reason": "stop"}],
        }));
        let told = chunks.told();
        assert_eq!(told["content"], "ab");
        assert_eq!(told, whole.told());
    }
    #[test]
    fn calls_of_tools_count_as_well_as_text() {
        let mut answer = Answer::default();
        answer.take(&json!({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "x".repeat(1_000)}}]}}]}));
        assert!(answer.text.is_empty() && answer.bytes > 1_000, "{}", answer.bytes);
    }
}
