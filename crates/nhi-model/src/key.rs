//! Keys of the state bucket: dotted tokens, the first one is the section.
//!
//! The encoding is injective and reversible: a character outside `[A-Za-z0-9_-]` becomes its UTF-8 bytes
//! as `=XX`, an empty token becomes `=_`. Nobody formats a key by hand.

use crate::guest::GuestKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// A key of `nhi-state` and `nhi-live`, always well formed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct Key(String);

/// The kinds of record, the first token of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// `node.<cluster>.<node>`
    Node,
    /// `vm.<cluster>.<vmid>`
    Vm,
    /// `lxc.<cluster>.<vmid>`
    Lxc,
    /// `storage.<cluster>.<node>.<storage>`
    Storage,
    /// `source.<id>`
    Source,
    /// `host.<host>`
    Host,
    /// `gpu.<host>`
    Gpu,
    /// `docker.<host>.<container>`
    Docker,
    /// `project.<id>`
    Project,
    /// `provider.<id>`
    Provider,
    /// `graph`
    Graph,
    /// `alert.<agent>.<id>`
    Alert,
}

impl Section {
    /// All sections, in the order of the design's table.
    pub const ALL: [Self; 12] = [
        Self::Node,
        Self::Vm,
        Self::Lxc,
        Self::Storage,
        Self::Source,
        Self::Host,
        Self::Gpu,
        Self::Docker,
        Self::Project,
        Self::Provider,
        Self::Graph,
        Self::Alert,
    ];

    /// The first token of the section's keys.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Vm => "vm",
            Self::Lxc => "lxc",
            Self::Storage => "storage",
            Self::Source => "source",
            Self::Host => "host",
            Self::Gpu => "gpu",
            Self::Docker => "docker",
            Self::Project => "project",
            Self::Provider => "provider",
            Self::Graph => "graph",
            Self::Alert => "alert",
        }
    }

    /// How many tokens follow the section's name.
    pub const fn tokens(self) -> usize {
        match self {
            Self::Graph => 0,
            Self::Source | Self::Host | Self::Gpu | Self::Project | Self::Provider => 1,
            Self::Node | Self::Vm | Self::Lxc | Self::Docker | Self::Alert => 2,
            Self::Storage => 3,
        }
    }
}

/// Why a text is not a key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is not a state key: {why}")]
pub struct BadKey {
    /// The offending text, cut to 120 characters.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Key {
    /// `node.<cluster>.<node>`
    pub fn node(cluster: &str, node: &str) -> Self {
        Self::build(Section::Node, &[cluster, node])
    }

    /// `vm.<cluster>.<vmid>` or `lxc.<cluster>.<vmid>`
    pub fn guest(kind: GuestKind, cluster: &str, vmid: u32) -> Self {
        Self::build(kind.section(), &[cluster, &vmid.to_string()])
    }

    /// `storage.<cluster>.<node>.<storage>`
    pub fn storage(cluster: &str, node: &str, storage: &str) -> Self {
        Self::build(Section::Storage, &[cluster, node, storage])
    }

    /// `source.<id>`
    pub fn source(id: &str) -> Self {
        Self::build(Section::Source, &[id])
    }

    /// `host.<host>`
    pub fn host(host: &str) -> Self {
        Self::build(Section::Host, &[host])
    }

    /// `gpu.<host>`
    pub fn gpu(host: &str) -> Self {
        Self::build(Section::Gpu, &[host])
    }

    /// `docker.<host>.<container>`
    pub fn docker(host: &str, container: &str) -> Self {
        Self::build(Section::Docker, &[host, container])
    }

    /// `project.<id>`
    pub fn project(id: &str) -> Self {
        Self::build(Section::Project, &[id])
    }

    /// `provider.<id>`
    pub fn provider(id: &str) -> Self {
        Self::build(Section::Provider, &[id])
    }

    /// `graph`
    pub fn graph() -> Self {
        Self::build(Section::Graph, &[])
    }

    /// `alert.<agent>.<id>`
    pub fn alert(agent: &str, id: &str) -> Self {
        Self::build(Section::Alert, &[agent, id])
    }

    fn build(section: Section, tokens: &[&str]) -> Self {
        assert_eq!(tokens.len(), section.tokens(), "a {section:?} key has a fixed number of tokens");
        let mut text = section.as_str().to_owned();
        for token in tokens {
            text.push('.');
            text.push_str(&encode(token));
        }
        Self(text)
    }

