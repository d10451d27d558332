//! Conversion of answers, by example; whole passes are in `tests/agents/lab.rs`.

use super::*;
use crate::proxmox::answers::GuestAnswers;
use nhi_decide::observation::Part;
use nhi_model::{Timestamp, guest::Backups};
use nhi_pve::{
    cluster::{ClusterRow, Permissions},
    config::GuestConfig,
    guest::{GuestUsage, NodeGuest},
    node::{NodeState, Space},
};
use serde_json::{Map, json};

fn guest_row(kind: pve::GuestKind, vmid: u32, status: pve::GuestStatus) -> NodeGuest {
    NodeGuest {
        kind,
        vmid,
        name: Some(format!("guest-{vmid}")),
        status,
        qmpstatus: None,
        template: false,
        tags: BTreeSet::new(),
        lock: None,
        usage: GuestUsage { maxdisk: Some(7), ..GuestUsage::default() },
        running_machine: None,
        running_qemu: None,
        rest: Map::new(),
    }
}

fn node_row(node: &str, status: pve_node::NodeStatus) -> NodeRow {
    NodeRow {
        node: node.to_owned(),
        status,
        cpu: Some(0.5),
        maxcpu: Some(8),
        mem: None,
        maxmem: None,
        disk: None,
        maxdisk: Some(1000),
        uptime: None,
        ssl_fingerprint: None,
        level: None,
        rest: Map::new(),
    }
}

fn rows<T>(rows: Vec<T>) -> Rows<T> {
    Rows { rows, unreadable: 0 }
}

fn state() -> NodeState {
    NodeState {
        pveversion: Some("pve-manager/9.1.1/abc".to_owned()),
        kernel: None,
        cpu: None,
        cpus: None,
        cores: None,
        sockets: None,
        cpu_model: None,
        memory: Space::default(),
        swap: Space::default(),
        rootfs: Space::default(),
        loadavg: Vec::new(),
        uptime: None,
        rest: Map::new(),
    }
}

/// A cluster of one node that answers everything.
fn answers(guests: Vec<NodeGuest>) -> Answers {
    let (qemu, lxc) = guests.into_iter().partition(|row| row.kind == pve::GuestKind::Qemu);
    let node = NodeAnswers {
        state: Some(Ok(state())),
        qemu: Ok(rows(qemu)),
        lxc: Ok(rows(lxc)),
        storage: Some(Ok(Rows::default())),
    };
    let cluster =
        ClusterRow { name: None, quorate: Some(true), nodes: None, version: None, rest: Map::new() };
    Answers {
        at: Timestamp::UNIX_EPOCH,
        cluster: "home".to_owned(),
        place: "https://pve1:8006".to_owned(),
        scope: Scope::Full,
        resources: Ok(ClusterResources::default()),
        status: Ok(ClusterStatus { cluster: Some(cluster), nodes: Rows::default() }),
        permissions: Ok(Permissions::default()),
        node_rows: Some(Ok(rows(vec![node_row("pve1", pve_node::NodeStatus::Online)]))),
        ha_resources: Some(Ok(Rows::default())),
        nodes: BTreeMap::from([("pve1".to_owned(), node)]),
        guests: BTreeMap::new(),
        backups: None,
        backup_log: None,
        certificates: BTreeMap::new(),
        detour: None,
    }
}

fn only_guest(answers: &Answers) -> GuestSight {
    let seen = observation(answers);
    let [guest] = &seen.nodes["pve1"].guests[..] else { panic!("{:?}", seen.nodes) };
    guest.clone()
}

#[test]
fn what_a_guest_does_is_told_by_its_own_node() {
    let check = |change: fn(&mut NodeGuest), want: GuestStatus| {
        let mut row = guest_row(pve::GuestKind::Qemu, 100, pve::GuestStatus::Running);
        change(&mut row);
        assert_eq!(only_guest(&answers(vec![row])).guest.status, want);
    };
    check(|_| {}, GuestStatus::Running);
    check(|row| row.qmpstatus = Some(pve::GuestStatus::Paused), GuestStatus::Paused);
    check(|row| row.qmpstatus = Some(pve::GuestStatus::Other("prelaunch".into())), GuestStatus::Running);
    check(|row| row.status = pve::GuestStatus::Stopped, GuestStatus::Stopped);
    check(
        |row| {
            row.status = pve::GuestStatus::Stopped;
            row.lock = Some("suspended".to_owned());
        },
        GuestStatus::Suspended,
    );
    check(|row| row.status = pve::GuestStatus::Unknown, GuestStatus::Unknown);
}

#[test]
fn a_list_with_a_row_that_cannot_be_read_proves_nothing() {
    let mut seen = answers(Vec::new());
    assert_eq!(observation(&seen).nodes["pve1"].lists.len(), 3);
    assert!(observation(&seen).index.is_some());
    let node = seen.nodes.get_mut("pve1").unwrap();
    node.qemu = Ok(Rows { rows: Vec::new(), unreadable: 1 });
    seen.resources.as_mut().unwrap().unreadable = 1;
    let seen = observation(&seen);
    assert!(!seen.nodes["pve1"].lists.contains(&List::Qemu));
    assert!(matches!(&seen.nodes["pve1"].coverage, Coverage::Partial { .. }));
    assert_eq!(seen.index, None);
}

