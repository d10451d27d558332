//! The doors for AI programs: OpenAI's, Anthropic's, Ollama's and Google's. A request is read from its dialect, asked of
//! the mesh as its caller, and the answer is written back; a failure has the dialect's own shape. It chooses no backend:
//! routers do.
//!
//! When the client goes away, the HTTP library drops the body, with it the reader of the frames, and that cancels the
//! work upstream.

use crate::{
    App,
    dialect::{self, Asked, Dialect, GeminiCall, Object, Writer, lists},
    mesh,
    reply::{self, Failure},
    session,
    traced::Traced,
    visitor::Visitor,
};
use axum::{
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures::stream;
use nhi_bus::{
    call::{Call, Frame, FrameStream, Opened, Timeout},
    cx::{Cx, at_length},
};
use nhi_model::{
    ai::{AiModels, AiModelsAsk, ModelRow, Origin},
    fault::{Fault, FaultCode},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{io, sync::Arc, time::Duration};

/// How long the first sign of an answer may take: a plain call over account borders is lost after two minutes.
const FIRST_WITHIN: Duration = Duration::from_secs(110);
/// A quiet stream says that it lives this often: proxies and clients give up after a minute or less.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Longest value of a header that tells why somebody answered, bytes.
const REASON_BYTES_MAX: usize = 256;
const PROVIDER: HeaderName = HeaderName::from_static("x-nhi-provider");
const MODEL: HeaderName = HeaderName::from_static("x-nhi-model");
const REASON: HeaderName = HeaderName::from_static("x-nhi-reason");
/// What a program says beside the body, and the field of the body's `nhi` that it is.
const WISHES: [(HeaderName, &str); 3] = [
    (HeaderName::from_static("x-nhi-project"), "project"),
    (HeaderName::from_static("x-nhi-privacy"), "privacy"),
    (HeaderName::from_static("x-nhi-priority"), "priority"),
];

/// `POST /v1/chat/completions`
pub(crate) async fn chat(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    converse(&app, Dialect::Chat, request).await
}

/// `POST /v1/responses`
pub(crate) async fn responses(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    converse(&app, Dialect::Responses, request).await
}

/// `POST /v1/messages`
pub(crate) async fn messages(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    converse(&app, Dialect::Anthropic, request).await
}

/// `POST /api/chat`
pub(crate) async fn ollama_chat(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    converse(&app, Dialect::OllamaChat, request).await
}

/// `POST /api/generate`
pub(crate) async fn ollama_generate(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    converse(&app, Dialect::OllamaGenerate, request).await
}

/// What of a query only Google's dialect reads.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct GeminiQuery {
    alt: Option<String>,
}

/// `POST /v1beta/models/<model>:<method>`
pub(crate) async fn gemini(
    State(app): State<Arc<App>>,
    Path(call): Path<String>,
    query: Query<GeminiQuery>,
    request: Request<Body>,
) -> Response {
    let (model, method) = call.rsplit_once(':').unwrap_or((&call, ""));
    let events = query.alt.as_deref() == Some("sse");
    let stream = method == "streamGenerateContent";
    let dialect = Dialect::Gemini(GeminiCall { model: model.to_owned(), stream, events });
    if !stream && method != "generateContent" {
        let hint = "there are generateContent and streamGenerateContent";
        let fault = Fault::new(FaultCode::NotFound, format!("there is no method {method:?}"), hint);
        return refused(&dialect, &fault.into());
    }
    converse(&app, dialect, request).await
}

/// `POST /v1/embeddings`: passed through.
pub(crate) async fn embeddings(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let embedded = async {
        let (visitor, parts, bytes) = take(&app, request).await?;
        let mut body: Object = serde_json::from_slice(&bytes).map_err(|error| not_json(&error))?;
        tell(&mut body, &parts.headers)?;
        ask::<_, Value>(&app, &parts, &visitor, "embed", &body).await
    };
    listed(&Dialect::Chat, embedded.await)
}

/// `POST /api/embed`
pub(crate) async fn ollama_embed(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let embedded = async {
        let (visitor, parts, bytes) = take(&app, request).await?;
        let mut body = dialect::read_embed(&bytes)?;
        tell(&mut body, &parts.headers)?;
        let answer: Object = ask(&app, &parts, &visitor, "embed", &body).await?;
        Ok(dialect::write_embed(body["model"].as_str().unwrap_or_default(), &answer))
    };
    listed(&Dialect::OllamaChat, embedded.await)
}

/// `GET /v1/models`: OpenAI's, or Anthropic's for who says so.
pub(crate) async fn models(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let is_anthropic = request.headers().contains_key("anthropic-version");
    let dialect = if is_anthropic { Dialect::Anthropic } else { Dialect::Chat };
    let rows = rows(&app, request).await;
    let list = if is_anthropic { lists::anthropic } else { lists::openai };
    listed(&dialect, rows.map(|rows| list(&rows)))
}

/// `GET /api/tags`
pub(crate) async fn tags(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let rows = rows(&app, request).await;
    listed(&Dialect::OllamaChat, rows.map(|rows| lists::ollama(&rows)))
}

/// `POST /api/show`
pub(crate) async fn show(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    #[derive(Deserialize)]
    struct Show {
        #[serde(alias = "name")]
        model: String,
    }
    let shown = async {
        let (visitor, parts, bytes) = take(&app, request).await?;
        let Show { model } = serde_json::from_slice(&bytes).map_err(|error| not_json(&error))?;
        let answer: AiModels = ask(&app, &parts, &visitor, "models", &AiModelsAsk {}).await?;
        // Ollama takes a name without a tag for `latest`.
        let is_it = |row: &&ModelRow| row.id == model || row.id.strip_suffix(":latest") == Some(&model);
        answer.models.iter().find(is_it).map(lists::ollama_one).ok_or_else(|| {
            let hint = "GET /api/tags lists what there is";
            Failure::from(Fault::new(FaultCode::NotFound, format!("model {model:?} not found"), hint))
        })
    };
    listed(&Dialect::OllamaChat, shown.await)
}

/// `GET /api/version`: programs look whether the server is new enough for tools and thoughts. It needs no credential, as
/// it tells nothing of the lab.
pub(crate) async fn version() -> Response {
    reply::json(StatusCode::OK, r#"{"version":"0.12.0"}"#)
}

async fn rows(app: &App, request: Request<Body>) -> Result<Vec<ModelRow>, Failure> {
    let (parts, _) = request.into_parts();
    let visitor = mesh::authenticate(app, &parts).await?;
    let answer: AiModels = ask(app, &parts, &visitor, "models", &AiModelsAsk {}).await?;
    Ok(answer.models)
}

fn not_json(error: &serde_json::Error) -> Failure {
    let message = format!("the request cannot be read: {error}");
    Fault::new(FaultCode::BadRequest, message, "correct that place").into()
}

/// Who asks, the head, and the whole body.
async fn take(app: &App, request: Request<Body>) -> Result<(Visitor, Parts, Bytes), Failure> {
    let (parts, body) = request.into_parts();
    let visitor = mesh::authenticate(app, &parts).await?;
    let bytes = mesh::read(&parts.headers, body).await?;
    Ok((visitor, parts, bytes))
}

async fn ask<Req: Serialize + Sync, Resp: DeserializeOwned>(
    app: &App,
    parts: &Parts,
    visitor: &Visitor,
    endpoint: &str,
    request: &Req,
) -> Result<Resp, Failure> {
    let bus = &visitor.caller.bus;
    let body = serde_json::to_vec(request).expect("a request is made of maps with text keys");
    let call = Call::new(bus, "ai", endpoint, body.into()).map_err(|error| Failure::from(&error))?;
    let call = call.timeout(Timeout::of(FIRST_WITHIN));
    let traced = Traced::begin(&app.stop, parts);
    let answer = match traced.of(call).send(bus).await {
        Ok(answer) => serde_json::from_slice(&answer).map_err(|_| unreadable()),
        Err(error) => Err(mesh::told(app, visitor, &error).await),
    };
    traced.end(answer.as_ref().map_or_else(|failure| failure.status, |_| 200));
    answer
}

fn unreadable() -> Failure {
    Fault::new(FaultCode::Internal, "the router's answer is not readable", "update both sides").into()
}

fn listed(dialect: &Dialect, list: Result<Value, Failure>) -> Response {
    match list {
        Ok(list) => reply::json(StatusCode::OK, list.to_string()),
        Err(failure) => refused(dialect, &failure),
    }
}

/// A failure in the dialect's own shape.
fn refused(dialect: &Dialect, failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply::json(status, dialect.failure(failure).to_string());
    reply::mark(&mut response, &failure.fault);
    response
}

async fn converse(app: &App, dialect: Dialect, request: Request<Body>) -> Response {
    match conversed(app, &dialect, request).await {
        Ok(response) => response,
        Err(failure) => refused(&dialect, &failure),
    }
}

async fn conversed(app: &App, dialect: &Dialect, request: Request<Body>) -> Result<Response, Failure> {
    let (visitor, parts, bytes) = take(app, request).await?;
    let (asked, body) = match at_length(bytes.len(), || translated(dialect, &parts.headers, bytes))? {
        Translated::AtOnce(answer) => return Ok(reply::json(StatusCode::OK, answer.to_string())),
        Translated::Asked(asked, body) => (asked, body),
    };
    let bus = &visitor.caller.bus;
    let call = Call::new(bus, "ai", "chat", body).map_err(|error| Failure::from(&error))?;
    let call = call.timeout(Timeout::of(FIRST_WITHIN));
    let traced = Traced::begin(&app.stop, &parts);
    let answer = answered(app, dialect, &asked, visitor, traced.of(call)).await;
    traced.end(answer.as_ref().map_or_else(|failure| failure.status, |_| 200));
    answer
}

/// A request in the words of the mesh.
enum Translated {
    /// Nobody has to be asked.
    AtOnce(Value),
    Asked(Asked, Bytes),
}

fn translated(dialect: &Dialect, headers: &HeaderMap, bytes: Bytes) -> Result<Translated, Fault> {
    let has_wishes = WISHES.iter().any(|(name, _)| headers.contains_key(name));
    if let Some(asked) = dialect.as_it_came(&bytes).filter(|_| !has_wishes) {
        return Ok(Translated::Asked(asked, bytes));
    }
    let mut asked = dialect.read(&bytes)?;
    drop(bytes);
    if let Some(answer) = asked.at_once.take() {
        return Ok(Translated::AtOnce(answer));
    }
    tell(&mut asked.body, headers)?;
    let body = serde_json::to_vec(&asked.body).expect("a JSON object can be written");
    // From here on only the name of the model is needed.
    asked.body.retain(|name, _| name == "model");
    Ok(Translated::Asked(asked, body.into()))
}

/// The answer, as soon as its head is known: a whole one, or the first piece of a stream.
async fn answered(
    app: &App,
    dialect: &Dialect,
    asked: &Asked,
    visitor: Visitor,
    call: Call,
) -> Result<Response, Failure> {
    match mesh::ask(&visitor.caller.bus, call).await {
        Ok((Opened::Whole(payload), _)) => whole(dialect, asked, &payload),
        Ok((Opened::Stream, mut frames)) if asked.stream => {
            let first = match frames.next().await {
                Some(Ok(Frame::Part(payload) | Frame::Whole(payload))) => Some(payload),
                Some(Err(error)) => return Err(Failure::from(&error)),
                None => None,
            };
            Ok(streamed(dialect.clone(), asked, frames, first, visitor, app.stop.clone()))
        }
        // A whole answer that took long comes as the one frame of a stream.
        Ok((Opened::Stream, mut frames)) => match frames.next().await {
            Some(Ok(Frame::Part(payload) | Frame::Whole(payload))) => whole(dialect, asked, &payload),
            Some(Err(error)) => Err(Failure::from(&error)),
            None => Err(Fault::new(FaultCode::Internal, "the router gave no answer", "ask again").into()),
        },
        Err(error) => Err(mesh::told(app, &visitor, &error).await),
    }
}

/// What a program can say beside the dialect, as headers: which project, how private, how urgent. What cannot be read is
/// refused: it may be what keeps the request at home.
fn tell(body: &mut Object, headers: &HeaderMap) -> Result<(), Fault> {
    let mut told = Object::new();
    for (name, field) in WISHES {
        let Some(value) = headers.get(&name) else { continue };
        let value = value.to_str().map_err(|_| {
            let message = format!("the header {name} holds more than visible ASCII");
            Fault::new(FaultCode::BadRequest, message, "send its value in the body's field `nhi`")
        })?;
        told.insert(field.to_owned(), value.into());
    }
    if told.is_empty() {
        return Ok(());
    }
    let given = body.entry(nhi_model::ai::ORIGIN_FIELD).or_insert(Value::Null);
    match given {
        Value::Null => *given = Value::Object(told),
        Value::Object(given) => given.extend(told),
        _ => {
            let message = format!("the body's field `{}` is no object", nhi_model::ai::ORIGIN_FIELD);
            return Err(Fault::new(FaultCode::BadRequest, message, "leave it out, or correct it"));
        }
    }
    Ok(())
}

fn whole(dialect: &Dialect, asked: &Asked, payload: &Bytes) -> Result<Response, Failure> {
    let origin = origin_of(payload)?;
    let body = match dialect {
        Dialect::Chat => payload.clone(),
        other => {
            let answer: Object = serde_json::from_slice(payload).map_err(|_| unreadable())?;
            other.write(asked, answer).to_string().into()
        }
    };
    let mut response = reply::json(StatusCode::OK, body);
    name_origin(response.headers_mut(), origin.as_ref());
    Ok(response)
}

/// Who answered, as the answer or its first chunk tells; the rest of it is not looked at.
fn origin_of(payload: &[u8]) -> Result<Option<Origin>, Failure> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        nhi: Value,
    }
    if !payload.starts_with(b"{") {
        return Err(unreadable());
    }
    let answer: Answer = serde_json::from_slice(payload).map_err(|_| unreadable())?;
    Ok(Origin::deserialize(answer.nhi).ok())
}

