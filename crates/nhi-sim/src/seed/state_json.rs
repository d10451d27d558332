//! Reads Neural-Home's `state.json`: what it knows of nodes, guests and their addresses becomes a lab that
//! looks the same to a scanner. What the file does not hold (disks' storages, snapshots) is made up.

use super::{Seed, SeedError, SeedGuest, SeedNode, SeedSnapshot};
use crate::lab::{
    guest::{Agent, Kind},
    storage::Storage,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Row = Map<String, Value>;

pub(super) fn seed(state: &Value) -> Result<Seed, SeedError> {
    let rows = |section: &str| -> Vec<&Row> {
        let found = state.get("infrastructure").and_then(|part| part.get(section)).and_then(Value::as_array);
        found.into_iter().flatten().filter_map(Value::as_object).collect()
    };
    let nodes: Vec<SeedNode> =
        rows("nodes").into_iter().enumerate().filter_map(|(at, row)| node(at, row)).collect();
    let known: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let mut guests = Vec::new();
    for (section, kind) in [("vms", Kind::Qemu), ("lxcs", Kind::Lxc)] {
        for row in rows(section) {
            let guest = guest(kind, row)?;
            if known.contains(guest.node.as_str()) {
                guests.push(guest);
            }
        }
    }
    let pools =
        guests.iter().filter_map(|guest| guest.pool.clone()).map(|name| (name, String::new())).collect();
    Ok(Seed {
        cluster: (nodes.len() > 1).then(|| "home".to_owned()),
        storages: storages(&rows("storages")),
        nodes,
        guests,
        pools,
        files: Vec::new(),
        backup_jobs: BTreeMap::new(),
        replication_jobs: BTreeMap::new(),
        options: BTreeMap::new(),
    })
}

/// A number that may be written as a string.
fn number(row: &Row, key: &str) -> Option<u64> {
    let value = row.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn text(row: &Row, key: &str) -> Option<String> {
    row.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn small(value: Option<u64>, otherwise: u32) -> u32 {
    value.map_or(otherwise, |value| u32::try_from(value).unwrap_or(otherwise)).max(1)
}

fn node(at: usize, row: &Row) -> Option<SeedNode> {
    Some(SeedNode {
        name: text(row, "node")?,
        address: text(row, "ip")
            .or_else(|| text(row, "address"))
            .unwrap_or_else(|| format!("192.168.10.{}", 11 + at % 200)),
        cpus: small(number(row, "maxcpu"), 8),
        memory_gib: small(number(row, "maxmem").map(|bytes| bytes >> 30), 32),
        disk_gib: small(number(row, "maxdisk").map(|bytes| bytes >> 30), 100),
        uptime_s: small(number(row, "uptime"), 86_400),
        processor: super::processor(),
    })
}

fn guest(kind: Kind, row: &Row) -> Result<SeedGuest, SeedError> {
    let vmid = number(row, "vmid").and_then(|vmid| u32::try_from(vmid).ok()).ok_or_else(|| {
        SeedError::Inconsistent { reason: format!("a row of {} has no usable vmid", kind.word()) }
    })?;
    let running = text(row, "status").as_deref() == Some("running");
    let disk_gib = small(number(row, "maxdisk").map(|bytes| bytes >> 30), 8);
    let disk_key = match kind {
        Kind::Qemu => "scsi0",
        Kind::Lxc => "rootfs",
    };
    let mut config = BTreeMap::from([
        ("cores".to_owned(), json!(small(number(row, "cpus"), 1))),
        ("memory".to_owned(), json!(small(number(row, "maxmem").map(|bytes| bytes >> 20), 512))),
        (disk_key.to_owned(), json!(format!("local-lvm:{disk_gib}"))),
    ]);
    let addresses = addresses(row);
    if kind == Kind::Qemu && !addresses.is_empty() {
        config.insert("agent".to_owned(), json!("1"));
    }
    for key in ["tags", "description", "ostype"] {
        if let Some(value) = text(row, key) {
            config.insert(key.to_owned(), json!(value));
        }
    }
    for key in ["template", "protection", "onboot"] {
        let value = row.get(key);
        if value.and_then(Value::as_bool) == Some(true) || number(row, key) == Some(1) {
            config.insert(key.to_owned(), json!(1));
        }
    }
    Ok(SeedGuest {
        vmid,
        kind,
        node: text(row, "node").unwrap_or_default(),
        name: text(row, "name").unwrap_or_else(|| format!("guest-{vmid}")),
        running,
        paused: text(row, "qmpstatus").as_deref() == Some("paused"),
        uptime_s: small(number(row, "uptime"), 60),
        age_s: super::a_year(),
        config,
        agent: Agent::Running,
        addresses,
        pool: text(row, "pool"),
        ha: text(row, "hastate").map(|_| "started".to_owned()),
        snapshots: snapshots(number(row, "snapshots").unwrap_or(0)),
        backups: Vec::new(),
        linked_to: None,
        verbatim: false,
        digest: None,
        pending: BTreeMap::new(),
    })
}

/// Addresses of both families, with a prefix length where the file has none.
fn addresses(row: &Row) -> Vec<String> {
    let mut found = Vec::new();
    for (key, prefix) in [("ip_addresses", 24), ("ip6_addresses", 64)] {
        for address in row.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
        {
            found.push(if address.contains('/') {
                address.to_owned()
            } else {
                format!("{address}/{prefix}")
            });
        }
    }
    found
}

/// The file only counts them.
fn snapshots(count: u64) -> Vec<SeedSnapshot> {
    (1..=u32::try_from(count.min(100)).unwrap_or(0))
        .map(|number| SeedSnapshot {
            name: format!("snapshot-{number}"),
            age_s: (101 - number) * 86_400,
            description: String::new(),
            config: BTreeMap::new(),
            whole: false,
            parent: None,
            memory: false,
        })
        .collect()
}

/// Storages of the rows (one row a node and storage), and `local-lvm`, where the disks go, in any case.
fn storages(rows: &[&Row]) -> Vec<Storage> {
    let mut found: BTreeMap<String, Storage> = BTreeMap::new();
    for row in rows {
        let Some(id) = text(row, "storage") else { continue };
        let content = match row.get("content") {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Some(Value::String(list)) => list.clone(),
            _ => "images".to_owned(),
        };
        let shared = row.get("shared").is_some_and(|value| *value == json!(true) || *value == json!(1));
        let entry = found.entry(id.clone()).or_insert_with(|| Storage {
            id,
            kind: text(row, "kind").or_else(|| text(row, "type")).unwrap_or_else(|| "dir".to_owned()),
            content,
            shared,
            nodes: Vec::new(),
            total_bytes: number(row, "maxdisk").or_else(|| number(row, "total")).unwrap_or(1 << 40),
            used_bytes: number(row, "disk").or_else(|| number(row, "used")).unwrap_or(0),
            disabled: number(row, "enabled") == Some(0) || row.get("enabled") == Some(&json!(false)),
            location: String::new(),
        });
        if let (false, Some(node)) = (entry.shared, text(row, "node")) {
            entry.nodes.push(node);
        }
    }
    let plain = |id: &str, kind: &str, content: &str| Storage {
        id: id.to_owned(),
        kind: kind.to_owned(),
        content: content.to_owned(),
        shared: false,
        nodes: Vec::new(),
        total_bytes: 1 << 40,
        used_bytes: 0,
        disabled: false,
        location: String::new(),
    };
    let lvm = plain("local-lvm", "lvmthin", "images,rootdir");
    found.entry(lvm.id.clone()).or_insert(lvm).nodes.clear();
    let local = plain("local", "dir", "backup,iso,vztmpl");
    found.entry(local.id.clone()).or_insert(local);
    found.into_values().collect()
}
