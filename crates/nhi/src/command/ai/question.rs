//! Makes a conversation of words, files and what comes through a pipe.

use crate::{
    cli::ai::Ask,
    exit::{Ending, Exit, Failure},
};
use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nhi_model::{ai::ORIGIN_FIELD, call::PAYLOAD_BYTES_MAX};
use serde_json::{Map, Value, json};
use std::{
    fs,
    io::{self, IsTerminal, Read},
    path::Path,
};

/// OpenAI's body of a question.
///
/// # Errors
/// [`Exit::Usage`] when there is none, or a file cannot be sent.
pub(super) fn body(ask: &Ask) -> Result<Map<String, Value>, Failure> {
    let mut texts = Vec::new();
    let mut pictures = Vec::new();
    if !ask.words.is_empty() {
        texts.push(ask.words.join(" "));
    }
    let mut piped = String::new();
    if !io::stdin().is_terminal() {
        let limit = u64::try_from(PAYLOAD_BYTES_MAX).expect("eight megabytes fit");
        let reading = io::stdin().lock().take(limit).read_to_string(&mut piped);
        reading.context("read the question from standard input").ending(Exit::Usage)?;
    }
    if !piped.trim().is_empty() {
        texts.push(piped);
    }
    for file in &ask.files {
        match read(file)? {
            Part::Text(text) => texts.push(format!("{}:\n```\n{text}\n```", file.display())),
            Part::Picture(url) => pictures.push(url),
        }
    }
    if texts.is_empty() && pictures.is_empty() {
        let sentence = "there is no question: give words, a file, or something through a pipe";
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let text = texts.join("\n\n");
    let content = if pictures.is_empty() {
        Value::from(text)
    } else {
        let picture = |url: &String| json!({ "type": "image_url", "image_url": { "url": url } });
        let mut parts = vec![json!({ "type": "text", "text": text })];
        parts.extend(pictures.iter().map(picture));
        Value::from(parts)
    };
    let mut messages: Vec<Value> =
        ask.system.iter().map(|system| json!({ "role": "system", "content": system })).collect();
    messages.push(json!({ "role": "user", "content": content }));
    let mut body = Map::new();
    body.insert("model".to_owned(), ask.model.as_str().into());
    body.insert("messages".to_owned(), messages.into());
    body.extend(ask.max_tokens.map(|tokens| ("max_tokens".to_owned(), tokens.into())));
    body.extend(ask.temperature.map(|temperature| ("temperature".to_owned(), temperature.into())));
    let mut about = Map::new();
    about.extend(ask.project.as_ref().map(|project| ("project".to_owned(), project.as_str().into())));
    about.extend(ask.privacy.map(|privacy| ("privacy".to_owned(), json!(privacy.class()))));
    about.extend(ask.priority.map(|priority| ("priority".to_owned(), json!(priority.class()))));
    if !about.is_empty() {
        body.insert(ORIGIN_FIELD.to_owned(), about.into());
    }
    Ok(body)
}

enum Part {
    Text(String),
    /// A data URL.
    Picture(String),
}

fn read(file: &Path) -> Result<Part, Failure> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display())).ending(Exit::Usage)?;
    if bytes.len() > PAYLOAD_BYTES_MAX {
        let sentence =
            format!("{} has {} bytes; {PAYLOAD_BYTES_MAX} can be sent", file.display(), bytes.len());
        return Err(Failure::new(Exit::Usage, sentence));
    }
    let kind = match bytes.as_slice() {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xFF, 0xD8, 0xFF, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    };
    if let Some(kind) = kind {
        return Ok(Part::Picture(format!("data:{kind};base64,{}", STANDARD.encode(bytes))));
    }
    let text = String::from_utf8(bytes).map_err(|_| {
        let sentence = format!("{} is neither text nor a picture (PNG, JPEG, GIF, WebP)", file.display());
        Failure::new(Exit::Usage, sentence)
    })?;
    Ok(Part::Text(text))
}
