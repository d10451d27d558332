//! A mesh that may act: nats-server, a scanner, an actuator on some Proxmox API, and people who ask it.

use nhi_agents::{
    act::{self, Pace},
    scan,
};
use nhi_bus::{
    cx::Cx,
    plans::PlansView,
    store::{self, StoreSettings},
    view::View,
};
use nhi_model::{identity::Role, intent::GuestRef};
use nhi_pve::Endpoint;
use nhi_testkit::{Nats, Person, wait_for};
use serde_json::Value;
use std::{fs, path::PathBuf, time::Duration};
use tempfile::TempDir;

/// Longest that anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What is to be acted on, and how.
pub(crate) struct Place {
    pub(crate) scan: Endpoint,
    pub(crate) act: Endpoint,
    pub(crate) graph: Value,
    pub(crate) policy: &'static str,
    pub(crate) ourselves: &'static str,
    pub(crate) program: PathBuf,
}

pub(crate) struct House {
    pub(crate) cx: Cx,
    view: View,
    plans: PlansView,
    nats: Nats,
    _dir: TempDir,
    _scan: scan::Handle,
    _act: act::Handle,
}

impl House {
    pub(crate) async fn open(place: Place) -> Self {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let view = View::open(&cx, &home).await.unwrap();
        let plans = PlansView::open(&cx, &home).await.unwrap();
        let dir = TempDir::new().unwrap();
        let (graph, policy) = (dir.path().join("dependency_graph.json"), dir.path().join("policy.toml"));
        fs::write(&graph, place.graph.to_string()).unwrap();
        fs::write(&policy, place.policy).unwrap();
        let options = scan::Options {
            clusters: vec![scan::Cluster { name: "home".to_owned(), endpoint: place.scan }],
            project_roots: Vec::new(),
            graph,
            index_s: 1,
            full_s: 600,
        };
        let scan = scan::run(&cx, nats.connect(&cx, "scan").await, options).await.unwrap();
        let mut progress = scan.progress();
        let ready = tokio::time::timeout(SOON, progress.wait_for(scan::Progress::is_ready));
        drop(ready.await.expect("the first pass takes seconds").unwrap());
        let options = act::Options {
            clusters: vec![act::Cluster { name: "home".to_owned(), endpoint: place.act }],
            registry: nats.dir(),
            policy,
            self_guests: vec![GuestRef::parse(place.ourselves).unwrap()],
            vmid_range: (700, 719),
            program: place.program,
            pace: Pace { poll: Duration::from_millis(20), ..Pace::REAL },
        };
        let act = act::run(&cx, nats.connect(&cx, "act").await, options).await.unwrap();
        Self { cx, view, plans, nats, _dir: dir, _scan: scan, _act: act }
    }

    /// An identity with its connection.
    pub(crate) async fn person(&self, name: &str, role: Role) -> Person {
        Person::join(&self.nats, &self.cx, name, role).await
    }

    /// A field of a record as the state has it now; null when there is no such record.
    pub(crate) fn field(&self, key: &str, field: &str) -> Value {
        let state = self.view.read();
        let entry = state.records.iter().find(|(known, _)| known.as_str() == key);
        entry.map(|(_, entry)| entry.stored.record[field].clone()).unwrap_or_default()
    }

    /// Waits until the state has this.
    pub(crate) async fn shows(&self, key: &str, field: &str, value: Value) {
        let what = format!("{field} of {key} to be {value}");
        wait_for(&what, SOON, async || (self.field(key, field) == value).then_some(())).await;
    }

    /// Leases that are held now.
    pub(crate) fn leases(&self) -> usize {
        self.plans.read().leases.len()
    }

    /// Plans, says yes by name where that is asked for, and carries out; it has to end `done`.
    pub(crate) async fn done(&self, by: &Person, intent: Value, name: Option<&str>) {
        let record = by.plan(intent.clone()).await.unwrap_or_else(|fault| panic!("{intent}: {fault}"));
        let applied = by.apply(&record, name).await.unwrap_or_else(|fault| panic!("{intent}: {fault}"));
        let run = by.end(&applied).await;
        assert_eq!(run.state.as_str(), "done", "{intent}: {run:?}");
    }
}
