//! A backend's words without those it repeats of the request: errors go to logs and to other people. It judges nothing.

use serde_json::{Map, Value};

/// How much of a backend's words is looked at.
const CHARS_MAX: usize = 300;
/// So long a piece of the request, word for word, is no accident.
const PIECE_CHARS: usize = 40;
/// Each such piece, wherever it begins, holds one whole block of this size.
const BLOCK_CHARS: usize = PIECE_CHARS / 2;
/// How validators introduce what they were given; the last one is the second in a text within a text.
const INTRODUCTIONS: &[&str] = &["input_value=", "input\":", "input':", "input\\\":"];
/// How many of a list's complaints are told.
const COMPLAINTS_MAX: usize = 3;

/// The text up to where it begins to repeat what was sent.
pub(super) fn without(text: &str, sent: Option<&Map<String, Value>>) -> String {
    let chars: Vec<char> = text.chars().take(CHARS_MAX).collect();
    let text: String = chars.iter().collect();
    let introduced = INTRODUCTIONS.iter().filter_map(|word| text.find(word)).min();
    let introduced = introduced.map(|at| text[..at].chars().count());
    let mut said = Vec::new();
    for (name, value) in sent.into_iter().flatten() {
        // A model's name has to be told, however long.
        if name != "model" {
            strings(value, &mut said);
        }
    }
    match introduced.into_iter().chain(repeated(&chars, &said)).min() {
        Some(at) => chars[..at].iter().chain(&['…']).collect(),
        None => text,
    }
}

/// What a list of complaints says (FastAPI, vLLM), or one of them: never the `input` that stands beside.
pub(super) fn complaints(value: &Value) -> String {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let complaints = list.iter().take(COMPLAINTS_MAX).map(|one| {
        let word = |name: &str| one.get(name).and_then(Value::as_str);
        let place = one.get("loc").and_then(Value::as_array).into_iter().flatten();
        let place: Vec<String> =
            place.map(|part| part.as_str().map_or_else(|| part.to_string(), str::to_owned)).collect();
        let text = word("msg").or_else(|| word("message")).or_else(|| word("type")).unwrap_or_default();
        if place.is_empty() { text.to_owned() } else { format!("{}: {text}", place.join(".")) }
    });
    let complaints: Vec<String> = complaints.filter(|text| !text.is_empty()).collect();
    complaints.join("; ")
}

/// Where a piece of these texts begins in the message.
fn repeated(message: &[char], said: &[&str]) -> Option<usize> {
    let holds = |begin: usize, length: usize| {
        let Some(piece) = message.get(begin..begin + length) else { return false };
        let piece: String = piece.iter().collect();
        said.iter().any(|text| text.contains(&piece))
    };
    // The request may be large, so the message's few blocks are looked for first.
    let blocks = (0..message.len()).step_by(BLOCK_CHARS).filter(|begin| holds(*begin, BLOCK_CHARS));
    let mut pieces = blocks.flat_map(|block| block.saturating_sub(BLOCK_CHARS)..=block);
    pieces.find(|begin| holds(*begin, PIECE_CHARS))
}

fn strings<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) if text.len() >= PIECE_CHARS => found.push(text),
        Value::Array(list) => list.iter().for_each(|value| strings(value, found)),
        Value::Object(map) => map.values().for_each(|value| strings(value, found)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
