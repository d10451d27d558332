//! Works on one request: decodes it, runs the handler within its time, and answers once, whatever happens.

use super::{
    flow::{STARVED_SECONDS_MAX, Wanted},
    frames::{Frames, Piece},
    reply::{Reply, internal, payload_bytes_max},
    request::{Caller, Request, expired},
    stats::Mishap,
};
use crate::{connect::Bus, cx::at_length};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use nhi_model::fault::{Fault, FaultCode};
use serde::{Serialize, de::DeserializeOwned};
use std::{panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// An open stream shows a sign of life this often: across accounts the reply subject dies after 120 s of silence.
const KEEPALIVE_SECONDS: u64 = 15;
/// Longest path to a mistake: one cut short still says where to look.
const PATH_CHARS_MAX: usize = 100;
/// Longest quote of a decoding error: it repeats what the caller sent.
const QUOTE_CHARS_MAX: usize = 300;

/// A handler without its types.
pub(super) type Handler = Arc<dyn Fn(Incoming) -> BoxFuture<'static, Result<Outcome, Fault>> + Send + Sync>;

pub(super) struct Incoming {
    pub(super) caller: Caller,
    pub(super) body: Bytes,
    pub(super) frames: Frames,
}

pub(super) enum Outcome {
    Whole(Bytes),
    Done,
}

/// Runs the handler and answers. Returns what went wrong, for the statistics.
pub(super) async fn work(
    handler: &Handler,
    bus: &Bus,
    request: Request,
    abandon: &CancellationToken,
) -> Option<Mishap> {
    let Request { caller, deadline, reply, body, wanted } = request;
    let wanted = wanted.as_ref();
    let mut reply = Reply::new(bus.clone(), reply).heard(wanted.is_some_and(|wanted| wanted.is_heard));
    if deadline <= Instant::now() {
        return reply.fault(expired(&caller, Timestamp::now())).await;
    }
    let (frames, mut pieces) = Frames::new(payload_bytes_max(bus));
    let late = too_late(&caller);
    let incoming = Incoming { caller, body, frames };
    let mut running = pin!(AssertUnwindSafe(async { handler(incoming).await }).catch_unwind());
    let period = Duration::from_secs(KEEPALIVE_SECONDS);
    let mut quiet = interval_at(Instant::now() + period, period);
    quiet.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut starved = pin!(Wanted::starved(wanted));
    let outcome = loop {
        let may_send = Wanted::may_send(wanted);
        let sent = tokio::select! {
            outcome = &mut running => break outcome.unwrap_or_else(|_| Err(internal())),
            Some(piece) = pieces.recv(), if may_send => {
                quiet.reset();
                Wanted::spend(wanted, piece.bytes());
                push(&mut reply, piece).await
            }
            () = Wanted::credited(wanted), if !may_send => Ok(()),
            _ = quiet.tick(), if reply.is_stream() => reply.keep_alive().await,
            () = sleep_until(deadline), if !reply.is_stream() => break Err(late),
            () = Wanted::no_longer(wanted) => break Err(unwanted()),
            () = &mut starved => break Err(unread()),
            () = abandon.cancelled() => break Err(stopping()),
        };
        if let Err(error) = sent {
            // Nobody reads on; the handler is dropped with its work.
            tracing::debug!(err = %error, "stream cut");
            break Err(stopping());
        }
    };
    answer(reply, pieces, outcome).await
}

/// Sends the frames the handler left behind, and the terminal answer.
async fn answer(
    mut reply: Reply,
    mut pieces: mpsc::Receiver<Piece>,
    outcome: Result<Outcome, Fault>,
) -> Option<Mishap> {
    while let Ok(piece) = pieces.try_recv() {
        if push(&mut reply, piece).await.is_err() {
            break;
        }
    }
    match outcome {
        Ok(Outcome::Whole(body)) => reply.whole(body).await,
        Ok(Outcome::Done) => reply.done().await,
        Err(fault) => reply.fault(fault).await,
    }
}

async fn push(reply: &mut Reply, piece: Piece) -> Result<(), crate::connect::PublishError> {
    match piece {
        Piece::Open if reply.is_stream() => Ok(()),
        Piece::Open => reply.keep_alive().await,
        Piece::Payload(payload) => reply.push(payload).await,
    }
}

fn too_late(caller: &Caller) -> Fault {
    Fault::new(
        FaultCode::Timeout,
        format!("not done by {}, when the request expired", caller.expires),
        "look whether it happened in part before asking again with more time",
    )
}

fn unwanted() -> Fault {
    Fault::new(FaultCode::Timeout, "the caller has cancelled the request", "ask again when it is wanted")
}

fn unread() -> Fault {
    let message = format!("the caller has read nothing of the stream for {STARVED_SECONDS_MAX} s");
    Fault::new(FaultCode::Timeout, message, "read faster, or ask for less at a time")
}

fn stopping() -> Fault {
    Fault::new(FaultCode::Unavailable, "the service is stopping", "try again in a few seconds")
}

/// Reads a request; an empty payload counts as `{}`.
pub(super) fn decode<Req: DeserializeOwned>(body: &[u8], takes_object: bool) -> Result<Req, Fault> {
    at_length(body.len(), || decoded(body, takes_object))
}

fn decoded<Req: DeserializeOwned>(body: &[u8], takes_object: bool) -> Result<Req, Fault> {
    let text = if body.is_empty() { b"{}" } else { body };
    if takes_object && text.trim_ascii_start().starts_with(b"[") {
        return Err(bad_request("a list, expected an object"));
    }
    if let Ok(request) = serde_json::from_slice(text) {
        return Ok(request);
    }
    // Once more for the place of the mistake: to keep it in mind takes longer than to read.
    let mut json = serde_json::Deserializer::from_slice(text);
    let request = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path: String = error.path().to_string().chars().take(PATH_CHARS_MAX).collect();
        let inner = error.into_inner();
        // A syntax error has a line and a column, a wrong value has a path.
        match path.as_str() {
            "." | "?" | "" => bad_request(&inner.to_string()),
            path => bad_request(&format!("at {path}: {inner}")),
        }
    })?;
    json.end().map_err(|error| bad_request(&error.to_string()))?;
    Ok(request)
}

