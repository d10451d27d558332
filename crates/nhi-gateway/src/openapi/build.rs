//! The document: a path for each endpoint the mesh offers, and the gateway's own. What an endpoint does, says and takes is
//! its service's word. One service of somebody else gets so much room and no more: what is left out can still be called.

use super::{own, schemas::Schemas};
use crate::{
    catalog::{Offered, newest},
    reply::PROBLEM_JSON,
};
use nhi_bus::discover::{EndpointInfo, SchemaText};
use nhi_model::{call::Effect, header, rights};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

pub(super) type Json = Map<String, Value>;

/// Bytes of JSON that one service of somebody else gets in the document, and all of them together; whatever endpoint is
/// the last may be half a MiB beyond. What is built in has all the room it needs, half a MiB.
const EACH_BYTES_MAX: usize = 2 * 1024 * 1024;
const OTHERS_BYTES_MAX: usize = 32 * 1024 * 1024;

/// The statuses a failed call may have, and what each means.
pub(super) const FAILURES: [(&str, &str); 12] = [
    ("400", "The request does not have the endpoint's shape; `error.message` names the place."),
    ("401", "There is no credential, or it is of no identity."),
    ("403", "The identity may not do this, or the request comes from a page of another site."),
    ("404", "There is no such thing."),
    ("408", "The request had expired when it came, or did not arrive in time; nothing was begun."),
    ("409", "It cannot be done as things are now."),
    ("410", "It is older than what is kept."),
    ("413", "The request or the answer is too large."),
    ("429", "Too many requests."),
    ("500", "The service failed; its log has more."),
    ("503", "Something this needs is not reachable now."),
    ("504", "No answer in time. It may have been done."),
];

/// What OpenAPI says of these services and of the gateway.
pub(super) fn document<'o>(services: impl Iterator<Item = &'o Offered>) -> Value {
    let mut schemas = Schemas::default();
    own::define(&mut schemas);
    let services: Vec<&Offered> = services.collect();
    let (mut paths, left_out) = paths(&services, &mut schemas);
    let described: BTreeMap<&str, &str> =
        services.iter().map(|offered| (offered.name.as_str(), offered.description.as_str())).collect();
    let tag = |(name, description): (&str, &str)| {
        let text = match left_out.get(name) {
            Some(count) => format!("{description} [{count} more endpoints of it are not described here]"),
            None => description.to_owned(),
        };
        json!({ "name": name, "description": text.trim_start() })
    };
    let mut tags: Vec<Value> = described.into_iter().map(tag).collect();
    own::add(&mut paths, &mut tags);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Neural-Home",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
        },
        "servers": [{ "url": "/" }],
        "security": [{ "key": [] }, { "session": [], "csrf": [] }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas.into_components(),
            "securitySchemes": own::security(),
            "responses": own::failures(&FAILURES),
        },
    })
}

/// The endpoints of these services, and how many of each had no room.
fn paths<'o>(services: &[&'o Offered], schemas: &mut Schemas) -> (Json, BTreeMap<&'o str, usize>) {
    let is_ours = |service: &str| rights::SERVICES.contains(&service);
    let all = newest(services.iter().copied()).into_iter();
    let (ours, others): (Vec<_>, Vec<_>) = all.partition(|((service, _), _)| is_ours(service));
    let (mut paths, mut left_out) = (Json::new(), BTreeMap::new());
    let (mut used, mut used_by_others) = (BTreeMap::<&str, usize>::new(), 0);
    // What is built in comes first: nobody else has its room, or its names.
    for ((service, endpoint), (offered, info)) in ours.into_iter().chain(others) {
        let used = used.entry(service).or_default();
        if !is_ours(service) && (*used >= EACH_BYTES_MAX || used_by_others >= OTHERS_BYTES_MAX) {
            *left_out.entry(service).or_default() += 1;
            continue;
        }
        let before = schemas.bytes();
        let operation = operation(service, endpoint, offered, info, schemas);
        let bytes = schemas.bytes() - before + operation.to_string().len();
        *used += bytes;
        used_by_others += if is_ours(service) { 0 } else { bytes };
        paths.insert(format!("/mesh/{service}/{endpoint}"), json!({ "post": operation }));
    }
    (paths, left_out)
}

