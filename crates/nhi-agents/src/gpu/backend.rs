//! The model server behind the relay: where it is, which models it has in memory, and how each kind is told to let go of
//! them. It passes no conversation on.

use super::{book::Loaded, forward};
use bytes::Bytes;
use futures::future;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use serde_json::{Value, json};
use std::{fmt, io, str::FromStr, time::Duration};
use url::form_urlencoded;

/// How long one question about models may take: the server is on the same machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Largest answer to one: a list of models.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the server is, as far as unloading goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Ollama.
    Ollama,
    /// llama.cpp's server with several models (its router mode).
    LlamaCpp,
    /// llama-swap.
    LlamaSwap,
    /// Another one: what it has in memory stays there until it ends.
    Other,
}

/// A model server on this machine or beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What it is.
    pub server: Server,
    /// `127.0.0.1:11434`
    authority: String,
}

/// Why a text is not the address of a model server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not the address of a model server; write it as http://127.0.0.1:11434, without a path")]
pub struct BadBackend {
    /// As given, cut to 120 characters.
    pub url: String,
}

impl Backend {
    /// A server at `http://HOST:PORT`.
    ///
    /// # Errors
    /// [`BadBackend`] for anything else: it is on this machine, so without TLS, and requests bring their own paths.
    pub fn new(server: Server, url: &str) -> Result<Self, BadBackend> {
        let bad = || BadBackend { url: url.chars().take(120).collect() };
        let authority = url.strip_prefix("http://").ok_or_else(bad)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let parsed = hyper::http::uri::Authority::from_str(authority).map_err(|_| bad())?;
        if parsed.port_u16().is_none() || parsed.host().is_empty() || authority.contains('@') {
            return Err(bad());
        }
        Ok(Self { server, authority: authority.to_owned() })
    }

    /// `HOST:PORT`
    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    /// The models in memory; `None` where the server does not tell.
    pub(super) async fn loaded(&self) -> io::Result<Option<Vec<Loaded>>> {
        let model = |name: &Value, vram: &Value, context: &Value| {
            let context_tokens = context.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
            Some(Loaded { name: name.as_str()?.to_owned(), vram_bytes: vram.as_u64(), context_tokens })
        };
        let rows = |answer: &Value, list: &str| answer[list].as_array().cloned().unwrap_or_default();
        Ok(match self.server {
            Server::Ollama => {
                let answer = self.ask(Method::GET, "/api/ps", None).await?;
                let row = |row: &Value| model(&row["model"], &row["size_vram"], &row["context_length"]);
                Some(rows(&answer, "models").iter().filter_map(row).collect())
            }
            Server::LlamaCpp => {
                let answer = self.ask(Method::GET, "/models", None).await?;
                let is_loaded = |row: &&Value| {
                    let status = &row["status"]["value"];
                    matches!(status.as_str(), Some("loaded" | "loading" | "sleeping"))
                };
                let row = |row: &Value| model(&row["id"], &Value::Null, &Value::Null);
                let all = rows(&answer, "data");
                Some(all.iter().filter(is_loaded).filter_map(row).collect())
            }
            Server::LlamaSwap => {
                let answer = self.ask(Method::GET, "/running", None).await?;
                let row = |row: &Value| model(&row["model"], &Value::Null, &Value::Null);
                Some(rows(&answer, "running").iter().filter_map(row).collect())
            }
            Server::Other => None,
        })
    }

    /// The contexts of models in memory, where that takes a question of its own: llama.cpp's router tells them of each.
    pub(super) async fn contexts(&self, loaded: &mut [Loaded]) {
        if self.server != Server::LlamaCpp {
            return;
        }
        let ask = async |model: &mut Loaded| {
            let name: String = form_urlencoded::byte_serialize(model.name.as_bytes()).collect();
            // One that went meanwhile is not to be loaded by asking for it.
            let props = self.ask(Method::GET, &format!("/props?model={name}&autoload=false"), None).await;
            let tokens = props.ok().and_then(|props| props["default_generation_settings"]["n_ctx"].as_u64());
            model.context_tokens = tokens.and_then(|tokens| u32::try_from(tokens).ok());
        };
        future::join_all(loaded.iter_mut().map(ask)).await;
    }

    /// Has the server let go of all models, of all at once: one that hangs or refuses keeps no other in memory. That it
    /// said yes does not mean that it did.
    pub(super) async fn unload(&self) -> io::Result<()> {
        let told = async |model: Loaded| match self.server {
            Server::Ollama => {
                // Without a prompt nothing is answered, and nothing is loaded that is not.
                let body = json!({ "model": model.name, "keep_alive": 0, "stream": false });
                self.ask(Method::POST, "/api/generate", Some(body)).await
            }
            Server::LlamaCpp => {
                self.ask(Method::POST, "/models/unload", Some(json!({ "model": model.name }))).await
            }
            Server::LlamaSwap | Server::Other => Ok(Value::Null),
        };
        match self.server {
            Server::Ollama | Server::LlamaCpp => {
                let loaded = self.loaded().await?.unwrap_or_default();
                let all = future::join_all(loaded.into_iter().map(told)).await;
                all.into_iter().try_for_each(|told| told.map(drop))
            }
            Server::LlamaSwap => self.ask(Method::GET, "/unload", None).await.map(drop),
            Server::Other => Ok(()),
        }
    }

    /// Asks, and reads the answer as JSON; what is none is null.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> io::Result<Value> {
        let asking = async {
            let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, self.authority())
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(bytes))
                .map_err(io::Error::other)?;
            let opened = forward::open(self.authority(), request).await?;
            let (head, answer) = opened.into_parts(std::future::pending(), None);
            let answer = Limited::new(answer, ANSWER_BYTES_MAX).collect().await.map_err(io::Error::other)?;
            if !head.status.is_success() {
                return Err(io::Error::other(format!("{path} answered with status {}", head.status)));
            }
            Ok(serde_json::from_slice(&answer.to_bytes()).unwrap_or(Value::Null))
        };
        tokio::time::timeout(ANSWER_MAX, asking)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests;
