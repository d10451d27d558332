//! HTTP to one backend: one pool of connections, the key, the relay's signature, statuses. It does not know what the
//! bodies mean, follows no redirect and asks nothing twice, but for one thing: a connection that was kept from an earlier
//! request may be closed by the other side just as the next one comes, and then that is asked again on a fresh one.

mod opened;

use self::opened::Opened;

use crate::{
    body::{Body, BodyError},
    decoder::Fault,
    endpoint::Endpoint,
    error::{Kind, LlmError},
    provider::Provider,
    refusal::{self, Told},
    tls,
};
use nhi_model::ai::BackendKind;
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION},
    redirect::Policy,
};
use serde_json::{Map, Value};
use std::{
    error::Error as StdError,
    io::{self, ErrorKind},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};
use url::Url;

/// How much of a refusal is read.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
/// How long a refusal's body may take.
const REFUSAL_WAIT: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next request: llama.cpp closes idle ones after five seconds, and a request on
/// a connection that the other side just closes is lost.
const IDLE_WAIT: Duration = Duration::from_secs(4);
/// The version of Anthropic's API that the translation was written for.
const ANTHROPIC_VERSION: &str = "2023-06-01";
/// What a relay wants to see.
const RELAY_HEADER: &str = "nhi-relay";

/// The connections to one backend.
#[derive(Debug)]
pub(crate) struct Http {
    client: Client,
    /// Keeps no connection.
    fresh: Client,
    opened: Opened,
    base: Url,
    headers: HeaderMap,
    pub(crate) endpoint: Endpoint,
    pub(crate) provider: Provider,
}

impl Http {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, LlmError> {
        let wrong =
            |what: &str| LlmError::new(Kind::Unsupported, format!("backend {}: {what}", endpoint.name));
        if !matches!(endpoint.url.scheme(), "http" | "https") || endpoint.url.host_str().is_none() {
            return Err(wrong("its url must be http:// or https:// with a host"));
        }
        if !endpoint.url.username().is_empty() || endpoint.url.password().is_some() {
            return Err(wrong("its url holds credentials; name the key's environment variable instead"));
        }
        let https = endpoint.url.scheme() == "https";
        let config = tls::config(https, endpoint.fingerprint)
            .map_err(|error| wrong(&format!("TLS cannot be set up: {error}")))?;
        let builder = || {
            let builder = Client::builder()
                .tls_backend_preconfigured(config.clone())
                .redirect(Policy::none())
                .referer(false)
                .tcp_nodelay(true)
                .connect_timeout(endpoint.options.connect);
            // A proxy of the environment is for the way out, not for what stands at home.
            if !https || endpoint.fingerprint.is_some() { builder.no_proxy() } else { builder }
        };
        let opened = Opened::default();
        let client = builder().pool_idle_timeout(IDLE_WAIT).connector_layer(opened.clone()).build();
        let client = client.map_err(|error| wrong(&chain(&error)))?;
        let fresh = builder().pool_max_idle_per_host(0).build().map_err(|error| wrong(&chain(&error)))?;
        let headers = headers(&endpoint).map_err(|what| wrong(&what))?;
        let base = base(&endpoint);
        let provider = Provider::of(&endpoint.url);
        Ok(Self { client, fresh, opened, base, headers, endpoint, provider })
    }

    /// Asks for a whole object.
    pub(crate) async fn get(
        &self,
        path: &str,
        query: Option<&str>,
        deadline: Instant,
    ) -> Result<Map<String, Value>, LlmError> {
        let response = self.open(path, query, None, deadline).await?;
        self.json(Body::new(response, self.endpoint.options.answer_bytes_max), deadline).await
    }

