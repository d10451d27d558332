//! `[ai]` of `nhi.toml`: backends, aliases, rules, limits and budgets. It holds no key: a backend names the variable
//! that does.

mod models;
mod selector;

use crate::{
    quota::{Per, Quota, What},
    semaphore::Wake,
};
use nhi_model::{
    ai::{BackendKind, Continues, Intent, Price, Priority, Privacy},
    identity::IdentityName,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

pub use models::ModelSettings;
pub use selector::{Alias, BadSelector, Selector};

/// `[ai]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `[[ai.backend]]`, in order of preference where nothing else decides.
    #[serde(rename = "backend")]
    pub backends: Vec<BackendSettings>,
    /// `[ai.alias.<name>]`, added to the shipped ones (`auto`, `coding`, `fast`, `local`, `private`), which they replace
    /// by name; a shipped one's privacy stays the least.
    #[serde(rename = "alias")]
    pub aliases: BTreeMap<String, Alias>,
    /// `[ai.rules]`: who is asked for what.
    pub rules: Rules,
    /// `[ai.caller.<identity>]`; `"*"` is for whoever has no table of their own.
    #[serde(rename = "caller")]
    pub callers: BTreeMap<String, CallerSettings>,
    /// `[ai.project.<id>]`
    #[serde(rename = "project")]
    pub projects: BTreeMap<String, ProjectSettings>,
    /// `[ai.budget]`: of everybody together.
    pub budget: Budget,
    /// `[ai.wake.<machine>]`: machines that may be woken for a request.
    pub wake: BTreeMap<String, Wake>,
    /// `[ai.score]`: what counts how much where no rule names a backend.
    pub score: Score,
    /// `[ai.guard]`: limits of one request.
    pub guard: Guard,
    /// `[ai.judge]`: a model that says what a request is about.
    pub judge: Judge,
}

impl Settings {
    /// What was configured for a caller.
    pub fn caller(&self, name: &IdentityName) -> Option<&CallerSettings> {
        self.callers.get(name.as_str()).or_else(|| self.callers.get("*"))
    }
}

/// `[[ai.backend]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSettings {
    /// Its name here: letters, digits, `-`, `_`, `.`
    pub name: String,
    /// What it speaks.
    pub kind: BackendKind,
    /// Where: `http://127.0.0.1:11434`, `https://api.groq.com/openai/v1`.
    pub url: String,
    /// Whether it stands at home, so that a request that may not leave home can go there.
    #[serde(default)]
    pub home: bool,
    /// The machine whose semaphore governs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<String>,
    /// The models that may be used, by name or as a table; empty: all it tells of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelSettings>,
    /// The environment variable that holds its key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// SHA-256 of its certificate, 64 hex digits; absent: the system's authorities decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Headers sent along, by name. Not for keys.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Fields of a request it takes; absent: those known for its kind and address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<BTreeSet<String>>,
    /// Its limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<Quota>,
    /// What it is said to do with what it is sent: `any`, or `no-training` where it neither keeps nor trains on it.
    #[serde(default)]
    pub privacy: Privacy,
    /// Whether it goes on where another one broke off; absent: what is known for its kind and address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continues>,
    /// What its models cost, where they say nothing themselves; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    /// How good its answers are, 0 to 10; absent: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<f64>,
    /// Requests it works on at once; absent: 1 at a GPU and for Ollama, else 16.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<u32>,
    /// Requests that may wait for it; absent: 8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_max: Option<u32>,
}

/// Requests that wait for a backend, where it says nothing.
const QUEUE_DEFAULT: u32 = 8;

impl BackendSettings {
    /// A backend of which nothing else is said.
    pub fn new(name: impl Into<String>, kind: BackendKind, url: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            kind,
            url: url.into(),
            home: false,
            gpu: None,
            models: Vec::new(),
            api_key_env: None,
            fingerprint: None,
            headers: BTreeMap::new(),
            fields: None,
            quotas: Vec::new(),
            privacy: Privacy::Any,
            continues: None,
            price: None,
            quality: None,
            parallel: None,
            queue_max: None,
        }
    }

    /// Requests it works on at once.
    pub fn parallel(&self) -> u32 {
        let alone = self.gpu.is_some() || self.kind == BackendKind::Ollama;
        self.parallel.unwrap_or(if alone { 1 } else { 16 }).max(1)
    }

    /// The quotas that a request to this model counts in.
    pub fn quotas_of(&self, model: &str) -> impl Iterator<Item = &Quota> {
        let is_it = move |only: &String| super::same(self.kind, only, model);
        self.quotas.iter().filter(move |quota| quota.model.as_ref().is_none_or(is_it))
    }

    /// Requests that may wait for it.
    pub fn queue_max(&self) -> u32 {
        self.queue_max.unwrap_or(QUEUE_DEFAULT)
    }
}

/// `[ai.rules]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Who is asked to program: those at home, then `qwen_cloud`, then the best of the others.
    pub coding: Vec<Selector>,
    /// Who is asked everything else: `groq`, then `gemini-flash`, then the best of the others.
    pub simple: Vec<Selector>,
    /// Models of fewer thousand million parameters than this may run on a yellow GPU: 8.
    pub small_billions: f64,
}

