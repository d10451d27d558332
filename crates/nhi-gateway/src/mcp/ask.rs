//! Carries a call of a tool out: over the caller's own connection, with progress while it goes on, and cancelled when the
//! client says so. What fails is a result that says why and what to do; it decides nothing about rights.

use super::{
    groups::Way,
    plans, runs,
    schema::Object,
    tools::{ACTION, Member, Offer, TYPED},
};
use crate::connections::Caller;
use bytes::Bytes;
use nhi_bus::{
    call::{self, Call, CallError, Frame, FrameStream, Opened, Timeout},
    connect::Bus,
    trace::Trace,
};
use nhi_model::{
    fault::{Fault, FaultCode},
    header,
};
use rmcp::{
    RoleServer,
    model::{CallToolResult, ContentBlock, ProgressNotificationParam, ProgressToken, RequestMetaObject},
    service::{Peer, RequestContext},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{pin::pin, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Largest result, bytes of JSON: more fits into no model, and a page of the state is a tenth of it.
pub(crate) const RESULT_BYTES_MAX: usize = 400 * 1024;
/// Records of a page of the state when the caller sets no limit.
const RECORDS_DEFAULT: u32 = 100;
/// Frames of a stream that are kept.
const FRAMES_MAX: usize = 1_000;
/// What stands around the frames that are kept, bytes at most.
const AROUND_BYTES: usize = 1024;
/// How much of a frame is told as progress, characters.
const PROGRESS_CHARS_MAX: usize = 200;
/// How often progress is told at most.
const PROGRESS_PACE: Duration = Duration::from_millis(200);
/// How often a client hears of a call of which there is no news: it gives up after a minute of silence.
const PROGRESS_QUIET_MAX: Duration = Duration::from_secs(20);
/// How long frames are gathered.
const GATHERED_MAX: Duration = Duration::from_secs(600);

/// Whoever calls, with the connection of their own.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) bus: Bus,
    /// Kept, so that the connection is not given up while it is in use.
    pub(crate) _caller: Option<Arc<Caller>>,
    /// The trace that what is asked belongs to.
    pub(crate) trace: Option<Trace>,
}

impl Asker {
    /// Whoever sent this message: what its `_meta` says of a trace is nearer than what the request around it says.
    #[must_use]
    pub(crate) fn of(mut self, meta: &RequestMetaObject) -> Self {
        let told = meta.get(header::TRACEPARENT).and_then(Value::as_str);
        self.trace = told.and_then(Trace::parse).or(self.trace);
        self
    }

    /// Calls an endpoint and reads its answer.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &self,
        service: &str,
        endpoint: &str,
        request: &Value,
    ) -> Result<A, Fault> {
        let answer = self.ask_raw(service, endpoint, request).await?;
        read(service, endpoint, &answer)
    }

    pub(crate) async fn ask_raw(
        &self,
        service: &str,
        endpoint: &str,
        request: &Value,
    ) -> Result<Bytes, Fault> {
        let call = self.call(service, endpoint, request)?;
        call.send(&self.bus).await.map_err(|error| error.to_fault())
    }

    fn call(&self, service: &str, endpoint: &str, request: &Value) -> Result<Call, Fault> {
        let call = Call::new(&self.bus, service, endpoint, request.to_string().into());
        let call = call.map_err(|error: CallError| error.to_fault())?.timeout(Timeout::LONGEST);
        Ok(match self.trace {
            Some(trace) => call.trace(trace),
            None => call,
        })
    }

    /// Calls an endpoint that may answer in frames. Dropping what it returns cancels the work.
    pub(crate) async fn open(
        &self,
        service: &str,
        endpoint: &str,
        request: &Value,
    ) -> Result<(Opened, FrameStream), Fault> {
        let call = self.call(service, endpoint, request)?;
        let mut frames = call::stream(&self.bus, call).await.map_err(|error| error.to_fault())?;
        let opened = frames.opened().await.map_err(|error| error.to_fault())?;
        Ok((opened, frames))
    }
}

/// What comes next.
pub(crate) enum Next {
    Frame(Bytes),
    End,
    /// Nothing came in time.
    Late,
}

/// The next frame, when one comes before `until`. While none comes, the client is told `said` again.
pub(crate) async fn next(
    frames: &mut FrameStream,
    until: Instant,
    progress: &mut Progress,
    said: &str,
) -> Result<Next, Fault> {
    match wait(frames.next(), until, progress, said).await {
        Some(Some(Ok(Frame::Part(payload) | Frame::Whole(payload)))) => Ok(Next::Frame(payload)),
        Some(Some(Err(error))) => Err(error.to_fault()),
        Some(None) => Ok(Next::End),
        None => Ok(Next::Late),
    }
}

