//! Ollama's own API: what it is told, what it answers, and that nothing is cut silently.

use crate::server::{Server, ask, finish, map, stream, streamed, text, whole};
use nhi_llm::{Hints, Kind, Loaded};
use nhi_model::ai::BackendKind;
use serde_json::{Value, json};
use std::time::Duration;

const LINES: &[&str] = &[
    "{\"model\":\"qwen3:8b\",\"created_at\":\"2026-01-31T12:00:00.5Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\"},\"done\":false}\n{\"model\":\"qwen3:8b\",\"created_at\":\"2026-01-31T12:00:00.6Z\",\"mess",
    "age\":{\"role\":\"assistant\",\"content\":\"Hel\"},\"done\":false}\n{\"model\":\"qwen3:8b\",\"created_at\":\"2026-01-31T12:00:00.7Z\",\"message\":{\"role\":\"assistant\",\"content\":\"lo\"},\"done\":false}\n",
    "{\"model\":\"qwen3:8b\",\"created_at\":\"2026-01-31T12:00:01Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done_reason\":\"stop\",\"done\":true,\"total_duration\":900,\"load_duration\":1,\"prompt_eval_count\":11,\"eval_count\":7,\"eval_duration\":500}\n",
];
const CALL: &str = "{\"model\":\"m\",\"created_at\":\"2026-01-31T12:00:00Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"index\":0,\"name\":\"look\",\"arguments\":{\"at\":\"sky\"}}},{\"function\":{\"index\":1,\"name\":\"look\",\"arguments\":{}}}]},\"done\":false}\n{\"model\":\"m\",\"created_at\":\"2026-01-31T12:00:01Z\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"eval_count\":1}\n";

