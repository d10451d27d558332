//! Every call that plans are made of, and what is read around it.

use crate::Lab;
use nhi_pve::{
    Accepted, GuestKind, Kind, SendError, TaskNow, Upid,
    WriteMethod::{Delete, Post, Put},
    guest::GuestStatus,
};
use nhi_sim::{Fault, LabOptions, PveVersion};

#[tokio::test]
async fn a_machine_is_led_through_its_life() {
    let lab = Lab::start().await;
    let reader = lab.operator.reader();
    let at = "/nodes/pve1/qemu/910";
    let on = |below: &str| format!("{at}{below}");
    let full = [("newid", "910"), ("name", "scratch"), ("full", "1"), ("pool", "lab")];
    assert_eq!(lab.task(Post, "/nodes/pve1/qemu/9000/clone", &full).await, "OK");
    let config = reader.qemu_config("pve1", 910).await.unwrap();
    assert_eq!(config.name().as_deref(), Some("scratch"));

    let digest = config.digest().unwrap();
    let set = [("cores", "3"), ("tags", "lab;tmp"), ("digest", &digest)];
    assert_eq!(lab.send(Put, &on("/config"), &set).await, Ok(Accepted::Done));
    let stale = lab.send(Put, &on("/config"), &set).await;
    assert!(matches!(&stale, Err(SendError::Refused(error)) if *error.kind() == Kind::Modified), "{stale:?}");

    assert_eq!(lab.task(Put, &on("/resize"), &[("disk", "scsi0"), ("size", "40G")]).await, "OK");
    assert_eq!(lab.task(Post, &on("/status/start"), &[]).await, "OK");
    assert!(reader.guest_feature(GuestKind::Qemu, "pve1", 910, "snapshot").await.unwrap());
    let memory = [("snapname", "before"), ("description", "a & b"), ("vmstate", "1")];
    assert_eq!(lab.task(Post, &on("/snapshot"), &memory).await, "OK");
    let now = reader.guest_status(GuestKind::Qemu, "pve1", 910).await.unwrap();
    assert_eq!((now.guest.status, now.ha), (GuestStatus::Running, None));

    assert_eq!(lab.send(Put, &on("/config"), &[("tags", "other")]).await, Ok(Accepted::Done));
    let kept = reader.snapshot_config(GuestKind::Qemu, "pve1", 910, "before").await.unwrap();
    assert!(kept.tags().contains("tmp"), "{:?}", kept.tags());
    assert_eq!(lab.task(Post, &on("/snapshot/before/rollback"), &[("start", "1")]).await, "OK");
    assert!(reader.qemu_config("pve1", 910).await.unwrap().tags().contains("tmp"));
    assert_eq!(lab.task(Delete, &on("/snapshot/before"), &[]).await, "OK");
    assert!(reader.snapshots(GuestKind::Qemu, "pve1", 910).await.unwrap().rows.is_empty());

    assert_eq!(lab.task(Post, &on("/status/suspend"), &[]).await, "OK");
    let now = reader.guest_status(GuestKind::Qemu, "pve1", 910).await.unwrap();
    assert_eq!(now.guest.qmpstatus, Some(GuestStatus::Paused));
    assert_eq!(lab.task(Post, &on("/status/resume"), &[]).await, "OK");
    assert_eq!(lab.task(Post, &on("/status/reset"), &[]).await, "OK");
    assert_eq!(lab.task(Post, &on("/status/reboot"), &[]).await, "OK");
    assert_eq!(lab.task(Post, "/nodes/pve1/vzdump", &[("vmid", "910"), ("storage", "pbs")]).await, "OK");
    let backups = reader.guest_backups("pve1", "pbs", 910).await.unwrap();
    assert_eq!(backups.rows.len(), 1, "the actuator's token sees what it made");

    let runs = lab.send(Delete, at, &[]).await;
    assert!(
        matches!(&runs, Err(SendError::Refused(error)) if *error.kind() == Kind::StillRunning),
        "{runs:?}"
    );
    assert_eq!(lab.task(Post, &on("/status/stop"), &[]).await, "OK");
    assert!(!reader.vmid_is_free(910).await.unwrap());
    assert_eq!(lab.task(Delete, at, &[("purge", "1"), ("destroy-unreferenced-disks", "1")]).await, "OK");
    assert!(reader.vmid_is_free(910).await.unwrap());
    assert_eq!(*reader.qemu_config("pve1", 910).await.unwrap_err().kind(), Kind::Gone);
    assert_eq!(lab.arrivals().len(), 17);
}

#[tokio::test]
async fn a_container_is_made_moved_and_removed() {
    let lab = Lab::start().await;
    let template = "local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst";
    let new = [
        ("vmid", "920"),
        ("hostname", "scratch"),
        ("ostemplate", template),
        ("rootfs", "nas:4"),
        ("net0", "name=eth0,bridge=vmbr0,ip=dhcp"),
        ("pool", "lab"),
    ];
    assert_eq!(lab.task(Post, "/nodes/pve1/lxc", &new).await, "OK");
    let check = lab.operator.reader().migrate_check(GuestKind::Lxc, "pve1", 920).await.unwrap();
    assert!(check.allowed.unwrap().contains("pve2") && !check.running);
    assert_eq!(lab.task(Post, "/nodes/pve1/lxc/920/migrate", &[("target", "pve2")]).await, "OK");
    assert_eq!(lab.task(Post, "/nodes/pve2/lxc/920/status/start", &[]).await, "OK");
    assert_eq!(lab.task(Post, "/nodes/pve2/lxc/920/status/shutdown", &[("timeout", "30")]).await, "OK");
    assert_eq!(lab.task(Delete, "/nodes/pve2/lxc/920", &[]).await, "OK");
}

