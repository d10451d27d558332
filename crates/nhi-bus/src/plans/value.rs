//! A row in its envelope, the same one that records of the state have: version, id of the write, time, value. Pure.

use super::Row;
use crate::store::written::Written;
use nhi_model::{SCHEMA_VERSION, Timestamp, envelope::OpId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

#[derive(Serialize)]
struct Outgoing<'a> {
    v: u32,
    op: &'a OpId,
    at: Timestamp,
    record: &'a Value,
}

#[derive(Deserialize)]
struct Incoming<T> {
    at: Timestamp,
    record: T,
}

/// Only the version, so that a newer envelope is recognised before its shape is judged.
#[derive(Deserialize)]
struct Version {
    v: u32,
}

pub(super) fn write(op: &OpId, at: Timestamp, record: &Value) -> Vec<u8> {
    serde_json::to_vec(&Outgoing { v: SCHEMA_VERSION, op, at, record })
        .expect("an envelope of JSON values serialises")
}

/// Reads a row; why not, in a clause, when it cannot be read.
pub(super) fn read<T: DeserializeOwned>(written: &Written) -> Result<Row<T>, String> {
    let foreign = |error: serde_json::Error| format!("it is not a row of this mesh: {error}");
    let Version { v } = serde_json::from_slice(&written.payload).map_err(foreign)?;
    if v > SCHEMA_VERSION {
        return Err(format!("it has schema version {v}, this program knows {SCHEMA_VERSION}: update it"));
    }
    let Incoming { at, record } = serde_json::from_slice(&written.payload).map_err(foreign)?;
    Ok(Row { revision: written.sequence, at, value: record })
}
