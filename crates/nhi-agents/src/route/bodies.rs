//! Bodies of OpenAI's, and schemas of what is read in them here. They stay as they came: a field that nobody here knows
//! passes through. It checks nothing; `nhi_decide::route::read` does, and says which field is wrong.

use nhi_decide::weave::Json;
use nhi_model::ai::{ORIGIN_FIELD, Priority, Privacy};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::json;
use std::borrow::Cow;

/// What `ai.chat` takes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct ChatBody(pub(super) Json);

/// What `ai.embed` takes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct EmbedBody(pub(super) Json);

/// What `ai.route` takes: either of them.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct EitherBody(pub(super) Json);

impl JsonSchema for ChatBody {
    fn schema_name() -> Cow<'static, str> {
        "ChatBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = shared(generator);
        properties.extend(of_chat());
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
        let mut properties = shared(generator);
        properties.extend(of_embed());
        json_schema!({
            "type": "object",
            "description": "OpenAI's embeddings: what is read of it here; all else is passed on.",
            "properties": properties,
            "required": ["input"],
        })
    }
}

impl JsonSchema for EitherBody {
    fn schema_name() -> Cow<'static, str> {
        "EitherBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = shared(generator);
        properties.extend(of_chat().into_iter().chain(of_embed()));
        json_schema!({
            "type": "object",
            "description": "A body of ai.chat (with messages) or of ai.embed (with input).",
            "properties": properties,
            "anyOf": [{ "required": ["messages"] }, { "required": ["input"] }],
        })
    }
}

/// What both have.
fn shared(generator: &mut SchemaGenerator) -> Json {
    let (privacy, priority) =
        (generator.subschema_for::<Privacy>(), generator.subschema_for::<Option<Priority>>());
    let wishes = json!({
        "type": ["object", "null"],
        "description": "What OpenAI's format has no word for.",
        "properties": { "privacy": privacy, "priority": priority, "project": { "type": ["string", "null"] } },
        "additionalProperties": false,
    });
    let model = json!({
        "type": ["string", "null"],
        "description": "An alias (auto, coding, fast, local, private), a model's name or <backend>/<model>; auto when absent.",
    });
    [("model".to_owned(), model), (ORIGIN_FIELD.to_owned(), wishes)].into_iter().collect()
}

fn of_chat() -> Json {
    let message = json!({
        "type": "object",
        "properties": {
            "role": { "type": "string", "minLength": 1, "description": "system, user, assistant or tool" },
            "content": { "type": ["string", "array", "null"] },
        },
        "required": ["role"],
    });
    let limit = json!({ "type": ["integer", "null"], "minimum": 1 });
    let fields = [
        ("messages", json!({ "type": "array", "minItems": 1, "items": message })),
        (
            "stream",
            json!({ "type": ["boolean", "null"], "description": "Whether the answer comes in frames." }),
        ),
        ("max_tokens", limit.clone()),
        ("max_completion_tokens", limit),
    ];
    fields.map(|(name, schema)| (name.to_owned(), schema)).into_iter().collect()
}

fn of_embed() -> Json {
    let texts =
        json!({ "type": ["string", "array"], "minItems": 1, "description": "A text, or a list of texts." });
    Json::from_iter([("input".to_owned(), texts)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_decide::route::{Settings, read};
    use nhi_model::identity;
    use schemars::generate::SchemaSettings;
    use serde_json::Value;

    fn schema<T: JsonSchema>() -> Value {
        let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
        generator.into_root_schema_for::<T>().as_value().clone()
    }

    /// Whether a body has what a schema requires, of the sorts it names. No more of JSON Schema stands in them above.
    fn fits(schema: &Value, body: &Value) -> bool {
        let has = |schema: &Value| {
            let required = schema["required"].as_array().into_iter().flatten();
            required.filter_map(Value::as_str).all(|name| body.get(name).is_some())
        };
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
        let is_either = schema["anyOf"].as_array().is_none_or(|either| either.iter().any(has));
        has(schema) && is_either && body.as_object().unwrap().iter().all(is_of_sort)
    }

    /// A schema that refuses what is taken keeps somebody out.
    #[test]
    fn what_is_taken_fits_and_what_is_missing_does_not() {
        let [chat, embed, either] = [schema::<ChatBody>(), schema::<EmbedBody>(), schema::<EitherBody>()];
        let message =
            json!([{ "role": "user" }, { "role": "x", "content": [{ "type": "text" }], "name": "me" }]);
        let wishes = json!({ "privacy": "no-training", "priority": null, "project": null });
        for (body, is_chat) in [
            (json!({ "messages": message }), true),
            (
                json!({ "messages": message, "model": null, "nhi": null, "stream": null, "max_tokens": null }),
                true,
            ),
            (
                json!({ "messages": message, "model": "m", "nhi": wishes, "stream": true, "max_tokens": 7 }),
                true,
            ),
            (json!({ "messages": message, "input": "?", "tools": [], "seed": 7 }), true),
            (json!({ "input": "?" }), false),
            (json!({ "input": ["one", "two"], "model": "m", "dimensions": 64 }), false),
            (json!({ "input": [[1, 2]], "nhi": {} }), false),
        ] {
            let own = if is_chat { &chat } else { &embed };
            assert!(
                read(body.as_object().unwrap(), &identity::owner(), &Settings::default()).is_ok(),
                "{body}"
            );
            assert!(fits(own, &body) && fits(&either, &body), "{body}");
        }
        for body in [json!({}), json!({ "model": "m" }), json!({ "messages": "?" }), json!({ "input": 7 })] {
            assert!(
                read(body.as_object().unwrap(), &identity::owner(), &Settings::default()).is_err(),
                "{body}"
            );
            assert!(![&chat, &embed, &either].into_iter().any(|schema| fits(schema, &body)), "{body}");
        }
        assert_eq!(chat["properties"]["nhi"]["properties"]["privacy"]["$ref"], "#/$defs/Privacy");
    }
}