#[tokio::test]
async fn a_machine_is_made_from_nothing() {
    let lab = Lab::start().await;
    let new =
        [("vmid", "930"), ("name", "fresh"), ("memory", "1024"), ("scsi0", "local-lvm:8"), ("pool", "lab")];
    assert_eq!(lab.task(Post, "/nodes/pve2/qemu", &new).await, "OK");
    let again = lab.post("/nodes/pve2/qemu", &new).await;
    assert!(
        matches!(&again, Err(SendError::Refused(error)) if *error.kind() == Kind::AlreadyExists),
        "{again:?}"
    );
    let check = lab.operator.reader().migrate_check(GuestKind::Qemu, "pve2", 930).await.unwrap();
    assert_eq!((check.local_disks.len(), check.running), (1, false));
    // The way Proxmox changes a configuration that may take longer.
    assert_eq!(lab.task(Post, "/nodes/pve2/qemu/930/config", &[("cores", "2")]).await, "OK");
}

#[tokio::test]
async fn refusals_say_their_kind() {
    let lab = Lab::start().await;
    let kind = async |method, path: &str, params: &[(&str, &str)]| match lab.send(method, path, params).await
    {
        Err(SendError::Refused(error)) => error.kind().clone(),
        other => panic!("{path}: {other:?}"),
    };
    assert_eq!(kind(Delete, "/nodes/pve1/qemu/100", &[]).await, Kind::Protected);
    assert_eq!(kind(Delete, "/nodes/pve1/lxc/211", &[]).await, Kind::HaManaged);
    assert_eq!(kind(Post, "/nodes/pve1/qemu/104/status/start", &[]).await, Kind::Gone);
    assert_eq!(
        kind(Post, "/nodes/pve9/qemu/104/status/start", &[]).await,
        Kind::NodeUnreachable { node: "pve9".to_owned() }
    );
    let skip = kind(Post, "/nodes/pve3/qemu/104/status/start", &[("skiplock", "1")]).await;
    assert_eq!(skip, Kind::InvalidParameter);
    assert!(matches!(
        kind(Put, "/nodes/pve1/qemu/100/config", &[("tags", "core")]).await,
        Kind::PermissionDenied { .. }
    ));
    lab.sim.with_lab(|lab| lab.guests.get_mut(&108).unwrap().config.insert("lock".into(), "backup".into()));
    assert_eq!(
        kind(Put, "/nodes/pve3/qemu/108/config", &[("cores", "2")]).await,
        Kind::Locked { lock: "backup".to_owned() }
    );
    // A lock shows in the task of a switch, not in its answer.
    let exit = lab.task(Post, "/nodes/pve3/qemu/108/status/stop", &[]).await;
    assert_eq!(Kind::of_task_exit(&exit, "pve3"), Kind::Locked { lock: "backup".to_owned() });
}

#[tokio::test]
async fn ha_takes_a_request_and_acts_later() {
    let lab = Lab::start().await;
    let Ok(Accepted::Task(upid)) = lab.post("/nodes/pve1/qemu/102/status/stop", &[]).await else { panic!() };
    assert_eq!(upid.kind, "hastop");
    assert_eq!(lab.exit(&upid).await, "OK");
    assert!(lab.running(102), "the task is over and the guest runs");
    let now = lab.operator.reader().guest_status(GuestKind::Qemu, "pve1", 102).await.unwrap();
    assert!(now.ha.is_some());
}

#[tokio::test]
async fn a_task_is_followed_to_any_end_and_its_log_read_from_behind() {
    let lab = Lab::start().await;
    let path = "/nodes/pve3/qemu/104/status/start";
    for (error, done) in [("start failed: QEMU exited with code 1", false), ("unexpected status", true)] {
        let fault = lab.fault(Fault::TaskFails {
            task: "qmstart".to_owned(),
            vmid: None,
            error: error.to_owned(),
            times: None,
            done,
        });
        assert_eq!(lab.task(Post, path, &[]).await, error);
        lab.sim.clear_fault(fault).unwrap();
    }
    let fault = lab.fault(Fault::TaskHangs { task: "qmstop".to_owned(), vmid: None });
    let Ok(Accepted::Task(upid)) = lab.post("/nodes/pve3/qemu/104/status/stop", &[]).await else { panic!() };
    lab.sim.advance_ms(3_600_000);
    assert_eq!(lab.operator.task(&upid).await.unwrap(), TaskNow::Running);
    lab.sim.clear_fault(fault).unwrap();
    assert_eq!(lab.exit(&upid).await, "OK");

    let unknown: Upid = "UPID:pve3:00000001:00000001:00000001:qmstart:104:root@pam:".parse().unwrap();
    assert_eq!(*lab.operator.task(&unknown).await.unwrap_err().kind(), Kind::InvalidParameter);
}

#[tokio::test]
async fn an_older_proxmox_is_understood() {
    let options =
        LabOptions { version: PveVersion::V8_2, task_ms: 20, auth_delay_ms: 0, ..LabOptions::demo() };
    let lab = Lab::with(options, |_| {}).await;
    assert_eq!(lab.task(Post, "/nodes/pve3/qemu/104/status/start", &[]).await, "OK");
    let refused = lab.send(Delete, "/nodes/pve1/qemu/100", &[]).await;
    assert!(
        matches!(&refused, Err(SendError::Refused(error)) if *error.kind() == Kind::Protected),
        "{refused:?}"
    );
    let check = lab.operator.reader().migrate_check(GuestKind::Lxc, "pve1", 203).await;
    assert_eq!(*check.unwrap_err().kind(), Kind::NotImplemented);
}
