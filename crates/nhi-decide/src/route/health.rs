//! What a backend's answers and failures mean for the next request to it: pauses it asked for, pauses after overload, and
//! breakers for a model that fails and for a backend that cannot be reached. It sends nothing.
//!
//! Most providers limit each model by itself, and a home server may have one broken model among many: only a backend
//! that cannot be reached, or refuses our key, is left alone as a whole.

use super::BackendSettings;
use crate::quota::{Per, Quota, What};
use jiff::SignedDuration;
use nhi_model::{Timestamp, ai::BackendKind};
use std::{collections::BTreeMap, time::Duration};

/// Pauses after the first, second, … overload in a row, seconds: most clear within one or two minutes.
pub const OVERLOAD_S: [u32; 5] = [60, 120, 180, 300, 600];
/// Pauses after a limit per minute where the answer does not say how long, seconds.
pub const MINUTE_S: [u32; 4] = [60, 120, 300, 600];
/// The longest pause that is believed of an answer that speaks of minutes.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Failures in a row that open the breaker.
pub const FAILURES_MAX: u32 = 5;
/// How long it stays open the first time, doubled each time up to [`OPEN_S_MAX`], seconds.
pub const OPEN_S: u32 = 30;
/// See [`OPEN_S`].
pub const OPEN_S_MAX: u32 = 600;
/// How long a refused key or a missing model is believed, seconds: somebody may repair it without a restart here.
pub const REPAIR_S: u32 = 600;
/// A probe that never reported back is given up after this, seconds.
const PROBE_S: u32 = 60;
/// Models of one backend of which more is kept than holds now: a caller may make up names.
const MODELS_MAX: usize = 256;
/// Weight of a new time to the first token in the mean.
const LATENCY_WEIGHT: f64 = 0.2;
/// Google's days end at midnight there.
const GOOGLE_ZONE: &str = "America/Los_Angeles";

/// What happened with a backend lately. What it said of one model, or did with it, counts for that model alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// Until when all of it is to be left alone, UTC.
    pub cooling_until: Option<Timestamp>,
    /// Why, one sentence.
    pub cooling_text: String,
    /// Failures to reach it.
    pub breaker: Breaker,
    /// Until when its refusal of our key is believed, UTC.
    pub key_refused_until: Option<Timestamp>,
    /// Models it said it does not have, and until when that is believed.
    pub missing: BTreeMap<String, Timestamp>,
    /// Its models of which there is anything to say.
    pub models: BTreeMap<String, ModelHealth>,
    /// Mean time to the first token, milliseconds.
    pub latency_ms: Option<f64>,
    /// What happened last, one sentence.
    pub last_text: String,
}

/// What happened with one model of a backend lately.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelHealth {
    /// Until when the backend asked for a pause, UTC.
    pub cooling_until: Option<Timestamp>,
    /// Why, one sentence.
    pub cooling_text: String,
    /// Limits per minute in a row.
    pub limited: u32,
    /// Overloads in a row.
    pub overloaded: u32,
    /// Failures to get a whole answer.
    pub breaker: Breaker,
}

/// Failures in a row, and whom they keep out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    /// In a row.
    pub failures: u32,
    /// How often it opened in a row.
    pub opened: u32,
    /// Until when it is open, UTC; after it one request may try.
    pub open_until: Option<Timestamp>,
    /// When that one began.
    pub probe_at: Option<Timestamp>,
}