impl Default for Rules {
    fn default() -> Self {
        let named = |name: &str| Selector::Backend(name.to_owned());
        Self {
            coding: vec![Selector::Home, named("qwen_cloud"), Selector::All],
            simple: vec![named("groq"), named("gemini-flash"), Selector::All],
            small_billions: 8.0,
        }
    }
}

impl Rules {
    /// The order for what a request is about.
    pub fn order(&self, intent: Intent) -> &[Selector] {
        match intent {
            Intent::Coding => &self.coding,
            Intent::Simple => &self.simple,
        }
    }
}

/// `[ai.caller.<identity>]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CallerSettings {
    /// Requests in any sixty seconds; absent: no limit.
    pub requests_a_minute: Option<u64>,
    /// Requests at once; absent: no limit.
    pub parallel: Option<u32>,
    /// Tokens a day; absent: no limit.
    pub tokens_a_day: Option<u64>,
    /// US dollars a day; absent: no limit.
    pub dollars_a_day: Option<f64>,
    /// The backends it may use; empty: all.
    pub backends: BTreeSet<String>,
    /// How far its requests may go at most, whatever they say.
    pub privacy: Privacy,
    /// The best class it may claim; absent: any.
    pub priority: Option<Priority>,
}

impl CallerSettings {
    /// The limit of its requests, whose meter is [`super::CallerWorld::requests`].
    pub fn requests_quota(&self) -> Option<Quota> {
        self.requests_a_minute.map(|limit| Quota::new(What::Requests, Per::Minute, limit))
    }

    /// The limit of its tokens, whose meter is [`super::CallerWorld::tokens`].
    pub fn tokens_quota(&self) -> Option<Quota> {
        self.tokens_a_day.map(|limit| Quota::new(What::Tokens, Per::Day, limit))
    }
}

/// `[ai.project.<id>]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProjectSettings {
    /// The backends it may use; empty: all.
    pub backends: BTreeSet<String>,
    /// How far its requests may go at most, whatever they say.
    pub privacy: Privacy,
    /// US dollars a day; absent: no limit.
    pub dollars_a_day: Option<f64>,
}

/// `[ai.budget]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// US dollars a day of everybody together; absent: no limit.
    pub dollars_a_day: Option<f64>,
    /// US dollars of one request over all its attempts; absent: no limit.
    pub dollars_a_request: Option<f64>,
    /// An alert is raised when less than this share of a quota or a budget is left, percent: 10.
    pub alert_percent: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self { dollars_a_day: None, dollars_a_request: None, alert_percent: 10 }
    }
}

/// `[ai.score]`: the weights and bounds of Neural-Home v3.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Score {
    /// Of the share of the quota that is left: 0.5.
    pub quota: f64,
    /// Of speed, a second over the mean time to the first token, at most 1: 0.3.
    pub latency: f64,
    /// Of quality, tenths: 0.2.
    pub quality: f64,
    /// Taken off for a request that costs [`Self::price_dollars`] or more, less in proportion: 0.1.
    pub price: f64,
    /// See [`Self::price`]: 0.05.
    pub price_dollars: f64,
    /// A backend slower than this comes after all others, milliseconds: 5,000.
    pub latency_ms_max: f64,
    /// Where nobody has more than this, a free GPU at home goes first: 0.3.
    pub low: f64,
}

impl Default for Score {
    fn default() -> Self {
        Self {
            quota: 0.5,
            latency: 0.3,
            quality: 0.2,
            price: 0.1,
            price_dollars: 0.05,
            latency_ms_max: 5_000.0,
            low: 0.3,
        }
    }
}

/// `[ai.guard]`: limits of one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// From the request to the end of the answer, over all attempts, seconds: 600.
    pub deadline_s: u32,
    /// To the first token of one attempt, seconds: 40, as in v3.
    pub first_token_s: u32,
    /// Between two tokens, seconds: 20.
    pub stall_s: u32,
    /// Backends that are asked: 4.
    pub attempts_max: u32,
    /// How long a request waits for a backend that is taken, seconds: 30.
    pub wait_s: u32,
    /// Tokens of an answer that are reckoned with where a request does not say: 1,024.
    pub answer_tokens: u32,
    /// The alias for requests that name no model.
    pub default: String,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            deadline_s: 600,
            first_token_s: 40,
            stall_s: 20,
            attempts_max: 4,
            wait_s: 30,
            answer_tokens: 1_024,
            default: "auto".to_owned(),
        }
    }
}

/// `[ai.judge]`: a cheap model that says whether a request is about programming. Without one, and where it fails,
/// heuristics say so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Judge {
    /// Whom to ask, in this order: `<backend>/<model>`. Empty: nobody.
    pub models: Vec<Selector>,
    /// How long all of them together may take, milliseconds: 1,500. It comes on top of the time to the first token.
    pub deadline_ms: u32,
}

impl Default for Judge {
    fn default() -> Self {
        Self { models: Vec::new(), deadline_ms: 1_500 }
    }
}
