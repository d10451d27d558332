//! A mesh that may act: nats-server, a scanner, an actuator on some Proxmox API, and people who ask it.

use nhi_agents::{
    act::{self, Pace},
    scan,
};
use nhi_bus::{
    call::{Call, CallError, Frame, stream},
    connect::Bus,
    cx::Cx,
    plans::PlansView,
    store::{self, StoreSettings},
    view::View,
};
use nhi_model::{
    act::{ActApplied, ActApply, ActApprove, ActGot, ActPlan, ActPlanned, ActRun, RunFrame},
    fault::Fault,
    identity::Role,
    intent::{GuestRef, Intent},
    plan::PlanRecord,
    run::Run,
};
use nhi_pve::Endpoint;
use nhi_testkit::{Nats, wait_for};
use serde::{Serialize, de::DeserializeOwned};
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
        self.nats.add(name, role).await;
        Person { bus: self.nats.connect(&self.cx, name).await }
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
}

/// Somebody with a key of their own.
pub(crate) struct Person {
    bus: Bus,
}

impl Person {
    pub(crate) async fn call<A: DeserializeOwned>(
        &self,
        endpoint: &str,
        request: &(impl Serialize + Sync),
    ) -> Result<A, Box<Fault>> {
        let body = serde_json::to_vec(request).unwrap();
        let call = Call::new(&self.bus, "act", endpoint, body.into()).unwrap();
        match call.send(&self.bus).await {
            Ok(answer) => Ok(serde_json::from_slice(&answer).unwrap()),
            Err(CallError::Fault { fault, .. }) => Err(fault),
            Err(error) => panic!("{endpoint}: {error}"),
        }
    }

    /// Asks for a plan.
    pub(crate) async fn plan(&self, intent: Value) -> Result<PlanRecord, Box<Fault>> {
        self.plan_as(intent, false).await
    }

    /// Asks for a plan, perhaps for one that is rehearsed.
    pub(crate) async fn plan_as(&self, intent: Value, rehearse: bool) -> Result<PlanRecord, Box<Fault>> {
        let intent: Intent = serde_json::from_value(intent).unwrap();
        let request = ActPlan { intent, reason: None, rehearse, undo_unless_confirmed_minutes: None };
        self.call::<ActPlanned>("plan", &request).await.map(|planned| planned.record)
    }

    pub(crate) async fn apply(
        &self,
        record: &PlanRecord,
        name: Option<&str>,
    ) -> Result<ActApplied, Box<Fault>> {
        let (plan, digest) = (record.plan.id.clone(), record.plan.digest().clone());
        self.call("apply", &ActApply { plan, digest, name: name.map(str::to_owned) }).await
    }

    pub(crate) async fn approve(
        &self,
        record: &PlanRecord,
        name: Option<&str>,
    ) -> Result<ActGot, Box<Fault>> {
        let (plan, digest) = (record.plan.id.clone(), record.plan.digest().clone());
        self.call("approve", &ActApprove { plan, digest, name: name.map(str::to_owned) }).await
    }

    /// Follows a run to its end.
    pub(crate) async fn end(&self, applied: &ActApplied) -> Run {
        let body = serde_json::to_vec(&ActRun { run: applied.run.clone() }).unwrap();
        let call = Call::new(&self.bus, "act", "run", body.into()).unwrap();
        let mut frames = stream(&self.bus, call).await.unwrap();
        let mut last = None;
        while let Some(frame) = frames.next().await {
            let (Frame::Part(bytes) | Frame::Whole(bytes)) = frame.unwrap();
            last = Some(serde_json::from_slice::<RunFrame>(&bytes).unwrap().run);
        }
        last.expect("a run has frames")
    }

    /// Plans, says yes by name where that is asked for, and carries out; it has to end `done`.
    pub(crate) async fn done(&self, intent: Value, name: Option<&str>) {
        let record = self.plan(intent.clone()).await.unwrap_or_else(|fault| panic!("{intent}: {fault}"));
        let applied = self.apply(&record, name).await.unwrap_or_else(|fault| panic!("{intent}: {fault}"));
        let run = self.end(&applied).await;
        assert_eq!(run.state.as_str(), "done", "{intent}: {run:?}");
    }
}
