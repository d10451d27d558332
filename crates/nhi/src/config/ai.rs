//! `[ai]`: the backends and their keys. It asks no backend.

use super::{ConfigError, gpu};
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
    /// One simulated server at home, and nobody else.
    pub(crate) fn simulated(url: &str) -> Self {
        let backend =
            BackendSettings { home: true, ..BackendSettings::new("simulated", BackendKind::Ollama, url) };
        let settings = Settings { backends: vec![backend], ..Settings::default() };
        Self { settings, keys: BTreeMap::new() }
    }
}

/// Checks the table, and looks for the keys. What the file says of a backend beats what is shipped under its name.
pub(super) fn checked(
    mut settings: Settings,
    variables: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<Ai, ConfigError> {
    if let Some(mistake) = mistakes(&settings).into_iter().next() {
        return Err(ConfigError::value(mistake.key, mistake.what));
    }
    gpu::check_wake(&settings)?;
    let key = |variable: &str| variables.get(variable).filter(|key| !key.trim().is_empty());
    for shipped in backends(|variable| key(variable).is_some()) {
        if !settings.backends.iter().any(|backend| backend.name == shipped.name) {
            settings.backends.push(shipped);
        }
    }
    let mut keys = BTreeMap::new();
    for backend in &settings.backends {
        let Some(variable) = &backend.api_key_env else { continue };
        match key(variable) {
            Some(key) => drop(keys.insert(backend.name.clone(), Key::new(key.clone()))),
            None => warnings.push(format!(
                "{variable} is not set: backend {} is not asked; put its key into .env",
                backend.name
            )),
        }
    }
    Ok(Ai { settings, keys })
}
