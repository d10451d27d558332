//! A server, a simulated home with a scanner and an actuator, and people.

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
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{LabOptions, Running, TokenSecret};
use nhi_testkit::{Nats, Person, wait_for};
use serde_json::{Value, json};
use std::{fs, path::PathBuf, time::Duration};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct House {
    pub(crate) lab: Running,
    pub(crate) nats: Nats,
    pub(crate) cx: Cx,
    pub(crate) view: View,
    pub(crate) plans: PlansView,
    /// The actuator's own.
    acting: Cx,
    dir: TempDir,
    _scan: scan::Handle,
}

/// Numbers for new guests: few, so that one that does not come back is missed.
pub(crate) const NUMBERS: (u32, u32) = (700, 703);

impl House {
    /// Everything, with this dependency graph and policy.
    pub(crate) async fn open(graph: &Value, policy: &str) -> Self {
        let nats = Nats::start().await;
        let options = LabOptions { auth_delay_ms: 10, task_ms: 20, ..LabOptions::demo() };
        let lab = nhi_sim::serve(options).await.unwrap();
        let cx = Cx::new();
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let view = View::open(&cx, &home).await.unwrap();
        let plans = PlansView::open(&cx, &home).await.unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("dependency_graph.json"), graph.to_string()).unwrap();
        fs::write(dir.path().join("policy.toml"), policy).unwrap();
        let bus = nats.connect(&cx, "scan").await;
        let scan = scan::Options {
            clusters: vec![scan::Cluster {
                name: "home".to_owned(),
                endpoint: endpoint(&lab, &lab.scan_token),
            }],
            project_roots: Vec::new(),
            graph: dir.path().join("dependency_graph.json"),
            index_s: 1,
            full_s: 600,
        };
        let scan = scan::run(&cx, bus, scan).await.unwrap();
        let mut progress = scan.progress();
        let ready = tokio::time::timeout(SOON, progress.wait_for(scan::Progress::is_ready));
        drop(ready.await.expect("the first pass takes seconds").unwrap());
        let acting = cx.child();
        let mut house = Self { lab, nats, cx, view, plans, acting, dir, _scan: scan };
        house.act().await;
        house
    }

    /// Starts an actuator.
    pub(crate) async fn act(&mut self) {
        self.acting = self.cx.child();
        let bus = self.nats.connect(&self.acting, "act").await;
        let options = act::Options {
            clusters: vec![act::Cluster {
                name: "home".to_owned(),
                endpoint: endpoint(&self.lab, &self.lab.act_token),
            }],
            registry: self.nats.dir(),
            policy: self.policy(),
            self_guests: vec![GuestRef::parse("home/100").unwrap()],
            vmid_range: NUMBERS,
            program: PathBuf::from("nhi"),
            pace: Pace { poll: Duration::from_millis(20), ..Pace::REAL },
        };
        drop(act::run(&self.acting, bus, options).await.unwrap());
    }

    /// Stops the actuator.
    pub(crate) async fn stop_acting(&self) {
        self.acting.close().await;
    }

    /// Without services, with the policy that is safe by default.
    pub(crate) async fn plain() -> Self {
        Self::open(&json!({ "services": {} }), "").await
    }

    /// An identity with its connection.
    pub(crate) async fn person(&self, name: &str, role: Role) -> Person {
        Person::join(&self.nats, &self.cx, name, role).await
    }

    pub(crate) fn policy(&self) -> PathBuf {
        self.dir.path().join("policy.toml")
    }

    /// Writes that arrived at the lab, refused ones among them.
    pub(crate) fn writes(&self) -> u64 {
        self.lab.counts().writes
    }

    /// Waits until the state shows something.
    pub(crate) async fn shows(&self, what: &str, mut check: impl FnMut(&nhi_bus::view::Snapshot) -> bool) {
        wait_for(what, SOON, async || check(&self.view.read()).then_some(())).await;
    }
}

pub(crate) fn endpoint(lab: &Running, token: &TokenSecret) -> Endpoint {
    let token = ApiToken::parse(&token.id, &token.secret).unwrap();
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).unwrap();
    Endpoint::new(Address::parse_list(&lab.url).unwrap(), token, trust).unwrap()
}
