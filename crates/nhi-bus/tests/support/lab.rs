//! A provisioned mesh for one test, and short ways to say what is written.

// Each test file uses its own part of this.
#![expect(dead_code, reason = "shared by several test files, none of which uses everything")]

use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store::{self, Committed, StoreSettings},
};
use nhi_decide::change::{Change, What};
use nhi_model::{Timestamp, envelope::OpId, key::Key};
use nhi_testkit::Nats;
use serde_json::{Value, json};
use std::time::Duration;

/// How long anything that happens by itself may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A server with its streams, and connections of those who write and read in these tests.
pub(crate) struct Lab {
    pub(crate) nats: Nats,
    pub(crate) cx: Cx,
    /// May do everything inside HOME.
    pub(crate) home: Bus,
    /// Writes `project.*`.
    pub(crate) scan: Bus,
}

impl Lab {
    pub(crate) async fn start() -> Self {
        let nats = Nats::start().await;
        let cx = Cx::new();
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &settings()).await.unwrap();
        let scan = nats.connect(&cx, "scan").await;
        Self { nats, cx, home, scan }
    }

    /// Commits as the scanner, at a time that does not matter.
    pub(crate) async fn commit(&self, op: &str, changes: &[Change]) -> Committed {
        store::commit(&self.scan, &OpId(op.to_owned()), at(0), changes).await.unwrap()
    }
}

pub(crate) fn settings() -> StoreSettings {
    StoreSettings { replicas: 1 }
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

/// A request to JetStream as anybody with a client can make it.
pub(crate) async fn api(client: &async_nats::Client, verb: &str, body: Value) -> Value {
    let payload = if body.is_null() { Vec::new() } else { serde_json::to_vec(&body).unwrap() };
    let answer = client.request(format!("$JS.API.{verb}"), payload.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Number of messages and last sequence of a stream.
pub(crate) async fn fill(client: &async_nats::Client, stream: &str) -> (u64, u64) {
    let info = api(client, &format!("STREAM.INFO.{stream}"), Value::Null).await;
    let number = |name: &str| info["state"][name].as_u64().unwrap();
    (number("messages"), number("last_seq"))
}
