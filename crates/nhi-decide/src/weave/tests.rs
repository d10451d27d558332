//! Streams woven of pieces: nothing is lost, nothing is said twice, and what cannot go on is no end. No backend is asked.

use super::*;

fn origin() -> Origin {
    Origin {
        provider: "one".to_owned(),
        model: "m".to_owned(),
        reason: "it is first".to_owned(),
        failed: Vec::new(),
        seams: Vec::new(),
    }
}

fn chunk(delta: Value, finish: Value) -> Json {
    let chunk = json!({
        "id": "up", "created": 7, "object": "chat.completion.chunk", "model": "upstream", "extra": 1,
        "choices": [{ "index": 0, "delta": delta, "finish_reason": finish }],
    });
    chunk.as_object().unwrap().clone()
}

fn says(text: &str) -> Json {
    chunk(json!({ "content": text }), Value::Null)
}

fn text_of(chunks: &[Json]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

fn failed() -> Failed {
    Failed { provider: "one".to_owned(), model: "m".to_owned(), reason: "cut".to_owned() }
}

#[test]
fn nothing_goes_out_before_there_is_something_to_read() {
    let mut weave = Weave::new("auto", true, origin());
    let role = chunk(json!({ "role": "assistant", "content": "" }), Value::Null);
    assert!(weave.take(role.clone()).unwrap().is_empty() && !weave.is_open());
    weave.broke(failed(), Tokens { input: 5, output: 0 });
    weave.resume("two", "n", "it is next", "", false);
    assert!(weave.take(role).unwrap().is_empty());
    let out = weave.take(says("Hi")).unwrap();
    assert_eq!(out.len(), 2, "held chunks come with the first word");
    assert_eq!(out[0][ORIGIN_FIELD]["provider"], "two");
    assert_eq!(out[0][ORIGIN_FIELD]["failed"][0]["provider"], "one");
    assert_eq!((&out[1]["model"], &out[1]["extra"]), (&json!("auto"), &json!(1)));
    assert!(weave.take(chunk(json!({}), json!("stop"))).unwrap().is_empty());
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 3, "completion_tokens": 1, "x": 2 } });
    weave.take(usage.as_object().unwrap().clone()).unwrap();
    let last = weave.end();
    assert_eq!(last[0]["choices"][0]["finish_reason"], "stop");
    let expected = json!({ "prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9, "x": 2 });
    assert_eq!(last[1]["usage"], expected);
    assert!(last.iter().all(|chunk| chunk[ORIGIN_FIELD]["provider"] == "two"));
}

#[test]
fn a_window_that_never_says_anything_is_opened_in_the_end() {
    let mut weave = Weave::new("auto", false, origin());
    let mut out = Vec::new();
    for _ in 0..HELD_CHUNKS_MAX {
        assert!(!weave.is_open());
        out = weave.take(chunk(json!({ "role": "assistant" }), Value::Null)).unwrap();
    }
    assert_eq!(out.len(), HELD_CHUNKS_MAX);
}

#[test]
fn the_next_backend_goes_on_without_a_gap() {
    let mut weave = Weave::new("auto", false, origin());
    let mut read = weave.take(says("Hello wor")).unwrap();
    weave.broke(failed(), Tokens::default());
    weave.resume("two", "m", "", " wor", true);
    read.extend(weave.take(chunk(json!({ "role": "assistant", "content": "" }), Value::Null)).unwrap());
    for piece in [" w", "orld", "."] {
        read.extend(weave.take(says(piece)).unwrap());
    }
    weave.take(chunk(json!({}), json!("stop"))).unwrap();
    read.extend(weave.end());
    assert_eq!((text_of(&read).as_str(), weave.text()), ("Hello world.", "Hello world."));
    let last = read.last().unwrap();
    assert_eq!(last[ORIGIN_FIELD]["seams"], json!([{ "at": 9, "provider": "two", "model": "m" }]));
    let roles = read.iter().filter(|chunk| chunk["choices"][0]["delta"].get("role").is_some());
    assert_eq!(roles.count(), 0, "nobody begins twice");
}

#[test]
fn tools_are_called_whole_or_not_at_all() {
    let mut weave = Weave::new("auto", false, origin());
    let piece = |call: Value| chunk(json!({ "tool_calls": [call] }), Value::Null);
    let first =
        json!({ "index": 0, "id": "c1", "type": "function", "function": { "name": "f", "arguments": "" } });
    let half = json!({ "index": 0, "function": { "arguments": "{\"a\":" } });
    assert!(weave.take(piece(first.clone())).unwrap().is_empty() && weave.has_tools());
    assert!(weave.take(piece(half.clone())).unwrap().is_empty());
    weave.broke(failed(), Tokens::default());
    assert!(!weave.is_open() && !weave.has_tools(), "it may begin anew: nobody has seen an argument");
    weave.resume("two", "n", "", "", false);
    for call in [first, half, json!({ "index": 0, "function": { "arguments": "1}" }, "signature": "s" })] {
        assert!(weave.take(piece(call)).unwrap().is_empty());
    }
    weave.take(chunk(json!({}), json!("tool_calls"))).unwrap();
    let out = weave.end();
    let call = &out[0]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(call["function"], json!({ "name": "f", "arguments": "{\"a\":1}" }));
    assert_eq!((&call["id"], &call["signature"]), (&json!("c1"), &json!("s")));
    assert_eq!(out[1]["choices"][0]["finish_reason"], "tool_calls");
}

#[test]
fn a_try_that_went_another_way_leaves_nothing_but_its_price() {
    let mut weave = Weave::new("auto", true, origin());
    weave.take(says("one two")).unwrap();
    weave.broke(failed(), Tokens { input: 5, output: 2 });
    weave.resume("two", "m", "", " two", true);
    let call = |arguments: &str| {
        let call = json!({ "index": 0, "function": { "name": "f", "arguments": arguments } });
        chunk(json!({ "tool_calls": [call] }), Value::Null)
    };
    weave.take(call("{\"a\":")).unwrap();
    let usage = json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 3, "x": 2 } });
    weave.take(usage.as_object().unwrap().clone()).unwrap();
    assert_eq!(weave.take(says(" three")), Err(Diverged));
    weave.forget_seam();
    assert!(!weave.has_tools() && weave.chars() == 0 && weave.counted().is_none());
    weave.resume("two", "m", "", "", false);
    weave.take(call("{\"a\":")).unwrap();
    weave.take(call("1}")).unwrap();
    weave.take(chunk(json!({}), json!("tool_calls"))).unwrap();
    let out = weave.end();
    assert_eq!(out[0]["choices"][0]["delta"]["tool_calls"][0]["function"]["arguments"], "{\"a\":1}");
    assert_eq!(out[1][ORIGIN_FIELD]["seams"].as_array().unwrap().len(), 1);
    // Seven characters of arguments are two tokens.
    let expected = json!({ "prompt_tokens": 12, "completion_tokens": 7, "total_tokens": 19 });
    assert_eq!(out[2]["usage"], expected);
}

