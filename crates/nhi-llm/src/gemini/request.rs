//! A `chat.completions` body as Gemini's `generateContent` takes it. It refuses fields it does not know, so only known
//! ones go out.

use crate::{
    content::{self, Format, MustCall, Part},
    decoder::Fault,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What Gemini 3 takes instead of a signature for a call that another model made.
const FOREIGN_SIGNATURE: &str = "skip_thought_signature_validator";
/// Its own fields, which pass as they are.
const OWN: &[&str] = &["cachedContent", "labels", "safetySettings"];
/// OpenAI's name of a setting, and Gemini's.
const SETTINGS: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "topP"),
    ("top_k", "topK"),
    ("seed", "seed"),
    ("presence_penalty", "presencePenalty"),
    ("frequency_penalty", "frequencyPenalty"),
];

/// The body of `generateContent`.
pub(crate) fn request(request: &Map<String, Value>) -> Result<Map<String, Value>, Fault> {
    content::one_choice(request)?;
    let model = content::model(request)?;
    let mut said = Map::new();
    for name in OWN {
        if let Some(value) = request.get(*name) {
            said.insert((*name).to_owned(), value.clone());
        }
    }
    let settings = settings(request, model);
    if !settings.is_empty() {
        said.insert("generationConfig".to_owned(), Value::Object(settings));
    }
    let tools = content::tools(request);
    if !tools.is_empty() {
        let functions: Vec<Value> = tools.iter().filter_map(function).collect();
        // Its own (`{"googleSearch": {}}`), from a caller that speaks to Gemini.
        let own = tools.iter().filter(|tool| tool.get("type").is_none() && tool.get("function").is_none());
        let mut tools: Vec<Value> = own.cloned().collect();
        if !functions.is_empty() {
            tools.push(json!({ "functionDeclarations": functions }));
        }
        said.insert("tools".to_owned(), tools.into());
        let calling = match content::must_call(request) {
            MustCall::Nothing => json!({ "mode": "AUTO" }),
            MustCall::Any => json!({ "mode": "ANY" }),
            MustCall::This(name) => json!({ "mode": "ANY", "allowedFunctionNames": [name] }),
        };
        said.insert("toolConfig".to_owned(), json!({ "functionCallingConfig": calling }));
    }
    let (system, contents) = contents(content::messages(request)?, model)?;
    if !system.is_empty() {
        said.insert("systemInstruction".to_owned(), json!({ "parts": system }));
    }
    said.insert("contents".to_owned(), contents.into());
    Ok(said)
}

fn settings(request: &Map<String, Value>, model: &str) -> Map<String, Value> {
    let own = request.get("generationConfig").and_then(Value::as_object);
    let mut settings = own.cloned().unwrap_or_default();
    for (theirs, ours) in SETTINGS {
        if let Some(value) = request.get(*theirs).filter(|value| !value.is_null()) {
            settings.insert((*ours).to_owned(), value.clone());
        }
    }
    if let Some(most) = content::output_tokens_max(request) {
        settings.insert("maxOutputTokens".to_owned(), most.into());
    }
    if let Some(stops) = content::stops(request) {
        settings.insert("stopSequences".to_owned(), stops);
    }
    match content::format(request) {
        Format::Text => {}
        Format::Json => {
            settings.insert("responseMimeType".to_owned(), "application/json".into());
        }
        Format::Schema(schema) => {
            settings.insert("responseMimeType".to_owned(), "application/json".into());
            settings.insert("responseJsonSchema".to_owned(), schema.clone());
        }
    }
    if let Some(effort) = request.get("reasoning_effort").and_then(Value::as_str) {
        settings.entry("thinkingConfig").or_insert_with(|| thinking(effort, model));
    }
    settings
}

/// The figures are those of Gemini's own OpenAI mode; the third family has words instead.
fn thinking(effort: &str, model: &str) -> Value {
    if model.contains("gemini-3") {
        let level = if matches!(effort, "none" | "minimal" | "low") { "low" } else { "high" };
        return json!({ "thinkingLevel": level });
    }
    let budget = match effort {
        "none" => 0,
        "minimal" | "low" => 1024,
        "medium" => 8192,
        _ => 24_576,
    };
    json!({ "thinkingBudget": budget })
}

