//! JSON Schemas made small: what a model reads before it calls has to fit beside its work. Shapes stay true, detail goes;
//! the whole schema is a resource. It looks up nothing and trusts nothing: schemas of others may be huge or circular.
//!
//! A request's schema may become wider than it was, never narrower but for `null` where a field may be left out as well:
//! the service judges. An answer's is cut to its first level, so that every answer still has it. What is no JSON Schema is
//! left out: clients compile all schemas of a list, and one that is none would cost them the whole list.

use serde_json::{Map, Value, json};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

/// How deep a schema is followed.
const DEPTH_MAX: usize = 12;
/// How many schemas inside one schema are looked at; what comes after may be anything.
const NODES_MAX: usize = 512;
/// Largest small schema, bytes of JSON; of a larger one the first level is left, or nothing.
const SCHEMA_BYTES_MAX: usize = 12 * 1024;
/// How many properties of one object are shown: more is no tool for a model.
const PROPERTIES_MAX: usize = 64;
/// Longest name of a property: what the model providers allow.
const NAME_CHARS_MAX: usize = 64;
/// Variants of a union and words of a list; of more nothing is said.
const VARIANTS_MAX: usize = 64;
/// Longest word of a list, bytes.
const WORD_BYTES_MAX: usize = 128;
/// Longest reference that is followed, bytes.
const REFERENCE_BYTES_MAX: usize = 256;
/// How much of a description is kept, characters.
const DESCRIPTION_CHARS_MAX: usize = 200;
/// How long the list of a union's words may get in a description, characters.
const USAGE_CHARS_MAX: usize = 1_200;
/// Limits that are kept. Patterns are not: whose engine would read them?
const NUMBERS: &[&str] = &["maximum", "exclusiveMinimum"];
const COUNTS: &[&str] = &["minItems", "maxItems", "maxLength"];
/// The types there are.
const TYPES: &[&str] = &["null", "boolean", "object", "array", "number", "string", "integer"];

pub(crate) type Object = Map<String, Value>;

/// The schema of a request, small. One that asks for no object is asked for in the field `body`.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) schema: Object,
    /// Whether the request is what `body` holds.
    pub(crate) wrapped: bool,
}

/// What a tool takes whose endpoint takes `schema`.
pub(crate) fn input(schema: Option<&Value>) -> Input {
    let Some(root) = schema else { return Input { schema: anything(), wrapped: false } };
    let lean = Lean::new(root);
    let mut small = lean.lean(root, 0);
    let is_other = small.get("type").map_or_else(|| !lean.takes_object(root, 0), |kind| kind != "object");
    if small.to_string().len() > SCHEMA_BYTES_MAX {
        small = lean.flat(root).map_or_else(|| json!({}), Value::from);
    }
    if is_other {
        if lean.takes_null(root, 0) {
            small = described(&small, json!({}));
        }
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
    Lean::new(root).flat(root)
}

/// One schema for several requests of which `word` names one: their properties together, none of them needed.
pub(crate) fn choice(word: &str, members: &[(&str, Object)]) -> Object {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let mut properties = Object::new();
    let mut usages = Vec::new();
    for (name, schema) in members {
        usages.push(usage(name, schema, ""));
        unite(&mut properties, schema);
    }
    properties
        .insert(word.to_owned(), json!({"type": "string", "enum": names, "description": usages.join("; ")}));
    object(json!({"type": "object", "properties": properties, "required": [word]}))
}

/// Adds the fields of one more request, or variant. Of a field that another one has in another shape, only what is true
/// of both is left.
fn unite(properties: &mut Object, schema: &Object) {
    let shape = |schema: &Value| {
        let mut shape = schema.clone();
        shape.as_object_mut().and_then(|object| object.remove("description"));
        shape
    };
    for (name, schema) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let known = properties.entry(name.clone()).or_insert_with(|| schema.clone());
        if shape(known) == shape(schema) {
            continue;
        }
        let kind = known.get("type").filter(|kind| schema.get("type") == Some(*kind));
        let common = kind.map_or_else(|| json!({}), |kind| json!({ "type": kind }));
        *known = described(known, described(schema, common));
    }
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
    /// How many more schemas are looked at.
    left: Cell<usize>,
}

impl<'a> Lean<'a> {
    fn new(root: &'a Value) -> Self {
        Self { root, open: RefCell::new(Vec::new()), left: Cell::new(NODES_MAX) }
    }