#[test]
fn the_last_words_go_out_at_once_and_their_end_is_an_end() {
    let mut weave = Weave::new("auto", false, origin());
    assert!(weave.take(chunk(json!({ "role": "assistant" }), Value::Null)).unwrap().is_empty());
    let mut read = weave.take(chunk(json!({ "content": "Hi" }), json!("stop"))).unwrap();
    assert_eq!((text_of(&read).as_str(), weave.text(), weave.is_open()), ("Hi", "Hi", true));
    assert!(weave.is_finished(), "what its connection does now is no failure");
    assert!(read.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null()));
    read.extend(weave.end());
    assert_eq!(text_of(&read), "Hi", "once");
    let last = &read.last().unwrap()["choices"][0];
    assert_eq!((&last["finish_reason"], &last["delta"]), (&json!("stop"), &json!({})));
}

#[test]
fn what_is_held_at_a_seam_goes_out_at_the_end() {
    let code = format!("```\n{}", ('a'..='z').cycle().step_by(7).take(200).collect::<String>());
    for finish in [vec![says("`"), chunk(json!({ "content": "``" }), json!("stop"))], {
        vec![says("```"), chunk(json!({}), json!("stop"))]
    }] {
        let mut weave = Weave::new("auto", false, origin());
        weave.take(says(&format!("{code}\n"))).unwrap();
        weave.broke(failed(), Tokens::default());
        assert!(!weave.is_finished());
        weave.resume("two", "m", "", "\n", false);
        let mut read = Vec::new();
        for chunk in finish {
            read.extend(weave.take(chunk).unwrap());
        }
        assert_eq!((text_of(&read), weave.text()), ("```".to_owned(), format!("{code}\n```").as_str()));
        assert_eq!(text_of(&weave.end()), "");
    }
}

#[test]
fn figures_no_model_has_are_not_believed() {
    let told = json!({ "prompt_tokens": u64::MAX, "completion_tokens": u64::MAX });
    assert_eq!(Tokens::read(&told), Some(Tokens { input: TOKENS_MAX, output: TOKENS_MAX }));
    let mut weave = Weave::new("auto", true, origin());
    weave.broke(failed(), Tokens { input: u64::MAX, output: u64::MAX });
    let chunk = json!({ "choices": [], "usage": told });
    weave.take(chunk.as_object().unwrap().clone()).unwrap();
    assert_eq!(weave.end()[0]["usage"]["total_tokens"], u64::MAX);
}
