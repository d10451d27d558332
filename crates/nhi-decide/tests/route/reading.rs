//! What is made of a body, and what is no request.

use super::lab::{body, settings, with};
use nhi_decide::route::{intent, read};
use nhi_model::ai::{Intent, Priority};
use serde_json::{Value, json};

fn ask(value: Value) -> nhi_decide::route::Ask {
    read(&body(value), &"aider".parse().unwrap(), &settings()).unwrap()
}

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

#[test]
fn mistakes_name_the_field_and_never_the_value() {
    let check = |value: Value, field: &str| {
        let error = read(&body(value.clone()), &"aider".parse().unwrap(), &settings()).unwrap_err();
        assert_eq!(error.field, field, "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    };
    check(json!({}), "messages");
    check(json!({"messages": []}), "messages");
    check(json!({"messages": "secret"}), "messages");
    check(json!({"messages": ["secret"]}), "messages[0]");
    check(json!({"messages": [{"content": "secret"}]}), "messages[0].role");
    check(json!({"messages": [{"role": 7, "content": "secret"}]}), "messages[0].role");
    check(json!({"messages": [{"role": "user", "content": {"secret": 1}}]}), "messages[0].content");
    check(json!({"messages": user("x"), "model": 3}), "model");
    check(json!({"messages": user("x"), "model": "x".repeat(201)}), "model");
    check(json!({"messages": user("x"), "model": "a\r\nb"}), "model");
    check(json!({"messages": user("x"), "stream": "secret"}), "stream");
    check(json!({"messages": user("x"), "max_tokens": 0}), "max_tokens");
    check(json!({"messages": user("x"), "max_tokens": "secret"}), "max_tokens");
    check(json!({"messages": user("x"), "nhi": {"privasy": "home"}}), "nhi");
    check(json!({"messages": user("x"), "nhi": {"privacy": "none"}}), "nhi");
    check(json!({"messages": user("x"), "nhi": {"project": ""}}), "nhi.project");
    check(json!({"messages": user("x"), "nhi": {"project": "secret\n"}}), "nhi.project");
    check(json!({"messages": user("x"), "nhi": {"project": "a.secret/b"}}), "nhi.project");
    check(json!({"messages": user("x"), "nhi": {"project": "x".repeat(65)}}), "nhi.project");
    check(json!({"input": []}), "input");
    check(json!({"input": 7}), "input");
}

#[test]
fn what_the_answer_takes_is_seen() {
    let plain = ask(json!({"messages": user("hi"), "stream": true, "max_completion_tokens": 7}));
    assert!(plain.stream && !plain.needs.tools && !plain.needs.vision && !plain.needs.json);
    assert_eq!(plain.output_tokens, Some(7));
    let all = ask(json!({
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}],
        "tools": [{"type": "function"}], "response_format": {"type": "json_schema"},
    }));
    assert!(all.needs.tools && all.needs.vision && all.needs.json && !all.stream);
    assert!(!ask(json!({"messages": user("hi"), "tools": []})).needs.tools);
    assert!(ask(json!({"input": "hi"})).needs.embeds);
    assert_eq!(all.words()[..4], ["simple", "tools", "vision", "json"]);
}

#[test]
fn nothing_said_to_the_router_is_as_good_as_null() {
    let plain = ask(json!({"messages": user("hi")}));
    assert_eq!(ask(json!({"messages": user("hi"), "nhi": null})), plain);
    let long = "Az09._-x".repeat(8);
    assert_eq!(ask(json!({"messages": user("hi"), "nhi": {"project": long}})).project, Some(long));
}

#[test]
fn nobody_claims_a_better_class_than_they_may() {
    let settings = with("[caller.aider]\npriority = \"chat\"\n");
    let priority = |caller: &str, claim: &str| {
        let request = body(json!({"messages": user("x"), "nhi": {"priority": claim}}));
        read(&request, &caller.parse().unwrap(), &settings).unwrap().priority
    };
    assert_eq!(priority("aider", "autocomplete"), Priority::Chat);
    assert_eq!(priority("aider", "bulk"), Priority::Bulk);
    assert_eq!(priority("editor", "autocomplete"), Priority::Autocomplete);
}

#[test]
fn intent_is_seen_in_words_signs_and_file_names() {
    let check = |text: &str, intent: Intent| assert_eq!(intent::of(text), intent, "{text:?}");
    check("write a Python function", Intent::Coding);
    check("Fix the bug!", Intent::Coding);
    check("what does `let x = a?.b();` do", Intent::Coding);
    check("look at src/main.rs, please", Intent::Coding);
    check("correggi questo errore", Intent::Coding);
    check("what is the capital of Italy", Intent::Simple);
    check("who won the match yesterday.", Intent::Simple);
    // Whole words: a class is no classic, and Git no digit.
    check("a classic digital watch, a fixture", Intent::Simple);
    check("", Intent::Simple);
}

#[test]
fn a_few_words_are_about_what_was_asked_before() {
    let check = |texts: &[&str], intent: Intent| {
        let messages: Vec<Value> =
            texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        assert_eq!(intent::of_conversation(&messages), intent, "{texts:?}");
    };
    check(&["write a python function", "yes, go on"], Intent::Coding);
    check(&["write a python function", "yes", "thanks, more"], Intent::Coding);
    check(&["write a python function", "who was the first king of Rome"], Intent::Simple);
    check(&["who was the first king of Rome", "and then?"], Intent::Simple);
    check(&[], Intent::Simple);
}

#[test]
fn aiders_boilerplate_is_cut_for_the_look_alone() {
    let long = format!("what is new today?\nTo suggest changes to a file write code.\n{}", "x".repeat(900));
    let seen = ask(json!({"messages": [
        {"role": "system", "content": "you write python code"}, {"role": "user", "content": long},
        {"role": "assistant", "content": "def f(): pass"}]}));
    assert_eq!((seen.question.as_str(), seen.intent), ("what is new today?", Intent::Simple));
    let cut = |text: &str| intent::question(user(text).as_array().unwrap());
    assert_eq!(cut("ciao. Reply in English. code"), "ciao.");
    assert_eq!(cut("a Reply in English b To suggest changes c"), "a");
    assert_eq!(cut("To suggest changes write code"), "To suggest changes write code");
    assert_eq!(cut(&"ü".repeat(900)).chars().count(), 500);
    assert!(seen.prompt_tokens > 150, "the whole text counts");
}

#[test]
fn a_judge_is_understood_or_has_failed() {
    let check =
        |answer: &str, expect: Option<Intent>| assert_eq!(intent::judged(answer), expect, "{answer:?}");
    check(r#"{"cat":"CODING","lang":"English"}"#, Some(Intent::Coding));
    check("```json\n{\"cat\": \"simple\"}\n```", Some(Intent::Simple));
    check(r#"{"cat":"OTHER"}"#, None);
    check("CODING", None);
    check("} {", None);
    check("", None);
    assert!(intent::prompt("sort a list").contains("sort a list"));
}
