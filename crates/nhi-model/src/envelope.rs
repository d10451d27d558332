//! What stands in a bucket under a key: a record in an envelope. It does not know which record belongs to
//! which key; [`crate::writers`] and the readers do.

use crate::{SCHEMA_VERSION, key::Key};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Id of one write. A retry after a lost acknowledgement recognises its own write by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct OpId(pub String);

/// Why a record may no longer describe the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stale {
    /// One sentence for people: what could not be seen.
    pub reason: String,
    /// When it was first not seen, UTC.
    pub since: Timestamp,
}

/// A value of `nhi-state`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Stored {
    /// Schema version, see [`SCHEMA_VERSION`].
    pub v: u32,
    /// Id of the write.
    pub op: OpId,
    /// Commit time, UTC.
    pub at: Timestamp,
    /// Present when the record may be out of date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<Stale>,
    /// The record itself; its shape is the section's.
    pub record: Value,
}

/// A value of `nhi-live`: gauges under the key of the record they belong to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Live {
    /// Schema version, see [`SCHEMA_VERSION`].
    pub v: u32,
    /// When the gauges were read, UTC.
    pub at: Timestamp,
    /// After this moment the gauges say nothing. It decides, not a TTL.
    pub valid_until: Timestamp,
    /// The gauges.
    pub record: Value,
}

/// Why a stored value cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadValue {
    /// Not JSON, or not an envelope.
    #[error("the value under {key} is not a record of this mesh")]
    NotAnEnvelope {
        /// Where it stands.
        key: Key,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Written by a newer program.
    #[error(
        "the value under {key} has schema version {found}, this program knows {SCHEMA_VERSION}: update it"
    )]
    Newer {
        /// Where it stands.
        key: Key,
        /// Its version.
        found: u32,
    },
    /// The envelope is right, the record is not its section's.
    #[error("the record under {key} does not have its section's shape")]
    WrongRecord {
        /// Where it stands.
        key: Key,
        /// What the parser said.
        source: serde_json::Error,
    },
}

/// Only the version, so that a newer envelope is recognised before its shape is judged.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

impl Stored {
    /// Reads a value of `nhi-state`.
    ///
    /// # Errors
    /// [`BadValue`] when it is no envelope or a newer one.
    pub fn parse(key: &Key, bytes: &[u8]) -> Result<Self, BadValue> {
        parse(key, bytes)
    }

    /// The record as its section's type.
    ///
    /// # Errors
    /// [`BadValue::WrongRecord`] when the shape differs.
    pub fn typed<T: DeserializeOwned>(&self, key: &Key) -> Result<T, BadValue> {
        T::deserialize(&self.record).map_err(|source| BadValue::WrongRecord { key: key.clone(), source })
    }
}

impl Live {
    /// Reads a value of `nhi-live`.
    ///
    /// # Errors
    /// [`BadValue`] when it is no envelope or a newer one.
    pub fn parse(key: &Key, bytes: &[u8]) -> Result<Self, BadValue> {
        parse(key, bytes)
    }
}

fn parse<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Result<T, BadValue> {
    let bad = |source| BadValue::NotAnEnvelope { key: key.clone(), source };
    let version: Version = serde_json::from_slice(bytes).map_err(bad)?;
    if version.v > SCHEMA_VERSION {
        return Err(BadValue::Newer { key: key.clone(), found: version.v });
    }
    serde_json::from_slice(bytes).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_value_is_named_not_guessed() {
        let key = Key::graph();
        let error = Stored::parse(&key, br#"{"v":9,"shape":"unknown"}"#).unwrap_err();
        assert!(matches!(error, BadValue::Newer { found: 9, .. }), "{error}");
        let error = Stored::parse(&key, b"\x00\xff").unwrap_err();
        assert!(matches!(error, BadValue::NotAnEnvelope { .. }), "{error}");
    }
}
