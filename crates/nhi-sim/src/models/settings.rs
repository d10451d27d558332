//! What a simulated model server is started with: whose rules it follows, and its models.

use super::super::lab::access::Secret;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Whose words, limits and habits a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// OpenAI itself.
    Openai,
    /// llama.cpp's server.
    Llamacpp,
    /// vLLM.
    Vllm,
    /// Groq.
    Groq,
    /// Alibaba's `compatible-mode`.
    Dashscope,
    /// Google.
    Gemini,
    /// Anthropic.
    Anthropic,
    /// Ollama.
    Ollama,
}

/// A provider that there is not.
#[derive(Debug, thiserror::Error)]
#[error(
    "there is no provider `{name}`; one of openai, llamacpp, vllm, groq, dashscope, gemini, anthropic, ollama"
)]
pub struct NoProvider {
    /// What was asked for.
    pub name: String,
}

impl std::str::FromStr for Provider {
    type Err = NoProvider;

    fn from_str(name: &str) -> Result<Self, NoProvider> {
        Self::ALL
            .into_iter()
            .find(|provider| provider.as_str() == name)
            .ok_or_else(|| NoProvider { name: name.to_owned() })
    }
}

impl Provider {
    /// Its word in files and options.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Llamacpp => "llamacpp",
            Self::Vllm => "vllm",
            Self::Groq => "groq",
            Self::Dashscope => "dashscope",
            Self::Gemini => "gemini",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
        }
    }

    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Openai,
        Self::Llamacpp,
        Self::Vllm,
        Self::Groq,
        Self::Dashscope,
        Self::Gemini,
        Self::Anthropic,
        Self::Ollama,
    ];

    /// What a trailing assistant message is to its models.
    pub const fn continues(self) -> Continues {
        match self {
            Self::Llamacpp | Self::Groq | Self::Ollama | Self::Anthropic => Continues::Prefill,
            Self::Dashscope => Continues::Partial,
            Self::Vllm => Continues::Final,
            Self::Openai | Self::Gemini => Continues::Never,
        }
    }
}

/// What a trailing assistant message is to a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Continues {
    /// The beginning of its answer.
    Prefill,
    /// The same, when the message says `partial: true`.
    Partial,
    /// The same, with `continue_final_message: true` and `add_generation_prompt: false`.
    Final,
    /// One more message: it answers anew.
    Never,
    /// An error.
    Refuses,
}

/// A simulated model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Its name.
    pub name: String,
    /// How fast it answers; 0: as fast as it can be sent.
    pub tokens_per_s: f64,
    /// Milliseconds to the first token.
    pub first_token_ms: u64,
    /// Milliseconds to load it, when it is not.
    pub load_ms: u64,
    /// Tokens of prompt and answer together.
    pub context_tokens: u32,
    /// Tokens of an answer that nobody limits.
    pub answer_tokens: u32,
    /// Tokens it thinks before, where the API shows them.
    pub reasoning_tokens: u32,
    /// Whether it calls tools.
    pub tools: bool,
    /// Whether it sees images.
    pub vision: bool,
    /// Whether it makes vectors, and then nothing else.
    pub embeds: bool,
    /// Numbers of a vector.
    pub dimensions: u32,
    /// Parameters, thousand millions.
    pub billions: f64,
    /// Bytes it takes when loaded.
    pub size_bytes: u64,
    /// Bytes of these on the GPU; fewer than `size_bytes`: the rest runs on the processor.
    pub vram_bytes: u64,
    /// Whether this server only passes it on to a cloud, as Ollama does with some.
    pub elsewhere: bool,
    /// Whether it tells how many tokens it used.
    pub usage: bool,
    /// What a trailing assistant message is to it; absent: as its provider has it.
    pub continues: Option<Continues>,
}

impl Default for ModelSettings {
    /// An ordinary small chat model that answers at once.
    fn default() -> Self {
        Self {
            name: "sim-8b".to_owned(),
            tokens_per_s: 0.0,
            first_token_ms: 0,
            load_ms: 0,
            context_tokens: 32_768,
            answer_tokens: 60,
            reasoning_tokens: 0,
            tools: true,
            vision: false,
            embeds: false,
            dimensions: 16,
            billions: 8.0,
            size_bytes: 5_200_000_000,
            vram_bytes: 5_200_000_000,
            elsewhere: false,
            usage: true,
            continues: None,
        }
    }
}

impl ModelSettings {
    /// An ordinary small chat model of this name that answers at once.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// Models out of a JSON list of settings; what is not said is as in [`ModelSettings::default`].
    ///
    /// # Errors
    /// When it is no such list, or two have one name.
    pub fn list_from_json(text: &str) -> Result<Vec<Self>, ModelsError> {
        let list: Vec<Self> = serde_json::from_str(text)?;
        for (index, model) in list.iter().enumerate() {
            if list[..index].iter().any(|other| other.name == model.name) {
                return Err(ModelsError::Twice { name: model.name.clone() });
            }
        }
        if list.is_empty() { Err(ModelsError::None) } else { Ok(list) }
    }

    /// A model that makes vectors.
    pub fn embedding(name: &str) -> Self {
        Self {
            embeds: true,
            tools: false,
            context_tokens: 8192,
            billions: 0.1,
            size_bytes: 300_000_000,
            vram_bytes: 300_000_000,
            ..Self::named(name)
        }
    }
}

/// Why a list of models is none.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// It is not one.
    #[error("the models are no JSON list of settings")]
    Json(#[from] serde_json::Error),
    /// Two have one name.
    #[error("two models are named `{name}`; give each its own name")]
    Twice {
        /// The name.
        name: String,
    },
    /// It is empty.
    #[error("the list of models is empty; name at least one")]
    None,
}

/// What a simulated model server is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// Where the control endpoint listens; loopback only.
    pub control_listen: SocketAddr,
    /// Whose rules hold below `/v1`. Other paths say themselves whose they are.
    pub provider: Provider,
    /// The only key that is taken; absent: any, or none.
    pub key: Option<Secret>,
    /// Its models.
    pub models: Vec<ModelSettings>,
    /// Requests it works on at a time; absent: any number.
    pub parallel: Option<usize>,
    /// Requests that may wait for that; more are told that it is overloaded.
    pub queue_max: usize,
}

impl Options {
    /// On loopback, any free ports, with these models.
    pub fn local(provider: Provider, models: Vec<ModelSettings>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { listen: any, control_listen: any, provider, key: None, models, parallel: None, queue_max: 512 }
    }

    /// A server at home: a small model, a large one that sees, one for vectors, as fast as real ones.
    pub fn demo() -> Self {
        let small = ModelSettings {
            tokens_per_s: 60.0,
            first_token_ms: 120,
            load_ms: 800,
            ..ModelSettings::default()
        };
        let large = ModelSettings {
            name: "sim-32b".to_owned(),
            tokens_per_s: 18.0,
            first_token_ms: 400,
            load_ms: 3000,
            vision: true,
            billions: 32.0,
            size_bytes: 22_000_000_000,
            vram_bytes: 22_000_000_000,
            ..ModelSettings::default()
        };
        Self::local(Provider::Ollama, vec![small, large, ModelSettings::embedding("sim-embed")])
    }
}
