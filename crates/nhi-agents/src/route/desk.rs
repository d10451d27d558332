//! The endpoints of `ai`: reads what is asked, refuses what cannot be, and hands the rest to a journey.

use super::{journey::Journey, pool::Pool};
use crate::{
    book::{Book, Counts, DOLLARS, caller_row, dollars_used, everybody_row, project_row},
    wake::Waker,
};
use nhi_bus::service::{Caller, Ending, Frames};
use nhi_decide::{
    route::{self, Ask, CallerWorld, Settings, World, refused},
    weave::Json,
};
use nhi_model::{
    Timestamp,
    ai::{AiModels, AiUsage, AiUsed, ModelRow, ORIGIN_FIELD, QuotaRow, Routed, UsageKey},
    fault::{Fault, FaultCode},
    identity::IdentityName,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

/// Where requests arrive.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) settings: Arc<Settings>,
    pub(super) pool: Arc<Pool>,
    pub(super) counts: Counts,
    pub(super) book: Book,
    pub(super) waker: Waker,
    /// Requests of each caller that are worked on here.
    pub(super) running: Mutex<BTreeMap<IdentityName, u32>>,
}

/// One of a caller's requests; dropping it counts it off.
#[derive(Debug)]
pub(super) struct Present<'a>(&'a Desk, IdentityName);

impl Drop for Present<'_> {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = running.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.1);
            }
        }
    }
}

impl Desk {
    /// `ai.chat`
    pub(super) async fn chat(&self, caller: Caller, body: Json, frames: Frames) -> Result<Ending, Fault> {
        let settings = self.rules(&body);
        let ask = read(&settings, &caller.name, &body)?;
        if ask.needs.embeds {
            return Err(Fault::new(
                FaultCode::BadRequest,
                "messages: is missing",
                "ask ai.embed for vectors",
            ));
        }
        let is_stream = ask.stream;
        let journey = Journey::begin(self, &caller, settings, ask, body).await?;
        if is_stream {
            journey.stream(&frames).await?;
            return Ok(Ending::Done);
        }
        Ending::whole(&journey.whole().await?)
    }

    /// `ai.embed`
    pub(super) async fn embed(&self, caller: Caller, body: Json) -> Result<Json, Fault> {
        let settings = self.rules(&body);
        let ask = read(&settings, &caller.name, &body)?;
        if !ask.needs.embeds {
            return Err(Fault::new(
                FaultCode::BadRequest,
                "input: is missing",
                "send a text or a list of texts",
            ));
        }
        Journey::begin(self, &caller, settings, ask, body).await?.whole().await
    }

    /// `ai.route`
    pub(super) fn route(&self, caller: &Caller, body: &Json) -> Result<Routed, Fault> {
        let settings = self.rules(body);
        let ask = read(&settings, &caller.name, body)?;
        let now = Timestamp::now();
        Ok(route::route(now, &settings, &self.world(now, &ask), &ask))
    }

    /// `ai.models`
    pub(super) fn models(&self, caller: &Caller) -> AiModels {
        let mut providers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let mut known = BTreeMap::new();
        for backend in &self.settings.backends {
            for model in self.pool.models(&backend.name) {
                let id = model.name.clone();
                providers.entry(id.clone()).or_default().insert(backend.name.clone());
                known.entry(id).or_insert(model);
            }
        }
        let mut aliases = route::aliases();
        aliases.extend(self.settings.aliases.clone());
        let rows =
            aliases.into_keys().map(|id| (id, true)).chain(providers.keys().cloned().map(|id| (id, false)));
        let rows = rows.map(|(id, alias)| {
            let providers = providers.get(&id).into_iter().flatten().cloned().collect();
            let model = known.get(&id).filter(|_| !alias).cloned();
            let row = ModelRow { alias, providers, model, ..ModelRow::default() };
            let routed = self.routed(&caller.name, &id);
            route::model_row(ModelRow { id, ..row }, routed)
        });
        AiModels { models: rows.collect() }
    }

    /// What a short question to a model, or a text to embed, would meet.
    fn routed(&self, caller: &IdentityName, id: &str) -> Option<Routed> {
        let is_embedding = self.settings.backends.iter().any(|backend| {
            self.pool.models(&backend.name).iter().any(|model| model.name == id && model.embeds)
        });
        let body = match is_embedding {
            true => serde_json::json!({ "model": id, "input": "?" }),
            false => serde_json::json!({ "model": id, "messages": [{ "role": "user", "content": "?" }] }),
        };
        let ask = route::read(body.as_object()?, caller, &self.settings).ok()?;
        let now = Timestamp::now();
        Some(route::route(now, &self.settings, &self.world(now, &ask), &ask))
    }

