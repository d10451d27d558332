//! Names of identities and the roles they hold. It does not know keys or seeds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The name of an identity: `[a-z][a-z0-9-]{0,31}`. It is the last token of every call it makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(transparent)]
pub struct IdentityName(String);

/// Longest identity name: it appears in subjects, file names and NATS account names.
pub const NAME_CHARS_MAX: usize = 32;

/// Names that belong to the mesh itself; `auth add` refuses them.
pub const RESERVED: &[&str] = &[
    "act", "ai", "alert", "audit", "auth", "core", "docker", "gateway", "gitops", "gpu", "hass", "home",
    "mirror", "netbox", "owner", "route", "scan", "state", "sys", "traefik", "wiki",
];

/// Why a name is not an identity name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("name {name:?} does not match [a-z][a-z0-9-]{{0,31}}")]
pub struct BadName {
    /// The offending text, cut to 64 characters.
    pub name: String,
}

impl IdentityName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`BadName`] when the text does not match `[a-z][a-z0-9-]{0,31}`.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let mut chars = text.chars();
        let first = chars.next().is_some_and(|c| c.is_ascii_lowercase());
        let rest = chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if first && rest && text.len() <= NAME_CHARS_MAX {
            return Ok(Self(text.to_owned()));
        }
        Err(BadName { name: text.chars().take(64).collect() })
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name belongs to the mesh itself.
    pub fn is_reserved(&self) -> bool {
        RESERVED.contains(&self.0.as_str())
    }

    /// The NATS account of this identity: its name in capitals, `-` as `_`, with a prefix so that it
    /// cannot meet a server's own account name.
    pub fn account(&self) -> String {
        format!("ID_{}", self.0.to_ascii_uppercase().replace('-', "_"))
    }
}

impl fmt::Display for IdentityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for IdentityName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::parse(text)
    }
}

impl<'de> Deserialize<'de> for IdentityName {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// What an identity outside HOME, or somebody else's service inside it, may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Endpoints with effect `read`.
    Viewer,
    /// An AI agent: reads, plans, applies its own plans, uses `ai`.
    Agent,
    /// A person who may approve, reject, freeze.
    Operator,
    /// Every endpoint, and identities.
    Owner,
    /// A machine that only reports about itself.
    Edge,
    /// Somebody else's agent: a HOME user that only answers.
    Service,
}

impl Role {
    /// All roles, in the order they are documented.
    pub const ALL: [Self; 6] =
        [Self::Viewer, Self::Agent, Self::Operator, Self::Owner, Self::Edge, Self::Service];

    /// The role's name as written in commands and files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Agent => "agent",
            Self::Operator => "operator",
            Self::Owner => "owner",
            Self::Edge => "edge",
            Self::Service => "service",
        }
    }

    /// Whether identities of this role live in an account of their own.
    pub const fn has_own_account(self) -> bool {
        match self {
            Self::Viewer | Self::Agent | Self::Operator | Self::Owner | Self::Edge => true,
            Self::Service => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("role {text:?} is none of viewer, agent, operator, owner, edge, service"))
    }
}

/// A trusted agent of the mesh: a user of HOME with an allow list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Agent {
    /// The keeper of the state.
    State,
    /// The Proxmox scanner.
    Scan,
    /// The actuator.
    Act,
    /// The writer of `infrastructure/`.
    Mirror,
    /// The AI router.
    Route,
}

impl Agent {
    /// All trusted agents.
    pub const ALL: [Self; 5] = [Self::State, Self::Scan, Self::Act, Self::Mirror, Self::Route];

    /// The agent's identity name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Scan => "scan",
            Self::Act => "act",
            Self::Mirror => "mirror",
            Self::Route => "route",
        }
    }

    /// The agent's identity.
    pub fn identity(self) -> IdentityName {
        IdentityName(self.as_str().to_owned())
    }
}

/// The break-glass identity: unrestricted inside HOME, and a valid caller.
pub fn home() -> IdentityName {
    IdentityName("home".to_owned())
}

/// The person who owns the lab: the default caller of the `nhi` command.
pub fn owner() -> IdentityName {
    IdentityName("owner".to_owned())
}

/// The gateway's own identity, a viewer.
pub fn gateway() -> IdentityName {
    IdentityName("gateway".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_or_refused() {
        for good in ["a", "aider", "gaming-pc", "a1", &"a".repeat(32)] {
            assert_eq!(IdentityName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "1a", "-a", "A", "a.b", "a b", "a*", "ä", &"a".repeat(33)] {
            assert!(IdentityName::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn accounts_are_distinct() {
        let account = |name| IdentityName::parse(name).unwrap().account();
        assert_eq!(account("gaming-pc"), "ID_GAMING_PC");
        assert_ne!(account("home"), "HOME");
    }
}
