//! Gathers the schemas of many endpoints under `components`: the same one once, different ones of the same name under
//! different names. A schema may be anybody's: what is no JSON Schema in it is left out, and what points elsewhere points
//! to nothing.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Json = Map<String, Value>;

/// Deepest nesting that is read; deeper is "anything".
const DEPTH_MAX: usize = 48;

/// The schemas so far.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    /// By name: what it is made of, so that the same one is known again, and itself.
    components: BTreeMap<String, (String, Value)>,
}

impl Schemas {
    /// Takes a schema in and gives a reference to it. `fallback` names it when it has no title.
    pub(super) fn add(&mut self, schema: &Value, fallback: &str) -> Value {
        let defs = Defs::of(schema);
        let title = schema.get("title").and_then(Value::as_str).filter(|title| is_name(title));
        let mut root = schema.clone();
        if let Value::Object(root) = &mut root {
            for key in ["$defs", "definitions", "title"] {
                root.remove(key);
            }
        }
        let mut taken = BTreeMap::new();
        let text = defs.closure(&root);
        let name = self.name_for(title.unwrap_or(fallback), &text);
        self.define(&name, text, &root, &defs, &mut taken);
        reference(&name)
    }

    /// A component of our own.
    pub(super) fn define_own(&mut self, name: &str, schema: Value) -> Value {
        self.components.insert(name.to_owned(), (schema.to_string(), schema));
        reference(name)
    }

    /// All of them.
    pub(super) fn into_components(self) -> Value {
        self.components.into_iter().map(|(name, (_, schema))| (name, schema)).collect::<Json>().into()
    }

    /// The name under which this content stands, or may.
    fn name_for(&self, wanted: &str, text: &str) -> String {
        let wanted = if is_name(wanted) { wanted } else { "Schema" };
        let numbered = (2_u32..).map(|n| format!("{wanted}_{n}"));
        let is_free = |name: &String| self.components.get(name).is_none_or(|(known, _)| known == text);
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).expect("there are enough numbers")
    }

    /// Enters a schema and what it refers to. `taken` are the names that those of this document have got.
    fn define(
        &mut self,
        name: &str,
        text: String,
        schema: &Value,
        defs: &Defs<'_>,
        taken: &mut BTreeMap<String, String>,
    ) {
        if self.components.contains_key(name) {
            return;
        }
        // Entered before it is read, so that one that refers to itself comes to an end.
        self.components.insert(name.to_owned(), (text, Value::Null));
        let clean = clean(schema, DEPTH_MAX, &mut |target| {
            let (target, schema) = defs.find(target)?;
            let known = taken.get(target).cloned();
            let name = known.unwrap_or_else(|| {
                let text = defs.closure(schema);
                let name = self.name_for(target, &text);
                taken.insert(target.to_owned(), name.clone());
                self.define(&name, text, schema, defs, taken);
                name
            });
            Some(reference(&name))
        });
        if let Some((_, component)) = self.components.get_mut(name) {
            *component = clean;
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn is_name(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=100).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// The definitions of one document.
struct Defs<'d>(BTreeMap<&'d str, &'d Value>);

impl<'d> Defs<'d> {
    fn of(schema: &'d Value) -> Self {
        let places = ["$defs", "definitions"].into_iter().filter_map(|place| schema.get(place)?.as_object());
        Self(places.flatten().map(|(name, schema)| (name.as_str(), schema)).collect())
    }

    /// What a `$ref` means.
    fn find(&self, target: &str) -> Option<(&'d str, &'d Value)> {
        let name = target.strip_prefix("#/$defs/").or_else(|| target.strip_prefix("#/definitions/"))?;
        let name = name.replace("~1", "/").replace("~0", "~");
        self.0.get_key_value(name.as_str()).map(|(name, schema)| (*name, *schema))
    }

    /// A schema with all that it refers to, as text: equal texts mean the same.
    fn closure(&self, schema: &Value) -> String {
        let (mut seen, mut open, mut text) = (BTreeSet::new(), vec![schema], schema.to_string());
        while let Some(schema) = open.pop() {
            for target in targets(schema) {
                if let Some((name, found)) = self.find(target)
                    && seen.insert(name)
                {
                    open.push(found);
                }
            }
        }
        for name in seen {
            text.push_str(&format!("\n{name} {}", self.0[name]));
        }
        text
    }
}

fn targets(schema: &Value) -> Vec<&str> {
    let (mut found, mut open) = (Vec::new(), vec![schema]);
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                open.extend(map.values());
            }
            Value::Array(values) => open.extend(values),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    found
}

/// What stands under a keyword.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Schema,
    Schemas,
    Named,
    Text,
    Texts,
    Count,
    Number,
    Flag,
    Types,
    List,
    Anything,
}

/// The keywords of JSON Schema that are passed on. Names for schemas inside schemas (`$id`, `$anchor`) are not: there is
/// nothing they could mean in another document.
fn shape(keyword: &str) -> Option<Shape> {
    Some(match keyword {
        "not"
        | "if"
        | "then"
        | "else"
        | "items"
        | "contains"
        | "additionalProperties"
        | "propertyNames"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Shape::Schema,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Shape::Schemas,
        "properties" | "patternProperties" | "dependentSchemas" => Shape::Named,
        "title" | "description" | "format" | "pattern" | "contentEncoding" | "contentMediaType" => {
            Shape::Text
        }
        "required" => Shape::Texts,
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties"
        | "minContains" | "maxContains" => Shape::Count,
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" | "multipleOf" => Shape::Number,
        "uniqueItems" | "deprecated" | "readOnly" | "writeOnly" => Shape::Flag,
        "type" => Shape::Types,
        "enum" | "examples" => Shape::List,
        "const" | "default" => Shape::Anything,
        _ => return None,
    })
}

