//! A conversation with a model as a tool: asked for in frames, so that it may take long and can be cancelled, and told
//! whole. It chooses no model.

use super::{
    ask::{self, Asker, Next, Progress},
    schema::Object,
};
use crate::dialect::pieces::{self, Calls, ToolCall};
use nhi_bus::call::Opened;
use nhi_model::fault::{Fault, FaultCode};
use rmcp::model::CallToolResult;
use serde_json::{Value, json};

/// Longest answer kept, bytes: more than any model writes at once.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// What a piece of a call counts for beside its words, bytes.
const CALL_BYTES: usize = 64;

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
    finish: Option<String>,
    model: Value,
    usage: Value,
    origin: Value,
    calls: Calls,
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
        let is_whole = chunk.pointer("/choices/0/message").is_some();
        let read: fn(&Object) -> pieces::Piece = if is_whole { pieces::of_answer } else { pieces::of_chunk };
        let Some(piece) = chunk.as_object().map(read) else { return };
        self.finish = piece.finish.or(self.finish.take());
        self.bytes += piece.text.len();
        self.text.push_str(&piece.text);
        for call in piece.calls {
            let words = [call.id.as_deref(), call.name.as_deref(), call.signature.as_deref()];
            self.bytes += CALL_BYTES + call.arguments.len();
            self.bytes += words.into_iter().flatten().map(str::len).sum::<usize>();
            self.calls.add(call);
        }
    }

    fn told(mut self) -> Value {
        let mut told = json!({ "content": self.text });
        for (name, value) in [
            ("finish_reason", self.finish.into()),
            ("model", self.model),
            ("usage", self.usage),
            ("nhi", self.origin),
        ] {
            if !value.is_null() {
                told[name] = value;
            }
        }
        let calls: Vec<Value> = self.calls.take().into_iter().map(call_told).collect();
        if !calls.is_empty() {
            told["tool_calls"] = calls.into();
        }
        told
    }
}

/// A call as a message of the conversation has it, so that it can be given back.
fn call_told(call: ToolCall) -> Value {
    let function = json!({ "name": call.name, "arguments": call.arguments });
    let mut told = json!({ "id": call.id, "type": "function", "function": function });
    if let Some(signature) = call.signature {
        told["extra_content"] = json!({ "google": { "thought_signature": signature } });
    }
    told
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
    fn a_call_that_comes_in_pieces_is_told_whole() {
        let mut answer = Answer::default();
        for calls in [
            json!([{"index": 0, "id": "a", "type": "function", "function": {"name": "boil", "arguments": "{\"cups\""}}]),
            json!([{"index": 1, "id": "b", "type": "function", "function": {"name": "pour", "arguments": "{}"}}]),
            json!([{"index": 0, "function": {"arguments": ":2}"}}]),
        ] {
            answer.take(&json!({"choices": [{"delta": {"tool_calls": calls}}]}));
        }
        let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let calls = json!([call("a", "boil", "{\"cups\":2}"), call("b", "pour", "{}")]);
        assert_eq!(answer.told()["tool_calls"], calls);
        let mut whole = Answer::default();
        whole.take(&json!({"choices": [{"message": {"content": null, "tool_calls": calls}}]}));
        assert_eq!(whole.told(), json!({"content": "", "tool_calls": calls}));
    }

    #[test]
    fn calls_of_tools_count_as_well_as_text() {
        let mut answer = Answer::default();
        answer.take(&json!({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "x".repeat(1_000)}}]}}]}));
        assert!(answer.text.is_empty() && answer.bytes > 1_000, "{}", answer.bytes);
    }
}
