//! JSON Schemas made small: what a model reads before it calls has to fit beside its work. Shapes stay true, detail goes;
//! the whole schema is a resource. It looks up nothing and trusts nothing: schemas of others may be huge or circular.
//!
//! A request's schema may become wider than it was, never narrower: the service judges. An answer's is cut to its first
//! level, so that every answer still has it.

use serde_json::{Map, Value, json};
use std::{cell::RefCell, collections::BTreeSet};

/// How deep a schema is followed.
const DEPTH_MAX: usize = 12;
/// How many properties of one object are shown: more is no tool for a model.
const PROPERTIES_MAX: usize = 64;
/// How much of a description is kept, characters.
const DESCRIPTION_CHARS_MAX: usize = 200;
/// How long the list of a union's words may get in a description, characters.
const USAGE_CHARS_MAX: usize = 1_200;
/// What is kept of a schema as it is.
const KEPT: &[&str] =
    &["enum", "const", "pattern", "maximum", "exclusiveMinimum", "minItems", "maxItems", "maxLength"];

pub(crate) type Object = Map<String, Value>;

/// The schema of a request, small. One that asks for no object is asked for in the field `body`.
pub(crate) struct Input {
    pub(crate) schema: Object,
    /// Whether the request is what `body` holds.
    pub(crate) wrapped: bool,
}

/// What a tool takes whose endpoint takes `schema`.
pub(crate) fn input(schema: Option<&Value>) -> Input {
    let Some(root) = schema else { return Input { schema: anything(), wrapped: false } };
    let small = Lean::new(root).lean(root, 0);
    let is_other = small.get("type").is_some_and(|kind| kind != "object");
    if is_other {
        let schema = json!({"type": "object", "properties": {"body": small}, "required": ["body"]});
        return Input { schema: object(schema), wrapped: true };
    }
    let mut schema = object(small);
    schema.remove("description");
    schema.insert("type".to_owned(), "object".into());
    schema.entry("properties").or_insert_with(|| json!({}));
    Input { schema, wrapped: false }
}

/// An object of which nothing is known.
pub(crate) fn anything() -> Object {
    object(json!({"type": "object", "properties": {}}))
}

/// The first level of an answer's schema, when the answer is an object.
pub(crate) fn output(schema: Option<&Value>) -> Option<Object> {
    let root = schema?;
    let lean = Lean::new(root);
    let root = lean.resolved(root)?;
    if root.get("type").is_some_and(|kind| kind != "object") {
        return None;
    }
    let properties = root.get("properties")?.as_object()?;
    let shown = properties.iter().take(PROPERTIES_MAX);
    let first: Object = shown.map(|(name, schema)| (name.clone(), lean.kind_of(schema))).collect();
    Some(object(json!({"type": "object", "properties": first})))
}

/// One schema for several requests of which `word` names one: their properties together, none of them needed.
pub(crate) fn choice(word: &str, members: &[(&str, Object)]) -> Object {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let mut properties = Object::new();
    let mut usages = Vec::new();
    for (name, schema) in members {
        usages.push(usage(name, schema, ""));
        for (property, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            properties.entry(property.clone()).or_insert_with(|| schema.clone());
        }
    }
    properties
        .insert(word.to_owned(), json!({"type": "string", "enum": names, "description": usages.join("; ")}));
    object(json!({"type": "object", "properties": properties, "required": [word]}))
}

/// `name(needed, perhaps?)`
fn usage(name: &str, schema: &Object, without: &str) -> String {
    let needed: BTreeSet<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let all = schema.get("properties").and_then(Value::as_object);
    let names = all.into_iter().flatten().map(|(name, _)| name.as_str()).filter(|name| *name != without);
    let (first, then): (Vec<&str>, Vec<&str>) = names.partition(|name| needed.contains(name));
    let words: Vec<String> =
        first.into_iter().map(str::to_owned).chain(then.into_iter().map(|name| format!("{name}?"))).collect();
    format!("{name}({})", words.join(", "))
}

fn object(value: Value) -> Object {
    match value {
        Value::Object(object) => object,
        _ => anything(),
    }
}

/// A schema on its way to a small one.
struct Lean<'a> {
    root: &'a Value,
    /// What is being made small just now: whoever comes back to one of them goes round in a circle.
    open: RefCell<Vec<&'a Value>>,
}