#[test]
fn an_offline_node_is_not_asked_and_says_so() {
    let mut seen = answers(Vec::new());
    seen.node_rows = Some(Ok(rows(vec![
        node_row("pve1", pve_node::NodeStatus::Online),
        node_row("pve2", pve_node::NodeStatus::Offline),
    ])));
    assert_eq!(askable(&seen), BTreeSet::from(["pve1".to_owned()]));
    let seen = observation(&seen);
    let away = &seen.nodes["pve2"];
    assert_eq!(away.record.as_ref().unwrap().status, lab::NodeStatus::Offline);
    assert_eq!(away.coverage, Coverage::Unseen { reason: "node pve2 is offline".to_owned() });
    assert!(away.lists.is_empty() && seen.reach.is_complete());
}

#[test]
fn corosync_goes_before_statistics() {
    let mut seen = answers(Vec::new());
    seen.status.as_mut().unwrap().nodes.rows.push(ClusterNode {
        name: "pve1".to_owned(),
        nodeid: None,
        ip: Some("192.0.2.1".to_owned()),
        online: Some(false),
        local: false,
        level: None,
        rest: Map::new(),
    });
    assert!(askable(&seen).is_empty());
    let record = observation(&seen).nodes["pve1"].record.clone().unwrap();
    assert_eq!((record.status, record.address.as_deref()), (lab::NodeStatus::Offline, Some("192.0.2.1")));
}

#[test]
fn a_container_has_the_disk_its_configuration_says() {
    let mut seen = answers(vec![guest_row(pve::GuestKind::Lxc, 200, pve::GuestStatus::Running)]);
    assert_eq!(only_guest(&seen).guest.disk_bytes, None, "what ZFS says today is no fact");
    let config = json!({"rootfs": "local-zfs:subvol-200-disk-0,size=8G", "digest": "abc",
        "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=dhcp,tag=5"});
    let guest = GuestRef { kind: GuestKind::Lxc, vmid: 200 };
    let asked = GuestAnswers {
        node: "pve1".to_owned(),
        config: GuestConfig::of(pve::GuestKind::Lxc, config).map(Ok),
        snapshots: None,
        addresses: None,
    };
    seen.guests.insert(guest, asked);
    let sight = only_guest(&seen);
    assert_eq!(sight.guest.disk_bytes, Some(8 << 30));
    assert_eq!(sight.guest.protection, Some(false));
    assert_eq!(sight.guest.nics["net0"].vlan, Some(5));
    assert_eq!(sight.guest.volumes["rootfs"], "local-zfs:subvol-200-disk-0");
    assert!(sight.read.contains(&Part::Config) && !sight.read.contains(&Part::Addresses));
    assert!(sight.guest.addresses.is_empty(), "ip=dhcp is no address");
}

/// A storage for backups.
fn storage_row(storage: &str, shared: bool, active: bool) -> pve_node::Storage {
    pve_node::Storage {
        storage: storage.to_owned(),
        kind: None,
        content: ["backup".to_owned()].into(),
        shared,
        active: Some(active),
        enabled: Some(true),
        space: Space::default(),
        rest: Map::new(),
    }
}

/// A cluster of two nodes that shows every backup, and there is none.
fn backup_answers(storages: [Vec<pve_node::Storage>; 2]) -> Answers {
    let mut seen = answers(vec![guest_row(pve::GuestKind::Qemu, 100, pve::GuestStatus::Running)]);
    let held = ["VM.Backup", "Datastore.AllocateSpace", "Datastore.Audit"];
    let held = held.map(|name| (name.to_owned(), true)).into();
    seen.permissions = Ok(Permissions { paths: BTreeMap::from([("/".to_owned(), held)]) });
    let [first, second] = storages;
    seen.nodes.get_mut("pve1").unwrap().storage = Some(Ok(rows(first)));
    let other = NodeAnswers {
        state: Some(Ok(state())),
        qemu: Ok(Rows::default()),
        lxc: Ok(Rows::default()),
        storage: Some(Ok(rows(second))),
    };
    seen.nodes.insert("pve2".to_owned(), other);
    let listed = ["pve1", "pve2"].map(|node| node_row(node, pve_node::NodeStatus::Online));
    seen.node_rows = Some(Ok(rows(listed.into())));
    let asked = backup_places(&seen).ask.into_keys();
    seen.backups = Some(asked.map(|storage| (storage, Ok(Rows::default()))).collect());
    seen
}

