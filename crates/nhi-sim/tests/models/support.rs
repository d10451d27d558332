//! A server and a client for each test, and readers of the three forms of streams.

use futures::StreamExt as _;
use nhi_sim::models::{ModelSettings, Options, Provider, Running, serve};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use std::time::Duration;

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn server(provider: Provider) -> Running {
    with_model(provider, ModelSettings::named("m")).await
}

pub(crate) async fn with_model(provider: Provider, model: ModelSettings) -> Running {
    serve(Options::local(provider, vec![model, ModelSettings::embedding("e")])).await.expect("a free port")
}

pub(crate) fn client() -> Client {
    let _already_set = rustls::crypto::ring::default_provider().install_default();
    let none = reqwest::redirect::Policy::none();
    Client::builder().redirect(none).no_proxy().build().expect("a client")
}

pub(crate) async fn post(running: &Running, path: &str, body: &Value) -> Response {
    client().post(format!("{}{path}", running.url)).json(body).send().await.expect("an answer")
}

pub(crate) async fn get(running: &Running, path: &str) -> Value {
    let response = client().get(format!("{}{path}", running.url)).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

pub(crate) async fn control(running: &Running, path: &str, body: &Value) -> Value {
    let url = format!("{}{path}", running.control_url);
    let response = client().post(url).json(body).send().await.expect("an answer");
    response.json().await.expect("JSON")
}

/// A question in OpenAI's form.
pub(crate) fn chat(question: &str, is_stream: bool) -> Value {
    json!({"model": "m", "stream": is_stream, "messages": [{"role": "user", "content": question}]})
}

/// All bytes that came, and whether the connection broke.
pub(crate) async fn all(response: Response) -> (String, bool) {
    let mut stream = response.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(part) = stream.next().await {
        match part {
            Ok(part) => bytes.extend_from_slice(&part),
            Err(_) => return (String::from_utf8_lossy(&bytes).into_owned(), true),
        }
    }
    (String::from_utf8(bytes).expect("whole characters"), false)
}

/// The data of events, broken ones as `null`; comments are skipped.
pub(crate) fn events(text: &str) -> Vec<Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("data: "));
    lines
        .filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).unwrap_or_default())
        .collect()
}

/// The text of OpenAI's chunks.
pub(crate) fn text_of(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

/// The text of a streamed answer in OpenAI's form, and whether it broke.
pub(crate) async fn streamed(running: &Running, path: &str, body: &Value) -> (String, bool) {
    let (text, broke) = all(post(running, path, body).await).await;
    (text_of(&events(&text)), broke)
}

/// Adds to an array.
pub(crate) fn push(array: &mut Value, value: Value) {
    array.as_array_mut().expect("an array").push(value);
}
