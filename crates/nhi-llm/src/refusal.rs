//! A backend's refusal, read: what sort it is and how long to leave it alone. Each provider words the same thing
//! otherwise, so status, code, details and, last, the text are looked at. It decides nothing and opens nothing.

mod echo;
mod pause;

use crate::{
    error::{Kind, LlmError, Span, clean},
    provider::Provider,
};
use jiff::Timestamp;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use std::time::Duration;

/// The header by which a machine's relay says why it refuses.
const LIGHT_HEADER: &str = "nhi-light";
/// A pause longer than this is a day's, shorter than the other a minute's.
const DAY_PAUSE_MIN: Duration = Duration::from_secs(3600);
const MINUTE_PAUSE_MAX: Duration = Duration::from_secs(120);

/// How much of a backend's words is repeated: long texts hold somebody's prompt.
const MESSAGE_CHARS_MAX: usize = 200;

/// What was told.
pub(crate) struct Told<'a> {
    /// The backend's name.
    pub(crate) name: &'a str,
    pub(crate) provider: Provider,
    /// `None` inside a stream.
    pub(crate) status: Option<u16>,
    pub(crate) headers: &'a HeaderMap,
    /// The body, where it is JSON.
    pub(crate) value: Option<&'a Value>,
    /// The request, where it is at hand: none of it is repeated.
    pub(crate) sent: Option<&'a Map<String, Value>>,
    pub(crate) now: Timestamp,
}

/// Whether this is an error although the status was good.
pub(crate) fn tells_error(map: &Map<String, Value>) -> bool {
    let error = map.get("error").is_some_and(|error| !error.is_null() && error != "");
    error || map.get("object").is_some_and(|object| object == "error")
}

/// The same for Gemini, which wraps an error into a list.
pub(crate) fn tells_error_in_list(value: &Value) -> bool {
    value.get(0).and_then(Value::as_object).is_some_and(tells_error)
}

/// Reads it.
pub(crate) fn read(told: &Told<'_>) -> LlmError {
    let said = Said::of(told);
    let retry_after = pause::read(told, &said.text);
    let kind = kind(told, &said, retry_after);
    let status = said.status;
    let what = match (kind, status) {
        // A refusal of a key may repeat it.
        (Kind::KeyRefused, _) => format!("it refuses the key, or the account behind it{}", said.code_text()),
        (_, Some(status)) if said.message.is_empty() => format!("HTTP {status}"),
        (_, Some(status)) => format!("{} (HTTP {status})", said.message),
        (_, None) if said.message.is_empty() => "it told an error without a text".to_owned(),
        (_, None) => said.message.clone(),
    };
    let message = clean(&format!("backend {}: {what}", told.name));
    LlmError { kind, status, message, retry_after }
}

/// The parts of a refusal, wherever they stood.
#[derive(Debug, Default)]
struct Said {
    status: Option<u16>,
    message: String,
    /// Code, type and status word, lower case.
    codes: Vec<String>,
    /// Message and codes, lower case.
    text: String,
}

impl Said {
    fn of(told: &Told<'_>) -> Self {
        let mut said = Self { status: told.status, ..Self::default() };
        let whole = told.value.map(|value| value.get(0).unwrap_or(value));
        if let Some(whole) = whole {
            said.add(whole);
            if let Some(error) = whole.get("error") {
                said.add(error);
            }
        }
        let message = echo::without(&said.message, told.sent);
        said.text = format!("{message} {}", said.codes.join(" ")).to_lowercase();
        said.message = message.chars().take(MESSAGE_CHARS_MAX).collect();
        said
    }

    fn add(&mut self, value: &Value) {
        if let Some(text) = value.as_str() {
            text.clone_into(&mut self.message);
        }
        for name in ["code", "type", "status"] {
            match value.get(name) {
                Some(Value::String(word)) => self.codes.push(word.to_lowercase()),
                Some(Value::Number(number)) => self.number(number.as_u64()),
                _ => {}
            }
        }
        let message = ["message", "detail"].iter().find_map(|name| value.get(name));
        match message {
            Some(Value::String(text)) => text.clone_into(&mut self.message),
            Some(other @ (Value::Array(_) | Value::Object(_))) => self.message = echo::complaints(other),
            _ => {}
        }
        // OpenRouter keeps what the provider behind it said here.
        if let Some(raw) = value.pointer("/metadata/raw").and_then(Value::as_str) {
            self.message = format!("{} {raw}", self.message);
        }
    }

    fn number(&mut self, code: Option<u64>) {
        let code = code.and_then(|code| u16::try_from(code).ok()).filter(|code| (400..600).contains(code));
        self.status = self.status.or(code);
    }

    fn code(&self, words: &[&str]) -> bool {
        self.codes.iter().any(|code| words.contains(&code.as_str()))
    }

    fn says(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.text.contains(word))
    }

    fn code_text(&self) -> String {
        let status = self.status.map(|status| format!("HTTP {status}"));
        // A code is a word of the provider's; whatever else stands there is not repeated.
        let word = |code: &&String| {
            code.len() < 48 && code.chars().all(|char| char.is_ascii_lowercase() || char == '_')
        };
        let code = self.codes.iter().rev().find(word).cloned();
        let parts: Vec<String> = status.into_iter().chain(code).collect();
        if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
    }
}

