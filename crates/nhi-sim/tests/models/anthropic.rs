//! Anthropic's Messages.

use crate::support::{all, client, events, post, with_model};
use nhi_sim::models::{ModelSettings, Provider, answer_text};
use serde_json::{Value, json};

fn asked(question: &str, is_stream: bool) -> Value {
    json!({"model": "m", "max_tokens": 100, "stream": is_stream, "messages": [{"role": "user", "content": question}]})
}

#[tokio::test]
async fn plain_and_streamed_say_the_same() {
    let model = ModelSettings { reasoning_tokens: 2, ..ModelSettings::named("m") };
    let running = with_model(Provider::Anthropic, model).await;
    let wanted = answer_text("Hello", 60);
    let plain: Value = post(&running, "/v1/messages", &asked("Hello", false)).await.json().await.unwrap();
    assert_eq!(
        (&plain["content"][0]["type"], &plain["content"][1]["text"]),
        (&json!("thinking"), &json!(wanted))
    );
    assert_eq!((&plain["stop_reason"], &plain["usage"]["output_tokens"]), (&json!("end_turn"), &json!(62)));
    let (text, _) = all(post(&running, "/v1/messages", &asked("Hello", true)).await).await;
    let events = events(&text);
    let said: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(said, wanted);
    let kinds: Vec<&str> = events
        .iter()
        .filter_map(|event| event["type"].as_str())
        .filter(|kind| *kind != "content_block_delta")
        .collect();
    let block = ["content_block_start", "content_block_stop"];
    assert_eq!(
        kinds,
        [&["message_start", "ping"], &block[..], &block, &["message_delta", "message_stop"]].concat()
    );
    assert!(
        text.lines().filter(|line| line.starts_with("data: ")).count() == text.matches("event: ").count()
    );
}

#[tokio::test]
async fn its_rules_are_kept() {
    let running = with_model(Provider::Anthropic, ModelSettings::named("m")).await;
    let mut unlimited = asked("x", false);
    unlimited.as_object_mut().unwrap().remove("max_tokens");
    let refused = post(&running, "/v1/messages", &unlimited).await;
    assert_eq!(refused.status(), 400);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["message"], "max_tokens: Field required");
    let mut tool = asked("use f", true);
    tool["tools"] = json!([{"name": "f", "input_schema": {"properties": {"a": {"type": "string"}}}}]);
    let (text, _) = all(post(&running, "/v1/messages", &tool).await).await;
    let parts: String =
        events(&text).iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    let arguments: Value = serde_json::from_str(&parts).expect("JSON in all");
    assert!(arguments["a"].is_string() && text.contains("\"stop_reason\":\"tool_use\""), "{text}");
    let url = format!("{}/v1/models", running.url);
    let models: Value = client()
        .get(url)
        .header("anthropic-version", "2023-06-01")
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!((&models["data"][0]["type"], &models["data"][0]["id"]), (&json!("model"), &json!("m")));
}