    /// What a reference means; itself when it is none. `None` when it leads nowhere, or outside.
    fn resolved(&self, schema: &'a Value) -> Option<&'a Value> {
        let mut schema = schema;
        for _ in 0..DEPTH_MAX {
            let Some(target) = schema.get("$ref").and_then(Value::as_str) else { return Some(schema) };
            let place = target.strip_prefix('#').filter(|place| place.len() <= REFERENCE_BYTES_MAX)?;
            schema = self.root.pointer(place)?;
        }
        None
    }

    /// Whether one more schema may be looked at.
    fn spend(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn lean(&self, schema: &'a Value, depth: usize) -> Value {
        if !self.spend() {
            return json!({});
        }
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
        if let Some(variants) = variants(schema) {
            if variants.len() > VARIANTS_MAX {
                return described(schema, json!({}));
            }
            let is_null = |variant: &&Value| variant.get("type").is_some_and(|kind| kind == "null");
            let real: Vec<&Value> = variants.iter().filter(|variant| !is_null(variant)).collect();
            return described(schema, self.union(&real, depth));
        }
        let mut small = Object::new();
        if let Some(kind) = kind(schema) {
            small.insert("type".to_owned(), kind);
        }
        small.extend(limits(schema));
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            let needed = needed(schema, properties);
            let mut shown_all = Object::new();
            for (name, inner) in shown(properties) {
                let inner_small = match needed.contains(&name.as_str()) {
                    true => self.needed(inner, depth + 1),
                    false => self.lean(inner, depth + 1),
                };
                shown_all.insert(name.clone(), inner_small);
            }
            small.insert("properties".to_owned(), shown_all.into());
            if !needed.is_empty() {
                small.insert("required".to_owned(), needed.into());
            }
        }
        for word in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(word).filter(|inner| inner.is_object()) {
                small.insert(word.to_owned(), self.needed(inner, depth + 1));
            }
        }
        described(schema, small.into())
    }

    /// What nobody may leave out. Its null says something, so it stays.
    fn needed(&self, schema: &'a Value, depth: usize) -> Value {
        let small = self.lean(schema, depth);
        if self.takes_null(schema, 0) { described(&small, json!({})) } else { small }
    }

