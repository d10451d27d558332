//! The demo home: invented, but every part is there because homes have it and tools stumble over it.

use super::{Seed, SeedBackup, SeedFile, SeedGuest, SeedNode, SeedSnapshot};
use crate::lab::{
    guest::{Agent, Kind},
    storage::Storage,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;
const HOUR: u32 = 3600;
const DAY: u32 = 24 * HOUR;

pub(super) fn seed() -> Seed {
    Seed {
        cluster: Some("home".to_owned()),
        nodes: vec![
            node("pve1", "192.168.10.11", 8, 32, "Intel(R) Core(TM) i5-10500T CPU @ 2.30GHz"),
            node("pve2", "192.168.10.12", 16, 64, "AMD Ryzen 7 5700G with Radeon Graphics"),
            node("pve3", "192.168.10.13", 12, 48, "12th Gen Intel(R) Core(TM) i5-12500T"),
        ],
        storages: storages(),
        guests: virtual_machines().into_iter().chain(containers()).collect(),
        pools: BTreeMap::from([
            ("core".to_owned(), "What the house cannot do without".to_owned()),
            ("lab".to_owned(), "May be made and removed at will".to_owned()),
        ]),
        files: files(),
        backup_jobs: BTreeMap::from([(
            "backup-4f1c2a7e-1b3d".to_owned(),
            fields(json!({
                "all": 1, "enabled": 1, "mode": "snapshot", "schedule": "02:30", "storage": "pbs", "compress": "zstd",
                "exclude": "104,9000", "notes-template": "{{guestname}}", "prune-backups": {"keep-daily": "7", "keep-weekly": "4"},
            })),
        )]),
        replication_jobs: BTreeMap::from([(
            "204-0".to_owned(),
            fields(
                json!({"guest": 204, "jobnum": 0, "source": "pve2", "target": "pve3", "type": "local", "schedule": "*/15"}),
            ),
        )]),
        options: BTreeMap::from([
            ("keyboard".to_owned(), "en-us".to_owned()),
            ("registered-tags".to_owned(), "nh-critical".to_owned()),
            ("mac_prefix".to_owned(), "BC:24:11".to_owned()),
        ]),
    }
}

fn fields(value: Value) -> BTreeMap<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().collect(),
        _ => BTreeMap::new(),
    }
}

fn node(name: &str, address: &str, cpus: u32, memory_gib: u32, processor: &str) -> SeedNode {
    SeedNode {
        name: name.to_owned(),
        address: address.to_owned(),
        cpus,
        memory_gib,
        disk_gib: 94,
        uptime_s: 41 * DAY,
        processor: processor.to_owned(),
    }
}

fn storages() -> Vec<Storage> {
    let storage = |id: &str, kind: &str, content: &str, gib: u64, used_gib: u64, location: &str| Storage {
        id: id.to_owned(),
        kind: kind.to_owned(),
        content: content.to_owned(),
        shared: matches!(kind, "nfs" | "pbs"),
        nodes: Vec::new(),
        total_bytes: gib * GIB,
        used_bytes: used_gib * GIB,
        disabled: false,
        location: location.to_owned(),
    };
    let mut zfs = storage("local-zfs", "zfspool", "images,rootdir", 1800, 620, "tank/guests");
    zfs.nodes = vec!["pve2".to_owned(), "pve3".to_owned()];
    let mut old = storage("old-nas", "nfs", "backup,iso", 900, 0, "192.168.10.19:/export/old");
    old.disabled = true;
    vec![
        storage("local", "dir", "backup,iso,vztmpl,snippets", 94, 11, "/var/lib/vz"),
        storage("local-lvm", "lvmthin", "images,rootdir", 340, 20, "pve/data"),
        zfs,
        storage("nas", "nfs", "images,rootdir,iso,backup", 7300, 4100, "192.168.10.20:/mnt/tank/pve"),
        storage("pbs", "pbs", "backup", 3600, 900, "192.168.10.21:8007/home"),
        old,
    ]
}

fn files() -> Vec<SeedFile> {
    let file = |volid: &str, node: Option<&str>, size_bytes: u64| SeedFile {
        volid: volid.to_owned(),
        node: node.map(str::to_owned),
        size_bytes,
    };
    vec![
        file("local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", Some("pve1"), 129_849_344),
        file("local:vztmpl/debian-13-standard_13.1-2_amd64.tar.zst", Some("pve3"), 129_849_344),
        file("local:iso/debian-13.1.0-amd64-netinst.iso", Some("pve1"), 790_626_304),
        file("nas:iso/virtio-win-0.1.271.iso", None, 723_431_424),
    ]
}

