//! A provisioned mesh for one test, and what a stream holds.

use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store::{self, StoreSettings},
};
use nhi_testkit::Nats;
use serde_json::Value;

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
}

pub(crate) fn settings() -> StoreSettings {
    StoreSettings { replicas: 1 }
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
