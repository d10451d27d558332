//! Errors in the words of each provider, as they send them: statuses, headers, bodies. Pure. The texts are the
//! providers' own; what a router reads out of them is its business, not ours.

use super::{
    ask::Unfit,
    fault::{Instead, Span},
    settings::Provider,
};
use serde_json::{Value, json};

/// The API a request came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Openai,
    Ollama,
    Gemini,
    Anthropic,
}

/// Who speaks: whose API and whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Voice {
    pub(crate) dialect: Dialect,
    pub(crate) provider: Provider,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrong {
    RateLimited {
        per: Span,
        retry_after_s: Option<u64>,
    },
    Overloaded,
    Server,
    Key,
    NoModel,
    Unfit(Unfit),
    /// Anything else the request itself is wrong about.
    Request(String),
    NoPath(String),
}

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Value,
}

impl Refusal {
    fn new(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body }
    }

    fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }
}

/// The fault as a wrong, unless it is no answer in anybody's words.
pub(crate) fn wrong_of(instead: &Instead, limit: u32) -> Option<Wrong> {
    Some(match instead {
        Instead::RateLimited { per, retry_after_s } => {
            Wrong::RateLimited { per: *per, retry_after_s: *retry_after_s }
        }
        Instead::Overloaded => Wrong::Overloaded,
        Instead::ServerError => Wrong::Server,
        Instead::KeyRefused => Wrong::Key,
        Instead::NoModel => Wrong::NoModel,
        Instead::TooLong => {
            Wrong::Unfit(Unfit::TooLong { tokens: limit.saturating_mul(5).div_ceil(4), limit })
        }
        Instead::Html
        | Instead::Redirect { .. }
        | Instead::Empty
        | Instead::Dropped
        | Instead::Status { .. } => return None,
    })
}

/// The error as this voice tells it.
pub(crate) fn refusal(voice: Voice, model: &str, wrong: &Wrong) -> Refusal {
    match (voice.dialect, voice.provider) {
        (Dialect::Ollama, _) => ollama(model, wrong),
        (Dialect::Anthropic, _) => anthropic(model, wrong),
        (Dialect::Gemini, _) => gemini(model, wrong),
        // Google's OpenAI mode wraps the same object in an array.
        (Dialect::Openai, Provider::Gemini) => {
            let plain = gemini(model, wrong);
            Refusal { body: json!([plain.body]), ..plain }
        }
        (Dialect::Openai, Provider::Ollama) => openai_of_ollama(model, wrong),
        (Dialect::Openai, Provider::Llamacpp) => llamacpp(wrong),
        (Dialect::Openai, Provider::Vllm) => vllm(model, wrong),
        (Dialect::Openai, Provider::Groq) => groq(model, wrong),
        (Dialect::Openai, Provider::Dashscope) => dashscope(model, wrong),
        (Dialect::Openai, Provider::Openai | Provider::Anthropic) => openai(model, wrong),
    }
}

/// The error object that comes in the middle of a stream.
pub(crate) fn in_band(voice: Voice) -> Value {
    match (voice.dialect, voice.provider) {
        (Dialect::Anthropic, _) => anthropic("", &Wrong::Overloaded).body,
        (Dialect::Gemini, _) | (Dialect::Openai, Provider::Gemini) => gemini("", &Wrong::Overloaded).body,
        (Dialect::Ollama, _) => {
            json!({"error": "an error was encountered while running the model: unexpected EOF"})
        }
        (Dialect::Openai, Provider::Ollama) => json!({"error": {
            "message": "an error was encountered while running the model: unexpected EOF",
            "type": "api_error", "param": null, "code": null,
        }}),
        (Dialect::Openai, Provider::Llamacpp) => {
            json!({"error": {"code": 500, "message": "Compute error.", "type": "server_error"}})
        }
        (Dialect::Openai, Provider::Vllm) => json!({"error": {
            "message": "EngineCore encountered an issue. See stack trace (above) for the root cause.",
            "type": "InternalServerError", "param": null, "code": 500,
        }}),
        (Dialect::Openai, Provider::Groq) => json!({"error": {
            "message": "Internal Server Error", "type": "internal_server_error", "status_code": 500,
        }}),
        (Dialect::Openai, Provider::Dashscope) => json!({"error": {
            "message": "Request timed out, please try again later.", "type": "timeout",
            "param": null, "code": "timeout",
        }}),
        (Dialect::Openai, Provider::Openai | Provider::Anthropic) => openai("", &Wrong::Server).body,
    }
}

