//! Our scanner against fakepve, a Proxmox API that somebody else wrote: it must see what is there, and must not take
//! "could not see" for "is gone".

use crate::{
    mesh::Mesh,
    peer::{self, Peer},
};
use nhi_agents::scan::FirstPass;
use nhi_model::{call::ScanDone, source::Coverage};
use nhi_pve::{ApiToken, Endpoint, Trust};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

const SCAN_TOKEN: &str = "nh-scan@pve!mesh";
const SCAN_SECRET: &str = "00000000-0000-4000-8000-000000000001";
/// What PVEAuditor holds.
const AUDITOR: &[&str] = &[
    "Sys.Audit",
    "VM.Audit",
    "VM.GuestAgent.Audit",
    "Datastore.Audit",
    "SDN.Audit",
    "Pool.Audit",
    "Mapping.Audit",
];

/// The actuator's token there.
pub(crate) const ACT_TOKEN: &str = "nh-act@pve!mesh";
pub(crate) const ACT_SECRET: &str = "00000000-0000-4000-8000-000000000002";
/// What it has there: all it needs for what it does, and nothing that would take the floor away.
pub(crate) const ACTUATOR: &[&str] = &[
    "Sys.Audit",
    "VM.Audit",
    "VM.PowerMgmt",
    "VM.Snapshot",
    "VM.Snapshot.Rollback",
    "VM.Backup",
    "VM.Allocate",
    "VM.Clone",
    "VM.Config.CPU",
    "VM.Config.Disk",
    "VM.Config.Memory",
    "VM.Config.Network",
    "VM.Config.Options",
    "VM.Migrate",
    "Datastore.AllocateSpace",
    "Datastore.Audit",
    "SDN.Use",
    "Pool.Audit",
];

/// A running fakepve.
pub(crate) struct Pve {
    peer: Peer,
    url: String,
    fingerprint: String,
}

#[derive(Deserialize)]
struct Started {
    url: String,
    fingerprint: String,
}

#[derive(Deserialize)]
struct Seen {
    requests: Vec<(String, String)>,
}

impl Pve {
    pub(crate) async fn start(nodes: &[&str], guests: Vec<Value>) -> Self {
        let mut peer = Peer::start("fakepve_lab.py", peer::PACKAGES).await;
        let lab = json!({"nodes": nodes, "guests": guests, "tokens": {SCAN_TOKEN: SCAN_SECRET}, "rights": auditor()});
        peer.say(&lab).await;
        let Started { url, fingerprint } = peer.hear().await;
        Self { peer, url, fingerprint }
    }

    pub(crate) async fn act(&mut self, command: Value) {
        self.peer.say(&command).await;
        let _done: Value = self.peer.hear().await;
    }

    /// Replaces the tokens; the scanner's stays.
    pub(crate) async fn tokens(&mut self, more: &[(&str, &str)]) {
        let mut tokens = json!({SCAN_TOKEN: SCAN_SECRET});
        more.iter().for_each(|(token, secret)| tokens[*token] = (*secret).into());
        self.act(json!({"do": "tokens", "tokens": tokens})).await;
    }

    /// Replaces what tokens may do everywhere; the scanner's rights stay.
    pub(crate) async fn rights(&mut self, more: &[(&str, &[&str])]) {
        let mut rights = auditor();
        more.iter().for_each(|(token, privileges)| rights[*token] = json!([["/", privileges]]));
        self.act(json!({"do": "rights", "rights": rights})).await;
    }

    /// Every request since the last question, method and path.
    pub(crate) async fn requests(&mut self) -> Vec<(String, String)> {
        self.peer.say(&json!({"do": "requests"})).await;
        self.peer.hear::<Seen>().await.requests
    }

    /// How it is read with the right token.
    pub(crate) fn endpoint(&self) -> Endpoint {
        self.endpoint_with(SCAN_SECRET)
    }

    /// Stops a guest without anybody of ours.
    pub(crate) async fn stop_guest(&mut self, vmid: usize) {
        self.act(json!({"do": "status", "vmid": vmid, "status": "stopped"})).await;
    }

    fn endpoint_with(&self, secret: &str) -> Endpoint {
        self.endpoint_of(ApiToken::parse(SCAN_TOKEN, secret).unwrap())
    }

    /// How it is reached with another token.
    pub(crate) fn endpoint_of(&self, token: ApiToken) -> Endpoint {
        let trust = Trust::from_settings(None, Some(&self.fingerprint)).unwrap();
        Endpoint::new(vec![self.url.parse().unwrap()], token, trust).unwrap()
    }
}

