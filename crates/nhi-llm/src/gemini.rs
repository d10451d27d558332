//! Google's `generateContent`. Thought signatures are kept in `extra_content.google.thought_signature`, where Gemini's
//! OpenAI mode has them too, and go back from there.

mod request;

pub(crate) use request::request;

use crate::{
    completion::{Chunker, Usage},
    decoder::{Fault, Step},
    lines::Event,
    refusal,
};
use jiff::Timestamp;
use nhi_model::ai::Model;
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// Reads a stream, and a whole answer, which is the same as one event.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    chunker: Chunker,
    /// The last word counts: it is told with each event, so far.
    usage: Option<Value>,
}

impl Decoder {
    pub(crate) fn take(
        &mut self,
        event: &Event,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<Step, Fault> {
        match serde_json::from_str(&event.data) {
            Ok(Value::Object(said)) if refusal::tells_error(&said) => Err(Fault::Told(Value::Object(said))),
            Ok(Value::Object(said)) => self.said(&said, chunks).map(|()| Step::More),
            Ok(list @ Value::Array(_)) if refusal::tells_error_in_list(&list) => Err(Fault::Told(list)),
            Ok(_) => Err(Fault::Garbage("it sent an event that is no object")),
            Err(_) => Err(Fault::Garbage("it sent an event that is not JSON")),
        }
    }

    pub(crate) fn said(
        &mut self,
        said: &Map<String, Value>,
        chunks: &mut VecDeque<Map<String, Value>>,
    ) -> Result<(), Fault> {
        let text = |name: &str| said.get(name).and_then(Value::as_str).unwrap_or_default();
        self.chunker.head(text("responseId"), Timestamp::now().as_second(), text("modelVersion"));
        if let Some(usage) = said.get("usageMetadata").filter(|usage| usage.is_object()) {
            self.usage = Some(usage.clone());
        }
        let Some(candidate) = said.get("candidates").and_then(|list| list.get(0)) else {
            if let Some(why) = said.get("promptFeedback").and_then(|told| told.get("blockReason")?.as_str()) {
                chunks.push_back(self.chunker.text("refusal", &format!("the prompt was blocked: {why}")));
                chunks.push_back(self.chunker.finish("content_filter", Some(why)));
                return Ok(());
            }
            if said.contains_key("usageMetadata") {
                return Ok(());
            }
            return Err(Fault::Garbage("it sent an event without candidates"));
        };
        let parts = candidate.pointer("/content/parts").and_then(Value::as_array);
        for part in parts.into_iter().flatten() {
            self.part(part, chunks);
        }
        let Some(native) = candidate.get("finishReason").and_then(Value::as_str) else { return Ok(()) };
        let reason = match native {
            "STOP" => "stop",
            "MAX_TOKENS" => "length",
            "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE"
            | "IMAGE_SAFETY" => "content_filter",
            // A broken tool call, or no reason: not an answer that anybody should take for one.
            other => {
                let why = candidate.get("finishMessage").and_then(Value::as_str).unwrap_or("no reason told");
                let message = format!("the answer ended with {other}: {why}");
                return Err(Fault::Told(json!({ "error": { "message": message } })));
            }
        };
        if !self.chunker.finished() {
            chunks.push_back(self.chunker.finish(reason, Some(native)));
        }
        Ok(())
    }

    fn part(&mut self, part: &Value, chunks: &mut VecDeque<Map<String, Value>>) {
        let signature = part.get("thoughtSignature").and_then(Value::as_str);
        let kept = signature.map(|signature| json!({ "google": { "thought_signature": signature } }));
        if let Some(call) = part.get("functionCall") {
            let name = call.get("name").and_then(Value::as_str).unwrap_or_default();
            let arguments = call.get("args").map_or_else(|| "{}".to_owned(), Value::to_string);
            let (_, mut chunk) = self.chunker.call(call.get("id").and_then(Value::as_str), name, &arguments);
            if let Some(kept) = kept {
                chunk["choices"][0]["delta"]["tool_calls"][0]["extra_content"] = kept;
            }
            return chunks.push_back(chunk);
        }
        let mut delta = Map::new();
        if let Some(text) = part.get("text").and_then(Value::as_str) {
            let thought = part.get("thought") == Some(&Value::Bool(true));
            if !text.is_empty() {
                let field = if thought { "reasoning_content" } else { "content" };
                delta.insert(field.to_owned(), text.into());
            }
        } else if let Some(data) = part.get("inlineData") {
            let text = |name: &str| data.get(name).and_then(Value::as_str).unwrap_or_default();
            let url = format!("data:{};base64,{}", text("mimeType"), text("data"));
            let image = json!([{ "type": "image_url", "image_url": { "url": url } }]);
            delta.insert("images".to_owned(), image);
        } else if part.as_object().is_some_and(|part| part.keys().any(|name| name != "thoughtSignature")) {
            delta.insert("google_parts".to_owned(), json!([part]));
        }
        if let Some(kept) = kept {
            delta.insert("extra_content".to_owned(), kept);
        }
        if !delta.is_empty() {
            chunks.push_back(self.chunker.delta(delta));
        }
    }

    pub(crate) const fn finished(&self) -> bool {
        self.chunker.finished()
    }

    pub(crate) fn end(&self, chunks: &mut VecDeque<Map<String, Value>>) -> Result<(), Fault> {
        if !self.chunker.finished() {
            return Err(Fault::Cut("it ended without a finishReason"));
        }
        let Some(usage) = &self.usage else { return Ok(()) };
        let count = |name: &str| usage.get(name).and_then(Value::as_u64);
        let thought = count("thoughtsTokenCount");
        let sum = |one: Option<u64>, other: Option<u64>| one.unwrap_or(0).saturating_add(other.unwrap_or(0));
        let figures = Usage {
            prompt: sum(count("promptTokenCount"), count("toolUsePromptTokenCount")),
            completion: sum(count("candidatesTokenCount"), thought),
            cached: count("cachedContentTokenCount"),
            reasoning: thought,
        };
        chunks.push_back(self.chunker.usage(figures, Map::new()));
        Ok(())
    }
}

/// The models of one page.
pub(crate) fn models(answer: &Map<String, Value>) -> Result<Vec<Model>, Fault> {
    let list = answer.get("models").and_then(Value::as_array);
    let list = list.ok_or(Fault::Garbage("its list of models has no models"))?;
    let rows = list.iter().filter_map(|row| {
        let name = row.get("name")?.as_str()?.trim_start_matches("models/").to_owned();
        let methods = row.get("supportedGenerationMethods").and_then(Value::as_array);
        let can = |word: &str| methods.is_some_and(|list| list.iter().any(|method| method == word));
        let tokens = |name: &str| row.get(name)?.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
        let answers = can("generateContent");
        if !answers && !can("embedContent") {
            return None;
        }
        // Others than Gemini (Gemma) are served too, with less.
        let gemini = (answers && name.starts_with("gemini")).then_some(true);
        Some(Model {
            context_tokens: tokens("inputTokenLimit"),
            output_tokens_max: tokens("outputTokenLimit"),
            tools: gemini,
            vision: gemini,
            embeds: !answers,
            name,
            ..Model::default()
        })
    });
    Ok(rows.collect())
}

/// The path of a model; a name that would lead elsewhere is refused.
pub(crate) fn path(model: &str, verb: &str) -> Result<String, Fault> {
    let name = model.trim_start_matches("models/");
    let fits = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(fits) || name.starts_with('.') {
        return Err(crate::content::wrong(&format!("{model:?} is no name of a Gemini model")));
    }
    Ok(format!("models/{name}:{verb}"))
}
