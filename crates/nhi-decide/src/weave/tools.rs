//! Calls of tools, put together from their pieces: half a call is of no use to anybody, and cannot be taken back. Pure.

use super::Json;
use serde_json::Value;
use std::collections::BTreeMap;

/// Calls by their index in the answer.
#[derive(Debug, Default)]
pub(super) struct Tools {
    calls: BTreeMap<u64, Json>,
}

impl Tools {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// Adds pieces, and says how many characters they have.
    pub(super) fn take(&mut self, pieces: Vec<Value>) -> u64 {
        let mut chars = 0;
        for (place, piece) in pieces.into_iter().enumerate() {
            let Value::Object(piece) = piece else { continue };
            let index = piece.get("index").and_then(Value::as_u64).unwrap_or(place as u64);
            let arguments = piece.get("function").and_then(|function| function.get("arguments"));
            chars += arguments.and_then(Value::as_str).map_or(0, |text| text.chars().count() as u64);
            merge(self.calls.entry(index).or_default(), piece);
        }
        chars
    }

    /// All of them, each whole; nothing when there is none.
    pub(super) fn whole(&mut self) -> Option<Vec<Value>> {
        if self.calls.is_empty() {
            return None;
        }
        let calls = std::mem::take(&mut self.calls);
        Some(
            calls
                .into_iter()
                .map(|(index, mut call)| {
                    call.insert("index".to_owned(), index.into());
                    Value::Object(call)
                })
                .collect(),
        )
    }
}

/// Arguments grow; everything else is said once, and where it is said again the last word counts.
fn merge(call: &mut Json, piece: Json) {
    for (name, value) in piece {
        match (call.get_mut(&name), value) {
            (Some(Value::Object(known)), Value::Object(more)) => merge(known, more),
            (Some(Value::String(known)), Value::String(more)) if name == "arguments" => known.push_str(&more),
            // A provider repeats the name as an empty text or null.
            (Some(_), Value::Null) => {}
            (Some(Value::String(known)), Value::String(more)) if more.is_empty() && !known.is_empty() => {}
            (_, value) => drop(call.insert(name, value)),
        }
    }
}
