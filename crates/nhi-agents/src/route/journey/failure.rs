//! What a backend's failure means: for the backend, and for the caller when nobody is left. Pure.

use nhi_decide::{
    quota::Per,
    route::{Happened, Pick},
};
use nhi_llm::{Kind, LlmError, Span};
use nhi_model::{
    ai::Failed,
    fault::{Fault, FaultCode},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What counts for the next request.
pub(super) fn happened(pick: &Pick, error: &LlmError) -> Happened {
    let retry_after = error.retry_after;
    match error.kind {
        Kind::RateLimited(Span::Minute) => Happened::Limited { per: Some(Per::Minute), retry_after },
        Kind::RateLimited(Span::Day) => Happened::Limited { per: Some(Per::Day), retry_after },
        Kind::RateLimited(Span::Unknown) => Happened::Limited { per: None, retry_after },
        Kind::Overloaded => Happened::Overloaded { retry_after },
        Kind::KeyRefused => Happened::KeyRefused,
        Kind::NoModel => Happened::NoModel { model: pick.choice.model.clone() },
        // A machine's relay cuts when somebody begins to play; that is no fault of the backend's.
        Kind::Cut if pick.gpu.is_some() => Happened::NotItsFault,
        Kind::GpuTaken | Kind::TooLong | Kind::BadRequest | Kind::Unsupported => Happened::NotItsFault,
        Kind::Connect | Kind::ConnectTimeout => Happened::Unreachable { text: error.message.clone() },
        Kind::Timeout
        | Kind::Stalled
        | Kind::Server
        | Kind::Cut
        | Kind::Garbage
        | Kind::TooLarge
        | Kind::Redirected => Happened::Failed { text: error.message.clone() },
    }
}

/// Everybody who could be asked has failed.
pub(super) fn nobody(failed: &[(Failed, LlmError)]) -> Fault {
    let all = |is: fn(&Kind) -> bool| !failed.is_empty() && failed.iter().all(|(_, error)| is(&error.kind));
    let retry_after = failed.iter().filter_map(|(_, error)| error.retry_after).min();
    let (code, hint) = match () {
        () if all(|kind| *kind == Kind::TooLong) => (FaultCode::ContextTooLong, "shorten the conversation"),
        () if all(|kind| matches!(kind, Kind::BadRequest | Kind::Unsupported)) => {
            (FaultCode::BadRequest, "correct the request; the backends say what is wrong")
        }
        () if all(|kind| matches!(kind, Kind::RateLimited(_))) => {
            (FaultCode::TooMany, "wait, or configure another backend")
        }
        () if all(|kind| matches!(kind, Kind::ConnectTimeout | Kind::Timeout | Kind::Stalled)) => {
            (FaultCode::Timeout, "ask again with more time")
        }
        () => (FaultCode::Unavailable, "try again later; `nhi ai route` tells what would happen"),
    };
    let tell = |(of, error): &(Failed, LlmError)| error.plain(&format!("{}/{}", of.provider, of.model));
    let told: Vec<String> = failed.iter().map(tell).collect();
    let message = match told.as_slice() {
        [] => "nobody could be asked within the limits of the request".to_owned(),
        told => format!("nobody could answer: {}", told.join("; ")),
    };
    let mut fault = Fault::new(code, message, hint);
    if let Some(after) = retry_after {
        fault = fault.with("retry_after_s", after.as_secs().max(1));
    }
    let failed: Vec<&Failed> = failed.iter().map(|(failed, _)| failed).collect();
    fault.with("failed", json!(failed))
}

/// Why there is no answer, for the ledger: names and kinds alone, because a backend's words may repeat what it was asked.
pub(in crate::route) fn reason(fault: &Fault, failed: &[(Failed, LlmError)]) -> String {
    let failed = failed.iter().map(|(failed, error)| format!("{}: {}", failed.provider, error.kind));
    let lost = fault.details.get("lost").and_then(Value::as_array).into_iter().flatten();
    let lost = lost.filter_map(|lost| {
        let (provider, why) = (lost.get("provider")?.as_str()?, lost.get("why")?.as_str()?);
        Some(format!("{provider}: {why}"))
    });
    let told: BTreeSet<String> = failed.chain(lost).collect();
    std::iter::once(fault.code.clone()).chain(told).collect::<Vec<_>>().join("; ")
}
