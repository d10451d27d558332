//! Looks whether arguments have an endpoint's schema, so that a wrong one is told by its field before anybody is asked.
//! It knows the words that schemas of requests are made of and passes over all others: the service judges in the end.

use super::schema::constant;
use serde_json::Value;

/// How deep arguments are followed.
const DEPTH_MAX: usize = 32;

/// What is wrong with `value`, one sentence that names the field; `None` when nothing is.
pub(crate) fn wrong(schema: &Value, value: &Value) -> Option<String> {
    Check { root: schema }.at(schema, value, "", 0).err()
}

struct Check<'a> {
    root: &'a Value,
}

impl Check<'_> {
    fn at(&self, schema: &Value, value: &Value, path: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Ok(());
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let found = target.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return found.map_or(Ok(()), |found| self.at(found, value, path, depth + 1));
        }
        kind(schema, value, path)?;
        word(schema, value, path)?;
        range(schema, value, path)?;
        if let Some(object) = value.as_object() {
            let properties = schema.get("properties").and_then(Value::as_object);
            let required = schema.get("required").and_then(Value::as_array);
            if let Some(name) =
                required.into_iter().flatten().filter_map(Value::as_str).find(|n| !object.contains_key(*n))
            {
                return Err(format!("field `{}` is missing", join(path, name)));
            }
            for (name, inner) in object {
                let here = join(path, name);
                match (properties.and_then(|p| p.get(name)), schema.get("additionalProperties")) {
                    (Some(known), _) => self.at(known, inner, &here, depth + 1)?,
                    (None, Some(Value::Bool(false))) => {
                        return Err(unknown(
                            &here,
                            name,
                            properties.into_iter().flatten().map(|(n, _)| n.as_str()),
                        ));
                    }
                    (None, Some(more)) => self.at(more, inner, &here, depth + 1)?,
                    (None, None) => {}
                }
            }
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            for (n, inner) in values.iter().enumerate() {
                self.at(items, inner, &format!("{path}[{n}]"), depth + 1)?;
            }
        }
        for part in schema.get("allOf").and_then(Value::as_array).into_iter().flatten() {
            self.at(part, value, path, depth + 1)?;
        }
        let variants = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array());
        variants.map_or(Ok(()), |variants| self.any(variants, value, path, depth))
    }

    /// Whether one of them fits. Where a word says which is meant, what is wrong with that one is told.
    fn any(&self, variants: &[Value], value: &Value, path: &str, depth: usize) -> Result<(), String> {
        let faults: Vec<String> =
            variants.iter().map_while(|variant| self.at(variant, value, path, depth + 1).err()).collect();
        if faults.len() < variants.len() {
            return Ok(());
        }
        let is_meant = |variant: &Value| {
            let fields = value.as_object().into_iter().flatten();
            fields
                .filter_map(|(name, inner)| Some((constant(variant, name)?, inner)))
                .any(|(word, inner)| inner == word)
        };
        if let Some(meant) = variants.iter().position(is_meant) {
            return Err(faults[meant].clone());
        }
        let words: Vec<String> =
            variants.iter().filter_map(|v| v.get("const")).map(Value::to_string).collect();
        if words.len() == variants.len() {
            return Err(format!("field `{}` is none of {}", shown(path), words.join(", ")));
        }
        // Among optional things, what is wrong with the thing says more than that it is not null.
        let told = faults.into_iter().find(|fault| !fault.ends_with("is not null"));
        Err(told.unwrap_or_else(|| format!("field `{}` has none of the shapes it may have", shown(path))))
    }
}

fn kind(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let wanted: Vec<&str> = match schema.get("type") {
        Some(Value::String(kind)) => vec![kind],
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        Some(_) | None => return Ok(()),
    };
    let fits = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        _ => true,
    };
    if wanted.iter().any(|kind| fits(kind)) {
        return Ok(());
    }
    let got = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Err(match wanted[..] {
        ["null"] => format!("field `{}` is not null", shown(path)),
        _ => format!("field `{}` is {got}, expected {}", shown(path), wanted.join(" or ")),
    })
}