/// What comes of the work, when it comes before `until`. While it does not, the client is told `said` again.
pub(crate) async fn wait<T>(
    work: impl Future<Output = T>,
    until: Instant,
    progress: &mut Progress,
    said: &str,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let wake = until.min(progress.quiet_until());
        match timeout_at(wake, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if Instant::now() >= until => return None,
            Err(_) => progress.tell_quiet(said).await,
        }
    }
}

/// When frames are gathered no longer.
pub(crate) fn gathered_until() -> Instant {
    Instant::now() + GATHERED_MAX
}

/// An endpoint's answer.
pub(crate) fn read<A: DeserializeOwned>(service: &str, endpoint: &str, answer: &[u8]) -> Result<A, Fault> {
    serde_json::from_slice(answer).map_err(|error| {
        let message = format!("the answer of {service}.{endpoint} cannot be read: {error}");
        Fault::new(FaultCode::Internal, message, "are both sides of the same version?")
    })
}

/// Tells the client how far a call is, when it wants to know.
#[derive(Debug)]
pub(crate) struct Progress {
    peer: Peer<RoleServer>,
    token: Option<ProgressToken>,
    count: f64,
    begun: Instant,
    told: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(context: &RequestContext<RoleServer>) -> Self {
        let token = context.meta.get_progress_token();
        Self { peer: context.peer.clone(), token, count: 0.0, begun: Instant::now(), told: None }
    }

    pub(crate) const fn is_wanted(&self) -> bool {
        self.token.is_some()
    }

    /// Tells it, unless it was told a moment ago and more is to come.
    pub(crate) async fn tell_some(&mut self, text: &str) {
        self.count += 1.0;
        if self.told.is_none_or(|told| told.elapsed() >= PROGRESS_PACE) {
            self.send(text).await;
        }
    }

    pub(crate) async fn tell(&mut self, text: &str) {
        self.count += 1.0;
        self.send(text).await;
    }

    /// Tells it, when it has heard of nothing for so long that it would soon give up.
    pub(crate) async fn tell_quiet(&mut self, text: &str) {
        if Instant::now() >= self.quiet_until() {
            self.tell(text).await;
        }
    }

    /// Until when it may hear of nothing, counted over all that one call waits for.
    fn quiet_until(&self) -> Instant {
        self.told.unwrap_or(self.begun) + PROGRESS_QUIET_MAX
    }

    async fn send(&mut self, text: &str) {
        // Also for one that hears nothing: what waits until it is quiet again would not wait at all.
        self.told = Some(Instant::now());
        let Some(token) = self.token.clone() else { return };
        let text: String = text.chars().take(PROGRESS_CHARS_MAX).collect();
        let note = ProgressNotificationParam::new(token, self.count).with_message(text);
        // A client that is gone wants no progress; the call itself hears of it by its token.
        let _gone = self.peer.notify_progress(note).await;
    }
}

/// Carries it out. Dropped when the client cancels, and with it what it asked for.
pub(crate) async fn run(
    asker: &Asker,
    offer: &Offer,
    arguments: Object,
    context: &RequestContext<RoleServer>,
) -> CallToolResult {
    let mut progress = Progress::new(context);
    let work = carry_out(asker, offer, arguments, &mut progress);
    tokio::select! {
        result = work => result.unwrap_or_else(|fault| failed(&fault)),
        () = context.ct.cancelled() => {
            failed(&Fault::new(FaultCode::Unavailable, "the call was cancelled", "what was begun elsewhere goes on"))
        }
    }
}

async fn carry_out(
    asker: &Asker,
    offer: &Offer,
    mut arguments: Object,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    let member = meant(offer, &mut arguments)?;
    let is_waited_for = match offer.way {
        Way::Apply => taken_bool(&mut arguments, "wait")?.unwrap_or(true),
        Way::Plain | Way::State | Way::Plan | Way::Follow | Way::Chat => true,
    };
    if offer.way == Way::State {
        arguments.entry("limit").or_insert_with(|| RECORDS_DEFAULT.into());
    }
    if offer.way == Way::Apply && arguments.contains_key(TYPED) {
        let message = format!("field `{TYPED}` is typed by a person, not through this tool");
        let hint =
            "leave it out; a person carries out what destroys, on the dashboard or with nhi plan apply";
        return Err(Fault::new(FaultCode::BadRequest, message, hint));
    }
    let request = match offer.wrapped {
        true => arguments.remove("body").ok_or_else(|| wrong("field `body` is missing", offer))?,
        false => Value::Object(arguments),
    };
    if let Some(fault) = member.wrong(&request) {
        return Err(wrong(&fault, offer));
    }
    match offer.way {
        Way::Plain if member.streams => frames(asker, member, &request, progress).await,
        Way::Plain => Ok(told_bytes(&asker.ask_raw(&member.service, &member.endpoint, &request).await?)),
        Way::State => {
            let mut answer: Value = asker.ask("state", "get", &request).await?;
            // Whose write it was is for the mesh itself.
            for record in answer
                .get_mut("records")
                .and_then(Value::as_object_mut)
                .into_iter()
                .flat_map(Object::values_mut)
            {
                record.as_object_mut().and_then(|record| record.remove("op"));
            }
            Ok(told(answer))
        }
        Way::Plan => plans::tell(asker, &member.endpoint, &request).await,
        Way::Apply => runs::apply(asker, &request, is_waited_for, progress).await,
        Way::Follow => runs::follow(asker, &request, progress).await,
        Way::Chat => super::chat::converse(asker, request, progress).await,
    }
}