fn auditor() -> Value {
    json!({SCAN_TOKEN: [["/", AUDITOR]]})
}

fn guest(vmid: usize, node: &str) -> Value {
    let is_container = vmid % 5 < 2;
    let status = if vmid.is_multiple_of(7) { "stopped" } else { "running" };
    let config = if is_container {
        json!({"hostname": format!("guest-{vmid}"), "memory": "512", "cores": "1", "rootfs": format!("local-lvm:vm-{vmid}-disk-0,size=8G")})
    } else {
        json!({"memory": "2048", "cores": 2, "tags": "lab;web", "onboot": 1,
               "smbios1": format!("uuid=00000000-0000-4000-8000-{vmid:012}"), "scsi0": format!("local-lvm:vm-{vmid}-disk-0,size=32G")})
    };
    let kind = if is_container { "lxc" } else { "qemu" };
    json!({"kind": kind, "vmid": vmid, "name": format!("guest-{vmid}"), "node": node, "status": status, "config": config})
}

/// So many guests from id 100 on, dealt out to three nodes.
fn guests(count: usize) -> Vec<Value> {
    (100..100 + count).map(|vmid| guest(vmid, NODES[vmid % 3])).collect()
}

const NODES: [&str; 3] = ["pve1", "pve2", "pve3"];
const GUESTS: &[&str] = &["vm", "lxc"];

/// A running lab of six guests, 100 to 105.
pub(crate) async fn small() -> Pve {
    Pve::start(&NODES, guests(6)).await
}

fn coverage(done: &ScanDone) -> &Coverage {
    done.sources.iter().find(|(id, _)| id.contains("home")).expect("the cluster is a source").1
}

#[tokio::test]
async fn a_home_of_three_nodes_is_seen_whole() {
    let mut pve = Pve::start(&NODES, guests(20)).await;
    let mesh = Mesh::start(pve.endpoint()).await;
    assert!(matches!(mesh.first, FirstPass::Done { .. }), "{:?}", mesh.first);
    let requests = pve.requests().await;
    let writes: Vec<_> = requests.iter().filter(|(method, _)| method != "GET").collect();
    assert!(writes.is_empty(), "a scanner only reads: {writes:?}");

    let records = mesh.records(GUESTS).await;
    assert_eq!(records.len(), 20);
    for expect in guests(20) {
        let section = if expect["kind"] == "lxc" { "lxc" } else { "vm" };
        let key = format!("{section}.home.{}", expect["vmid"]);
        let seen = &records.get(&key).unwrap_or_else(|| panic!("no {key}")).record;
        for field in ["kind", "vmid", "name", "node", "status"] {
            assert_eq!(seen[field], expect[field], "{field} of {key}");
        }
    }
    let vm = &records["vm.home.104"].record;
    assert_eq!((&vm["tags"], &vm["onboot"]), (&json!(["lab", "web"]), &json!(true)));
    let nodes: Vec<String> = mesh.records(&["node"]).await.into_keys().collect();
    assert_eq!(nodes, NODES.map(|node| format!("node.home.{node}")));

    let again = mesh.scan().await;
    assert_eq!((again.writes, coverage(&again)), (0, &Coverage::Complete), "a quiet lab writes nothing");
    mesh.stop().await;
}

#[tokio::test]
async fn five_hundred_guests_are_one_pass() {
    let pve = Pve::start(&NODES, guests(500)).await;
    let mesh = Mesh::start(pve.endpoint()).await;
    assert!(matches!(mesh.first, FirstPass::Done { .. }), "{:?}", mesh.first);
    assert_eq!(mesh.records(GUESTS).await.len(), 500);
    let again = mesh.scan().await;
    assert_eq!((again.writes, coverage(&again)), (0, &Coverage::Complete));
    mesh.stop().await;
}

#[tokio::test]
async fn a_node_that_is_away_takes_no_guest_with_it() {
    let mut pve = Pve::start(&NODES, guests(20)).await;
    let mesh = Mesh::start(pve.endpoint()).await;
    let before = mesh.records(GUESTS).await;

    pve.act(json!({"do": "offline", "node": "pve2", "offline": true})).await;
    let done = mesh.scan().await;
    assert!(!coverage(&done).is_complete(), "{done:?}");
    let during = mesh.records(GUESTS).await;
    assert!(during.keys().eq(before.keys()), "nothing is retired");
    for (key, record) in &during {
        let was = &before[key];
        assert_eq!(record.record["status"], was.record["status"], "{key} is not called stopped");
        assert_eq!(record.record["name"], was.record["name"], "{key} is not renamed");
        assert_eq!(record.stale.is_some(), was.record["node"] == "pve2", "{key}: {:?}", record.stale);
    }

    pve.act(json!({"do": "offline", "node": "pve2", "offline": false})).await;
    let done = mesh.scan().await;
    assert!(coverage(&done).is_complete(), "{done:?}");
    let after = mesh.records(GUESTS).await;
    assert!(after.keys().eq(before.keys()) && after.values().all(|record| record.stale.is_none()));
    mesh.stop().await;
}

