//! How an order of backends is written: names, and words for sorts of them. It chooses nothing.

use nhi_model::ai::{Intent, Priority, Privacy};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor, value},
};
use std::{fmt, str::FromStr};

/// One step of an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// `*`: whoever is left, the best first.
    All,
    /// `@home`: those that stand at home.
    Home,
    /// `@gpu`: those a semaphore governs.
    Gpu,
    /// `@cloud`: those that do not stand at home.
    Cloud,
    /// `@free`: those that cost nothing.
    Free,
    /// `groq`: that backend, with the best of its models.
    Backend(String),
    /// `groq/llama-3.3-70b-versatile`: that backend with that model. Only the first slash counts.
    Model(String, String),
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names nobody: write *, @home, @gpu, @cloud, @free, a backend's name, or <backend>/<model>")]
pub struct BadSelector {
    text: String,
}

impl FromStr for Selector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        match text {
            "*" => Ok(Self::All),
            "@home" => Ok(Self::Home),
            "@gpu" => Ok(Self::Gpu),
            "@cloud" => Ok(Self::Cloud),
            "@free" => Ok(Self::Free),
            _ if text.is_empty() || text.starts_with('@') => {
                Err(BadSelector { text: text.chars().take(64).collect() })
            }
            _ => Ok(match text.split_once('/') {
                Some((backend, model)) => Self::Model(backend.to_owned(), model.to_owned()),
                None => Self::Backend(text.to_owned()),
            }),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Home => f.write_str("@home"),
            Self::Gpu => f.write_str("@gpu"),
            Self::Cloud => f.write_str("@cloud"),
            Self::Free => f.write_str("@free"),
            Self::Backend(backend) => f.write_str(backend),
            Self::Model(backend, model) => write!(f, "{backend}/{model}"),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `[ai.alias.<name>]`, or `<name> = ["groq", "*"]` for its order alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
// The derived code becomes functions of the type, which the visitor below calls for a table.
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct Alias {
    /// Who is asked; empty: the rules' order. Who is not in it is not asked.
    pub order: Vec<Selector>,
    /// What the request is taken to be about; absent: it is looked at.
    pub intent: Option<Intent>,
    /// How far it may go at most, whatever the request says.
    pub privacy: Privacy,
    /// Its class, where the request names none.
    pub priority: Option<Priority>,
}

struct AliasVisitor;

impl<'de> Visitor<'de> for AliasVisitor {
    type Value = Alias;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of backends, or a table with order, intent, privacy, priority")
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Alias, A::Error> {
        let order = Vec::deserialize(value::SeqAccessDeserializer::new(seq))?;
        Ok(Alias { order, ..Alias::default() })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Alias, A::Error> {
        Self::Value::deserialize(value::MapAccessDeserializer::new(map))
    }
}

impl<'de> Deserialize<'de> for Alias {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AliasVisitor)
    }
}

impl Serialize for Alias {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}
