//! How long a backend asks to be left alone: in a header, in details, or in its text. It does not judge whether that is
//! right.

use super::Told;
use crate::provider::Provider;
use jiff::{SignedDuration, fmt::rfc2822};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;
use std::time::Duration;

/// A pause longer than this is a mistake, or a date in another unit.
const PAUSE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reads it; `text` is the refusal's text in lower case.
pub(super) fn read(told: &Told<'_>, text: &str) -> Option<Duration> {
    let pause =
        header(told).or_else(|| retry_info(told.value)).or_else(|| reset(told)).or_else(|| said(text))?;
    (pause <= PAUSE_MAX).then_some(pause)
}

/// Names of the quotas that Gemini says are gone.
pub(super) fn quota_ids(value: Option<&Value>) -> Vec<&str> {
    let violations = details(value).filter_map(|detail| detail.get("violations")?.as_array()).flatten();
    violations.filter_map(|violation| violation.get("quotaId")?.as_str()).collect()
}

fn details(value: Option<&Value>) -> impl Iterator<Item = &Value> {
    let whole = value.map(|value| value.get(0).unwrap_or(value));
    whole.and_then(|whole| whole.pointer("/error/details")?.as_array()).into_iter().flatten()
}

fn text_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn header(told: &Told<'_>) -> Option<Duration> {
    if let Some(ms) = text_of(told.headers, "retry-after-ms").and_then(|text| text.trim().parse::<f64>().ok())
    {
        return Duration::try_from_secs_f64(ms / 1000.0).ok();
    }
    let text = text_of(told.headers, RETRY_AFTER.as_str())?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    let pause: SignedDuration = at.duration_since(told.now);
    Some(Duration::try_from(pause).unwrap_or(Duration::ZERO))
}

/// Gemini: `{"@type": "…RetryInfo", "retryDelay": "23s"}`.
fn retry_info(value: Option<&Value>) -> Option<Duration> {
    details(value).find_map(|detail| span(detail.get("retryDelay")?.as_str()?))
}

/// Groq: when what is gone comes back. OpenRouter: the moment, milliseconds since 1970, in the body.
fn reset(told: &Told<'_>) -> Option<Duration> {
    for what in ["requests", "tokens"] {
        let left = text_of(told.headers, &format!("x-ratelimit-remaining-{what}"));
        if left.is_some_and(|left| left.trim() == "0") {
            return span(text_of(told.headers, &format!("x-ratelimit-reset-{what}"))?);
        }
    }
    if told.provider != Provider::Openrouter {
        return None;
    }
    let at =
        told.value?.pointer("/error/metadata/headers/X-RateLimit-Reset")?.as_str()?.parse::<i64>().ok()?;
    let at = jiff::Timestamp::from_millisecond(at).ok()?;
    Duration::try_from(at.duration_since(told.now)).ok()
}

/// `Please try again in 7m12.5s.`
fn said(text: &str) -> Option<Duration> {
    let after =
        ["try again in ", "retry in ", "retry after "].iter().find_map(|words| text.split_once(words))?.1;
    span(after.split_whitespace().next()?.trim_end_matches(['.', ',', '"']))
}

/// `1h2m3.5s`, `250ms`, `23s`, `7.66s`
fn span(text: &str) -> Option<Duration> {
    let mut seconds = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.')?;
        let number = rest[..digits].parse::<f64>().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|char: char| !char.is_ascii_alphabetic()).unwrap_or(rest.len());
        seconds += number
            * match &rest[..letters] {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[letters..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}