impl<'a> Lean<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, open: RefCell::new(Vec::new()) }
    }

    /// What a reference means; itself when it is none. `None` when it leads nowhere, or outside.
    fn resolved(&self, schema: &'a Value) -> Option<&'a Value> {
        let mut schema = schema;
        for _ in 0..DEPTH_MAX {
            let Some(target) = schema.get("$ref").and_then(Value::as_str) else { return Some(schema) };
            schema = self.root.pointer(target.strip_prefix('#')?)?;
        }
        None
    }

    fn lean(&self, schema: &'a Value, depth: usize) -> Value {
        let Some(found) = self.resolved(schema).filter(|_| depth < DEPTH_MAX) else {
            return described(schema, json!({}));
        };
        if self.open.borrow().iter().any(|open| std::ptr::eq(*open, found)) {
            return described(schema, json!({"type": "object"}));
        }
        self.open.borrow_mut().push(found);
        let small = self.whole(found, depth);
        self.open.borrow_mut().pop();
        // What stands beside a reference says more than what it leads to.
        if std::ptr::eq(found, schema) { small } else { described(schema, small) }
    }

    fn whole(&self, schema: &'a Value, depth: usize) -> Value {
        let variants = ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array());
        if let Some(variants) = variants {
            let is_null = |variant: &&Value| variant.get("type").is_some_and(|kind| kind == "null");
            let real: Vec<&Value> = variants.iter().filter(|variant| !is_null(variant)).collect();
            return described(schema, self.union(&real, depth));
        }
        let mut small = Object::new();
        if let Some(kind) = kind(schema) {
            small.insert("type".to_owned(), kind);
        }
        for word in KEPT {
            if let Some(value) = schema.get(word) {
                small.insert((*word).to_owned(), value.clone());
            }
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let shown = properties.iter().take(PROPERTIES_MAX);
            let shown: Object =
                shown.map(|(name, schema)| (name.clone(), self.lean(schema, depth + 1))).collect();
            small.insert("properties".to_owned(), shown.into());
            if let Some(required) =
                schema.get("required").filter(|required| required.as_array().is_some_and(|r| !r.is_empty()))
            {
                small.insert("required".to_owned(), required.clone());
            }
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(word).filter(|inner| inner.is_object()) {
                small.insert(word.to_owned(), self.lean(inner, depth + 1));
            }
        }
        described(schema, small.into())
    }

    /// Variants of one thing: words become one list, objects one object that has the fields of all.
    fn union(&self, variants: &[&'a Value], depth: usize) -> Value {
        if let [one] = variants {
            return self.lean(one, depth);
        }
        let resolved: Vec<&Value> = variants.iter().filter_map(|variant| self.resolved(variant)).collect();
        if let Some(words) = words(&resolved) {
            return json!({"type": "string", "enum": words});
        }
        if resolved.len() == variants.len() && resolved.iter().all(|v| v.get("properties").is_some()) {
            return self.merged(&resolved, depth);
        }
        json!({})
    }

    fn merged(&self, variants: &[&'a Value], depth: usize) -> Value {
        let tag = tag(variants);
        let mut properties = Object::new();
        let (mut names, mut usages, mut shown) = (Vec::new(), Vec::new(), 0);
        for variant in variants {
            let small = object(self.whole(variant, depth));
            if let Some((field, name)) = tag.and_then(|field| Some((field, constant(variant, field)?))) {
                let usage = usage(name, &small, field);
                shown += usage.len();
                usages.extend((shown < USAGE_CHARS_MAX).then_some(usage));
                names.push(name);
            }
            for (property, schema) in small.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                properties.entry(property.clone()).or_insert_with(|| schema.clone());
            }
        }
        let mut small = json!({"type": "object", "properties": properties});
        if let Some(field) = tag {
            small["properties"][field] =
                json!({"type": "string", "enum": names, "description": usages.join(" ")});
            small["required"] = json!([field]);
        }
        small
    }

    /// The type alone, of a field of an answer.
    fn kind_of(&self, schema: &'a Value) -> Value {
        match self.resolved(schema).and_then(|schema| schema.get("type")) {
            Some(kind) => json!({ "type": kind }),
            None => json!({}),
        }
    }
}

/// The type without the `null` that only means that a field may be left out.
fn kind(schema: &Value) -> Option<Value> {
    match schema.get("type")? {
        Value::Array(kinds) => {
            let real: Vec<&Value> = kinds.iter().filter(|kind| *kind != "null").collect();
            match real[..] {
                [one] => Some(one.clone()),
                _ => None,
            }
        }
        kind => Some(kind.clone()),
    }
}

fn described(from: &Value, mut small: Value) -> Value {
    if let (Some(text), Some(object)) =
        (from.get("description").and_then(Value::as_str), small.as_object_mut())
    {
        let own = object.get("description").and_then(Value::as_str);
        let text = line(text, DESCRIPTION_CHARS_MAX);
        // A list of words of a union is worth more than a sentence about it.
        if own.is_none_or(|own| own.len() < DESCRIPTION_CHARS_MAX) && !text.is_empty() {
            object.insert("description".to_owned(), text.into());
        }
    }
    small
}

/// A text on one line, cut.
pub(crate) fn line(text: &str, chars_max: usize) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let whole = words.join(" ");
    if whole.chars().count() <= chars_max {
        return whole;
    }
    let cut: String = whole.chars().take(chars_max - 1).collect();
    format!("{cut}…")
}