fn kind(told: &Told<'_>, said: &Said, pause: Option<Duration>) -> Kind {
    if told.headers.contains_key(LIGHT_HEADER) {
        return Kind::GpuTaken;
    }
    let status = said.status.unwrap_or(0);
    if too_long(status, said) {
        return Kind::TooLong;
    }
    if limited(status, said) {
        return Kind::RateLimited(span(told, said, pause));
    }
    if key_refused(status, said) {
        return Kind::KeyRefused;
    }
    if no_model(status, said) {
        return Kind::NoModel;
    }
    if unable(status, said) {
        return Kind::Unsupported;
    }
    match status {
        404 | 405 | 501 => Kind::Unsupported,
        408 => Kind::Timeout,
        503 | 529 => Kind::Overloaded,
        500.. | 0 if overloaded(said) => Kind::Overloaded,
        500.. => Kind::Server,
        400..500 => Kind::BadRequest,
        _ if said.code(&["invalid_request_error", "invalid_argument", "bad_request"]) => Kind::BadRequest,
        _ => Kind::Server,
    }
}

fn too_long(status: u16, said: &Said) -> bool {
    let possible = matches!(status, 0 | 400 | 413 | 422 | 500);
    let code = ["context_length_exceeded", "exceed_context_size_error", "request_too_large"];
    let words = [
        "available context size",
        "maximum context length",
        "context length exceeded",
        "exceeds the context length",
        "exceeded max context length",
        "exceeds the maximum number of tokens",
        "context window",
        "prompt is too long",
        "prompt too long",
        "range of input length should be",
        "reduce the length of the messages",
    ];
    status == 413 || possible && (said.code(&code) || said.says(&words))
}

fn limited(status: u16, said: &Said) -> bool {
    let codes = ["rate_limit_error", "rate_limit_exceeded", "resource_exhausted", "insufficient_quota"];
    // DashScope's codes are families: `Throttling.RateQuota`, `Throttling.AllocationQuota`.
    let throttled = |code: &String| code.starts_with("throttling") || code.starts_with("allocationquota");
    let throttled = said.codes.iter().any(throttled);
    status == 429 || matches!(status, 0 | 403) && throttled || status == 0 && said.code(&codes)
}

fn span(told: &Told<'_>, said: &Said, pause: Option<Duration>) -> Span {
    let quotas = pause::quota_ids(told.value);
    if quotas.iter().any(|id| id.contains("PerDay")) {
        return Span::Day;
    }
    if quotas.iter().any(|id| id.contains("PerMinute")) {
        return Span::Minute;
    }
    // Its per-minute limits come worded as a quota that is gone for good, and are clear again within the minute.
    if told.provider == Provider::Dashscope {
        return if said.says(&["free tier", "freetier", "per day"]) { Span::Day } else { Span::Minute };
    }
    let day = ["per day", "per-day", "(tpd)", "(rpd)", "daily", "free-models-per-day"];
    if said.says(&day) {
        return Span::Day;
    }
    let minute = ["per minute", "per-minute", "(tpm)", "(rpm)", "per-min", "per second"];
    if said.says(&minute) {
        return Span::Minute;
    }
    // OpenAI and others: no money left.
    if said.code(&["insufficient_quota", "billing_hard_limit_reached"]) {
        return Span::Day;
    }
    match pause {
        Some(pause) if pause >= DAY_PAUSE_MIN => Span::Day,
        Some(pause) if pause <= MINUTE_PAUSE_MAX => Span::Minute,
        _ => Span::Unknown,
    }
}

fn key_refused(status: u16, said: &Said) -> bool {
    let codes = [
        "authentication_error",
        "permission_error",
        "billing_error",
        "invalid_api_key",
        "invalidapikey",
        "unauthenticated",
        "permission_denied",
    ];
    // Gemini says 400 for both.
    let words = ["api key not valid", "api key expired", "user location is not supported"];
    let model = said.code(&["model_not_found"]);
    matches!(status, 401 | 402) || status == 403 && !model || said.code(&codes) || said.says(&words)
}

fn no_model(status: u16, said: &Said) -> bool {
    if said.code(&["model_not_found", "model_decommissioned", "modelnotfound"]) {
        return true;
    }
    let words = [
        "not found",
        "not exist",
        "is not a valid model",
        "no endpoints found",
        "not supported for generatecontent",
        "not_found",
    ];
    let named = said.says(&["model", "no endpoints found"]);
    matches!(status, 0 | 400 | 404 | 422) && named && said.says(&words)
}

/// Tools, images, chat at all: another model can.
fn unable(status: u16, said: &Said) -> bool {
    let words = [
        "does not support",
        "is not supported with",
        "is only supported by",
        "is not enabled for models/",
        "not a chat model",
    ];
    // llama.cpp and Ollama take it for a failure of theirs.
    let late = ["image input is not supported", "missing data required for image input"];
    matches!(status, 0 | 400..500) && said.says(&words) || said.says(&late)
}

fn overloaded(said: &Said) -> bool {
    said.code(&["overloaded_error", "unavailable"])
        || said.says(&["overloaded", "server busy", "loading model"])
}

#[cfg(test)]
mod tests;
