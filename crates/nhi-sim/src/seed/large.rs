//! A big lab for measurements: regular, so that its numbers can be predicted.

use super::{Seed, SeedGuest, SeedNode};
use crate::lab::{
    guest::{Agent, Kind},
    storage::Storage,
};
use serde_json::json;
use std::collections::BTreeMap;

pub(super) fn seed(nodes: u32, guests: u32) -> Seed {
    let nodes = nodes.max(1);
    let storage = |id: &str, kind: &str, content: &str| Storage {
        id: id.to_owned(),
        kind: kind.to_owned(),
        content: content.to_owned(),
        shared: kind == "pbs",
        nodes: Vec::new(),
        total_bytes: 8 << 40,
        used_bytes: 1 << 40,
        disabled: false,
        location: String::new(),
    };
    Seed {
        cluster: (nodes > 1).then(|| "large".to_owned()),
        nodes: (1..=nodes)
            .map(|number| SeedNode {
                name: format!("pve{number}"),
                address: format!("10.99.{}.{}", number / 250, number % 250 + 1),
                cpus: 64,
                memory_gib: 512,
                disk_gib: 200,
                uptime_s: 5_000_000,
                processor: "AMD EPYC 9354P 32-Core Processor".to_owned(),
            })
            .collect(),
        storages: vec![
            storage("local", "dir", "backup,iso,vztmpl"),
            storage("local-zfs", "zfspool", "images,rootdir"),
            storage("pbs", "pbs", "backup"),
        ],
        guests: (0..guests).map(|number| guest(number, nodes)).collect(),
        pools: BTreeMap::new(),
        files: Vec::new(),
        backup_jobs: BTreeMap::new(),
        replication_jobs: BTreeMap::new(),
        options: BTreeMap::new(),
    }
}

/// Two of three are virtual machines; one of ten is stopped.
fn guest(number: u32, nodes: u32) -> SeedGuest {
    let vmid = 100 + number;
    let kind = if number / nodes % 3 == 2 { Kind::Lxc } else { Kind::Qemu };
    let disk_key = match kind {
        Kind::Qemu => "scsi0",
        Kind::Lxc => "rootfs",
    };
    let mut config = BTreeMap::from([
        ("cores".to_owned(), json!(1 + number % 8)),
        ("memory".to_owned(), json!(512 << (number % 5))),
        (disk_key.to_owned(), json!(format!("local-zfs:{}", 8 + number % 64))),
        ("tags".to_owned(), json!(format!("group-{}", number % 12))),
    ]);
    if kind == Kind::Qemu {
        config.insert("agent".to_owned(), json!("1"));
    }
    SeedGuest {
        vmid,
        kind,
        node: format!("pve{}", 1 + number % nodes),
        name: format!("guest-{vmid}"),
        running: number % 10 != 9,
        paused: false,
        uptime_s: 100_000 + number * 61,
        age_s: 40_000_000,
        config,
        agent: Agent::Running,
        addresses: vec![format!(
            "10.{}.{}.{}/16",
            100 + number / 62_500,
            number / 250 % 250,
            number % 250 + 1
        )],
        pool: None,
        ha: None,
        snapshots: Vec::new(),
        backups: Vec::new(),
        linked_to: None,
        verbatim: false,
        digest: None,
        pending: BTreeMap::new(),
    }
}
