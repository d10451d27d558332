//! Lenient reading of one JSON object: Perl decides per version whether a number is a number or a string, so
//! everything is accepted everywhere. What cannot be read stays among the rest; nothing here fails or panics.

use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The fields of an object that were not taken yet.
#[derive(Debug)]
pub(crate) struct Fields {
    map: Map<String, Value>,
}

impl Fields {
    /// `None` when the value is no object.
    pub(crate) fn of(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self { map }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// What was not taken.
    pub(crate) fn rest(self) -> Map<String, Value> {
        self.map
    }

    /// The value as it is; null counts as absent.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|value| !value.is_null())
    }

    /// Text; "" counts as absent, because Proxmox sends it for "none".
    pub(crate) fn text(&mut self, key: &str) -> Option<String> {
        self.convert(key, as_text)
    }

    /// A whole number, not negative.
    pub(crate) fn whole(&mut self, key: &str) -> Option<u64> {
        self.convert(key, as_whole)
    }

    /// A whole number that fits 32 bits (ids, counts).
    pub(crate) fn small(&mut self, key: &str) -> Option<u32> {
        self.convert(key, |value| as_whole(value).and_then(|number| u32::try_from(number).ok()))
    }

    /// A finite number.
    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        self.convert(key, as_number)
    }

    /// A truth value.
    pub(crate) fn flag(&mut self, key: &str) -> Option<bool> {
        self.convert(key, as_flag)
    }

    /// A list in one text, such as tags (`a;b`) or contents (`images,iso`).
    pub(crate) fn words(&mut self, key: &str) -> BTreeSet<String> {
        self.convert(key, as_text).map(|text| split_words(&text)).unwrap_or_default()
    }

    /// An object below this one.
    pub(crate) fn object(&mut self, key: &str) -> Option<Self> {
        match self.map.remove(key)? {
            Value::Object(map) => Some(Self { map }),
            Value::Null => None,
            other => {
                self.map.insert(key.to_owned(), other);
                None
            }
        }
    }

    /// A list below this object.
    pub(crate) fn list(&mut self, key: &str) -> Option<Vec<Value>> {
        match self.map.remove(key)? {
            Value::Array(list) => Some(list),
            Value::Null => None,
            other => {
                self.map.insert(key.to_owned(), other);
                None
            }
        }
    }

    /// Every field whose name starts so, as numbers; others with that name stay.
    pub(crate) fn numbers_with_prefix(&mut self, prefix: &str) -> Vec<(String, f64)> {
        let keys: Vec<String> = self.map.keys().filter(|key| key.starts_with(prefix)).cloned().collect();
        keys.into_iter().filter_map(|key| self.number(&key).map(|number| (key, number))).collect()
    }

    fn convert<T>(&mut self, key: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.map.get(key)?;
        if is_absent(value) {
            self.map.remove(key);
            return None;
        }
        let converted = read(value)?;
        self.map.remove(key);
        Some(converted)
    }
}

fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(if *flag { "1" } else { "0" }.to_owned()),
        Value::String(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

pub(crate) fn as_number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        Value::Bool(flag) => f64::from(u8::from(*flag)),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    number.is_finite().then_some(number)
}

pub(crate) fn as_whole(value: &Value) -> Option<u64> {
    let exact = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        Value::Bool(_) | Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    // Statistics of the RRD kind arrive as floats. Beyond 64 bits a number is unreadable, not the largest.
    exact.or_else(|| {
        let number = as_number(value)?;
        (0.0..18_446_744_073_709_551_616.0).contains(&number).then_some(number as u64)
    })
}

pub(crate) fn as_flag(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Some(true),
            "0" | "false" | "no" | "off" => Some(false),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Proxmox's own lists are separated by any of these.
pub(crate) fn split_words(text: &str) -> BTreeSet<String> {
    text.split([';', ',', ' ', '\0']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
