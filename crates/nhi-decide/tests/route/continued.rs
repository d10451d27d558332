//! The request with which another backend takes up a text.

use super::lab::body;
use nhi_decide::route::{left_tokens, resume};
use nhi_model::ai::Continues;
use serde_json::{Map, Value, json};

fn request() -> Map<String, Value> {
    body(json!({
        "model": "auto", "stream": true, "temperature": 0, "max_tokens": 100, "unknown_field": {"a": 1},
        "messages": [{"role": "user", "content": "count"}],
    }))
}

#[test]
fn each_sort_goes_on_in_its_own_way_and_nothing_else_changes() {
    let check = |continues, message: Value, added: &[&str]| {
        let mut out = resume(&request(), "one, two", continues, 4).unwrap();
        assert_eq!(out["messages"], json!([{"role": "user", "content": "count"}, message]));
        assert_eq!(out["max_tokens"], 96);
        for field in added {
            assert!(out.remove(*field).is_some(), "{field}");
        }
        let mut expect = request();
        for field in ["messages", "max_tokens"] {
            expect.remove(field);
            out.remove(field);
        }
        assert_eq!(out, expect);
    };
    let plain = json!({"role": "assistant", "content": "one, two"});
    check(Continues::Prefill, plain.clone(), &[]);
    check(Continues::Partial, json!({"role": "assistant", "content": "one, two", "partial": true}), &[]);
    check(Continues::Final, plain, &["continue_final_message", "add_generation_prompt"]);
    assert_eq!(resume(&request(), "one, two", Continues::Never, 4), None);
}

#[test]
fn before_the_first_character_anybody_may_begin() {
    assert_eq!(resume(&request(), "", Continues::Never, 0), Some(request()));
}

#[test]
fn a_text_the_caller_began_is_one_with_ours() {
    let mut begun = request();
    begun["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "Sure: "}));
    let out = resume(&begun, "one", Continues::Prefill, 1).unwrap();
    assert_eq!(out["messages"][1], json!({"role": "assistant", "content": "Sure: one"}));
    assert_eq!(out["messages"].as_array().unwrap().len(), 2);
}

#[test]
fn at_its_limit_it_is_over() {
    assert_eq!(left_tokens(&request(), 99), Some(1));
    assert_eq!(resume(&request(), "x", Continues::Prefill, 99).unwrap()["max_tokens"], 1);
    assert_eq!(left_tokens(&request(), 100), Some(0));
    assert_eq!(resume(&request(), "x", Continues::Prefill, 100), None);
    let mut open = request();
    open.remove("max_tokens");
    assert_eq!(left_tokens(&open, 100), None);
    open.insert("max_completion_tokens".to_owned(), 50.into());
    assert_eq!(resume(&open, "x", Continues::Prefill, 20).unwrap()["max_completion_tokens"], 30);
}

#[test]
fn what_has_a_grammar_or_a_count_of_its_own_begins_anew() {
    let check = |field: &str, value: Value, goes_on: bool| {
        let mut request = request();
        request.insert(field.to_owned(), value);
        assert_eq!(resume(&request, "x", Continues::Prefill, 1).is_some(), goes_on, "{request:?}");
    };
    check("response_format", json!({"type": "json_object"}), false);
    check("response_format", json!({"type": "json_schema", "json_schema": {}}), false);
    check("response_format", json!({"type": "text"}), true);
    check("n", json!(2), false);
    check("n", json!(1), true);
    check("logprobs", json!(true), false);
    check("tool_choice", json!("required"), false);
    check("tool_choice", json!({"type": "function", "function": {"name": "look"}}), false);
    check("tool_choice", json!("auto"), true);
}
