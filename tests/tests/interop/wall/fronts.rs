//! The dialects in which an answer can be asked for, as a strict client writes and reads them: what text came, which marks of
//! an end, which error in the dialect's own shape, and what stands there that the dialect does not have. It knows nothing of
//! the gateway's own readers and writers.

use super::wire::Came;
use serde_json::{Value, json};

/// Tokens an answer may have; the simulated models stop by themselves long before.
pub(crate) const TOKENS_MAX: u32 = 4_000;

/// A way to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Chat,
    Responses,
    Messages,
    OllamaChat,
    OllamaGenerate,
    /// Google's, streamed as events.
    Gemini,
    /// Google's, streamed as one JSON array.
    GeminiArray,
}

/// What a client makes of an answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    pub(crate) text: String,
    /// Marks by which the dialect says that the answer ended well.
    pub(crate) marks: Vec<&'static str>,
    /// Why it ended, in the dialect's word.
    pub(crate) reason: String,
    /// The message of an error in the dialect's shape.
    pub(crate) error: Option<String>,
    /// What the dialect does not have.
    pub(crate) odd: Vec<String>,
    /// The field `nhi`, as it stood last.
    pub(crate) origin: Value,
}

impl Front {
    pub(crate) const ALL: [Self; 7] = [
        Self::Chat,
        Self::Responses,
        Self::Messages,
        Self::OllamaChat,
        Self::OllamaGenerate,
        Self::Gemini,
        Self::GeminiArray,
    ];

    /// Whether it can be asked so.
    pub(crate) fn has(self, stream: bool) -> bool {
        stream || self != Self::GeminiArray
    }

    /// Path and body of a question.
    pub(crate) fn request(self, model: &str, question: &str, stream: bool) -> (String, Value) {
        let user = json!([{"role": "user", "content": question}]);
        let tokens = TOKENS_MAX;
        match self {
            Self::Chat => (
                "/v1/chat/completions".to_owned(),
                json!({"model": model, "messages": user, "stream": stream, "max_tokens": tokens}),
            ),
            Self::Responses => (
                "/v1/responses".to_owned(),
                json!({"model": model, "input": question, "stream": stream, "max_output_tokens": tokens}),
            ),
            Self::Messages => (
                "/v1/messages".to_owned(),
                json!({"model": model, "messages": user, "stream": stream, "max_tokens": tokens}),
            ),
            Self::OllamaChat => (
                "/api/chat".to_owned(),
                json!({"model": model, "messages": user, "stream": stream, "options": {"num_predict": tokens}}),
            ),
            Self::OllamaGenerate => (
                "/api/generate".to_owned(),
                json!({"model": model, "prompt": question, "stream": stream, "options": {"num_predict": tokens}}),
            ),
            Self::Gemini | Self::GeminiArray => {
                let method = match (self, stream) {
                    (_, false) => "generateContent",
                    (Self::GeminiArray, true) => "streamGenerateContent",
                    (_, true) => "streamGenerateContent?alt=sse",
                };
                let config = json!({"maxOutputTokens": tokens});
                (
                    format!("/v1beta/models/{model}:{method}"),
                    json!({"contents": [{"role": "user", "parts": [{"text": question}]}], "generationConfig": config}),
                )
            }
        }
    }

    /// How many marks an answer that ended well has.
    fn marks(self, stream: bool) -> usize {
        match self {
            // The reason, and that nothing follows.
            Self::Chat | Self::Messages | Self::GeminiArray if stream => 2,
            _ => 1,
        }
    }

    /// Whether the answer says of itself that it ended well.
    pub(crate) fn is_ended(self, stream: bool, said: &Said) -> bool {
        said.marks.len() == self.marks(stream) && said.error.is_none()
    }

    /// Whether a connection has to break off after an error in a stream. Responses have an event for it that is no piece.
    pub(crate) fn breaks_off(self) -> bool {
        self != Self::Responses
    }

    /// Whether the answer says that it ended by the limit of its tokens.
    pub(crate) fn is_limited(self, said: &Said) -> bool {
        let word = match self {
            Self::Chat | Self::OllamaChat | Self::OllamaGenerate => "length",
            Self::Responses => "incomplete",
            Self::Messages => "max_tokens",
            Self::Gemini | Self::GeminiArray => "MAX_TOKENS",
        };
        said.reason == word
    }

