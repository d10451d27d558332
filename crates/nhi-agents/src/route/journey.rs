//! One request on its way: who is asked next, what is taken from quotas for it, what a failure means, and when it is given
//! up. Deadline and budget are one for all attempts.

mod failure;
mod judge;

pub(super) use self::failure::reason;

use self::failure::{happened, nobody};
use super::{
    desk::{Desk, Present},
    gate::Place,
};
use crate::book::{Line, Note, Taken, caller_row, needs};
use nhi_bus::service::Caller;
use nhi_decide::{
    quota::{Gone, Meter},
    route::{
        Ask, CallerSettings, CallerWorld, Happened, Pick, Settings, World, decide, is_passing, with_until,
    },
    weave::{Json, Tokens, chars_of},
};
use nhi_llm::{Backend, Hints, Kind, LlmError, Reply, Span};
use nhi_model::{
    Timestamp,
    ai::{Failed, ORIGIN_FIELD, Origin, Outcome, UsageKey},
    fault::{Fault, FaultCode},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, timeout_at};

/// Left of the caller's time for the answer that says why nobody answered.
const MARGIN: Duration = Duration::from_millis(500);
/// Left at least after a wait for a place: in less nobody answers, and that would say nothing about the backend.
const LEFT_MIN: Duration = Duration::from_millis(500);

/// Why one is not asked after all.
#[derive(Debug)]
enum Passed {
    /// One sentence.
    Reason(String),
    /// A budget has too little for it.
    Budget(Gone),
    /// Others were faster at its quota.
    Quota(Gone),
}

/// One request.
#[derive(Debug)]
pub(super) struct Journey<'a> {
    pub(super) desk: &'a Desk,
    /// What holds for this request.
    pub(super) settings: Arc<Settings>,
    pub(super) ask: Ask,
    pub(super) body: Json,
    pub(super) note: Note,
    started: Instant,
    /// For all attempts.
    pub(super) deadline: Instant,
    /// For the first sign of an answer.
    patience: Instant,
    tried: BTreeSet<(String, String)>,
    /// Who was offered before anybody was tried.
    offered: BTreeSet<(String, String)>,
    pub(super) failed: Vec<(Failed, LlmError)>,
    /// Whether budgets were asked.
    is_paid: bool,
    /// What one of them has too little of.
    gone: Option<Gone>,
    /// Whether the caller has a sign of an answer: its own limit of time no longer counts.
    pub(super) is_open: bool,
    _present: Present<'a>,
}

/// Who is asked next, and whether somebody could be asked after that.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) pick: Pick,
    has_more: bool,
}

/// A backend that may be asked now: a place at it, and what was taken for it.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) backend: Backend,
    pub(super) taken: Taken,
    pub(super) place: Place,
}

impl<'a> Journey<'a> {
    /// Begins, unless the caller has used up what it may.
    pub(super) async fn begin(
        desk: &'a Desk,
        caller: &Caller,
        settings: Arc<Settings>,
        ask: Ask,
        body: Json,
    ) -> Result<Self, Fault> {
        let (at, started) = (Timestamp::now(), Instant::now());
        let mut note = Note::open(&desk.book, &caller.request_id, &ask, at);
        let present = match desk.enter(&ask) {
            Ok(present) => present,
            Err(fault) => {
                note.finish(Outcome::Refused, &fault.message, 0);
                return Err(fault);
            }
        };
        if let Some(quota) = desk.settings.caller(&ask.caller).and_then(CallerSettings::requests_quota) {
            let line = Line { name: quota.key(), quota, amount: 1 };
            let rows = vec![(caller_row(&ask.caller), vec![line])];
            if let Err(gone) = note.purse().cover(&desk.counts, rows, at).await {
                note.finish(Outcome::Refused, &gone.to_string(), 0);
                return Err(used_up(&gone));
            }
        }
        let guard = &settings.guard;
        let left = caller.expires.duration_since(at);
        let left = Duration::try_from(left).unwrap_or_default().saturating_sub(MARGIN);
        Ok(Self {
            desk,
            settings: settings.clone(),
            ask,
            body,
            note,
            started,
            deadline: started + Duration::from_secs(guard.deadline_s.into()),
            patience: started + left,
            tried: BTreeSet::new(),
            offered: BTreeSet::new(),
            failed: Vec::new(),
            is_paid: false,
            gone: None,
            is_open: false,
            _present: present,
        })
    }

