//! Short ways to say what is written.

use nhi_bus::{
    connect::Bus,
    store::{self, Committed},
};
use nhi_decide::change::{Change, What};
use nhi_model::{Timestamp, envelope::OpId, key::Key};
use serde_json::{Value, json};

/// Commits at a time that does not matter.
pub(crate) async fn commit(bus: &Bus, op: &str, changes: &[Change]) -> Committed {
    store::commit(bus, &OpId(op.to_owned()), at(0), changes).await.unwrap()
}

/// A moment so many seconds into the test's own time.
pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

pub(crate) fn key(id: &str) -> Key {
    Key::project(id)
}

pub(crate) fn put(id: &str, expected: u64, value: impl Into<Value>) -> Change {
    let record = json!({ "value": value.into() });
    Change { key: key(id), expected, what: What::Put { record, stale: None } }
}

pub(crate) fn retire(id: &str, expected: u64) -> Change {
    Change { key: key(id), expected, what: What::Retire }
}
