//! A request from its first byte to its answer: who asks, what goes wrong, which model, how fast.

use super::{
    anthropic::{self, AnthropicWriter},
    ask::{self, Answer, Ask, Unfit},
    fault::{About, Effects, Instead},
    gemini::{self, GeminiWriter},
    http::{Body, Dropped, body_of, header, json, response, whole},
    ollama::{self, OllamaWriter},
    openai::{self, OpenaiWriter},
    refusal::{self, Dialect, Voice, Wrong, refusal, wrong_of},
    route::{self, Call},
    script::{End, Pace, Script, Usage, Writer, half_of, huge, huge_place, no_character, spoiled},
    settings::{ModelSettings, Provider},
    state::{Came, Ended, Shared, Ticket},
};
use http_body_util::{BodyExt as _, Limited};
use hyper::{Request, Response, body::Incoming, header::HeaderMap};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

/// A request with images is large.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The context Ollama gives a model when nobody says one, and to every request through `/v1`.
const OLLAMA_CONTEXT: u32 = 4096;
/// Headers that are never shown.
const KEY_HEADERS: [&str; 4] = ["authorization", "x-api-key", "x-goog-api-key", "cookie"];

/// A request that is understood so far.
struct Asked {
    call: Call,
    voice: Voice,
    path: String,
    model: Option<String>,
    body: Result<Map<String, Value>, String>,
    effects: Effects,
    ticket: Ticket,
}

type Reply = Result<Response<Body>, Dropped>;

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = Limited::new(body, BODY_BYTES_MAX).collect().await else { return Err(Dropped) };
    let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default());
    let is_anthropic = parts.headers.contains_key("anthropic-version");
    let (call, voice) =
        route::find(parts.method.as_str(), &path, query, is_anthropic, shared.options.provider);
    let bytes = bytes.to_bytes();
    let body = match serde_json::from_slice::<Value>(&bytes) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err("the body is not an object".to_owned()),
        Err(error) => Err(format!("We could not parse the JSON body of your request: {error}")),
    };
    let model = match &call {
        Call::GeminiGenerate { model, .. }
        | Call::GeminiEmbed { model, .. }
        | Call::GeminiModel { model } => Some(model.clone()),
        _ => body.as_ref().ok().and_then(|body| body.get("model")?.as_str().map(str::to_owned)),
    };
    let is_stream = match &call {
        Call::GeminiGenerate { is_stream, .. } => *is_stream,
        Call::OllamaChat | Call::OllamaGenerate => stream_word(&body) != Some(false),
        _ => stream_word(&body) == Some(true),
    };
    let generates = call.generates();
    let about = About { path: &path, model: model.as_deref(), is_stream, generates };
    let effects = shared.effects(&about);
    let mut ticket = shared.begin(Came {
        path: path.clone(),
        model: model.clone(),
        headers: shown(&parts.headers),
        body: body.as_ref().map_or(Value::Null, |body| Value::Object(body.clone())),
        generates,
    });
    if !is_known(&shared, &parts.headers, query) {
        return Ok(refuse(&mut ticket, voice, model.as_deref(), &Wrong::Key));
    }
    carry_out(&shared, Asked { call, voice, path, model, body, effects, ticket }).await
}

fn stream_word(body: &Result<Map<String, Value>, String>) -> Option<bool> {
    body.as_ref().ok()?.get("stream")?.as_bool()
}