    /// An answer in one piece.
    pub(super) async fn whole(mut self) -> Result<Json, Fault> {
        self.judge().await;
        loop {
            let next = match self.next(|_| true).await {
                Ok(next) => next,
                Err(fault) => return Err(self.give_up(fault)),
            };
            let Some(ready) = self.prepare(&next).await else { continue };
            let (limit, pick) = (self.fair_share(&next), next.pick);
            let Ready { backend, taken, place: _place } = ready;
            self.note.begin(&pick, self.ask.prompt_tokens, taken);
            let (began, request) = (Instant::now(), pick.request(&self.body));
            let hints = Hints { num_ctx: pick.num_ctx, ..Hints::default() };
            let asked = async {
                if self.ask.needs.embeds {
                    return backend.embed(request).await;
                }
                match backend.chat(request, &hints).await? {
                    Reply::Whole(answer) => Ok(answer),
                    Reply::Stream(_) => unreachable_stream(),
                }
            };
            match timeout_at(limit, asked).await {
                Ok(Ok(answer)) => return Ok(self.answered(&pick, began, answer)),
                Ok(Err(error)) => self.fell(&pick, error),
                Err(_) => self.fell(&pick, late("its answer did not come in time")),
            }
        }
    }

    fn answered(mut self, pick: &Pick, began: Instant, mut answer: Json) -> Json {
        let counted = answer.get("usage").and_then(Tokens::read);
        let chars = answer.get("choices").filter(|_| counted.is_none()).map_or(0, chars_of);
        self.note.progress(counted, chars);
        self.note.end(true);
        // Nobody knows when the first token of it was there.
        let first_token = self.desk.pool.latency(&pick.choice.provider).unwrap_or(began.elapsed() / 10);
        self.went_well(pick, first_token);
        answer.insert("model".to_owned(), Value::String(self.ask.asked.clone()));
        answer.insert(ORIGIN_FIELD.to_owned(), json!(self.origin(pick)));
        self.note.finish(Outcome::Done, &pick.choice.reason, 0);
        answer
    }

    /// Who answers, as it looks before the answer.
    pub(super) fn origin(&self, pick: &Pick) -> Origin {
        Origin {
            provider: pick.choice.provider.clone(),
            model: pick.choice.model.clone(),
            reason: pick.choice.reason.clone(),
            failed: self.failed.iter().map(|(failed, _)| failed.clone()).collect(),
            seams: Vec::new(),
        }
    }

    /// The next backend to ask. While those that could answer are taken for a short while, it waits.
    pub(super) async fn next(&mut self, fits: impl Fn(&Pick) -> bool) -> Result<Next, Fault> {
        let settings = self.settings.clone();
        let guard = &settings.guard;
        let wait_until = self.started + Duration::from_secs(guard.wait_s.into());
        let wait_until = wait_until.min(self.until());
        let (mut lights, mut counted) = (self.desk.pool.lights(), self.desk.counts.changed());
        loop {
            lights.mark_unchanged();
            counted.mark_unchanged();
            let now = Timestamp::now();
            let world = self.world(now);
            let decision = decide(now, &settings, &world, &self.ask);
            if self.desk.waker.wake(now, &self.ask, &decision.routed) {
                continue;
            }
            let mut found = decision.picks;
            if self.tried.is_empty() {
                self.offered = found.iter().map(key).collect();
            }
            // Another model of a backend that was asked already comes after those that were meant before it.
            let was_asked = |name: &String| self.tried.iter().any(|(tried, _)| tried == name);
            found.sort_by_key(|pick| was_asked(&pick.choice.provider) && !self.offered.contains(&key(pick)));
            let untried = |pick: &Pick| !self.tried.contains(&key(pick)) && fits(pick);
            let left = guard.attempts_max.saturating_sub(self.note.attempts());
            let is_over = left == 0 || Instant::now() >= self.until();
            let picks = found.into_iter().filter(untried);
            let mut picks = picks.filter_map(|pick| self.affordable(pick));
            if !is_over && let Some(pick) = picks.next() {
                return Ok(Next { pick, has_more: left > 1 && picks.next().is_some() });
            }
            drop(picks);
            if !self.tried.is_empty() || !decision.routed.order.is_empty() {
                let refused = self.gone.as_ref().filter(|_| self.note.attempts() == 0);
                return Err(refused.map_or_else(|| nobody(&self.failed), used_up));
            }
            let refusal = || self.desk.refusal(&settings, &world, &self.ask, &decision.routed);
            let again = wait_until.saturating_duration_since(Instant::now());
            if !is_passing(&decision.routed, now, again) {
                return Err(refusal());
            }
            let again_at = decision.routed.again_at.map_or(again, |at| {
                Duration::try_from(at.duration_since(now)).unwrap_or_default().min(again)
            });
            let pause = Instant::now() + again_at.max(Duration::from_millis(20));
            tokio::select! {
                _ = lights.changed() => {}
                _ = counted.changed() => {}
                () = tokio::time::sleep_until(pause) => {}
            }
            if Instant::now() >= wait_until {
                return Err(refusal());
            }
        }
    }

