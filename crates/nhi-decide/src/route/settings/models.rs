//! What the configuration says of one model: its name alone, or a table. It asks no backend.

use nhi_model::ai::{Model, Price};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, Visitor, value},
};
use std::fmt;

/// A model of a backend. What is absent is taken from what the backend tells.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
// The derived code becomes functions of the type, which the visitor below calls for a table.
#[serde(remote = "Self", default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Its name there.
    pub name: String,
    /// Tokens of prompt and answer together.
    pub context_tokens: Option<u32>,
    /// Tokens of an answer.
    pub output_tokens_max: Option<u32>,
    /// Whether it can call tools.
    pub tools: Option<bool>,
    /// Whether it sees images.
    pub vision: Option<bool>,
    /// Whether it makes embeddings, and then no answers.
    pub embeds: Option<bool>,
    /// Parameters, thousand millions.
    pub billions: Option<f64>,
    /// What it costs.
    pub price: Option<Price>,
    /// How good its answers are, 0 to 10.
    pub quality: Option<f64>,
    /// Whether a home server only passes it on to a cloud.
    pub elsewhere: bool,
    /// Memory it takes without any context, bytes.
    pub memory_bytes: Option<u64>,
    /// Memory a token of context takes, bytes.
    pub token_bytes: Option<u64>,
}

impl ModelSettings {
    /// A model of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// What is known of the model: the configuration before what the backend told, except that `elsewhere` is so when
    /// either says so.
    pub fn joined(&self, told: Option<&Model>) -> Model {
        let told = told.cloned().unwrap_or_default();
        Model {
            name: self.name.clone(),
            context_tokens: self.context_tokens.or(told.context_tokens),
            output_tokens_max: self.output_tokens_max.or(told.output_tokens_max),
            tools: self.tools.or(told.tools),
            vision: self.vision.or(told.vision),
            embeds: self.embeds.unwrap_or(told.embeds),
            billions: self.billions.or(told.billions),
            price: self.price.or(told.price),
            elsewhere: self.elsewhere || told.elsewhere,
        }
    }
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = ModelSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a model's name, or a table with its name and what it can")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<ModelSettings, E> {
        Ok(ModelSettings::named(name))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ModelSettings, A::Error> {
        let model = Self::Value::deserialize(value::MapAccessDeserializer::new(map))?;
        if model.name.is_empty() {
            return Err(de::Error::missing_field("name"));
        }
        Ok(model)
    }
}

impl<'de> Deserialize<'de> for ModelSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ModelVisitor)
    }
}

impl Serialize for ModelSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}