/// A guest with what most have; the rest is set afterwards.
fn guest(
    vmid: u32,
    kind: Kind,
    node: &str,
    name: &str,
    cores: u32,
    memory_mib: u32,
    disk: &str,
) -> SeedGuest {
    let disk_key = match kind {
        Kind::Qemu => "scsi0",
        Kind::Lxc => "rootfs",
    };
    SeedGuest {
        vmid,
        kind,
        node: node.to_owned(),
        name: name.to_owned(),
        running: true,
        paused: false,
        uptime_s: 9 * DAY + vmid * 97,
        age_s: 400 * DAY - vmid * 1801 % (300 * DAY),
        config: fields(json!({"cores": cores, "memory": memory_mib, disk_key: disk, "onboot": 1})),
        agent: Agent::Running,
        addresses: Vec::new(),
        pool: None,
        ha: None,
        snapshots: Vec::new(),
        backups: nightly(),
        linked_to: None,
        verbatim: false,
        digest: None,
        pending: BTreeMap::new(),
    }
}

fn nightly() -> Vec<SeedBackup> {
    [1, 2, 8]
        .map(|days| SeedBackup { storage: "pbs".to_owned(), age_s: days * DAY - 9 * HOUR, protected: false })
        .to_vec()
}

impl SeedGuest {
    fn at(mut self, last: u8) -> Self {
        self.addresses = vec![format!("192.168.10.{last}/24"), format!("fd00:10::{last:x}/64")];
        self
    }

    fn set(mut self, lines: Value) -> Self {
        self.config.extend(fields(lines));
        self
    }

    fn in_pool(mut self, pool: &str) -> Self {
        self.pool = Some(pool.to_owned());
        self
    }

    fn stopped(mut self) -> Self {
        self.running = false;
        self.config.remove("onboot");
        self
    }

    fn no_backups(mut self) -> Self {
        self.backups.clear();
        self
    }

    fn managed(mut self) -> Self {
        self.ha = Some("started".to_owned());
        self
    }

    fn snapshot(mut self, name: &str, days: u32, description: &str, differs: Value) -> Self {
        self.snapshots.push(SeedSnapshot {
            name: name.to_owned(),
            age_s: days * DAY,
            description: description.to_owned(),
            config: fields(differs),
            whole: false,
            parent: None,
            memory: false,
        });
        self
    }
}

fn virtual_machines() -> Vec<SeedGuest> {
    let vm = |vmid, node, name, cores, memory_mib, disk| {
        guest(vmid, Kind::Qemu, node, name, cores, memory_mib, disk)
    };
    let agent = json!({"agent": "1"});
    let mut windows = vm(104, "pve3", "windows-desktop", 8, 16_384, "local-zfs:200")
        .set(json!({"ostype": "win11", "bios": "ovmf", "machine": "pc-q35-9.0", "efidisk0": "local-zfs:1", "tpmstate0": "local-zfs:1", "ide2": "nas:iso/virtio-win-0.1.271.iso,media=cdrom"}))
        .stopped()
        .no_backups();
    windows.agent = Agent::Missing;
    let mut vpn =
        vm(105, "pve2", "vpn-gateway", 1, 1024, "local-lvm:8").set(json!({"tags": "network"})).at(5);
    vpn.agent = Agent::Missing;
    let mut sensors = vm(108, "pve3", "sensor-bridge", 1, 1024, "local-lvm:8")
        .set(json!({"agent": "enabled=1,fstrim_cloned_disks=1", "tags": "iot"}))
        .at(48);
    sensors.agent = Agent::Missing;
    let mut staging = vm(106, "pve1", "staging", 2, 4096, "local-lvm:32")
        .set(agent.clone())
        .set(json!({"tags": "lab"}))
        .in_pool("lab")
        .stopped()
        .no_backups();
    staging.linked_to = Some(9000);
    let mut runner = vm(107, "pve1", "build-runner", 4, 8192, "local-lvm:32")
        .set(agent.clone())
        .set(json!({"tags": "ci;lab"}))
        .in_pool("lab")
        .at(107)
        .no_backups();
    runner.linked_to = Some(9000);
    vec![
        vm(100, "pve1", "neural-home", 4, 8192, "local-lvm:64")
            .set(agent.clone())
            .set(json!({"tags": "core;nh-critical", "protection": 1, "startup": "order=2,up=30", "description": "Runs the mesh. Not to be touched by it."}))
            .in_pool("core")
            .at(100),
        vm(101, "pve2", "truenas", 4, 16_384, "local-lvm:32")
            .set(agent.clone())
            .set(json!({"tags": "nas;nh-critical", "protection": 1, "startup": "order=1,up=60,down=180", "scsi1": "local-zfs:500"}))
            .in_pool("core")
            .at(20)
            .snapshot("before-upgrade", 40, "before 25.10", json!({"protection": null, "memory": 12288})),
        vm(102, "pve1", "home-assistant", 2, 4096, "nas:32")
            .set(agent.clone())
            .set(json!({"tags": "iot;needs-nas", "startup": "order=4"}))
            .managed()
            .at(30)
            .snapshot("monthly", 12, "", json!({})),
        vm(103, "pve3", "docker-host", 6, 12_288, "local-zfs:120")
            .set(agent)
            .set(json!({"tags": "docker;needs-nas", "startup": "order=5", "sockets": 1, "cpu": "host"}))
            .at(40)
            .snapshot("clean", 90, "right after installation", json!({"tags": "docker", "memory": 8192}))
            .snapshot("before-compose-v2", 20, "", json!({})),
        windows,
        vpn,
        staging,
        runner,
        sensors,
        vm(9000, "pve1", "debian-13-template", 2, 2048, "local-lvm:32")
            .set(json!({"agent": "1", "template": 1, "ide2": "local-lvm:vm-9000-cloudinit,media=cdrom", "ciuser": "home", "ipconfig0": "ip=dhcp"}))
            .stopped()
            .no_backups(),
    ]
}

