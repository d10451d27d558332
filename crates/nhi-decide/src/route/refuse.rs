//! What a request is told when nobody can answer it. It makes no dialect's error.

use super::{Ask, Settings, World, shipped};
use nhi_model::{
    Timestamp,
    ai::{Lost, LostWhy, Routed},
};
use std::collections::BTreeSet;

/// Names that are offered for one that nobody has.
const NEAR_MAX: usize = 3;
/// How like a name must be to be offered, 0 to 1.
const NEAR: f64 = 0.7;

/// Why nobody answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Sort of it.
    pub kind: RefusalKind,
    /// One or two sentences: why, and what helps.
    pub text: String,
    /// When it may be otherwise, UTC.
    pub again_at: Option<Timestamp>,
}

/// Sorts of refusals, and what HTTP calls them; see [`RefusalKind::code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RefusalKind {
    /// 404: no model and no alias of this name.
    UnknownModel,
    /// 400: there is no backend at all, or none that can.
    Unable,
    /// 400: it fits nowhere. Not 413: dialects take that for the size of the body.
    TooLong,
    /// 403: those who could, may not.
    NotAllowed,
    /// 429: the caller's own limit, a quota or the budget.
    Limited,
    /// 503: those who could, cannot now.
    Unavailable,
}

/// Why the order is empty; `None` when it is not.
pub fn refusal(settings: &Settings, world: &World, ask: &Ask, routed: &Routed) -> Option<Refusal> {
    if !routed.order.is_empty() {
        return None;
    }
    let refusal = |kind, text| Some(Refusal { kind, text, again_at: routed.again_at });
    if settings.backends.is_empty() {
        let text = "no AI backend is configured: add [[ai.backend]] to nhi.toml, or a key to .env".to_owned();
        return refusal(RefusalKind::Unavailable, text);
    }
    let asked: Vec<&Lost> = routed.lost.iter().filter(|lost| lost.why != LostWhy::NotAsked).collect();
    if asked.is_empty() {
        if ask.alias(settings).is_some() {
            let text = format!("{:?} names backends that have no model now", ask.asked);
            return refusal(RefusalKind::Unavailable, text);
        }
        return refusal(RefusalKind::UnknownModel, unknown(settings, world, &ask.asked));
    }
    // What is nearest to an answer is told first.
    let kind = asked.iter().map(|lost| kind(lost)).max().unwrap_or(RefusalKind::Unavailable);
    let near = asked.iter().filter(|lost| self::kind(lost) == kind).map(|lost| lost.text.as_str());
    let texts: Vec<&str> = near.collect::<BTreeSet<_>>().into_iter().collect();
    let more = texts.len().saturating_sub(NEAR_MAX);
    let mut text = format!("nobody can answer: {}", texts[..texts.len() - more].join("; "));
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    refusal(kind, text)
}

fn kind(lost: &Lost) -> RefusalKind {
    match lost.why {
        LostWhy::NotAsked => RefusalKind::UnknownModel,
        LostWhy::Unable if lost.until.is_none() => RefusalKind::Unable,
        LostWhy::TooLong => RefusalKind::TooLong,
        LostWhy::Private => RefusalKind::NotAllowed,
        LostWhy::NotAllowed if lost.until.is_none() => RefusalKind::NotAllowed,
        LostWhy::NotAllowed | LostWhy::Quota | LostWhy::Budget => RefusalKind::Limited,
        LostWhy::Unable
        | LostWhy::NoKey
        | LostWhy::GpuTaken
        | LostWhy::GpuUnknown
        | LostWhy::Cooling
        | LostWhy::Broken
        | LostWhy::Full => RefusalKind::Unavailable,
    }
}

/// Says that nobody has it, and what is nearest.
fn unknown(settings: &Settings, world: &World, asked: &str) -> String {
    let mut names: BTreeSet<String> = shipped::aliases().into_keys().collect();
    names.extend(settings.aliases.keys().cloned());
    for backend in &settings.backends {
        names.extend(backend.models.iter().map(|model| model.name.clone()));
        let told = world.backends.get(&backend.name).into_iter().flat_map(|known| &known.models);
        if backend.models.is_empty() {
            names.extend(told.map(|model| model.name.clone()));
        }
    }
    let near = near(asked, names);
    let asked = crate::clean::text(asked, 200);
    if near.is_empty() {
        return format!("nobody has a model {asked:?}; \"auto\" asks whoever is best");
    }
    format!("nobody has a model {asked:?}; did you mean {}?", near.join(", "))
}

/// The names that are like the one that was asked for, the nearest first.
pub(super) fn near(asked: &str, names: impl IntoIterator<Item = String>) -> Vec<String> {
    let asked = asked.to_lowercase();
    let mut near: Vec<(f64, String)> = names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&asked, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .collect();
    near.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect()
}
