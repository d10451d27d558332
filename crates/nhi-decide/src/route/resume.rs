//! How another backend takes up a text where one broke off. It sends nothing, and never puts a mark into the text.

use super::LIMIT_FIELDS;
use nhi_model::ai::Continues;
use serde_json::{Map, Value, json};

/// Tokens the answer may still have; `None`: the request sets no limit. 0 means that it ended by its limit.
pub fn left_tokens(request: &Map<String, Value>, tokens: u32) -> Option<u32> {
    let limit = limits(request).find_map(|field| request.get(field)?.as_u64())?;
    Some(u32::try_from(limit.saturating_sub(u64::from(tokens))).unwrap_or(u32::MAX))
}

fn limits(request: &Map<String, Value>) -> impl Iterator<Item = &'static str> {
    LIMIT_FIELDS.into_iter().filter(|field| request.contains_key(*field))
}

/// The request that goes on after `text`, of which `tokens` were counted. `None`: this answer can only begin anew,
/// or it was at its limit.
///
/// An answer in a grammar (JSON mode, tools that must be called), several answers at once and probabilities per token
/// cannot be taken up: the other side would begin its grammar, or its count, anew.
pub fn resume(
    request: &Map<String, Value>,
    text: &str,
    continues: Continues,
    tokens: u32,
) -> Option<Map<String, Value>> {
    if text.is_empty() {
        return Some(request.clone());
    }
    if !can(request) {
        return None;
    }
    let mut out = request.clone();
    if let Some(left) = left_tokens(request, tokens) {
        if left == 0 {
            return None;
        }
        for field in limits(request) {
            out.insert(field.to_owned(), left.into());
        }
    }
    let messages = out.get_mut("messages")?.as_array_mut()?;
    let mut last = json!({"role": "assistant", "content": text});
    // A caller that already put words into the model's mouth: ours follow them.
    if let Some(before) = messages.last().filter(|message| message["role"] == "assistant") {
        let before = before.get("content")?.as_str()?;
        last["content"] = format!("{before}{text}").into();
        messages.pop();
    }
    match continues {
        Continues::Prefill => {}
        Continues::Partial => last["partial"] = true.into(),
        Continues::Final => {}
        Continues::Never => return None,
    }
    messages.push(last);
    if continues == Continues::Final {
        out.insert("continue_final_message".to_owned(), true.into());
        out.insert("add_generation_prompt".to_owned(), false.into());
    }
    Some(out)
}

/// Whether an answer is always the same, so that a text can be gone on with by the word.
pub fn is_cold(request: &Map<String, Value>) -> bool {
    request.get("temperature").and_then(Value::as_f64) == Some(0.0)
}

/// How the next backend is asked to go on.
#[derive(Clone, Debug, PartialEq)]
pub struct TakeUp {
    /// The request.
    pub request: Map<String, Value>,
    /// The end of the text it is to say again.
    pub repeats: String,
    /// Whether anything else means that it goes another way.
    pub must: bool,
}

/// How a backend is asked to go on behind `text`; at its start where there is none. Where the same model is to go on at
/// temperature 0 it is given the text up to the last word (`by_word`), because a text cut within a word is not made of
/// the tokens the model would have chosen; the word has to come again as it was. Where it does not, it is given all of
/// the text. `tokens_until` counts those up to a byte. `None`: not so.
pub fn take_up(
    request: Map<String, Value>,
    text: &str,
    continues: Continues,
    by_word: bool,
    tokens_until: impl Fn(usize) -> u32,
) -> Option<TakeUp> {
    if text.is_empty() {
        return (!by_word).then_some(TakeUp { request, repeats: String::new(), must: false });
    }
    let head = if by_word {
        text.rfind(char::is_whitespace).map_or("", |at| text[..at].trim_end())
    } else {
        text.trim_end()
    };
    let request = resume(&request, head, continues, tokens_until(head.len()))?;
    Some(TakeUp { request, repeats: text[head.len()..].to_owned(), must: by_word })
}

fn can(request: &Map<String, Value>) -> bool {
    let format = request.get("response_format").and_then(|format| format.get("type")).and_then(Value::as_str);
    let many = request.get("n").and_then(Value::as_u64).is_some_and(|n| n > 1);
    let probabilities = request.get("logprobs") == Some(&Value::Bool(true));
    let forced = match request.get("tool_choice") {
        None | Some(Value::Null) => false,
        Some(Value::String(word)) => word == "required",
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => true,
    };
    matches!(format, None | Some("text")) && !many && !probabilities && !forced
}
