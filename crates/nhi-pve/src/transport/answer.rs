//! What goes out and what comes back, as values. No I/O.

use super::Call;
use crate::{
    endpoint::{Address, ApiToken},
    error::{Kind, clean, of_answer},
};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    ext::ReasonPhrase,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT},
    http::{request, response::Parts},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// More parameters than any call has.
const FIELDS_MAX: usize = 32;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The text behind the status.
    reason: String,
    content_type: String,
    location: String,
    body: Vec<u8>,
}

/// An answer that carries no data.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) kind: Kind,
    pub(crate) status: u16,
    pub(crate) text: String,
    pub(crate) fields: BTreeMap<String, String>,
    /// Whether Proxmox itself said so, in words of its own.
    pub(crate) is_said: bool,
}

/// The request of a call that reads.
pub(crate) fn request(address: &Address, call: &Call, authorization: &HeaderValue) -> Request<Full<Bytes>> {
    let head = head(Method::GET, address, call, authorization);
    head.body(Full::default()).expect("host and path are encoded ASCII, and the path is short")
}

/// The head of any request.
pub(super) fn head(
    method: Method,
    address: &Address,
    call: &Call,
    authorization: &HeaderValue,
) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("/api2/json{}{}", call.path, call.query))
        .header(HOST, format!("{}:{}", address.host, address.port))
        .header(AUTHORIZATION, authorization)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("nhi/", env!("CARGO_PKG_VERSION")))
}

impl Answer {
    pub(crate) fn new(head: &Parts, body: Vec<u8>) -> Self {
        let header = |name: HeaderName| {
            let value =
                head.headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            clean(&value.unwrap_or_default())
        };
        Self {
            status: head.status.as_u16(),
            reason: reason(head),
            content_type: header(CONTENT_TYPE),
            location: header(LOCATION),
            body,
        }
    }
}

/// Proxmox before 8.3 says what is wrong nowhere else.
fn reason(head: &Parts) -> String {
    match head.extensions.get::<ReasonPhrase>() {
        Some(phrase) => String::from_utf8_lossy(phrase.as_bytes()).into_owned(),
        None => head.status.canonical_reason().unwrap_or("").to_owned(),
    }
}

/// The `data` of an answer. `node` is the one the call was about; `token` is what no text may repeat.
pub(crate) fn data(answer: Answer, node: &str, token: &ApiToken) -> Result<Value, Refused> {
    let show = |text: &str| clean(&token.redact(text));
    match answer.status {
        200..=299 => envelope(&answer, show),
        300..=399 => {
            let text = format!(
                "{} is a redirect to \"{}\", which is not followed: give the address of Proxmox itself",
                answer.status,
                show(&answer.location)
            );
            Err(refused(&answer, Kind::NotProxmox, text))
        }
        _ => Err(failure(&answer, node, show)),
    }
}

fn refused(answer: &Answer, kind: Kind, text: String) -> Refused {
    Refused { kind, status: answer.status, text, fields: BTreeMap::new(), is_said: false }
}

fn not_proxmox(answer: &Answer, show: impl Fn(&str) -> String) -> Refused {
    let content = if answer.content_type.is_empty() {
        "no content type".to_owned()
    } else {
        show(&answer.content_type)
    };
    let text = format!(
        "something that is not Proxmox VE answered (status {}, {content}): is the address right, is a proxy in between?",
        answer.status
    );
    refused(answer, Kind::NotProxmox, text)
}

fn envelope(answer: &Answer, show: impl Fn(&str) -> String) -> Result<Value, Refused> {
    match parse(&answer.body) {
        Ok(Value::Object(mut envelope)) => envelope.remove("data").ok_or_else(|| not_proxmox(answer, show)),
        // An answer without a length ends with the connection: that a part is missing shows only here.
        Err(error) if error.is_eof() && answer.body.first() == Some(&b'{') => {
            Err(refused(answer, Kind::Connect, "the answer ended in the middle".to_owned()))
        }
        Ok(_) | Err(_) => Err(not_proxmox(answer, show)),
    }
}

fn parse(body: &[u8]) -> Result<Value, serde_json::Error> {
    // Names may hold bytes that are no UTF-8; they must not hide everything else.
    match str::from_utf8(body) {
        Ok(text) => serde_json::from_str(text),
        Err(_) => serde_json::from_str(&String::from_utf8_lossy(body)),
    }
}

fn failure(answer: &Answer, node: &str, show: impl Fn(&str) -> String) -> Refused {
    let (told, is_object) = match parse(&answer.body) {
        Ok(Value::Object(told)) => (told, true),
        Ok(_) | Err(_) if is_page(answer) => return not_proxmox(answer, show),
        Ok(_) | Err(_) => (Map::new(), false),
    };
    let fields = fields(&told, &show);
    let message = told.get("message").and_then(Value::as_str).map(&show).filter(|text| !text.is_empty());
    let has_reason = !answer.reason.is_empty() && canonical(answer.status) != Some(answer.reason.as_str());
    let is_said = if is_object { told.contains_key("data") } else { has_reason };
    let mut text = message.unwrap_or_else(|| show(&answer.reason));
    if text.is_empty() {
        text = no_words(answer.status);
    }
    let kind = of_answer(answer.status, &text, node);
    if let Kind::NodeUnreachable { node } = &kind {
        let node = if node.is_empty() { "a node".to_owned() } else { format!("node {}", clean(node)) };
        text = format!("{node} cannot be reached from there ({} {text})", answer.status);
    }
    for (field, problem) in &fields {
        text.push_str(&format!(" ({field}: {problem})"));
    }
    Refused { kind, status: answer.status, text: clean(&text), fields, is_said }
}

/// Whether another server's page answered. Proxmox's refusals are JSON or empty, and nobody else sends 595-599. A
/// 401 pauses whoever sent it: the next would be refused too.
fn is_page(answer: &Answer) -> bool {
    !answer.body.is_empty() && answer.status != 401 && !(595..=599).contains(&answer.status)
}

fn no_words(status: u16) -> String {
    match status {
        595 => "connection failed".to_owned(),
        596 => "TLS or time-out".to_owned(),
        597..=599 => "broken off".to_owned(),
        _ => canonical(status).map_or_else(|| format!("status {status} without a reason"), str::to_owned),
    }
}

fn canonical(status: u16) -> Option<&'static str> {
    StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason())
}

fn fields(told: &Map<String, Value>, show: impl Fn(&str) -> String) -> BTreeMap<String, String> {
    let errors = told.get("errors").and_then(Value::as_object);
    let readable =
        errors.into_iter().flatten().filter_map(|(field, text)| Some((show(field), show(text.as_str()?))));
    readable.take(FIELDS_MAX).collect()
}