    /// Reads an answer.
    pub(crate) fn read(self, stream: bool, came: &Came) -> Said {
        let text = came.text();
        let mut said = Said::default();
        if std::str::from_utf8(&came.body).is_err() {
            said.odd.push("bytes that are no text".to_owned());
        }
        let kind = came.header("content-type").split(';').next().unwrap_or_default().trim().to_owned();
        let is_stream = stream && came.status < 400;
        let wanted = match self {
            _ if !is_stream => "application/json",
            Self::Chat | Self::Responses | Self::Messages | Self::Gemini => "text/event-stream",
            Self::OllamaChat | Self::OllamaGenerate => "application/x-ndjson",
            Self::GeminiArray => "application/json",
        };
        if kind != wanted {
            said.odd.push(format!("{kind:?} where {wanted} is expected"));
        }
        match self {
            _ if !is_stream => said.add_whole(self, &text),
            Self::Chat | Self::Responses | Self::Messages | Self::Gemini => said.add_events(self, &text),
            Self::OllamaChat | Self::OllamaGenerate => said.add_lines(self, &text),
            Self::GeminiArray => said.add_array(&text),
        }
        said
    }
}

fn texts(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The message of an error in the shape of the dialect.
fn error_of(front: Front, value: &Value) -> Option<String> {
    let text = |path: &str| Some(value.pointer(path)?.as_str()?.to_owned());
    let message = match front {
        Front::Chat | Front::Responses => {
            text("/error/type")?;
            value.pointer("/error/code")?;
            text("/error/message")?
        }
        Front::Messages => {
            text("/error/type")?;
            text("/type").filter(|kind| kind == "error")?;
            text("/error/message")?
        }
        Front::OllamaChat | Front::OllamaGenerate => text("/error")?,
        Front::Gemini | Front::GeminiArray => {
            value.pointer("/error/code")?.as_u64()?;
            text("/error/status")?;
            text("/error/message")?
        }
    };
    (message.len() > 10).then_some(message)
}

impl Said {
    fn fail(&mut self, message: String) {
        if self.error.replace(message).is_some() {
            self.odd.push("two errors".to_owned());
        }
    }

    fn note(&mut self, value: &Value) {
        let origin = ["/nhi", "/response/nhi", "/message/nhi"].iter().find_map(|path| value.pointer(path));
        if let Some(origin) = origin.filter(|origin| origin.is_object()) {
            self.origin = origin.clone();
        }
    }

    /// An answer in one piece.
    fn add_whole(&mut self, front: Front, text: &str) {
        let Ok(value) = serde_json::from_str::<Value>(text) else {
            return self.odd.push(format!("no JSON: {}", text.chars().take(60).collect::<String>()));
        };
        if let Some(message) = error_of(front, &value) {
            return self.fail(message);
        }
        self.note(&value);
        let (text, end, mark) = match front {
            Front::Chat => ("/choices/0/message/content", "/choices/0/finish_reason", "finish_reason"),
            Front::Responses => ("/output/0/content/0/text", "/status", "status"),
            Front::Messages => ("/content/0/text", "/stop_reason", "stop_reason"),
            Front::OllamaChat => ("/message/content", "/done_reason", "done_reason"),
            Front::OllamaGenerate => ("/response", "/done_reason", "done_reason"),
            Front::Gemini | Front::GeminiArray => {
                ("/candidates/0/content/parts/0/text", "/candidates/0/finishReason", "finishReason")
            }
        };
        self.text = texts(&value, text);
        self.mark(mark, &texts(&value, end));
    }

    /// A mark of the end with its reason, if there is one.
    fn mark(&mut self, mark: &'static str, reason: &str) {
        if !reason.is_empty() {
            self.marks.push(mark);
            reason.clone_into(&mut self.reason);
        }
    }

    /// Server-sent events.
    fn add_events(&mut self, front: Front, text: &str) {
        let text = text.replace("\r\n", "\n");
        let mut rest = text.as_str();
        while let Some((event, after)) = rest.split_once("\n\n") {
            rest = after;
            let field = |name: &str| {
                let lines = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                lines.map(str::trim_start).collect::<Vec<_>>().join("\n")
            };
            let (name, data) = (field("event"), field("data"));
            match (data.as_str(), serde_json::from_str::<Value>(&data)) {
                ("", _) => {}
                ("[DONE]", _) if front == Front::Chat => self.marks.push("[DONE]"),
                (_, Ok(value)) => self.add_event(front, &name, &value),
                (data, Err(_)) => self.odd.push(format!("an event that is no JSON: {data:.60}")),
            }
        }
        if !rest.trim().is_empty() {
            self.odd.push(format!("half an event: {rest:.60}"));
        }
    }

    fn add_event(&mut self, front: Front, name: &str, value: &Value) {
        if self.error.is_some() || front != Front::Chat && !self.marks.is_empty() && name != "message_stop" {
            self.odd.push(format!("more after the end: {name} {value:.60}"));
        }
        self.note(value);
        if let Some(message) = error_of(front, value) {
            return self.fail(message);
        }
        match front {
            Front::Chat => {
                self.text.push_str(&texts(value, "/choices/0/delta/content"));
                self.mark("finish_reason", &texts(value, "/choices/0/finish_reason"));
            }
            Front::Responses => self.add_response(name, value),
            Front::Messages => {
                if texts(value, "/type") != name {
                    self.odd.push(format!("event {name} is a {}", value["type"]));
                }
                self.text.push_str(&texts(value, "/delta/text"));
                self.mark("stop_reason", &texts(value, "/delta/stop_reason"));
                if name == "message_stop" {
                    self.marks.push("message_stop");
                }
            }
            Front::OllamaChat | Front::OllamaGenerate => self.odd.push("an event".to_owned()),
            Front::Gemini | Front::GeminiArray => self.add_candidate(value),
        }
    }

    fn add_response(&mut self, name: &str, value: &Value) {
        if texts(value, "/type") != name {
            self.odd.push(format!("event {name} is a {}", value["type"]));
        }
        match name {
            "response.output_text.delta" => self.text.push_str(&texts(value, "/delta")),
            "response.failed" => {
                let message = texts(value, "/response/error/message");
                if texts(value, "/response/status") != "failed" || message.len() < 10 {
                    self.odd.push("response.failed without a reason".to_owned());
                }
                self.fail(message);
            }
            "response.completed" | "response.incomplete" => {
                if texts(value, "/response/output/0/content/0/text") != self.text {
                    self.odd.push("the whole text is not that of the pieces".to_owned());
                }
                self.mark("completed", &texts(value, "/response/status"));
            }
            _ => {}
        }
    }

    fn add_candidate(&mut self, value: &Value) {
        self.text.push_str(&texts(value, "/candidates/0/content/parts/0/text"));
        self.mark("finishReason", &texts(value, "/candidates/0/finishReason"));
    }

    fn add_lines(&mut self, front: Front, text: &str) {
        for line in text.lines() {
            let Ok(value) = serde_json::from_str::<Value>(line) else {
                self.odd.push(format!("a line that is no JSON: {line:.60}"));
                continue;
            };
            if self.error.is_some() || !self.marks.is_empty() {
                self.odd.push(format!("more after the end: {line:.60}"));
            }
            self.note(&value);
            if let Some(message) = error_of(front, &value) {
                self.fail(message);
                continue;
            }
            let path = if front == Front::OllamaChat { "/message/content" } else { "/response" };
            self.text.push_str(&texts(&value, path));
            if value["done"] == json!(true) {
                self.mark("done", &texts(&value, "/done_reason"));
            }
        }
    }

    /// One JSON array; where it breaks off it is no JSON, and what came of it is read.
    fn add_array(&mut self, text: &str) {
        let is_closed = serde_json::from_str::<Value>(text).is_ok();
        let closed = if is_closed { text.to_owned() } else { format!("{text}]") };
        let Ok(Value::Array(items)) = serde_json::from_str(&closed) else {
            return self.odd.push(format!("no array: {text:.60}"));
        };
        for item in &items {
            self.note(item);
            match error_of(Front::GeminiArray, item) {
                Some(message) => self.fail(message),
                None => self.add_candidate(item),
            }
        }
        if is_closed {
            self.marks.push("]");
        }
    }
}
