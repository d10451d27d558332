//! The dialects AI programs speak over HTTP. Each is read into OpenAI's `chat.completions`, which is what the mesh
//! carries, and written from it. It talks to nobody; [`crate::doors`] does.

mod anthropic;
mod chat;
mod gemini;
mod ollama;
pub(crate) mod pieces;
mod responses;

use crate::reply::Failure;
use bytes::Bytes;
use nhi_model::{
    ai::ModelRow,
    fault::{Fault, FaultCode},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A JSON object that is passed on.
pub(crate) type Object = Map<String, Value>;

/// What a program speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/responses`
    Responses,
    /// `/v1/messages`
    Anthropic,
    /// `/api/chat`
    OllamaChat,
    /// `/api/generate`
    OllamaGenerate,
    /// `/v1beta/models/<model>:<method>`
    Gemini(GeminiCall),
}

/// What of Gemini's stands in the path and the query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GeminiCall {
    /// The model.
    pub(crate) model: String,
    /// Whether the answer comes in pieces.
    pub(crate) stream: bool,
    /// Whether the pieces are server-sent events; else they are one JSON array.
    pub(crate) events: bool,
}

/// A request in the form of the mesh.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    /// OpenAI's `chat.completions` body.
    pub(crate) body: Object,
    /// Whether the answer is wanted in pieces.
    pub(crate) stream: bool,
    /// The answer where nobody has to be asked.
    pub(crate) at_once: Option<Value>,
    /// Tools that the program names otherwise than the body does.
    offered: responses::Offered,
}

impl Asked {
    /// A request whose answer is written from chunks that tell the usage.
    fn new(mut body: Object, stream: bool) -> Self {
        body.insert("stream".to_owned(), stream.into());
        if stream {
            body.insert("stream_options".to_owned(), json!({ "include_usage": true }));
        }
        Self { stream, ..Self::of(body) }
    }

    /// A body as it is, for a whole answer.
    fn of(body: Object) -> Self {
        Self { body, stream: false, at_once: None, offered: responses::Offered::default() }
    }

    /// The name the program gave the model.
    pub(crate) fn model(&self) -> String {
        self.body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// Writes a stream of chunks in a dialect.
pub(crate) trait Writer: Send {
    /// A chunk: nothing, when it has nothing to tell.
    fn chunk(&mut self, payload: &Bytes) -> Result<Bytes, Failure>;
    /// What stands at the end of a stream that ended well.
    fn end(&mut self) -> Bytes;
    /// What stands in place of the end.
    fn failed(&mut self, failure: &Failure) -> Bytes;
}

impl Dialect {
    /// Reads a request.
    ///
    /// # Errors
    /// A `bad-request` that names the field.
    pub(crate) fn read(&self, body: &[u8]) -> Result<Asked, Fault> {
        match self {
            Self::Chat => chat::read(body),
            Self::Responses => responses::read(body),
            Self::Anthropic => anthropic::read(body),
            Self::OllamaChat => ollama::read_chat(body),
            Self::OllamaGenerate => ollama::read_generate(body),
            Self::Gemini(call) => gemini::read(call, body),
        }
    }

    /// A request whose body goes to the mesh as it came, where the dialect is the mesh's own: who answers it reads all of
    /// it, and says what is wrong.
    pub(crate) fn as_it_came(&self, body: &[u8]) -> Option<Asked> {
        match self {
            Self::Chat => chat::glance(body),
            Self::Responses | Self::Anthropic | Self::OllamaChat | Self::OllamaGenerate | Self::Gemini(_) => {
                None
            }
        }
    }

    /// Writes a whole answer.
    pub(crate) fn write(&self, asked: &Asked, answer: Object) -> Value {
        match self {
            Self::Chat => Value::Object(answer),
            Self::Responses => responses::write(asked, &answer),
            Self::Anthropic => anthropic::write(asked, &answer),
            Self::OllamaChat => ollama::write(asked, &answer, ollama::Form::Chat),
            Self::OllamaGenerate => ollama::write(asked, &answer, ollama::Form::Generate),
            Self::Gemini(_) => gemini::write(asked, &answer),
        }
    }

    /// Writes a stream.
    pub(crate) fn writer(&self, asked: &Asked) -> Box<dyn Writer> {
        match self {
            Self::Chat => Box::new(chat::Stream),
            Self::Responses => Box::new(responses::Stream::new(asked)),
            Self::Anthropic => Box::new(anthropic::Stream::new(asked)),
            Self::OllamaChat => Box::new(ollama::Stream::new(asked, ollama::Form::Chat)),
            Self::OllamaGenerate => Box::new(ollama::Stream::new(asked, ollama::Form::Generate)),
            Self::Gemini(call) => Box::new(gemini::Stream::new(asked, call.events)),
        }
    }

    /// What a stream is.
    pub(crate) const fn stream_type(&self) -> &'static str {
        match self {
            Self::Chat | Self::Responses | Self::Anthropic => "text/event-stream",
            Self::OllamaChat | Self::OllamaGenerate => "application/x-ndjson",
            Self::Gemini(call) if call.events => "text/event-stream",
            Self::Gemini(_) => "application/json",
        }
    }

    /// A line that keeps a quiet stream of events alive; nothing where the dialect has none.
    pub(crate) const fn comment(&self) -> Option<&'static [u8]> {
        match self {
            Self::Chat | Self::Responses => Some(b": alive\n\n"),
            Self::Anthropic => Some(b"event: ping\ndata: {\"type\": \"ping\"}\n\n"),
            Self::Gemini(call) if call.events => Some(b": alive\n\n"),
            Self::OllamaChat | Self::OllamaGenerate | Self::Gemini(_) => None,
        }
    }

