//! The order of those that may and can: step by step as the rules say, in a step the best first. It refuses nobody.

use super::{
    Ask, Score, Selector, Settings,
    candidate::Candidate,
    trial::{self, Passed},
};
use nhi_model::{
    ai::{Intent, Priority},
    gpu::Light,
};
use std::{cmp::Ordering, collections::BTreeSet};

/// Added to a score for a model that is in memory: a swap takes 15 to 20 s.
const LOADED_BONUS: f64 = 0.1;
/// Added to a score where the conversation's beginning was answered lately.
const PREFIX_BONUS: f64 = 0.1;
/// Quality of whoever says nothing.
const QUALITY_DEFAULT: f64 = 5.0;
/// The speed term of a backend that was never asked: neither the fastest nor the slowest.
const LATENCY_UNKNOWN: f64 = 0.5;

/// One that passed, with what orders it.
struct Ranked<'p, 'w> {
    /// Its place among those that passed.
    place: usize,
    passed: &'p Passed<'w>,
    score: f64,
    slow: bool,
}

/// Places in `open`, each with the reason in one sentence.
pub(super) fn of(
    settings: &Settings,
    ask: &Ask,
    selectors: &[Selector],
    open: &[(usize, Passed<'_>)],
) -> Vec<(usize, String)> {
    let ranked: Vec<Ranked<'_, '_>> = open
        .iter()
        .enumerate()
        .map(|(place, (_, passed))| Ranked {
            place,
            passed,
            score: score(&settings.score, ask, passed),
            slow: is_slow(&settings.score, passed.candidate),
        })
        .collect();
    let mut taken: BTreeSet<&str> = BTreeSet::new();
    let mut exact: BTreeSet<usize> = BTreeSet::new();
    let mut out: Vec<(&Ranked<'_, '_>, String)> = Vec::new();
    for selector in selectors {
        for one in step(settings, selector, &ranked) {
            let name = one.passed.candidate.backend.name.as_str();
            let named = matches!(selector, Selector::Model(..));
            let new = if named { exact.insert(one.place) } else { !taken.contains(name) };
            if new && !out.iter().any(|(other, _)| other.place == one.place) {
                taken.insert(name);
                out.push((one, reason(ask, selector, one)));
            }
        }
    }
    // Nobody who waits for an answer waits for another one's, where somebody else is free.
    if !matches!(ask.priority, Priority::Bulk) {
        let (free, busy): (Vec<_>, Vec<_>) =
            out.into_iter().partition(|(one, _)| !one.passed.candidate.is_busy());
        let moved = !free.is_empty();
        out = free;
        out.extend(busy.into_iter().map(|(one, reason)| {
            let reason = if moved {
                format!("{reason}; it works on something else, so others go first")
            } else {
                reason
            };
            (one, reason)
        }));
    }
    out.into_iter().map(|(one, reason)| (one.place, reason)).collect()
}

/// Those a selector means, each backend with the best of its models, the best backend first.
fn step<'r, 'p, 'w>(
    settings: &Settings,
    selector: &Selector,
    ranked: &'r [Ranked<'p, 'w>],
) -> Vec<&'r Ranked<'p, 'w>> {
    let mut meant: Vec<&Ranked<'_, '_>> = ranked.iter().filter(|one| means(selector, one.passed)).collect();
    meant.sort_by(|one, other| model_order(one.passed.candidate, other.passed.candidate));
    let mut seen = BTreeSet::new();
    meant.retain(|one| seen.insert(one.passed.candidate.place.0));
    meant.sort_by(|one, other| backend_order(one, other));
    if *selector == Selector::Home {
        // A small model on a processor begins sooner than a large one on a GPU, and that is no merit.
        meant.sort_by_key(|one| (one.slow, one.passed.light.is_none()));
    }
    // Where nobody else is any good, what stands at home and is free goes first.
    let best =
        meant.iter().filter(|one| !free_at_home(one.passed)).map(|one| one.score).fold(f64::MIN, f64::max);
    if *selector == Selector::All && best < settings.score.low {
        meant.sort_by_key(|one| !free_at_home(one.passed));
    }
    meant
}

fn means(selector: &Selector, passed: &Passed<'_>) -> bool {
    let backend = passed.candidate.backend;
    match selector {
        Selector::All => true,
        Selector::Home => trial::is_home(passed.candidate),
        Selector::Cloud => !trial::is_home(passed.candidate),
        Selector::Gpu => backend.gpu.is_some() && trial::is_home(passed.candidate),
        Selector::Free => passed.dollars <= 0.0,
        Selector::Backend(name) => backend.name == *name,
        Selector::Model(name, model) => {
            backend.name == *name
                && super::candidate::same(backend.kind, passed.candidate.model_name(), model)
        }
    }
}

