//! One house for one test: nats-server, model servers, routers, and somebody who asks.

use nhi_agents::route;
use nhi_bus::{
    call::{Call, CallError, Frame, FrameStream, Timeout, call, stream},
    connect::Bus,
    cx::Cx,
    ledger::Page,
    store::{self, StoreSettings},
    view::View,
};
use nhi_decide::{
    change::{Change, What},
    route::{BackendSettings, Rules, Selector, Settings},
};
use nhi_model::{
    ai::{AiUsage, AiUsed, BackendKind, Continues, LedgerEntry, Origin, UsageBy},
    envelope::OpId,
    fault::Fault,
    identity::Role,
    key::Key,
};
use nhi_sim::models::{ModelSettings, Options, Provider, Running, serve};
use nhi_testkit::{Nats, wait_for};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Longer than it takes to know that somebody is gone.
pub(crate) const LATE: Duration = Duration::from_secs(60);

pub(crate) type Json = Map<String, Value>;

pub(crate) struct House {
    pub(crate) nats: Nats,
    pub(crate) cx: Cx,
    pub(crate) home: Bus,
    pub(crate) view: View,
    /// Somebody who asks.
    pub(crate) aider: Bus,
    pub(crate) settings: Settings,
}

/// A model server with one model.
pub(crate) async fn server(model: ModelSettings) -> Running {
    serve(Options::local(Provider::Llamacpp, vec![model])).await.unwrap()
}

/// One that answers at once.
pub(crate) async fn quick(model: &str) -> Running {
    server(ModelSettings::named(model)).await
}

/// A backend of OpenAI's kind with one model.
pub(crate) fn backend(name: &str, server: &Running, model: &str) -> BackendSettings {
    BackendSettings {
        home: true,
        continues: Some(Continues::Prefill),
        models: vec![nhi_decide::route::ModelSettings::named(model)],
        ..BackendSettings::new(name, BackendKind::Openai, format!("{}/v1", server.url))
    }
}

/// Backends that are asked in this order, whatever is known of them.
pub(crate) fn ordered(backends: Vec<BackendSettings>) -> Settings {
    let order: Vec<Selector> =
        backends.iter().map(|backend| Selector::Backend(backend.name.clone())).collect();
    let rules = Rules { coding: order.clone(), simple: order, ..Rules::default() };
    Settings { backends, rules, ..Settings::default() }
}

impl House {
    /// A house whose routers are configured so; none runs yet.
    pub(crate) async fn new(settings: Settings) -> Self {
        let nats = Nats::start().await;
        let cx = Cx::new();
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        nats.add("aider", Role::Agent).await;
        let view = View::open(&cx, &home).await.unwrap();
        let aider = nats.connect(&cx, "aider").await;
        Self { nats, cx, home, view, aider, settings }
    }

    /// The same with a router and these backends, asked in this order.
    pub(crate) async fn with(backends: Vec<BackendSettings>) -> Self {
        let house = Self::new(ordered(backends)).await;
        house.start().await;
        house.known().await;
        house
    }

    /// One more router, in a context of its own.
    pub(crate) async fn start(&self) -> (Cx, route::Handle) {
        let cx = self.cx.child();
        let bus = self.nats.connect(&cx, "route").await;
        let options = route::Options {
            settings: self.settings.clone(),
            keys: BTreeMap::new(),
            seed: self.nats.seed("route"),
            workers: 2,
        };
        let handle = route::run(&cx, bus, options).await.unwrap();
        (cx, handle)
    }

    /// Waits until every backend has told of its models, and so what it can.
    pub(crate) async fn known(&self) {
        for backend in self.settings.backends.iter().filter(|backend| backend.gpu.is_none()) {
            let key = Key::provider(&backend.name);
            wait_for("the models of a backend", SOON, async || {
                let state = self.view.read();
                let told = state.records.get(&key).map(|entry| entry.stored.record["models"].clone());
                match told.as_ref().and_then(|models| models[0].get("context_tokens")) {
                    Some(_) => Ok(()),
                    None => Err(told),
                }
            })
            .await;
        }
    }

    /// A plain answer.
    pub(crate) async fn ask(&self, body: Value) -> Result<Json, Box<Fault>> {
        match call::<Value, Json>(&self.aider, "ai", "chat", &body).await {
            Ok(answer) => Ok(answer),
            Err(CallError::Fault { fault, .. }) => Err(fault),
            Err(error) => panic!("{error}"),
        }
    }

