//! Our operator against fakepve: what somebody else believes Proxmox to be takes our calls, and refuses what it should.

use crate::proxmox::{ACT_SECRET, ACT_TOKEN, ACTUATOR, Pve};
use nhi_pve::{
    Accepted, ApiToken, GuestKind, Kind, Operator, SendError, TaskNow, Write,
    WriteMethod::{self, Delete, Post, Put},
    guest::GuestStatus,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

struct Lab {
    pve: Pve,
    operator: Operator,
}

fn guest(kind: &str, vmid: u32, status: &str, extra: &Value) -> Value {
    let mut config = match kind {
        "lxc" => {
            json!({"hostname": format!("guest-{vmid}"), "rootfs": format!("local-lvm:vm-{vmid}-disk-0,size=8G")})
        }
        _ => json!({"memory": "2048", "cores": 2, "scsi0": format!("local-lvm:vm-{vmid}-disk-0,size=32G"),
                    "smbios1": format!("uuid=00000000-0000-4000-8000-{vmid:012}")}),
    };
    for (field, value) in extra.as_object().unwrap() {
        config[field] = value.clone();
    }
    let name = format!("guest-{vmid}");
    json!({"kind": kind, "vmid": vmid, "name": name, "node": "pve1", "status": status, "config": config})
}

impl Lab {
    async fn start() -> Self {
        let guests = vec![
            guest("qemu", 100, "stopped", &json!({})),
            guest("qemu", 101, "running", &json!({"protection": 1})),
            guest("lxc", 201, "running", &json!({})),
        ];
        let mut pve = Pve::start(&["pve1", "pve2"], guests).await;
        pve.act(json!({"do": "tokens", "tokens": {ACT_TOKEN: ACT_SECRET}})).await;
        pve.act(json!({"do": "rights", "rights": {ACT_TOKEN: [["/", ACTUATOR]]}})).await;
        let operator =
            Operator::new(pve.endpoint_of(ApiToken::parse(ACT_TOKEN, ACT_SECRET).unwrap())).unwrap();
        pve.requests().await;
        Self { pve, operator }
    }

    async fn send(
        &self,
        method: WriteMethod,
        path: &str,
        params: &[(&str, &str)],
    ) -> Result<Accepted, SendError> {
        let params: BTreeMap<String, String> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.operator.send(&Write { method, path, params: &params, node: "pve1" }).await
    }

    /// Sends a call that begins a task, and gives its exit text.
    async fn task(&self, method: WriteMethod, path: &str, params: &[(&str, &str)]) -> String {
        let Accepted::Task(upid) = self.send(method, path, params).await.unwrap() else { panic!("{path}") };
        assert_eq!((upid.node.as_str(), upid.user.as_str()), ("pve1", ACT_TOKEN));
        match self.operator.task(&upid).await.unwrap() {
            TaskNow::Ended(exit) => exit,
            TaskNow::Running => panic!("{path}: its tasks end at once"),
        }
    }

    async fn refused(&self, method: WriteMethod, path: &str, params: &[(&str, &str)]) -> Kind {
        match self.send(method, path, params).await {
            Err(SendError::Refused(error)) if *error.kind() != Kind::Other => error.kind().clone(),
            other => panic!("{path}: {other:?}"),
        }
    }

    /// Writes that arrived since the last question.
    async fn writes(&mut self) -> Vec<(String, String)> {
        self.pve.requests().await.into_iter().filter(|(method, _)| method != "GET").collect()
    }
}

#[tokio::test]
async fn a_machine_is_led_through_its_life() {
    let mut lab = Lab::start().await;
    let reader = lab.operator.reader().clone();
    let status = async || reader.guest_status(GuestKind::Qemu, "pve1", 100).await.unwrap().guest.status;
    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/100/status/start", &[]).await, "OK");
    assert_eq!(status().await, GuestStatus::Running);
    let again = lab.task(Post, "/nodes/pve1/qemu/100/status/start", &[]).await;
    assert!(again.contains("already running"), "{again}");

    let named = [("snapname", "before"), ("description", "a & b\nü")];
    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/100/snapshot", &named).await, "OK");
    let listed = reader.snapshots(GuestKind::Qemu, "pve1", 100).await.unwrap();
    assert_eq!((listed.rows.len(), listed.rows[0].description.as_deref()), (1, Some("a & b\nü")));

    let digest = reader.qemu_config("pve1", 100).await.unwrap().digest().unwrap();
    let set = [("description", "after"), ("digest", digest.as_str())];
    assert_eq!(lab.send(Put, "/nodes/pve1/qemu/100/config", &set).await, Ok(Accepted::Done));
    assert_eq!(lab.refused(Put, "/nodes/pve1/qemu/100/config", &set).await, Kind::Modified);
    let kept = reader.snapshot_config(GuestKind::Qemu, "pve1", 100, "before").await.unwrap();
    assert_eq!(kept.cores(), Some(2));
    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/100/snapshot/before/rollback", &[]).await, "OK");
    assert_eq!(lab.task(Delete, "/nodes/pve1/qemu/100/snapshot/before", &[]).await, "OK");

    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/100/status/stop", &[]).await, "OK");
    assert_eq!(status().await, GuestStatus::Stopped);
    let copy = [("newid", "910"), ("name", "copy"), ("full", "1")];
    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/100/clone", &copy).await, "OK");
    assert_eq!(reader.qemu_config("pve1", 910).await.unwrap().name().as_deref(), Some("copy"));
    assert!(!reader.vmid_is_free(910).await.unwrap());
    assert_eq!(lab.task(Delete, "/nodes/pve1/qemu/910", &[("purge", "1")]).await, "OK");
    assert_eq!(*reader.qemu_config("pve1", 910).await.unwrap_err().kind(), Kind::Gone);
    assert!(reader.vmid_is_free(910).await.unwrap());

    let tasks = lab.operator.tasks_since("pve1", 100, 0).await.unwrap();
    assert_eq!((tasks.rows.len(), tasks.unreadable), (7, 0), "one a call that begins one");
    let writes = lab.writes().await;
    assert_eq!(writes.len(), 10, "{writes:?}");
}

#[tokio::test]
async fn a_container_is_switched_and_cloned() {
    let lab = Lab::start().await;
    assert_eq!(lab.task(Post, "/nodes/pve1/lxc/201/status/shutdown", &[("timeout", "30")]).await, "OK");
    assert_eq!(lab.refused(Post, "/nodes/pve1/lxc/201/status/stop", &[]).await, Kind::NotRunning);
    assert_eq!(lab.task(Post, "/nodes/pve1/lxc/201/snapshot", &[("snapname", "one")]).await, "OK");
    let copy = [("newid", "920"), ("hostname", "copy"), ("full", "1")];
    assert_eq!(lab.task(Post, "/nodes/pve1/lxc/201/clone", &copy).await, "OK");
    assert_eq!(lab.task(Delete, "/nodes/pve1/lxc/920", &[]).await, "OK");
}

#[tokio::test]
async fn refusals_are_understood_and_sent_once() {
    let mut lab = Lab::start().await;
    assert_eq!(lab.refused(Delete, "/nodes/pve1/qemu/101", &[]).await, Kind::Protected);
    assert_eq!(lab.refused(Delete, "/nodes/pve1/lxc/201", &[]).await, Kind::StillRunning);
    assert_eq!(lab.refused(Post, "/nodes/pve1/qemu/999/status/start", &[]).await, Kind::Gone);
    let taken = [("newid", "101"), ("full", "1")];
    assert_eq!(lab.refused(Post, "/nodes/pve1/qemu/100/clone", &taken).await, Kind::AlreadyExists);
    let bad = lab.refused(Post, "/nodes/pve1/qemu/100/snapshot", &[("snapname", "1 x")]).await;
    assert_eq!(bad, Kind::InvalidParameter);
    lab.pve.act(json!({"do": "lock", "vmid": 100, "lock": "backup"})).await;
    let locked = lab.refused(Put, "/nodes/pve1/qemu/100/config", &[("cores", "4")]).await;
    assert_eq!(locked, Kind::Locked { lock: "backup".to_owned() });
    lab.pve.act(json!({"do": "rights", "rights": {ACT_TOKEN: [["/", ["VM.Audit"]]]}})).await;
    let denied = lab.refused(Post, "/nodes/pve1/qemu/101/status/stop", &[]).await;
    assert!(matches!(denied, Kind::PermissionDenied { .. }), "{denied:?}");
    lab.pve.act(json!({"do": "rights", "rights": {ACT_TOKEN: [["/", ACTUATOR]]}})).await;
    lab.pve.act(json!({"do": "offline", "node": "pve1", "offline": true})).await;
    let offline = lab.send(Post, "/nodes/pve1/qemu/101/status/stop", &[]).await;
    assert!(matches!(offline, Err(SendError::Lost(_))), "{offline:?}");
    assert_eq!(lab.writes().await.len(), 8);
}

#[tokio::test]
async fn a_connection_that_is_reset_loses_one_write() {
    let mut lab = Lab::start().await;
    lab.pve.act(json!({"do": "network", "network": {"drop_rate": 1.0}})).await;
    let outcome = lab.send(Post, "/nodes/pve1/qemu/100/status/start", &[]).await;
    assert!(matches!(outcome, Err(SendError::Lost(_))), "{outcome:?}");
    lab.pve.act(json!({"do": "network", "network": {"drop_rate": 0.0}})).await;
    let writes = lab.writes().await;
    assert!(writes.len() <= 1, "{writes:?}");
    let started = lab.operator.tasks_since("pve1", 100, 0).await.unwrap().rows.len();
    let now = lab.operator.reader().guest_status(GuestKind::Qemu, "pve1", 100).await.unwrap();
    assert_eq!(now.guest.status == GuestStatus::Running, started == 1, "the list tells what became of it");
}
