//! `chat.completions`, and what sets its imitators apart.

use crate::support::{all, chat, client, events, get, post, push, server, text_of, with_model};
use nhi_sim::models::{ModelSettings, Provider, answer_text};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn plain_and_streamed_say_the_same() {
    let running = server(Provider::Openai).await;
    let plain: Value = post(&running, CHAT, &chat("What is a node?", false)).await.json().await.unwrap();
    let wanted = answer_text("What is a node?", 60);
    assert_eq!(plain["choices"][0]["message"]["content"], wanted);
    assert_eq!(plain["choices"][0]["finish_reason"], "stop");
    assert_eq!(plain["usage"]["completion_tokens"], 60);

    let mut asked = chat("What is a node?", true);
    asked["stream_options"] = json!({"include_usage": true});
    let response = post(&running, CHAT, &asked).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
    let (text, broke) = all(response).await;
    let chunks = events(&text);
    assert_eq!((text_of(&chunks), broke), (wanted, false));
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    let [.., last, usage] = &chunks[..] else { panic!("{text}") };
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(60)));
    // One role, sixty tokens, the finish, the usage.
    assert_eq!(chunks.len(), 63);
    let counts = running.counts();
    assert_eq!((counts.whole, counts.in_flight, counts.tokens_sent), (2, 0, 120));
}

#[tokio::test]
async fn a_limit_of_tokens_is_told_as_length() {
    let running = server(Provider::Openai).await;
    let mut asked = chat("Go on", false);
    asked["max_completion_tokens"] = json!(7);
    let plain: Value = post(&running, CHAT, &asked).await.json().await.unwrap();
    assert_eq!(plain["choices"][0]["message"]["content"], answer_text("Go on", 7));
    assert_eq!(plain["choices"][0]["finish_reason"], "length");
}

#[tokio::test]
async fn a_tool_is_called_when_the_question_names_it() {
    let running = server(Provider::Groq).await;
    let schema = json!({"type": "object", "properties": {
        "node": {"type": "string"}, "count": {"type": "integer"}, "how": {"enum": ["fast", "slow"]},
    }});
    let tool = json!({"type": "function", "function": {"name": "list_guests", "parameters": schema}});
    let mut asked = chat("Use list_guests", true);
    asked["tools"] = json!([tool]);
    for (path, is_whole) in
        [("/openai/v1/chat/completions", true), ("/compatible-mode/v1/chat/completions", false)]
    {
        let (text, _) = all(post(&running, path, &asked).await).await;
        let chunks = events(&text);
        let calls: Vec<&Value> =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["tool_calls"].get(0)).collect();
        let arguments: String =
            calls.iter().filter_map(|call| call["function"]["arguments"].as_str()).collect();
        let arguments: Value = serde_json::from_str(&arguments).expect("JSON in all");
        assert_eq!(
            (&calls[0]["function"]["name"], &arguments["how"]),
            (&json!("list_guests"), &json!("fast"))
        );
        assert_eq!(calls.len() == 1, is_whole, "{text}");
        assert!(text.contains("\"finish_reason\":\"tool_calls\""), "{text}");
    }
    // Not named, not called; its result is answered in words.
    asked["messages"] = json!([
        {"role": "user", "content": "Use list_guests"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "list_guests", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "none"},
    ]);
    let (text, _) = all(post(&running, CHAT, &asked).await).await;
    assert_eq!(text_of(&events(&text)), answer_text("Use list_guests\nnone", 60));
}

#[tokio::test]
async fn each_imitator_has_its_own_rules() {
    let model = ModelSettings { reasoning_tokens: 3, ..ModelSettings::named("m") };
    let running = with_model(Provider::Llamacpp, model).await;
    let mut asked = chat("Think", false);
    let llama: Value = post(&running, CHAT, &asked).await.json().await.unwrap();
    assert!(llama["choices"][0]["message"]["reasoning_content"].is_string(), "{llama}");
    assert_eq!(llama["timings"]["predicted_n"], 63);
    let groq: Value = post(&running, "/openai/v1/chat/completions", &asked).await.json().await.unwrap();
    assert!(groq["choices"][0]["message"]["reasoning"].is_string(), "{groq}");

    asked["frequency_penalty"] = json!(0.1);
    let refused = post(&running, "/v1beta/openai/chat/completions", &asked).await;
    assert_eq!(refused.status(), 400);
    let body: Value = refused.json().await.unwrap();
    let wanted = "Invalid JSON payload received. Unknown name \"frequency_penalty\": Cannot find field.";
    assert_eq!(body[0]["error"]["message"], wanted);
    assert_eq!(post(&running, "/compatible-mode/v1/chat/completions", &asked).await.status(), 200);

    // A call that comes back to Google without its signature.
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}});
    let mut asked = chat("Use f", false);
    push(&mut asked["messages"], json!({"role": "assistant", "tool_calls": [call]}));
    push(&mut asked["messages"], json!({"role": "tool", "content": "done", "tool_call_id": "1"}));
    assert_eq!(post(&running, "/v1beta/openai/chat/completions", &asked).await.status(), 400);
    asked["messages"][1]["tool_calls"][0]["extra_content"] = json!({"google": {"thought_signature": "c2lt"}});
    assert_eq!(post(&running, "/v1beta/openai/chat/completions", &asked).await.status(), 200);
}

