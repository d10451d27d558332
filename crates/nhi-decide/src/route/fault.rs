//! What a caller is told, in the words of the bus: of a request, of a model, of why nobody answers. It sends nothing.

use super::{Refusal, RefusalKind};
use nhi_model::{
    Timestamp,
    ai::{LostWhy, ModelRow, Routed},
    fault::{Fault, FaultCode},
};
use serde_json::json;
use std::time::Duration;

/// How long somebody is held for a breaker that is about to let one try: that one may fail, too.
const TRY_WAIT: Duration = Duration::from_secs(3);

/// Nobody was asked.
pub fn refused(refusal: Option<Refusal>, routed: &Routed, now: Timestamp) -> Fault {
    let Some(Refusal { kind, text, again_at }) = refusal else {
        return Fault::new(FaultCode::Unavailable, "nobody can answer now", "try again");
    };
    let mut fault = Fault::new(kind.code(), text, kind.hint());
    if let Some(at) = again_at {
        fault = with_until(fault, at, now);
    }
    fault.with("lost", json!(routed.lost))
}

/// When it may be asked again, also in seconds from now.
pub fn with_until(fault: Fault, until: Timestamp, now: Timestamp) -> Fault {
    let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    fault.with("until", until.to_string()).with("retry_after_s", wait.as_secs().saturating_add(1))
}

impl RefusalKind {
    /// The code on the bus; its number is HTTP's.
    pub const fn code(self) -> FaultCode {
        match self {
            Self::UnknownModel => FaultCode::UnknownModel,
            Self::Unable => FaultCode::BadRequest,
            Self::TooLong => FaultCode::ContextTooLong,
            Self::NotAllowed => FaultCode::Forbidden,
            Self::Limited => FaultCode::TooMany,
            Self::Unavailable => FaultCode::Unavailable,
        }
    }

    const fn hint(self) -> &'static str {
        match self {
            Self::UnknownModel => "`nhi ai models` lists what can be asked for",
            Self::Unable => "`nhi ai route` tells why nobody can",
            Self::TooLong => "shorten the conversation, or ask a model with more context",
            Self::NotAllowed => "the owner decides who may ask whom, in nhi.toml",
            Self::Limited => "wait until then",
            Self::Unavailable => "try again later",
        }
    }
}

/// Whether those that could answer may be free again in so short a time: a game may end, a minute's quota comes back.
/// A breaker that just opened is nothing to wait for: its end is no sign that anybody is well again.
pub fn is_passing(routed: &Routed, now: Timestamp, wait: Duration) -> bool {
    routed.lost.iter().any(|lost| {
        let within = |until: Timestamp, wait: Duration| {
            Duration::try_from(until.duration_since(now)).is_ok_and(|time| time <= wait)
        };
        let soon = |until| within(until, wait);
        match lost.why {
            LostWhy::GpuTaken | LostWhy::Full => lost.until.is_none_or(soon),
            LostWhy::Quota | LostWhy::Cooling => lost.until.is_some_and(soon),
            LostWhy::Broken => lost.until.is_some_and(|until| within(until, wait.min(TRY_WAIT))),
            // A machine that was just woken is up by then at the latest.
            LostWhy::GpuUnknown => lost.until.is_some(),
            LostWhy::NotAsked
            | LostWhy::Unable
            | LostWhy::TooLong
            | LostWhy::Private
            | LostWhy::NotAllowed
            | LostWhy::Budget
            | LostWhy::NoKey => false,
        }
    })
}

/// Who would answer, or the first reason why nobody would.
pub fn told(routed: &Routed) -> String {
    match (routed.order.first(), routed.lost.first()) {
        (Some(first), _) => format!("{}/{}: {}", first.provider, first.model, first.reason),
        (None, Some(lost)) => lost.text.clone(),
        (None, None) => "no AI backend is configured".to_owned(),
    }
}

/// A row of `ai.models` with what a short question to it would meet.
pub fn model_row(mut row: ModelRow, routed: Option<Routed>) -> ModelRow {
    row.available = routed.as_ref().is_some_and(|routed| !routed.order.is_empty());
    row.text = routed.as_ref().map(told).unwrap_or_default();
    if row.alias {
        let order = routed.map(|routed| routed.order).unwrap_or_default();
        row.providers = order.into_iter().map(|choice| choice.provider).collect();
    }
    row
}
