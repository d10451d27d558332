//! Checks parameters the way PVE's JSON schema does, with its texts.
//!
//! A method's parameters are one string: names with their kind, `!` when required, `[]` for a numbered family
//! (`net[]` is `net0`, `net1`, …). Kinds: `s` text, `i` whole number, `b` boolean, `v` guest number, `n` node,
//! `c` configuration id (snapshot names), `l` list, `e(a|b)` one of.

use super::{ApiError, Params, route::Route};
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Parameter<'a> {
    name: &'a str,
    kind: &'a str,
    is_required: bool,
    is_family: bool,
}

fn parse(notation: &str) -> impl Iterator<Item = Parameter<'_>> {
    notation.split_whitespace().map(|word| {
        let (name, kind) = word.split_once(':').unwrap_or((word, "s"));
        let (kind, is_required) = kind.strip_suffix('!').map_or((kind, false), |kind| (kind, true));
        let (name, is_family) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
        Parameter { name, kind, is_required, is_family }
    })
}

/// Whether PVE reads this text as true.
pub(crate) fn is_true(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true")
}

fn is_false(text: &str) -> bool {
    matches!(text.to_ascii_lowercase().as_str(), "0" | "off" | "no" | "false")
}

/// Checks path parts and parameters; afterwards every parameter is a string or a list of strings, and
/// booleans are `1` or `0`.
pub(crate) fn check(
    route: &Route,
    vars: &BTreeMap<&'static str, String>,
    params: &mut Params,
) -> Result<(), ApiError> {
    let mut errors = BTreeMap::new();
    for (name, value) in vars {
        let kind = match *name {
            "vmid" => "v",
            "snapname" => "c",
            _ => continue,
        };
        if let Err(message) = check_value(kind, value) {
            errors.insert((*name).to_owned(), message);
        }
    }
    let known: Vec<Parameter<'_>> =
        route.params.split('+').flat_map(|part| parse(expand(part.trim()))).collect();
    for parameter in known.iter().filter(|parameter| parameter.is_required) {
        if !params.contains_key(parameter.name) {
            errors.insert(parameter.name.to_owned(), "property is missing and it is not optional".to_owned());
        }
    }
    for (name, value) in params.iter_mut() {
        if vars.contains_key(name.as_str()) {
            continue;
        }
        let Some(parameter) = known.iter().find(|parameter| fits(parameter, name)) else {
            let message =
                "property is not defined in schema and the schema does not allow additional properties";
            errors.insert(name.clone(), message.to_owned());
            continue;
        };
        match normal(parameter.kind, value) {
            Ok(normal) => *value = normal,
            Err(message) => drop(errors.insert(name.clone(), message)),
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::parameters(errors)) }
}

/// `@qemu` and `@lxc` stand for the configuration options of a kind of guest.
fn expand(part: &str) -> &str {
    match part {
        "@qemu" => super::config::OPTIONS_QEMU,
        "@lxc" => super::config::OPTIONS_LXC,
        other => other,
    }
}

fn fits(parameter: &Parameter<'_>, name: &str) -> bool {
    if !parameter.is_family {
        return parameter.name == name;
    }
    name.strip_prefix(parameter.name)
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn normal(kind: &str, value: &Value) -> Result<Value, String> {
    match value {
        Value::Array(list) => {
            let texts: Vec<String> = list.iter().map(as_text).collect();
            if kind == "l" {
                return Ok(json!(texts));
            }
            Err("type check ('string') failed - got ARRAY".to_owned())
        }
        other => {
            let text = as_text(other);
            check_value(kind, &text)?;
            Ok(match kind {
                "b" => json!(if is_true(&text) { "1" } else { "0" }),
                _ => json!(text),
            })
        }
    }
}

fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn check_value(kind: &str, text: &str) -> Result<(), String> {
    match kind {
        "i" => match text.parse::<i64>() {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("type check ('integer') failed - got '{text}'")),
        },
        "b" if !is_true(text) && !is_false(text) => {
            Err(format!("type check ('boolean') failed - got '{text}'"))
        }
        "v" => match text.parse::<u64>() {
            Err(_) => Err(format!("type check ('integer') failed - got '{text}'")),
            Ok(number) if number < 100 => Err("value must have a minimum value of 100".to_owned()),
            Ok(number) if number > 999_999_999 => {
                Err("value must have a maximum value of 999999999".to_owned())
            }
            Ok(_) => Ok(()),
        },
        "n" if !crate::lab::task::is_node_name(text) => {
            Err("invalid format - value does not look like a valid node name\n".to_owned())
        }
        "c" => check_configuration_id(text),
        kind => match kind.strip_prefix("e(").and_then(|kind| kind.strip_suffix(')')) {
            Some(words) if !words.split('|').any(|word| word == text) => Err(format!(
                "value '{text}' does not have a value in the enumeration '{}'",
                words.replace('|', ", ")
            )),
            _ => Ok(()),
        },
    }
}

fn check_configuration_id(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    let good = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && text.len() >= 2
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    if !good {
        return Err(format!("invalid format - invalid configuration ID '{text}'\n"));
    }
    if text.len() > 40 {
        return Err("value may only be 40 characters long".to_owned());
    }
    Ok(())
}