#[test]
fn a_backup_storage_that_was_not_read_is_not_taken_for_empty() {
    let read = |seen: &Answers| only_guest(seen).read.contains(&Part::Backups);
    let local = || storage_row("local", false, true);
    let whole = backup_answers([vec![local(), storage_row("nas", true, true)], vec![local()]]);
    assert!(read(&whole));
    assert_eq!(only_guest(&whole).guest.backups, Backups::None, "all were read: none");
    let elsewhere =
        backup_answers([vec![storage_row("nas", true, false)], vec![storage_row("nas", true, true)]]);
    assert!(read(&elsewhere), "another node reads it");
    assert_eq!(backup_places(&elsewhere).ask["nas"], ["pve2"]);

    let inactive = backup_answers([vec![local(), storage_row("nas", true, false)], vec![local()]]);
    assert!(!read(&inactive), "a shared storage that nobody reaches");
    let half = backup_answers([vec![local()], vec![storage_row("local", false, false)]]);
    assert!(!read(&half), "a node's own storage");
    let mut unlisted = backup_answers([vec![local()], vec![local()]]);
    unlisted.nodes.get_mut("pve2").unwrap().storage = None;
    assert!(!read(&unlisted), "a node whose storages were not listed");
    let mut away = backup_answers([vec![local()], vec![local()]]);
    away.nodes.remove("pve2");
    assert!(!read(&away), "a node that was not asked");
    let mut off = backup_answers([vec![local(), storage_row("old", true, false)], vec![local()]]);
    off.nodes.get_mut("pve1").unwrap().storage.as_mut().unwrap().as_mut().unwrap().rows[1].enabled =
        Some(false);
    assert!(read(&off), "one that is switched off is nobody's place for backups");
}

#[test]
fn hidden_backups_leave_only_traces() {
    let at = |seconds| Timestamp::from_second(seconds).unwrap();
    let newest = |seconds, storage: Option<&str>| Backups::Newest {
        at: at(seconds),
        storage: storage.map(str::to_owned),
    };
    let volume = |ctime| pve_node::BackupVolume {
        volid: "nas:backup/x".to_owned(),
        vmid: Some(100),
        subtype: None,
        ctime: Some(ctime),
        size: None,
        format: None,
        notes: None,
        protected: false,
        verification: None,
        rest: Map::new(),
    };
    // It may list what is on one storage and not what is on the other.
    let mut half =
        backup_answers([vec![storage_row("nas", true, true), storage_row("pbs", true, true)], vec![]]);
    let held = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect();
    let all = held(&["VM.Audit", "VM.Backup", "Datastore.Audit"]);
    let nas = held(&["Datastore.Audit", "Datastore.AllocateSpace"]);
    half.permissions =
        Ok(Permissions { paths: BTreeMap::from([("/".to_owned(), all), ("/storage/nas".to_owned(), nas)]) });
    let check = |seen: &Answers, want: Backups| {
        let sight = only_guest(seen);
        assert!(sight.read.contains(&Part::BackupTraces) && !sight.read.contains(&Part::Backups));
        assert_eq!(sight.guest.backups, want);
    };
    check(&half, Backups::NotVisible);
    half.backups = Some(BTreeMap::from([("nas".to_owned(), Ok(rows(vec![volume(50), volume(70)])))]));
    check(&half, newest(70, Some("nas")));
    // The task began a moment before the archive's time: the same backup, and one is told with its place.
    half.backup_log = Some(BTreeMap::from([(100, 69)]));
    check(&half, newest(70, Some("nas")));
    half.backup_log = Some(BTreeMap::from([(100, 90), (101, 95)]));
    check(&half, newest(90, None));
    // A pass that looked at the log alone, and one that looked nowhere.
    half.backups = None;
    check(&half, newest(90, None));
    half.backup_log = None;
    assert!(only_guest(&half).read.is_disjoint(&[Part::Backups, Part::BackupTraces].into()));
}

#[test]
fn storages_that_may_be_hidden_make_no_claim() {
    let mut seen = backup_answers([vec![], vec![]]);
    assert_eq!(only_guest(&seen).guest.backups, Backups::None, "the control: no storage is hidden");
    let held = ["VM.Backup", "Datastore.AllocateSpace"].map(|name| (name.to_owned(), true)).into();
    seen.permissions = Ok(Permissions { paths: BTreeMap::from([("/".to_owned(), held)]) });
    assert_eq!(only_guest(&seen).guest.backups, Backups::NotVisible);
}

#[test]
fn pressure_has_the_shape_of_the_rows() {
    let usage = GuestUsage {
        pressure: BTreeMap::from([("pressurecpusome".to_owned(), 1.5), ("pressureiofull".to_owned(), 0.0)]),
        ..GuestUsage::default()
    };
    let told = guest::gauges(&usage).pressure;
    assert_eq!(told, Some(json!({"cpu": {"some": 1.5}, "io": {"full": 0.0}})));
}

#[test]
fn a_disk_size_that_wobbles_stays() {
    let known = |bytes: u64| {
        let record = json!({"disk_bytes": bytes});
        BTreeMap::from([(Key::node("home", "pve1"), Known { revision: 1, record, stale: None })])
    };
    let size = |bytes| {
        let mut seen = observation(&answers(Vec::new()));
        steady(&known(bytes), &mut seen);
        seen.nodes["pve1"].record.as_ref().unwrap().disk_bytes
    };
    assert_eq!(size(1010), Some(1010));
    assert_eq!(size(1100), Some(1000));
}