fn free_at_home(passed: &Passed<'_>) -> bool {
    passed.light == Some(Light::Green)
}

/// Among the models of one backend: one that is in memory, then the file's order, then the larger.
fn model_order(one: &Candidate<'_>, other: &Candidate<'_>) -> Ordering {
    let larger = |candidate: &Candidate<'_>| {
        // Without a list in the file the backend's own order says nothing.
        let billions = candidate
            .model
            .as_ref()
            .and_then(|model| model.billions.or_else(|| super::fit::billions_of(&model.name)));
        if candidate.settings.is_some() { 0.0 } else { -billions.unwrap_or(0.0) }
    };
    one.place
        .0
        .cmp(&other.place.0)
        .then_with(|| other.is_loaded().cmp(&one.is_loaded()))
        .then_with(|| larger(one).total_cmp(&larger(other)))
        .then_with(|| one.place.cmp(&other.place))
}

fn backend_order(one: &Ranked<'_, '_>, other: &Ranked<'_, '_>) -> Ordering {
    one.slow
        .cmp(&other.slow)
        // What will be gone before its reset is kept for those who have no other.
        .then_with(|| one.passed.runs_out.cmp(&other.passed.runs_out))
        .then_with(|| other.score.total_cmp(&one.score))
        .then_with(|| one.passed.dollars.total_cmp(&other.passed.dollars))
        .then_with(|| one.passed.candidate.place.cmp(&other.passed.candidate.place))
}

fn is_slow(score: &Score, candidate: &Candidate<'_>) -> bool {
    candidate.world.health.latency_ms.is_some_and(|latency_ms| latency_ms >= score.latency_ms_max)
}

/// Neural-Home v3's formula with its speed term bounded, less what the request costs, more for what is at hand.
pub(super) fn score(score: &Score, ask: &Ask, passed: &Passed<'_>) -> f64 {
    let Candidate { backend, world, settings, .. } = passed.candidate;
    let latency = world
        .health
        .latency_ms
        .map_or(LATENCY_UNKNOWN, |latency_ms| (1000.0 / latency_ms.max(1.0)).clamp(0.0, 1.0));
    let quality = settings.and_then(|model| model.quality).or(backend.quality).unwrap_or(QUALITY_DEFAULT);
    let costs =
        if score.price_dollars > 0.0 { (passed.dollars / score.price_dollars).clamp(0.0, 1.0) } else { 0.0 };
    let mut sum = score.quota * passed.quota_left.clamp(0.0, 1.0)
        + score.latency * latency
        + score.quality * quality.clamp(0.0, 10.0) / 10.0
        - score.price * costs;
    if passed.candidate.is_loaded() {
        sum += LOADED_BONUS;
    }
    if world.prefixes.contains(&ask.prefix) {
        sum += PREFIX_BONUS;
    }
    sum
}

fn reason(ask: &Ask, selector: &Selector, one: &Ranked<'_, '_>) -> String {
    let candidate = one.passed.candidate;
    let name = &candidate.backend.name;
    let about = match ask.intent {
        Intent::Coding => "coding",
        Intent::Simple => "simple questions",
    };
    let mut text = match selector {
        Selector::All if one.slow => format!("{name} is left, though slow"),
        Selector::All => format!("{name} has a score of {:.2} among those left", one.score),
        Selector::Home => format!("{name} stands at home"),
        Selector::Gpu => format!("{name} has a GPU at home"),
        Selector::Cloud => format!("{name} is a cloud"),
        Selector::Free => format!("{name} costs nothing"),
        Selector::Backend(_) | Selector::Model(..) => format!("the rule for {about} names {name}"),
    };
    if let Some(light) = one.passed.light {
        text.push_str(&format!(", its GPU is {light}"));
    }
    if candidate.is_loaded() {
        text.push_str(", the model is in memory");
    }
    if let Some(most) = one.passed.answer_max.filter(|_| ask.output_tokens.is_some()) {
        text.push_str(&format!(", its answers end at {most} tokens"));
    }
    if candidate.world.prefixes.contains(&ask.prefix) {
        text.push_str(", it answered this conversation before");
    }
    text
}
