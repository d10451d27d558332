//! `[ai]`: the backends and their keys. It asks no backend.

use super::{ConfigError, Origin, gpu};
use nhi_agents::route::Key;
use nhi_decide::route::{BackendSettings, Settings, backends, mistakes};
use nhi_model::ai::BackendKind;
use std::collections::BTreeMap;

/// `[ai]`, checked, and the keys its backends name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ai {
    /// The table, with Neural-Home v3's clouds whose keys are there.
    pub settings: Settings,
    /// By the backend's name.
    pub keys: BTreeMap<String, Key>,
}

impl Ai {
    /// With one simulated server at home beside the backends that are configured; where nothing else decides, it is
    /// asked after them, for its answers are words alone.
    pub(crate) fn with_simulated(mut self, url: &str) -> Self {
        let name = "simulated";
        // What the file calls so is the file's.
        if !self.settings.backends.iter().any(|backend| backend.name == name) {
            self.settings.backends.push(BackendSettings {
                home: true,
                quality: Some(0.0),
                ..BackendSettings::new(name, BackendKind::Ollama, url)
            });
        }
        self
    }
}

/// Checks the table, and looks for the keys. What the file says of a backend beats what is shipped under its name. In demo
/// mode no key brings a cloud by itself; a backend of the file may have its key from the environment.
pub(super) fn checked(
    mut settings: Settings,
    variables: &BTreeMap<String, String>,
    origin: &Origin<'_>,
    warnings: &mut Vec<String>,
) -> Result<Ai, ConfigError> {
    if let Some(mistake) = mistakes(&settings).into_iter().next() {
        return Err(ConfigError::value(mistake.key, mistake.what));
    }
    gpu::check_wake(&settings)?;
    let key = |variables: &BTreeMap<String, String>, variable: &str| {
        variables.get(variable).filter(|key| !key.trim().is_empty()).cloned()
    };
    for shipped in backends(|variable| key(variables, variable).is_some()) {
        if !settings.backends.iter().any(|backend| backend.name == shipped.name) {
            settings.backends.push(shipped);
        }
    }
    let (own, remedy) = match origin.demo {
        true => (&origin.environment, "set it in the environment, for the demo does not read .env"),
        false => (variables, "put its key into .env"),
    };
    let mut keys = BTreeMap::new();
    for backend in &settings.backends {
        let Some(variable) = &backend.api_key_env else { continue };
        match key(own, variable) {
            Some(key) => drop(keys.insert(backend.name.clone(), Key::new(key))),
            None => warnings
                .push(format!("{variable} is not set: backend {} is not asked; {remedy}", backend.name)),
        }
    }
    Ok(Ai { settings, keys })
}
