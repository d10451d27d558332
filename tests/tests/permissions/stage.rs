//! The lab that is attacked: a server with the product's accounts and streams, records in them, services that
//! answer whatever they are asked wherever they are told, and a witness that hears all of HOME.

use async_nats::{Client, HeaderMap, Message};
use futures::StreamExt as _;
use nhi_bus::{
    cx::Cx,
    store::{StoreSettings, provision},
};
use nhi_model::identity::{IdentityName, Role};
use nhi_testkit::{Controls, Nats, settle};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How long anything here may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// What an attack carries, so that the witness knows it: `attack by <name>`.
pub(crate) fn mark(who: &str) -> String {
    format!("attack by {who};")
}

pub(crate) fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).expect("the test's names are names")
}

/// What must not change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stream {
    pub(crate) last_sequence: u64,
    pub(crate) messages: u64,
    consumers: u64,
    config: Value,
}

pub(crate) type Snapshot = BTreeMap<String, Stream>;

type Heard = Arc<Mutex<Vec<Message>>>;

pub(crate) struct Stage {
    pub(crate) nats: Nats,
    pub(crate) home: Client,
    heard: Heard,
    cx: Cx,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl Stage {
    pub(crate) async fn set(controls: Controls) -> Self {
        let nats = Nats::start_with(controls).await;
        for (who, role) in [
            ("aider", Role::Agent),
            ("rival", Role::Agent),
            ("wall", Role::Viewer),
            ("anna", Role::Operator),
            ("pc", Role::Edge),
            ("kettle", Role::Service),
        ] {
            nats.add(who, role).await;
        }
        let cx = Cx::new();
        let bus = nats.connect(&cx, "home").await;
        provision(&bus, &StoreSettings { replicas: 1 }).await.unwrap();
        bus.close().await;
        let home = nats.raw("home").await;
        let stage = Self { nats, home, heard: Arc::default(), cx };
        stage.streams_of_later(controls).await;
        stage.records().await;
        stage.services_and_witness().await;
        stage
    }

    /// Streams the mesh will have, on subjects nobody outside may reach; and rollup for the control.
    async fn streams_of_later(&self, controls: Controls) {
        for (stream, subjects) in
            [("NHI_JOBS", "nhi-jobs.>"), ("NHI_CMD", "nhi-cmd.>"), ("NHI_HISTORY", "nhi-history.>")]
        {
            let config = json!({ "name": stream, "subjects": [subjects], "storage": "memory" });
            self.api(&format!("STREAM.CREATE.{stream}"), &config).await;
        }
        if controls.rollup_allowed {
            // An existing bucket cannot be made so: rollup needs purge, and its denial cannot be taken back.
            let info = self.api("STREAM.INFO.KV_nhi-state", &json!({})).await;
            let mut config = info["config"].clone();
            for (field, value) in [("allow_rollup_hdrs", true), ("deny_purge", false)] {
                config[field] = json!(value);
            }
            self.api("STREAM.DELETE.KV_nhi-state", &json!({})).await;
            self.api("STREAM.CREATE.KV_nhi-state", &config).await;
        }
    }

    async fn records(&self) {
        for vmid in 100..110 {
            self.put(&format!("$KV.nhi-state.vm.home.{vmid}"), "{}").await;
        }
        for subject in [
            "$KV.nhi-live.vm.home.100",
            "$KV.nhi-plans.plan.p-kept0",
            "$KV.nhi-plans.run.r-kept0",
            "nhi-timer.due.r-kept0",
            "nhi-audit.state",
            "nhi-jobs.chat",
            "nhi-history.x",
        ] {
            self.put(subject, "{}").await;
        }
    }

    /// Publishes into a stream as `home` and waits for the acknowledgement.
    pub(crate) async fn put(&self, subject: &str, payload: &str) {
        let answer = self.home.request(subject.to_owned(), payload.to_owned().into()).await.unwrap();
        let ack: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(ack["seq"].is_u64(), "{subject}: {ack}");
    }

    /// The worst service there can be: it answers every call, wherever the caller says, with the caller's own words.
    /// `kettle.descale` and `$SRV.PING.kettle.only` are left to the service itself.
    async fn services_and_witness(&self) {
        let mut everything = self.home.subscribe(">").await.unwrap();
        settle(&self.home).await;
        let (home, heard, cx) = (self.home.clone(), self.heard.clone(), self.cx.clone());
        self.cx.spawn("witness and naive services", async move {
            loop {
                let message = tokio::select! {
                    Some(message) = everything.next() => message,
                    () = cx.cancelled() => return,
                };
                let subject = message.subject.as_str();
                let left_out =
                    subject.starts_with("nhi.kettle.descale.") || subject == "$SRV.PING.kettle.only";
                let is_call = subject.starts_with("nhi.") || subject.starts_with("$SRV.");
                if let Some(reply) = message.reply.clone().filter(|_| is_call && !left_out) {
                    let headers = message.headers.clone().unwrap_or_else(HeaderMap::new);
                    home.publish_with_headers(reply, headers, message.payload.clone()).await.unwrap();
                }
                heard.lock().unwrap().push(message);
            }
        });
    }

    /// Returns when everything that is under way in HOME has arrived: the witness has heard an echo of ours, and
    /// then another of what its answers may have caused.
    pub(crate) async fn settle(&self) {
        for round in 0..3 {
            let echo = self.home.new_inbox();
            self.home.publish(echo.clone(), "".into()).await.unwrap();
            nhi_testkit::wait_for(&format!("echo {round}"), DEADLINE, async || {
                self.heard.lock().unwrap().iter().any(|message| message.subject.as_str() == echo)
            })
            .await;
        }
    }

    /// Where the marked messages of one identity arrived in HOME, and the reply subject each had there.
    pub(crate) fn reached(&self, who: &str) -> Vec<(String, Option<String>)> {
        let mark = mark(who);
        let heard = self.heard.lock().unwrap();
        let marked = heard.iter().filter(|message| String::from_utf8_lossy(&message.payload).contains(&mark));
        marked
            .map(|message| (message.subject.to_string(), message.reply.as_ref().map(ToString::to_string)))
            .collect()
    }

    /// Every stream as it is.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let names = self.api("STREAM.NAMES", &json!({})).await;
        let mut snapshot = Snapshot::new();
        for name in names["streams"].as_array().expect("a list of names") {
            let name = name.as_str().expect("a name").to_owned();
            let info = self.api(&format!("STREAM.INFO.{name}"), &json!({})).await;
            let number = |field: &str| info["state"][field].as_u64().unwrap();
            let stream = Stream {
                last_sequence: number("last_seq"),
                messages: number("messages"),
                consumers: number("consumer_count"),
                config: info["config"].clone(),
            };
            snapshot.insert(name, stream);
        }
        snapshot
    }

    async fn api(&self, verb: &str, body: &Value) -> Value {
        let subject = format!("$JS.API.{verb}");
        let answer = self.home.request(subject, body.to_string().into()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{verb}: {answer}");
        answer
    }
}
