//! A small mesh: nats-server, the keeper of the state and a scanner that looks when it is asked.

use nhi_agents::{scan, state};
use nhi_bus::{
    call::call,
    connect::Bus,
    cx::Cx,
    store::{StoreSettings, provision},
};
use nhi_model::call::{ScanDone, ScanNow, StateGet, StateGot, StateRecord};
use nhi_testkit::Nats;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// Longest that a first pass may take.
const FIRST_PASS_MAX: Duration = Duration::from_secs(60);
/// The scanner's own pace: never within a test, so that each pass is one the test asked for.
const NEVER_S: u64 = 3600;

pub(crate) struct Mesh {
    pub(crate) nats: Nats,
    cx: Cx,
    owner: Bus,
    /// How the first pass of the cluster ended.
    pub(crate) first: scan::FirstPass,
}

impl Mesh {
    /// Starts it with one cluster named `home`, and waits for its first pass.
    pub(crate) async fn start(endpoint: nhi_pve::Endpoint) -> Self {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        provision(&nats.connect(&cx, "home").await, &StoreSettings { replicas: 1 }).await.unwrap();
        let options = state::Options { registry: nats.dir() };
        state::run(&cx, nats.connect(&cx, "state").await, options).await.unwrap();
        let options = scan::Options {
            clusters: vec![scan::Cluster { name: "home".to_owned(), endpoint }],
            project_roots: Vec::new(),
            graph: PathBuf::from("dependency_graph.json"),
            index_s: NEVER_S,
            full_s: NEVER_S,
        };
        let scanner = scan::run(&cx, nats.connect(&cx, "scan").await, options).await.unwrap();
        let mut progress = scanner.progress();
        let ready = tokio::time::timeout(FIRST_PASS_MAX, progress.wait_for(scan::Progress::is_ready)).await;
        let ready = ready.expect("the first pass ends").unwrap().clone();
        let first = ready.sources.into_iter().find(|(id, _)| id.contains("home"));
        let first = first.expect("the cluster is a source").1.first_pass;
        let owner = nats.connect(&cx, "owner").await;
        Self { nats, cx, owner, first }
    }

    /// A full pass, as anybody may ask for it.
    pub(crate) async fn scan(&self) -> ScanDone {
        call(&self.owner, "scan", "now", &ScanNow {}).await.unwrap()
    }

    /// The records of these sections by key, all pages.
    pub(crate) async fn records(&self, select: &[&str]) -> BTreeMap<String, StateRecord> {
        let select: Vec<String> = select.iter().map(|s| (*s).to_owned()).collect();
        let mut request = StateGet { select, ..StateGet::default() };
        let mut records = BTreeMap::new();
        loop {
            let page: StateGot = call(&self.owner, "state", "get", &request).await.unwrap();
            records.extend(page.records.into_iter().map(|(key, record)| (key.to_string(), record)));
            let Some(next) = page.next else { return records };
            request.at = Some(nhi_model::call::At::Revision(page.revision));
            request.cursor = Some(next);
        }
    }

    /// One record.
    pub(crate) async fn record(&self, key: &str) -> Option<StateRecord> {
        self.records(&[key]).await.into_values().next()
    }

    pub(crate) async fn stop(self) {
        self.cx.close().await;
    }
}
