//! What is known of single providers that speak OpenAI's words with an accent: which fields they refuse, who continues
//! a text. Configuration may say otherwise.

use nhi_model::ai::{BackendKind, Continues};
use url::Url;

/// Somebody whose accent is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    Openai,
    Groq,
    Dashscope,
    Deepseek,
    Openrouter,
    /// Gemini's OpenAI mode.
    Google,
    /// Any other: llama.cpp, vLLM, LM Studio; and whoever is spoken to natively.
    Other,
}

/// What a provider takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Accent {
    /// Fields of a request; `None`: it ignores what it does not know.
    pub(crate) fields: Option<&'static [&'static str]>,
    /// Fields of a message; `None` as above.
    pub(crate) message_fields: Option<&'static [&'static str]>,
    /// Whether a tool call may carry `extra_content`.
    pub(crate) extra_content: bool,
    /// What it calls the limit of the answer.
    pub(crate) limit: Limit,
}

/// What a provider calls the limit of the answer. A name it ignores would be an answer without limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    MaxTokens,
    MaxCompletionTokens,
    /// Not known: both are said.
    Both,
}

/// `https://ai.google.dev/gemini-api/docs/openai`: it answers 400 `Unknown name` to any other.
const GOOGLE_FIELDS: &[&str] = &[
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "model",
    "n",
    "parallel_tool_calls",
    "reasoning_effort",
    "response_format",
    "stop",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
];
const GOOGLE_MESSAGE_FIELDS: &[&str] =
    &["content", "extra_content", "name", "role", "tool_call_id", "tool_calls"];
/// `https://console.groq.com/docs/api-reference`: it answers 400 `property … is unsupported` to any other, and to
/// `logit_bias`, `logprobs` and `top_logprobs`, which that page lists.
const GROQ_FIELDS: &[&str] = &[
    "citation_options",
    "compound_custom",
    "disable_tool_validation",
    "documents",
    "frequency_penalty",
    "function_call",
    "functions",
    "include_reasoning",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "model",
    "n",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "reasoning_format",
    "response_format",
    "search_settings",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "user",
];
const GROQ_MESSAGE_FIELDS: &[&str] =
    &["content", "function_call", "reasoning", "role", "tool_call_id", "tool_calls"];
/// `https://platform.openai.com/docs/api-reference/chat/create`: it answers 400 `Unrecognized request argument`.
const OPENAI_FIELDS: &[&str] = &[
    "audio",
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "max_completion_tokens",
    "max_tokens",
    "messages",
    "metadata",
    "modalities",
    "model",
    "n",
    "parallel_tool_calls",
    "prediction",
    "presence_penalty",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "response_format",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "store",
    "stream",
    "stream_options",
    "temperature",
    "tool_choice",
    "tools",
    "top_logprobs",
    "top_p",
    "user",
    "verbosity",
    "web_search_options",
];
const OPENAI_MESSAGE_FIELDS: &[&str] =
    &["audio", "content", "function_call", "name", "refusal", "role", "tool_call_id", "tool_calls"];

impl Provider {
    /// By the host, and by paths that nobody else has: a proxy in front keeps them.
    pub(crate) fn of(url: &Url) -> Self {
        let host = url.host_str().unwrap_or_default();
        let under = |domain: &str| {
            host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        match () {
            () if under("openai.com") => Self::Openai,
            () if under("groq.com") => Self::Groq,
            () if under("aliyuncs.com") => Self::Dashscope,
            () if under("deepseek.com") => Self::Deepseek,
            () if under("openrouter.ai") => Self::Openrouter,
            () if under("googleapis.com") => Self::Google,
            () if url.path().contains("/compatible-mode/") => Self::Dashscope,
            () if url.path().contains("/v1beta/openai") => Self::Google,
            () => Self::Other,
        }
    }

    pub(crate) const fn accent(self) -> Accent {
        let any =
            Accent { fields: None, message_fields: None, extra_content: false, limit: Limit::MaxTokens };
        match self {
            Self::Openai => Accent {
                fields: Some(OPENAI_FIELDS),
                message_fields: Some(OPENAI_MESSAGE_FIELDS),
                limit: Limit::MaxCompletionTokens,
                ..any
            },
            Self::Groq => Accent {
                fields: Some(GROQ_FIELDS),
                message_fields: Some(GROQ_MESSAGE_FIELDS),
                limit: Limit::MaxCompletionTokens,
                ..any
            },
            Self::Google => Accent {
                fields: Some(GOOGLE_FIELDS),
                message_fields: Some(GOOGLE_MESSAGE_FIELDS),
                extra_content: true,
                ..any
            },
            Self::Dashscope | Self::Deepseek => any,
            // It passes `extra_content` on to Google's models.
            Self::Openrouter => Accent { extra_content: true, ..any },
            Self::Other => Accent { extra_content: true, limit: Limit::Both, ..any },
        }
    }
}

/// Whether such a backend goes on with a text that another one began, as far as that is known without asking it:
/// [`crate::Backend::continues`] knows more once the backend told its models.
pub fn continues(kind: BackendKind, url: &Url) -> Continues {
    match (kind, Provider::of(url)) {
        (BackendKind::Ollama, _) | (BackendKind::Openai, Provider::Groq) => Continues::Prefill,
        (BackendKind::Openai, Provider::Dashscope) => Continues::Partial,
        // Anthropic's models since Claude 4.6 refuse a trailing assistant message; Gemini documents none.
        (BackendKind::Gemini | BackendKind::Anthropic, _)
        | (
            BackendKind::Openai,
            Provider::Openai | Provider::Deepseek | Provider::Openrouter | Provider::Google | Provider::Other,
        ) => Continues::Never,
    }
}

#[cfg(test)]
mod tests;
