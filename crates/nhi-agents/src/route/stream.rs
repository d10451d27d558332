//! A streamed answer: from one backend, or from several one after the other when they break off.

use super::journey::{Journey, Next, Ready, late, reason};
use nhi_bus::service::{FrameError, Frames};
use nhi_decide::{
    route::{Pick, is_cold, left_tokens, resume, take_up},
    weave::{Diverged, Json, Tokens, Weave},
};
use nhi_llm::{Backend, Chunks, Hints, Kind, LlmError, Reply};
use nhi_model::{
    ai::{Failed, Outcome},
    fault::{Fault, FaultCode},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Why a backend's part of a stream ended early.
enum Trouble {
    /// The backend failed.
    Backend(LlmError),
    /// It goes on in other words than those that were read.
    Elsewhere,
    /// The caller cannot be reached.
    Caller(FrameError),
}

impl From<LlmError> for Trouble {
    fn from(error: LlmError) -> Self {
        Self::Backend(error)
    }
}

impl From<Diverged> for Trouble {
    fn from(_: Diverged) -> Self {
        Self::Elsewhere
    }
}

impl From<FrameError> for Trouble {
    fn from(error: FrameError) -> Self {
        Self::Caller(error)
    }
}

impl Journey<'_> {
    /// Streams the answer.
    ///
    /// # Errors
    /// A fault, told as one while nothing was read, and as the end of the stream afterwards.
    pub(super) async fn stream(mut self, frames: &Frames) -> Result<(), Fault> {
        let wants_usage = self.body.get("stream_options").and_then(|options| options.get("include_usage"));
        let wants_usage = wants_usage == Some(&Value::Bool(true));
        self.judge().await;
        let mut weave: Option<Weave> = None;
        // Who broke off last, and with which model.
        let mut before = String::new();
        loop {
            self.is_open |= weave.as_ref().is_some_and(Weave::is_open);
            if let Some(weave) = weave.as_mut().filter(|weave| weave.is_open() && self.is_at_limit(weave)) {
                return self.cut_by_limit(weave, frames).await;
            }
            let next = match self.taker(weave.as_ref()).await {
                Ok(next) => next,
                Err(fault) => return Err(self.broken(weave.as_ref(), fault)),
            };
            let pick = &next.pick;
            let Some(ready) = self.prepare(&next).await else { continue };
            let origin = self.origin(pick);
            let weave = weave.get_or_insert_with(|| Weave::new(&self.ask.asked, wants_usage, origin));
            match self.attempt(&next, ready, weave, &before, frames).await {
                Ok(()) => {
                    let (reason, seams) = (pick.choice.reason.clone(), weave.origin().seams.len());
                    self.note.finish(Outcome::Done, &reason, seams);
                    return Ok(());
                }
                Err(Trouble::Caller(error)) => {
                    let fault = Fault::new(FaultCode::TooLarge, error.to_string(), "ask for less at a time");
                    return Err(self.broken(Some(weave), fault));
                }
                Err(Trouble::Elsewhere) => {
                    let error = late("it goes on in other words than those that were read");
                    self.lost(pick, weave, LlmError { kind: Kind::Garbage, ..error });
                }
                Err(Trouble::Backend(error)) => self.lost(pick, weave, error),
            }
            before.clone_from(&pick.choice.model);
        }
    }

    /// Who can go on with what was read.
    async fn taker(&mut self, weave: Option<&Weave>) -> Result<Next, Fault> {
        let text = weave.map(Weave::text).unwrap_or_default();
        if text.is_empty() {
            return self.next(|_| weave.is_none_or(Weave::can_change)).await;
        }
        let body = self.body.clone();
        let fits = |pick: &Pick| resume(&body, text, pick.continues, 0).is_some();
        self.next(|pick| weave.is_none_or(Weave::can_change) && fits(pick)).await
    }

    /// Asks one backend; see [`take_up`] for how often.
    async fn attempt(
        &mut self,
        next: &Next,
        ready: Ready,
        weave: &mut Weave,
        before: &str,
        frames: &Frames,
    ) -> Result<(), Trouble> {
        let Ready { backend, taken, place: _place } = ready;
        let (pick, first_by) = (&next.pick, self.first_by(next));
        self.note.begin(pick, self.ask.prompt_tokens, taken);
        let is_same = before == pick.choice.model && is_cold(&self.body);
        let mut is_asked = false;
        for by_word in [true, false] {
            if by_word && !is_same {
                continue;
            }
            let request = pick.request(&self.body);
            let until = |byte| weave.tokens_until(byte);
            let plan = take_up(request, weave.text(), pick.continues, by_word, until);
            let Some(plan) = plan else { continue };
            if std::mem::replace(&mut is_asked, true) {
                self.note.again();
            }
            let choice = &pick.choice;
            weave.resume(&choice.provider, &choice.model, &choice.reason, &plan.repeats, plan.must);
            match self.run(pick, first_by, &backend, plan.request, weave, frames).await {
                Err(Trouble::Elsewhere) if by_word => weave.forget_seam(),
                Ok(first_token) => {
                    self.note.end(true);
                    self.went_well(pick, first_token);
                    return Ok(());
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Err(Trouble::Elsewhere)
    }

    /// Hands on what a backend says, and tells how soon its first token came.
    async fn run(
        &mut self,
        pick: &Pick,
        first_by: Instant,
        backend: &Backend,
        request: Json,
        weave: &mut Weave,
        frames: &Frames,
    ) -> Result<Duration, Trouble> {
        let began = Instant::now();
        let hints = Hints { num_ctx: pick.num_ctx, ..Hints::default() };
        let asked = timeout_at(first_by, backend.chat(request, &hints)).await;
        let Reply::Stream(mut chunks) = asked.map_err(|_| late("its first token did not come in time"))??
        else {
            return Err(late("it does not stream").into());
        };
        let mut first_token = None;
        loop {
            let until = if first_token.is_none() { first_by } else { self.deadline };
            let chunk = match self.chunk(&mut chunks, until).await {
                // The answer was whole; what came after it does not make it less.
                Err(_) if weave.is_finished() => break,
                other => other?,
            };
            let Some(chunk) = chunk else { break };
            let taken = weave.take(chunk);
            self.note.progress(weave.counted(), weave.chars());
            if first_token.is_none() && weave.chars() > 0 {
                first_token = Some(began.elapsed());
                self.note.first_token();
            }
            if weave.has_tools() && !weave.is_open() {
                // Putting a call together may take longer than the caller waits for a first frame.
                frames.open().await?;
                self.is_open = true;
            }
            for frame in taken? {
                frames.send_json(&frame).await?;
            }
        }
        for frame in weave.end() {
            frames.send_json(&frame).await?;
        }
        Ok(first_token.unwrap_or_else(|| began.elapsed()))
    }

    async fn chunk(&self, chunks: &mut Chunks, until: Instant) -> Result<Option<Json>, LlmError> {
        match timeout_at(until, chunks.next()).await {
            Ok(next) => next.transpose(),
            Err(_) => Err(late("it took longer than is allowed")),
        }
    }

    fn lost(&mut self, pick: &Pick, weave: &mut Weave, error: LlmError) {
        let (provider, model) = (pick.choice.provider.clone(), pick.choice.model.clone());
        let failed = Failed { provider, model, reason: error.message.clone() };
        let counted = weave.counted();
        let chars = weave.chars();
        self.note.progress(counted, chars);
        self.fell(pick, error);
        let input = if chars > 0 { self.ask.prompt_tokens.into() } else { 0 };
        weave.broke(failed, counted.unwrap_or(Tokens { input, output: chars.div_ceil(4) }));
    }

    /// Whether what was read has all the tokens it may have.
    fn is_at_limit(&self, weave: &Weave) -> bool {
        left_tokens(&self.body, weave.tokens_until(weave.text().len())) == Some(0)
    }

    async fn cut_by_limit(self, weave: &mut Weave, frames: &Frames) -> Result<(), Fault> {
        for frame in weave.end_by_limit() {
            if frames.send_json(&frame).await.is_err() {
                break;
            }
        }
        self.note.finish(Outcome::Done, "it was at its limit of tokens", weave.origin().seams.len());
        Ok(())
    }

    /// Nobody goes on.
    fn broken(self, weave: Option<&Weave>, fault: Fault) -> Fault {
        let Some(weave) = weave.filter(|weave| weave.is_open()) else { return self.give_up(fault) };
        let origin = weave.origin();
        let fault = fault.with("nhi", json!(origin)).with("characters", weave.text().chars().count() as u64);
        self.note.finish(Outcome::Failed, &reason(&fault, &self.failed), origin.seams.len());
        fault
    }
}
