//! What each provider is spared, and that a whole answer and its chunks say the same.

use super::{chunks_of, request};
use crate::{completion::assembled, endpoint::Options, provider::Provider};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn map(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { panic!("{value} is no object") }
}

fn check(provider: Provider, expect: Value) {
    let body = json!({
        "model": "m", "max_tokens": 5, "top_k": 3, "frequency_penalty": 1, "stream": true,
        "messages": [{ "role": "assistant", "content": null, "reasoning_content": "hm", "partial": true,
            "tool_calls": [{ "id": "c", "extra_content": { "google": { "thought_signature": "s" } } }] }],
    });
    assert_eq!(Value::Object(request(map(body), provider, &Options::USUAL)), expect, "{provider:?}");
}

#[test]
fn a_provider_that_refuses_what_it_does_not_know_is_told_only_what_it_knows() {
    let usage = json!({ "include_usage": true });
    check(
        Provider::Google,
        json!({ "model": "m", "max_tokens": 5, "stream": true, "stream_options": usage,
            "messages": [{ "role": "assistant", "content": null, "tool_calls": [{ "id": "c", "extra_content": { "google": { "thought_signature": "s" } } }] }] }),
    );
    check(
        Provider::Groq,
        json!({ "model": "m", "max_completion_tokens": 5, "frequency_penalty": 1, "stream": true, "stream_options": usage,
            "messages": [{ "role": "assistant", "content": null, "tool_calls": [{ "id": "c" }] }] }),
    );
    check(
        Provider::Dashscope,
        json!({ "model": "m", "max_tokens": 5, "top_k": 3, "frequency_penalty": 1, "stream": true, "stream_options": usage,
            "messages": [{ "role": "assistant", "content": null, "reasoning_content": "hm", "partial": true, "tool_calls": [{ "id": "c" }] }] }),
    );
}

#[test]
fn thinking_is_set_as_the_provider_takes_it() {
    let said = |body: Value, provider| Value::Object(request(map(body), provider, &Options::USUAL));
    let qwen = json!({ "model": "qwen3-32b", "messages": [] });
    assert_eq!(said(qwen.clone(), Provider::Dashscope)["enable_thinking"], false);
    assert_eq!(said(qwen, Provider::Other).get("enable_thinking"), None);
    let streamed = json!({ "model": "qwen3-32b", "messages": [], "stream": true });
    assert_eq!(said(streamed, Provider::Dashscope).get("enable_thinking"), None);
    let hard = json!({ "model": "gemini-x", "messages": [], "reasoning_effort": "xhigh" });
    assert_eq!(said(hard, Provider::Google)["reasoning_effort"], "high");
}

fn answers() -> impl Strategy<Value = Value> {
    let call = ("[a-z]{1,4}", "[a-z0-9{}]{0,8}").prop_map(|(name, arguments)| {
        json!({ "id": format!("call_{name}"), "type": "function", "function": { "name": name, "arguments": arguments } })
    });
    let message = ("\\PC{1,12}", proptest::option::of("\\PC{1,8}"), proptest::collection::vec(call, 0..3));
    let message = message.prop_map(|(content, thinking, calls)| {
        let mut message = json!({ "role": "assistant", "content": content });
        if let Some(thinking) = thinking {
            message["reasoning_content"] = thinking.into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        message
    });
    proptest::collection::vec(message, 1..3).prop_map(|messages| {
        let choices = messages.into_iter().enumerate();
        let choices = choices
            .map(|(index, message)| json!({ "index": index, "message": message, "finish_reason": "stop" }));
        json!({ "id": "1", "object": "chat.completion", "model": "m", "x_new": { "a": 1 },
            "choices": choices.collect::<Vec<_>>(), "usage": { "total_tokens": 3 } })
    })
}

proptest! {
    #[test]
    fn an_answer_in_pieces_is_the_same_answer(answer in answers()) {
        let again = assembled(chunks_of(map(answer.clone())));
        prop_assert_eq!(Value::Object(again), answer);
    }
}
