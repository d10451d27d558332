//! What in `[ai]` cannot be meant: names twice, a home that is none, limits of nothing. It repairs nothing.

use super::{Selector, Settings, shipped};
use jiff::tz::TimeZone;
use nhi_model::ai::Privacy;
use std::collections::BTreeSet;

/// A mistake, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {what}")]
pub struct Mistake {
    /// The key in the file: `ai.backend[2].url`.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
}

/// Addresses of clouds: a backend there is not at home, whatever somebody wrote.
const CLOUDS: &[&str] = &[
    "aliyuncs.com",
    "anthropic.com",
    "azure.com",
    "cerebras.ai",
    "cohere.com",
    "deepseek.com",
    "fireworks.ai",
    "googleapis.com",
    "groq.com",
    "mistral.ai",
    "ollama.com",
    "openai.com",
    "openrouter.ai",
    "perplexity.ai",
    "together.xyz",
    "x.ai",
];

/// All mistakes, in the file's order.
pub fn mistakes(settings: &Settings) -> Vec<Mistake> {
    let mut out = Vec::new();
    let mut say = |key: String, what: String| out.push(Mistake { key, what });
    let mut names = BTreeSet::new();
    for (index, backend) in settings.backends.iter().enumerate() {
        let key = |field: &str| format!("ai.backend[{index}].{field}");
        if !is_name(&backend.name) {
            say(key("name"), format!("{:?} is no name: letters, digits, '-', '_' and '.'", backend.name));
        }
        if !names.insert(&backend.name) {
            say(key("name"), format!("{} is there twice: give each backend a name of its own", backend.name));
        }
        let host = host(&backend.url);
        match &host {
            None => say(key("url"), "is no http:// or https:// address".to_owned()),
            Some(host) if backend.home && is_cloud(host) => {
                say(
                    key("home"),
                    format!("{host} is not at home: leave home out, or point url at your own server"),
                );
            }
            Some(_) => {}
        }
        if backend.privacy == Privacy::Home && !backend.home {
            say(key("privacy"), "\"home\" is said by home = true, for a server that stands there".to_owned());
        }
        let quality =
            backend.quality.into_iter().chain(backend.models.iter().filter_map(|model| model.quality));
        for quality in quality.filter(|quality| !(0.0..=10.0).contains(quality)) {
            say(key("quality"), format!("{quality} is not between 0 and 10"));
        }
        if let Some(Err(what)) = backend.fingerprint.as_ref().map(|text| fingerprint(&backend.name, text)) {
            say(key("fingerprint"), what);
        }
        let mut quotas = BTreeSet::new();
        for quota in &backend.quotas {
            if !quotas.insert(quota.key()) {
                say(key("quotas"), format!("{} are limited twice", quota.words()));
            }
            if let Some(zone) = quota.zone.as_ref().filter(|zone| TimeZone::get(zone).is_err()) {
                say(key("quotas"), format!("{zone:?} is no time zone: write an IANA name as Europe/Rome"));
            }
        }
    }
    orders(settings, &mut say);
    out
}

/// Selectors and lists that name a backend nobody configured. A shipped rule may: it is for who has one.
fn orders(settings: &Settings, say: &mut impl FnMut(String, String)) {
    // What is shipped is there as soon as its key is.
    let shipped = shipped::backends(|_| true);
    let all = settings.backends.iter().chain(&shipped);
    let known: BTreeSet<&str> = all.map(|backend| backend.name.as_str()).collect();
    let defaults = super::Rules::default();
    let mut lists: Vec<(String, &[Selector])> = Vec::new();
    for (name, own, shipped) in [
        ("coding", &settings.rules.coding, &defaults.coding),
        ("simple", &settings.rules.simple, &defaults.simple),
    ] {
        if own != shipped {
            lists.push((format!("ai.rules.{name}"), own));
        }
    }
    lists.extend(
        settings.aliases.iter().map(|(name, alias)| (format!("ai.alias.{name}"), alias.order.as_slice())),
    );
    lists.push(("ai.judge.models".to_owned(), &settings.judge.models));
    for selector in settings.judge.models.iter().filter(|selector| !matches!(selector, Selector::Model(..))) {
        let text = format!("\"{selector}\" is no model: name one as <backend>/<model>");
        say("ai.judge.models".to_owned(), text);
    }
    if !(100..=10_000).contains(&settings.judge.deadline_ms) {
        let text = format!("{} is not between 100 and 10000", settings.judge.deadline_ms);
        say("ai.judge.deadline_ms".to_owned(), text);
    }
    let unknown = |name: &str| format!("no backend is called {name:?}: {}", nearest(name, &known));
    for (key, list) in lists {
        for selector in list {
            match selector {
                Selector::Backend(name) | Selector::Model(name, _) if !known.contains(name.as_str()) => {
                    say(key.clone(), unknown(name));
                }
                Selector::Backend(_)
                | Selector::Model(..)
                | Selector::All
                | Selector::Home
                | Selector::Gpu
                | Selector::Cloud
                | Selector::Free => {}
            }
        }
    }
    let callers =
        settings.callers.iter().map(|(name, caller)| (format!("ai.caller.{name}"), &caller.backends));
    let projects = settings.projects.iter().map(|(name, row)| (format!("ai.project.{name}"), &row.backends));
    for (key, list) in callers.chain(projects) {
        for name in list.iter().filter(|name| !known.contains(name.as_str())) {
            say(format!("{key}.backends"), unknown(name));
        }
    }
    let aliased = |name: &String| settings.aliases.contains_key(name) || shipped::alias(name).is_some();
    if !aliased(&settings.guard.default) {
        say("ai.guard.default".to_owned(), format!("no alias is called {:?}", settings.guard.default));
    }
}

fn nearest(name: &str, known: &BTreeSet<&str>) -> String {
    let near = known
        .iter()
        .max_by(|one, other| strsim::jaro_winkler(name, one).total_cmp(&strsim::jaro_winkler(name, other)));
    near.map_or_else(|| "none is configured".to_owned(), |near| format!("did you mean {near:?}?"))
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// The host of an address, lower case; `None` where it is none of ours or carries credentials.
fn host(url: &str) -> Option<String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.split(['/', '?', '#']).next().filter(|authority| !authority.contains('@'))?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']')?.0,
        None => authority.split(':').next().unwrap_or_default(),
    };
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

fn is_cloud(host: &str) -> bool {
    let named = CLOUDS.iter().any(|cloud| {
        host.strip_suffix(cloud).is_some_and(|before| before.is_empty() || before.ends_with('.'))
    });
    named || host.parse::<std::net::IpAddr>().is_ok_and(|address| !is_private(address))
}

fn is_private(address: std::net::IpAddr) -> bool {
    match address {
        std::net::IpAddr::V4(v4) => {
            // 100.64/10 is what overlay networks between one's own machines use.
            let shared = v4.octets()[0] == 100 && (64..128).contains(&v4.octets()[1]);
            v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared
        }
        std::net::IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// A certificate's SHA-256 as it is written: 64 hex digits, with or without colons. `Err` is one sentence.
pub fn fingerprint(name: &str, text: &str) -> Result<[u8; 32], String> {
    let bad = || format!("the fingerprint of {name} is not 64 hex digits");
    let hex: String = text.chars().filter(|char| *char != ':').collect();
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(bad());
    }
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * place..2 * place + 2], 16).map_err(|_| bad())?;
    }
    Ok(bytes)
}