/// The endpoint the arguments mean.
fn meant<'o>(offer: &'o Offer, arguments: &mut Object) -> Result<&'o Member, Fault> {
    let first = offer.members.first().expect("an offer has a member");
    if !offer.chooses {
        return Ok(first);
    }
    let names: Vec<&str> = offer.members.iter().map(|member| member.endpoint.as_str()).collect();
    match arguments.remove(ACTION) {
        Some(Value::String(word)) => offer
            .members
            .iter()
            .find(|member| member.endpoint == word)
            .ok_or_else(|| wrong(&format!("field `{ACTION}` is none of {}", names.join(", ")), offer)),
        Some(_) => {
            Err(wrong(&format!("field `{ACTION}` is not a string; it is one of {}", names.join(", ")), offer))
        }
        None => Err(wrong(&format!("field `{ACTION}` is missing; it is one of {}", names.join(", ")), offer)),
    }
}

fn taken_bool(arguments: &mut Object, name: &str) -> Result<Option<bool>, Fault> {
    match arguments.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Bool(value)) => Ok(Some(value)),
        Some(_) => {
            let message = format!("field `{name}` is not a boolean");
            Err(Fault::new(FaultCode::BadRequest, message, "give true or false, or leave it out"))
        }
    }
}

fn wrong(what: &str, offer: &Offer) -> Fault {
    let hint = match &offer.members[..] {
        [one] => format!("resource nhi://schema/{}/{} has the whole schema", one.service, one.endpoint),
        _ => "tools/list has the schema".to_owned(),
    };
    Fault::new(FaultCode::BadRequest, format!("{}: {what}", offer.tool.name), hint)
}

/// All frames of an answer, each told as it comes.
async fn frames(
    asker: &Asker,
    member: &Member,
    request: &Value,
    progress: &mut Progress,
) -> Result<CallToolResult, Fault> {
    let (opened, mut stream) = asker.open(&member.service, &member.endpoint, request).await?;
    if let Opened::Whole(answer) = opened {
        return Ok(told_bytes(&answer));
    }
    let mut kept = Kept::default();
    let until = gathered_until();
    let is_cut = loop {
        let payload = match next(&mut stream, until, progress, "nothing new").await? {
            Next::Frame(payload) => payload,
            Next::End => break false,
            Next::Late => break true,
        };
        progress.tell_some(&String::from_utf8_lossy(&payload)).await;
        kept.take(&payload);
    };
    let mut answer = kept.told();
    if is_cut {
        answer["cut"] = format!("not over after {} s", GATHERED_MAX.as_secs()).into();
    }
    Ok(told(answer))
}

/// The first frames of an answer: as many as fit into a result.
#[derive(Debug, Default)]
struct Kept {
    frames: Vec<Value>,
    /// As they will be told, which is more than was sent where a character is told by its number.
    bytes: usize,
    dropped: usize,
}

impl Kept {
    fn take(&mut self, payload: &[u8]) {
        let fits = self.dropped == 0 && self.frames.len() < FRAMES_MAX;
        if fits && payload.len() < RESULT_BYTES_MAX {
            let text = || Value::from(String::from_utf8_lossy(payload));
            let frame = serde_json::from_slice(payload).unwrap_or_else(|_| text());
            let bytes = self.bytes + frame.to_string().len() + 1;
            if bytes + AROUND_BYTES <= RESULT_BYTES_MAX {
                self.bytes = bytes;
                self.frames.push(frame);
                return;
            }
        }
        self.dropped += 1;
    }

    fn told(self) -> Value {
        let mut answer = json!({ "frames": self.frames });
        if self.dropped > 0 {
            answer["dropped"] = self.dropped.into();
        }
        answer
    }
}

/// An answer as a result.
pub(crate) fn told(answer: Value) -> CallToolResult {
    let text = answer.to_string();
    if text.len() > RESULT_BYTES_MAX {
        return failed(&too_large(text.len()));
    }
    match answer {
        Value::Object(_) => CallToolResult::structured(answer),
        _ => CallToolResult::success(vec![ContentBlock::text(text)]),
    }
}

