//! AI on the bus: who answers, what was asked for, what it cost. Conversations themselves are OpenAI's
//! `chat.completions` bodies and chunks and stay JSON, so that a field nobody here knows passes through.

mod usage;

pub use self::usage::{AiUsage, AiUsed, LATENCY_BOUNDS_MS, Latency, QuotaRow, UsageBy, UsageRow};

use crate::identity::IdentityName;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// The field in an answer, and in the first and last chunk of a stream, that says who answered and why: an
/// [`Origin`]. OpenAI's clients ignore fields they do not know.
pub const ORIGIN_FIELD: &str = "nhi";
/// The stream of ledger entries.
pub const LEDGER_STREAM: &str = "NHI_LEDGER";
/// Shared counters of quotas and totals.
pub const USAGE_BUCKET: &str = "nhi-usage";

/// A row of the bucket of shared counters, all of them written by the routers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UsageKey {
    /// `quota.<provider>`: what was taken of a backend's quotas.
    Quota(String),
    /// `pause.<provider>`: until when a backend is left alone, and why.
    Pause(String),
    /// `spent.<caller>`: what a caller has spent of its budget.
    Spent(String),
}

impl UsageKey {
    /// The row as a key of the bucket.
    pub fn text(&self) -> String {
        let (kind, id) = match self {
            Self::Quota(id) => ("quota", id),
            Self::Pause(id) => ("pause", id),
            Self::Spent(id) => ("spent", id),
        };
        format!("{kind}.{}", crate::key::encode(id))
    }

    /// Reads a key of the bucket.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, id) = text.split_once('.')?;
        let id = crate::key::decode(id)?;
        match kind {
            "quota" => Some(Self::Quota(id)),
            "pause" => Some(Self::Pause(id)),
            "spent" => Some(Self::Spent(id)),
            _ => None,
        }
    }
}

impl fmt::Display for UsageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// What a backend speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// Ollama's own API.
    Ollama,
    /// OpenAI's `chat.completions`: llama.cpp, vLLM, LM Studio, Groq, DashScope, DeepSeek, OpenRouter.
    Openai,
    /// Google's `generateContent`.
    Gemini,
    /// Anthropic's Messages.
    Anthropic,
}

impl BackendKind {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Ollama, Self::Openai, Self::Gemini, Self::Anthropic];

    /// The word in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ollama => "ollama",
            Self::Openai => "openai",
            Self::Gemini => "gemini",
            Self::Anthropic => "anthropic",
        }
    }
}

/// What can follow when a backend breaks off: whether another one of this sort can take up its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Continues {
    /// It goes on from a trailing assistant message.
    Prefill,
    /// It goes on when that message says `partial: true` (DashScope).
    Partial,
    /// It goes on with `continue_final_message` (vLLM).
    Final,
    /// It can only begin anew.
    Never,
}

/// How far from home a request may go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Privacy {
    /// Any backend.
    #[default]
    Any,
    /// Only backends that are said not to keep or train on what they are sent.
    NoTraining,
    /// Never leaves home: wait or refuse.
    Home,
}

/// Who goes first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Somebody waits between two key strokes.
    Autocomplete,
    /// Somebody waits.
    #[default]
    Chat,
    /// Nobody waits.
    Bulk,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Programming.
    Coding,
    /// Everything else.
    Simple,
}

/// The record `provider.<id>`. It never has a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Provider {
    /// What it speaks.
    pub kind: BackendKind,
    /// Where, without credentials.
    pub url: String,
    /// Whether it stands at home.
    pub home: bool,
    /// The machine whose semaphore governs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// Its models, as configured or as it tells.
    #[serde(default)]
    pub models: Vec<Model>,
}

/// A model of a backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Its name there.
    pub name: String,
    /// Tokens of prompt and answer together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_tokens: Option<u32>,
    /// Tokens of an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_max: Option<u32>,
    /// Whether it can call tools; absent: not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<bool>,
    /// Whether it sees images; absent: not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<bool>,
    /// Whether it makes embeddings, and then no answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embeds: bool,
    /// Parameters, thousand millions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billions: Option<f64>,
    /// What it costs; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// A model that a home server only passes on to a cloud (Ollama's own): it is never at home.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
}

/// A price, US dollars for a million tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Price {
    /// Of the prompt.
    pub input: f64,
    /// Of the answer.
    pub output: f64,
}

/// Who answered, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Origin {
    /// The backend.
    pub provider: String,
    /// The model there.
    pub model: String,
    /// Why this one, one sentence.
    pub reason: String,
    /// Those that failed before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Failed>,
    /// Where in the text another backend took over, characters from the start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seams: Vec<Seam>,
}

/// A backend that failed before or during an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failed {
    /// The backend.
    pub provider: String,
    /// The model there.
    pub model: String,
    /// What happened, one sentence.
    pub reason: String,
}

/// Where another backend took over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Seam {
    /// Characters of text before it.
    pub at: u64,
    /// Who goes on.
    pub provider: String,
    /// With which model.
    pub model: String,
}

/// Answer of `ai.models`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AiModels {
    /// What can be asked for.
    pub models: Vec<ModelRow>,
}