fn body_openai(message: impl Into<String>, kind: &str, param: Value, code: Value) -> Value {
    json!({"error": {"message": message.into(), "type": kind, "param": param, "code": code}})
}

fn openai(model: &str, wrong: &Wrong) -> Refusal {
    let invalid =
        |message: String, code: Value| body_openai(message, "invalid_request_error", Value::Null, code);
    match wrong {
        Wrong::RateLimited { per, retry_after_s } => openai_limit(model, *per, retry_after_s.unwrap_or(6)),
        Wrong::Overloaded => Refusal::new(
            503,
            body_openai(
                "The engine is currently overloaded, please try again later",
                "server_error",
                Value::Null,
                Value::Null,
            ),
        ),
        Wrong::Server => Refusal::new(
            500,
            body_openai(
                "The server had an error while processing your request. Sorry about that!",
                "server_error",
                Value::Null,
                Value::Null,
            ),
        ),
        Wrong::Key => Refusal::new(
            401,
            invalid(
                "Incorrect API key provided: sk-s*****ated. You can find your API key at https://platform.openai.com/account/api-keys.".to_owned(),
                json!("invalid_api_key"),
            ),
        ),
        Wrong::NoModel => Refusal::new(
            404,
            invalid(
                format!("The model `{model}` does not exist or you do not have access to it."),
                json!("model_not_found"),
            ),
        ),
        Wrong::Unfit(Unfit::TooLong { tokens, limit }) => {
            let message = format!(
                "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. Please reduce the length of the messages."
            );
            let body = body_openai(
                message,
                "invalid_request_error",
                json!("messages"),
                json!("context_length_exceeded"),
            );
            Refusal::new(400, body)
        }
        Wrong::Unfit(unfit) => Refusal::new(400, invalid(unfit_text(model, unfit), Value::Null)),
        Wrong::Request(message) => Refusal::new(400, invalid(message.clone(), Value::Null)),
        Wrong::NoPath(path) => Refusal::new(404, invalid(format!("Invalid URL (POST {path})"), Value::Null)),
    }
}

fn openai_limit(model: &str, per: Span, seconds: u64) -> Refusal {
    let told = |message: &str, kind: &str, code: &str| {
        Refusal::new(429, body_openai(message, kind, Value::Null, json!(code)))
    };
    if per == Span::Day {
        return told(
            "You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
            "insufficient_quota",
            "insufficient_quota",
        );
    }
    let message = format!(
        "Rate limit reached for {model} in organization org-simulated on tokens per min (TPM): Limit 30000, Used 29937, Requested 385. Please try again in {seconds}s. Visit https://platform.openai.com/account/rate-limits to learn more."
    );
    told(&message, "tokens", "rate_limit_exceeded")
        .header("retry-after", seconds)
        .header("x-ratelimit-limit-requests", 500)
        .header("x-ratelimit-limit-tokens", 30_000)
        .header("x-ratelimit-remaining-requests", 499)
        .header("x-ratelimit-remaining-tokens", 63)
        .header("x-ratelimit-reset-requests", "120ms")
        .header("x-ratelimit-reset-tokens", format!("{seconds}s"))
}