/// A schema without what is none. `refer` says what a reference becomes; nothing: it may be anything.
fn clean(schema: &Value, depth: usize, refer: &mut impl FnMut(&str) -> Option<Value>) -> Value {
    let Value::Object(map) = schema else { return Value::Bool(schema != &Value::Bool(false)) };
    if depth == 0 {
        return Value::Bool(true);
    }
    let mut out = Json::new();
    if let Some(target) = map.get("$ref").and_then(Value::as_str)
        && let Some(Value::Object(reference)) = refer(target)
    {
        out.extend(reference);
    }
    for (keyword, value) in map {
        let Some(shape) = shape(keyword) else { continue };
        if let Some(value) = keep(shape, value, depth - 1, refer) {
            out.insert(keyword.clone(), value);
        }
    }
    out.into()
}

fn keep(
    shape: Shape,
    value: &Value,
    depth: usize,
    refer: &mut impl FnMut(&str) -> Option<Value>,
) -> Option<Value> {
    let is_schema = |value: &Value| value.is_object() || value.is_boolean();
    match (shape, value) {
        (Shape::Schema, value) if is_schema(value) => Some(clean(value, depth, refer)),
        (Shape::Schemas, Value::Array(all)) if !all.is_empty() => {
            Some(all.iter().map(|schema| clean(schema, depth, refer)).collect::<Vec<_>>().into())
        }
        (Shape::Named, Value::Object(all)) => {
            let cleaned = all.iter().map(|(name, schema)| (name.clone(), clean(schema, depth, refer)));
            Some(cleaned.collect::<Json>().into())
        }
        (Shape::Texts, Value::Array(all)) if all.iter().all(Value::is_string) => {
            let texts: BTreeSet<&str> = all.iter().filter_map(Value::as_str).collect();
            Some(texts.into_iter().collect::<Vec<_>>().into())
        }
        (Shape::Types, Value::String(word)) if is_type(word) => Some(value.clone()),
        (Shape::Types, Value::Array(all)) if !all.is_empty() => {
            let words: BTreeSet<&str> =
                all.iter().filter_map(Value::as_str).filter(|word| is_type(word)).collect();
            (words.len() == all.len()).then(|| words.into_iter().collect::<Vec<_>>().into())
        }
        (Shape::List, Value::Array(all)) if !all.is_empty() => Some(value.clone()),
        (Shape::Text, Value::String(_))
        | (Shape::Flag, Value::Bool(_))
        | (Shape::Number, Value::Number(_))
        | (Shape::Anything, _) => Some(value.clone()),
        (Shape::Count, Value::Number(number)) if number.is_u64() => Some(value.clone()),
        (
            Shape::Schema
            | Shape::Schemas
            | Shape::Named
            | Shape::Text
            | Shape::Texts
            | Shape::Count
            | Shape::Number
            | Shape::Flag
            | Shape::Types
            | Shape::List,
            _,
        ) => None,
    }
}

fn is_type(word: &str) -> bool {
    matches!(word, "null" | "boolean" | "object" | "array" | "number" | "string" | "integer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schemas: &[Value]) -> (Vec<Value>, Value) {
        let mut all = Schemas::default();
        let references = schemas.iter().map(|schema| all.add(schema, "fallback")).collect();
        (references, all.into_components())
    }

    #[test]
    fn the_same_schema_stands_once_and_another_of_its_name_beside_it() {
        let get = |inner: Value| {
            json!({
                "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Get", "type": "object",
                "properties": {"at": {"$ref": "#/$defs/At"}}, "$defs": {"At": inner},
            })
        };
        let (text, number) = (json!({"type": "string"}), json!({"type": "integer", "minimum": 0}));
        let (references, components) = check(&[get(text.clone()), get(text.clone()), get(number.clone())]);
        let at = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        assert_eq!(references, [at("Get"), at("Get"), at("Get_2")]);
        let object = |name: &str| json!({"type": "object", "properties": {"at": at(name)}});
        let expect = json!({"Get": object("At"), "At": text, "Get_2": object("At_2"), "At_2": number});
        assert_eq!(components, expect);
    }

    #[test]
    fn one_that_refers_to_itself_comes_to_an_end() {
        let tree = json!({
            "title": "Tree", "$ref": "#/$defs/Node",
            "$defs": {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}},
        });
        let (_, components) = check(&[tree]);
        assert_eq!(components["Node"]["properties"]["next"]["$ref"], "#/components/schemas/Node");
        assert_eq!(components["Tree"], json!({"$ref": "#/components/schemas/Node"}));
    }

    #[test]
    fn what_is_no_schema_is_left_out() {
        let odd = json!({
            "title": "a b", "type": 7, "required": "x", "$id": "http://evil.example/", "properties": {"$id": {"type": "string"}},
            "items": 3, "anyOf": [], "maxLength": -1, "enum": [], "unheard": {"of": 1}, "not": {"$ref": "http://evil.example/s"},
            "const": {"$ref": "#/$defs/x"},
        });
        let (references, components) = check(&[odd]);
        assert_eq!(references[0]["$ref"], "#/components/schemas/fallback");
        let expect =
            json!({"properties": {"$id": {"type": "string"}}, "not": {}, "const": {"$ref": "#/$defs/x"}});
        assert_eq!(components["fallback"], expect);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = (0..200).fold(json!({"type": "string"}), |inner, _| json!({"items": inner}));
        let (_, components) = check(&[deep]);
        assert!(components.to_string().matches("items").count() <= DEPTH_MAX, "{components}");
    }
}
