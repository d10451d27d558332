//! One candidate against one request: may it, can it, is it free. The first no is the one that is told.

use super::{Ask, Budget, CallerSettings, Pick, Settings, World, candidate::Candidate, fit};
use crate::quota::{Meter, Quota};
use nhi_model::{
    Timestamp,
    ai::{BackendKind, Choice, Continues, Lost, LostWhy, Model, Price, Privacy},
    gpu::Light,
};
use std::cmp::Ordering::{Equal, Less};

/// A candidate that may and can answer now.
#[derive(Debug)]
pub(super) struct Passed<'w> {
    pub(super) candidate: &'w Candidate<'w>,
    pub(super) light: Option<Light>,
    pub(super) dollars: f64,
    /// Left of the quota of which least is left, 0 to 1.
    pub(super) quota_left: f64,
    /// Whether one of them will be gone before its reset.
    pub(super) runs_out: bool,
    pub(super) answer_max: Option<u32>,
    num_ctx: Option<u32>,
    price: Option<Price>,
    tokens: u64,
}

impl Passed<'_> {
    pub(super) fn pick(&self, reason: String) -> Pick {
        let backend = self.candidate.backend;
        let choice =
            Choice { provider: backend.name.clone(), model: self.candidate.model_name().to_owned(), reason };
        Pick {
            choice,
            home: is_home(self.candidate),
            gpu: backend.gpu.clone(),
            num_ctx: self.num_ctx,
            answer_max: self.answer_max,
            continues: backend.continues.or(self.candidate.world.continues).unwrap_or(Continues::Never),
            price: self.price,
            dollars: self.dollars,
            tokens: self.tokens,
        }
    }
}

/// What is asked of a candidate.
struct Trial<'t, 'w> {
    now: Timestamp,
    settings: &'t Settings,
    world: &'t World,
    ask: &'t Ask,
    candidate: &'w Candidate<'w>,
    model: &'w Model,
}

type No = (LostWhy, String, Option<Timestamp>);

/// Passed, or why not.
pub(super) fn of<'w>(
    now: Timestamp,
    settings: &Settings,
    world: &World,
    ask: &Ask,
    candidate: &'w Candidate<'w>,
) -> Result<Passed<'w>, Lost> {
    let told = |(why, text, until): No| candidate.lost(why, text, until);
    let Some(model) = &candidate.model else {
        let text = if candidate.world.models.is_empty() && candidate.backend.models.is_empty() {
            format!("{} told of no model", candidate.backend.name)
        } else {
            format!("{} has no model {:?}", candidate.backend.name, ask.asked)
        };
        return Err(told((LostWhy::NotAsked, text, None)));
    };
    let trial = Trial { now, settings, world, ask, candidate, model };
    trial.run().map_err(told)
}