fn unfit_text(model: &str, unfit: &Unfit) -> String {
    match unfit {
        Unfit::TooLong { tokens, limit } => format!("the prompt has {tokens} tokens, the limit is {limit}"),
        Unfit::NoTools => format!("'tools' is not supported with the model {model}"),
        Unfit::NoVision => "Invalid content type. image_url is only supported by certain models.".to_owned(),
        Unfit::NoPrefill => {
            "This model does not support assistant message prefill. The conversation must end with a user message.".to_owned()
        }
        Unfit::EmbedsOnly => {
            "This is not a chat model and thus not supported in the v1/chat/completions endpoint. Did you mean to use v1/embeddings?".to_owned()
        }
        Unfit::EndsInSpace => {
            "messages: final assistant content cannot end with trailing whitespace".to_owned()
        }
    }
}

fn groq(model: &str, wrong: &Wrong) -> Refusal {
    let told = |status, message: String, kind: &str, code: &str| {
        Refusal::new(status, json!({"error": {"message": message, "type": kind, "code": code}}))
    };
    match wrong {
        Wrong::RateLimited { per, retry_after_s } => {
            let (kind, used, limit, seconds) = match per {
                Span::Minute => ("minute (TPM)", 5_747, 6_000, retry_after_s.unwrap_or(5)),
                Span::Day => ("day (TPD)", 97_050, 100_000, retry_after_s.unwrap_or(578)),
            };
            let wait = match (seconds / 60, seconds % 60) {
                (0, seconds) => format!("{seconds}.289s"),
                (minutes, seconds) => format!("{minutes}m{seconds}.016s"),
            };
            let message = format!(
                "Rate limit reached for model `{model}` in organization `org_simulated` service tier `on_demand` on tokens per {kind}: Limit {limit}, Used {used}, Requested 3619. Please try again in {wait}. Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
            );
            told(429, message, "tokens", "rate_limit_exceeded")
                .header("retry-after", seconds)
                // Of requests a day and of tokens a minute, always.
                .header("x-ratelimit-limit-requests", 14_400)
                .header("x-ratelimit-limit-tokens", 6_000)
                .header("x-ratelimit-remaining-requests", 14_370)
                .header("x-ratelimit-remaining-tokens", 253)
                .header("x-ratelimit-reset-requests", "2m59.56s")
                .header("x-ratelimit-reset-tokens", "57.47s")
        }
        Wrong::Overloaded => Refusal::new(
            503,
            json!({"error": {"message": format!("{model} is currently over capacity. Please try again and back off exponentially. Visit https://groqstatus.com to see if there is an active incident."), "type": "internal_server_error"}}),
        ),
        Wrong::Server => Refusal::new(
            500,
            json!({"error": {"message": "Internal Server Error", "type": "internal_server_error"}}),
        ),
        Wrong::Key => told(401, "Invalid API Key".to_owned(), "invalid_request_error", "invalid_api_key"),
        Wrong::NoModel => told(
            404,
            format!("The model `{model}` does not exist or you do not have access to it."),
            "invalid_request_error",
            "model_not_found",
        ),
        Wrong::Unfit(Unfit::TooLong { .. }) => Refusal::new(
            400,
            json!({"error": {"message": "Please reduce the length of the messages or completion.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}),
        ),
        Wrong::Unfit(Unfit::NoTools) => Refusal::new(
            400,
            json!({"error": {"message": "`tool calling` is not supported with this model", "type": "invalid_request_error"}}),
        ),
        Wrong::Unfit(unfit) => Refusal::new(
            400,
            json!({"error": {"message": unfit_text(model, unfit), "type": "invalid_request_error"}}),
        ),
        Wrong::Request(message) => {
            Refusal::new(400, json!({"error": {"message": message, "type": "invalid_request_error"}}))
        }
        Wrong::NoPath(path) => Refusal::new(
            404,
            json!({"error": {"message": format!("Unknown request URL: POST {path}. Please check the URL for typos, or see the docs at https://console.groq.com/docs/"), "type": "invalid_request_error", "code": "unknown_url"}}),
        ),
    }
}

fn dashscope(model: &str, wrong: &Wrong) -> Refusal {
    let told = |status, message: &str, kind: &str| {
        Refusal::new(
            status,
            json!({"error": {"message": message, "type": kind, "param": null, "code": kind},
                "request_id": "5d1cbd0e-0000-9000-8000-51a1a1a1a1a1"}),
        )
    };
    match wrong {
        // The limit of a minute is worded as if the account were empty.
        Wrong::RateLimited { per: Span::Minute, .. } => Refusal::new(
            429,
            json!({"error": {
                "message": "You exceeded your current quota, please check your plan and billing details. For details, see: https://help.aliyun.com/zh/model-studio/error-code#token-limit",
                "type": "insufficient_quota", "param": "insufficient_quota", "code": "insufficient_quota",
            }, "request_id": "5d1cbd0e-0000-9000-8000-51a1a1a1a1a1"}),
        ),
        Wrong::RateLimited { per: Span::Day, .. } => told(
            403,
            "The free tier of the model has been exhausted. If you wish to continue access the model on a paid basis, please disable the \"use free tier only\" mode in the management console.",
            "AllocationQuota.FreeTierOnly",
        ),
        Wrong::Overloaded => told(
            503,
            "Too many requests. Your requests are being throttled due to system capacity limits. Please try again later.",
            "ServiceUnavailable",
        ),
        Wrong::Server => told(
            500,
            "An internal error has occured, please try again later or contact service support.",
            "internal_error",
        ),
        Wrong::Key => told(401, "Incorrect API key provided. ", "invalid_api_key"),
        Wrong::NoModel => told(
            404,
            &format!("The model `{model}` does not exist or you do not have access to it."),
            "model_not_found",
        ),
        Wrong::Unfit(Unfit::TooLong { limit, .. }) => told(
            400,
            &format!(
                "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, {limit}]"
            ),
            "invalid_parameter_error",
        ),
        Wrong::Unfit(unfit) => told(400, &unfit_text(model, unfit), "invalid_parameter_error"),
        Wrong::Request(message) => told(400, message, "invalid_request_error"),
        Wrong::NoPath(_) => told(404, "Not Found", "not_found"),
    }
}

fn llamacpp(wrong: &Wrong) -> Refusal {
    let told = |status: u16, message: &str, kind: &str| {
        Refusal::new(status, json!({"error": {"code": status, "message": message, "type": kind}}))
    };
    match wrong {
        Wrong::RateLimited { .. } => told(429, "Too Many Requests", "rate_limit_error"),
        Wrong::Overloaded => told(503, "Loading model", "unavailable_error"),
        Wrong::Server => told(500, "Compute error.", "server_error"),
        Wrong::Key => told(401, "Invalid API Key", "authentication_error"),
        Wrong::NoModel => told(404, "model not found", "not_found_error"),
        Wrong::Unfit(Unfit::TooLong { tokens, limit }) => Refusal::new(
            400,
            json!({"error": {
                "code": 400,
                "message": format!("request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it"),
                "type": "exceed_context_size_error", "n_prompt_tokens": tokens, "n_ctx": limit,
            }}),
        ),
        Wrong::Unfit(Unfit::NoVision) => told(
            500,
            "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "server_error",
        ),
        Wrong::Unfit(unfit) => told(400, &unfit_text("this", unfit), "invalid_request_error"),
        Wrong::Request(message) => told(400, message, "invalid_request_error"),
        Wrong::NoPath(_) => told(404, "File Not Found", "not_found_error"),
    }
}

fn vllm(model: &str, wrong: &Wrong) -> Refusal {
    let told = |status: u16, message: String, kind: &str| {
        Refusal::new(
            status,
            json!({"error": {"message": message, "type": kind, "param": null, "code": status}}),
        )
    };
    match wrong {
        Wrong::RateLimited { .. } => told(429, "Too Many Requests".to_owned(), "TooManyRequestsError"),
        Wrong::Overloaded => told(503, "The server is overloaded".to_owned(), "ServiceUnavailableError"),
        Wrong::Server => told(500, "Internal server error".to_owned(), "InternalServerError"),
        Wrong::Key => Refusal::new(401, json!({"error": "Unauthorized"})),
        Wrong::NoModel => told(404, format!("The model `{model}` does not exist."), "NotFoundError"),
        Wrong::Unfit(Unfit::TooLong { tokens, limit }) => told(
            400,
            format!(
                "This model's maximum context length is {limit} tokens. However, your request has {tokens} input tokens. Please reduce the length of the input messages."
            ),
            "BadRequestError",
        ),
        Wrong::Unfit(unfit) => told(400, unfit_text(model, unfit), "BadRequestError"),
        Wrong::Request(message) => told(400, message.clone(), "BadRequestError"),
        Wrong::NoPath(_) => Refusal::new(404, json!({"detail": "Not Found"})),
    }
}

/// Ollama's status and text, which both of its APIs share.
fn ollama_said(model: &str, wrong: &Wrong) -> (u16, String) {
    match wrong {
        // Ollama's own cloud models have limits, a local one has not.
        Wrong::RateLimited { per: Span::Minute, .. } => (429, "too many concurrent requests".to_owned()),
        Wrong::RateLimited { per: Span::Day, .. } => {
            (429, "you (simulated) have reached your daily usage limit, please upgrade to continue".to_owned())
        }
        Wrong::Overloaded => {
            (503, "server busy, please try again.  maximum pending requests exceeded".to_owned())
        }
        Wrong::Server => (500, "llama runner process has terminated: exit status 2".to_owned()),
        Wrong::Key => (401, "unauthorized".to_owned()),
        Wrong::NoModel => (404, format!("model \"{model}\" not found, try pulling it first")),
        Wrong::Unfit(Unfit::NoTools) => {
            (400, format!("registry.ollama.ai/library/{model} does not support tools"))
        }
        Wrong::Unfit(Unfit::EmbedsOnly) => (400, format!("\"{model}\" does not support chat")),
        Wrong::Unfit(Unfit::TooLong { .. }) => {
            (400, "the input length exceeds the context length".to_owned())
        }
        Wrong::Unfit(Unfit::NoVision) => {
            (500, "Failed to create new sequence: failed to process inputs: this model is missing data required for image input".to_owned())
        }
        Wrong::Unfit(unfit @ (Unfit::NoPrefill | Unfit::EndsInSpace)) => (400, unfit_text(model, unfit)),
        Wrong::Request(message) => (400, message.clone()),
        Wrong::NoPath(_) => (404, "404 page not found".to_owned()),
    }
}

fn ollama(model: &str, wrong: &Wrong) -> Refusal {
    let (status, message) = ollama_said(model, wrong);
    Refusal::new(status, json!({"error": message}))
}

fn openai_of_ollama(model: &str, wrong: &Wrong) -> Refusal {
    let (status, message) = ollama_said(model, wrong);
    let kind = match status {
        400 => "invalid_request_error",
        404 => "not_found_error",
        _ => "api_error",
    };
    Refusal::new(status, body_openai(message, kind, Value::Null, Value::Null))
}

fn gemini(model: &str, wrong: &Wrong) -> Refusal {
    let told = |code: u16, status: &str, message: String| {
        Refusal::new(code, json!({"error": {"code": code, "message": message, "status": status}}))
    };
    match wrong {
        Wrong::RateLimited { per, retry_after_s } => gemini_limit(model, *per, *retry_after_s),
        Wrong::Overloaded => {
            told(503, "UNAVAILABLE", "The model is overloaded. Please try again later.".to_owned())
        }
        Wrong::Server => told(
            500,
            "INTERNAL",
            "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting".to_owned(),
        ),
        Wrong::Key => Refusal::new(
            400,
            json!({"error": {
                "code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT",
                "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com", "metadata": {"service": "generativelanguage.googleapis.com"}}],
            }}),
        ),
        Wrong::NoModel => told(
            404,
            "NOT_FOUND",
            format!("models/{model} is not found for API version v1beta, or is not supported for generateContent. Call ListModels to see the list of available models and their supported methods."),
        ),
        Wrong::Unfit(Unfit::TooLong { tokens, limit }) => told(
            400,
            "INVALID_ARGUMENT",
            format!("The input token count ({tokens}) exceeds the maximum number of tokens allowed ({limit})."),
        ),
        Wrong::Unfit(Unfit::NoTools) => {
            told(400, "INVALID_ARGUMENT", format!("Function calling is not enabled for models/{model}"))
        }
        Wrong::Unfit(Unfit::NoVision) => {
            told(400, "INVALID_ARGUMENT", format!("Image input modality is not enabled for models/{model}"))
        }
        Wrong::Unfit(unfit) => told(400, "INVALID_ARGUMENT", unfit_text(model, unfit)),
        Wrong::Request(message) => told(400, "INVALID_ARGUMENT", message.clone()),
        Wrong::NoPath(_) => told(404, "NOT_FOUND", "Requested entity was not found.".to_owned()),
    }
}

fn gemini_limit(model: &str, per: Span, retry_after_s: Option<u64>) -> Refusal {
    // The quota that is spent stands in its id alone; the delay is short in either case.
    let (id, limit, seconds) = match per {
        Span::Minute => {
            ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", 10, retry_after_s.unwrap_or(44))
        }
        Span::Day => ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 250, retry_after_s.unwrap_or(35)),
    };
    let message = format!(
        "You exceeded your current quota, please check your plan and billing details. For more information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: {limit}, model: {model}\nPlease retry in {seconds}.200615458s."
    );
    Refusal::new(
        429,
        json!({"error": {"code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": [
            {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{
                "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
                "quotaId": id, "quotaDimensions": {"location": "global", "model": model},
                "quotaValue": limit.to_string(),
            }]},
            {"@type": "type.googleapis.com/google.rpc.Help", "links": [{
                "description": "Learn more about Gemini API quotas",
                "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
            }]},
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": format!("{seconds}s")},
        ]}}),
    )
}