    /// Variants of one thing: words become one list, objects one object that has the fields of all.
    fn union(&self, variants: &[&'a Value], depth: usize) -> Value {
        if let [one] = variants {
            return self.lean(one, depth + 1);
        }
        // What leads nowhere may be anything, and with it all of them.
        let resolved: Option<Vec<&Value>> = variants.iter().map(|variant| self.resolved(variant)).collect();
        let Some(resolved) = resolved.filter(|resolved| !resolved.is_empty()) else { return json!({}) };
        if let Some(words) = words(&resolved) {
            return json!({"type": "string", "enum": words});
        }
        if resolved.iter().all(|variant| variant.get("properties").is_some()) {
            return self.merged(&resolved, depth);
        }
        json!({})
    }

    fn merged(&self, variants: &[&'a Value], depth: usize) -> Value {
        let tag = tag(variants);
        let mut properties = Object::new();
        let (mut names, mut usages, mut shown) = (Vec::new(), Vec::new(), 0);
        for variant in variants {
            let small = object(self.lean(variant, depth + 1));
            if let Some((field, name)) = tag.and_then(|field| Some((field, constant(variant, field)?))) {
                let usage = usage(name, &small, field);
                shown += usage.len();
                usages.extend((shown < USAGE_CHARS_MAX).then_some(usage));
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            unite(&mut properties, &small);
        }
        let mut small = json!({"type": "object", "properties": properties});
        if let Some(field) = tag {
            small["properties"][field] =
                json!({"type": "string", "enum": names, "description": usages.join(" ")});
            small["required"] = json!([field]);
        }
        small
    }

    /// The first level of an object: its fields, and the type of each.
    fn flat(&self, schema: &'a Value) -> Option<Object> {
        let schema = self.resolved(schema)?;
        if schema.get("type").is_some_and(|kind| kind != "object") {
            return None;
        }
        let properties = schema.get("properties")?.as_object()?;
        let first: Object =
            shown(properties).map(|(name, schema)| (name.clone(), self.kind_of(schema))).collect();
        Some(object(json!({"type": "object", "properties": first})))
    }

    /// The type alone, of a field of an answer.
    fn kind_of(&self, schema: &'a Value) -> Value {
        let kinds = self.resolved(schema).map(kinds).unwrap_or_default();
        match kinds[..] {
            [] => json!({}),
            [one] => json!({ "type": one }),
            _ => json!({ "type": kinds }),
        }
    }

    /// Whether `null` may be what is asked for, beside other things. Of what nobody can tell: yes.
    fn takes_null(&self, schema: &'a Value, depth: usize) -> bool {
        let Some(schema) = self.resolved(schema).filter(|_| depth < DEPTH_MAX) else { return true };
        if kinds(schema).contains(&"null") {
            return true;
        }
        variants(schema).is_some_and(|all| {
            all.len() > VARIANTS_MAX
                || all.iter().any(|variant| {
                    // Only unions in unions lead on and on.
                    let is_leaf = self.resolved(variant).is_some_and(|found| variants(found).is_none());
                    (!is_leaf && !self.spend()) || self.takes_null(variant, depth + 1)
                })
        })
    }

    /// Whether an object may be what is asked for. Of what nobody can tell: yes.
    fn takes_object(&self, schema: &'a Value, depth: usize) -> bool {
        if depth > DEPTH_MAX || !self.spend() {
            return true;
        }
        let Some(schema) = self.resolved(schema) else { return true };
        let kinds = kinds(schema);
        if !kinds.is_empty() {
            return kinds.contains(&"object");
        }
        variants(schema).is_none_or(|variants| {
            variants.is_empty() || variants.iter().any(|variant| self.takes_object(variant, depth + 1))
        })
    }
}

fn variants(schema: &Value) -> Option<&Vec<Value>> {
    ["anyOf", "oneOf"].iter().find_map(|word| schema.get(word)?.as_array())
}

/// The properties a model is shown.
fn shown(properties: &Object) -> impl Iterator<Item = (&String, &Value)> {
    let is_plain = |name: &str| {
        let is_known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.chars().all(is_known)
    };
    properties.iter().take(4 * PROPERTIES_MAX).filter(move |(name, _)| is_plain(name)).take(PROPERTIES_MAX)
}

/// Those of them that may not be left out.
fn needed<'a>(schema: &'a Value, properties: &Object) -> Vec<&'a str> {
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten();
    let shown: BTreeSet<&str> = shown(properties).map(|(name, _)| name.as_str()).collect();
    let mut needed: Vec<&str> = Vec::new();
    for name in required.take(4 * PROPERTIES_MAX).filter_map(Value::as_str) {
        if shown.contains(name) && !needed.contains(&name) {
            needed.push(name);
        }
    }
    needed
}

/// What is said of words, numbers and lengths, as far as it means something.
fn limits(schema: &Value) -> Object {
    let mut kept = Object::new();
    let numbers = NUMBERS.iter().filter(|word| schema.get(**word).is_some_and(Value::is_number));
    let counts = COUNTS.iter().filter(|word| schema.get(**word).is_some_and(Value::is_u64));
    for word in numbers.chain(counts) {
        kept.insert((*word).to_owned(), schema[*word].clone());
    }
    if let Some(only) = schema.get("const").filter(|only| is_word(only)) {
        kept.insert("const".to_owned(), only.clone());
    }
    let list = schema.get("enum").and_then(Value::as_array).filter(|list| list.len() <= VARIANTS_MAX);
    if let Some(list) = list.filter(|list| !list.is_empty() && list.iter().all(is_word)) {
        kept.insert("enum".to_owned(), distinct(list.iter().cloned()).into());
    }
    kept
}

/// Whether it may stand in a list of words.
fn is_word(value: &Value) -> bool {
    match value {
        Value::String(text) => text.len() <= WORD_BYTES_MAX,
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
        Value::Array(_) | Value::Object(_) => false,
    }
}

fn distinct(words: impl Iterator<Item = Value>) -> Vec<Value> {
    let mut all = Vec::new();
    for word in words {
        if !all.contains(&word) {
            all.push(word);
        }
    }
    all
}

/// The types it names, when all of them are types.
fn kinds(schema: &Value) -> Vec<&str> {
    let named: Vec<&Value> = match schema.get("type") {
        Some(Value::Array(kinds)) if kinds.len() <= TYPES.len() => kinds.iter().collect(),
        Some(kind @ Value::String(_)) => vec![kind],
        Some(_) | None => Vec::new(),
    };
    let mut kinds: Vec<&str> = Vec::new();
    for kind in named {
        match kind.as_str().filter(|kind| TYPES.contains(kind)) {
            Some(kind) if !kinds.contains(&kind) => kinds.push(kind),
            Some(_) => {}
            None => return Vec::new(),
        }
    }
    kinds
}

/// The type without the `null` that only means that a field may be left out.
fn kind(schema: &Value) -> Option<Value> {
    let real: Vec<&str> = kinds(schema).into_iter().filter(|kind| *kind != "null").collect();
    match real[..] {
        [one] => Some(one.into()),
        _ => None,
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
    // Nobody's speech is read to its end.
    let text = text.char_indices().nth(4 * chars_max).map_or(text, |(at, _)| &text[..at]);
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
    let mut words: Vec<Value> = Vec::new();
    for variant in variants {
        let said = match (variant.get("const"), variant.get("enum").and_then(Value::as_array)) {
            (Some(word), _) => std::slice::from_ref(word),
            (None, Some(list)) if list.len() <= VARIANTS_MAX => &list[..],
            (None, _) => return None,
        };
        if !said.iter().all(|word| word.is_string() && is_word(word)) {
            return None;
        }
        words = distinct(words.into_iter().chain(said.iter().cloned()));
        if words.len() > VARIANTS_MAX {
            return None;
        }
    }
    Some(words)
}

/// The field that has another word in each variant.
fn tag<'a>(variants: &[&'a Value]) -> Option<&'a str> {
    let first = variants.first()?.get("properties")?.as_object()?;
    let is_tag = |field: &&str| {
        let word =
            |variant: &&Value| constant(variant, field).is_some_and(|word| word.len() <= WORD_BYTES_MAX);
        variants.iter().all(word)
    };
    shown(first).map(|(name, _)| name.as_str()).find(is_tag)
}

/// The one word a field of a variant has.
pub(crate) fn constant<'a>(variant: &'a Value, field: &str) -> Option<&'a str> {
    variant.get("properties")?.get(field)?.get("const")?.as_str()
}

#[cfg(test)]
mod tests;
