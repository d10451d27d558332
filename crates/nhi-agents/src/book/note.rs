//! One request's line while it is worked on. However it ends, also when its caller goes and its work is dropped, the line is
//! closed once.

use super::{Book, Done, Taken, budget::Purse};
use nhi_decide::{
    route::{Ask, Pick},
    weave::Tokens,
};
use nhi_model::{
    Timestamp,
    ai::{LedgerEntry, Outcome, Price},
};
use tokio::time::Instant;

/// Tokens a price is for.
const PRICED: f64 = 1_000_000.0;

/// What was reserved, and what was really used.
#[derive(Debug)]
pub(crate) struct Settle {
    pub(super) taken: Taken,
    pub(super) requests: u64,
    pub(super) tokens: u64,
    pub(super) microdollars: u64,
}

/// The line.
#[derive(Debug)]
pub(crate) struct Note {
    book: Book,
    entry: Option<LedgerEntry>,
    started: Instant,
    /// Of budgets, for the whole request.
    purse: Purse,
    settles: Vec<Settle>,
    attempt: Option<Attempt>,
}

/// A backend that is asked now.
#[derive(Debug)]
struct Attempt {
    taken: Taken,
    price: Option<Price>,
    tokens: Tokens,
    is_counted: bool,
    prompt_tokens: u64,
    /// How often it was asked.
    calls: u64,
}

impl Note {
    pub(crate) fn open(book: &Book, id: &str, ask: &Ask, at: Timestamp) -> Self {
        let entry = LedgerEntry {
            at,
            id: id.to_owned(),
            caller: ask.caller.clone(),
            project: ask.project.clone(),
            asked: ask.asked.clone(),
            task: Some(ask.intent),
            provider: None,
            model: None,
            input_tokens: 0,
            output_tokens: 0,
            estimated: false,
            duration_ms: 0,
            first_token_ms: None,
            cost: 0.0,
            outcome: Outcome::Cancelled,
            reason: "the caller has gone".to_owned(),
            attempts: 0,
            seams: 0,
            judge_failed: false,
        };
        let (purse, settles) = (Purse::default(), Vec::new());
        let started = Instant::now();
        Self { book: book.clone(), entry: Some(entry), started, purse, settles, attempt: None }
    }

    /// What is taken of budgets.
    pub(crate) fn purse(&mut self) -> &mut Purse {
        &mut self.purse
    }

    /// A backend is asked.
    pub(crate) fn begin(&mut self, pick: &Pick, prompt_tokens: u32, taken: Taken) {
        self.end(true);
        let entry = self.entry();
        entry.provider = Some(pick.choice.provider.clone());
        entry.model = Some(pick.choice.model.clone());
        entry.attempts = entry.attempts.saturating_add(1);
        self.attempt = Some(Attempt {
            taken,
            price: pick.price,
            tokens: Tokens::default(),
            is_counted: false,
            prompt_tokens: prompt_tokens.into(),
            calls: 1,
        });
    }

    /// A backend is asked what the request is about: it answers nothing, and what it takes counts all the same.
    pub(crate) fn begin_judge(&mut self, pick: &Pick, taken: Taken) {
        self.end(true);
        let prompt_tokens = pick.tokens;
        let (price, tokens) = (pick.price, Tokens::default());
        self.attempt = Some(Attempt { taken, price, tokens, is_counted: false, prompt_tokens, calls: 1 });
    }

    /// Whether a judge said what the request is about; of several the last one counts.
    pub(crate) fn judged(&mut self, has: bool) {
        self.entry().judge_failed = !has;
    }

    /// The same backend is asked once more.
    pub(crate) fn again(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.calls = attempt.calls.saturating_add(1);
        }
    }

    /// What the backend has given by now: counted by itself, or characters by us.
    pub(crate) fn progress(&mut self, counted: Option<Tokens>, chars: u64) {
        let Some(attempt) = &mut self.attempt else { return };
        attempt.is_counted = counted.is_some();
        attempt.tokens = counted.unwrap_or_else(|| {
            let input = if chars > 0 { attempt.prompt_tokens } else { 0 };
            Tokens { input, output: chars.div_ceil(4) }
        });
    }

    /// The backend is done, well or not. Gives what it took. A request that never arrived counts as none; one that did
    /// has taken its prompt, also where nothing came back that counts.
    pub(crate) fn end(&mut self, has_arrived: bool) -> Tokens {
        let Some(Attempt { taken, price, tokens, is_counted, prompt_tokens, calls }) = self.attempt.take()
        else {
            return Tokens::default();
        };
        let requests = calls.saturating_sub(u64::from(!has_arrived));
        let uncounted = if tokens == Tokens::default() { requests } else { requests.saturating_sub(1) };
        let unseen = prompt_tokens.saturating_mul(uncounted);
        let cost = cost(price, tokens);
        let entry = self.entry();
        entry.input_tokens = entry.input_tokens.saturating_add(tokens.input);
        entry.output_tokens = entry.output_tokens.saturating_add(tokens.output);
        entry.estimated |= !is_counted && tokens != Tokens::default();
        entry.cost += cost;
        let tokens_sum = tokens.input.saturating_add(tokens.output).saturating_add(unseen);
        let microdollars = micro(cost);
        self.settles.push(Settle { taken, requests, tokens: tokens_sum, microdollars });
        tokens
    }

    /// US dollars so far.
    pub(crate) fn cost(&self) -> f64 {
        self.entry.as_ref().map_or(0.0, |entry| entry.cost)
    }

    /// Tokens so far.
    pub(crate) fn tokens(&self) -> u64 {
        self.entry.as_ref().map_or(0, |entry| entry.input_tokens.saturating_add(entry.output_tokens))
    }

    /// Backends asked so far.
    pub(crate) fn attempts(&self) -> u32 {
        self.entry.as_ref().map_or(0, |entry| entry.attempts)
    }

    /// The first token is there.
    pub(crate) fn first_token(&mut self) {
        let elapsed = millis(self.started);
        self.entry().first_token_ms.get_or_insert(elapsed);
    }

    /// It is over.
    pub(crate) fn finish(mut self, outcome: Outcome, reason: &str, seams: usize) {
        let entry = self.entry();
        entry.outcome = outcome;
        reason.clone_into(&mut entry.reason);
        entry.seams = u32::try_from(seams).unwrap_or(u32::MAX);
    }

    fn entry(&mut self) -> &mut LedgerEntry {
        self.entry.as_mut().expect("the line is taken only when it is dropped")
    }
}

impl Drop for Note {
    fn drop(&mut self) {
        self.end(true);
        let tokens = self.tokens();
        let Some(mut entry) = self.entry.take() else { return };
        entry.duration_ms = millis(self.started);
        let mut settles = std::mem::take(&mut self.settles);
        settles.extend(std::mem::take(&mut self.purse).settles(tokens, micro(entry.cost)));
        self.book.close(Done { entry, settles });
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "tokens of one request are far below 2^52")]
fn cost(price: Option<Price>, tokens: Tokens) -> f64 {
    price.map_or(0.0, |price| {
        (tokens.input as f64 * price.input + tokens.output as f64 * price.output) / PRICED
    })
}

/// Dollars as budgets count them: millionths, rounded up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
pub(crate) fn micro(dollars: f64) -> u64 {
    (dollars * 1e6).ceil().clamp(0.0, 1e15) as u64
}