impl<'w> Trial<'_, 'w> {
    fn run(&self) -> Result<Passed<'w>, No> {
        self.private()?;
        self.allowed()?;
        self.caller()?;
        self.key()?;
        self.able()?;
        let num_ctx = self.fits().map_err(|error| (LostWhy::TooLong, error.to_string(), None))?;
        let light = self.light()?;
        let tokens = u64::from(self.ask.tokens(self.settings));
        let (quota_left, runs_out) = self.quotas(tokens)?;
        self.healthy()?;
        self.queue()?;
        let price = self.model.price.or(self.candidate.backend.price);
        let dollars = self.dollars(price);
        self.budget(dollars)?;
        let answer_max = self.answer_max(num_ctx);
        let candidate = self.candidate;
        Ok(Passed { candidate, light, dollars, quota_left, runs_out, answer_max, num_ctx, price, tokens })
    }

    fn name(&self) -> &str {
        &self.candidate.backend.name
    }

    fn private(&self) -> Result<(), No> {
        let no = |text: String| Err((LostWhy::Private, text, None));
        match self.ask.privacy {
            Privacy::Any => Ok(()),
            Privacy::NoTraining => {
                let is_safe = self.candidate.backend.privacy >= Privacy::NoTraining;
                if is_safe || (is_home(self.candidate) && !self.is_untold()) {
                    return Ok(());
                }
                no(format!("{} is not said to neither keep nor train on what it is sent", self.name()))
            }
            Privacy::Home if !self.candidate.backend.home => {
                no(format!("the request may not leave home, and {} is not at home", self.name()))
            }
            Privacy::Home if passes_on(self.candidate) => no(format!(
                "the request may not leave home, and {} passes {} on",
                self.name(),
                self.model.name
            )),
            Privacy::Home if self.is_untold() => no(format!(
                "the request may not leave home, and {} has not said yet where {} runs",
                self.name(),
                self.model.name
            )),
            Privacy::Home => Ok(()),
        }
    }

    /// A name tells nothing about where an Ollama model runs; the server itself does.
    fn is_untold(&self) -> bool {
        self.candidate.backend.kind == BackendKind::Ollama && !self.candidate.told
    }

    fn allowed(&self) -> Result<(), No> {
        let no = |who: String| Err((LostWhy::NotAllowed, format!("{who} may not use {}", self.name()), None));
        let caller = self.settings.caller(&self.ask.caller);
        if caller.is_some_and(|caller| outside(&caller.backends, self.name())) {
            return no(self.ask.caller.to_string());
        }
        let project = self.ask.project.as_ref();
        if let Some((id, project)) = project.and_then(|id| Some((id, self.settings.projects.get(id)?)))
            && outside(&project.backends, self.name())
        {
            return no(format!("the project {id}"));
        }
        Ok(())
    }

    /// Limits of the caller, the same for every candidate.
    fn caller(&self) -> Result<(), No> {
        let Some(caller) = self.settings.caller(&self.ask.caller) else { return Ok(()) };
        let who = &self.ask.caller;
        if caller.parallel.is_some_and(|most| self.world.caller.running >= most) {
            let text = format!("{who} has {} requests at once already", self.world.caller.running);
            return Err((LostWhy::NotAllowed, text, None));
        }
        for (quota, meter, amount) in self.caller_quotas(caller) {
            if let Err(gone) = meter.check(&quota, self.now, amount) {
                let text = format!("{who} has {} of {} {} left", gone.left, gone.limit, gone.words);
                return Err((LostWhy::NotAllowed, text, Some(gone.until)));
            }
        }
        Ok(())
    }

    fn caller_quotas(&self, caller: &CallerSettings) -> Vec<(Quota, &Meter, u64)> {
        let world = &self.world.caller;
        let requests = caller.requests_quota().map(|quota| (quota, &world.requests, 1));
        let tokens = u64::from(self.ask.tokens(self.settings));
        let tokens = caller.tokens_quota().map(|quota| (quota, &world.tokens, tokens));
        requests.into_iter().chain(tokens).collect()
    }

    fn key(&self) -> Result<(), No> {
        let backend = self.candidate.backend;
        if let Some(variable) = backend.api_key_env.as_ref().filter(|_| !self.candidate.world.has_key) {
            return Err((LostWhy::NoKey, format!("{variable} is not set, {} needs it", self.name()), None));
        }
        match self.candidate.world.health.key_refused(self.now) {
            Some(until) => Err((LostWhy::NoKey, format!("{} refused our key", self.name()), Some(until))),
            None => Ok(()),
        }
    }

    fn able(&self) -> Result<(), No> {
        let no = |what: &str, until| {
            Err((LostWhy::Unable, format!("{} of {} {what}", self.model.name, self.name()), until))
        };
        let needs = self.ask.needs;
        if let Some(until) = self.candidate.world.health.lacks(&self.model.name, self.now) {
            return no("was not there when it was asked for", Some(until));
        }
        match (needs.embeds, self.model.embeds) {
            (true, false) => return no("makes no embeddings", None),
            (false, true) => return no("makes embeddings, no answers", None),
            (true, true) | (false, false) => {}
        }
        if needs.tools && self.model.tools == Some(false) {
            return no("cannot call tools", None);
        }
        // Tools are often there and not told of; eyes are rare, and a model without them guesses. Whoever asks for a model
        // by its name may know better than its server tells.
        let named = self.ask.alias(self.settings).is_none();
        match self.model.vision {
            Some(false) if needs.vision => no("cannot see images", None),
            None if needs.vision && !named => no("is not known to see images", None),
            Some(_) | None => Ok(()),
        }
    }

    fn fits(&self) -> Result<Option<u32>, fit::TooLong> {
        let length = self.length();
        match self.candidate.backend.kind {
            // A model that Ollama passes on has its context there.
            BackendKind::Ollama if !passes_on(self.candidate) => {
                let loaded = self.candidate.loaded();
                let memory = fit::Memory {
                    free_bytes: self.candidate.world.memory_free_bytes,
                    loaded_tokens: loaded.and_then(|loaded| loaded.context_tokens),
                };
                fit::num_ctx(self.model, self.candidate.settings, length, memory).map(Some)
            }
            BackendKind::Ollama | BackendKind::Openai | BackendKind::Gemini | BackendKind::Anthropic => {
                fit::whole(self.model, length).map(|()| None)
            }
        }
    }

    fn length(&self) -> fit::Length {
        let prompt_tokens = self.ask.prompt_tokens;
        if self.ask.needs.embeds {
            return fit::Length { prompt_tokens, answer_tokens: 0, answer_tokens_max: 0 };
        }
        // Many clients ask for the longest answer they ever want; that much need not have room.
        let answer_tokens_max = self.ask.answer_tokens(self.settings);
        let answer_tokens = answer_tokens_max.min(self.settings.guard.answer_tokens);
        fit::Length { prompt_tokens, answer_tokens, answer_tokens_max }
    }

    /// The limit to set for the answer: what the model gives at most, and what is left of a context that Ollama would
    /// run over without a word.
    fn answer_max(&self, num_ctx: Option<u32>) -> Option<u32> {
        if self.ask.needs.embeds {
            return None;
        }
        let left = num_ctx.map(|context| context.saturating_sub(self.ask.prompt_tokens).max(1));
        let most = [self.model.output_tokens_max, left].into_iter().flatten().min()?;
        (left.is_some() || self.ask.output_tokens.is_some())
            .then_some(most)
            .filter(|most| self.ask.output_tokens.is_none_or(|said| said > *most))
    }

    fn light(&self) -> Result<Option<Light>, No> {
        let Some(host) = &self.candidate.backend.gpu else { return Ok(None) };
        // What a home server only passes on takes nothing of its GPU; the relay in front of it is closed all the same.
        match &self.candidate.world.light {
            None => Err((LostWhy::GpuUnknown, format!("nothing was heard of the GPU of {host}"), None)),
            Some(Err(no)) => Err((no.why, format!("{host}: {}", no.text), no.until)),
            Some(Ok(Light::Green)) => Ok(Some(Light::Green)),
            Some(Ok(Light::Red)) => Err((LostWhy::GpuTaken, format!("{host} is red"), None)),
            Some(Ok(Light::Yellow)) => {
                let billions = self.model.billions.or_else(|| fit::billions_of(&self.model.name));
                let most = self.settings.rules.small_billions;
                if billions.is_some_and(|billions| billions < most) {
                    return Ok(Some(Light::Yellow));
                }
                let size = billions.map_or_else(
                    || "of unknown size".to_owned(),
                    |billions| format!("of {billions} thousand million parameters"),
                );
                let text =
                    format!("{host} is yellow, for models under {most}; {} is one {size}", self.model.name);
                Err((LostWhy::GpuTaken, text, None))
            }
        }
    }

    /// The smallest share that is left of any quota that counts, and whether one will be gone before its reset.
    #[expect(clippy::cast_precision_loss, reason = "a share, not a count")]
    fn quotas(&self, tokens: u64) -> Result<(f64, bool), No> {
        let (mut least, mut runs_out) = (1.0_f64, false);
        for quota in self.candidate.backend.quotas_of(&self.model.name) {
            let none = Meter::default();
            let meter = self.candidate.world.meters.get(&quota.key()).unwrap_or(&none);
            if let Err(gone) = meter.check(quota, self.now, quota.amount(tokens)) {
                let text = format!(
                    "{} has {} of {} {} left, {} are needed",
                    self.name(),
                    gone.left,
                    gone.limit,
                    gone.words,
                    gone.wanted
                );
                return Err((LostWhy::Quota, text, Some(gone.until)));
            }
            least = least.min(meter.left(quota, self.now) as f64 / quota.limit.max(1) as f64);
            runs_out |= meter.runs_out(quota, self.now);
        }
        Ok((least, runs_out))
    }

    fn healthy(&self) -> Result<(), No> {
        let (health, model, name) = (&self.candidate.world.health, &self.model.name, self.name());
        if let Some((until, text)) = health.cooling(model, self.now) {
            return Err((LostWhy::Cooling, text.to_owned(), Some(until)));
        }
        let unreachable = health.breaker.broken(self.now);
        let unreachable = unreachable.map(|until| (until, "could not be reached", health.breaker.failures));
        let failing = health.failing(model, self.now);
        let failing = failing.map(|(until, failures)| (until, "failed", failures));
        match unreachable.max(failing) {
            Some((until, what, failures)) => {
                let text = format!("{model} of {name} {what} {failures} times in a row");
                Err((LostWhy::Broken, text, Some(until)))
            }
            None => Ok(()),
        }
    }

    fn queue(&self) -> Result<(), No> {
        let waiting = self.candidate.world.waiting;
        if self.candidate.is_busy() && waiting >= self.candidate.backend.queue_max() {
            let text = format!("{waiting} requests wait for {} already", self.name());
            return Err((LostWhy::Full, text, None));
        }
        Ok(())
    }

    fn dollars(&self, price: Option<Price>) -> f64 {
        let Some(price) = price else { return 0.0 };
        let answer = if self.ask.needs.embeds { 0 } else { self.ask.answer_tokens(self.settings) };
        let input = f64::from(self.ask.prompt_tokens) * price.input;
        (f64::from(answer).mul_add(price.output, input) / 1e6).max(0.0)
    }

    fn budget(&self, dollars: f64) -> Result<(), No> {
        if dollars <= 0.0 {
            return Ok(());
        }
        let Budget { dollars_a_day, dollars_a_request, .. } = self.settings.budget;
        let no = |text: String| Err((LostWhy::Budget, text, None));
        if let Some(most) = dollars_a_request.filter(|most| dollars > *most) {
            return no(format!("{} may cost ${dollars:.4}, a request ${most:.4} at most", self.name()));
        }
        let caller = self.settings.caller(&self.ask.caller).and_then(|caller| caller.dollars_a_day);
        let project = self.ask.project.as_ref().and_then(|id| self.settings.projects.get(id)?.dollars_a_day);
        let rows = [
            ("everybody".to_owned(), dollars_a_day, self.world.dollars_today),
            (self.ask.caller.to_string(), caller, self.world.caller.dollars_today),
            (
                format!("the project {}", self.ask.project.as_deref().unwrap_or_default()),
                project,
                self.world.project_dollars_today,
            ),
        ];
        for (who, most, spent) in rows {
            // A figure that is no number is over budget.
            let within = |most: f64| matches!((spent + dollars).partial_cmp(&most), Some(Less | Equal));
            if let Some(most) = most.filter(|most| !within(*most)) {
                let text = format!(
                    "{} may cost ${dollars:.4}, and {who} spent ${spent:.2} of ${most:.2} today",
                    self.name()
                );
                return no(text);
            }
        }
        Ok(())
    }
}

fn outside(allowed: &std::collections::BTreeSet<String>, name: &str) -> bool {
    !allowed.is_empty() && !allowed.contains(name)
}

/// At home with all it takes.
pub(super) fn is_home(candidate: &Candidate<'_>) -> bool {
    candidate.backend.home && !passes_on(candidate)
}

/// Whether a server at home hands this model's requests to a cloud. Ollama's own clouds carry it in the name, too, and
/// are reached just so over its other doors, which are configured as another kind of server.
fn passes_on(candidate: &Candidate<'_>) -> bool {
    let Some(model) = &candidate.model else { return false };
    let name = model.name.to_ascii_lowercase();
    model.elsewhere || name.ends_with("-cloud") || name.ends_with(":cloud")
}
