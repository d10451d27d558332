//! The order of those that may and can: Neural-Home v3's rules as shipped, then what is at hand, then the score.

use super::lab::{FILE, asked, backend, later, order, question, settings, who, with, world};
use nhi_decide::route::{Loaded, Settings, World};
use nhi_model::{ai::LostWhy, gpu::Light};
use serde_json::json;

const CODE: &str = "write a python function that sorts a list";
const TALK: &str = "what is the capital of Italy";

#[test]
fn coding_goes_home_then_to_qwen_then_to_the_others() {
    let settings = settings();
    let decision = asked(&settings, &world(&settings), &question("auto", CODE));
    assert_eq!(who(&decision), ["pc", "nas", "qwen_cloud", "gemini-flash", "groq"]);
    assert_eq!(decision.routed.order[0].reason, "pc stands at home, its GPU is green");
    assert_eq!(decision.routed.read_as[0], "coding");
}

#[test]
fn a_gpu_at_home_goes_before_a_processor_that_begins_sooner() {
    let settings = settings();
    let mut world = world(&settings);
    backend(&mut world, "nas").health.latency_ms = Some(50.0);
    backend(&mut world, "pc").health.latency_ms = Some(2_000.0);
    assert_eq!(who(&asked(&settings, &world, &question("auto", CODE)))[..2], ["pc", "nas"]);
}

#[test]
fn everything_else_goes_to_groq_then_to_gemini_then_to_the_others() {
    let settings = settings();
    let decision = asked(&settings, &world(&settings), &question("auto", TALK));
    assert_eq!(who(&decision)[..2], ["groq", "gemini-flash"]);
    assert_eq!(decision.routed.order[0].reason, "the rule for simple questions names groq");
    assert_eq!(decision.routed.order.len(), 5);
}

#[test]
fn no_model_is_auto_and_an_alias_may_say_what_it_is_about() {
    let settings = settings();
    let world = world(&settings);
    let mut request = question("auto", CODE);
    request.remove("model");
    assert_eq!(who(&asked(&settings, &world, &request))[0], "pc");
    assert_eq!(who(&asked(&settings, &world, &question("fast", CODE)))[0], "groq");
    assert_eq!(who(&asked(&settings, &world, &question("coding", TALK)))[0], "pc");
    assert_eq!(who(&asked(&settings, &world, &question("local", TALK))), ["pc", "nas"]);
}

#[test]
fn aliases_of_the_file_are_lists_or_tables_and_replace_the_shipped() {
    let settings = with(
        "[alias]\nfast = [\"gemini-flash\", \"pc/qwen2.5:3b\"]\n[alias.review]\norder = [\"@cloud\"]\n\
         intent = \"coding\"\npriority = \"bulk\"\n",
    );
    let world = world(&settings);
    let decision = asked(&settings, &world, &question("fast", TALK));
    assert_eq!(order(&decision), ["gemini-flash/gemini-2.0-flash", "pc/qwen2.5:3b"]);
    let decision = asked(&settings, &world, &question("review", TALK));
    // What a server at home passes on is a cloud.
    assert_eq!(order(&decision).iter().filter(|name| *name == "pc/gpt-oss:120b-cloud").count(), 1);
    assert_eq!(who(&decision).len(), 4);
    assert!(decision.routed.read_as.contains(&"bulk".to_owned()));
}

#[test]
fn a_model_by_name_goes_to_whoever_has_it() {
    let settings = settings();
    let world = world(&settings);
    for name in ["qwen2.5:3b", "pc/qwen2.5:3b"] {
        assert_eq!(order(&asked(&settings, &world, &question(name, TALK))), ["pc/qwen2.5:3b"]);
    }
    // Without a tag Ollama means `latest`; no other backend does.
    let file = FILE.replace("qwen2.5:3b", "mistral");
    let settings: Settings = toml::from_str(&file).unwrap();
    let world = super::lab::world(&settings);
    assert_eq!(order(&asked(&settings, &world, &question("mistral:latest", TALK))), ["pc/mistral"]);
    assert!(who(&asked(&settings, &world, &question("smollm:latest", TALK))).is_empty());
}

#[test]
fn the_model_in_memory_goes_before_the_files_order() {
    let settings = settings();
    let mut world = world(&settings);
    assert_eq!(order(&asked(&settings, &world, &question("auto", CODE)))[0], "pc/qwen2.5:14b");
    backend(&mut world, "pc").loaded =
        vec![Loaded { name: "llama3.1:8b".to_owned(), context_tokens: Some(8192) }];
    let decision = asked(&settings, &world, &question("auto", CODE));
    assert_eq!(order(&decision)[0], "pc/llama3.1:8b");
    assert!(decision.routed.order[0].reason.ends_with("the model is in memory"));
    assert_eq!(super::lab::why(&decision, "pc", "qwen2.5:14b"), Some(LostWhy::NotAsked));
}

#[test]
fn a_conversation_goes_where_it_was_answered_before() {
    let settings = with("[alias]\nclouds = [\"@cloud\"]\n");
    let mut world = world(&settings);
    let request = question("clouds", TALK);
    assert_eq!(who(&asked(&settings, &world, &request))[0], "gemini-flash");
    let ask = nhi_decide::route::read(&request, &"aider".parse().unwrap(), &settings).unwrap();
    backend(&mut world, "groq").prefixes.insert(ask.prefix);
    assert_eq!(who(&asked(&settings, &world, &request))[0], "groq");
    // The next question of the same conversation begins equally; another conversation does not.
    let next = json!({"model": "clouds", "messages": [
        {"role": "system", "content": "be short"}, {"role": "user", "content": TALK},
        {"role": "assistant", "content": "Rome"}, {"role": "user", "content": "and of France?"}]});
    let mut first = next.clone();
    first["messages"].as_array_mut().unwrap().truncate(2);
    let prefix = |value: serde_json::Value| {
        nhi_decide::route::read(&super::lab::body(value), &"aider".parse().unwrap(), &settings)
            .unwrap()
            .prefix
    };
    assert_eq!(prefix(first), prefix(next));
    assert_ne!(ask.prefix, prefix(json!({"messages": [{"role": "user", "content": "something else"}]})));
}

