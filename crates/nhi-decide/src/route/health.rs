//! What a backend's answers and failures mean for the next request: pauses it asked for, pauses after overload, and a
//! breaker for one that cannot be reached. It sends nothing.

use super::BackendSettings;
use crate::quota::{Per, Quota, What};
use jiff::SignedDuration;
use nhi_model::{Timestamp, ai::BackendKind};
use serde::{Deserialize, Serialize};
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
/// Weight of a new time to the first token in the mean.
const LATENCY_WEIGHT: f64 = 0.2;
/// Google's days end at midnight there.
const GOOGLE_ZONE: &str = "America/Los_Angeles";

/// What happened with a backend lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// Until when it asked for a pause, UTC.
    pub cooling_until: Option<Timestamp>,
    /// Why, one sentence.
    pub cooling_text: String,
    /// Limits per minute in a row.
    pub limited: u32,
    /// Overloads in a row.
    pub overloaded: u32,
    /// Failures to reach it, or to get a whole answer, in a row.
    pub failures: u32,
    /// How often the breaker opened in a row.
    pub opened: u32,
    /// Until when the breaker is open, UTC; after it one request may try.
    pub open_until: Option<Timestamp>,
    /// When that one began.
    pub probe_at: Option<Timestamp>,
    /// Until when its refusal of our key is believed, UTC.
    pub key_refused_until: Option<Timestamp>,
    /// Models it said it does not have, and until when that is believed.
    pub missing: BTreeMap<String, Timestamp>,
    /// Mean time to the first token, milliseconds.
    pub latency_ms: Option<f64>,
    /// What happened last, one sentence.
    pub last_text: String,
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
    /// It could not be reached, broke off, stalled, or sent what nobody understands.
    Failed {
        /// What, one sentence.
        text: String,
    },
    /// The request was at fault, or its caller went away: that says nothing about the backend.
    NotItsFault,
}

/// A request to it begins. Where the breaker was open, this is the one that tries.
pub fn begin(now: Timestamp, health: &mut Health) {
    if health.open_until.is_some() {
        health.probe_at = Some(now);
    }
}

/// What happened to a request counts for the next.
pub fn after(now: Timestamp, health: &mut Health, backend: &BackendSettings, happened: &Happened) {
    let name = &backend.name;
    match happened {
        Happened::Answered { first_token_ms } => answered(health, *first_token_ms),
        Happened::Limited { per: Some(Per::Day), retry_after } => {
            let reset = day_quota(backend).window(now).ends;
            let said = retry_after.and_then(|after| later(now, after)).unwrap_or(reset);
            // Answers that speak of a day often tell to try again in seconds: then it would be the same again.
            cool(health, reset.max(said), format!("{name} said that its limit of the day is reached"));
        }
        Happened::Limited { per: Some(Per::Minute) | None, retry_after } => {
            let pause = retry_after.unwrap_or_else(|| step(&MINUTE_S, health.limited));
            health.limited = health.limited.saturating_add(1);
            let until = later(now, pause.min(RETRY_AFTER_MAX)).unwrap_or(now);
            cool(health, until, format!("{name} said that it was asked too often"));
        }
        Happened::Overloaded { retry_after } => {
            let pause = step(&OVERLOAD_S, health.overloaded).max(retry_after.unwrap_or_default());
            health.overloaded = health.overloaded.saturating_add(1);
            let until = later(now, pause.min(RETRY_AFTER_MAX)).unwrap_or(now);
            cool(health, until, format!("{name} said that it has too much to do"));
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
        Happened::Failed { text } => failed(now, health, text),
        Happened::NotItsFault => health.probe_at = None,
    }
    if !matches!(happened, Happened::Failed { .. } | Happened::NotItsFault) {
        // Whoever answers at all can be reached.
        (health.failures, health.opened, health.open_until, health.probe_at) = (0, 0, None, None);
    }
}

fn answered(health: &mut Health, first_token_ms: u64) {
    (health.limited, health.overloaded) = (0, 0);
    (health.cooling_until, health.key_refused_until) = (None, None);
    health.cooling_text.clear();
    health.last_text.clear();
    // Beyond a day the figure is a broken clock's.
    let new = f64::from(u32::try_from(first_token_ms).unwrap_or(u32::MAX).min(86_400_000));
    health.latency_ms = Some(health.latency_ms.map_or(new, |mean| mean + LATENCY_WEIGHT * (new - mean)));
}

fn failed(now: Timestamp, health: &mut Health, text: &str) {
    text.clone_into(&mut health.last_text);
    health.failures = health.failures.saturating_add(1);
    let probe = health.probe_at.take().is_some();
    if probe || (health.failures >= FAILURES_MAX && health.open_until.is_none()) {
        let factor = 1_u32.checked_shl(health.opened).unwrap_or(u32::MAX);
        let open = OPEN_S.saturating_mul(factor).min(OPEN_S_MAX);
        health.opened = health.opened.saturating_add(1).min(16);
        health.open_until = later(now, seconds(open));
    }
}

/// A pause never ends earlier than one that was asked for before.
fn cool(health: &mut Health, until: Timestamp, text: String) {
    health.cooling_until = health.cooling_until.max(Some(until));
    health.last_text.clone_from(&text);
    health.cooling_text = text;
}

impl Health {
    /// Until when it wants to be left alone; `None`: it does not.
    pub fn cooling(&self, now: Timestamp) -> Option<Timestamp> {
        self.cooling_until.filter(|until| *until > now)
    }

    /// Until when the breaker lets nobody through: it is open, or the one request that tries has not ended.
    pub fn broken(&self, now: Timestamp) -> Option<Timestamp> {
        let open = self.open_until?;
        let probing = self.probe_at.and_then(|at| later(at, seconds(PROBE_S))).filter(|until| *until > now);
        if open > now { Some(open) } else { probing }
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

/// The quota whose day a limit of the day means: the configured one, else a day of the provider's usual zone.
fn day_quota(backend: &BackendSettings) -> Quota {
    backend.quotas.iter().find(|quota| quota.per == Per::Day).cloned().unwrap_or_else(|| Quota {
        zone: (backend.kind == BackendKind::Gemini).then(|| GOOGLE_ZONE.to_owned()),
        ..Quota::new(What::Requests, Per::Day, 0)
    })
}
