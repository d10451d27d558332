//! Gathers the schemas of many endpoints under `components`: the same one once, different ones of the same name under
//! different names. A schema may be anybody's: what is no JSON Schema in it is left out, and what points elsewhere points
//! to nothing.

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};

type Json = Map<String, Value>;

/// Deepest nesting that is read; deeper is "anything".
const DEPTH_MAX: usize = 48;

/// Definitions of one schema that are read, and schemas in all; what is beyond is "anything". Ours have a few dozen.
const DEFINITIONS_MAX: usize = 256;
const COMPONENTS_MAX: usize = 8_192;

/// What a schema with all it refers to is known again by.
type Hash = [u8; 32];

/// The schemas so far.
#[derive(Debug, Default)]
pub(super) struct Schemas {
    /// By name: what it is made of, so that the same one is known again, and itself.
    components: BTreeMap<String, (Hash, Value)>,
    /// As JSON.
    bytes: usize,
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
        if self.components.len() >= COMPONENTS_MAX {
            return json!({});
        }
        let hash = defs.closure(&Definition::of(&root));
        let name = self.name_for(title.unwrap_or(fallback), hash);
        self.define(&name, hash, &root, &defs);
        reference(&name)
    }

    /// A component of our own.
    pub(super) fn define_own(&mut self, name: &str, schema: Value) {
        self.components.insert(name.to_owned(), (hash_of(&schema), schema));
    }

    /// How many bytes of JSON those that were added have.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of them.
    pub(super) fn into_components(self) -> Value {
        self.components.into_iter().map(|(name, (_, schema))| (name, schema)).collect::<Json>().into()
    }

    /// The name under which this content stands, or may.
    fn name_for(&self, wanted: &str, hash: Hash) -> String {
        let wanted = if is_name(wanted) { wanted } else { "Schema" };
        let numbered = (2_u32..).map(|n| format!("{wanted}_{n}"));
        let is_free = |name: &String| self.components.get(name).is_none_or(|(known, _)| *known == hash);
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).expect("there are enough numbers")
    }

    /// Enters a schema and what it refers to, one after the other: a chain of references may be long.
    fn define(&mut self, name: &str, hash: Hash, schema: &Value, defs: &Defs<'_>) {
        if self.components.contains_key(name) {
            return;
        }
        // Entered before it is read, so that its name is taken, and one that refers to itself comes to an end.
        self.components.insert(name.to_owned(), (hash, Value::Null));
        let mut open = vec![(name.to_owned(), hash, schema)];
        // The names that the definitions of this document have got.
        let mut taken: BTreeMap<&str, String> = BTreeMap::new();
        while let Some((name, hash, schema)) = open.pop() {
            let clean = clean(schema, DEPTH_MAX, &mut |target| {
                let (target, definition) = defs.find(target)?;
                if let Some(name) = taken.get(target) {
                    return Some(reference(name));
                }
                if self.components.len() >= COMPONENTS_MAX {
                    return None;
                }
                let hash = defs.closure(definition);
                let name = self.name_for(target, hash);
                self.components.entry(name.clone()).or_insert_with(|| {
                    open.push((name.clone(), hash, definition.schema));
                    (hash, Value::Null)
                });
                taken.insert(target, name.clone());
                Some(reference(&name))
            });
            self.bytes += name.len() + clean.to_string().len();
            self.components.insert(name, (hash, clean));
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

fn hash_of(schema: &Value) -> Hash {
    Sha256::digest(schema.to_string()).into()
}

/// A schema and what it refers to by itself.
struct Definition<'d> {
    schema: &'d Value,
    hash: Hash,
    targets: BTreeSet<&'d str>,
}

impl<'d> Definition<'d> {
    fn of(schema: &'d Value) -> Self {
        Self { schema, hash: hash_of(schema), targets: targets(schema) }
    }
}

/// The definitions of one document.
struct Defs<'d>(BTreeMap<&'d str, Definition<'d>>);

impl<'d> Defs<'d> {
    fn of(schema: &'d Value) -> Self {
        let places = ["$defs", "definitions"].into_iter().filter_map(|place| schema.get(place)?.as_object());
        let all = places.flatten().take(DEFINITIONS_MAX);
        Self(all.map(|(name, schema)| (name.as_str(), Definition::of(schema))).collect())
    }

    /// What a `$ref` means.
    fn find(&self, target: &str) -> Option<(&'d str, &Definition<'d>)> {
        let name = target.strip_prefix("#/$defs/").or_else(|| target.strip_prefix("#/definitions/"))?;
        let name = name.replace("~1", "/").replace("~0", "~");
        self.0.get_key_value(name.as_str()).map(|(name, definition)| (*name, definition))
    }

    /// A schema with all that it refers to: equal hashes mean the same.
    fn closure(&self, root: &Definition<'_>) -> Hash {
        let (mut seen, mut open) = (BTreeSet::new(), vec![&root.targets]);
        while let Some(targets) = open.pop() {
            for target in targets {
                if let Some((name, found)) = self.find(target)
                    && seen.insert(name)
                {
                    open.push(&found.targets);
                }
            }
        }
        let mut hash = Sha256::new_with_prefix(root.hash);
        for name in seen {
            hash.update((name.len() as u64).to_be_bytes());
            hash.update(name);
            hash.update(self.0[name].hash);
        }
        hash.finalize().into()
    }
}

fn targets(schema: &Value) -> BTreeSet<&str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![schema]);
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

    #[test]
    fn a_long_chain_of_references_needs_no_deep_stack() {
        let link = |n: usize| json!({"properties": {"next": {"$ref": format!("#/$defs/A{n:04}")}}});
        let all: Json = (0..4_000).map(|n| (format!("A{n:04}"), link(n + 1))).collect();
        let chain = json!({"$ref": "#/$defs/A0000", "$defs": all});
        // Less than a thousand frames need.
        let small = std::thread::Builder::new().stack_size(512 * 1_024);
        let (references, components) =
            small.spawn(move || check(&[chain.clone(), chain])).unwrap().join().unwrap();
        assert_eq!(references[0], references[1]);
        assert_eq!(components.as_object().unwrap().len(), DEFINITIONS_MAX + 1);
        let last = format!("A{:04}", DEFINITIONS_MAX - 1);
        assert_eq!(components[&last], json!({"properties": {"next": {}}}), "beyond is anything");
        assert_eq!(components["A0000"]["properties"]["next"]["$ref"], "#/components/schemas/A0001");
    }
}
