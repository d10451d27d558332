//! One backend, whatever it speaks. It chooses nothing and retries nothing.

use crate::{
    chunks::{Chunks, Framing},
    decoder::{Decoder, Fault},
    endpoint::{Endpoint, Hints},
    error::{Kind, LlmError},
    http::Http,
    openai, provider,
};
use nhi_model::ai::{BackendKind, Continues, Model};
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

/// A backend; cheap to copy, one pool of connections.
#[derive(Clone, Debug)]
pub struct Backend {
    http: Arc<Http>,
    /// What its list of models told about who it is.
    told: Arc<OnceLock<Continues>>,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// At once: a `chat.completion`.
    Whole(Map<String, Value>),
    /// In pieces, because the request had `stream: true`.
    Stream(Chunks),
}

/// A model in a backend's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Its name there.
    pub name: String,
    /// Memory of the GPU it takes.
    pub vram_bytes: u64,
    /// The context it was loaded with.
    pub context_tokens: Option<u32>,
    /// Whether a part of it did not fit into the GPU: it is slow then.
    pub partly_on_cpu: bool,
}

impl Backend {
    /// Opens no connection yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, LlmError> {
        Ok(Self { http: Arc::new(Http::new(endpoint)?), told: Arc::new(OnceLock::new()) })
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
        let asked = self.asked(request, hints)?;
        let response = self.http.open(&asked.path, asked.query, Some(&asked.body), deadline).await?;
        if streams {
            let http = self.http.clone();
            return Ok(Reply::Stream(Chunks::new(http, response, asked.framing, asked.decoder, deadline)?));
        }
        let body = crate::body::Body::new(response, options.answer_bytes_max);
        let answer = self.http.json(body, deadline).await?;
        asked.decoder.whole(answer).map(Reply::Whole).map_err(|fault| self.fault(fault))
    }

    /// Embeddings: a body of OpenAI's `embeddings`, and its answer.
    pub async fn embed(&self, request: Map<String, Value>) -> Result<Map<String, Value>, LlmError> {
        let deadline = Instant::now() + self.endpoint().options.whole;
        match self.endpoint().kind {
            BackendKind::Openai => {
                let answer = self.post("embeddings", &request, deadline).await?;
                if answer.get("data").is_some_and(Value::is_array) {
                    return Ok(answer);
                }
                Err(self.http.error(Kind::Garbage, "its embeddings have no data"))
            }
            BackendKind::Ollama | BackendKind::Gemini | BackendKind::Anthropic => {
                Err(self.unsupported("embeddings"))
            }
        }
    }

    /// The models it has.
    pub async fn models(&self) -> Result<Vec<Model>, LlmError> {
        let deadline = Instant::now() + self.endpoint().options.first_byte;
        match self.endpoint().kind {
            BackendKind::Openai => {
                let answer = self.get("models", None, deadline).await?;
                if let Some(told) = openai::who(&answer) {
                    // The first word counts: a server does not become another one.
                    let _ = self.told.set(told);
                }
                openai::models(&answer).map_err(|fault| self.fault(fault))
            }
            BackendKind::Ollama | BackendKind::Gemini | BackendKind::Anthropic => {
                Err(self.unsupported("a list of models"))
            }
        }
    }

    fn asked(&self, request: Map<String, Value>, _hints: &Hints) -> Result<Asked, LlmError> {
        let endpoint = self.endpoint();
        Ok(match endpoint.kind {
            BackendKind::Openai => Asked {
                path: "chat/completions".to_owned(),
                query: None,
                body: openai::request(request, self.http.provider, &endpoint.options),
                framing: Framing::Sse,
                decoder: Decoder::Openai(openai::Decoder::default()),
            },
            BackendKind::Ollama | BackendKind::Gemini | BackendKind::Anthropic => {
                return Err(self.unsupported("chat"));
            }
        })
    }

    async fn get(
        &self,
        path: &str,
        query: Option<&str>,
        deadline: Instant,
    ) -> Result<Map<String, Value>, LlmError> {
        let body = self.http.send(path, query, None, deadline).await?;
        self.http.json(body, deadline).await
    }

    async fn post(
        &self,
        path: &str,
        body: &Map<String, Value>,
        deadline: Instant,
    ) -> Result<Map<String, Value>, LlmError> {
        let body = self.http.send(path, None, Some(body), deadline).await?;
        self.http.json(body, deadline).await
    }

    fn unsupported(&self, what: &str) -> LlmError {
        let kind = self.endpoint().kind.as_str();
        self.http.error(Kind::Unsupported, &format!("a backend of kind {kind} has no {what}"))
    }

    fn fault(&self, fault: Fault) -> LlmError {
        match fault {
            Fault::Told(value) => self.http.told(&value),
            Fault::Garbage(what) => self.http.error(Kind::Garbage, what),
            Fault::Cut(what) => self.http.error(Kind::Cut, what),
        }
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