fn name_origin(headers: &mut HeaderMap, origin: Option<&Origin>) {
    let Some(origin) = origin else { return };
    for (name, text) in [(PROVIDER, &origin.provider), (MODEL, &origin.model), (REASON, &origin.reason)] {
        // A header holds visible ASCII; a model's name may hold anything.
        let visible: String =
            text.chars().filter(|c| (' '..='~').contains(c)).take(REASON_BYTES_MAX).collect();
        if let Ok(value) = HeaderValue::from_str(&visible) {
            headers.insert(name, value);
        }
    }
}

/// A stream on its way to the client.
struct Pump {
    dialect: Dialect,
    writer: Box<dyn Writer>,
    frames: FrameStream,
    first: Option<Bytes>,
    /// Kept, so that its connection is not given up while it is in use.
    visitor: Visitor,
    stop: Cx,
    state: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Going,
    /// The end was written, or a failure that nobody takes for one.
    Ended,
    /// A failure was written that could be taken for an end: the connection is broken off after it.
    Broken,
    Over,
}

impl Pump {
    async fn next(mut self) -> Option<(io::Result<Bytes>, Self)> {
        loop {
            let piece = match self.state {
                Progress::Over | Progress::Ended => return None,
                Progress::Broken => {
                    self.state = Progress::Over;
                    // The HTTP library flushes when it has to wait, and throws away what it holds when a body fails.
                    tokio::task::yield_now().await;
                    return Some((Err(io::Error::other("the answer broke off")), self));
                }
                Progress::Going => self.piece().await,
            };
            // Not every chunk has something to tell in every dialect.
            if !piece.is_empty() {
                return Some((Ok(piece), self));
            }
        }
    }