fn shown(headers: &HeaderMap) -> BTreeMap<String, String> {
    let shown = headers.iter().filter(|(name, _)| !KEY_HEADERS.contains(&name.as_str()));
    shown
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

/// Whether the request has the key, if there is one.
fn is_known(shared: &Shared, headers: &HeaderMap, query: &str) -> bool {
    let Some(key) = &shared.options.key else { return true };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let in_query = query.split('&').find_map(|pair| pair.strip_prefix("key="));
    [bearer, text("x-api-key"), text("x-goog-api-key"), in_query]
        .into_iter()
        .flatten()
        .any(|told| told == key.0)
}

fn refuse(ticket: &mut Ticket, voice: Voice, model: Option<&str>, wrong: &Wrong) -> Response<Body> {
    let told = refusal(voice, model.unwrap_or_default(), wrong);
    ticket.status(told.status);
    ticket.ends(Ended::Refused);
    let mut response = json(told.status, &told.body);
    for (name, value) in &told.headers {
        header(&mut response, name, value);
    }
    response
}

async fn carry_out(shared: &Arc<Shared>, mut asked: Asked) -> Reply {
    tokio::time::sleep(asked.effects.silence).await;
    if let Some(instead) = asked.effects.instead.clone() {
        tokio::time::sleep(asked.effects.first).await;
        return instead_of(shared, &mut asked, &instead);
    }
    let (voice, name) = (asked.voice, asked.model.clone());
    let refused = |ticket: &mut Ticket, wrong: &Wrong| Ok(refuse(ticket, voice, name.as_deref(), wrong));
    if !asked.call.generates() {
        if asked.call == Call::Unknown {
            let wrong = Wrong::NoPath(asked.path.clone());
            return refused(&mut asked.ticket, &wrong);
        }
        return Ok(look(shared, &mut asked));
    }
    let body = match &asked.body {
        Ok(body) => body.clone(),
        Err(message) => {
            let wrong = Wrong::Request(message.clone());
            return refused(&mut asked.ticket, &wrong);
        }
    };
    let found = find_model(shared, voice, name.as_deref());
    let Some(model) = found else { return refused(&mut asked.ticket, &Wrong::NoModel) };
    if let Err(wrong) = take_slot(shared, &mut asked.ticket).await {
        return refused(&mut asked.ticket, &wrong);
    }
    let outcome = match &asked.call {
        Call::Chat => openai::read(&body, voice.provider),
        Call::OllamaChat => ollama::read_chat(&body),
        Call::OllamaGenerate => ollama::read_generate(&body),
        Call::GeminiGenerate { is_stream, .. } => {
            gemini::read(&body, &model.name).map(|ask| Ask { is_stream: *is_stream, ..ask })
        }
        Call::Messages => anthropic::read(&body),
        _ => return embed(&mut asked, &body, &model),
    };
    match outcome {
        Ok(ask) => generate(shared, asked, &ask, &model).await,
        Err(message) => refused(&mut asked.ticket, &Wrong::Request(message)),
    }
}

/// Waits for its turn, where only so many are worked on at a time.
async fn take_slot(shared: &Arc<Shared>, ticket: &mut Ticket) -> Result<(), Wrong> {
    let Some(slots) = &shared.slots else { return Ok(()) };
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        ticket.slot = Some(slot);
        return Ok(());
    }
    if shared.waiting.fetch_add(1, Ordering::SeqCst) >= shared.options.queue_max {
        shared.waiting.fetch_sub(1, Ordering::SeqCst);
        return Err(Wrong::Overloaded);
    }
    let _waiting = Waiting(shared);
    ticket.slot = Arc::clone(slots).acquire_owned().await.ok();
    Ok(())
}

struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The answer of a fault that stands before everything.
fn instead_of(shared: &Shared, asked: &mut Asked, instead: &Instead) -> Reply {
    let model = asked.model.clone();
    let limit = model
        .as_deref()
        .and_then(|name| shared.model(name))
        .map_or(OLLAMA_CONTEXT, |model| model.context_tokens);
    if let Some(wrong) = wrong_of(instead, limit) {
        return Ok(refuse(&mut asked.ticket, asked.voice, model.as_deref(), &wrong));
    }
    asked.ticket.ends(Ended::Broken);
    let answer = match instead {
        Instead::Html => response(
            200,
            "text/html; charset=utf-8",
            whole(
                "<html><head><title>Sign in</title></head><body>Please sign in to the proxy.</body></html>",
            ),
        ),
        Instead::Redirect { to } => {
            let mut answer = response(307, "text/plain", whole("Temporary Redirect"));
            header(&mut answer, "location", to);
            answer
        }
        Instead::Empty => response(200, stream_type(asked.voice), whole("")),
        Instead::Status { code, body } => response(*code, "application/json", whole(body.clone())),
        Instead::Dropped
        | Instead::RateLimited { .. }
        | Instead::Overloaded
        | Instead::ServerError
        | Instead::KeyRefused
        | Instead::NoModel
        | Instead::TooLong => return Err(Dropped),
    };
    asked.ticket.status(answer.status().as_u16());
    Ok(answer)
}

fn stream_type(voice: Voice) -> &'static str {
    if voice.dialect == Dialect::Ollama { "application/x-ndjson" } else { "text/event-stream" }
}