    /// `ai.usage`
    pub(super) async fn usage(&self, ask: &AiUsage) -> Result<AiUsed, Fault> {
        let rows = self.book.rows(ask).await.map_err(|error| {
            tracing::debug!(agent = "route", err = %error, "ledger not read");
            Fault::new(FaultCode::Unavailable, "the ledger cannot be read now", "try again in a few seconds")
        })?;
        let now = Timestamp::now();
        let quotas = self.settings.backends.iter().flat_map(|backend| {
            let meters = self.counts.meters(&UsageKey::Quota(backend.name.clone()));
            backend.quotas.iter().map(move |quota| QuotaRow {
                provider: backend.name.clone(),
                what: quota.words(),
                used: meters.get(&quota.key()).map_or(0, |meter| meter.used(quota, now)),
                limit: quota.limit,
                resets_at: quota.window(now).ends,
            })
        });
        Ok(AiUsed { rows, quotas: quotas.collect() })
    }

    /// What holds for a request: what is configured, made stricter by its project's own manifest.
    pub(super) fn rules(&self, body: &Json) -> Arc<Settings> {
        let project = body.get(ORIGIN_FIELD).and_then(|wishes| wishes.get("project")).and_then(Value::as_str);
        self.rules_of(project)
    }

    /// The same by the project's name.
    pub(super) fn rules_of(&self, project: Option<&str>) -> Arc<Settings> {
        let Some(name) = project else { return self.settings.clone() };
        let more = match self.pool.rules(name) {
            Some(rules) => BTreeMap::from([(name.to_owned(), rules)]),
            None if self.settings.projects.contains_key(name) => return self.settings.clone(),
            None => self.pool.strict_projects(),
        };
        let mut settings = (*self.settings).clone();
        settings.projects.extend(more);
        Arc::new(settings)
    }

    /// What is known now, for a request.
    pub(super) fn world(&self, now: Timestamp, ask: &Ask) -> World {
        let caller = self.counts.meters(&caller_row(&ask.caller));
        let meter = |name: &str| caller.get(name).cloned().unwrap_or_default();
        let dollars =
            |key: &UsageKey| dollars_used(&self.counts.meters(key).remove(DOLLARS).unwrap_or_default(), now);
        let mut backends = self.pool.world(now, &self.counts);
        self.waker.mark(now, &mut backends);
        World {
            backends,
            caller: CallerWorld {
                requests: meter("requests-minute"),
                tokens: meter("tokens-day"),
                running: self.running(&ask.caller),
                dollars_today: dollars_used(&meter(DOLLARS), now),
            },
            dollars_today: dollars(&everybody_row()),
            project_dollars_today: ask.project.as_ref().map_or(0.0, |project| dollars(&project_row(project))),
        }
    }

    fn running(&self, caller: &IdentityName) -> u32 {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.get(caller).copied().unwrap_or(0)
    }

    /// Counts a request of a caller, unless it has as many as it may.
    pub(super) fn enter(&self, ask: &Ask) -> Result<Present<'_>, Fault> {
        let most = self.settings.caller(&ask.caller).and_then(|caller| caller.parallel);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.entry(ask.caller.clone()).or_default();
        if let Some(most) = most.filter(|most| *count >= *most) {
            let message = format!("{} has {most} requests at once already", ask.caller);
            return Err(Fault::new(FaultCode::TooMany, message, "wait until one of them is answered")
                .with("retry_after_s", 1));
        }
        *count += 1;
        Ok(Present(self, ask.caller.clone()))
    }

    /// Why nobody answers.
    pub(super) fn refusal(&self, settings: &Settings, world: &World, ask: &Ask, routed: &Routed) -> Fault {
        refused(route::refusal(settings, world, ask, routed), routed, Timestamp::now())
    }
}

pub(super) fn read(settings: &Settings, caller: &IdentityName, body: &Json) -> Result<Ask, Fault> {
    route::read(body, caller, settings).map_err(|bad| {
        let hint = "send a body of OpenAI's chat.completions";
        Fault::new(FaultCode::BadRequest, bad.to_string(), hint).with("field", bad.field)
    })
}