    async fn piece(&mut self) -> Bytes {
        let payload = match self.first.take() {
            Some(payload) => Ok(Some(payload)),
            None => self.frame().await,
        };
        let written = match payload {
            Ok(Some(payload)) if payload.is_empty() => {
                return self.dialect.comment().map(Bytes::from_static).unwrap_or_default();
            }
            Ok(Some(payload)) => self.writer.chunk(&payload),
            Ok(None) => {
                self.state = Progress::Ended;
                Ok(self.writer.end())
            }
            Err(failure) => Err(failure),
        };
        written.unwrap_or_else(|failure| {
            self.state = if self.dialect.breaks_off() { Progress::Broken } else { Progress::Ended };
            self.writer.failed(&failure)
        })
    }

    /// The next frame; an empty one when it is time for a sign of life.
    async fn frame(&mut self) -> Result<Option<Bytes>, Failure> {
        tokio::select! {
            frame = self.frames.next() => match frame {
                Some(Ok(Frame::Part(payload) | Frame::Whole(payload))) => Ok(Some(payload)),
                Some(Err(error)) => Err(Failure::from(&error)),
                None => Ok(None),
            },
            () = self.stop.cancelled() => {
                Err(Fault::new(FaultCode::Unavailable, "the gateway stops", "ask again in a few seconds").into())
            }
            () = self.visitor.over() => Err(session::over().into()),
            () = tokio::time::sleep(KEEPALIVE) => Ok(Some(Bytes::new())),
        }
    }
}

fn streamed(
    dialect: Dialect,
    asked: &Asked,
    frames: FrameStream,
    first: Option<Bytes>,
    visitor: Visitor,
    stop: Cx,
) -> Response {
    let origin = first.as_ref().and_then(|first| origin_of(first).ok()?);
    let kind = HeaderValue::from_static(dialect.stream_type());
    let writer = dialect.writer(asked);
    let pump = Pump { dialect, writer, frames, first, visitor, stop, state: Progress::Going };
    let mut response = reply::stream(kind, Body::from_stream(stream::unfold(pump, Pump::next)));
    name_origin(response.headers_mut(), origin.as_ref());
    response
}
