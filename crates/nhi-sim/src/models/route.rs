//! Which call a path is, and whose: paths that only one provider has name it, `/v1` is the server's own. Pure.

use super::{
    refusal::{Dialect, Voice},
    settings::Provider,
};

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Chat,
    Embeddings,
    Models,
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaTags,
    OllamaPs,
    OllamaShow,
    OllamaVersion,
    OllamaRoot,
    GeminiGenerate { model: String, is_stream: bool, is_sse: bool },
    GeminiEmbed { model: String, is_batch: bool },
    GeminiModels,
    GeminiModel { model: String },
    Messages,
    Health,
    Props,
    Unknown,
}

impl Call {
    /// Whether it asks for text or vectors.
    pub(crate) fn generates(&self) -> bool {
        match self {
            Self::Chat
            | Self::Embeddings
            | Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::GeminiGenerate { .. }
            | Self::GeminiEmbed { .. }
            | Self::Messages => true,
            Self::Models
            | Self::OllamaTags
            | Self::OllamaPs
            | Self::OllamaShow
            | Self::OllamaVersion
            | Self::OllamaRoot
            | Self::GeminiModels
            | Self::GeminiModel { .. }
            | Self::Health
            | Self::Props
            | Self::Unknown => false,
        }
    }
}

/// Finds it. `is_anthropic`: the request has Anthropic's version header, the only thing that tells its list of
/// models from OpenAI's.
pub(crate) fn find(
    method: &str,
    path: &str,
    query: &str,
    is_anthropic: bool,
    own: Provider,
) -> (Call, Voice) {
    let as_openai = |provider| Voice { dialect: Dialect::Openai, provider };
    if let Some(rest) = path.strip_prefix("/openai/v1") {
        return (openai(method, rest), as_openai(Provider::Groq));
    }
    if let Some(rest) = path.strip_prefix("/v1beta/openai") {
        return (openai(method, rest), as_openai(Provider::Gemini));
    }
    if let Some(rest) = path.strip_prefix("/compatible-mode/v1") {
        return (openai(method, rest), as_openai(Provider::Dashscope));
    }
    // Google's stable version has the same paths; a verb tells them from OpenAI's.
    let stable = path.strip_prefix("/v1/models").filter(|rest| rest.contains(':'));
    if let Some(rest) = path.strip_prefix("/v1beta/models").or(stable) {
        let voice = Voice { dialect: Dialect::Gemini, provider: Provider::Gemini };
        return (gemini(method, rest, query), voice);
    }
    if path == "/v1/messages" || (path == "/v1/models" && is_anthropic) {
        let call = match (method, path) {
            ("POST", "/v1/messages") => Call::Messages,
            ("GET", "/v1/models") => Call::Models,
            _ => Call::Unknown,
        };
        return (call, Voice { dialect: Dialect::Anthropic, provider: Provider::Anthropic });
    }
    if let Some(rest) = path.strip_prefix("/v1") {
        return (openai(method, rest), as_openai(own));
    }
    let ollama = Voice { dialect: Dialect::Ollama, provider: Provider::Ollama };
    let call = match (method, path) {
        ("POST", "/api/chat") => Call::OllamaChat,
        ("POST", "/api/generate") => Call::OllamaGenerate,
        ("POST", "/api/embed") => Call::OllamaEmbed,
        ("POST", "/api/embeddings") => Call::OllamaEmbeddings,
        ("POST", "/api/show") => Call::OllamaShow,
        ("GET", "/api/tags") => Call::OllamaTags,
        ("GET", "/api/ps") => Call::OllamaPs,
        ("GET", "/api/version") => Call::OllamaVersion,
        ("GET" | "HEAD", "/") => Call::OllamaRoot,
        ("GET", "/health") => Call::Health,
        ("GET", "/props") => Call::Props,
        _ => Call::Unknown,
    };
    (call, ollama)
}

fn openai(method: &str, rest: &str) -> Call {
    match (method, rest) {
        ("POST", "/chat/completions") => Call::Chat,
        ("POST", "/embeddings") => Call::Embeddings,
        ("GET", "/models") => Call::Models,
        _ => Call::Unknown,
    }
}

fn gemini(method: &str, rest: &str, query: &str) -> Call {
    if method == "GET" && rest.is_empty() {
        return Call::GeminiModels;
    }
    let Some(name) = rest.strip_prefix('/') else { return Call::Unknown };
    let (model, verb) = match name.split_once(':') {
        Some((model, verb)) => (model.to_owned(), verb),
        None => (name.to_owned(), ""),
    };
    let is_sse = query.split('&').any(|pair| pair == "alt=sse");
    match (method, verb) {
        ("GET", "") => Call::GeminiModel { model },
        ("POST", "generateContent") => Call::GeminiGenerate { model, is_stream: false, is_sse },
        ("POST", "streamGenerateContent") => Call::GeminiGenerate { model, is_stream: true, is_sse },
        ("POST", "embedContent") => Call::GeminiEmbed { model, is_batch: false },
        ("POST", "batchEmbedContents") => Call::GeminiEmbed { model, is_batch: true },
        _ => Call::Unknown,
    }
}