    /// Sends a whole object, and asks for one.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: &Map<String, Value>,
        deadline: Instant,
    ) -> Result<Map<String, Value>, LlmError> {
        let response = self.open(path, None, Some(body), deadline).await?;
        self.json(Body::new(response, self.endpoint.options.answer_bytes_max), deadline).await
    }

    /// The same for what a server has beside its `/v1`; an answer that is no object (`OK`) is an empty one.
    pub(crate) async fn beside(
        &self,
        path: &str,
        body: Option<&Map<String, Value>>,
        deadline: Instant,
    ) -> Result<Map<String, Value>, LlmError> {
        let mut url = self.base.clone();
        let above = self.base.path().trim_end_matches('/').trim_end_matches("/v1");
        url.set_path(&format!("{above}/{path}"));
        let response = self.call(url, body, deadline).await?;
        let body = Body::new(response, self.endpoint.options.answer_bytes_max);
        let bytes = body.whole(deadline).await.map_err(|error| self.broken(error, Kind::Timeout))?;
        match self.object(&bytes) {
            Err(error) if error.kind == Kind::Garbage => Ok(Map::new()),
            answer => answer,
        }
    }

    /// Sends, and gives the answer when its status is good.
    pub(crate) async fn open(
        &self,
        path: &str,
        query: Option<&str>,
        body: Option<&Map<String, Value>>,
        deadline: Instant,
    ) -> Result<Response, LlmError> {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        url.set_query(query);
        self.call(url, body, deadline).await
    }

    async fn call(
        &self,
        url: Url,
        body: Option<&Map<String, Value>>,
        deadline: Instant,
    ) -> Result<Response, LlmError> {
        let began = Instant::now();
        let opened = self.opened.count();
        let mut sent = timeout_at(deadline, self.request(&self.client, &url, body).send()).await;
        // No connection was opened since: it went out on one that was kept.
        if let Ok(Err(error)) = &sent
            && self.opened.count() == opened
            && was_closed(error)
        {
            tracing::debug!(backend = %self.endpoint.name, cause = chain(error), "asked again: its connection was closed");
            sent = timeout_at(deadline, self.request(&self.fresh, &url, body).send()).await;
        }
        let response = match sent {
            Err(_) => return Err(self.error(Kind::Timeout, "no answer in time")),
            Ok(Err(error)) => return Err(self.failed(&error)),
            Ok(Ok(response)) => response,
        };
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::trace!(backend = %self.endpoint.name, elapsed_ms, "backend answered");
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response, body).await) }
    }

    fn request(&self, client: &Client, url: &Url, body: Option<&Map<String, Value>>) -> RequestBuilder {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let mut request = client.request(method.clone(), url.clone()).headers(self.headers.clone());
        if let Some(signer) = &self.endpoint.signer {
            let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
            let place = format!("{}{query}", url.path());
            request = request.header(RELAY_HEADER, signer(method.as_str(), &place));
        }
        if let Some(body) = body { request.json(body) } else { request }
    }

    /// A whole JSON object.
    pub(crate) async fn json(&self, body: Body, deadline: Instant) -> Result<Map<String, Value>, LlmError> {
        let bytes = body.whole(deadline).await.map_err(|error| self.broken(error, Kind::Timeout))?;
        self.object(&bytes)
    }

    /// Reads a whole JSON object, and an error where that is what a good status brought.
    pub(crate) fn object(&self, bytes: &[u8]) -> Result<Map<String, Value>, LlmError> {
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(map)) if refusal::tells_error(&map) => Err(self.told(&Value::Object(map))),
            Ok(Value::Object(map)) => Ok(map),
            Ok(list @ Value::Array(_)) if refusal::tells_error_in_list(&list) => Err(self.told(&list)),
            Ok(_) => Err(self.error(Kind::Garbage, "the answer is JSON, but no object")),
            Err(_) => Err(self.error(Kind::Garbage, "the answer is not JSON")),
        }
    }

    /// An error that the backend told although its status was good.
    pub(crate) fn told(&self, value: &Value) -> LlmError {
        self.scrubbed(refusal::read(&Told {
            name: &self.endpoint.name,
            provider: self.provider,
            status: None,
            headers: &HeaderMap::new(),
            value: Some(value),
            sent: None,
            now: jiff::Timestamp::now(),
        }))
    }

    /// What is no part of an answer, or no request, as an error.
    pub(crate) fn fault(&self, fault: Fault) -> LlmError {
        match fault {
            Fault::Told(value) => self.told(&value),
            Fault::Garbage(what) => self.error(Kind::Garbage, what),
            Fault::Cut(what) => self.error(Kind::Cut, what),
            Fault::Refused(kind, what) => self.error(kind, &what),
        }
    }

    pub(crate) fn error(&self, kind: Kind, what: &str) -> LlmError {
        self.scrubbed(LlmError::new(kind, format!("backend {}: {what}", self.endpoint.name)))
    }

    /// Why a body did not come to its end; `late` says what silence means there.
    pub(crate) fn broken(&self, error: BodyError, late: Kind) -> LlmError {
        match error {
            BodyError::Late if late == Kind::Stalled => self.error(late, "it fell silent in the middle"),
            BodyError::Late => self.error(late, "no answer in time"),
            BodyError::TooLarge => {
                let most = self.endpoint.options.answer_bytes_max;
                self.error(Kind::TooLarge, &format!("the answer has more than {most} bytes"))
            }
            BodyError::Broken(error) => {
                self.log(&error);
                self.error(Kind::Cut, "the answer broke off before its end")
            }
        }
    }

    fn failed(&self, error: &reqwest::Error) -> LlmError {
        self.log(error);
        match (error.is_connect(), error.is_timeout()) {
            (true, true) => self.error(Kind::ConnectTimeout, "no connection in time"),
            (true, false) => self.error(Kind::Connect, &format!("no connection: {}", unconnected(error))),
            (false, true) => self.error(Kind::Timeout, "no answer in time"),
            (false, false) => self.error(Kind::Cut, "it closed the connection without an answer"),
        }
    }

    /// The cause as the libraries word it is for whoever looks into the log.
    fn log(&self, error: &reqwest::Error) {
        tracing::debug!(backend = %self.endpoint.name, cause = chain(error), "connection to a backend failed");
    }

    async fn refused(&self, response: Response, sent: Option<&Map<String, Value>>) -> LlmError {
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("nowhere");
            let to = to.split(['?', '#']).next().unwrap_or_default();
            let what = format!("it points to {to} ({status}); nobody follows: set its url to where it is");
            return LlmError { status: Some(status.as_u16()), ..self.error(Kind::Redirected, &what) };
        }
        let headers = response.headers().clone();
        let bytes = Body::new(response, REFUSAL_BYTES_MAX).what_comes(Instant::now() + REFUSAL_WAIT).await;
        let value = serde_json::from_slice(&bytes).ok();
        self.scrubbed(refusal::read(&Told {
            name: &self.endpoint.name,
            provider: self.provider,
            status: Some(status.as_u16()),
            headers: &headers,
            value: value.as_ref(),
            sent,
            now: jiff::Timestamp::now(),
        }))
    }

    /// A server may repeat what it was sent.
    fn scrubbed(&self, mut error: LlmError) -> LlmError {
        let key = self.endpoint.key.as_ref().map(|key| key.expose());
        for secret in key.into_iter().chain(self.endpoint.headers.values().map(String::as_str)) {
            if secret.len() >= 4 && error.message.contains(secret) {
                error.message = error.message.replace(secret, "…");
            }
        }
        error
    }
}

