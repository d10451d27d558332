//! The promise that makes a hand-over provable: a text that was cut anywhere and is sent back as a trailing
//! assistant message is continued to the very same end, where the provider continues at all.

use crate::support::{PATIENCE, post, push, server, streamed};
use nhi_sim::models::{ModelSettings, Options, Provider, Running, answer_text, answer_tokens, serve};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Where a request goes, what else it says, and whether it continues.
#[derive(Clone, Debug)]
struct Way {
    path: &'static str,
    message: Value,
    fields: Value,
    continues: bool,
}

fn ways() -> Vec<Way> {
    let way = |path, message, fields, continues| Way { path, message, fields, continues };
    let none = || json!({});
    vec![
        way("/openai/v1/chat/completions", none(), none(), true),
        way("/v1/messages", none(), json!({"max_tokens": 1000}), true),
        way("/compatible-mode/v1/chat/completions", json!({"partial": true}), none(), true),
        way("/compatible-mode/v1/chat/completions", none(), none(), false),
        way("/v1beta/openai/chat/completions", none(), none(), false),
        way(
            "/v1/chat/completions",
            none(),
            json!({"continue_final_message": true, "add_generation_prompt": false}),
            true,
        ),
        way("/v1/chat/completions", none(), none(), false),
        way("/api/chat", none(), none(), true),
    ]
}

/// What a server says after `head`; nothing when it refuses.
async fn after(running: &Running, way: &Way, question: &str, head: &str) -> Option<String> {
    let mut last = json!({"role": "assistant", "content": head});
    let mut asked =
        json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": question}]});
    for (object, fields) in [(&mut last, &way.message), (&mut asked, &way.fields)] {
        for (name, value) in fields.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
    }
    push(&mut asked["messages"], last);
    let response = post(running, way.path, &asked).await;
    if response.status() != 200 {
        return None;
    }
    let answer: Value = response.json().await.expect("JSON");
    let pointers = ["/choices/0/message/content", "/message/content", "/content/0/text"];
    Some(pointers.iter().find_map(|pointer| answer.pointer(pointer)?.as_str()).unwrap_or_default().to_owned())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_text_is_continued_to_the_same_end(question in ".{1,40}", cut in 0_usize..500, number in 0_usize..8) {
        let runtime = Runtime::new().unwrap();
        runtime.block_on(async {
            let running = server(Provider::Vllm).await;
            let way = &ways()[number];
            let whole = answer_text(&question, 60);
            let cut = cut % (whole.chars().count() + 1);
            let head: String = whole.chars().take(cut).collect();
            let said = tokio::time::timeout(PATIENCE, after(&running, way, &question, &head)).await.unwrap();
            match said {
                // Anthropic's own rule.
                None => assert!(way.path == "/v1/messages" && head.ends_with(char::is_whitespace), "{way:?} {head:?}"),
                Some(said) if way.continues => assert_eq!(format!("{head}{said}"), whole, "{way:?}"),
                // Who does not continue begins anew: a router that glues these together doubles the text.
                Some(said) => assert_eq!(said, whole, "{way:?}"),
            }
        });
    }
}

#[tokio::test]
async fn another_model_on_another_server_goes_on_where_one_was_cut() {
    let first = server(Provider::Groq).await;
    let second =
        serve(Options::local(Provider::Llamacpp, vec![ModelSettings::named("other")])).await.unwrap();
    let question = "Tell me about the house";
    first.set_fault(nhi_sim::models::Fault::Cut { tokens: 23 });
    let asked = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": question}]});
    let (head, broke) = streamed(&first, "/openai/v1/chat/completions", &asked).await;
    assert_eq!((head.as_str(), broke), (answer_tokens(question, 23).concat().as_str(), true));
    let mut asked = json!({"model": "other", "stream": true, "messages": [
        {"role": "user", "content": question}, {"role": "assistant", "content": head},
    ]});
    let (rest, broke) = streamed(&second, "/v1/chat/completions", &asked).await;
    assert_eq!((format!("{head}{rest}"), broke), (answer_text(question, 60), false));
    // In one piece llama.cpp repeats what it was given.
    asked["stream"] = json!(false);
    let plain: Value = post(&second, "/v1/chat/completions", &asked).await.json().await.unwrap();
    assert_eq!(plain["choices"][0]["message"]["content"], answer_text(question, 60));
}

#[tokio::test]
async fn a_head_of_somebody_else_is_taken_up_the_same_way_each_time() {
    let running = server(Provider::Vllm).await;
    let groq = &ways()[0];
    let said = after(&running, groq, "x", "Nobody here would say so").await.unwrap();
    assert_eq!(after(&running, groq, "x", "Nobody here would say so").await.unwrap(), said);
    assert_ne!(said, answer_text("x", 60));
}
