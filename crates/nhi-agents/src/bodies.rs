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
pub(crate) struct ChatBody(pub(crate) Json);

/// What `ai.route` takes: either of them.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct EitherBody(pub(crate) Json);

impl JsonSchema for ChatBody {
    fn schema_name() -> Cow<'static, str> {
        "ChatBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let properties = fields(generator);
        json_schema!({
            "type": "object",
            "description": "OpenAI's chat.completions: what is read of it here; all else is passed on.",
            "properties": properties,
            "required": ["messages"],
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
        let texts = json!({ "description": "Instead of messages, for vectors: a text, or a list of texts." });
        properties.insert("input".to_owned(), texts);
        json_schema!({
            "type": "object",
            "description": "A body of ai.chat (with messages) or of ai.embed (with input).",
            "properties": properties,
        })
    }
}

/// What is read of a conversation.
fn fields(generator: &mut SchemaGenerator) -> Json {
    let privacy = generator.subschema_for::<Privacy>();
    let priority = generator.subschema_for::<Option<Priority>>();
    let message = json!({
        "type": "object",
        "properties": {
            "role": { "type": "string", "minLength": 1 },
            "content": { "type": ["string", "array", "null"] },
        },
        "required": ["role"],
    });
    let wishes = json!({
        "properties": {
            "privacy": privacy,
            "priority": priority,
            "project": { "type": ["string", "null"] },
        },
        "additionalProperties": false,
    });
    let model = "An alias, a model or <backend>/<model>; auto when absent.";
    let fields = [
        ("messages", json!({ "type": "array", "minItems": 1, "items": message })),
        ("model", json!({ "type": ["string", "null"], "description": model })),
        (
            "stream",
            json!({ "type": ["boolean", "null"], "description": "Whether the answer comes in frames." }),
        ),
        // Nobody reads it beside the next one.
        ("max_tokens", json!({ "description": "Most tokens of the answer, from 1 on." })),
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
    use serde_json::Value;

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

    fn check(body: &Value, fits_chat: bool, fits_either: bool) {
        let of = body.as_object().unwrap();
        let told = (fits(&schema::<ChatBody>(), of), fits(&schema::<EitherBody>(), of));
        assert_eq!(told, (fits_chat, fits_either), "{body}");
        // What is taken fits: a schema that says otherwise keeps somebody out.
        let is_taken = read(of, &identity::owner(), &Settings::default()).is_ok();
        assert!(fits_either || !is_taken, "{body}");
    }

    #[test]
    fn what_is_taken_fits_and_what_is_wrong_does_not() {
        let message =
            json!([{ "role": "user" }, { "role": "x", "content": [{ "type": "text" }], "name": "me" }]);
        let wishes = json!({ "privacy": "no-training", "priority": null, "project": null });
        check(&json!({ "messages": message }), true, true);
        check(&json!({ "messages": message, "model": null, "nhi": null, "stream": null }), true, true);
        check(&json!({ "messages": message, "model": "m", "nhi": wishes, "stream": true }), true, true);
        check(&json!({ "messages": message, "max_completion_tokens": 7, "max_tokens": "?" }), true, true);
        check(&json!({ "messages": message, "input": 7, "tools": [], "seed": 7 }), true, true);
        check(&json!({ "input": "?" }), false, true);
        check(&json!({ "input": [[1, 2]], "nhi": [] }), false, true);
        for wrong in [
            json!({ "messages": "?" }),
            json!({ "messages": message, "model": 7 }),
            json!({ "messages": message, "stream": "yes" }),
            json!({ "messages": message, "max_completion_tokens": "many" }),
        ] {
            check(&wrong, false, false);
        }
        let chat = schema::<ChatBody>();
        assert_eq!(chat["properties"]["nhi"]["properties"]["privacy"]["$ref"], "#/$defs/Privacy");
    }
}