    /// When it has to be answered: while nothing was read, the caller's own limit counts too.
    fn until(&self) -> Instant {
        if self.is_open { self.deadline } else { self.deadline.min(self.patience) }
    }

    /// When an attempt is given up: where somebody could be asked after it, half of the time is left for that.
    pub(super) fn fair_share(&self, next: &Next) -> Instant {
        let (now, until) = (Instant::now(), self.until());
        if next.has_more { now + until.saturating_duration_since(now) / 2 } else { until }
    }

    /// When the first token of an attempt has to be there.
    pub(super) fn first_by(&self, next: &Next) -> Instant {
        let limit = Duration::from_secs(self.settings.guard.first_token_s.into());
        self.fair_share(next).min(Instant::now() + limit)
    }

    /// What is known now. This request is among what its caller has taken already; that must not count against itself.
    fn world(&self, now: Timestamp) -> World {
        let mut world = self.desk.world(now, &self.ask);
        world.caller.running = world.caller.running.saturating_sub(1);
        world.caller.requests = Meter::default();
        if self.is_paid {
            world.caller = CallerWorld { running: world.caller.running, ..CallerWorld::default() };
            (world.dollars_today, world.project_dollars_today) = (0.0, 0.0);
        }
        world
    }

    /// What the cap of one request allows of an attempt there, when it allows one.
    fn affordable(&self, pick: Pick) -> Option<Pick> {
        let Some(cap) = self.settings.budget.dollars_a_request else { return Some(pick) };
        let left = cap - self.note.cost();
        match self.ask.needs.embeds {
            _ if pick.dollars > left => None,
            true => Some(pick),
            false => Some(pick.within(left, self.ask.prompt_tokens)),
        }
    }

    /// A place at the backend, and its quotas; nothing when somebody else was faster or the way there is not known: then
    /// another one is asked.
    pub(super) async fn prepare(&mut self, next: &Next) -> Option<Ready> {
        let wait = Instant::now() + Duration::from_secs(self.settings.guard.wait_s.into());
        match self.take(&next.pick, wait.min(self.fair_share(next))).await {
            Ok(ready) => Some(ready),
            Err(passed) => {
                self.passed(&next.pick, passed);
                None
            }
        }
    }

    /// It is not asked after all.
    fn passed(&mut self, pick: &Pick, passed: Passed) {
        let after = |gone: &Gone| Duration::try_from(gone.until.duration_since(Timestamp::now())).ok();
        let (kind, message, retry_after) = match &passed {
            Passed::Reason(reason) => (Kind::Overloaded, reason.clone(), None),
            Passed::Budget(gone) => (Kind::Overloaded, gone.to_string(), None),
            Passed::Quota(gone) => (Kind::RateLimited(Span::Unknown), gone.to_string(), after(gone)),
        };
        if let Passed::Budget(gone) = passed {
            self.gone = Some(gone);
        }
        self.remember(pick, LlmError { kind, status: None, message, retry_after });
    }