fn told_bytes(answer: &[u8]) -> CallToolResult {
    if answer.len() > RESULT_BYTES_MAX {
        return failed(&too_large(answer.len()));
    }
    match serde_json::from_slice(answer) {
        Ok(value) => told(value),
        Err(_) => CallToolResult::success(vec![ContentBlock::text(String::from_utf8_lossy(answer))]),
    }
}

pub(crate) fn too_large(bytes: usize) -> Fault {
    let message = format!("the answer has {bytes} bytes, at most {RESULT_BYTES_MAX} are told");
    Fault::new(FaultCode::TooLarge, message, "narrow the question: select less, or set a lower limit")
}

/// What went wrong, as the model reads it.
pub(crate) fn failed(fault: &Fault) -> CallToolResult {
    let mut text = format!("{} [{}]", fault.message, fault.code);
    if !fault.hint.is_empty() {
        text.push_str(&format!("\nHint: {}", fault.hint));
    }
    if !fault.details.is_empty()
        && let Ok(details) = serde_json::to_string(&fault.details)
    {
        text.push_str(&format!("\nDetails: {details}"));
    }
    CallToolResult::error(vec![ContentBlock::text(text)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{StreamExt as _, channel::mpsc};
    use rmcp::{
        ServerHandler,
        model::{NumberOrString, ServerJsonRpcMessage},
        service::{RxJsonRpcMessage, serve_directly},
    };

    struct Silent;

    impl ServerHandler for Silent {}

    /// Until then, in time that passes by itself.
    async fn passed(then: Instant) {
        tokio::time::interval_at(then, GATHERED_MAX).tick().await;
    }

    /// What is told over two minutes in which each second something is asked that answers nothing at once.
    async fn told_of_nothing(token: Option<ProgressToken>) -> (usize, Option<Duration>) {
        let (sent, mut heard) = mpsc::unbounded::<ServerJsonRpcMessage>();
        let (_client, requests) = mpsc::unbounded::<RxJsonRpcMessage<RoleServer>>();
        let server = serve_directly::<RoleServer, _, _, _, _>(Silent, (sent, requests), None);
        let mut context = RequestContext::new(NumberOrString::Number(1), server.peer().clone());
        if let Some(token) = token {
            context.meta.set_progress_token(token);
        }
        let mut progress = Progress::new(&context);
        let begun = Instant::now();
        let (until, mut first) = (begun + GATHERED_MAX, None);
        for second in 1..=120 {
            let asked = wait(tokio::task::yield_now(), until, &mut progress, "running").await;
            assert_eq!(asked, Some(()));
            progress.tell_quiet("running").await;
            first = first.or_else(|| progress.told.map(|told| told - begun));
            passed(begun + Duration::from_secs(second)).await;
        }
        // The control: one long wait is as quiet as many short ones.
        let long = passed(Instant::now() + PROGRESS_QUIET_MAX * 2 + PROGRESS_PACE);
        assert_eq!(wait(long, until, &mut progress, "running").await, Some(()));
        server.cancel().await.unwrap();
        drop(context);
        drop(progress);
        let notes: Vec<_> = heard.by_ref().collect().await;
        (notes.len(), first)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_hears_within_20_seconds_however_short_each_wait_is() {
        let token = ProgressToken(NumberOrString::Number(7));
        let (notes, first) = told_of_nothing(Some(token)).await;
        assert_eq!((notes, first), (8, Some(PROGRESS_QUIET_MAX)), "each 20 s, and not at once");
        let (notes, _) = told_of_nothing(None).await;
        assert_eq!(notes, 0, "it asked for none");
    }

    #[test]
    fn as_many_frames_are_kept_as_fit_into_a_result() {
        // One byte each, and six when they are told.
        let long = "\u{1}".repeat(20 * 1024);
        let mut kept = Kept::default();
        for _ in 0..10 {
            kept.take(long.as_bytes());
        }
        assert_eq!((kept.frames.len(), kept.dropped), (3, 7));
        let result = told(kept.told());
        assert_eq!(result.is_error, Some(false), "too large, all of it would be thrown away");
        // The control: as many bytes that are told as they are have all a place.
        let mut kept = Kept::default();
        for _ in 0..10 {
            kept.take("a".repeat(20 * 1024).as_bytes());
        }
        assert_eq!((kept.frames.len(), kept.dropped), (10, 0));
        for _ in 0..RESULT_BYTES_MAX {
            kept.take(b"{\"cups\":1}");
        }
        let (frames, result) = (kept.frames.len(), told(kept.told()));
        assert_eq!((frames, result.is_error), (FRAMES_MAX, Some(false)));
    }
}