fn function(tool: &Value) -> Option<Value> {
    let function = tool.get("function")?;
    let mut said = Map::new();
    for name in ["name", "description"] {
        if let Some(value) = function.get(name).filter(|value| !value.is_null()) {
            said.insert(name.to_owned(), value.clone());
        }
    }
    if let Some(schema) = function.get("parameters").filter(|schema| schema.is_object()) {
        said.insert("parametersJsonSchema".to_owned(), schema.clone());
    }
    Some(Value::Object(said))
}

/// The system's parts, and the turns: neighbours of one role are one turn, as results of parallel calls have to be.
fn contents(messages: &[Value], model: &str) -> Result<(Vec<Value>, Vec<Value>), Fault> {
    let names = content::call_names(messages);
    let mut system = Vec::new();
    let mut turns: Vec<(&str, Vec<Value>)> = Vec::new();
    for message in messages {
        let (role, message) = content::role(message)?;
        let (role, parts) = match role {
            "system" | "developer" => {
                system.push(json!({ "text": content::text(message)? }));
                continue;
            }
            "assistant" => ("model", assistant(message, model)?),
            "tool" | "function" => ("user", vec![result(message, &names)?]),
            "user" => ("user", parts(message)?),
            other => return Err(content::wrong(&format!("nobody knows the role {other:?}"))),
        };
        match turns.last_mut() {
            Some((last, list)) if *last == role => list.extend(parts),
            _ if parts.is_empty() => {}
            _ => turns.push((role, parts)),
        }
    }
    let turns = turns.into_iter().map(|(role, parts)| json!({ "role": role, "parts": parts }));
    Ok((system, turns.collect()))
}

fn parts(message: &Map<String, Value>) -> Result<Vec<Value>, Fault> {
    let mut said = Vec::new();
    for part in content::parts(message)? {
        said.push(match part {
            Part::Text { text: "", .. } => continue,
            Part::Text { text, .. } => json!({ "text": text }),
            Part::Data { mime, data, .. } => json!({ "inlineData": { "mimeType": mime, "data": data } }),
            // Its own files, and what its documents name, are known by their address.
            Part::Url(url) if url.starts_with("https://generativelanguage.googleapis.com/") => {
                json!({ "fileData": { "fileUri": url } })
            }
            Part::Url(_) => {
                return Err(content::unable("Gemini takes images only as data: urls or its own files"));
            }
        });
    }
    Ok(said)
}

fn signature(value: Option<&Value>) -> Option<&str> {
    value?.pointer("/google/thought_signature")?.as_str()
}

fn assistant(message: &Map<String, Value>, model: &str) -> Result<Vec<Value>, Fault> {
    let mut said = parts(message)?;
    if let (Some(signature), Some(last)) = (signature(message.get("extra_content")), said.last_mut()) {
        last["thoughtSignature"] = signature.into();
    }
    for (at, call) in content::calls(message)?.into_iter().enumerate() {
        let mut part = json!({ "functionCall": { "name": call.name, "args": call.arguments } });
        let foreign = (at == 0 && model.contains("gemini-3")).then_some(FOREIGN_SIGNATURE);
        if let Some(signature) = signature(call.raw.get("extra_content")).or(foreign) {
            part["thoughtSignature"] = signature.into();
        }
        said.push(part);
    }
    Ok(said)
}

fn result(message: &Map<String, Value>, names: &BTreeMap<&str, &str>) -> Result<Value, Fault> {
    let id = message.get("tool_call_id").and_then(Value::as_str).unwrap_or_default();
    let name = names.get(id).copied().or_else(|| message.get("name").and_then(Value::as_str));
    let name = name.ok_or_else(|| content::wrong("a tool's message answers no call of this conversation"))?;
    let text = content::text(message)?;
    let response = match serde_json::from_str(&text) {
        Ok(object @ Value::Object(_)) => object,
        Ok(_) | Err(_) => json!({ "result": text }),
    };
    Ok(json!({ "functionResponse": { "name": name, "response": response } }))
}