    /// The same, and why not.
    async fn take(&mut self, pick: &Pick, wait: Instant) -> Result<Ready, Passed> {
        let desk = self.desk;
        let name = &pick.choice.provider;
        self.is_paid = true;
        // A later attempt comes on top of what those before it have used.
        let tokens = self.note.tokens().saturating_add(pick.tokens);
        let dollars = self.note.cost() + pick.dollars;
        let needs = needs(&self.settings, desk.settings.caller(&self.ask.caller), &self.ask, tokens, dollars);
        if let Err(gone) = self.note.purse().cover(&desk.counts, needs, Timestamp::now()).await {
            return Err(Passed::Budget(gone));
        }
        let no = |reason: String| Err(Passed::Reason(reason));
        let found = (desk.pool.backend(name), desk.pool.gate(name), desk.pool.configured(name));
        let (backend, gate, configured) = match found {
            (Ok(backend), Some(gate), Some(configured)) => (backend, gate, configured),
            (Err(reason), ..) => return no(reason),
            (Ok(_), ..) => return no(format!("{name} is not configured")),
        };
        let came = Instant::now();
        let place = timeout_at(wait, gate.enter(self.ask.priority)).await;
        let left = self.until().saturating_duration_since(Instant::now());
        let Some(place) = place.ok().filter(|_| left >= came.elapsed().min(LEFT_MIN)) else {
            return no(format!("{name} had no place for this request in time"));
        };
        let now = Timestamp::now();
        let lines = configured.quotas_of(&pick.choice.model).map(|quota| Line {
            name: quota.key(),
            amount: quota.amount(pick.tokens),
            quota: quota.clone(),
        });
        match desk.counts.take(UsageKey::Quota(name.clone()), lines.collect(), now).await {
            Ok(taken) => {
                desk.pool.begin(now, &pick.choice);
                Ok(Ready { backend, taken, place })
            }
            Err(gone) => Err(Passed::Quota(gone)),
        }
    }

    /// An attempt has failed: what it means for the backend, and what it took.
    pub(super) fn fell(&mut self, pick: &Pick, mut error: LlmError) {
        self.note.end(error.kind.was_sent());
        let kind = happened(pick, &error);
        tracing::debug!(
            agent = "route",
            backend = pick.choice.provider,
            model = pick.choice.model,
            err = error.kind.as_str(),
            "backend failed"
        );
        // Who hears of it is told how long it will be left alone, which may be longer than it says itself.
        error.retry_after = self.tell(pick, &kind).or(error.retry_after);
        self.remember(pick, error);
    }

    fn remember(&mut self, pick: &Pick, error: LlmError) {
        let (provider, model) = key(pick);
        self.tried.insert(key(pick));
        self.failed.push((Failed { provider, model, reason: error.message.clone() }, error));
    }

    /// An attempt has succeeded, and its first token came so soon.
    pub(super) fn went_well(&self, pick: &Pick, first_token: Duration) {
        let first_token_ms = u64::try_from(first_token.as_millis()).unwrap_or(u64::MAX);
        self.tell(pick, &Happened::Answered { first_token_ms });
        self.desk.pool.answered(&pick.choice.provider, self.ask.prefix);
    }

    /// Counts for the next request, here and, where the backend asked for a pause, at all routers; tells how long a pause.
    fn tell(&self, pick: &Pick, kind: &Happened) -> Option<Duration> {
        let (now, of) = (Timestamp::now(), &pick.choice);
        let pause = self.desk.pool.note(now, of, kind)?;
        let time = Duration::try_from(pause.until.duration_since(now)).ok();
        self.desk.book.pause(&of.provider, &of.model, pause);
        time
    }

    /// Nobody answers.
    pub(super) fn give_up(self, fault: Fault) -> Fault {
        let outcome = if self.note.attempts() == 0 { Outcome::Refused } else { Outcome::Failed };
        self.note.finish(outcome, &reason(&fault, &self.failed), 0);
        fault
    }
}

fn key(pick: &Pick) -> (String, String) {
    (pick.choice.provider.clone(), pick.choice.model.clone())
}

/// A limit of the caller's own.
fn used_up(gone: &Gone) -> Fault {
    let hint = "wait until then, or ask the owner for more";
    with_until(Fault::new(FaultCode::TooMany, gone.to_string(), hint), gone.until, Timestamp::now())
}

/// Our own limit of time.
pub(super) fn late(what: &str) -> LlmError {
    LlmError { kind: Kind::Timeout, status: None, message: what.to_owned(), retry_after: None }
}

fn unreachable_stream() -> Result<Json, LlmError> {
    let message = "it streams an answer that was asked for in one piece".to_owned();
    Err(LlmError { kind: Kind::Garbage, status: None, message, retry_after: None })
}
