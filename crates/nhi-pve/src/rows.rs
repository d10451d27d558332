//! Lists of rows as Proxmox answers them. It does not know any particular row.

use crate::fields::Fields;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A list that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows<T> {
    /// The rows that could be read, in the order of the answer (Proxmox's order is random).
    pub rows: Vec<T>,
    /// Rows that could not be read (no id, not an object). Above zero the list proves no absence.
    pub unreadable: usize,
}

impl<T> Default for Rows<T> {
    fn default() -> Self {
        Self { rows: Vec::new(), unreadable: 0 }
    }
}

impl<T> IntoIterator for Rows<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

/// Something read from one JSON object.
pub(crate) trait Row: Sized {
    /// Its name in the count of unknown fields.
    const WHAT: &'static str;

    /// Takes the known fields; `None` when what identifies the row is missing.
    fn read(fields: &mut Fields) -> Option<Self>;

    /// Keeps what was not taken.
    fn keep(&mut self, rest: Map<String, Value>);
}

/// Counts, by `row.field`, fields that were not known or not readable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unknown(BTreeMap<String, u64>);

impl Unknown {
    /// A server could invent names without end; the count is a diagnosis, not a log.
    const NAMES_MAX: usize = 256;

    pub(crate) fn count(&mut self, what: &str, rest: &Map<String, Value>) {
        for field in rest.keys() {
            // A hostile server's field name may be megabytes long.
            let short: String = field.chars().take(64).collect();
            self.add(format!("{what}.{short}"), 1);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (name, seen) in other.0 {
            self.add(name, seen);
        }
    }

    fn add(&mut self, name: String, seen: u64) {
        if self.0.len() < Self::NAMES_MAX || self.0.contains_key(&name) {
            *self.0.entry(name).or_default() += seen;
        }
    }

    pub(crate) fn names(&self) -> &BTreeMap<String, u64> {
        &self.0
    }
}

/// The data of an answer has another shape than its call promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Misshapen {
    pub(crate) expected: &'static str,
}

/// Reads one object.
pub(crate) fn one<T: Row>(data: Value, unknown: &mut Unknown) -> Result<T, Misshapen> {
    row(data, unknown).ok_or(Misshapen { expected: T::WHAT })
}

/// Reads a list of objects.
pub(crate) fn many<T: Row>(data: Value, unknown: &mut Unknown) -> Result<Rows<T>, Misshapen> {
    let Value::Array(list) = data else {
        return Err(Misshapen { expected: "a list" });
    };
    let mut read = Rows::default();
    for value in list {
        match row(value, unknown) {
            Some(row) => read.rows.push(row),
            None => read.unreadable += 1,
        }
    }
    Ok(read)
}

fn row<T: Row>(value: Value, unknown: &mut Unknown) -> Option<T> {
    let mut fields = Fields::of(value)?;
    let mut row = T::read(&mut fields)?;
    let rest = fields.rest();
    unknown.count(T::WHAT, &rest);
    row.keep(rest);
    Some(row)
}
