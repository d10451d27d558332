//! Ollama's API, and what is loaded.

use crate::support::{PATIENCE, all, chat, get, post, server, with_model};
use nhi_sim::models::{ModelSettings, Provider, answer_text};
use nhi_testkit::wait_for;
use serde_json::{Value, json};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

#[tokio::test]
async fn lines_come_unless_one_says_no() {
    let running = server(Provider::Ollama).await;
    let asked = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}], "options": {"num_predict": 9}});
    let response = post(&running, "/api/chat", &asked).await;
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let lines = lines(&all(response).await.0);
    let text: String = lines.iter().filter_map(|line| line["message"]["content"].as_str()).collect();
    assert_eq!(text, answer_text("Hello", 9));
    let last = lines.last().unwrap();
    assert_eq!(
        (&last["done"], &last["done_reason"], &last["eval_count"]),
        (&json!(true), &json!("length"), &json!(9))
    );

    let asked = json!({"model": "m", "prompt": "Hello", "stream": false});
    let plain: Value = post(&running, "/api/generate", &asked).await.json().await.unwrap();
    assert_eq!(
        (&plain["response"], &plain["done_reason"]),
        (&json!(answer_text("Hello", 60)), &json!("stop"))
    );
}

#[tokio::test]
async fn a_model_is_loaded_shown_and_gone_on_request() {
    let model = ModelSettings { vram_bytes: 3_000_000_000, load_ms: 20, ..ModelSettings::named("m") };
    let running = with_model(Provider::Ollama, model).await;
    assert_eq!(get(&running, "/api/ps").await, json!({"models": []}));
    let asked = json!({"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": false, "options": {"num_ctx": 8192}});
    let first: Value = post(&running, "/api/chat", &asked).await.json().await.unwrap();
    assert!(first["load_duration"].as_u64().unwrap() >= 20_000_000, "{first}");
    let again: Value = post(&running, "/api/chat", &asked).await.json().await.unwrap();
    assert!(again["load_duration"].as_u64().unwrap() < 20_000_000, "{again}");
    let there = get(&running, "/api/ps").await["models"][0].clone();
    assert_eq!((&there["name"], &there["context_length"]), (&json!("m:latest"), &json!(8192)));
    assert!(
        there["size_vram"].as_u64().unwrap() < there["size"].as_u64().unwrap(),
        "partly on the processor: {there}"
    );
    assert_eq!((running.vram_bytes(), running.counts().loads), (3_000_000_000, 1));

    let gone: Value =
        post(&running, "/api/generate", &json!({"model": "m", "keep_alive": 0})).await.json().await.unwrap();
    assert_eq!((&gone["done_reason"], running.vram_bytes()), (&json!("unload"), 0));
    // With a question it answers first.
    let asked = json!({"model": "m", "prompt": "x", "stream": false, "keep_alive": "0s"});
    assert_eq!(post(&running, "/api/generate", &asked).await.status(), 200);
    wait_for("the model to be unloaded", PATIENCE, async || running.loaded().is_empty()).await;
}

#[tokio::test]
async fn a_long_prompt_is_cut_without_a_word() {
    let running = server(Provider::Ollama).await;
    let long = "word ".repeat(4000);
    // Its OpenAI endpoint knows no num_ctx: 4096 it is.
    let mut asked = chat(&long, false);
    asked["num_ctx"] = json!(32768);
    let plain: Value = post(&running, "/v1/chat/completions", &asked).await.json().await.unwrap();
    assert_eq!(plain["usage"]["prompt_tokens"], 4096);
    let mut asked = json!({"model": "m", "prompt": long, "stream": false, "options": {"num_ctx": 32768}});
    let plain: Value = post(&running, "/api/generate", &asked).await.json().await.unwrap();
    assert_eq!((&plain["prompt_eval_count"], running.counts().truncated), (&json!(5004), 1));
    asked["model"] = json!("nobody");
    let refused = post(&running, "/api/generate", &asked).await;
    assert_eq!(refused.status(), 404);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body, json!({"error": "model \"nobody\" not found, try pulling it first"}));
}

#[tokio::test]
async fn what_is_there_and_what_it_can_is_told() {
    let cloud = ModelSettings { elsewhere: true, ..ModelSettings::named("m") };
    let elsewhere = with_model(Provider::Ollama, cloud).await;
    assert!(get(&elsewhere, "/api/tags").await["models"][0]["remote_host"].is_string());
    let running = server(Provider::Ollama).await;
    let tags = get(&running, "/api/tags").await;
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][1]["name"]),
        (&json!("m:latest"), &json!("e:latest"))
    );
    let shown: Value = post(&running, "/api/show", &json!({"model": "m:latest"})).await.json().await.unwrap();
    assert_eq!(shown["capabilities"], json!(["completion", "tools"]));
    assert_eq!(shown["model_info"]["simulated.context_length"], 32768);
    let vectors: Value =
        post(&running, "/api/embed", &json!({"model": "e", "input": ["a", "a"]})).await.json().await.unwrap();
    assert_eq!(vectors["embeddings"][0], vectors["embeddings"][1]);
    assert!(get(&running, "/api/version").await["version"].is_string());

    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}});
    let asked = json!({"model": "m", "messages": [{"role": "user", "content": "use f"}], "tools": [tool], "stream": false});
    let called: Value = post(&running, "/api/chat", &asked).await.json().await.unwrap();
    let call = &called["message"]["tool_calls"][0]["function"];
    assert!(call["name"] == "f" && call["arguments"]["n"].is_u64(), "an object, not a text: {called}");
}
