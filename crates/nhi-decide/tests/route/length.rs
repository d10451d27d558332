//! What fits and what does not; and that Ollama, which cuts without a word, is never given what it would cut.

use super::lab::{asked, backend, body, order, question, settings, why, world};
use nhi_decide::route::{
    Loaded, ModelSettings, estimate,
    fit::{Length, Memory, TooLong, billions_of, num_ctx},
};
use nhi_model::ai::{LostWhy, Model};
use proptest::prelude::*;
use serde_json::json;

const GIB: u64 = 1 << 30;

fn model(name: &str, context_tokens: u32) -> Model {
    Model { name: name.to_owned(), context_tokens: Some(context_tokens), ..Model::default() }
}

fn length(tokens: u32) -> Length {
    Length { prompt_tokens: tokens, answer_tokens: 0, answer_tokens_max: 0 }
}

#[test]
fn the_context_is_a_power_of_two_up_to_the_models() {
    let ctx = |tokens| num_ctx(&model("m", 20_000), None, length(tokens), Memory::default());
    assert_eq!(ctx(1), Ok(4_096));
    assert_eq!(ctx(4_096), Ok(4_096));
    assert_eq!(ctx(4_097), Ok(8_192));
    assert_eq!(ctx(16_385), Ok(20_000));
    assert_eq!(ctx(20_000), Ok(20_000));
    assert!(matches!(ctx(20_001), Err(TooLong::Context { needed: 20_001, context: 20_000, .. })));
    let small = model("m", 2_048);
    assert_eq!(num_ctx(&small, None, length(1), Memory::default()), Ok(2_048));
}

#[test]
fn a_loaded_context_that_is_enough_stays() {
    let ctx = |tokens, loaded| {
        num_ctx(
            &model("m", 32_768),
            None,
            length(tokens),
            Memory { free_bytes: None, loaded_tokens: Some(loaded) },
        )
    };
    assert_eq!(ctx(3_000, 6_000), Ok(6_000));
    assert_eq!(ctx(6_000, 6_000), Ok(6_000));
    assert_eq!(ctx(6_001, 6_000), Ok(8_192));
}

#[test]
fn it_fits_beside_the_weights_or_is_refused() {
    // 1,000,000 bytes a token: after weights and what an engine takes, room for 5,000.
    let settings = ModelSettings {
        memory_bytes: Some(2_000_000_000),
        token_bytes: Some(1_000_000),
        ..ModelSettings::named("m")
    };
    let free = 2_000_000_000 + (768 << 20) + 5_000 * 1_000_000;
    let ctx = |tokens, free| {
        num_ctx(
            &model("m", 32_768),
            Some(&settings),
            length(tokens),
            Memory { free_bytes: Some(free), loaded_tokens: None },
        )
    };
    assert_eq!(ctx(4_000, free), Ok(4_096));
    assert_eq!(ctx(4_097, free), Ok(5_000));
    assert_eq!(ctx(5_000, free), Ok(5_000));
    assert!(matches!(ctx(5_001, free), Err(TooLong::Memory { needed: 5_001, context: 5_000, .. })));
    assert!(matches!(ctx(5_000, free - 1), Err(TooLong::Memory { context: 4_999, .. })));
    assert!(matches!(ctx(1, 1_000), Err(TooLong::Memory { context: 0, .. })));
}

#[test]
fn sizes_are_read_from_names() {
    for (name, billions) in [
        ("qwen2.5:14b-instruct-q6_K", Some(14.0)),
        ("Llama-3.1-8B-Instruct", Some(8.0)),
        ("smollm2:135m", Some(0.135)),
        ("mixtral:8x7b", Some(56.0)),
        ("llama3:latest", None),
        ("gpt-4o", None),
        ("b", None),
    ] {
        let found = billions_of(name);
        let near = match (found, billions) {
            (Some(one), Some(other)) => (one - other).abs() < 1e-9,
            (one, other) => one == other,
        };
        assert!(near, "{name}: {found:?}");
    }
    // A card of 12 GiB holds 14 thousand million parameters at four bits with a short context, not at eight.
    let memory = Memory { free_bytes: Some(12 * GIB), loaded_tokens: None };
    assert!(num_ctx(&model("qwen2.5:14b", 32_768), None, length(4_000), memory).is_ok());
    assert!(num_ctx(&model("qwen2.5:14b-q8_0", 32_768), None, length(4_000), memory).is_err());
}

#[test]
fn too_long_for_one_goes_to_another_and_to_nobody_when_it_fits_nowhere() {
    let settings = settings();
    let mut world = world(&settings);
    let long = "word ".repeat(60_000);
    let decision = asked(&settings, &world, &question("coding", &long));
    assert_eq!(why(&decision, "pc", "qwen2.5:14b"), Some(LostWhy::TooLong));
    assert_eq!(why(&decision, "nas", "smollm"), Some(LostWhy::TooLong));
    assert_eq!(order(&decision)[0], "pc/llama3.1:8b");
    assert_eq!(decision.picks[0].num_ctx, Some(65_536));
    // The card's memory is smaller than that context.
    backend(&mut world, "pc").memory_free_bytes = Some(8 * GIB);
    let decision = asked(&settings, &world, &question("local", &long));
    assert!(decision.picks.is_empty());
    let lost = decision.routed.lost.iter().find(|lost| lost.model == "llama3.1:8b").unwrap();
    assert_eq!(lost.why, LostWhy::TooLong);
    assert!(lost.text.contains("the GPU's memory has room for a context of "), "{}", lost.text);
}