    /// Whether a stream that failed has to break its connection off, for its error alone could be taken for one more
    /// piece. Nobody takes `response.failed` for an end, and programs that read it throw it away with a connection that
    /// breaks.
    pub(crate) const fn breaks_off(&self) -> bool {
        match self {
            Self::Responses => false,
            Self::Chat | Self::Anthropic | Self::OllamaChat | Self::OllamaGenerate | Self::Gemini(_) => true,
        }
    }

    /// The body of a failure.
    pub(crate) fn failure(&self, failure: &Failure) -> Value {
        match self {
            Self::Chat | Self::Responses => chat::failure(failure),
            Self::Anthropic => anthropic::failure(failure),
            Self::OllamaChat | Self::OllamaGenerate => ollama::failure(failure),
            Self::Gemini(_) => gemini::failure(failure),
        }
    }
}

/// The models as each dialect lists them.
pub(crate) mod lists {
    use super::{ModelRow, Value};

    /// OpenAI's `/v1/models`
    pub(crate) fn openai(rows: &[ModelRow]) -> Value {
        super::chat::models(rows)
    }

    /// Anthropic's `/v1/models`
    pub(crate) fn anthropic(rows: &[ModelRow]) -> Value {
        super::anthropic::models(rows)
    }

    /// Ollama's `/api/tags`
    pub(crate) fn ollama(rows: &[ModelRow]) -> Value {
        super::ollama::tags(rows)
    }

    /// Ollama's `/api/show`
    pub(crate) fn ollama_one(row: &ModelRow) -> Value {
        super::ollama::show(row)
    }
}

/// Embeddings as Ollama asks for and gets them.
pub(crate) use ollama::{read_embed, write_embed};

/// Reads a body into a type; a mistake is told with its place.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Fault> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        let what = error.into_inner();
        let text = if place == "." { what.to_string() } else { format!("{place}: {what}") };
        wrong(&text)
    })?;
    json.end().map_err(|error| wrong(&error.to_string()))?;
    Ok(read)
}

/// The body is not what the dialect expects.
fn wrong(text: &str) -> Fault {
    // A body can be in the message, for it names wrong values: keep that short.
    let short: String = text.chars().take(300).collect();
    Fault::new(FaultCode::BadRequest, format!("the request cannot be read: {short}"), "correct that place")
}

/// What can be asked for in the dialect, but not here.
fn unsupported(what: &str) -> Fault {
    let hint = "leave it out; docs/ai.md lists what passes through";
    Fault::new(FaultCode::BadRequest, format!("{what} is not supported"), hint)
}

/// A thing and what type the program says it has, in words for people.
fn typed(what: &str, kind: Option<&str>) -> String {
    kind.map_or_else(|| format!("{what} without a type"), |kind| format!("{what} of type {kind}"))
}

/// A failure as one text: what happened and what to do.
fn sentence(failure: &Failure) -> String {
    let Fault { message, hint, .. } = &failure.fault;
    if hint.is_empty() { message.clone() } else { format!("{message} ({hint})") }
}

/// One server-sent event.
fn event(name: Option<&str>, data: &Value) -> String {
    match name {
        Some(name) => format!("event: {name}\ndata: {data}\n\n"),
        None => format!("data: {data}\n\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a person is told that cannot be asked for.
    #[track_caller]
    fn check(dialect: &Dialect, body: &Value, said: &str) {
        let fault = dialect.read(body.to_string().as_bytes()).unwrap_err();
        assert_eq!(fault.message, format!("{said} is not supported"));
    }

    #[test]
    fn what_is_not_supported_is_named_as_the_program_named_it() {
        let responses = |input: Value, tool: Value| json!({"model": "m", "input": input, "tools": [tool]});
        let tools = |tool: Value| responses(json!("x"), tool);
        let input = |item: Value| responses(json!([item]), json!({"type": "web_search"}));
        let part = |part: Value| input(json!({"role": "user", "content": [part]}));
        let dialect = Dialect::Responses;
        check(&dialect, &tools(json!({"type": "computer"})), "a tool of type computer");
        check(&dialect, &tools(json!({"name": "x"})), "a tool without a type");
        let inner = json!({"type": "namespace", "name": "n", "tools": [{"type": "mcp", "name": "x"}]});
        check(&dialect, &tools(inner), "a tool of type mcp");
        check(
            &dialect,
            &input(json!({"type": "item_reference"})),
            "input[0]: an item of type item_reference",
        );
        check(&dialect, &part(json!({"type": "input_file"})), "input[0]: a part of type input_file");
        check(&dialect, &part(json!({})), "input[0]: a part without a type");
        let blocks = json!([{"role": "user", "content": [{"type": "document"}]}]);
        let body = json!({"model": "m", "max_tokens": 9, "messages": blocks});
        check(&Dialect::Anthropic, &body, "messages[0].content[0]: a block of type document");
        let call = GeminiCall { model: "m".to_owned(), stream: false, events: false };
        let data = json!({"inlineData": {"mimeType": "audio/mp3", "data": "AA=="}});
        let body = json!({"contents": [{"role": "user", "parts": [data]}]});
        check(&Dialect::Gemini(call), &body, "contents[0].parts[0]: data of type audio/mp3");
    }
}