fn word(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(only) = schema.get("const").filter(|only| *only != value) {
        return Err(format!("field `{}` is not {only}", shown(path)));
    }
    let Some(words) = schema.get("enum").and_then(Value::as_array) else { return Ok(()) };
    if words.contains(value) {
        return Ok(());
    }
    let words: Vec<String> = words.iter().take(32).map(Value::to_string).collect();
    Err(format!("field `{}` is none of {}", shown(path), words.join(", ")))
}

fn range(schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    let limit = |name: &str| schema.get(name).and_then(Value::as_f64);
    if let Some(number) = value.as_f64() {
        if let Some(least) = limit("minimum").filter(|least| number < *least) {
            return Err(format!("field `{}` is less than {least}", shown(path)));
        }
        if let Some(most) = limit("maximum").filter(|most| number > *most) {
            return Err(format!("field `{}` is more than {most}", shown(path)));
        }
    }
    if let Some(text) = value.as_str() {
        let chars = text.chars().count() as f64;
        if limit("minLength").is_some_and(|least| chars < least) {
            return Err(format!("field `{}` is too short", shown(path)));
        }
        if limit("maxLength").is_some_and(|most| chars > most) {
            return Err(format!("field `{}` is too long", shown(path)));
        }
    }
    Ok(())
}

fn unknown<'a>(here: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    match near(name, known.iter().copied()).first() {
        Some(near) => format!("field `{here}` is unknown; did you mean `{near}`?"),
        None => format!("field `{here}` is unknown; there are {}", known.join(", ")),
    }
}

/// The names that look like `name`, the nearest first.
pub(crate) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut scored: Vec<(f64, &str)> = known
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, known)| known).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn shown(path: &str) -> &str {
    if path.is_empty() { "(all)" } else { path }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_wrong_field_is_named() {
        let schema = json!({
            "type": "object", "additionalProperties": false, "required": ["celsius"],
            "properties": {
                "celsius": {"type": "integer", "minimum": 0, "maximum": 100},
                "at": {"anyOf": [{"$ref": "#/$defs/At"}, {"type": "null"}]},
                "cups": {"type": "array", "items": {"type": "string", "maxLength": 3}},
                "tea": {"enum": ["green", "black"]},
                "then": {"oneOf": [
                    {"type": "object", "properties": {"do": {"const": "wait"}, "s": {"type": "integer"}}, "required": ["do", "s"]},
                    {"type": "object", "properties": {"do": {"const": "off"}}, "required": ["do"]},
                ]},
            },
            "$defs": {"At": {"type": "object", "properties": {"revision": {"type": "integer"}}}},
        });
        for good in [
            json!({"celsius": 5}),
            json!({"celsius": 5.0, "at": null, "cups": ["a"], "tea": "green", "then": {"do": "off"}}),
            json!({"celsius": 5, "at": {"revision": 7}, "then": {"do": "wait", "s": 1}}),
        ] {
            assert_eq!(wrong(&schema, &good), None, "{good}");
        }
        for (bad, told) in [
            (json!({}), "field `celsius` is missing"),
            (json!([]), "field `(all)` is an array, expected object"),
            (json!({"celsius": "5"}), "field `celsius` is a string, expected integer"),
            (json!({"celsius": 101}), "field `celsius` is more than 100"),
            (json!({"celsius": 1, "celcius": 1}), "field `celcius` is unknown; did you mean `celsius`?"),
            (
                json!({"celsius": 1, "at": {"revision": "x"}}),
                "field `at.revision` is a string, expected integer",
            ),
            (json!({"celsius": 1, "cups": ["a", "long"]}), "field `cups[1]` is too long"),
            (json!({"celsius": 1, "tea": "red"}), "field `tea` is none of \"green\", \"black\""),
            (json!({"celsius": 1, "then": {"do": "wait"}}), "field `then.s` is missing"),
        ] {
            assert_eq!(wrong(&schema, &bad).as_deref(), Some(told), "{bad}");
        }
    }

    #[test]
    fn endless_schemas_end() {
        let circle = json!({"$ref": "#"});
        assert_eq!(wrong(&circle, &json!({})), None);
    }
}
