//! The digest that binds a plan: SHA-256 over its JSON with sorted keys and no digest in it.

use nhi_model::plan::{Digest, Plan};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// The digest of all of a plan but the digest that stands in it.
pub fn digest(plan: &Plan) -> Digest {
    let bare = Plan { digest: None, ..plan.clone() };
    let value = serde_json::to_value(&bare).expect("a plan has text keys and no failing serializer");
    let mut text = String::new();
    canonical(&value, &mut text);
    Digest::of(Sha256::digest(text.as_bytes()).into())
}

/// JSON in one form: keys sorted, no white space, numbers and texts as serde_json writes them.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            out.push('{');
            for (at, name) in names.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(&fields[name], out);
            }
            out.push('}');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_meaning_has_one_form() {
        let mut text = String::new();
        canonical(&json!({"b": [1, "a\"\n", null], "a": {"d": true, "c": {}}}), &mut text);
        assert_eq!(text, r#"{"a":{"c":{},"d":true},"b":[1,"a\"\n",null]}"#);
    }
}
