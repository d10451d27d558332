//! What changed between two states, field by field. It knows nothing of what records mean.

use nhi_model::{
    call::{FieldDiff, RecordDiff},
    key::Key,
};
use serde_json::{Map, Value};
use std::{borrow::Borrow, collections::BTreeMap};

/// The fields that differ, by JSON pointer. [`apply`] of them to `before` gives `after`.
///
/// Arrays of different length differ as a whole. `null` stands for an absent field, so where a field is or
/// becomes a real `null`, the object around it differs as a whole.
pub fn fields(before: &Value, after: &Value) -> BTreeMap<String, FieldDiff> {
    let mut out = BTreeMap::new();
    walk(before, after, &mut String::new(), &mut out);
    out
}

/// The records that came, went or changed.
pub fn records<V: Borrow<Value>>(
    before: &BTreeMap<Key, V>,
    after: &BTreeMap<Key, V>,
) -> BTreeMap<Key, RecordDiff> {
    let mut out = BTreeMap::new();
    for (key, was) in before {
        let was = was.borrow();
        match after.get(key).map(Borrow::<Value>::borrow) {
            None => {
                out.insert(key.clone(), RecordDiff::Removed { record: was.clone() });
            }
            Some(is) if is == was => {}
            Some(is) => {
                out.insert(key.clone(), RecordDiff::Changed { fields: fields(was, is) });
            }
        }
    }
    for (key, is) in after {
        if !before.contains_key(key) {
            out.insert(key.clone(), RecordDiff::Added { record: is.borrow().clone() });
        }
    }
    out
}

/// The record after the changes. A pointer that leads nowhere changes nothing.
pub fn apply(before: &Value, fields: &BTreeMap<String, FieldDiff>) -> Value {
    let mut record = before.clone();
    for (pointer, field) in fields {
        let Some((parent, last)) = pointer.rsplit_once('/') else {
            record = field.after.clone();
            continue;
        };
        match record.pointer_mut(parent) {
            Some(Value::Object(object)) => {
                let name = last.replace("~1", "/").replace("~0", "~");
                if field.after.is_null() {
                    object.remove(&name);
                } else {
                    object.insert(name, field.after.clone());
                }
            }
            Some(Value::Array(items)) => {
                if let Some(item) = last.parse().ok().and_then(|index: usize| items.get_mut(index)) {
                    *item = field.after.clone();
                }
            }
            Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) | None => {}
        }
    }
    record
}

fn walk(before: &Value, after: &Value, pointer: &mut String, out: &mut BTreeMap<String, FieldDiff>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(was), Value::Object(is)) if !hides_null(was, is) => {
            for (name, before) in was {
                let after = is.get(name).unwrap_or(&Value::Null);
                descend(name, before, after, pointer, out);
            }
            for (name, after) in is.iter().filter(|(name, _)| !was.contains_key(*name)) {
                descend(name, &Value::Null, after, pointer, out);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            for (index, (before, after)) in was.iter().zip(is).enumerate() {
                descend(&index.to_string(), before, after, pointer, out);
            }
        }
        _ => {
            out.insert(pointer.clone(), FieldDiff { before: before.clone(), after: after.clone() });
        }
    }
}

fn descend(
    name: &str,
    before: &Value,
    after: &Value,
    pointer: &mut String,
    out: &mut BTreeMap<String, FieldDiff>,
) {
    let length = pointer.len();
    pointer.push('/');
    pointer.push_str(&name.replace('~', "~0").replace('/', "~1"));
    walk(before, after, pointer, out);
    pointer.truncate(length);
}

/// Whether a differing field is a real `null` on one side, which a [`FieldDiff`] cannot tell from absence.
fn hides_null(was: &Map<String, Value>, is: &Map<String, Value>) -> bool {
    let differs_by_null = |(name, value): (&String, &Value), other: &Map<String, Value>| {
        value.is_null() && other.get(name) != Some(&Value::Null)
    };
    was.iter().any(|field| differs_by_null(field, is)) || is.iter().any(|field| differs_by_null(field, was))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn fields_are_named_by_pointer() {
        let check = |before: Value, after: Value, want: &[&str]| {
            let found = fields(&before, &after);
            assert_eq!(found.keys().collect::<Vec<_>>(), want, "{before} {after}");
            assert_eq!(apply(&before, &found), after);
        };
        check(json!({"a": 1, "b": {"c": 2}}), json!({"a": 1, "b": {"c": 3}}), &["/b/c"]);
        check(json!({"a": 1}), json!({"b": 1}), &["/a", "/b"]);
        check(json!({"a/b~": 1}), json!({"a/b~": 2}), &["/a~1b~0"]);
        check(json!({"": 1}), json!({"": 2}), &["/"]);
        check(json!([1, 2]), json!([1, 3]), &["/1"]);
        check(json!({"l": [1]}), json!({"l": [1, 2]}), &["/l"]);
        check(json!({"o": {"a": null}}), json!({"o": {}}), &["/o"]);
        check(json!({"o": {"a": 1}}), json!({"o": {"a": null}}), &["/o"]);
        check(json!(1), json!(null), &[""]);
        check(json!({"a": 1}), json!({"a": 1}), &[]);
    }

    #[test]
    fn records_come_go_and_change() {
        let map = |records: &[(&str, Value)]| -> BTreeMap<Key, Value> {
            records.iter().map(|(name, value)| (Key::host(name), value.clone())).collect()
        };
        let before = map(&[("gone", json!({})), ("same", json!({})), ("moved", json!({"a": 1}))]);
        let after = map(&[("new", json!({})), ("same", json!({})), ("moved", json!({"a": 2}))]);
        let found = records(&before, &after);
        assert_eq!(found.len(), 3);
        assert!(matches!(found[&Key::host("gone")], RecordDiff::Removed { .. }));
        assert!(matches!(found[&Key::host("new")], RecordDiff::Added { .. }));
        assert!(
            matches!(&found[&Key::host("moved")], RecordDiff::Changed { fields } if fields.contains_key("/a"))
        );
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..3i64).prop_map(Value::from),
            "[a~/]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a~/]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_later_record(before in json_value(), after in json_value()) {
            let found = fields(&before, &after);
            prop_assert_eq!(apply(&before, &found), after.clone());
            prop_assert_eq!(found.is_empty(), before == after);
            // And back.
            let back = found.into_iter()
                .map(|(pointer, field)| (pointer, FieldDiff { before: field.after, after: field.before }))
                .collect();
            prop_assert_eq!(apply(&after, &back), before);
        }
    }
}
