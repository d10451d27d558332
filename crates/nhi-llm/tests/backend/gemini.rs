//! Gemini's own API: what it is told, what it answers, and that thought signatures go back where they came from.

use crate::server::{Server, ask, finish, map, stream, streamed, text, whole};
use nhi_llm::{Hints, Kind, Span};
use nhi_model::ai::BackendKind;
use serde_json::{Value, json};

fn event(parts: Value, rest: &str) -> String {
    format!(
        "data: {{\"candidates\":[{{\"content\":{{\"role\":\"model\",\"parts\":{parts}}},\"index\":0{rest}}}],\"usageMetadata\":{{\"promptTokenCount\":7,\"candidatesTokenCount\":3,\"thoughtsTokenCount\":2,\"totalTokenCount\":12}},\"modelVersion\":\"gemini-x\",\"responseId\":\"r1\"}}\r\n\r\n"
    )
}

fn request() -> Value {
    json!({ "model": "gemini-x", "messages": [{ "role": "user", "content": "hello" }] })
}

#[tokio::test]
async fn a_stream_becomes_chunks_and_signatures_go_back() {
    let events = [
        event(json!([{ "text": "hm", "thought": true }, { "text": "Hel" }]), ""),
        event(json!([{ "text": "lo" }]), ""),
        event(
            json!([{ "functionCall": { "name": "look", "args": { "at": 1 } }, "thoughtSignature": "c2ln" }, { "functionCall": { "name": "wait" } }]),
            ",\"finishReason\":\"STOP\"",
        ),
    ];
    let pieces: Vec<&str> = events.iter().map(String::as_str).collect();
    let server = Server::saying(streamed("text/event-stream", &pieces)).await;
    let backend = server.backend(BackendKind::Gemini);
    let (chunks, end) = stream(&backend, request(), &Hints::default()).await;
    assert_eq!(
        (end, text(&chunks).as_str(), finish(&chunks).as_deref()),
        (Ok(()), "Hello", Some("tool_calls"))
    );
    assert_eq!(server.seen()[0].line, "POST /v1beta/models/gemini-x:streamGenerateContent?alt=sse HTTP/1.1");
    assert_eq!(server.seen()[0].headers["x-goog-api-key"], "sk-very-secret");
    let whole = Value::Object(nhi_llm::assembled(chunks.into_iter().map(map)));
    assert_eq!(
        whole["usage"],
        json!({ "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "completion_tokens_details": { "reasoning_tokens": 2 } })
    );
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("Hello"), &json!("hm")));

    let id = |at: usize| message["tool_calls"][at]["id"].clone();
    let more = json!({ "model": "gemini-x", "messages": [
        { "role": "user", "content": "hello" },
        message,
        { "role": "tool", "tool_call_id": id(0), "content": "{\"seen\":\"cat\"}" },
        { "role": "tool", "tool_call_id": id(1), "content": "done" },
    ] });
    stream(&backend, more, &Hints::default()).await.1.unwrap();
    assert_eq!(
        server.seen()[1].body["contents"],
        json!([
            { "role": "user", "parts": [{ "text": "hello" }] },
            { "role": "model", "parts": [
                { "text": "Hello" },
                { "functionCall": { "name": "look", "args": { "at": 1 } }, "thoughtSignature": "c2ln" },
                { "functionCall": { "name": "wait", "args": {} } },
            ] },
            { "role": "user", "parts": [
                { "functionResponse": { "name": "look", "response": { "seen": "cat" } } },
                { "functionResponse": { "name": "wait", "response": { "result": "done" } } },
            ] },
        ])
    );
}

#[tokio::test]
async fn a_request_is_told_in_its_words_and_only_those() {
    let answer = json!({ "candidates": [{ "content": { "role": "model", "parts": [{ "text": "{}", "thoughtSignature": "dGV4dA==" }] }, "finishReason": "MAX_TOKENS" }], "usageMetadata": { "promptTokenCount": 1 }, "modelVersion": "gemini-3-pro" });
    let server = Server::saying(whole("200 OK", "", &answer.to_string())).await;
    let schema = json!({ "type": "object" });
    let request = json!({
        "model": "gemini-3-pro", "temperature": 1.5, "top_p": 0.9, "stop": "END", "max_tokens": 9, "frequency_penalty": null, "user": "u", "stream": false, "logit_bias": {}, "reasoning_effort": "low",
        "response_format": { "type": "json_schema", "json_schema": { "name": "x", "schema": schema } }, "tool_choice": "required",
        "tools": [{ "type": "function", "function": { "name": "look", "parameters": { "type": "object", "additionalProperties": false }, "strict": true } }],
        "messages": [
            { "role": "system", "content": "be brief" },
            { "role": "user", "content": [{ "type": "text", "text": "what?" }, { "type": "image_url", "image_url": { "url": "data:image/png;base64,AAAA" } }] },
            { "role": "assistant", "content": "", "tool_calls": [{ "id": "c1", "type": "function", "function": { "name": "look", "arguments": "" } }] },
            { "role": "tool", "tool_call_id": "c1", "content": "[1]" },
        ],
    });
    let got = ask(&server.backend(BackendKind::Gemini), request, &Hints::default()).await.unwrap();
    assert_eq!(got["choices"][0]["finish_reason"], "length");
    assert_eq!(got["choices"][0]["message"]["extra_content"]["google"]["thought_signature"], "dGV4dA==");
    assert_eq!(
        server.seen()[0].body,
        json!({
            "systemInstruction": { "parts": [{ "text": "be brief" }] },
            "generationConfig": { "temperature": 1.5, "topP": 0.9, "stopSequences": ["END"], "maxOutputTokens": 9, "responseMimeType": "application/json", "responseJsonSchema": schema, "thinkingConfig": { "thinkingLevel": "low" } },
            "tools": [{ "functionDeclarations": [{ "name": "look", "parametersJsonSchema": { "type": "object", "additionalProperties": false } }] }],
            "toolConfig": { "functionCallingConfig": { "mode": "ANY" } },
            "contents": [
                { "role": "user", "parts": [{ "text": "what?" }, { "inlineData": { "mimeType": "image/png", "data": "AAAA" } }] },
                { "role": "model", "parts": [{ "functionCall": { "name": "look", "args": {} }, "thoughtSignature": "skip_thought_signature_validator" }] },
                { "role": "user", "parts": [{ "functionResponse": { "name": "look", "response": { "result": "[1]" } } }] },
            ],
        })
    );
}

