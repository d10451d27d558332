//! Looks whether arguments have an endpoint's schema, so that a wrong one is told by its field before anybody is asked.
//! It knows the words that schemas of requests are made of and passes over all others: the service judges in the end.

use super::schema::{constant, line};
use serde_json::Value;
use std::cell::Cell;

/// How deep arguments are followed.
const DEPTH_MAX: usize = 32;
/// How much is looked at in all: schemas of others may refer to themselves without end. What is left is the service's.
const STEPS_MAX: usize = 20_000;
/// Longest path of a field that is told, bytes.
const PATH_BYTES_MAX: usize = 200;
/// How much of a name or a word is told, characters.
const WORD_CHARS_MAX: usize = 64;
/// Words and names told at most.
const WORDS_MAX: usize = 32;
/// Names that are compared to find the one that was meant.
const NEAR_MAX: usize = 512;
/// Longest reference that is followed, bytes.
const REFERENCE_BYTES_MAX: usize = 256;

/// What is wrong with `value`, one sentence that names the field; `None` when nothing is.
pub(crate) fn wrong(schema: &Value, value: &Value) -> Option<String> {
    Check { root: schema, left: Cell::new(STEPS_MAX) }.at(schema, value, "", 0).err()
}

struct Check<'a> {
    root: &'a Value,
    /// Steps that may still be made.
    left: Cell<usize>,
}

impl Check<'_> {
    /// What a look at this schema costs, paid. False when there is nothing left to pay with.
    fn pay(&self, schema: &Value, value: &Value) -> bool {
        let lists = ["required", "enum", "type", "anyOf", "oneOf"];
        let length = |word: &&str| schema.get(*word).and_then(Value::as_array).map_or(0, Vec::len);
        let text = value.as_str().map_or(0, str::len) / 64;
        let cost = 1 + lists.iter().map(length).sum::<usize>() / 8 + text;
        let left = self.left.get();
        self.left.set(left.saturating_sub(cost));
        left > 0
    }

    fn at(&self, schema: &Value, value: &Value, path: &str, depth: usize) -> Result<(), String> {
        if depth > DEPTH_MAX || !self.pay(schema, value) {
            return Ok(());
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            let place = target.strip_prefix('#').filter(|place| place.len() <= REFERENCE_BYTES_MAX);
            let found = place.and_then(|place| self.root.pointer(place));
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
                if self.left.get() == 0 {
                    return Ok(());
                }
                match (properties.and_then(|p| p.get(name)), schema.get("additionalProperties")) {
                    (None, Some(Value::Bool(false))) => {
                        self.left.set(self.left.get().saturating_sub(NEAR_MAX));
                        let known = properties.into_iter().flatten().map(|(name, _)| name.as_str());
                        return Err(unknown(&join(path, name), name, known));
                    }
                    (Some(known), _) | (None, Some(known)) => {
                        self.at(known, inner, &join(path, name), depth + 1)?;
                    }
                    // Anything: nobody is told of it, so nothing is written for it.
                    (None, None) => {}
                }
            }
        }
        if let (Some(items), Some(values)) = (schema.get("items"), value.as_array()) {
            for (n, inner) in values.iter().enumerate() {
                if self.left.get() == 0 {
                    return Ok(());
                }
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
            variants.iter().filter_map(|v| v.get("const")).take(WORDS_MAX).map(told).collect();
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
        return Err(format!("field `{}` is not {}", shown(path), told(only)));
    }
    let Some(words) = schema.get("enum").and_then(Value::as_array) else { return Ok(()) };
    if words.contains(value) {
        return Ok(());
    }
    let words: Vec<String> = words.iter().take(WORDS_MAX).map(told).collect();
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

/// A word as it is told.
fn told(word: &Value) -> String {
    match word {
        Value::String(text) if text.len() > WORD_CHARS_MAX => format!("{:?}", line(text, WORD_CHARS_MAX)),
        Value::Array(_) | Value::Object(_) => "another value".to_owned(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => word.to_string(),
    }
}

fn unknown<'a>(here: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.take(NEAR_MAX).collect();
    match near(name, known.iter().copied()).first() {
        Some(near) => format!("field `{here}` is unknown; did you mean `{near}`?"),
        None => {
            let known: Vec<String> =
                known.into_iter().take(WORDS_MAX).map(|name| line(name, WORD_CHARS_MAX)).collect();
            format!("field `{here}` is unknown; there are {}", known.join(", "))
        }
    }
}

/// The names that look like `name`, the nearest first.
pub(crate) fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    if name.len() > WORD_CHARS_MAX {
        return Vec::new();
    }
    let mut scored: Vec<(f64, &str)> = known
        .filter(|known| known.len() <= WORD_CHARS_MAX)
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, known)| known).collect()
}

fn join(path: &str, name: &str) -> String {
    if path.len() > PATH_BYTES_MAX {
        return path.to_owned();
    }
    let name = line(name, WORD_CHARS_MAX);
    if path.is_empty() { name } else { format!("{path}.{name}") }
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

    #[test]
    fn of_fields_without_end_the_first_are_looked_at() {
        let schema = |count: usize| {
            let known: super::super::schema::Object =
                (0..count).map(|n| (format!("a{n}"), json!({}))).collect();
            let mut value = known.clone();
            value.insert("b".to_owned(), json!(1));
            (
                json!({"type": "object", "properties": known, "additionalProperties": false}),
                Value::from(value),
            )
        };
        let (few, value) = schema(100);
        assert!(wrong(&few, &value).unwrap().contains("field `b` is unknown"), "the control");
        let (many, value) = schema(STEPS_MAX);
        assert_eq!(wrong(&many, &value), None, "the rest is the service's");
    }

    #[test]
    fn work_and_words_are_bounded() {
        let next = |n: usize| json!({"$ref": format!("#/$defs/s{}", n + 1)});
        let defs: super::super::schema::Object =
            (0..40).map(|n| (format!("s{n}"), json!({"allOf": [next(n), next(n)]}))).collect();
        let bomb = json!({"$ref": "#/$defs/s0", "$defs": defs});
        let check = Check { root: &bomb, left: Cell::new(STEPS_MAX) };
        assert_eq!(check.at(&bomb, &json!({}), "", 0), Ok(()));
        assert_eq!(check.left.get(), 0, "two to the power of sixteen were not looked at");
        let long = json!({"enum": ["x".repeat(100_000)], "type": "string"});
        let told = wrong(&long, &json!("y")).unwrap();
        assert!(told.len() < 200, "{}", told.len());
        let strict = json!({"type": "object", "additionalProperties": false, "properties": {"a": {}}});
        let told = wrong(&strict, &json!({"y".repeat(100_000): 1})).unwrap();
        assert!(told.len() < 200 && told.contains("is unknown"), "{}", told.len());
    }
}