#[tokio::test]
async fn json_is_json_when_it_is_asked_for() {
    let running = server(Provider::Openai).await;
    let mut asked = chat("As JSON", false);
    asked["response_format"] = json!({"type": "json_object"});
    let plain: Value = post(&running, CHAT, &asked).await.json().await.unwrap();
    let text = plain["choices"][0]["message"]["content"].as_str().unwrap();
    let inner: Value = serde_json::from_str(text).expect("JSON");
    assert_eq!(inner["answer"], answer_text("As JSON", 58));
}

#[tokio::test]
async fn too_much_and_the_unable_are_refused_in_the_providers_words() {
    let model = ModelSettings { context_tokens: 100, tools: false, ..ModelSettings::named("m") };
    let running = with_model(Provider::Vllm, model).await;
    let long = chat(&"word ".repeat(200), false);
    let told = [
        (
            "/v1/chat/completions",
            "/error/message",
            "maximum context length is 100 tokens. However, your request has 254",
        ),
        ("/openai/v1/chat/completions", "/error/code", "context_length_exceeded"),
        ("/v1beta/openai/chat/completions", "/0/error/message", "input token count (254) exceeds"),
        (
            "/compatible-mode/v1/chat/completions",
            "/error/message",
            "Range of input length should be [1, 100]",
        ),
    ];
    for (path, pointer, wanted) in told {
        let refused = post(&running, path, &long).await;
        assert_eq!(refused.status(), 400, "{path}");
        let body: Value = refused.json().await.unwrap();
        assert!(body.pointer(pointer).unwrap().as_str().unwrap().contains(wanted), "{path}: {body}");
    }
    let mut tool = chat("x", false);
    tool["tools"] = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    assert_eq!(post(&running, CHAT, &tool).await.status(), 400);
    let mut image = chat("x", false);
    image["messages"][0]["content"] =
        json!([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "data:,"}}]);
    assert_eq!(post(&running, CHAT, &image).await.status(), 400);
    let mut unknown = chat("x", false);
    unknown["model"] = json!("nobody");
    let refused = post(&running, CHAT, &unknown).await;
    assert_eq!(refused.status(), 404);
    assert_eq!(running.counts().refused, 7);
}

#[tokio::test]
async fn models_are_listed_and_vectors_are_the_same_for_the_same_text() {
    let running = server(Provider::Vllm).await;
    let models = get(&running, "/v1/models").await;
    assert_eq!((&models["data"][0]["id"], &models["data"][0]["max_model_len"]), (&json!("m"), &json!(32768)));
    assert_eq!(get(&running, "/v1beta/openai/models").await["data"][0]["id"], "models/m");
    let asked = json!({"model": "e", "input": ["one", "two", "one"]});
    let vectors: Value = post(&running, "/v1/embeddings", &asked).await.json().await.unwrap();
    let of = |index: usize| &vectors["data"][index]["embedding"];
    assert_eq!(of(0), of(2));
    assert_ne!(of(0), of(1));
    let length: f64 = of(0).as_array().unwrap().iter().map(|number| number.as_f64().unwrap().powi(2)).sum();
    assert!((length - 1.0).abs() < 1e-9 && of(0).as_array().unwrap().len() == 16, "{vectors}");
    let wrong =
        post(&running, CHAT, &json!({"model": "e", "messages": [{"role": "user", "content": "x"}]})).await;
    assert_eq!(wrong.status(), 400);
}

#[tokio::test]
async fn only_its_key_opens_it_and_none_is_shown() {
    let mut options = nhi_sim::models::Options::local(Provider::Openai, vec![ModelSettings::named("m")]);
    options.key = Some(nhi_sim::Secret("sk-right".to_owned()));
    let running = nhi_sim::models::serve(options).await.unwrap();
    let url = format!("{}{CHAT}", running.url);
    let ask = |key: &str| client().post(&url).bearer_auth(key).json(&chat("x", false)).send();
    assert_eq!(ask("sk-wrong").await.unwrap().status(), 401);
    assert_eq!(ask("sk-right").await.unwrap().status(), 200);
    let seen = running.seen();
    assert_eq!(seen.len(), 2);
    assert!(!format!("{seen:?}{running:?}").contains("sk-right"), "{seen:?}");
    assert_eq!(seen[1].body["messages"][0]["content"], "x");
}