fn containers() -> Vec<SeedGuest> {
    let ct = |vmid, node, name, cores, memory_mib, disk| {
        guest(vmid, Kind::Lxc, node, name, cores, memory_mib, disk)
    };
    vec![
        ct(201, "pve1", "dns-primary", 1, 512, "local-lvm:4")
            .set(json!({"tags": "dns;nh-critical", "protection": 1, "startup": "order=1", "net0": "name=eth0,bridge=vmbr0,gw=192.168.10.1,hwaddr=BC:24:11:00:02:01,ip=192.168.10.2/24,type=veth"}))
            .in_pool("core")
            .at(2),
        ct(202, "pve2", "dns-secondary", 1, 512, "local-zfs:4").set(json!({"tags": "dns"})).in_pool("core").at(3),
        ct(203, "pve1", "reverse-proxy", 2, 1024, "local-lvm:8")
            .set(json!({"tags": "network", "startup": "order=3"}))
            .at(4)
            .snapshot("good-certificates", 5, "", json!({})),
        ct(204, "pve2", "media-server", 4, 4096, "local-zfs:32")
            .set(json!({"tags": "media;needs-nas", "startup": "order=6", "mp0": "/mnt/nas/media,mp=/media,ro=1"}))
            .at(50),
        ct(205, "pve2", "media-downloader", 2, 2048, "local-zfs:16")
            .set(json!({"tags": "media;needs-nas", "mp0": "/mnt/nas/media,mp=/media"}))
            .at(51),
        ct(206, "pve3", "photos", 4, 6144, "local-zfs:24").set(json!({"tags": "media;needs-nas"})).at(52),
        ct(207, "pve1", "postgres", 2, 4096, "local-lvm:40")
            .set(json!({"tags": "database", "protection": 1, "startup": "order=2"}))
            .at(60)
            .snapshot("v16", 130, "before 17", json!({"memory": 2048, "tags": null})),
        ct(208, "pve3", "mariadb", 2, 2048, "local-zfs:20").set(json!({"tags": "database"})).at(61),
        ct(209, "pve3", "monitoring", 2, 3072, "local-zfs:30").set(json!({"tags": "monitoring"})).at(62),
        ct(210, "pve3", "documents", 2, 2048, "nas:24").set(json!({"tags": "needs-nas"})).stopped(),
        ct(211, "pve1", "mqtt", 1, 256, "nas:2").set(json!({"tags": "iot"})).managed().at(31),
        ct(212, "pve3", "sandbox", 1, 512, "local-zfs:8")
            .set(json!({"tags": "lab"}))
            .in_pool("lab")
            .stopped()
            .no_backups(),
    ]
}