    /// A stream that begins.
    pub(crate) async fn open(&self, body: Value) -> FrameStream {
        let body = serde_json::to_vec(&body).unwrap();
        let call = Call::new(&self.aider, "ai", "chat", body.into()).unwrap().timeout(Timeout::LONGEST);
        stream(&self.aider, call).await.unwrap()
    }

    /// All of a stream.
    pub(crate) async fn read(&self, body: Value) -> Told {
        let mut frames = self.open(body).await;
        let mut told = Told::default();
        while let Some(next) = tokio::time::timeout(LATE, frames.next()).await.unwrap() {
            match next {
                Ok(Frame::Part(chunk)) => told.chunks.push(serde_json::from_slice(&chunk).unwrap()),
                Ok(Frame::Whole(_)) => panic!("a whole answer to a stream"),
                Err(CallError::Fault { fault, .. }) => told.fault = Some(fault),
                Err(error @ (CallError::Lost { .. } | CallError::Gone { .. })) => {
                    told.fault = Some(Box::new(error.to_fault()))
                }
                Err(error) => panic!("{error}"),
            }
        }
        told
    }

    /// A project whose manifest says this of its AI requests.
    pub(crate) async fn project(&self, id: &str, ai: Value) {
        let scan = self.nats.connect(&self.cx, "scan").await;
        let project = json!({
            "id": id, "name": id, "path": format!("/{id}"), "status": "", "description": "", "shape": "yaml-flat",
            "raw_manifest": "", "extra": { "ai": ai },
        });
        let what = What::Put { record: project, stale: None };
        let change = Change { key: Key::project(id), expected: 0, what };
        store::commit(&scan, &OpId(id.to_owned()), jiff::Timestamp::now(), &[change]).await.unwrap();
    }

    /// The lines of the ledger of today, once there are so many.
    pub(crate) async fn ledger(&self, lines: usize) -> Vec<LedgerEntry> {
        wait_for("the ledger", SOON, async || {
            let entries = self.pages().await.into_iter().flat_map(|page| page.entries).collect::<Vec<_>>();
            if entries.len() >= lines { Ok(entries) } else { Err(entries) }
        })
        .await
    }

    /// The ledger of today as it is read.
    pub(crate) async fn pages(&self) -> Vec<Page> {
        let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
        let mut pages: Vec<Page> = Vec::new();
        loop {
            let last = pages.last().map_or(0, |page| page.last);
            let page = nhi_bus::ledger::read(&self.home, today, last).await.unwrap();
            pages.push(page.clone());
            if !page.has_more {
                return pages;
            }
        }
    }

    pub(crate) async fn usage(&self) -> AiUsed {
        call(&self.aider, "ai", "usage", &AiUsage::default()).await.unwrap()
    }

    pub(crate) async fn usage_by(&self, by: UsageBy) -> AiUsed {
        call(&self.aider, "ai", "usage", &AiUsage { by: Some(by), ..AiUsage::default() }).await.unwrap()
    }

    /// The active problems, by key.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let state = self.view.read();
        state.records.keys().map(ToString::to_string).filter(|key| key.starts_with("alert.")).collect()
    }
}

/// What a stream told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) chunks: Vec<Json>,
    pub(crate) fault: Option<Box<Fault>>,
}

impl Told {
    /// The text in all chunks.
    pub(crate) fn text(&self) -> String {
        let content = |chunk: &Json| {
            chunk["choices"][0]["delta"]["content"].as_str().map(ToOwned::to_owned).unwrap_or_default()
        };
        self.chunks.iter().map(content).collect()
    }

    /// Who answered, as the last chunk that says so has it.
    pub(crate) fn origin(&self) -> Origin {
        let last = self.chunks.iter().rev().find_map(|chunk| chunk.get("nhi")).expect("a chunk says so");
        serde_json::from_value(last.clone()).unwrap()
    }

    /// Why it ended.
    pub(crate) fn finish(&self) -> Option<&str> {
        self.chunks.iter().find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str())
    }
}

/// A question.
pub(crate) fn question(text: &str, stream: bool) -> Value {
    json!({ "model": "auto", "messages": [{ "role": "user", "content": text }], "stream": stream, "temperature": 0 })
}