    /// Reads a key back from its text.
    ///
    /// # Errors
    /// [`BadKey`] when the section is unknown, the number of tokens is not the section's, or the text is
    /// not what the encoding gives (two texts never mean one key).
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let bad = |why| BadKey { text: text.chars().take(120).collect(), why };
        let mut tokens = text.split('.');
        let first = tokens.next().unwrap_or_default();
        let section =
            Section::ALL.into_iter().find(|s| s.as_str() == first).ok_or_else(|| bad("unknown section"))?;
        let mut count = 0;
        for token in tokens {
            let plain = decode(token).ok_or_else(|| bad("a token is not encoded as =XX"))?;
            if encode(&plain) != token {
                return Err(bad("a token is encoded in a second way"));
            }
            count += 1;
        }
        if count != section.tokens() {
            return Err(bad("wrong number of tokens for its section"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The key as text, as it stands in the bucket.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The section the key belongs to.
    pub fn section(&self) -> Section {
        let first = self.0.split('.').next().unwrap_or_default();
        Section::ALL
            .into_iter()
            .find(|s| s.as_str() == first)
            .expect("a Key is only made by build and parse, which name a section")
    }

    /// The tokens after the section, decoded.
    pub fn tokens(&self) -> Vec<String> {
        self.0
            .split('.')
            .skip(1)
            .map(|t| decode(t).expect("a Key is only made by build and parse, which encode"))
            .collect()
    }

    /// Whether a selection matches: exact, a section (`vm`), or a dotted prefix (`vm.home`), with `*` for
    /// one token and a last `>` for the rest.
    pub fn matches(&self, select: &str) -> bool {
        let mut mine = self.0.split('.');
        for token in select.split('.') {
            match (token, mine.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (want, Some(have)) if want == have => {}
                (_, Some(_) | None) => return false,
            }
        }
        true
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// One token, safe in a KV key and a NATS subject.
pub fn encode(token: &str) -> Cow<'_, str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if token.is_empty() {
        return Cow::Borrowed("=_");
    }
    if token.bytes().all(plain) {
        return Cow::Borrowed(token);
    }
    let mut out = String::with_capacity(token.len() + 8);
    for byte in token.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("={byte:02X}"));
        }
    }
    Cow::Owned(out)
}

/// The token an encoded text stands for; `None` when the text is not an encoding.
pub fn decode(text: &str) -> Option<String> {
    if text == "=_" {
        return Some(String::new());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'=' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    if bytes.is_empty() {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_read_as_the_design_writes_them() {
        assert_eq!(Key::guest(GuestKind::Qemu, "home", 100).as_str(), "vm.home.100");
        assert_eq!(Key::storage("home", "pve1", "local-lvm").as_str(), "storage.home.pve1.local-lvm");
        assert_eq!(Key::graph().as_str(), "graph");
        assert_eq!(Key::project("my app.v2").as_str(), "project.my=20app=2Ev2");
    }

    #[test]
    fn hostile_text_is_refused() {
        for bad in ["", "vm", "vm.home", "vm.home.1.2", "what.ever", "project.a=2", "project.=41", "project."]
        {
            assert!(Key::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn selections_match_by_token() {
        let key = Key::guest(GuestKind::Qemu, "home", 100);
        for yes in ["vm", "vm.home", "vm.home.100", "vm.*.100", "vm.>", ">"] {
            assert!(key.matches(yes), "{yes}");
        }
        for no in ["v", "vm.hom", "vm.home.10", "lxc", "vm.home.100.x", "vm.home.100.>"] {
            assert!(!key.matches(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn encoding_is_reversible_and_safe(a in ".*", b in ".*") {
            let (ea, eb) = (encode(&a), encode(&b));
            prop_assert_eq!(decode(&ea), Some(a.clone()));
            prop_assert_eq!(ea == eb, a == b);
            prop_assert!(ea.bytes().all(|c| c.is_ascii_alphanumeric() || b"_-=".contains(&c)));
        }

        #[test]
        fn parse_reverses_build(id in ".*", agent in "[a-z]{1,8}") {
            for key in [Key::project(&id), Key::alert(&agent, &id), Key::docker(&id, &id)] {
                prop_assert_eq!(Key::parse(key.as_str()), Ok(key.clone()));
                prop_assert_eq!(key.tokens().pop(), Some(id.clone()));
            }
        }
    }
}