/// Calls that only look.
fn look(shared: &Shared, asked: &mut Asked) -> Response<Body> {
    let created_s = shared.clock.now_ms() / 1000;
    let models = &shared.options.models;
    let named = asked.model.as_deref().and_then(|name| shared.model(name));
    let value = match &asked.call {
        Call::Models if asked.voice.dialect == Dialect::Anthropic => anthropic::models(models),
        Call::Models => openai::models(asked.voice.provider, models, created_s),
        Call::OllamaTags => ollama::tags(models),
        Call::OllamaPs => ollama::ps(&shared.loaded()),
        Call::OllamaVersion => json!({"version": "0.12.6"}),
        Call::GeminiModels => gemini::models(models),
        Call::Health => json!({"status": "ok"}),
        Call::Props => {
            let context = models.first().map_or(OLLAMA_CONTEXT, |model| model.context_tokens);
            json!({"total_slots": shared.options.parallel.unwrap_or(1), "default_generation_settings": {"n_ctx": context}})
        }
        Call::OllamaShow | Call::GeminiModel { .. } => match named {
            Some(model) if asked.call == Call::OllamaShow => ollama::show(&model),
            Some(model) => gemini::model(&model),
            None => {
                let name = asked.model.clone();
                return refuse(&mut asked.ticket, asked.voice, name.as_deref(), &Wrong::NoModel);
            }
        },
        _ => {
            asked.ticket.status(200);
            asked.ticket.ends(Ended::Whole);
            return response(200, "text/plain; charset=utf-8", whole("Ollama is running"));
        }
    };
    asked.ticket.status(200);
    asked.ticket.ends(Ended::Whole);
    json(200, &value)
}

/// llama.cpp answers with what it has, whatever is asked for.
fn find_model(shared: &Shared, voice: Voice, name: Option<&str>) -> Option<ModelSettings> {
    let found = name.and_then(|name| shared.model(name));
    if voice.dialect == Dialect::Openai && voice.provider == Provider::Llamacpp {
        return found.or_else(|| shared.options.models.first().cloned());
    }
    found
}

fn embed(asked: &mut Asked, body: &Map<String, Value>, model: &ModelSettings) -> Reply {
    if !model.embeds {
        let wrong = Wrong::Request(format!("this model does not support embeddings: {}", model.name));
        return Ok(refuse(&mut asked.ticket, asked.voice, Some(&model.name), &wrong));
    }
    let asked_for = ["dimensions", "outputDimensionality"].iter().find_map(|name| body.get(*name)?.as_u64());
    let dimensions =
        asked_for.and_then(|number| u32::try_from(number).ok()).unwrap_or(model.dimensions).clamp(1, 4096);
    let value = match &asked.call {
        Call::OllamaEmbed => ollama::embed(model, dimensions, &openai::embedding_input(body, "input")),
        Call::OllamaEmbeddings => {
            ollama::embedding(dimensions, &openai::embedding_input(body, "prompt").concat())
        }
        Call::GeminiEmbed { is_batch, .. } => gemini::embed(body, *is_batch, dimensions),
        _ => openai::embeddings(model, dimensions, &openai::embedding_input(body, "input")),
    };
    asked.ticket.status(200);
    asked.ticket.ends(Ended::Whole);
    Ok(json(200, &value))
}

/// Whether a model is loaded on request, and its context is what the request says.
fn is_ollama(voice: Voice) -> bool {
    voice.provider == Provider::Ollama
}

fn context_of(voice: Voice, ask: &Ask, model: &ModelSettings) -> u32 {
    match (is_ollama(voice), voice.dialect) {
        (false, _) => model.context_tokens,
        // Ollama's OpenAI endpoint has no way to say a context.
        (true, Dialect::Openai) => OLLAMA_CONTEXT.min(model.context_tokens),
        (true, _) => ask.num_ctx.unwrap_or(OLLAMA_CONTEXT).min(model.context_tokens),
    }
}