#[test]
fn who_waits_does_not_wait_for_another_and_bulk_does() {
    let settings = settings();
    let mut world = world(&settings);
    backend(&mut world, "pc").running = 1;
    let decision = asked(&settings, &world, &question("auto", CODE));
    assert_eq!(who(&decision), ["nas", "qwen_cloud", "gemini-flash", "groq", "pc"]);
    let mut bulk = question("auto", CODE);
    bulk.insert("nhi".to_owned(), json!({"priority": "bulk"}));
    assert_eq!(who(&asked(&settings, &world, &bulk))[0], "pc");
    // Where nobody else may, it is still asked.
    let request = question("private", CODE);
    backend(&mut world, "nas").running = 16;
    assert_eq!(who(&asked(&settings, &world, &request)), ["pc", "nas"]);
}

#[test]
fn speed_is_bounded_and_the_slow_come_last() {
    let settings = with("[alias]\nclouds = [\"@cloud\"]\n");
    let mut world = world(&settings);
    let request = question("clouds", TALK);
    backend(&mut world, "pc").light = None;
    // v3's term was unbounded: 10 ms would have been worth a hundred times everything else.
    backend(&mut world, "groq").health.latency_ms = Some(10.0);
    backend(&mut world, "gemini-flash").health.latency_ms = Some(1000.0);
    assert_eq!(who(&asked(&settings, &world, &request))[0], "gemini-flash");
    backend(&mut world, "gemini-flash").health.latency_ms = Some(4_999.0);
    assert_eq!(who(&asked(&settings, &world, &request))[0], "groq");
    backend(&mut world, "groq").health.latency_ms = Some(5_000.0);
    assert_eq!(who(&asked(&settings, &world, &request)), ["qwen_cloud", "gemini-flash", "groq"]);
}

#[test]
fn price_and_quota_count() {
    let file = "[[backend]]\nname = \"a\"\nkind = \"openai\"\nurl = \"http://a/v1\"\nmodels = [\"m\"]\n\
        price = { input = 10.0, output = 100.0 }\n\
        [[backend]]\nname = \"b\"\nkind = \"openai\"\nurl = \"http://b/v1\"\nmodels = [\"m\"]\n\
        quotas = [{ what = \"requests\", per = \"day\", limit = 10 }]\n";
    let settings: Settings = toml::from_str(file).unwrap();
    let mut world = world(&settings);
    assert_eq!(who(&asked(&settings, &world, &question("m", TALK))), ["b", "a"]);
    let quota = settings.backends[1].quotas[0].clone();
    let take = |world: &mut World, amount| {
        backend(world, "b").meters.entry(quota.key()).or_default().reserve(&quota, later(0), amount).unwrap();
    };
    // Half of its quota is worth more than what the other costs.
    take(&mut world, 5);
    assert_eq!(who(&asked(&settings, &world, &question("m", TALK))), ["a", "b"]);
    // Without that term the cheaper one stays first, until at noon more than half is gone: it will not last the day.
    let mut settings = settings;
    settings.score.quota = 0.0;
    assert_eq!(who(&asked(&settings, &world, &question("m", TALK))), ["b", "a"]);
    take(&mut world, 1);
    assert_eq!(who(&asked(&settings, &world, &question("m", TALK))), ["a", "b"]);
}

#[test]
fn where_nobody_is_any_good_a_green_gpu_goes_first() {
    let more = "[rules]\nsimple = [\"*\"]\n[score]\nlow = 2.0\n";
    let settings = with(more);
    let mut world = world(&settings);
    assert_eq!(who(&asked(&settings, &world, &question("auto", TALK)))[0], "pc");
    // Yellow is not green, and somebody good goes first.
    backend(&mut world, "pc").light = Some(Ok(Light::Yellow));
    assert_eq!(who(&asked(&settings, &world, &question("auto", TALK)))[0], "gemini-flash");
    let settings = with("[rules]\nsimple = [\"*\"]\n");
    assert_eq!(
        who(&asked(&settings, &super::lab::world(&settings), &question("auto", TALK)))[0],
        "gemini-flash"
    );
}

#[test]
fn yellow_is_for_small_models() {
    let settings = settings();
    let mut world = world(&settings);
    backend(&mut world, "pc").light = Some(Ok(Light::Yellow));
    let decision = asked(&settings, &world, &question("local", TALK));
    assert_eq!(order(&decision), ["pc/qwen2.5:3b", "nas/smollm"]);
    // Under eight, not of eight.
    assert_eq!(super::lab::why(&decision, "pc", "llama3.1:8b"), Some(LostWhy::GpuTaken));
    assert_eq!(super::lab::why(&decision, "pc", "qwen2.5:14b"), Some(LostWhy::GpuTaken));
    let more = with("[rules]\nsmall_billions = 8.1\n");
    let decision = asked(&more, &world, &question("llama3.1:8b", TALK));
    assert_eq!(order(&decision), ["pc/llama3.1:8b"]);
}
