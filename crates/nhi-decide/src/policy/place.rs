//! Where in the file a key stands, and the parser's errors in words for people. It knows no rule of policy.

use super::PolicyError;
use std::{collections::BTreeMap, ops::Range};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Spans of all values and keys, by dotted key with indices (`protected.guests[0]`).
#[derive(Debug, Default)]
pub(super) struct Places {
    values: BTreeMap<String, Range<usize>>,
    keys: BTreeMap<String, Range<usize>>,
}

impl Places {
    pub(super) fn of(text: &str) -> Result<Self, toml::de::Error> {
        let table = DeTable::parse(text)?;
        let mut places = Self::default();
        places.table("", table.get_ref());
        Ok(places)
    }

    fn table(&mut self, above: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let name =
                if bare(key.get_ref()) { key.get_ref().to_string() } else { format!("{:?}", key.get_ref()) };
            let path = if above.is_empty() { name } else { format!("{above}.{name}") };
            self.keys.insert(path.clone(), key.span());
            self.value(path, value);
        }
    }

    fn value(&mut self, path: String, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.table(&path, table),
            DeValue::Array(array) => {
                for (index, item) in array.iter().enumerate() {
                    self.value(format!("{path}[{index}]"), item);
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
        self.values.insert(path, value.span());
    }

    /// Line and column of a key; of the nearest one above it that the file has, when it has not this one.
    pub(super) fn position(&self, text: &str, key: &str) -> (usize, usize) {
        let mut at = key;
        loop {
            if let Some(span) = self.values.get(at).or_else(|| self.keys.get(at)) {
                return position(text, span.start);
            }
            match at.rfind(['.', '[']) {
                Some(cut) => at = &at[..cut],
                None => return (1, 1),
            }
        }
    }

    /// The key whose text a byte of the file belongs to: the innermost one.
    fn key_at(&self, byte: usize) -> String {
        let spans = self.values.iter().chain(&self.keys);
        let around = spans.filter(|(_, span)| span.contains(&byte));
        around.min_by_key(|(_, span)| span.len()).map(|(key, _)| key.clone()).unwrap_or_default()
    }
}

fn bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// Line and column, both from 1, of a byte.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let whole = (0..=byte.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    let before = &text[..whole];
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
}

/// The parser's error as ours.
pub(super) fn explained(text: &str, places: Option<&Places>, error: &toml::de::Error) -> PolicyError {
    let byte = error.span().map_or(0, |span| span.start);
    let (line, column) = position(text, byte);
    let key = places.map(|places| places.key_at(byte)).unwrap_or_default();
    PolicyError { line, column, key, what: in_words(error.message()) }
}

/// The parser's message, with the nearest known word in place of the list of all of them.
fn in_words(message: &str) -> String {
    for (start, thing) in [("unknown field", "key"), ("unknown variant", "word")] {
        if message.starts_with(start) {
            return nearest(message, thing);
        }
    }
    let message = message.lines().collect::<Vec<_>>().join(" ");
    let bounds = [("expected u8", u64::from(u8::MAX)), ("expected u32", u64::from(u32::MAX))];
    for (expected, max) in bounds {
        if let Some(head) = message.strip_suffix(expected) {
            return format!("{head}expected a whole number from 0 to {max}");
        }
    }
    message
}

fn nearest(message: &str, thing: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().unwrap_or_default();
    let alike = |known: &&str| strsim::jaro_winkler(unknown, known);
    match quoted.max_by(|a, b| alike(a).total_cmp(&alike(b))) {
        Some(known) => format!("unknown {thing} `{unknown}`: did you mean `{known}`?"),
        None => format!("unknown {thing} `{unknown}`: remove it"),
    }
}
