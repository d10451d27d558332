//! The gateway's own paths, briefly: health, metrics, the document itself, sessions, events, the catalog, and the doors of AI programs, whose
//! bodies are described by those who invented them.

use super::{
    build::{Json, problem},
    schemas::Schemas,
};
use serde_json::{Value, json};

/// How a request says who sends it.
pub(super) fn security() -> Value {
    json!({
        "key": {
            "type": "http", "scheme": "bearer", "bearerFormat": "nkey seed",
            "description": "The identity's key, `SU…`; `nhi auth add NAME` makes one. Also as the password of Basic, in x-api-key or x-goog-api-key.",
        },
        "session": { "type": "apiKey", "in": "cookie", "name": "nhi-session", "description": "Of POST /session." },
        "csrf": {
            "type": "apiKey", "in": "header", "name": "x-nhi-csrf",
            "description": "The `csrf` of the session; needed with the cookie for everything but GET.",
        },
    })
}

/// The answers of requests that fail.
pub(super) fn failures(all: &[(&str, &str)]) -> Value {
    let answer = |text: &str| json!({ "description": text, "content": problem() });
    let mut answers: Json = all.iter().map(|(status, text)| ((*status).to_owned(), answer(text))).collect();
    answers.insert("other".to_owned(), answer("The service refused or failed, with a number of its own."));
    answers.into()
}

/// References to some of them.
pub(super) fn failed<'s>(statuses: impl IntoIterator<Item = &'s str>) -> Json {
    let reference = |status| json!({ "$ref": format!("#/components/responses/{status}") });
    statuses.into_iter().map(|status| (status.to_owned(), reference(status))).collect()
}

/// Adds them all.
pub(super) fn add(paths: &mut Json, tags: &mut Vec<Value>) {
    tags.push(json!({ "name": "gateway", "description": "The gateway itself." }));
    tags.push(json!({ "name": "models", "description": "Doors for AI programs, each in its own dialect." }));
    let mut add = |path: &str, operations: Value| {
        paths.insert(path.to_owned(), operations);
    };
    add("/healthz", json!({ "get": open("healthz", "Whether the process lives", answer("Alive"), &[]) }));
    let not_ready =
        json!({ "description": "It cannot serve; each check says why.", "content": content("Ready") });
    let mut ready = open("readyz", "Whether requests can be served", answer("Ready"), &[]);
    ready["responses"]["503"] = not_ready;
    add("/readyz", json!({ "get": ready }));
    let text = |kind: &str| json!({ "description": "Text.", "content": { kind: { "schema": { "type": "string" } } } });
    let metrics = "Numbers for Prometheus: the gateway's own, and with a credential the lab's";
    let metrics = open("metrics", metrics, text("text/plain"), &["401", "403", "429", "503", "504"]);
    add("/metrics", json!({ "get": metrics }));
    let document = json!({ "description": "This.", "content": { "application/json": { "schema": { "type": "object" } } } });
    let failures = ["401", "429", "503"];
    add("/openapi.json", json!({ "get": open("openapi", "This document", document, &failures) }));
    let catalog = closed(
        "mesh",
        "What the mesh offers, with how it has fared",
        answer("Mesh"),
        &["401", "403", "429", "503"],
    );
    add("/mesh", json!({ "get": catalog }));
    add("/session", session());
    add("/events", json!({ "get": events() }));
    for (path, method, id, text) in DOORS {
        add(path, json!({ *method: door(method, id, text) }));
    }
}

fn answer(schema: &str) -> Value {
    json!({ "description": "The answer.", "content": content(schema) })
}

fn content(schema: &str) -> Value {
    json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{schema}") } } })
}

/// An operation for whoever comes.
fn open(id: &str, summary: &str, answer: Value, failures: &[&str]) -> Value {
    let mut operation = closed(id, summary, answer, failures);
    operation["security"] = json!([{}, { "key": [] }, { "session": [] }]);
    operation
}

/// An operation for identities.
fn closed(id: &str, summary: &str, answer: Value, failures: &[&str]) -> Value {
    let mut responses = failed(failures.iter().copied());
    // By the head of a request alone: a foreign Host or Origin.
    responses.extend(failed(["403"]));
    responses.insert("200".to_owned(), answer);
    json!({ "operationId": id, "tags": ["gateway"], "summary": summary, "responses": responses, "x-nhi-effect": "read" })
}

fn session() -> Value {
    let mut sign_in = open(
        "session_open",
        "Signs in with a key; sets the cookie nhi-session",
        answer("Session"),
        &["400", "401", "408", "413", "429", "503"],
    );
    let key = json!({ "type": "object", "required": ["key"], "properties": { "key": { "type": "string" } } });
    sign_in["requestBody"] =
        json!({ "required": true, "content": { "application/json": { "schema": key } } });
    sign_in["security"] = json!([{}]);
    let look = closed("session_get", "Who is signed in", answer("Session"), &["401", "429", "503"]);
    let mut leave = closed("session_close", "Signs out", json!({}), &["401", "429", "503"]);
    if let Some(responses) = leave["responses"].as_object_mut() {
        responses.remove("200");
        responses.insert("204".to_owned(), json!({ "description": "The session is over." }));
    }
    leave["security"] = json!([{ "session": [], "csrf": [] }]);
    json!({ "post": sign_in, "get": look, "delete": leave })
}