#[test]
fn a_loaded_model_keeps_its_context_and_others_get_none() {
    let settings = settings();
    let mut world = world(&settings);
    backend(&mut world, "pc").loaded =
        vec![Loaded { name: "qwen2.5:14b".to_owned(), context_tokens: Some(10_000) }];
    let decision = asked(&settings, &world, &question("auto", "hi"));
    let pick = |name: &str| decision.picks.iter().find(|pick| pick.choice.provider == name).unwrap();
    assert_eq!(pick("pc").num_ctx, Some(10_000));
    assert_eq!((pick("groq").num_ctx, pick("nas").num_ctx), (None, None));
}

#[test]
fn an_answer_longer_than_a_model_gives_is_limited_and_that_is_told() {
    let settings = settings();
    let world = world(&settings);
    let ask = |tokens: u32| {
        let mut request = question("smollm", "hi");
        request.insert("max_tokens".to_owned(), json!(tokens));
        let decision = asked(&settings, &world, &request);
        let told = decision.routed.order[0].reason.ends_with("its answers end at 2048 tokens");
        (decision.picks[0].request(&request)["max_tokens"].as_u64().unwrap(), told)
    };
    assert_eq!(ask(2_048), (2_048, false));
    assert_eq!(ask(2_049), (2_048, true));
    // Where nothing is asked for, nothing is set.
    let request = question("smollm", "hi");
    let pick = asked(&settings, &world, &request).picks.remove(0);
    assert_eq!(pick.request(&request).get("max_tokens"), None);
}

#[test]
fn an_answer_ends_where_ollamas_context_does() {
    let settings = settings();
    let world = world(&settings);
    let check = |field: Option<(&str, u32)>, context: u32| {
        let mut request = question("qwen2.5:14b", &"word ".repeat(1_000));
        request.insert("nhi".to_owned(), json!({"priority": "bulk"}));
        if let Some((name, tokens)) = field {
            request.insert(name.to_owned(), json!(tokens));
        }
        let decision = asked(&settings, &world, &request);
        let pick = &decision.picks[0];
        assert_eq!(pick.num_ctx, Some(context));
        let sent = pick.request(&request);
        assert!(!sent.contains_key("nhi") && sent["model"] == "qwen2.5:14b");
        let limit = sent[field.map_or("max_tokens", |(name, _)| name)].as_u64().unwrap();
        (limit, u64::from(context) - 1_000)
    };
    let (limit, room) = check(None, 4_096);
    assert!(limit <= room && limit > room - 20, "{limit} of {room}");
    // Many clients ask for the longest answer they ever want: it gets all the room there is, and no refusal.
    let (limit, room) = check(Some(("max_tokens", 200_000)), 32_768);
    assert!(limit <= room && limit > room - 20, "{limit} of {room}");
    assert_eq!(check(Some(("max_completion_tokens", 2_000)), 4_096).0, 2_000);
}

#[test]
fn estimates_are_near_and_rather_too_large() {
    // Counted with the vocabularies of GPT-4 and Llama 3, the larger of the two.
    let check = |text: &str, tokens: u32| {
        let found = estimate(text);
        assert!(found >= tokens && found <= tokens * 2 + 2, "{text:?}: {found} for {tokens}");
    };
    check("What is the capital of Italy?", 7);
    check("fn main() {\n    println!(\"Hello, world!\");\n}\n", 15);
    check("1234567890", 4);
    check("", 0);
    check("日本語のテキスト", 7);
    assert_eq!(estimate(&"a".repeat(6_000)), 1_000);
}

#[test]
fn everything_that_is_sent_counts() {
    let settings = settings();
    let tokens = |value: serde_json::Value| {
        nhi_decide::route::read(&body(value), &"aider".parse().unwrap(), &settings).unwrap().prompt_tokens
    };
    let short = json!({"messages": [{"role": "user", "content": "hi"}]});
    let alone = tokens(short.clone());
    let mut tools = short.clone();
    tools["tools"] =
        json!([{"type": "function", "function": {"name": "x", "description": "word ".repeat(100)}}]);
    assert!(tokens(tools) >= alone + 100);
    let image = json!({"messages": [{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", "A".repeat(100_000))}}]}]});
    assert!((1_000..3_000).contains(&tokens(image)), "an image is no text of its bytes");
}

proptest! {
    /// What is asked for always holds the request, and never more than the model's context or the loaded one.
    #[test]
    fn nothing_is_ever_cut(
        prompt_tokens in 0_u32..200_000, answer_tokens in 0_u32..20_000, context in 512_u32..200_000,
        more in 1_u32..50, free in proptest::option::of(0_u64..40 * GIB), loaded in proptest::option::of(512_u32..200_000),
    ) {
        let length = Length { prompt_tokens, answer_tokens, answer_tokens_max: answer_tokens.saturating_mul(more) };
        let memory = Memory { free_bytes: free, loaded_tokens: loaded };
        if let Ok(ctx) = num_ctx(&model("m:7b", context), None, length, memory) {
            prop_assert!(ctx >= length.needed() && ctx <= context);
        }
    }
}
