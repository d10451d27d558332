//! What a backend has: its models, those in memory, and how they leave it.

use super::Backend;
use crate::{
    anthropic,
    error::{Kind, LlmError},
    gemini, ollama, openai,
};
use futures::{StreamExt, TryStreamExt, stream};
use nhi_model::ai::{BackendKind, Model};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, sync::PoisonError, time::Duration};
use tokio::time::Instant;

/// How long a question about models may take: nothing is computed for it.
const WAIT: Duration = Duration::from_secs(20);
/// How many models are asked after at a time; it is a server at home that has work to do.
const SHOWN_AT_ONCE: usize = 4;
/// How many models are asked after at all: a home server has dozens.
const SHOWN_MAX: usize = 200;
/// How many pages of models are read.
const PAGES_MAX: usize = 5;

/// A model in a backend's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Its name there.
    pub name: String,
    /// Memory of the GPU it takes; 0 where the server does not tell.
    pub vram_bytes: u64,
    /// The context it was loaded with.
    pub context_tokens: Option<u32>,
    /// Whether a part of it did not fit into the GPU: it is slow then.
    pub partly_on_cpu: bool,
}

impl Backend {
    /// The models it has.
    pub async fn models(&self) -> Result<Vec<Model>, LlmError> {
        let deadline = Instant::now() + WAIT;
        match self.endpoint().kind {
            BackendKind::Openai => {
                let answer = self.http.get("models", None, deadline).await?;
                if let Some(told) = openai::who(&answer) {
                    // The first word counts: a server does not become another one.
                    let _ = self.told.set(told);
                }
                openai::models(&answer).map_err(|fault| self.http.fault(fault))
            }
            BackendKind::Ollama => self.ollama_models(deadline).await,
            BackendKind::Gemini => self.gemini_models(deadline).await,
            BackendKind::Anthropic => {
                let answer = self.http.get("models", Some("limit=1000"), deadline).await?;
                anthropic::models(&answer).map_err(|fault| self.http.fault(fault))
            }
        }
    }

    async fn ollama_models(&self, deadline: Instant) -> Result<Vec<Model>, LlmError> {
        let answer = self.http.get("api/tags", None, deadline).await?;
        let mut rows = ollama::rows(&answer).map_err(|fault| self.http.fault(fault))?;
        rows.truncate(SHOWN_MAX);
        let host = self.endpoint().url.host_str().unwrap_or_default();
        let cloud = host == "ollama.com" || host.ends_with(".ollama.com");
        let shown = stream::iter(rows).map(async |row| {
            let model = self.ollama_model(row, deadline).await?;
            Ok(Model { elsewhere: model.elsewhere || cloud, ..model })
        });
        shown.buffered(SHOWN_AT_ONCE).try_collect().await
    }

    async fn ollama_model(&self, row: ollama::Row, deadline: Instant) -> Result<Model, LlmError> {
        // Copies of a model have its digest and names of their own.
        let key = row.digest.as_ref().map(|digest| format!("{} {digest}", row.name));
        let known = |shown: &BTreeMap<String, Model>| shown.get(key.as_ref()?).cloned();
        if let Some(model) = known(&self.shown.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(model);
        }
        let ask = Map::from_iter([("model".to_owned(), Value::from(row.name.as_str()))]);
        let show = match self.http.post("api/show", &ask, deadline).await {
            Ok(show) => Some(show),
            // Removed a moment ago, or broken: the others are there nevertheless.
            Err(error) if error.status.is_some() => None,
            Err(error) => return Err(error),
        };
        let model = ollama::model(row, show.as_ref());
        if let (Some(key), Some(_)) = (key, show) {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if shown.len() >= SHOWN_MAX {
                shown.clear();
            }
            shown.insert(key, model.clone());
        }
        Ok(model)
    }

    async fn gemini_models(&self, deadline: Instant) -> Result<Vec<Model>, LlmError> {
        let mut models = Vec::new();
        let mut query = "pageSize=1000".to_owned();
        for _ in 0..PAGES_MAX {
            let answer = self.http.get("models", Some(&query), deadline).await?;
            models.extend(gemini::models(&answer).map_err(|fault| self.http.fault(fault))?);
            let Some(next) = answer.get("nextPageToken").and_then(Value::as_str) else { break };
            let encoded = url::form_urlencoded::byte_serialize(next.as_bytes()).collect::<String>();
            query = format!("pageSize=1000&pageToken={encoded}");
        }
        Ok(models)
    }

    /// The models in its memory. Ollama tells them, and so do llama.cpp's router and llama-swap; of a cloud nobody knows.
    pub async fn loaded(&self) -> Result<Vec<Loaded>, LlmError> {
        let deadline = Instant::now() + WAIT;
        match self.endpoint().kind {
            BackendKind::Ollama => {
                let answer = self.http.get("api/ps", None, deadline).await?;
                ollama::loaded(&answer).map_err(|fault| self.http.fault(fault))
            }
            BackendKind::Openai => {
                let running = self.http.beside("running", None, deadline).await;
                match running {
                    Ok(answer) => Ok(openai::running(&answer)),
                    Err(error) if error.kind == Kind::Unsupported => {
                        let answer = self.http.get("models", None, deadline).await?;
                        Ok(openai::loaded(&answer))
                    }
                    Err(error) => Err(error),
                }
            }
            BackendKind::Gemini | BackendKind::Anthropic => Err(self.unsupported("memory that anybody sees")),
        }
    }

    /// Takes a model, or all of them, out of its memory. It returns when the backend has agreed: the memory is free when
    /// requests that still run there are over, which [`Self::loaded`] tells.
    pub async fn unload(&self, model: Option<&str>) -> Result<(), LlmError> {
        let deadline = Instant::now() + WAIT;
        let kind = self.endpoint().kind;
        if matches!(kind, BackendKind::Gemini | BackendKind::Anthropic) {
            return Err(self.unsupported("memory that anybody frees"));
        }
        let names = match model {
            Some(model) => vec![model.to_owned()],
            None => self.loaded().await?.into_iter().map(|loaded| loaded.name).collect(),
        };
        for name in names {
            if kind == BackendKind::Ollama {
                let ask = json!({ "model": name, "keep_alive": 0, "stream": false });
                self.http.post("api/generate", &object(ask), deadline).await?;
                continue;
            }
            // llama.cpp's router, else llama-swap.
            let ask = object(json!({ "model": name }));
            match self.http.beside("models/unload", Some(&ask), deadline).await {
                Err(error) if error.kind == Kind::Unsupported => {
                    let name = url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>();
                    // A form's space is a plus in a path.
                    let name = name.replace('+', "%20");
                    let path = format!("api/models/unload/{name}");
                    self.http.beside(&path, Some(&Map::new()), deadline).await?;
                }
                other => {
                    other?;
                }
            }
        }
        Ok(())
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