fn bad_request(reason: &str) -> Fault {
    let reason: String = reason.chars().filter(|c| !c.is_control()).take(QUOTE_CHARS_MAX).collect();
    let hint = "send JSON that fits request_schema in the endpoint's metadata";
    Fault::new(FaultCode::BadRequest, reason, hint)
}

pub(super) fn encode(answer: &impl Serialize) -> Result<Bytes, Fault> {
    serde_json::to_vec(answer).map(Bytes::from).map_err(|error| {
        tracing::error!(err = %error, "answer cannot be written as json");
        internal()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::call::StateGet;

    #[test]
    fn mistakes_are_named_by_their_place() {
        let check = |body: &str, expect: &str| {
            let fault = decode::<StateGet>(body.as_bytes(), true).unwrap_err();
            assert_eq!(fault.code, "bad-request");
            assert!(fault.message.contains(expect), "{body}: {}", fault.message);
        };
        check(r#"{"at":{"revision":"x"}}"#, "at at.revision: ");
        check(r#"{"select":["vm",7]}"#, "at select[1]: ");
        check(r#"{"colour":1}"#, "unknown field `colour`");
        check(r#"{"limit":"#, "line 1 column 9");
        check(r#"{} {}"#, "trailing characters");
        let deep = decode::<serde_json::Value>("[".repeat(10_000).as_bytes(), false).unwrap_err();
        assert!(deep.message.contains("recursion limit"), "{}", deep.message);
        assert_eq!(decode::<StateGet>(b"", true).unwrap(), StateGet::default());
        check(" []", "a list, expected an object");
        assert!(decode::<StateGet>(b"[]", false).is_ok(), "the control");
    }
}
