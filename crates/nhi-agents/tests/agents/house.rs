//! One house for one test: server, simulated lab, directories, and the agents that are asked for.

use nhi_agents::{mirror, scan, state};
use nhi_bus::{
    call::call,
    connect::Bus,
    cx::Cx,
    store::{self, StoreSettings},
    view::{Snapshot, View},
};
use nhi_model::{
    call::{ScanDone, ScanNow, ScanState, ScanStatus},
    envelope::Stored,
    key::Key,
};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{LabOptions, Running, TokenSecret};
use nhi_testkit::{Nats, wait_for};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) struct House {
    pub(crate) nats: Nats,
    pub(crate) lab: Running,
    pub(crate) cx: Cx,
    pub(crate) home: Bus,
    pub(crate) view: View,
    pub(crate) scan: Option<scan::Handle>,
    dir: TempDir,
}

impl House {
    /// Server and lab, no agents.
    pub(crate) async fn empty() -> Self {
        Self::with(LabOptions::demo()).await
    }

    /// The same with another lab.
    pub(crate) async fn with(mut options: LabOptions) -> Self {
        let nats = Nats::start().await;
        options.auth_delay_ms = 10;
        let lab = nhi_sim::serve(options).await.unwrap();
        let cx = Cx::new();
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let view = View::open(&cx, &home).await.unwrap();
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("projects")).unwrap();
        Self { nats, lab, cx, home, view, scan: None, dir }
    }

    /// With a scanner that has made its first pass.
    pub(crate) async fn scanned() -> Self {
        let mut house = Self::empty().await;
        let options = house.scan_options();
        house.start_scan(options).await;
        house.ready().await;
        house
    }

    pub(crate) fn scan_options(&self) -> scan::Options {
        scan::Options {
            clusters: vec![scan::Cluster {
                name: "home".to_owned(),
                endpoint: self.endpoint_of(&self.lab.scan_token),
            }],
            project_roots: vec![self.projects()],
            graph: self.graph(),
            index_s: 1,
            // Full passes come when a test asks for one.
            full_s: 600,
        }
    }

    /// The lab as a token of its sees it.
    pub(crate) fn endpoint_of(&self, token: &TokenSecret) -> Endpoint {
        let token = ApiToken::parse(&token.id, &token.secret).unwrap();
        let trust = Trust::ca_pem(self.lab.ca_pem.as_bytes()).unwrap();
        Endpoint::new(Address::parse_list(&self.lab.url).unwrap(), token, trust).unwrap()
    }

    pub(crate) async fn start_scan(&mut self, options: scan::Options) {
        let bus = self.nats.connect(&self.cx, "scan").await;
        self.scan = Some(scan::run(&self.cx, bus, options).await.unwrap());
    }

    pub(crate) async fn ready(&self) -> scan::Progress {
        let mut progress = self.scan.as_ref().unwrap().progress();
        let ready =
            tokio::time::timeout(Duration::from_secs(60), progress.wait_for(scan::Progress::is_ready));
        ready.await.expect("the first pass takes seconds").unwrap().clone()
    }

    pub(crate) async fn start_mirror(&self) -> mirror::Handle {
        let bus = self.nats.connect(&self.cx, "mirror").await;
        let options = mirror::Options {
            dir: self.infrastructure(),
            generator: "neural-home 0.1.0".to_owned(),
            zone: jiff::tz::TimeZone::UTC,
        };
        mirror::run(&self.cx, bus, options).await.unwrap()
    }

    pub(crate) async fn start_keeper(&self) -> state::Handle {
        let bus = self.nats.connect(&self.cx, "state").await;
        state::run(&self.cx, bus, state::Options { registry: self.nats.dir() }).await.unwrap()
    }

    pub(crate) fn projects(&self) -> PathBuf {
        self.dir.path().join("projects")
    }

    pub(crate) fn infrastructure(&self) -> PathBuf {
        self.dir.path().join("infrastructure")
    }

    pub(crate) fn graph(&self) -> PathBuf {
        self.infrastructure().join("dependency_graph.json")
    }

    /// What the scanner says of itself.
    pub(crate) async fn status(&self) -> ScanState {
        call(&self.home, "scan", "status", &ScanStatus {}).await.unwrap()
    }

    /// A full pass, and the state that shows it.
    pub(crate) async fn pass(&self) -> ScanDone {
        let done: ScanDone = call(&self.home, "scan", "now", &ScanNow {}).await.unwrap();
        self.shown(done.revision).await;
        done
    }

    /// The state once it has a revision.
    pub(crate) async fn shown(&self, revision: u64) -> Arc<Snapshot> {
        self.until("the view to catch up", |state| (state.revision >= revision).then(|| state.clone())).await
    }

    /// Waits until the state looks as wanted.
    pub(crate) async fn until<T>(&self, what: &str, look: impl Fn(&Arc<Snapshot>) -> Option<T>) -> T {
        wait_for(what, SOON, async || {
            let state = self.view.read();
            look(&state)
                .ok_or_else(|| format!("revision {} with {} records", state.revision, state.records.len()))
        })
        .await
    }

    /// A record as it stands.
    pub(crate) fn stored(&self, key: &str) -> Option<Arc<Stored>> {
        self.view.read().records.get(&Key::parse(key).unwrap()).map(|entry| entry.stored.clone())
    }

    /// A record as its section's type.
    pub(crate) fn record<T: DeserializeOwned>(&self, key: &str) -> T {
        let stored = self.stored(key).unwrap_or_else(|| panic!("{key} is not in the state"));
        stored.typed(&Key::parse(key).unwrap()).unwrap()
    }

    /// The active problems, by key.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let state = self.view.read();
        let alerts = state.records.keys().map(ToString::to_string).filter(|key| key.starts_with("alert."));
        alerts.collect()
    }

    pub(crate) fn state_json(&self) -> Value {
        read_as_told(&self.infrastructure())
    }
}

/// Reads `state.json` by the reader's rule.
pub(crate) fn read_as_told(dir: &Path) -> Value {
    for _ in 0..1000 {
        let checksum = fs::read_to_string(dir.join("state.json.checksum")).unwrap();
        let state = fs::read(dir.join("state.json")).unwrap();
        let hash: String = Sha256::digest(&state).iter().map(|byte| format!("{byte:02x}")).collect();
        if hash == checksum.trim() {
            return serde_json::from_slice(&state).unwrap();
        }
        std::thread::yield_now();
    }
    panic!("no pair that matches");
}
