//! Bodies and answers of OpenAI's, and schemas of what is read in them here. They stay as they came: a field that nobody
//! here knows passes through. It checks nothing; `nhi_decide::route::read` does, and says which field is wrong.

use nhi_decide::weave::Json;
use nhi_model::ai::{ORIGIN_FIELD, Origin, Priority, Privacy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::borrow::Cow;

/// What `ai.chat` takes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct ChatBody(pub(crate) Json);

/// What `ai.embed` takes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct EmbedBody(pub(crate) Json);

/// What `ai.embed` answers.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct EmbedAnswer(pub(crate) Json);

/// What `ai.route` takes: either of them.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct EitherBody(pub(crate) Json);

impl JsonSchema for ChatBody {
    fn schema_name() -> Cow<'static, str> {
        "ChatBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = fields(generator);
        let stream =
            json!({ "type": ["boolean", "null"], "description": "Whether the answer comes in frames." });
        properties.insert("stream".to_owned(), stream);
        json_schema!({
            "type": "object",
            "description": "OpenAI's chat.completions: what is read of it here; all else is passed on.",
            "properties": properties,
            "required": ["messages"],
        })
    }
}

impl JsonSchema for EmbedBody {
    fn schema_name() -> Cow<'static, str> {
        "EmbedBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let wishes = wishes(generator);
        json_schema!({
            "type": "object",
            "description": "OpenAI's embeddings: what is read of it here; all else is passed on.",
            "properties": {
                "input": {
                    "type": ["string", "array"],
                    "minItems": 1,
                    "description": "A text, or a list of texts.",
                },
                // Which names there are, `ai.models` tells.
                "model": { "type": ["string", "null"] },
                ORIGIN_FIELD: wishes,
            },
            "required": ["input"],
        })
    }
}

impl JsonSchema for EmbedAnswer {
    fn schema_name() -> Cow<'static, str> {
        "EmbedAnswer".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let origin = generator.subschema_for::<Origin>();
        // What a vector looks like there, its own server says: numbers, or base64 where that was asked for.
        json_schema!({
            "type": "object",
            "description": "OpenAI's list of embeddings.",
            "properties": {
                "data": { "type": "array", "description": "Each has its text's index and its vector, embedding." },
                "model": { "type": "string", "description": "As asked for; who made them is told in nhi." },
                ORIGIN_FIELD: origin,
            },
            "required": ["data", "model", ORIGIN_FIELD],
        })
    }
}

impl JsonSchema for EitherBody {
    fn schema_name() -> Cow<'static, str> {
        "EitherBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = fields(generator);
        // Nobody reads it beside messages.
        let texts = json!({ "description": "Texts, instead of messages." });
        properties.insert("input".to_owned(), texts);
        json_schema!({
            "type": "object",
            "description": "A body of ai.chat (with messages) or of ai.embed (with input).",
            "properties": properties,
        })
    }
}

/// What OpenAI's format has no word for.
fn wishes(generator: &mut SchemaGenerator) -> Value {
    let privacy = generator.subschema_for::<Privacy>();
    let priority = generator.subschema_for::<Option<Priority>>();
    json!({
        "properties": {
            "privacy": privacy,
            "priority": priority,
            "project": { "type": ["string", "null"] },
        },
        "additionalProperties": false,
    })
}

/// What is read of a conversation and makes a difference to who answers.
fn fields(generator: &mut SchemaGenerator) -> Json {
    let wishes = wishes(generator);
    let message = json!({
        "type": "object",
        "properties": {
            "role": { "type": "string", "minLength": 1 },
            "content": { "type": ["string", "array", "null"] },
        },
        "required": ["role"],
    });
    let model = "An alias, a model or <backend>/<model>; auto when absent.";
    let fields = [
        ("messages", json!({ "type": "array", "minItems": 1, "items": message })),
        ("model", json!({ "type": ["string", "null"], "description": model })),
        // Nobody reads it beside the next one.
        ("max_tokens", json!({})),
        ("max_completion_tokens", json!({ "type": ["integer", "null"], "minimum": 1 })),
        (ORIGIN_FIELD, wishes),
    ];
    fields.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_decide::route::{Settings, read};
    use nhi_model::identity;
    use schemars::generate::SchemaSettings;

    fn schema<T: JsonSchema>() -> Value {
        let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        generator.into_root_schema_for::<T>().as_value().clone()
    }

    /// Whether a body has what a schema requires, of the sorts it names.
    fn fits(schema: &Value, body: &Json) -> bool {
        let mut required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let sort = |value: &Value| match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let is_of_sort = |(name, value): (&String, &Value)| match &schema["properties"][name]["type"] {
            Value::String(one) => one == sort(value),
            Value::Array(some) => some.iter().any(|one| one == sort(value)),
            _ => true,
        };
        required.all(|name| body.contains_key(name)) && body.iter().all(is_of_sort)
    }

    fn check(body: &Value, fits_chat: bool, fits_embed: bool, fits_either: bool) {
        let of = body.as_object().unwrap();
        let told = [schema::<ChatBody>(), schema::<EmbedBody>(), schema::<EitherBody>()]
            .map(|schema| fits(&schema, of));
        assert_eq!(told, [fits_chat, fits_embed, fits_either], "{body}");
        // What is taken fits: a schema that says otherwise keeps somebody out.
        let Ok(ask) = read(of, &identity::owner(), &Settings::default()) else { return };
        assert!(fits_either && if ask.needs.embeds { fits_embed } else { fits_chat }, "{body}");
    }

    #[test]
    fn what_is_taken_fits_and_what_is_wrong_does_not() {
        let message =
            json!([{ "role": "user" }, { "role": "x", "content": [{ "type": "text" }], "name": "me" }]);
        let wishes = json!({ "privacy": "no-training", "priority": null, "project": null });
        check(&json!({ "messages": message }), true, false, true);
        check(&json!({ "messages": message, "model": null, "nhi": null, "stream": null }), true, false, true);
        check(
            &json!({ "messages": message, "model": "m", "nhi": wishes, "stream": true }),
            true,
            false,
            true,
        );
        check(
            &json!({ "messages": message, "max_completion_tokens": 7, "max_tokens": "?" }),
            true,
            false,
            true,
        );
        check(&json!({ "messages": message, "input": 7, "tools": [], "seed": 7 }), true, false, true);
        check(&json!({ "input": "" }), false, true, true);
        check(&json!({ "input": [[1, 2]], "nhi": [], "dimensions": 7 }), false, true, true);
        check(&json!({ "input": ["?"], "model": null, "nhi": wishes, "stream": null }), false, true, true);
        // Of texts and of `stream` the schema of either says nothing.
        for wrong in [json!({ "input": null }), json!({ "input": {} }), json!({ "input": 7 })] {
            check(&wrong, false, false, true);
        }
        check(&json!({ "messages": message, "stream": "yes" }), false, false, true);
        for wrong in [
            json!({ "messages": "?" }),
            json!({ "messages": message, "model": 7 }),
            json!({ "input": "?", "model": 7 }),
            json!({ "messages": message, "max_completion_tokens": "many" }),
        ] {
            check(&wrong, false, false, false);
        }
        for schema in [schema::<ChatBody>(), schema::<EmbedBody>()] {
            assert_eq!(schema["properties"]["nhi"]["properties"]["privacy"]["$ref"], "#/$defs/Privacy");
        }
        assert_eq!(schema::<EmbedBody>()["properties"]["input"]["minItems"], 1);
    }
}