fn events() -> Value {
    let stream = json!({
        "description": "Events until the client goes: hello, state (its id is the revision), live, plan, resync.",
        "content": { "text/event-stream": { "schema": { "type": "string" } } },
    });
    let mut events =
        closed("events", "What changes, as it changes", stream, &["400", "401", "403", "429", "503"]);
    let flag = |name: &str, text: &str| json!({ "name": name, "in": "query", "required": false, "description": text, "schema": { "type": "string", "enum": ["0", "1"] } });
    let last = json!({
        "name": "Last-Event-ID", "in": "header", "required": false, "schema": { "type": "string", "pattern": "^[0-9]{1,19}$" },
        "description": "The last revision that was seen: what changed since comes first, or `resync`.",
    });
    events["parameters"] = json!([flag("live", "Gauges too."), flag("plans", "Plans and runs too."), last]);
    events["x-nhi-stream"] = json!(true);
    events
}

/// Path, method, id, what it is.
const DOORS: &[(&str, &str, &str, &str)] = &[
    ("/v1/chat/completions", "post", "openai_chat", "OpenAI's chat completions"),
    ("/v1/responses", "post", "openai_responses", "OpenAI's responses"),
    ("/v1/embeddings", "post", "openai_embeddings", "OpenAI's embeddings"),
    ("/v1/models", "get", "openai_models", "OpenAI's or Anthropic's list of models"),
    ("/v1/messages", "post", "anthropic_messages", "Anthropic's messages"),
    (
        "/v1beta/models/{call}",
        "post",
        "gemini_generate",
        "Google's generateContent and streamGenerateContent",
    ),
    ("/api/chat", "post", "ollama_chat", "Ollama's chat"),
    ("/api/generate", "post", "ollama_generate", "Ollama's generate"),
    ("/api/embed", "post", "ollama_embed", "Ollama's embed"),
    ("/api/tags", "get", "ollama_tags", "Ollama's list of models"),
    ("/api/show", "post", "ollama_show", "What Ollama tells of one model"),
    ("/api/version", "get", "ollama_version", "Ollama's version"),
];

/// A door: whatever its dialect says. Its failures have the dialect's own shape.
fn door(method: &str, id: &str, text: &str) -> Value {
    let any = json!({ "schema": {} });
    let kinds = ["application/json", "text/event-stream", "application/x-ndjson", "application/problem+json"];
    let content: Json = kinds.into_iter().map(|kind| (kind.to_owned(), any.clone())).collect();
    let answer = |text: &str| json!({ "description": text, "content": content });
    let mut door = json!({
        "operationId": id,
        "tags": ["models"],
        "summary": text,
        "description": "As its inventors describe it. An answer names its origin in x-nhi-provider, x-nhi-model and x-nhi-reason.",
        "x-nhi-effect": if method == "get" { "read" } else { "write" },
        "responses": { "200": answer("As the dialect has it."), "4XX": answer("An error of the dialect."), "5XX": answer("An error of the dialect.") },
    });
    if method == "post" {
        let body = json!({ "type": "object" });
        door["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": body } } });
    }
    if id == "ollama_version" {
        door["security"] = json!([{}]);
    }
    if id == "gemini_generate" {
        let schema = json!({ "type": "string", "pattern": "^.+:(generateContent|streamGenerateContent)$" });
        door["parameters"] = json!([{ "name": "call", "in": "path", "required": true, "schema": schema }]);
    }
    door
}

/// The shapes of the gateway's own answers; before all others, so that these have their names.
pub(super) fn define(schemas: &mut Schemas) {
    let text = json!({ "type": "string" });
    let error = json!({
        "type": "object",
        "description": "The error as it goes over the mesh.",
        "required": ["code", "message"],
        "properties": {
            "code": { "type": "string", "description": "A stable word." },
            "message": { "type": "string", "description": "What went wrong, one sentence." },
            "hint": { "type": "string", "description": "What to do next, one sentence." },
            "details": { "type": "object", "description": "Identifying values." },
        },
    });
    schemas.define_own("Problem", json!({
        "type": "object",
        "description": "Problem details (RFC 9457).",
        "required": ["type", "title", "status", "detail", "error"],
        "properties": {
            "type": text, "title": text, "status": { "type": "integer", "minimum": 400, "maximum": 599 }, "detail": text, "error": error,
        },
    }));
    let alive =
        json!({ "type": "object", "required": ["alive"], "properties": { "alive": { "const": true } } });
    schemas.define_own("Alive", alive);
    let check = json!({ "type": "object", "required": ["ok"], "properties": { "ok": { "type": "boolean" }, "reason": text } });
    schemas.define_own(
        "Ready",
        json!({
            "type": "object",
            "required": ["ready", "bus", "state"],
            "properties": { "ready": { "type": "boolean" }, "bus": check, "state": check },
        }),
    );
    schemas.define_own("Session", json!({
        "type": "object",
        "required": ["name", "role", "expires_at", "csrf"],
        "properties": { "name": text, "role": text, "expires_at": { "type": "string", "format": "date-time" }, "csrf": text },
    }));
    let list = json!({ "type": "array", "items": { "type": "object" } });
    schemas.define_own(
        "Mesh",
        json!({
            "type": "object",
            "required": ["services", "problems"],
            "properties": { "services": list, "problems": { "type": "array", "items": text } },
        }),
    );
}
