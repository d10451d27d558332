//! Refusals as providers send them, each read as what it is.

use super::{Told, read};
use crate::{
    error::{Kind, LlmError, Span},
    provider::Provider,
};
use jiff::Timestamp;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use std::time::Duration;

fn told(provider: Provider, status: Option<u16>, headers: &[(&'static str, &str)], body: &Value) -> LlmError {
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    read(&Told {
        name: "b",
        provider,
        status,
        headers: &headers,
        value: Some(body),
        sent: None,
        now: Timestamp::from_second(1_769_860_800).unwrap(),
    })
}

fn check(provider: Provider, status: u16, body: &Value, kind: Kind) {
    let error = told(provider, Some(status), &[], body);
    assert_eq!(error.kind, kind, "{status} {body}");
}

#[test]
fn a_minute_and_a_day_are_told_apart() {
    let groq = json!({"error": {"message": "Rate limit reached for model `llama-3.3-70b-versatile` in organization `org_x` service tier `on_demand` on tokens per minute (TPM): Limit 12000, Used 11500, Requested 1558. Please try again in 5.289s. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing", "type": "tokens", "code": "rate_limit_exceeded"}});
    let error = told(Provider::Groq, Some(429), &[], &groq);
    assert_eq!(error.kind, Kind::RateLimited(Span::Minute));
    assert_eq!(error.retry_after, Some(Duration::from_secs_f64(5.289)));
    let groq_day = json!({"error": {"message": "Rate limit reached for model `x` on tokens per day (TPD): Limit 100000, Used 99336, Requested 3006. Please try again in 33m43.488s.", "type": "tokens", "code": "rate_limit_exceeded"}});
    let error = told(Provider::Groq, Some(429), &[("retry-after", "2024")], &groq_day);
    assert_eq!(error.kind, Kind::RateLimited(Span::Day));
    assert_eq!(error.retry_after, Some(Duration::from_secs(2024)));

    let gemini = |quota: &str| {
        json!([{"error": {"code": 429, "message": "You exceeded your current quota, please check your plan and billing details.", "status": "RESOURCE_EXHAUSTED", "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests", "quotaId": quota, "quotaValue": "15"}]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "23s"}]}}])
    };
    let error = told(
        Provider::Google,
        Some(429),
        &[],
        &gemini("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
    );
    assert_eq!(
        (error.kind, error.retry_after),
        (Kind::RateLimited(Span::Minute), Some(Duration::from_secs(23)))
    );
    check(
        Provider::Google,
        429,
        &gemini("GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
        Kind::RateLimited(Span::Day),
    );

    // The same words mean a minute at DashScope and no money at OpenAI.
    let quota = json!({"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "type": "insufficient_quota", "param": null, "code": "insufficient_quota"}});
    check(Provider::Dashscope, 429, &quota, Kind::RateLimited(Span::Minute));
    check(Provider::Openai, 429, &quota, Kind::RateLimited(Span::Day));
    let openrouter = json!({"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429, "metadata": {"headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1769864400000"}}}});
    let error = told(Provider::Openrouter, Some(429), &[], &openrouter);
    assert_eq!(
        (error.kind, error.retry_after),
        (Kind::RateLimited(Span::Day), Some(Duration::from_secs(3600)))
    );
    // Nothing but the pause tells.
    check(
        Provider::Other,
        429,
        &json!({"error": {"message": "slow down"}}),
        Kind::RateLimited(Span::Unknown),
    );
    let error = told(Provider::Other, Some(429), &[("retry-after", "20")], &json!({}));
    assert_eq!(error.kind, Kind::RateLimited(Span::Minute));
    let dated = [("retry-after", "Sat, 31 Jan 2026 14:00:00 GMT")];
    let error = told(Provider::Other, Some(429), &dated, &json!({}));
    assert_eq!(
        (error.kind, error.retry_after),
        (Kind::RateLimited(Span::Day), Some(Duration::from_secs(7200)))
    );
}

#[test]
fn what_does_not_fit_is_told_apart_from_what_is_wrong() {
    let other = Provider::Other;
    let llama = json!({"error": {"code": 400, "message": "request (2168 tokens) exceeds the available context size (2048 tokens), try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 2168, "n_ctx": 2048}});
    check(other, 400, &llama, Kind::TooLong);
    let vllm = json!({"object": "error", "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens", "type": "BadRequestError", "param": null, "code": 400});
    check(other, 400, &vllm, Kind::TooLong);
    let openai = json!({"error": {"message": "This model's maximum context length is 128000 tokens.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}});
    check(Provider::Openai, 400, &openai, Kind::TooLong);
    let anthropic = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"}});
    check(other, 400, &anthropic, Kind::TooLong);
    let gemini = json!({"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).", "status": "INVALID_ARGUMENT"}});
    check(other, 400, &gemini, Kind::TooLong);
    let dashscope = json!({"error": {"message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]", "type": "invalid_request_error", "code": "invalid_parameter_error"}});
    check(Provider::Dashscope, 400, &dashscope, Kind::TooLong);
    let wrong = json!({"error": {"message": "Invalid value for 'temperature'", "type": "invalid_request_error", "code": null}});
    check(Provider::Openai, 400, &wrong, Kind::BadRequest);
    let unknown = json!([{"error": {"code": 400, "message": "Invalid JSON payload received. Unknown name \"top_k\": Cannot find field.", "status": "INVALID_ARGUMENT"}}]);
    check(Provider::Google, 400, &unknown, Kind::BadRequest);
    check(
        other,
        422,
        &json!({"detail": [{"loc": ["body", "messages"], "msg": "field required"}]}),
        Kind::BadRequest,
    );
}

#[test]
fn models_keys_and_load() {
    let other = Provider::Other;
    check(other, 404, &json!({"error": "model \"x\" not found, try pulling it first"}), Kind::NoModel);
    check(
        other,
        404,
        &json!({"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}),
        Kind::NoModel,
    );
    let retired = json!({"error": {"message": "The model `x` has been decommissioned", "type": "invalid_request_error", "code": "model_decommissioned"}});
    check(Provider::Groq, 400, &retired, Kind::NoModel);
    check(
        Provider::Openrouter,
        400,
        &json!({"error": {"message": "x is not a valid model ID", "code": 400}}),
        Kind::NoModel,
    );
    check(
        other,
        404,
        &json!({"type": "error", "error": {"type": "not_found_error", "message": "model: x"}}),
        Kind::NoModel,
    );
    check(other, 404, &json!({"detail": "Not Found"}), Kind::Unsupported);
    let tools = json!({"error": "registry.ollama.ai/library/gemma:2b does not support tools"});
    check(other, 400, &tools, Kind::Unsupported);
    check(other, 401, &json!({}), Kind::KeyRefused);
    let broke = json!({"error": {"message": "Insufficient Balance", "type": "unknown_error"}});
    check(Provider::Deepseek, 402, &broke, Kind::KeyRefused);
    let gemini_key = json!({"error": {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"}});
    check(Provider::Google, 400, &gemini_key, Kind::KeyRefused);
    let busy = json!({"error": "server busy, please try again.  maximum pending requests exceeded"});
    check(other, 503, &busy, Kind::Overloaded);
    check(
        other,
        529,
        &json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
        Kind::Overloaded,
    );
    check(
        other,
        503,
        &json!({"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}),
        Kind::Overloaded,
    );
    check(
        other,
        500,
        &json!({"error": "model requires more system memory (5.6 GiB) than is available (3.1 GiB)"}),
        Kind::Server,
    );
    check(other, 502, &json!(null), Kind::Server);
}

#[test]
fn inside_a_stream_the_body_alone_tells() {
    let inside = |body: Value| told(Provider::Other, None, &[], &body);
    let overloaded =
        inside(json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}));
    assert_eq!((overloaded.kind, overloaded.status), (Kind::Overloaded, None));
    let limited = inside(json!({"error": {"code": 429, "message": "Rate limited per minute"}}));
    assert_eq!((limited.kind, limited.status), (Kind::RateLimited(Span::Minute), Some(429)));
    assert_eq!(inside(json!({"error": "llama runner process has terminated"})).kind, Kind::Server);
    assert_eq!(
        inside(json!({"error": {"type": "rate_limit_error", "message": "x"}})).kind,
        Kind::RateLimited(Span::Unknown)
    );
}

#[test]
fn a_relay_that_says_red_is_no_overload() {
    let red = told(Provider::Other, Some(503), &[("nhi-light", "red")], &json!({}));
    assert_eq!(red.kind, Kind::GpuTaken);
    // The control: the same without the header.
    assert_eq!(told(Provider::Other, Some(503), &[], &json!({})).kind, Kind::Overloaded);
}

#[test]
fn a_refused_key_is_never_repeated() {
    let body = json!({"error": {"message": "Incorrect API key provided: sk-proj-****abcd.", "type": "invalid_request_error", "code": "invalid_api_key"}});
    let error = told(Provider::Openai, Some(401), &[], &body);
    assert_eq!(
        error.message,
        "backend b: it refuses the key, or the account behind it (HTTP 401, invalid_request_error)"
    );
    let long = json!({"error": {"message": "x\n\u{1b}[31m".repeat(1000)}});
    let error = told(Provider::Openai, Some(400), &[], &long);
    assert!(error.message.chars().count() <= 400 && !error.message.contains(['\n', '\u{1b}']));
}

#[test]
fn nothing_of_the_request_is_repeated() {
    let prompt = "My sister's new address is 12 Hollow Lane, and nobody else may learn of it.";
    let messages = json!([{ "role": "user", "content": prompt }]);
    let model = "some-organisation/a-model-with-a-very-long-name-of-its-own";
    let sent =
        Map::from_iter([("messages".to_owned(), messages.clone()), ("model".to_owned(), model.into())]);
    let message = |sent: Option<&Map<String, Value>>, body: Value| {
        let headers = HeaderMap::new();
        let now = Timestamp::UNIX_EPOCH;
        let (name, provider, status) = ("b", Provider::Other, Some(422));
        read(&Told { name, provider, status, headers: &headers, value: Some(&body), sent, now }).message
    };
    let fastapi = json!({ "detail": [{ "type": "string_type", "loc": ["body", "messages", 0], "msg": "Input should be a valid string", "input": messages }] });
    assert_eq!(
        message(None, fastapi),
        "backend b: body.messages.0: Input should be a valid string (HTTP 422)"
    );
    let vllm = format!(
        "1 validation error: [{{'type': 'missing', 'msg': 'Field required', 'input': {{'content': \"{prompt}\"}}}}]"
    );
    let vllm = message(None, json!({ "message": vllm }));
    assert!(vllm.contains("Field required") && !vllm.contains("Hollow Lane"), "{vllm}");

    let repeats = json!({ "error": { "message": format!("cannot answer {prompt} as it is") } });
    assert_eq!(message(Some(&sent), repeats.clone()), "backend b: cannot answer … (HTTP 422)");
    // The control: whoever does not know the request cannot tell.
    assert!(message(None, repeats).contains("Hollow Lane"));
    // A few words in common are no repetition, and a model has to be named.
    let common = json!({ "error": { "message": format!("My sister's new address: {model} is busy") } });
    assert!(message(Some(&sent), common).contains(&format!("address: {model} is busy")));
    let long = message(None, json!({ "error": { "message": "long ".repeat(100) } }));
    assert!(long.chars().count() < 240, "{long}");
}
