//! Embeddings of Ollama and Gemini as OpenAI's. Texts only: nobody but OpenAI knows OpenAI's tokens.

use crate::{content, decoder::Fault};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// The texts of a request.
pub(crate) fn texts(request: &Map<String, Value>) -> Result<Vec<&str>, Fault> {
    match request.get("input") {
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|text| text.as_str().ok_or_else(|| content::unable("only texts can be embedded there")))
            .collect(),
        _ => Err(content::wrong("the request has no input")),
    }
}

/// The body of Ollama's `/api/embed`.
pub(crate) fn to_ollama(mut request: Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let texts: Value = texts(&request)?.into();
    request.insert("input".to_owned(), texts);
    request.remove("encoding_format");
    // How long a model stays in a GPU is not a caller's to say.
    request.remove("keep_alive");
    // What does not fit is an error, not the vector of a half text.
    request.insert("truncate".to_owned(), Value::Bool(false));
    Ok(request)
}

/// The body of Gemini's `batchEmbedContents`.
pub(crate) fn to_gemini(request: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    let model = format!("models/{}", content::model(request)?.trim_start_matches("models/"));
    let texts = texts(request)?.into_iter().map(|text| {
        let mut one = json!({ "model": model, "content": { "parts": [{ "text": text }] } });
        if let Some(dimensions) = request.get("dimensions") {
            one["outputDimensionality"] = dimensions.clone();
        }
        one
    });
    Ok(Map::from_iter([("requests".to_owned(), texts.collect())]))
}

/// The vectors of either's answer.
pub(crate) fn vectors(answer: &mut Map<String, Value>) -> Result<Vec<Vec<f32>>, Fault> {
    let garbage = || Fault::Garbage("its embeddings are no lists of numbers");
    let Some(Value::Array(list)) = answer.remove("embeddings") else { return Err(garbage()) };
    let vector = |value: Value| {
        let value = match value {
            Value::Object(mut object) => object.remove("values").unwrap_or(Value::Null),
            other => other,
        };
        serde_json::from_value(value).map_err(|_| garbage())
    };
    list.into_iter().map(vector).collect()
}

/// OpenAI's answer; clients of OpenAI ask for base64 by default.
pub(crate) fn answer(model: &str, vectors: Vec<Vec<f32>>, base64: bool, tokens: u64) -> Map<String, Value> {
    let rows = vectors.into_iter().enumerate().map(|(index, vector)| {
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        } else {
            Value::from(vector)
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    Map::from_iter([
        ("object".to_owned(), "list".into()),
        ("data".to_owned(), rows.collect()),
        ("model".to_owned(), model.into()),
        ("usage".to_owned(), json!({ "prompt_tokens": tokens, "total_tokens": tokens })),
    ])
}