fn anthropic(model: &str, wrong: &Wrong) -> Refusal {
    let told = |status, kind: &str, message: String| {
        Refusal::new(
            status,
            json!({"type": "error", "error": {"type": kind, "message": message},
                "request_id": "req_011CSimulated000000000000"}),
        )
    };
    match wrong {
        Wrong::RateLimited { retry_after_s, .. } => told(
            429,
            "rate_limit_error",
            "This request would exceed the rate limit for your organization (simulated) of 50,000 input tokens per minute. For details, refer to: https://docs.claude.com/en/api/rate-limits.".to_owned(),
        )
        .header("retry-after", retry_after_s.unwrap_or(20))
        .header("anthropic-ratelimit-input-tokens-limit", 50_000)
        .header("anthropic-ratelimit-input-tokens-remaining", 0),
        Wrong::Overloaded => told(529, "overloaded_error", "Overloaded".to_owned()),
        Wrong::Server => told(500, "api_error", "Internal server error".to_owned()),
        Wrong::Key => told(401, "authentication_error", "invalid x-api-key".to_owned()),
        Wrong::NoModel => told(404, "not_found_error", format!("model: {model}")),
        Wrong::Unfit(Unfit::TooLong { tokens, limit }) => told(
            400,
            "invalid_request_error",
            format!("prompt is too long: {tokens} tokens > {limit} maximum"),
        ),
        Wrong::Unfit(unfit) => told(400, "invalid_request_error", unfit_text(model, unfit)),
        Wrong::Request(message) => told(400, "invalid_request_error", message.clone()),
        Wrong::NoPath(_) => told(404, "not_found_error", "Not Found".to_owned()),
    }
}