#[tokio::test]
async fn what_is_blocked_or_breaks_off_is_told_as_that() {
    let text_event = event(json!([{ "text": "Hel" }]), "");
    let broken_call = event(json!([]), ",\"finishReason\":\"MALFORMED_FUNCTION_CALL\"");
    let quota = "data: [{\"error\":{\"code\":429,\"message\":\"quota\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"violations\":[{\"quotaId\":\"GenerateRequestsPerDayPerProjectPerModel-FreeTier\"}]}]}}]\n\n";
    for (pieces, kind) in [
        (&[text_event.as_str()][..], Kind::Cut),
        (&[&text_event, &broken_call], Kind::Server),
        (&[&text_event, quota], Kind::RateLimited(Span::Day)),
        (&[&text_event, "data: {\"candidates\":\"?\"}\n\n"], Kind::Garbage),
    ] {
        let server = Server::saying(streamed("text/event-stream", pieces)).await;
        let (chunks, end) = stream(&server.backend(BackendKind::Gemini), request(), &Hints::default()).await;
        assert_eq!((text(&chunks).as_str(), end.unwrap_err().kind), ("Hel", kind));
    }
    for said in [
        json!({ "promptFeedback": { "blockReason": "PROHIBITED_CONTENT" } }),
        json!({ "candidates": [{ "finishReason": "SAFETY" }] }),
    ] {
        let server = Server::saying(whole("200 OK", "", &said.to_string())).await;
        let got = ask(&server.backend(BackendKind::Gemini), request(), &Hints::default()).await.unwrap();
        assert_eq!(got["choices"][0]["finish_reason"], "content_filter");
    }
}

#[tokio::test]
async fn a_model_that_would_lead_elsewhere_is_no_model() {
    let server = Server::saying(Vec::new()).await;
    let backend = server.backend(BackendKind::Gemini);
    for name in ["../../v1/secrets", "a?b", "a/b", "", "a:b"] {
        let request = json!({ "model": name, "messages": [] });
        assert_eq!(
            ask(&backend, request, &Hints::default()).await.unwrap_err().kind,
            Kind::BadRequest,
            "{name}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn models_and_embeddings_are_read() {
    let list = |more: &str| {
        format!(
            "{{\"models\":[{{\"name\":\"models/gemini-2.5-flash\",\"inputTokenLimit\":1048576,\"outputTokenLimit\":65536,\"supportedGenerationMethods\":[\"generateContent\"]}},{{\"name\":\"models/gemini-embedding-001\",\"supportedGenerationMethods\":[\"embedContent\"]}},{{\"name\":\"models/veo\",\"supportedGenerationMethods\":[\"predict\"]}}]{more}}}"
        )
    };
    let server = Server::start(move |seen| match seen.line.split(' ').nth(1).unwrap() {
        "/v1beta/models?pageSize=1000" => whole("200 OK", "", &list(",\"nextPageToken\":\"a+b\"")),
        "/v1beta/models?pageSize=1000&pageToken=a%2Bb" => whole("200 OK", "", &list("")),
        _ => whole("200 OK", "", "{\"embeddings\":[{\"values\":[1,2]},{\"values\":[3,4]}]}"),
    })
    .await;
    let backend = server.backend(BackendKind::Gemini);
    let models = backend.models().await.unwrap();
    assert_eq!(models.len(), 4);
    assert_eq!(
        (models[0].name.as_str(), models[0].context_tokens, models[0].vision),
        ("gemini-2.5-flash", Some(1_048_576), Some(true))
    );
    assert!(models[1].embeds);
    let got = backend
        .embed(map(json!({ "model": "gemini-embedding-001", "input": ["a", "b"], "dimensions": 2 })))
        .await
        .unwrap();
    assert_eq!(got["data"][1]["embedding"], json!([3.0, 4.0]));
    let seen = server.seen();
    assert_eq!(seen[2].line, "POST /v1beta/models/gemini-embedding-001:batchEmbedContents HTTP/1.1");
    assert_eq!(
        seen[2].body["requests"][0],
        json!({ "model": "models/gemini-embedding-001", "content": { "parts": [{ "text": "a" }] }, "outputDimensionality": 2 })
    );
}