const DESCRIPTION: &str = "The mesh over HTTP. Every path under /mesh is an endpoint of a service as it describes itself \
in discovery; whoever calls it does so with its own identity, and nats-server says what that may do. Failures are \
problem details (RFC 9457) with the mesh's own `error` beside them.";

fn operation(
    service: &str,
    endpoint: &str,
    offered: &Offered,
    info: &EndpointInfo,
    schemas: &mut Schemas,
) -> Value {
    let read = |schema: &Option<SchemaText>| schema.as_ref().map_or_else(|| json!({}), SchemaText::read);
    let id = format!("{service}_{endpoint}");
    let request = read(&info.request_schema);
    let takes_nothing = request.get("required").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && request.get("type") == Some(&json!("object"));
    let request = schemas.add(&request, &format!("{id}.request"));
    let answer = schemas.add(&read(&info.response_schema), &format!("{id}.response"));
    let mut responses = own::failed(FAILURES.iter().map(|(status, _)| *status));
    if !rights::SERVICES.contains(&service) {
        // A service of somebody else may have numbers of its own.
        for range in ["4XX", "5XX"] {
            responses.insert(range.to_owned(), json!({ "$ref": "#/components/responses/other" }));
        }
    }
    responses.insert("200".to_owned(), answered(answer, info.stream));
    json!({
        "operationId": id,
        "tags": [service],
        "summary": summary(service, endpoint, &info.description),
        "description": info.description,
        "x-nhi-effect": info.effect,
        "x-nhi-version": offered.version,
        "x-nhi-stream": info.stream,
        "parameters": parameters(info.effect),
        "requestBody": {
            "required": !takes_nothing,
            "content": { "application/json": { "schema": request } },
        },
        "responses": responses,
    })
}

fn summary(service: &str, endpoint: &str, description: &str) -> String {
    let first = description.split(['.', ':', ';']).next().unwrap_or_default().trim();
    if first.is_empty() { format!("{service}.{endpoint}") } else { first.chars().take(120).collect() }
}

/// A whole answer, and for endpoints that stream the forms of its frames.
fn answered(answer: Value, is_stream: bool) -> Value {
    let mut content = Json::new();
    let mut text = "The answer of the service, unchanged.".to_owned();
    content.insert("application/json".to_owned(), json!({ "schema": answer }));
    if is_stream {
        text.push_str(
            " When it answers in frames: a line of JSON each, the last one {\"Nhi-End\":\"done\"} or \
             {\"Nhi-End\":\"failed\",\"status\":…,\"error\":{…}}; or, for who accepts text/event-stream, an event each, \
             the last one named `end`. Without the end the answer is not whole.",
        );
        for kind in ["application/x-ndjson", "text/event-stream"] {
            content.insert(kind.to_owned(), json!({ "schema": { "type": "string" } }));
        }
    }
    json!({ "description": text, "content": content })
}

fn parameters(effect: Effect) -> Value {
    let id = match effect {
        Effect::Read => "Tells this request from others.",
        Effect::Write | Effect::Danger => {
            "Tells this request from others: what must not happen twice (a plan, a run, an approval) happens once when it is sent again with the same id, and is answered the same."
        }
    };
    json!([
        {
            "name": header::ID, "in": "header", "required": false, "description": id,
            "schema": { "type": "string", "minLength": 1, "maxLength": header::ID_CHARS_MAX, "pattern": "^[!-~]+$" },
        },
        {
            "name": header::EXPIRES, "in": "header", "required": false,
            "description": "When the request is no longer worth doing, at most 110 s from now; else 30 s.",
            "schema": { "type": "string", "format": "date-time" },
        },
    ])
}

/// The reference to what a failure looks like.
pub(super) fn problem() -> Value {
    json!({ PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } })
}