fn headers(endpoint: &Endpoint) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if endpoint.kind == BackendKind::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(ANTHROPIC_VERSION));
    }
    if let Some(key) = &endpoint.key {
        let (name, text) = match endpoint.kind {
            BackendKind::Openai | BackendKind::Ollama => (AUTHORIZATION, format!("Bearer {}", key.expose())),
            BackendKind::Gemini => (HeaderName::from_static("x-goog-api-key"), key.expose().to_owned()),
            BackendKind::Anthropic => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
        };
        let text = zeroize::Zeroizing::new(text);
        let mut value = HeaderValue::from_str(&text)
            .map_err(|_| "its key holds characters that no header may have; copy it again".to_owned())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    for (name, value) in &endpoint.headers {
        let name = HeaderName::try_from(name).map_err(|_| format!("{name:?} is no name of a header"))?;
        let value = HeaderValue::from_str(value);
        let mut value =
            value.map_err(|_| format!("the header {name} has a value that no header may have"))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The base as its kind has it, whatever part of it configuration says.
fn base(endpoint: &Endpoint) -> Url {
    let mut url = endpoint.url.clone();
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = match endpoint.kind {
        BackendKind::Openai if path.is_empty() => "/v1".to_owned(),
        BackendKind::Openai => path,
        BackendKind::Anthropic => format!("{}/v1", path.trim_end_matches("/v1")),
        BackendKind::Gemini if path.is_empty() => "/v1beta".to_owned(),
        BackendKind::Gemini => path,
        // Whoever used Ollama's OpenAI mode before has `/v1` there.
        BackendKind::Ollama => path.trim_end_matches("/v1").trim_end_matches("/api").to_owned(),
    };
    url.set_path(&path);
    url
}

/// What it comes from, from the nearest to the farthest.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |cause| StdError::source(*cause))
}

/// Whether the other side closed the connection instead of an answer.
fn was_closed(error: &reqwest::Error) -> bool {
    let is_closed = |cause: &(dyn StdError + 'static)| {
        let http = cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message);
        http || cause.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe
            )
        })
    };
    !error.is_connect() && !error.is_timeout() && causes(error).any(is_closed)
}

/// Why there is no connection, in plain words where they are known.
fn unconnected(error: &reqwest::Error) -> String {
    let cause = causes(error).find_map(|cause| cause.downcast_ref::<io::Error>());
    let chain = chain(error);
    let plain = match cause.map(io::Error::kind) {
        _ if chain.contains("dns error") => "nobody knows its host's name",
        Some(ErrorKind::ConnectionRefused) => "nobody listens at its address",
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => "there is no way to its address",
        Some(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::UnexpectedEof) => {
            "it closed it at once"
        }
        _ => return chain,
    };
    plain.to_owned()
}

/// The error and what it comes from. Without the url, which the caller knows.
fn chain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause_text);
        }
    }
    if text.is_empty() { "no reason told".to_owned() } else { text }
}
