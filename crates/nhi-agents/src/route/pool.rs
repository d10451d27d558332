//! The configured backends: how each is reached, what happened with it lately, what it told of itself. It asks none of
//! them for an answer.

use super::gate::Gate;
use crate::book::{Counts, Meters, Pause, Pauses};
use nhi_bus::{
    keys::Seed,
    pass,
    view::{LiveView, View},
};
use nhi_decide::{
    route::{
        BackendSettings, BackendWorld, Happened, Health, ProjectSettings, Settings, after, fingerprint,
        of_manifest, same, strict_manifests,
    },
    semaphore,
};
use nhi_llm::{Backend, Endpoint, Key as ApiKey, Options as Patience, Signer};
use nhi_model::{
    Timestamp,
    ai::{Choice, Continues, Model, UsageKey},
    gpu::{Gpu, GpuGauges, Relay},
    key::{Key, Section},
    project::Project,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use url::Url;

/// Conversations whose beginning a backend may still have at hand.
const PREFIXES_MAX: usize = 64;

/// All of them.
#[derive(Debug)]
pub(super) struct Pool {
    settings: Arc<Settings>,
    entries: BTreeMap<String, Entry>,
    seed: Seed,
    view: View,
    live: LiveView,
}

#[derive(Debug)]
struct Entry {
    settings: BackendSettings,
    key: Option<ApiKey>,
    gate: Gate,
    state: Mutex<State>,
}

/// What changes.
#[derive(Debug, Default)]
struct State {
    health: Health,
    told: Vec<Model>,
    continues: Option<Continues>,
    /// Why it did not tell of its models when it was last asked.
    silent: Option<String>,
    prefixes: VecDeque<u64>,
    /// The connections, and the relay they were made for.
    reached: Option<(Option<Relay>, Backend)>,
}

impl Pool {
    pub(super) fn new(
        settings: Arc<Settings>,
        mut keys: BTreeMap<String, ApiKey>,
        seed: Seed,
        view: View,
        live: LiveView,
    ) -> Self {
        let mut entry = |settings: &BackendSettings| Entry {
            settings: settings.clone(),
            key: keys.remove(&settings.name),
            gate: Gate::new(settings.parallel()),
            state: Mutex::default(),
        };
        let entries = settings.backends.iter().map(|one| (one.name.clone(), entry(one))).collect();
        Self { settings, entries, seed, view, live }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Changes whenever a machine's light may have.
    pub(super) fn lights(
        &self,
    ) -> tokio::sync::watch::Receiver<Arc<BTreeMap<Key, nhi_model::envelope::Live>>> {
        self.live.changed()
    }

    /// The backends as they are now.
    pub(super) fn world(&self, now: Timestamp, counts: &Counts) -> BTreeMap<String, BackendWorld> {
        self.entries.iter().map(|(name, entry)| (name.clone(), self.one(now, counts, entry))).collect()
    }

    fn one(&self, now: Timestamp, counts: &Counts, entry: &Entry) -> BackendWorld {
        let name = &entry.settings.name;
        let (running, waiting) = entry.gate.load();
        let meters: Meters = counts.meters(&UsageKey::Quota(name.clone()));
        let pauses = counts.row(&UsageKey::Pause(name.clone()));
        let state = entry.state();
        let mut health = state.health.clone();
        if let Some(pauses) = pauses.and_then(|row| Pauses::deserialize(row).ok()) {
            pauses.hold(now, &mut health);
        }
        let mut world = BackendWorld {
            has_key: entry.key.is_some(),
            health,
            meters,
            light: None,
            models: state.told.clone(),
            continues: state.continues,
            running,
            waiting,
            loaded: Vec::new(),
            memory_free_bytes: None,
            prefixes: state.prefixes.iter().copied().collect::<BTreeSet<_>>(),
        };
        drop(state);
        if let Some(host) = &entry.settings.gpu {
            self.sense(now, host, &mut world);
        }
        world
    }

    /// What a machine tells of its GPU.
    fn sense(&self, now: Timestamp, host: &str, world: &mut BackendWorld) {
        let key = Key::gpu(host);
        let (gpu, live) = (self.gpu(host), self.live.read().get(&key).cloned());
        world.light = Some(semaphore::available(now, gpu.as_ref(), live.as_ref()));
        let gauges = live.filter(|live| live.valid_until > now);
        let gauges = gauges.and_then(|live| GpuGauges::deserialize(live.record).ok());
        let Some(gauges) = gauges else { return };
        world.sense(gpu.as_ref(), &gauges);
    }

    fn gpu(&self, host: &str) -> Option<Gpu> {
        let key = Key::gpu(host);
        self.view.read().records.get(&key).and_then(|entry| entry.stored.typed(&key).ok())
    }

    /// What holds for a project that has a manifest: what is configured, made stricter by that.
    pub(super) fn rules(&self, id: &str) -> Option<ProjectSettings> {
        let key = Key::project(id);
        let project = self.view.read().records.get(&key).and_then(|entry| entry.stored.typed(&key).ok())?;
        let configured = self.settings.projects.get(id).cloned().unwrap_or_default();
        Some(configured.and(&of_manifest(&project)))
    }

    /// The projects whose manifests keep them from leaving.
    pub(super) fn strict_projects(&self) -> BTreeMap<String, ProjectSettings> {
        let state = self.view.read();
        let all = state.records.iter().filter(|(key, _)| key.section() == Section::Project);
        let all: Vec<Project> = all.filter_map(|(key, entry)| entry.stored.typed(key).ok()).collect();
        let configured = |id: &String| self.settings.projects.get(id).cloned().unwrap_or_default();
        strict_manifests(&all).map(|(id, rules)| (id.clone(), configured(&id).and(&rules))).collect()
    }

    /// The way to a backend; why there is none, one sentence.
    pub(super) fn backend(&self, name: &str) -> Result<Backend, String> {
        let entry = self.entries.get(name).ok_or_else(|| format!("{name} is not configured"))?;
        let relay = match &entry.settings.gpu {
            Some(host) => {
                let relay = self.gpu(host).and_then(|gpu| gpu.relay);
                Some(relay.ok_or_else(|| format!("{host} has not told where its models are reached"))?)
            }
            None => None,
        };
        let mut state = entry.state();
        if let Some((known, backend)) = &state.reached
            && *known == relay
        {
            return Ok(backend.clone());
        }
        let endpoint = self.endpoint(entry, relay.as_ref())?;
        let backend = Backend::new(endpoint).map_err(|error| error.to_string())?;
        state.reached = Some((relay, backend.clone()));
        Ok(backend)
    }

    fn endpoint(&self, entry: &Entry, relay: Option<&Relay>) -> Result<Endpoint, String> {
        let BackendSettings { name, kind, url, headers, fields, fingerprint: pinned, .. } = &entry.settings;
        let parse =
            |text: &str| Url::parse(text).map_err(|error| format!("the url of {name} is none: {error}"));
        let mut url = parse(url)?;
        let mut pin = pinned.clone();
        if let Some(relay) = relay {
            let path = url.path().to_owned();
            url = parse(&relay.url)?;
            url.set_path(&path);
            pin.clone_from(&relay.fingerprint);
        }
        let guard = &self.settings.guard;
        let seconds = |number: u32| Duration::from_secs(number.into());
        Ok(Endpoint {
            name: name.clone(),
            kind: *kind,
            url,
            key: entry.key.clone(),
            headers: headers.clone(),
            fingerprint: pin.map(|pin| fingerprint(name, &pin)).transpose()?,
            signer: relay.map(|_| {
                let (seed, host) = (self.seed.clone(), entry.settings.gpu.clone().unwrap_or_default());
                let sign: Signer =
                    Arc::new(move |method, path| pass::issue(&seed, &host, method, path, Timestamp::now()));
                sign
            }),
            options: Patience {
                fields: fields.clone(),
                first_byte: seconds(guard.first_token_s),
                stall: seconds(guard.stall_s),
                whole: seconds(guard.deadline_s),
                ..Patience::USUAL
            },
        })
    }

    /// The line in front of a backend.
    pub(super) fn gate(&self, name: &str) -> Option<Gate> {
        self.entries.get(name).map(|entry| entry.gate.clone())
    }

    /// What was configured of a backend.
    pub(super) fn configured(&self, name: &str) -> Option<&BackendSettings> {
        self.entries.get(name).map(|entry| &entry.settings)
    }

    /// Notes what happened with a model, and says until when it is to be left alone, when that is new.
    pub(super) fn note(&self, now: Timestamp, of: &Choice, happened: &Happened) -> Option<Pause> {
        let entry = self.entries.get(&of.provider)?;
        let health = &mut entry.state().health;
        let before = health.cooling(&of.model, now).map(|(until, _)| until);
        after(now, health, &entry.settings, &of.model, happened);
        let (until, text) = health.cooling(&of.model, now).filter(|(until, _)| Some(*until) != before)?;
        Some(Pause { until, text: text.to_owned() })
    }

    /// An attempt begins.
    pub(super) fn begin(&self, now: Timestamp, of: &Choice) {
        if let Some(entry) = self.entries.get(&of.provider) {
            nhi_decide::route::begin(now, &mut entry.state().health, &of.model);
        }
    }

    /// Mean time to its first token.
    pub(super) fn latency(&self, name: &str) -> Option<Duration> {
        let latency_ms = self.entries.get(name)?.state().health.latency_ms?;
        Duration::try_from_secs_f64(latency_ms / 1_000.0).ok()
    }

    /// It answered a conversation that begins so.
    pub(super) fn answered(&self, name: &str, prefix: u64) {
        let Some(entry) = self.entries.get(name) else { return };
        let mut state = entry.state();
        state.prefixes.retain(|known| *known != prefix);
        state.prefixes.push_back(prefix);
        if state.prefixes.len() > PREFIXES_MAX {
            state.prefixes.pop_front();
        }
    }

    /// Asks a backend for its models; why it does not tell, one sentence.
    pub(super) async fn look(&self, name: &str) -> Result<(Vec<Model>, Continues), String> {
        let backend = self.backend(name)?;
        let models = backend.models().await.map_err(|error| error.to_string())?;
        Ok((models, backend.continues()))
    }

    /// What a backend told of its models; whether that is new.
    pub(super) fn heard(&self, name: &str, told: Result<(Vec<Model>, Continues), String>) -> bool {
        let Some(entry) = self.entries.get(name) else { return false };
        let mut state = entry.state();
        match told {
            Ok((mut models, continues)) => {
                // A cloud may tell of hundreds; each request looks at what is kept.
                let (kind, configured) = (entry.settings.kind, &entry.settings.models);
                let is_used =
                    |model: &Model| configured.iter().any(|used| same(kind, &used.name, &model.name));
                models.retain(|model| configured.is_empty() || is_used(model));
                let is_new =
                    state.told != models || state.silent.is_some() || state.continues != Some(continues);
                (state.told, state.continues, state.silent) = (models, Some(continues), None);
                is_new
            }
            // A machine that sleeps, or whose owner plays, is no problem.
            Err(_) if entry.settings.gpu.is_some() => false,
            Err(reason) => state.silent.replace(reason.clone()) != Some(reason),
        }
    }

    /// Why the models of a backend are not known, although somebody has to know them.
    pub(super) fn unreachable(&self, name: &str) -> Option<String> {
        let entry = self.entries.get(name).filter(|entry| entry.settings.models.is_empty())?;
        entry.state().silent.clone()
    }

    /// The models of a backend: those configured, with what it told of them; all it told where none is configured.
    pub(super) fn models(&self, name: &str) -> Vec<Model> {
        let Some(entry) = self.entries.get(name) else { return Vec::new() };
        let state = entry.state();
        if entry.settings.models.is_empty() {
            return state.told.clone();
        }
        let kind = entry.settings.kind;
        let told = |name: &str| state.told.iter().find(|model| same(kind, &model.name, name));
        entry.settings.models.iter().map(|model| model.joined(told(&model.name))).collect()
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
