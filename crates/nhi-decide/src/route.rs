//! Who answers a request, in which order, and why each other one does not. It asks nobody, counts nothing and knows no
//! key; who calls it says what the world is like.
//!
//! Invariants:
//! - a request that may not leave home never has a choice that is not at home, nor a model that a home server only
//!   passes on ([`Privacy::Home`]);
//! - each candidate is either in the order or lost, never both, and says why in one sentence;
//! - equal inputs give equal outputs.

mod candidate;
mod check;
mod fault;
pub mod fit;
pub mod health;
pub mod intent;
mod judge;
mod order;
mod project;
mod read;
mod refuse;
mod resume;
mod settings;
mod shipped;
mod tokens;
mod trial;
mod world;

use candidate::Candidate;
use nhi_model::{
    Timestamp,
    ai::{Choice, Continues, Lost, LostWhy, ORIGIN_FIELD, Price, Routed},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

pub use candidate::same;
pub use check::{Mistake, fingerprint, mistakes};
pub use fault::{is_passing, model_row, refused, told, with_until};
pub use health::{Breaker, Happened, Health, ModelHealth, after, begin};
pub use judge::{judge_request, judges};
pub use project::{of_manifest, strict_manifests};
pub use read::{Ask, BadRequest, Needs, read};
pub use refuse::{Refusal, RefusalKind, refusal};
pub use resume::{TakeUp, is_cold, left_tokens, resume, take_up};
pub use settings::{
    Alias, BackendSettings, BadSelector, Budget, CallerSettings, Guard, Judge, ModelSettings,
    ProjectSettings, Rules, Score, Selector, Settings,
};
pub use shipped::{aliases, backends};
pub use tokens::estimate;
pub use world::{BackendWorld, CallerWorld, Loaded, World};

/// A backend that would be tried, with what its caller must know.
#[derive(Clone, Debug, PartialEq)]
pub struct Pick {
    /// Who and why.
    pub choice: Choice,
    /// Whether it stands at home.
    pub home: bool,
    /// The machine whose semaphore governs it.
    pub gpu: Option<String>,
    /// The context to ask for, where the backend takes that: Ollama alone.
    pub num_ctx: Option<u32>,
    /// The limit to set for the answer, where the request says none or a larger one; see [`Pick::request`].
    pub answer_max: Option<u32>,
    /// Whether it goes on where another one broke off.
    pub continues: Continues,
    /// What it costs; absent: nothing.
    pub price: Option<Price>,
    /// What the request costs at most by what is known now, US dollars.
    pub dollars: f64,
    /// Tokens to reserve of its quotas.
    pub tokens: u64,
}

impl Pick {
    /// The same with an answer that costs no more than so many US dollars together with its prompt, however long it
    /// would become.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
    pub fn within(mut self, dollars: f64, prompt_tokens: u32) -> Self {
        if let Some(price) = self.price.filter(|price| price.output > 0.0) {
            let left = f64::from(prompt_tokens).mul_add(-price.input, dollars * 1e6);
            let most = (left / price.output).floor().clamp(1.0, f64::from(u32::MAX)) as u32;
            self.answer_max = Some(self.answer_max.map_or(most, |known| known.min(most)));
        }
        self
    }

    /// The request as this backend gets it: its own model's name, an answer it has room for, and nothing that was said to
    /// the router alone. All else is as it came.
    pub fn request(&self, body: &Map<String, Value>) -> Map<String, Value> {
        let mut out = body.clone();
        out.remove(ORIGIN_FIELD);
        out.insert("model".to_owned(), self.choice.model.clone().into());
        if let Some(most) = self.answer_max {
            let told = |field: &&str| body.get(*field).is_some_and(|value| !value.is_null());
            let fields: Vec<&str> = LIMIT_FIELDS.into_iter().filter(told).collect();
            for field in if fields.is_empty() { vec!["max_tokens"] } else { fields } {
                let said = body.get(field).and_then(Value::as_u64).unwrap_or(u64::MAX);
                out.insert(field.to_owned(), said.min(most.into()).into());
            }
        }
        out
    }
}

/// Where a request limits its answer; the newer name first.
const LIMIT_FIELDS: [&str; 2] = ["max_completion_tokens", "max_tokens"];

/// What would happen, and what is needed to let it happen.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// As `ai.route` tells it.
    pub routed: Routed,
    /// The same order with what is needed to ask.
    pub picks: Vec<Pick>,
}

/// What would happen, as `ai.route` tells it.
pub fn route(now: Timestamp, settings: &Settings, world: &World, ask: &Ask) -> Routed {
    decide(now, settings, world, ask).routed
}

/// Who is asked, in which order, and why nobody else.
pub fn decide(now: Timestamp, settings: &Settings, world: &World, ask: &Ask) -> Decision {
    let alias = ask.alias(settings);
    let selectors = alias
        .map(|alias| alias.order.as_slice())
        .filter(|order| !order.is_empty())
        .unwrap_or_else(|| settings.rules.order(ask.intent));
    among(now, settings, world, ask, alias.is_some(), selectors)
}

/// The same among those that selectors mean; of all models, or of those the request names.
fn among(
    now: Timestamp,
    settings: &Settings,
    world: &World,
    ask: &Ask,
    of_all: bool,
    selectors: &[Selector],
) -> Decision {
    let candidates = candidate::all(settings, world, ask, of_all);
    let mut lost: BTreeMap<usize, Lost> = BTreeMap::new();
    let mut open: Vec<(usize, trial::Passed<'_>)> = Vec::new();
    for (index, candidate) in candidates.iter().enumerate() {
        match trial::of(now, settings, world, ask, candidate) {
            Ok(passed) => open.push((index, passed)),
            Err(reason) => {
                lost.insert(index, reason);
            }
        }
    }
    let ordered = order::of(settings, ask, selectors, &open);
    let mut picks = Vec::new();
    for (place, reason) in &ordered {
        let (_, passed) = &open[*place];
        picks.push(passed.pick(reason.clone()));
    }
    for (place, (index, passed)) in open.iter().enumerate() {
        if !ordered.iter().any(|(chosen, _)| *chosen == place) {
            lost.insert(*index, passed_over(passed.candidate, &picks));
        }
    }
    let lost: Vec<Lost> = lost.into_values().collect();
    let again_at = if picks.is_empty() { lost.iter().filter_map(|lost| lost.until).min() } else { None };
    let order = picks.iter().map(|pick| pick.choice.clone()).collect();
    Decision { routed: Routed { order, lost, read_as: ask.words(), again_at }, picks }
}

/// A candidate that could answer and is not asked: its backend answers with another model, or the order leaves it out.
fn passed_over(candidate: &Candidate<'_>, picks: &[Pick]) -> Lost {
    let name = &candidate.backend.name;
    let text = match picks.iter().find(|pick| pick.choice.provider == *name) {
        Some(pick) => format!("{name} answers with {} instead", pick.choice.model),
        None => format!("{name} is not among those that were asked for"),
    };
    candidate.lost(LostWhy::NotAsked, text, None)
}