/// `ai.models`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AiModelsAsk {}

/// A model or an alias that can be asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ModelRow {
    /// What to write in `model`: an alias, a model's name, or `<provider>/<name>`.
    pub id: String,
    /// Who has it; several for an alias.
    pub providers: Vec<String>,
    /// Whether it is an alias.
    pub alias: bool,
    /// Whether somebody can answer now.
    pub available: bool,
    /// Why not, or who would; one sentence.
    pub text: String,
    /// What it can, for a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Model>,
}

/// Answer of `ai.route`: what would happen. The request is that of `ai.chat`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Routed {
    /// Those that would be tried, in this order.
    pub order: Vec<Choice>,
    /// Those that would not, each with the reason.
    pub lost: Vec<Lost>,
    /// What was made of the request, as words: `coding`, `tools`, `~1200 tokens`.
    pub read_as: Vec<String>,
    /// When it may be otherwise, UTC, where nobody can answer now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<Timestamp>,
}

/// A backend that would be tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Choice {
    /// The backend.
    pub provider: String,
    /// The model there.
    pub model: String,
    /// Why, one sentence.
    pub reason: String,
}

/// A backend that would not be tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// The backend.
    pub provider: String,
    /// The model there; empty where none of its models is what was asked for.
    pub model: String,
    /// Why.
    pub why: LostWhy,
    /// The same in one sentence.
    pub text: String,
    /// When that may be otherwise, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// Why a backend would not be tried, a stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LostWhy {
    /// It is not what was asked for.
    NotAsked,
    /// It cannot do what the request needs.
    Unable,
    /// The request does not fit into it.
    TooLong,
    /// The request may not go there.
    Private,
    /// A project or a caller may not use it.
    NotAllowed,
    /// The GPU is not free.
    GpuTaken,
    /// Nothing was heard of the GPU.
    GpuUnknown,
    /// Its quota is gone.
    Quota,
    /// It asked for a pause.
    Cooling,
    /// It failed too often a short while ago.
    Broken,
    /// The budget does not allow its price.
    Budget,
    /// No key is configured, or it was refused.
    NoKey,
    /// As many requests as may wait for it do.
    Full,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Answered.
    Done,
    /// The caller went away.
    Cancelled,
    /// Nobody could answer.
    Failed,
    /// Refused before anybody was asked.
    Refused,
}

/// One line of the ledger: no text of anybody's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerEntry {
    /// When it came in, UTC.
    pub at: Timestamp,
    /// The caller's idempotency id.
    pub id: String,
    /// Who asked.
    pub caller: IdentityName,
    /// For which project, when that was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// What was asked for.
    pub asked: String,
    /// What it was read as; absent in lines of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Intent>,
    /// Who answered last; absent when nobody was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// With which model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Tokens of the prompt, over all attempts.
    pub input_tokens: u64,
    /// Tokens of the answer, over all attempts.
    pub output_tokens: u64,
    /// Whether the tokens were counted by us, because the backend did not tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
    /// To the end, milliseconds.
    pub duration_ms: u64,
    /// To the first token, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token_ms: Option<u64>,
    /// US dollars.
    pub cost: f64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why this provider, or what went wrong; one sentence.
    pub reason: String,
    /// Backends that were asked.
    pub attempts: u32,
    /// How often another backend took over in the middle.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub seams: u32,
    /// Whether a model was asked what the request is about and said nothing of use, so that plain signs decided.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub judge_failed: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `ai.submit`: a request that can wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AiSubmit {
    /// A body of `ai.chat`, without `stream`.
    pub request: BTreeMap<String, Value>,
    /// Who goes first among those that wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<JobPriority>,
}

/// Who goes first among jobs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum JobPriority {
    /// First.
    High,
    /// Then.
    Medium,
    /// Last; after ten minutes it is taken as medium.
    #[default]
    Low,
}

/// A job's id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct JobId(pub String);

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Answer of `ai.submit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AiSubmitted {
    /// The job.
    pub job: JobId,
}

/// `ai.result`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AiResult {
    /// The job.
    pub job: JobId,
}

/// A job; the answer of `ai.result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Job {
    /// Its id.
    pub job: JobId,
    /// Who asked.
    pub by: IdentityName,
    /// When, UTC.
    pub at: Timestamp,
    /// Who goes first.
    pub priority: JobPriority,
    /// What was asked for.
    pub asked: String,
    /// How far it is.
    pub state: JobState,
}

/// How far a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum JobState {
    /// It waits.
    Waiting {
        /// For what, one sentence.
        text: String,
    },
    /// It is worked on.
    Running {
        /// Which try this is, from 1.
        attempt: u32,
    },
    /// It is answered; kept until then.
    Done {
        /// OpenAI's `chat.completion`.
        answer: BTreeMap<String, Value>,
        /// Until when it is kept, UTC.
        until: Timestamp,
    },
    /// It failed as often as it may.
    Dead {
        /// What went wrong last, one sentence.
        text: String,
    },
}

/// `ai.jobs`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AiJobs {}

/// Answer of `ai.jobs`: without their answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AiJobsListed {
    /// Those that wait or run, and the last that ended; newest first.
    pub jobs: Vec<Job>,
}