#[tokio::test]
async fn a_stream_of_lines_becomes_chunks_and_the_connection_serves_again() {
    let server = Server::saying(streamed("application/x-ndjson", LINES)).await;
    let backend = server.backend(BackendKind::Ollama);
    for _ in 0..2 {
        let (chunks, end) =
            stream(&backend, json!({ "model": "qwen3:8b", "messages": [] }), &Hints::default()).await;
        assert_eq!(
            (end, text(&chunks).as_str(), finish(&chunks).as_deref()),
            (Ok(()), "Hello", Some("stop"))
        );
        assert_eq!(
            chunks[0]["choices"][0]["delta"],
            json!({ "role": "assistant", "reasoning_content": "hm" })
        );
        let last = chunks.last().unwrap();
        assert_eq!(last["usage"], json!({ "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18 }));
        assert_eq!((&last["choices"], &last["ollama"]["eval_duration"]), (&json!([]), &json!(500)));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn tool_calls_have_ids_and_end_as_tool_calls() {
    let server = Server::saying(streamed("application/x-ndjson", &[CALL])).await;
    let (chunks, end) = stream(
        &server.backend(BackendKind::Ollama),
        json!({ "model": "m", "messages": [] }),
        &Hints::default(),
    )
    .await;
    assert_eq!((end, finish(&chunks).as_deref()), (Ok(()), Some("tool_calls")));
    let chunks = chunks.into_iter().map(map);
    let whole = Value::Object(nhi_llm::assembled(chunks));
    let calls = &whole["choices"][0]["message"]["tool_calls"];
    assert_eq!(calls[0]["function"], json!({ "name": "look", "arguments": "{\"at\":\"sky\"}" }));
    assert_ne!(calls[0]["id"], calls[1]["id"]);
}

#[tokio::test]
async fn a_request_is_told_in_its_words_with_the_context_that_fits() {
    let answer = json!({ "model": "m", "created_at": "2026-01-31T12:00:00Z", "message": { "role": "assistant", "content": "{}" }, "done": true, "done_reason": "length", "prompt_eval_count": 2, "eval_count": 3 });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let schema = json!({ "type": "object" });
    let request = json!({
        "model": "m", "max_completion_tokens": 50, "temperature": 0.5, "top_k": 4, "stop": "END", "reasoning_effort": "none",
        "options": { "num_gpu": 9 }, "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } },
        "tools": [{ "type": "function", "function": { "name": "look" } }], "something_new": 1, "keep_alive": -1,
        "messages": [
            { "role": "developer", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "what" }, { "type": "text", "text": " is it" }, { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }] },
            { "role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "look", "arguments": "{\"at\":1}" } }] },
            { "role": "tool", "tool_call_id": "c1", "content": "a cat" },
        ],
    });
    let hints =
        Hints { num_ctx: Some(8192), keep_alive: Some(Duration::from_secs(60)), output_tokens_max: None };
    let got = ask(&server.backend(BackendKind::Ollama), request, &hints).await.unwrap();
    assert_eq!(got["choices"][0]["finish_reason"], "length");
    assert_eq!(got["choices"][0]["message"], json!({ "role": "assistant", "content": "{}" }));
    assert_eq!(got["usage"]["total_tokens"], 5);
    let seen = &server.seen()[0];
    assert_eq!(seen.line, "POST /api/chat HTTP/1.1");
    assert_eq!(
        seen.body,
        json!({
            "model": "m", "stream": false, "think": false, "truncate": false, "shift": false, "keep_alive": 60, "format": schema, "something_new": 1,
            "options": { "num_ctx": 8192, "num_predict": 50, "temperature": 0.5, "top_k": 4, "stop": ["END"], "num_gpu": 9 },
            "tools": [{ "type": "function", "function": { "name": "look" } }],
            "messages": [
                { "role": "system", "content": "be brief" },
                { "role": "user", "content": "what is it", "images": ["AAAA"] },
                { "role": "assistant", "content": "", "thinking": "hm", "tool_calls": [{ "id": "c1", "function": { "index": 0, "name": "look", "arguments": { "at": 1 } } }] },
                { "role": "tool", "content": "a cat", "tool_name": "look", "tool_call_id": "c1" },
            ],
        })
    );
}

#[tokio::test]
async fn what_it_cannot_do_is_refused_before_anything_is_sent() {
    let server = Server::saying(Vec::new()).await;
    let backend = server.backend(BackendKind::Ollama);
    let user = |content: Value| json!({ "model": "m", "messages": [{ "role": "user", "content": content }] });
    let url = json!([{ "type": "image_url", "image_url": { "url": "https://host/cat.png" } }]);
    for (request, kind) in [
        (user(url), Kind::Unsupported),
        (user(json!([{ "type": "input_audio" }])), Kind::Unsupported),
        (json!({ "model": "m", "messages": [], "tool_choice": "required" }), Kind::Unsupported),
        (json!({ "model": "m", "messages": [], "n": 2 }), Kind::Unsupported),
        (json!({ "model": "m" }), Kind::BadRequest),
        (user(json!(7)), Kind::BadRequest),
    ] {
        assert_eq!(ask(&backend, request, &Hints::default()).await.unwrap_err().kind, kind);
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    let error = "{\"error\":\"an error was encountered while running the model\"}\n";
    for (pieces, said, kind) in [
        (&[LINES[0], LINES[1]][..], "Hello", Kind::Cut),
        (&[LINES[0], LINES[1], error], "Hello", Kind::Server),
        (&[LINES[0]], "", Kind::Cut),
        (&["{\"model\":\"m\",\"done\":false}\n"], "", Kind::Garbage),
    ] {
        let server = Server::saying(streamed("application/x-ndjson", pieces)).await;
        let (chunks, end) = stream(
            &server.backend(BackendKind::Ollama),
            json!({ "model": "m", "messages": [] }),
            &Hints::default(),
        )
        .await;
        assert_eq!((text(&chunks).as_str(), end.unwrap_err().kind), (said, kind));
    }
}

#[tokio::test]
async fn models_of_its_cloud_are_told_apart_from_those_at_home() {
    let tags = json!({ "models": [
        { "name": "qwen2.5:7b", "model": "qwen2.5:7b", "digest": "d1", "details": { "parameter_size": "7.6B" } },
        { "name": "gpt-oss:120b-cloud", "model": "gpt-oss:120b-cloud", "details": {} },
        { "name": "renamed", "model": "renamed", "remote_host": "https://ollama.com:443", "remote_model": "glm" },
        { "name": "copied", "model": "copied", "details": {} },
        { "name": "nomic", "model": "nomic", "details": { "parameter_size": "137M" } },
    ] });
    let server = Server::start(move |seen| match seen.body["model"].as_str() {
        None => whole("200 OK", "", &tags.to_string()),
        Some("qwen2.5:7b") => whole("200 OK", "", &json!({ "capabilities": ["completion", "tools"], "model_info": { "general.architecture": "qwen2", "general.parameter_count": 7_615_616_512_u64, "qwen2.context_length": 32_768 } }).to_string()),
        Some("copied") => whole("200 OK", "", "{\"remote_model\":\"glm-4.6\",\"capabilities\":[\"completion\"]}"),
        Some("nomic") => whole("200 OK", "", "{\"capabilities\":[\"embedding\"]}"),
        Some(name) => whole("404 Not Found", "", &json!({ "error": format!("model '{name}' not found") }).to_string()),
    })
    .await;
    let backend = server.backend(BackendKind::Ollama);
    let models = backend.models().await.unwrap();
    // What has a digest is asked after once.
    assert_eq!(backend.models().await.unwrap(), models);
    let shows = server.seen().iter().filter(|seen| seen.body["model"] == "qwen2.5:7b").count();
    assert_eq!((shows, server.seen().len()), (1, 11));
    let elsewhere: Vec<bool> = models.iter().map(|model| model.elsewhere).collect();
    assert_eq!(elsewhere, [false, true, true, true, false]);
    let qwen = &models[0];
    assert_eq!(
        (qwen.context_tokens, qwen.tools, qwen.vision, qwen.embeds),
        (Some(32_768), Some(true), Some(false), false)
    );
    assert!((qwen.billions.unwrap() - 7.615).abs() < 0.01);
    assert!(models[4].embeds && models[1].tools.is_none());
}

#[tokio::test]
async fn what_is_in_memory_is_told_and_leaves_it() {
    let ps = json!({ "models": [
        { "name": "a", "model": "a", "size": 100, "size_vram": 100, "context_length": 4096 },
        { "name": "b", "model": "b", "size": 100, "size_vram": 60 },
    ] });
    let server = Server::start(move |seen| {
        let body = if seen.line.starts_with("GET") {
            ps.to_string()
        } else {
            "{\"done\":true,\"done_reason\":\"unload\"}".to_owned()
        };
        whole("200 OK", "", &body)
    })
    .await;
    let backend = server.backend(BackendKind::Ollama);
    let a =
        Loaded { name: "a".to_owned(), vram_bytes: 100, context_tokens: Some(4096), partly_on_cpu: false };
    let b = Loaded { name: "b".to_owned(), vram_bytes: 60, context_tokens: None, partly_on_cpu: true };
    assert_eq!(backend.loaded().await.unwrap(), [a, b]);
    backend.unload(None).await.unwrap();
    let asked: Vec<Value> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.line.starts_with("POST /api/generate"))
        .map(|seen| seen.body)
        .collect();
    assert_eq!(
        asked,
        [
            json!({ "model": "a", "keep_alive": 0, "stream": false }),
            json!({ "model": "b", "keep_alive": 0, "stream": false })
        ]
    );
}

#[tokio::test]
async fn embeddings_come_as_openai_has_them() {
    let server =
        Server::saying(whole("200 OK", "", "{\"embeddings\":[[1.0,0.5]],\"prompt_eval_count\":4}")).await;
    let backend = server.backend(BackendKind::Ollama);
    let got = backend.embed(map(json!({ "model": "m", "input": "hello" }))).await.unwrap();
    assert_eq!(got["data"], json!([{ "object": "embedding", "index": 0, "embedding": [1.0, 0.5] }]));
    assert_eq!(got["usage"]["prompt_tokens"], 4);
    assert_eq!(server.seen()[0].body, json!({ "model": "m", "input": ["hello"], "truncate": false }));
    let got = backend
        .embed(map(json!({ "model": "m", "input": ["hello"], "encoding_format": "base64" })))
        .await
        .unwrap();
    assert_eq!(got["data"][0]["embedding"], "AACAPwAAAD8=");
}

#[tokio::test]
async fn a_caller_does_not_say_how_long_a_model_stays_loaded() {
    let answer = json!({ "model": "m", "created_at": "2026-01-31T12:00:00Z", "message": { "role": "assistant", "content": "hi" }, "done": true, "done_reason": "stop", "embeddings": [[1.0]] });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let backend = server.backend(BackendKind::Ollama);
    let request = json!({ "model": "m", "messages": [], "keep_alive": -1 });
    ask(&backend, request.clone(), &Hints::default()).await.unwrap();
    let hints = Hints { keep_alive: Some(Duration::from_secs(60)), ..Hints::default() };
    ask(&backend, request, &hints).await.unwrap();
    backend.embed(map(json!({ "model": "m", "input": "x", "keep_alive": -1 }))).await.unwrap();
    let seen: Vec<Value> = server.seen().into_iter().map(|seen| seen.body["keep_alive"].clone()).collect();
    assert_eq!(seen, [Value::Null, json!(60), Value::Null]);
}

#[tokio::test]
async fn figures_beyond_belief_break_nothing() {
    let most = u64::MAX;
    let answer = json!({ "model": "m", "created_at": "2026-01-31T12:00:00Z", "message": { "role": "assistant", "content": "hi" }, "done": true, "done_reason": "stop", "prompt_eval_count": most, "eval_count": most });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let request = json!({ "model": "m", "messages": [] });
    let got = ask(&server.backend(BackendKind::Ollama), request.clone(), &Hints::default()).await.unwrap();
    assert_eq!(got["usage"]["total_tokens"], most);

    let answer = json!({ "candidates": [{ "content": { "parts": [{ "text": "hi" }] }, "finishReason": "STOP" }],
        "usageMetadata": { "promptTokenCount": most, "toolUsePromptTokenCount": 1, "candidatesTokenCount": most, "thoughtsTokenCount": 1 } });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let mut said = request.clone();
    said["messages"] = json!([{ "role": "user", "content": "hi" }]);
    let got = ask(&server.backend(BackendKind::Gemini), said.clone(), &Hints::default()).await.unwrap();
    assert_eq!(got["usage"]["prompt_tokens"], most);

    let answer = json!({ "id": "1", "type": "message", "role": "assistant", "model": "m", "content": [{ "type": "text", "text": "hi" }], "stop_reason": "end_turn",
        "usage": { "input_tokens": most, "cache_read_input_tokens": 1, "output_tokens": most } });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let got = ask(&server.backend(BackendKind::Anthropic), said, &Hints::default()).await.unwrap();
    assert_eq!(got["usage"]["prompt_tokens"], most);
}
