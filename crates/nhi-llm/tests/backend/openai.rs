//! OpenAI-compatible servers: what goes out, what comes back, and that nothing is lost on the way.

use crate::server::{Server, ask, finish, map, open, stream, streamed, text, whole};
use nhi_llm::{Backend, Endpoint, Hints, Reply};
use nhi_model::ai::{BackendKind, Continues};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc};

const DELTA: &str = "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hel\"},\"finish_reason\":null}],\"x_new\":7}\n\n";
const REST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"lo\"},\"finish_reason\":null}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

fn hello() -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "hello" }] })
}

#[tokio::test]
async fn a_whole_answer_passes_unharmed_and_the_connection_serves_again() {
    let answer = json!({ "id": "1", "model": "m", "x_groq": { "id": "r" }, "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello", "reasoning_content": "hm" }, "finish_reason": "stop", "logprobs": null }], "usage": { "total_tokens": 5 } });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let backend = server.backend(BackendKind::Openai);
    for _ in 0..3 {
        let got = ask(
            &backend,
            json!({ "model": "m", "messages": [], "top_k": 3, "max_tokens": 9 }),
            &Hints::default(),
        )
        .await;
        assert_eq!(got.unwrap(), answer);
    }
    assert_eq!(server.connections(), 1);
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /v1/chat/completions HTTP/1.1");
    assert_eq!(seen.headers["authorization"], "Bearer sk-very-secret");
    assert!(!seen.headers.contains_key("accept-encoding"));
    let sent =
        json!({ "model": "m", "messages": [], "top_k": 3, "max_tokens": 9, "max_completion_tokens": 9 });
    assert_eq!(seen.body, sent);
}

#[tokio::test]
async fn a_stream_passes_unharmed_and_the_connection_serves_again() {
    let server =
        Server::saying(streamed("text/event-stream", &[DELTA, ": still here\n\n", REST, USAGE])).await;
    let backend = server.backend(BackendKind::Openai);
    for _ in 0..3 {
        let (chunks, end) = stream(&backend, hello(), &Hints::default()).await;
        assert_eq!(
            (end, text(&chunks).as_str(), finish(&chunks).as_deref()),
            (Ok(()), "Hello", Some("stop"))
        );
        assert_eq!((&chunks[0]["x_new"], &chunks[3]["usage"]["prompt_tokens"]), (&json!(7), &json!(3)));
    }
    assert_eq!(server.connections(), 1);
    assert_eq!(server.seen()[0].body["stream_options"]["include_usage"], true);
}

#[tokio::test]
async fn what_is_no_proper_stream_but_tells_all_is_an_answer() {
    // No `[DONE]`; no empty line at the end; no stream at all.
    for pieces in [
        streamed("text/event-stream", &[DELTA, REST]),
        streamed("text/event-stream", &[DELTA, REST.trim_end()]),
        whole("200 OK", "", &json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hello" }, "finish_reason": "stop" }], "usage": {} }).to_string()),
    ] {
        let server = Server::saying(pieces).await;
        let (chunks, end) = stream(&server.backend(BackendKind::Openai), hello(), &Hints::default()).await;
        assert_eq!((end, text(&chunks).as_str(), finish(&chunks).as_deref()), (Ok(()), "Hello", Some("stop")));
    }
}

#[tokio::test]
async fn whoever_stops_listening_is_noticed_at_once() {
    let mut pieces = open("text/event-stream", &[DELTA]);
    pieces.push(crate::server::Piece::Silence);
    let mut server = Server::saying(pieces).await;
    let backend = server.backend(BackendKind::Openai);
    let mut request = map(hello());
    request.insert("stream".to_owned(), true.into());
    let Ok(Reply::Stream(mut chunks)) = backend.chat(request.clone(), &Hints::default()).await else {
        panic!("no stream")
    };
    assert!(chunks.next().await.unwrap().is_ok());
    drop(chunks);
    server.gone(1).await;

    // Before the first byte as well.
    let mut server = Server::saying(vec![crate::server::Piece::Silence]).await;
    let backend = server.backend(BackendKind::Openai);
    let hints = Hints::default();
    let asked = backend.chat(request, &hints);
    tokio::select! {
        _ = asked => panic!("an answer out of silence"),
        () = async { while server.seen().is_empty() { tokio::task::yield_now().await } } => {}
    }
    server.gone(1).await;
}

#[tokio::test]
async fn the_relay_gets_a_signature_of_its_own_for_each_request() {
    let server = Server::saying(whole("200 OK", "", "{\"data\":[]}")).await;
    let signer: nhi_llm::Signer = Arc::new(|method, path| format!("signed {method} {path}"));
    let endpoint = Endpoint { signer: Some(signer), ..server.endpoint(BackendKind::Openai) };
    Backend::new(endpoint).unwrap().models().await.unwrap();
    assert_eq!(server.seen()[0].headers["nhi-relay"], "signed GET /v1/models");
}

#[tokio::test]
async fn fields_that_configuration_names_are_all_that_goes_out() {
    let server = Server::saying(whole("200 OK", "", "{\"choices\":[{\"message\":{}}]}")).await;
    let mut endpoint = server.endpoint(BackendKind::Openai);
    endpoint.options.fields = Some(BTreeSet::from(["model".to_owned(), "messages".to_owned()]));
    let backend = Backend::new(endpoint).unwrap();
    ask(&backend, json!({ "model": "m", "messages": [], "top_k": 1 }), &Hints::default()).await.unwrap();
    assert_eq!(server.seen()[0].body, json!({ "model": "m", "messages": [] }));
}

#[tokio::test]
async fn a_list_of_models_tells_what_they_can_and_who_goes_on_with_a_text() {
    let rows = json!({ "data": [
        { "id": "a", "owned_by": "llamacpp", "meta": { "n_ctx_train": 131_072, "n_params": 1_500_000_000 } },
        { "id": "models/b", "context_length": 32_000, "supported_parameters": ["tools"], "architecture": { "input_modalities": ["text", "image"] }, "pricing": { "prompt": "0.0000005", "completion": "0.000002" } },
        { "id": "nomic-embed-text" },
        { "id": "glm-4.6:cloud", "owned_by": "library" },
        { "id": "gpt-oss:120b-cloud", "owned_by": "library" },
        { "name": "not one" },
    ] });
    let server = Server::saying(whole("200 OK", "", &rows.to_string())).await;
    let backend = server.backend(BackendKind::Openai);
    assert_eq!(backend.continues(), Continues::Never);
    let models = backend.models().await.unwrap();
    assert_eq!(backend.continues(), Continues::Prefill);
    let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "nomic-embed-text", "glm-4.6:cloud", "gpt-oss:120b-cloud"]);
    assert_eq!((models[0].context_tokens, models[0].billions), (Some(131_072), Some(1.5)));
    let b = &models[1];
    assert_eq!((b.context_tokens, b.tools, b.vision), (Some(32_000), Some(true), Some(true)));
    let price = b.price.unwrap();
    assert!((price.input - 0.5).abs() < 1e-9 && (price.output - 2.0).abs() < 1e-9);
    assert!(models[2].embeds && !models[0].embeds);
    // An Ollama in its OpenAI mode passes these on to a cloud.
    let elsewhere: Vec<bool> = models.iter().map(|model| model.elsewhere).collect();
    assert_eq!(elsewhere, [false, false, false, true, true]);
}
