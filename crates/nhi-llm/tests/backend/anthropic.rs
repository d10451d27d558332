//! Anthropic's Messages: what it is told, what it answers, and that a conversation survives the way there and back.

use crate::server::{Server, ask, finish, map, stream, streamed, text, whole};
use nhi_llm::{Hints, Kind};
use nhi_model::ai::BackendKind;
use serde_json::{Value, json};

const START: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-x\",\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":10,\"cache_read_input_tokens\":5,\"output_tokens\":1}}}\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n";
const THINK: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"hm\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"signature_delta\",\"signature\":\"c2ln\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n";
const TEXT: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":1,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hel\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"lo\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":1}\n\n";
const CALLS: &str = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"look\",\"input\":{}}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{\\\"at\\\":\"}}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"1}\"}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":3,\"content_block\":{\"type\":\"tool_use\",\"id\":\"toolu_2\",\"name\":\"wait\",\"input\":{}}}\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":3}\n\n";
const END: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":42}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

fn request() -> Value {
    json!({ "model": "claude-x", "messages": [{ "role": "user", "content": "hello" }] })
}

#[tokio::test]
async fn a_stream_becomes_chunks_and_its_conversation_goes_back_as_it_came() {
    let server = Server::saying(streamed("text/event-stream", &[START, THINK, TEXT, CALLS, END])).await;
    let backend = server.backend(BackendKind::Anthropic);
    let (chunks, end) = stream(&backend, request(), &Hints::default()).await;
    assert_eq!(
        (end, text(&chunks).as_str(), finish(&chunks).as_deref()),
        (Ok(()), "Hello", Some("tool_calls"))
    );
    let whole = Value::Object(nhi_llm::assembled(chunks.into_iter().map(map)));
    assert_eq!((&whole["id"], &whole["model"]), (&json!("msg_1"), &json!("claude-x")));
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": 15, "completion_tokens": 42, "total_tokens": 57, "cache_read_input_tokens": 5, "prompt_tokens_details": { "cached_tokens": 5 } })
    );
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "hm");
    assert_eq!(message["tool_calls"][1]["function"], json!({ "name": "wait", "arguments": "{}" }));

    let more = json!({ "model": "claude-x", "stream": true, "messages": [
        { "role": "user", "content": "hello" },
        message,
        { "role": "tool", "tool_call_id": "toolu_1", "content": "a cat" },
        { "role": "tool", "tool_call_id": "toolu_2", "content": "" },
    ] });
    stream(&backend, more, &Hints::default()).await.1.unwrap();
    assert_eq!(
        server.seen()[1].body["messages"],
        json!([
            { "role": "user", "content": [{ "type": "text", "text": "hello" }] },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "hm", "signature": "c2ln" },
                { "type": "text", "text": "Hello" },
                { "type": "tool_use", "id": "toolu_1", "name": "look", "input": { "at": 1 } },
                { "type": "tool_use", "id": "toolu_2", "name": "wait", "input": {} },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "toolu_1", "content": [{ "type": "text", "text": "a cat" }] },
                { "type": "tool_result", "tool_use_id": "toolu_2", "content": [] },
            ] },
        ])
    );
}

#[tokio::test]
async fn a_request_is_told_in_its_words_and_only_those() {
    let answer = json!({ "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": [{ "type": "text", "text": "Hello" }], "stop_reason": "max_tokens", "usage": { "input_tokens": 1, "output_tokens": 2 } });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let request = json!({
        "model": "claude-x", "temperature": 1.5, "stop": ["END"], "user": "u", "parallel_tool_calls": false, "frequency_penalty": 1, "seed": 3,
        "tool_choice": { "type": "function", "function": { "name": "look" } },
        "tools": [{ "type": "function", "function": { "name": "look", "description": "looks", "parameters": { "type": "object" } } }],
        "messages": [
            { "role": "system", "content": [{ "type": "text", "text": "be brief", "cache_control": { "type": "ephemeral" } }] },
            { "role": "user", "content": [{ "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }, { "type": "image_url", "image_url": "https://host/cat.png" }] },
            { "role": "user", "content": "what is it?" },
        ],
    });
    let hints = Hints { output_tokens_max: Some(4000), ..Hints::default() };
    let got = ask(&server.backend(BackendKind::Anthropic), request, &hints).await.unwrap();
    assert_eq!(
        got["choices"],
        json!([{ "index": 0, "message": { "role": "assistant", "content": "Hello" }, "finish_reason": "length", "native_finish_reason": "max_tokens" }])
    );
    let seen = &server.seen()[0];
    assert_eq!(
        (seen.line.as_str(), seen.headers["x-api-key"].as_str(), seen.headers["anthropic-version"].as_str()),
        ("POST /v1/messages HTTP/1.1", "sk-very-secret", "2023-06-01")
    );
    assert!(!seen.headers.contains_key("authorization"));
    assert_eq!(
        seen.body,
        json!({
            "model": "claude-x", "max_tokens": 4000, "temperature": 1.0, "stop_sequences": ["END"], "metadata": { "user_id": "u" },
            "system": [{ "type": "text", "text": "be brief", "cache_control": { "type": "ephemeral" } }],
            "tools": [{ "name": "look", "description": "looks", "input_schema": { "type": "object" } }],
            "tool_choice": { "type": "tool", "name": "look", "disable_parallel_tool_use": true },
            "messages": [{ "role": "user", "content": [
                { "type": "image", "source": { "type": "base64", "media_type": "image/png", "data": "AAAA" } },
                { "type": "image", "source": { "type": "url", "url": "https://host/cat.png" } },
                { "type": "text", "text": "what is it?" },
            ] }],
        })
    );
}

#[tokio::test]
async fn errors_inside_a_stream_and_half_streams_are_errors() {
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    for (pieces, said, kind) in [
        (&[START, TEXT, overloaded][..], "Hello", Kind::Overloaded),
        (&[overloaded], "", Kind::Overloaded),
        (&[START, TEXT], "Hello", Kind::Cut),
        (&[START, TEXT, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"], "Hello", Kind::Cut),
        (&[START, "data: []\n\n"], "", Kind::Garbage),
    ] {
        let server = Server::saying(streamed("text/event-stream", pieces)).await;
        let (chunks, end) =
            stream(&server.backend(BackendKind::Anthropic), request(), &Hints::default()).await;
        assert_eq!((text(&chunks).as_str(), end.unwrap_err().kind), (said, kind));
    }
    let server = Server::saying(whole("413 Payload Too Large", "", "{\"type\":\"error\",\"error\":{\"type\":\"request_too_large\",\"message\":\"Request exceeds the maximum size\"}}")).await;
    let error = ask(&server.backend(BackendKind::Anthropic), request(), &Hints::default()).await.unwrap_err();
    assert_eq!((error.kind, error.status), (Kind::TooLong, Some(413)));
}
