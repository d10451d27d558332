//! Each pair of a backend and a model that could be meant. Whether it may and can answer is for the trial to say.

use super::{Ask, BackendSettings, BackendWorld, Loaded, ModelSettings, Settings, World};
use nhi_model::{
    Timestamp,
    ai::{BackendKind, Lost, LostWhy, Model},
};
use std::sync::LazyLock;

static NEVER_HEARD_OF: LazyLock<BackendWorld> = LazyLock::new(BackendWorld::default);

/// A backend with one model.
#[derive(Debug)]
pub(super) struct Candidate<'w> {
    pub(super) backend: &'w BackendSettings,
    pub(super) world: &'w BackendWorld,
    /// `None`: none of its models is what was asked for.
    pub(super) model: Option<Model>,
    /// What the configuration says of the model.
    pub(super) settings: Option<&'w ModelSettings>,
    /// Whether the backend itself told of the model.
    pub(super) told: bool,
    /// Place in the file: of the backend, and of the model there.
    pub(super) place: (usize, usize),
}

impl Candidate<'_> {
    pub(super) fn model_name(&self) -> &str {
        self.model.as_ref().map_or("", |model| &model.name)
    }

    pub(super) fn lost(&self, why: LostWhy, text: impl Into<String>, until: Option<Timestamp>) -> Lost {
        Lost {
            provider: self.backend.name.clone(),
            model: self.model_name().to_owned(),
            why,
            text: text.into(),
            until,
        }
    }

    pub(super) fn loaded(&self) -> Option<&Loaded> {
        self.world.loaded.iter().find(|loaded| same(self.backend.kind, &loaded.name, self.model_name()))
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded().is_some()
    }

    /// Whether a request would wait there.
    pub(super) fn is_busy(&self) -> bool {
        self.world.running >= self.backend.parallel()
    }
}

/// All there are. Where a model is asked for, a backend without it is one candidate without a model.
pub(super) fn all<'w>(
    settings: &'w Settings,
    world: &'w World,
    ask: &Ask,
    is_alias: bool,
) -> Vec<Candidate<'w>> {
    let mut out = Vec::new();
    for (place, backend) in settings.backends.iter().enumerate() {
        let known = world.backends.get(&backend.name).unwrap_or(&NEVER_HEARD_OF);
        let mut models = of_backend(backend, known, place);
        if !is_alias {
            models.retain(|candidate| asked_for(ask, backend, candidate.model_name()));
            if models.is_empty() {
                models.extend(unlisted(ask, backend, known, place));
            }
        }
        if models.is_empty() {
            models.push(Candidate {
                backend,
                world: known,
                model: None,
                settings: None,
                told: false,
                place: (place, 0),
            });
        }
        out.extend(models);
    }
    out
}

fn of_backend<'w>(backend: &'w BackendSettings, world: &'w BackendWorld, place: usize) -> Vec<Candidate<'w>> {
    let told = |name: &str| world.models.iter().find(|model| same(backend.kind, &model.name, name));
    // Of two rows for one name the one that leaves home counts.
    let elsewhere = |name: &str| {
        let is = |other: &str, elsewhere: bool| elsewhere && same(backend.kind, other, name);
        backend.models.iter().any(|model| is(&model.name, model.elsewhere))
            || world.models.iter().any(|model| is(&model.name, model.elsewhere))
    };
    let whole = |model: Model| Model { elsewhere: elsewhere(&model.name), ..model };
    if backend.models.is_empty() {
        let rows = world.models.iter().enumerate();
        return rows
            .map(|(index, model)| Candidate {
                backend,
                world,
                model: Some(whole(model.clone())),
                settings: None,
                told: true,
                place: (place, index),
            })
            .collect();
    }
    let rows = backend.models.iter().enumerate();
    rows.map(|(index, model)| {
        let told = told(&model.name);
        Candidate {
            backend,
            world,
            model: Some(whole(model.joined(told))),
            settings: Some(model),
            told: told.is_some(),
            place: (place, index),
        }
    })
    .collect()
}

/// `backend/model` for a backend that lists nothing: the name is passed on.
fn unlisted<'w>(
    ask: &Ask,
    backend: &'w BackendSettings,
    world: &'w BackendWorld,
    place: usize,
) -> Option<Candidate<'w>> {
    if !backend.models.is_empty() || !world.models.is_empty() {
        return None;
    }
    let name = ask.asked.strip_prefix(&backend.name)?.strip_prefix('/')?;
    let model = Some(Model { name: name.to_owned(), ..Model::default() });
    Some(Candidate { backend, world, model, settings: None, told: false, place: (place, 0) })
}

/// Whether the request names this model, by itself or behind its backend's name.
fn asked_for(ask: &Ask, backend: &BackendSettings, model: &str) -> bool {
    let behind = ask.asked.strip_prefix(&backend.name).and_then(|rest| rest.strip_prefix('/'));
    same(backend.kind, &ask.asked, model) || behind.is_some_and(|name| same(backend.kind, name, model))
}

/// Whether two names are one model's. For Ollama a name without a tag has the tag `latest`.
pub fn same(kind: BackendKind, one: &str, other: &str) -> bool {
    match kind {
        BackendKind::Ollama => {
            one.strip_suffix(":latest").unwrap_or(one) == other.strip_suffix(":latest").unwrap_or(other)
        }
        BackendKind::Gemini => {
            one.strip_prefix("models/").unwrap_or(one) == other.strip_prefix("models/").unwrap_or(other)
        }
        BackendKind::Openai | BackendKind::Anthropic => one == other,
    }
}
