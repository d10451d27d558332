//! Google's own API.

use crate::support::{all, events, get, post, push, server};
use nhi_sim::models::{Fault, On, Provider, answer_text};
use serde_json::{Value, json};

fn asked(question: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": question}]}]})
}

fn text_of(responses: &[Value]) -> String {
    responses
        .iter()
        .filter_map(|response| response["candidates"][0]["content"]["parts"][0]["text"].as_str())
        .collect()
}

#[tokio::test]
async fn plain_events_and_one_array_say_the_same() {
    let running = server(Provider::Gemini).await;
    let wanted = answer_text("Hello", 60);
    let plain: Value =
        post(&running, "/v1beta/models/m:generateContent", &asked("Hello")).await.json().await.unwrap();
    assert_eq!(text_of(std::slice::from_ref(&plain)), wanted);
    assert_eq!(
        (&plain["candidates"][0]["finishReason"], &plain["usageMetadata"]["candidatesTokenCount"]),
        (&json!("STOP"), &json!(60))
    );
    let (text, _) =
        all(post(&running, "/v1beta/models/m:streamGenerateContent?alt=sse", &asked("Hello")).await).await;
    assert_eq!(text_of(&events(&text)), wanted);
    assert!(text.contains("}\r\n\r\ndata: "), "lines end in both characters: {text}");
    let (text, _) =
        all(post(&running, "/v1beta/models/m:streamGenerateContent", &asked("Hello")).await).await;
    let array: Vec<Value> = serde_json::from_str(&text).expect("one array");
    assert_eq!(text_of(&array), wanted);
    // Its stable version, where the verb alone tells it from OpenAI's.
    let stable: Value =
        post(&running, "/v1/models/m:generateContent", &asked("Hello")).await.json().await.unwrap();
    assert_eq!(text_of(&[stable]), wanted);
}

#[tokio::test]
async fn its_rules_are_kept() {
    let running = server(Provider::Gemini).await;
    let path = "/v1beta/models/m:generateContent";
    let mut unknown = asked("x");
    unknown["top_k"] = json!(1);
    assert_eq!(post(&running, path, &unknown).await.status(), 400);
    let mut tool = asked("use f");
    tool["tools"] = json!([{"functionDeclarations": [{"name": "f", "parameters": {"type": "OBJECT", "properties": {"a": {"type": "STRING"}}}}]}]);
    let called: Value = post(&running, path, &tool).await.json().await.unwrap();
    let part = called["candidates"][0]["content"]["parts"][0].clone();
    assert!(
        part["functionCall"]["args"]["a"].is_string() && part["thoughtSignature"].is_string(),
        "{called}"
    );
    // Back with the signature it is taken, without it not.
    let answered =
        json!({"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"ok": 1}}}]});
    push(&mut tool["contents"], json!({"role": "model", "parts": [part]}));
    push(&mut tool["contents"], answered);
    assert_eq!(post(&running, path, &tool).await.status(), 200);
    tool["contents"][1]["parts"][0].as_object_mut().unwrap().remove("thoughtSignature");
    assert_eq!(post(&running, path, &tool).await.status(), 400);
    assert_eq!(get(&running, "/v1beta/models").await["models"][0]["name"], "models/m");
    let vectors: Value =
        post(&running, "/v1beta/models/e:embedContent", &json!({"content": {"parts": [{"text": "a"}]}}))
            .await
            .json()
            .await
            .unwrap();
    assert_eq!(vectors["embedding"]["values"].as_array().unwrap().len(), 16);
}

#[tokio::test]
async fn an_error_in_the_array_leaves_it_json() {
    let running = server(Provider::Gemini).await;
    for tokens in [0, 2] {
        running.set_fault_on(Fault::InBandError { tokens }, On::times(1));
        let (text, _) =
            all(post(&running, "/v1beta/models/m:streamGenerateContent", &asked("x")).await).await;
        let array: Vec<Value> = serde_json::from_str(&text).expect("one array");
        assert_eq!(array.last().unwrap()["error"]["status"], "UNAVAILABLE");
        assert_eq!(array.len(), tokens as usize + 1);
    }
}