#[tokio::test]
async fn rights_that_are_lost_look_like_nothing_and_mean_nothing() {
    let mut pve = Pve::start(&NODES, guests(20)).await;
    let mesh = Mesh::start(pve.endpoint()).await;
    let count = async || mesh.records(GUESTS).await.len();

    // Proxmox answers 200 and leaves out what the token may not see.
    for lost in
        [json!({}), json!({SCAN_TOKEN: [["/", ["Sys.Audit"]]]}), json!({SCAN_TOKEN: [["/vms/100", AUDITOR]]})]
    {
        pve.act(json!({"do": "rights", "rights": lost})).await;
        let done = mesh.scan().await;
        assert!(!coverage(&done).is_complete(), "{lost}: {done:?}");
        assert_eq!(count().await, 20, "{lost}: nothing is retired");
    }
    pve.act(json!({"do": "rights", "rights": auditor()})).await;
    mesh.scan().await;
    let done = mesh.scan().await;
    assert!(coverage(&done).is_complete(), "{done:?}");
    assert!(mesh.records(GUESTS).await.values().all(|record| record.stale.is_none()));

    // The control: a guest that is really gone, seen with all rights, is retired.
    pve.act(json!({"do": "remove", "vmid": 104})).await;
    mesh.scan().await;
    mesh.scan().await;
    assert_eq!(count().await, 19);
    assert!(mesh.record("vm.home.104").await.is_none());
    mesh.stop().await;
}

#[tokio::test]
async fn a_token_that_is_refused_is_said_and_costs_nothing() {
    let mut pve = Pve::start(&NODES, guests(5)).await;
    let wrong = Mesh::start(pve.endpoint_with("00000000-0000-4000-8000-00000000000f")).await;
    let FirstPass::Failed { reason } = &wrong.first else { panic!("{:?}", wrong.first) };
    assert!(reason.to_lowercase().contains("token"), "{reason}");
    assert!(!reason.contains("00000000-0000"), "no secret in {reason}");
    // Somebody who asks may have corrected the token, so it is tried once more, and not a second time at once.
    wrong.scan().await;
    pve.requests().await;
    let again = wrong.scan().await;
    assert!(!coverage(&again).is_complete(), "{again:?}");
    let requests = pve.requests().await;
    assert!(requests.is_empty(), "a refused token is not tried again at once: {requests:?}");
    wrong.stop().await;

    let mut endpoint = pve.endpoint();
    // Here the token comes back at once, and the test does not wait for the minute to pass.
    endpoint.limits.unauthorized = Duration::from_millis(1);
    let mesh = Mesh::start(endpoint).await;
    assert_eq!(mesh.records(GUESTS).await.len(), 5);
    pve.act(json!({"do": "tokens", "tokens": {}})).await;
    let done = mesh.scan().await;
    assert!(!coverage(&done).is_complete(), "{done:?}");
    let records = mesh.records(GUESTS).await;
    assert_eq!(records.len(), 5, "the last state is kept");
    assert!(records.values().all(|record| record.stale.is_some()), "and marked");
    pve.act(json!({"do": "tokens", "tokens": {SCAN_TOKEN: SCAN_SECRET}})).await;
    let done = mesh.scan().await;
    assert!(coverage(&done).is_complete(), "{done:?}");
    assert!(mesh.records(GUESTS).await.values().all(|record| record.stale.is_none()));
    mesh.stop().await;
}

#[tokio::test]
async fn what_happens_in_the_lab_is_told() {
    let mut pve = small().await;
    let mesh = Mesh::start(pve.endpoint()).await;
    pve.stop_guest(104).await;
    pve.act(json!({"do": "add", "guest": guest(300, "pve3")})).await;
    mesh.scan().await;
    let status = mesh.record("vm.home.104").await.unwrap().record["status"].clone();
    assert_eq!(status, "stopped");
    let added = mesh.record("lxc.home.300").await.unwrap().record;
    assert_eq!((&added["name"], &added["node"]), (&json!("guest-300"), &json!("pve3")));
    mesh.stop().await;
}
