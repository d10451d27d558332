//! What holds without any configuration: the aliases, and the backends whose keys are in the environment.

use super::{Alias, BackendSettings, ModelSettings, Selector};
use crate::quota::{Per, Quota, What};
use nhi_model::ai::{BackendKind, Intent, Privacy};
use std::{collections::BTreeMap, sync::LazyLock};

static ALIASES: LazyLock<BTreeMap<String, Alias>> = LazyLock::new(aliases);

/// The shipped alias of this name.
pub(super) fn alias(name: &str) -> Option<&'static Alias> {
    ALIASES.get(name)
}

/// The shipped aliases by name.
pub fn aliases() -> BTreeMap<String, Alias> {
    let home = vec![Selector::Home];
    let rows = [
        ("auto", Alias::default()),
        ("coding", Alias { intent: Some(Intent::Coding), ..Alias::default() }),
        ("fast", Alias { intent: Some(Intent::Simple), ..Alias::default() }),
        ("local", Alias { order: home.clone(), ..Alias::default() }),
        ("private", Alias { order: home, privacy: Privacy::Home, ..Alias::default() }),
    ];
    rows.into_iter().map(|(name, alias)| (name.to_owned(), alias)).collect()
}

/// Neural-Home v3's clouds, each when `has_key` says that the variable with its key is set. Their limits change and
/// belong into the configuration; Google's are the ones last seen.
pub fn backends(has_key: impl Fn(&str) -> bool) -> Vec<BackendSettings> {
    let cloud = |name: &str, kind, url: &str, key: &str, model: &str| BackendSettings {
        api_key_env: Some(key.to_owned()),
        models: vec![ModelSettings::named(model)],
        ..BackendSettings::new(name, kind, url)
    };
    let day = "America/Los_Angeles";
    let quota = |what, per, limit| Quota {
        zone: (per == Per::Day).then(|| day.to_owned()),
        ..Quota::new(what, per, limit)
    };
    let rows = [
        cloud(
            "qwen_cloud",
            BackendKind::Openai,
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            "DASHSCOPE_API_KEY",
            "qwen-max",
        ),
        BackendSettings {
            quotas: vec![
                quota(What::Requests, Per::Minute, 15),
                quota(What::Requests, Per::Day, 500),
                quota(What::Tokens, Per::Minute, 250_000),
            ],
            ..cloud(
                "gemini-flash",
                BackendKind::Gemini,
                "https://generativelanguage.googleapis.com",
                "GOOGLE_API_KEY",
                "gemini-2.0-flash",
            )
        },
        cloud(
            "groq",
            BackendKind::Openai,
            "https://api.groq.com/openai/v1",
            "GROQ_API_KEY",
            "llama-3.3-70b-versatile",
        ),
    ];
    rows.into_iter().filter(|backend| backend.api_key_env.as_deref().is_some_and(&has_key)).collect()
}