async fn generate(shared: &Arc<Shared>, mut asked: Asked, ask: &Ask, model: &ModelSettings) -> Reply {
    let voice = asked.voice;
    let context = context_of(voice, ask, model);
    let outcome = ask::answer(ask, model, voice.provider, context);
    let answered = match outcome {
        Ok(answered) => answered,
        Err(unfit) => return Ok(unfitting(asked, model, unfit)),
    };
    if answered.is_truncated {
        shared.note_truncated();
    }
    let mut load = Duration::ZERO;
    if is_ollama(voice) {
        if ask.turns.is_empty() {
            return Ok(load_only(shared, asked, ask, model, context));
        }
        if shared.load(model, context, ask.keep_alive_s) {
            load = Duration::from_millis(model.load_ms);
        }
        asked.ticket.unloads = (ask.keep_alive_s == Some(0)).then(|| model.name.clone());
    }
    let mut pace = Pace::of(model, load, &asked.effects);
    let usage = usage_of(&answered, model, pace, load);
    let created_s = shared.clock.now_ms() / 1000;
    let writer: Box<dyn Writer> = match &asked.call {
        Call::OllamaChat => Box::new(OllamaWriter::chat(ask)),
        Call::OllamaGenerate => Box::new(OllamaWriter::generate(ask)),
        Call::GeminiGenerate { is_sse, .. } => {
            Box::new(GeminiWriter::new(ask, asked.ticket.number, *is_sse, model.usage))
        }
        Call::Messages => Box::new(AnthropicWriter::new(ask, asked.ticket.number)),
        _ => Box::new(OpenaiWriter::new(voice.provider, ask, asked.ticket.number, created_s)),
    };
    let (content_type, is_stream) =
        (asked.effects.content_type.take(), ask.is_stream != asked.effects.other_form);
    let mut reply = if is_stream {
        asked.ticket.status(200);
        let content_type = writer.content_type();
        if voice.dialect == Dialect::Ollama {
            // Others say 200 at once; Ollama says nothing before its first line.
            tokio::time::sleep(std::mem::take(&mut pace.first)).await;
        }
        let script = Script::new(writer, answered, asked.effects, pace, usage);
        response(200, content_type, body_of(script, asked.ticket))
    } else {
        in_one_piece(asked, &*writer, answered, pace, usage).await?
    };
    if let Some(is) = content_type {
        header(&mut reply, "content-type", &is);
    }
    if voice.dialect == Dialect::Openai && voice.provider == Provider::Groq {
        header(&mut reply, "x-ratelimit-limit-requests", "14400");
        header(&mut reply, "x-ratelimit-limit-tokens", "6000");
    }
    Ok(reply)
}

fn unfitting(mut asked: Asked, model: &ModelSettings, unfit: Unfit) -> Response<Body> {
    refuse(&mut asked.ticket, asked.voice, Some(&model.name), &Wrong::Unfit(unfit))
}

/// Ollama's request without a question: the model is loaded, or goes.
fn load_only(
    shared: &Shared,
    mut asked: Asked,
    ask: &Ask,
    model: &ModelSettings,
    context: u32,
) -> Response<Body> {
    let reason = if ask.keep_alive_s == Some(0) {
        shared.unload(&model.name);
        "unload"
    } else {
        shared.load(model, context, ask.keep_alive_s);
        "load"
    };
    asked.ticket.status(200);
    asked.ticket.ends(Ended::Whole);
    let is_chat = asked.call == Call::OllamaChat;
    json(200, &ollama::loaded_only(&model.name, is_chat, reason))
}

fn usage_of(answer: &Answer, model: &ModelSettings, pace: Pace, load: Duration) -> Usage {
    let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let tokens = answer.tokens();
    Usage {
        prompt: answer.prompt_tokens,
        answer: tokens,
        reasoning: if answer.reasoning().is_empty() { 0 } else { model.reasoning_tokens.min(tokens) },
        is_told: model.usage,
        load_ms: ms(load),
        first_ms: ms(pace.first),
        rest_ms: ms(pace.rest(tokens)),
    }
}

/// A whole answer after all the time it takes; faults of streams hit it in its own way.
async fn in_one_piece(
    asked: Asked,
    writer: &dyn Writer,
    mut answered: Answer,
    pace: Pace,
    usage: Usage,
) -> Reply {
    let Asked { voice, effects, mut ticket, .. } = asked;
    tokio::time::sleep(pace.first + pace.rest(answered.tokens())).await;
    if effects.endless {
        std::future::pending::<()>().await;
    }
    let end = End { finish: answered.finish, usage, done: true };
    let tokens = answered.tokens();
    ticket.status(200);
    let is_huge = effects.bytes_min > 0;
    answered.items.extend(is_huge.then(huge_place));
    answered.items.extend(effects.not_text.map(|_| no_character()));
    let text = writer.whole(&answered, end).to_string();
    if is_huge {
        return Ok(response(200, "application/json", body_of(huge(effects.bytes_min, &text), ticket)));
    }
    if effects.not_text.is_some() {
        ticket.ends(Ended::Broken);
        return Ok(response(200, "application/json", whole(spoiled(text))));
    }
    let Some((_, how)) = effects.breaks else {
        ticket.sent(tokens);
        if effects.garbage.is_some() {
            ticket.ends(Ended::Broken);
            return Ok(response(200, "application/json", whole(text[..1].to_owned())));
        }
        ticket.ends(Ended::Whole);
        return Ok(response(200, "application/json", whole(text)));
    };
    let steps = half_of(how, &text, &refusal::in_band(voice));
    Ok(response(200, "application/json", body_of(steps.into_iter(), ticket)))
}
