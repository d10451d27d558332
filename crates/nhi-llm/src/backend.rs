//! One backend, whatever it speaks. It chooses nothing and retries nothing.

mod stock;

pub use stock::Loaded;

use crate::{
    anthropic,
    body::Body,
    chunks::{Chunks, Framing},
    content,
    decoder::{Decoder, Fault},
    embeddings,
    endpoint::{Endpoint, Hints},
    error::{Kind, LlmError},
    gemini,
    http::Http,
    ollama, openai, provider,
};
use nhi_model::ai::{BackendKind, Continues, Model};
use serde_json::{Map, Value};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};
use tokio::time::Instant;

/// A backend; cheap to copy, one pool of connections.
#[derive(Clone, Debug)]
pub struct Backend {
    http: Arc<Http>,
    /// What its list of models told about who it is.
    told: Arc<OnceLock<Continues>>,
    /// What Ollama told of its models, by their digests: asking after each of them every time would be work for nothing.
    shown: Arc<Mutex<BTreeMap<String, Model>>>,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// At once: a `chat.completion`.
    Whole(Map<String, Value>),
    /// In pieces, because the request had `stream: true`.
    Stream(Chunks),
}

impl Backend {
    /// Opens no connection yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, LlmError> {
        Ok(Self { http: Arc::new(Http::new(endpoint)?), told: Arc::default(), shown: Arc::default() })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.http.endpoint
    }

    /// Whether it goes on with a text that another one began, as far as is known: more so after [`Self::models`].
    pub fn continues(&self) -> Continues {
        let endpoint = self.endpoint();
        self.told.get().copied().unwrap_or_else(|| provider::continues(endpoint.kind, &endpoint.url))
    }

    /// Asks for an answer: `request` is a body of `chat.completions` whose `model` is the backend's own name of it.
    /// Dropping the future, or the [`Chunks`], closes the connection.
    pub async fn chat(&self, request: Map<String, Value>, hints: &Hints) -> Result<Reply, LlmError> {
        let streams = request.get("stream") == Some(&Value::Bool(true));
        let options = &self.endpoint().options;
        let wait = if streams { options.first_byte } else { options.whole };
        let deadline = Instant::now() + wait;
        let mut asked = self.asked(request, hints, streams).map_err(|fault| self.http.fault(fault))?;
        let response = self.http.open(&asked.path, asked.query, Some(&asked.body), deadline).await?;
        if streams {
            let http = self.http.clone();
            return Ok(Reply::Stream(Chunks::new(http, response, asked.framing, asked.decoder, deadline)?));
        }
        let body = Body::new(response, options.answer_bytes_max);
        let answer = self.http.json(body, deadline).await?;
        asked.decoder.whole(answer).map(Reply::Whole).map_err(|fault| self.http.fault(fault))
    }

    /// Embeddings: a body of OpenAI's `embeddings`, and its answer.
    pub async fn embed(&self, request: Map<String, Value>) -> Result<Map<String, Value>, LlmError> {
        let deadline = Instant::now() + self.endpoint().options.whole;
        let base64 = request.get("encoding_format").is_some_and(|format| format == "base64");
        let model = content::model(&request).map_err(|fault| self.http.fault(fault))?.to_owned();
        let (path, body) = match self.endpoint().kind {
            BackendKind::Openai => {
                let answer = self.http.post("embeddings", &request, deadline).await?;
                if answer.get("data").is_some_and(Value::is_array) {
                    return Ok(answer);
                }
                return Err(self.http.error(Kind::Garbage, "its embeddings have no data"));
            }
            BackendKind::Ollama => (Ok("api/embed".to_owned()), embeddings::to_ollama(request)),
            BackendKind::Gemini => {
                (gemini::path(&model, "batchEmbedContents"), embeddings::to_gemini(&request))
            }
            BackendKind::Anthropic => return Err(self.unsupported("embeddings")),
        };
        let path = path.map_err(|fault| self.http.fault(fault))?;
        let body = body.map_err(|fault| self.http.fault(fault))?;
        let mut answer = self.http.post(&path, &body, deadline).await?;
        let tokens = answer.get("prompt_eval_count").and_then(Value::as_u64).unwrap_or(0);
        let vectors = embeddings::vectors(&mut answer).map_err(|fault| self.http.fault(fault))?;
        Ok(embeddings::answer(&model, vectors, base64, tokens))
    }

    fn asked(&self, request: Map<String, Value>, hints: &Hints, streams: bool) -> Result<Asked, Fault> {
        let endpoint = self.endpoint();
        Ok(match endpoint.kind {
            BackendKind::Openai => Asked {
                path: "chat/completions".to_owned(),
                query: None,
                framing: Framing::Sse,
                decoder: Decoder::Openai(openai::Decoder::new(&request)),
                body: openai::request(request, self.http.provider, &endpoint.options),
            },
            BackendKind::Ollama => Asked {
                path: "api/chat".to_owned(),
                query: None,
                body: ollama::request(request, hints)?,
                framing: Framing::Ndjson,
                decoder: Decoder::Ollama(ollama::Decoder::default()),
            },
            BackendKind::Gemini => {
                let verb = if streams { "streamGenerateContent" } else { "generateContent" };
                Asked {
                    path: gemini::path(content::model(&request)?, verb)?,
                    query: streams.then_some("alt=sse"),
                    body: gemini::request(&request)?,
                    framing: Framing::Sse,
                    decoder: Decoder::Gemini(gemini::Decoder::default()),
                }
            }
            BackendKind::Anthropic => Asked {
                path: "messages".to_owned(),
                query: None,
                body: anthropic::request(&request, hints)?,
                framing: Framing::Sse,
                decoder: Decoder::Anthropic(anthropic::Decoder::default()),
            },
        })
    }

    fn unsupported(&self, what: &str) -> LlmError {
        let kind = self.endpoint().kind.as_str();
        self.http.error(Kind::Unsupported, &format!("a backend of kind {kind} has no {what}"))
    }
}

/// What goes out, and how the answer is read.
struct Asked {
    path: String,
    query: Option<&'static str>,
    body: Map<String, Value>,
    framing: Framing,
    decoder: Decoder,
}
