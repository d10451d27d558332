//! Who is who, by the url alone.

use super::{Provider, continues};
use nhi_model::ai::{BackendKind, Continues};

#[test]
fn a_provider_is_known_by_its_host_and_not_by_a_host_that_sounds_alike() {
    for (url, provider, goes_on) in [
        ("https://api.groq.com/openai/v1", Provider::Groq, Continues::Prefill),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", Provider::Dashscope, Continues::Partial),
        ("https://proxy.example/compatible-mode/v1", Provider::Dashscope, Continues::Partial),
        ("https://generativelanguage.googleapis.com/v1beta/openai/", Provider::Google, Continues::Never),
        ("https://api.openai.com/v1", Provider::Openai, Continues::Never),
        ("https://openrouter.ai/api/v1", Provider::Openrouter, Continues::Never),
        ("https://api.deepseek.com", Provider::Deepseek, Continues::Never),
        ("https://notgroq.com/v1", Provider::Other, Continues::Never),
        ("https://groq.com.example/v1", Provider::Other, Continues::Never),
        ("http://127.0.0.1:8080/v1", Provider::Other, Continues::Never),
    ] {
        let url = url.parse().unwrap();
        assert_eq!((Provider::of(&url), continues(BackendKind::Openai, &url)), (provider, goes_on), "{url}");
    }
}