/// The words of variants that are words alone.
fn words(variants: &[&Value]) -> Option<Vec<Value>> {
    let mut words = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum").and_then(Value::as_array)) {
            (Some(word), _) if word.is_string() => words.push(word.clone()),
            (_, Some(list)) if list.iter().all(Value::is_string) => words.extend(list.iter().cloned()),
            _ => return None,
        }
    }
    Some(words)
}

/// The field that has another word in each variant.
fn tag<'a>(variants: &[&'a Value]) -> Option<&'a str> {
    let first = variants.first()?.get("properties")?.as_object()?;
    let candidates = first.keys().map(String::as_str);
    candidates.into_iter().find(|field| variants.iter().all(|variant| constant(variant, field).is_some()))
}

/// The one word a field of a variant has.
pub(crate) fn constant<'a>(variant: &'a Value, field: &str) -> Option<&'a str> {
    variant.get("properties")?.get(field)?.get("const")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_union_becomes_one_object_with_a_list_of_words() {
        let schema = json!({
            "type": "object", "required": ["intent"], "additionalProperties": false,
            "properties": {"intent": {"$ref": "#/$defs/Intent", "description": "What."}},
            "$defs": {
                "Guest": {"type": "string", "description": "a guest", "minLength": 1},
                "Intent": {"oneOf": [
                    {"type": "object", "required": ["do", "guest"], "properties": {
                        "do": {"const": "start", "type": "string"}, "guest": {"$ref": "#/$defs/Guest"}}},
                    {"type": "object", "required": ["do", "guest"], "properties": {
                        "do": {"const": "stop", "type": "string"}, "guest": {"$ref": "#/$defs/Guest"},
                        "hard": {"type": ["boolean", "null"], "default": null}}},
                    {"type": "object", "required": ["do", "of"], "properties": {
                        "do": {"const": "all", "type": "string"},
                        "of": {"type": "array", "items": {"$ref": "#/$defs/Intent"}}}},
                ]},
            },
        });
        let small = input(Some(&schema));
        let intent = &small.schema["properties"]["intent"];
        assert_eq!(intent["properties"]["do"]["enum"], json!(["start", "stop", "all"]));
        assert_eq!(intent["properties"]["do"]["description"], "start(guest) stop(guest, hard?) all(of)");
        assert_eq!(intent["properties"]["hard"], json!({"type": "boolean"}));
        assert_eq!(intent["required"], json!(["do"]));
        let items = &intent["properties"]["of"]["items"];
        assert_eq!(
            (&items["type"], items.get("properties")),
            (&json!("object"), None),
            "the circle is not gone round"
        );
        let text = Value::from(small.schema).to_string();
        assert!(!text.contains("$ref") && !text.contains("$defs"), "{text}");
    }

    #[test]
    fn what_is_no_object_is_asked_for_in_a_field() {
        let small = input(Some(&json!({"type": "array", "items": {"type": "string"}})));
        assert!(small.wrapped);
        assert_eq!(small.schema["required"], json!(["body"]));
        let none = input(None);
        assert!(!none.wrapped && none.schema["type"] == "object");
    }

    #[test]
    fn hostile_schemas_are_contained() {
        let circle = json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}});
        assert_eq!(input(Some(&circle)).schema["type"], "object");
        assert_eq!(output(Some(&circle)), None);
        let outside = json!({"type": "object", "properties": {"a": {"$ref": "https://example.com/a.json"}}});
        assert_eq!(input(Some(&outside)).schema["properties"]["a"], json!({}));
        let own = json!({"type": "object", "properties": {"next": {"$ref": "#"}}});
        assert_eq!(input(Some(&own)).schema["properties"]["next"], json!({"type": "object"}));
        let wide: Object = (0..500).map(|n| (format!("p{n}"), json!({"type": "string"}))).collect();
        let small = input(Some(&json!({"type": "object", "properties": wide})));
        assert_eq!(small.schema["properties"].as_object().unwrap().len(), PROPERTIES_MAX);
        assert_eq!(line("a\n\u{7}b   c", 20), "a b c");
    }

    #[test]
    fn an_answer_is_cut_to_its_first_level() {
        let schema = json!({
            "type": "object", "required": ["a"],
            "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"type": ["string", "null"]}, "c": {}},
            "$defs": {"A": {"type": "object", "properties": {"deep": {"type": "integer"}}}},
        });
        let small = Value::from(output(Some(&schema)).unwrap());
        let fields = json!({"a": {"type": "object"}, "b": {"type": ["string", "null"]}, "c": {}});
        assert_eq!(small, json!({"type": "object", "properties": fields}));
        assert_eq!(output(Some(&json!({"type": "array"}))), None);
    }
}