/// What happened with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It answered.
    Answered {
        /// To the first token, milliseconds.
        first_token_ms: u64,
    },
    /// It said that there were too many requests or tokens.
    Limited {
        /// Over which time; absent: it did not say.
        per: Option<Per>,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It has too much to do: a 503, or 529 of Anthropic's.
    Overloaded {
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It refused our key.
    KeyRefused,
    /// It does not have this model.
    NoModel {
        /// Its name.
        model: String,
    },
    /// It could not be reached: that says something about all of its models.
    Unreachable {
        /// What, one sentence.
        text: String,
    },
    /// It failed, broke off, stalled, or sent what nobody understands. Another of its models may be well.
    Failed {
        /// What, one sentence.
        text: String,
    },
    /// The request was at fault, or its caller went away: that says nothing about the backend.
    NotItsFault,
}

/// A request to one of its models begins. Where a breaker was open, this is the one that tries.
pub fn begin(now: Timestamp, health: &mut Health, model: &str) {
    let of_model = health.models.get_mut(model).map(|of| &mut of.breaker);
    for breaker in of_model.into_iter().chain([&mut health.breaker]) {
        if breaker.open_until.is_some() {
            breaker.probe_at = Some(now);
        }
    }
}

/// What happened to a request to one of its models counts for the next.
pub fn after(
    now: Timestamp,
    health: &mut Health,
    backend: &BackendSettings,
    model: &str,
    happened: &Happened,
) {
    let name = &backend.name;
    match happened {
        Happened::Answered { first_token_ms } => answered(health, model, *first_token_ms),
        Happened::Limited { per: Some(Per::Day), retry_after } => {
            let reset = day_quota(backend, model).window(now).ends;
            let said = retry_after.and_then(|after| later(now, after)).unwrap_or(reset);
            // Answers that speak of a day often tell to try again in seconds: then it would be the same again.
            let text = format!("{name} said that its limit of the day for {model} is reached");
            health.pause(model, reset.max(said), text);
        }
        Happened::Limited { per: Some(Per::Minute) | None, retry_after } => {
            let of = health.of(model);
            let pause = retry_after.unwrap_or_else(|| step(&MINUTE_S, of.limited));
            of.limited = of.limited.saturating_add(1);
            let until = later(now, pause.min(RETRY_AFTER_MAX)).unwrap_or(now);
            health.pause(model, until, format!("{name} said that {model} was asked too often"));
        }
        Happened::Overloaded { retry_after } => {
            let of = health.of(model);
            let pause = step(&OVERLOAD_S, of.overloaded).max(retry_after.unwrap_or_default());
            of.overloaded = of.overloaded.saturating_add(1);
            let until = later(now, pause.min(RETRY_AFTER_MAX)).unwrap_or(now);
            health.pause(model, until, format!("{name} said that {model} has too much to do"));
        }
        Happened::KeyRefused => {
            health.key_refused_until = later(now, seconds(REPAIR_S));
            health.last_text = format!("{name} refused our key");
        }
        Happened::NoModel { model } => {
            health.missing.retain(|_, until| *until > now);
            health.missing.extend(later(now, seconds(REPAIR_S)).map(|until| (model.clone(), until)));
            health.last_text = format!("{name} does not have {model}");
        }
        Happened::Unreachable { text } | Happened::Failed { text } => text.clone_into(&mut health.last_text),
        Happened::NotItsFault => {}
    }
    count(now, health, model, happened);
}

/// What it means for the breakers: of the backend, and of the model.
fn count(now: Timestamp, health: &mut Health, model: &str, happened: &Happened) {
    match happened {
        Happened::Unreachable { .. } => {
            health.breaker.failed(now);
            health.of(model).breaker.probe_at = None;
        }
        Happened::Failed { .. } => {
            health.breaker = Breaker::default();
            health.of(model).breaker.failed(now);
        }
        Happened::NotItsFault => {
            health.breaker.probe_at = None;
            health.of(model).breaker.probe_at = None;
        }
        Happened::Answered { .. }
        | Happened::Limited { .. }
        | Happened::Overloaded { .. }
        | Happened::KeyRefused
        | Happened::NoModel { .. } => {
            // Whoever answers at all can be reached.
            health.breaker = Breaker::default();
            health.of(model).breaker = Breaker::default();
        }
    }
    health.models.retain(|_, of| *of != ModelHealth::default());
    if health.models.len() > MODELS_MAX {
        health.models.retain(|name, of| name == model || of.is_held(now));
    }
}

fn answered(health: &mut Health, model: &str, first_token_ms: u64) {
    health.models.remove(model);
    (health.cooling_until, health.key_refused_until) = (None, None);
    health.cooling_text.clear();
    health.last_text.clear();
    // Beyond a day the figure is a broken clock's.
    let new = f64::from(u32::try_from(first_token_ms).unwrap_or(u32::MAX).min(86_400_000));
    health.latency_ms = Some(health.latency_ms.map_or(new, |mean| mean + LATENCY_WEIGHT * (new - mean)));
}

impl Breaker {
    fn failed(&mut self, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let probe = self.probe_at.take().is_some();
        if probe || (self.failures >= FAILURES_MAX && self.open_until.is_none()) {
            let factor = 1_u32.checked_shl(self.opened).unwrap_or(u32::MAX);
            let open = OPEN_S.saturating_mul(factor).min(OPEN_S_MAX);
            self.opened = self.opened.saturating_add(1).min(16);
            self.open_until = later(now, seconds(open));
        }
    }

    /// Until when it lets nobody through: it is open, or the one request that tries has not ended.
    pub fn broken(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.open_until?;
        let probing = self.probe_at.and_then(|at| later(at, seconds(PROBE_S))).filter(|until| *until > now);
        if open > now { Some(open) } else { probing }
    }
}

impl ModelHealth {
    fn is_held(&self, now: Timestamp) -> bool {
        self.cooling_until.is_some_and(|until| until > now) || self.breaker.broken(now).is_some()
    }
}

impl Health {
    fn of(&mut self, model: &str) -> &mut ModelHealth {
        self.models.entry(model.to_owned()).or_default()
    }

    /// One of its models is to be left alone. A pause never ends earlier than one that was asked for before.
    pub fn pause(&mut self, model: &str, until: Timestamp, text: String) {
        self.last_text.clone_from(&text);
        let of = self.of(model);
        of.cooling_until = of.cooling_until.max(Some(until));
        of.cooling_text = text;
    }

    /// Until when it wants this model to be left alone, and why; `None`: it does not.
    pub fn cooling(&self, model: &str, now: Timestamp) -> Option<(Timestamp, &str)> {
        let all = self.cooling_until.map(|until| (until, self.cooling_text.as_str()));
        let of = self.models.get(model);
        let of = of.and_then(|of| Some((of.cooling_until?, of.cooling_text.as_str())));
        all.into_iter().chain(of).filter(|(until, _)| *until > now).max_by_key(|(until, _)| *until)
    }

    /// Until when this model's breaker lets nobody through, and the failures in a row.
    pub fn failing(&self, model: &str, now: Timestamp) -> Option<(Timestamp, u32)> {
        let breaker = &self.models.get(model)?.breaker;
        Some((breaker.broken(now)?, breaker.failures))
    }

    /// Until when our key is taken for refused.
    pub fn key_refused(&self, now: Timestamp) -> Option<Timestamp> {
        self.key_refused_until.filter(|until| *until > now)
    }

    /// Until when it is taken not to have this model.
    pub fn lacks(&self, model: &str, now: Timestamp) -> Option<Timestamp> {
        self.missing.get(model).copied().filter(|until| *until > now)
    }
}

fn step(steps: &[u32], index: u32) -> Duration {
    let last = steps.len() - 1;
    seconds(steps[usize::try_from(index).map_or(last, |index| index.min(last))])
}

const fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds as u64)
}

fn later(now: Timestamp, pause: Duration) -> Option<Timestamp> {
    now.checked_add(SignedDuration::try_from(pause).ok()?).ok()
}

/// The quota whose day a limit of the day means: the one configured for the model, else a day of the provider's usual zone.
fn day_quota(backend: &BackendSettings, model: &str) -> Quota {
    backend.quotas_of(model).find(|quota| quota.per == Per::Day).cloned().unwrap_or_else(|| Quota {
        zone: (backend.kind == BackendKind::Gemini).then(|| GOOGLE_ZONE.to_owned()),
        ..Quota::new(What::Requests, Per::Day, 0)
    })
}
