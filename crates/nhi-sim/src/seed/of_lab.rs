//! A lab as it is now, as a seed another one can start from.

use super::{Seed, SeedBackup, SeedFile, SeedGuest, SeedNode, SeedSnapshot};
use crate::lab::{
    HaResource, Lab, Node,
    guest::{Guest, Power, Snapshot},
    service_id,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Seed {
    /// The lab as it is now. What only a moment has (tasks, statistics, faults, locks of workers), rights, and disks
    /// that no guest names are left out; what was there whole comes back the same, digests among it.
    pub fn of_lab(lab: &Lab) -> Self {
        let mut nodes: Vec<&Node> = lab.nodes.values().collect();
        nodes.sort_by_key(|node| node.number);
        let is_file = |content: &str| matches!(content, "iso" | "vztmpl" | "snippets");
        let files = lab.volumes.values().filter(|volume| is_file(&volume.content));
        Self {
            cluster: lab.cluster.clone(),
            nodes: nodes.into_iter().map(|node| of_node(node, lab.now_ms())).collect(),
            storages: lab.storages.values().cloned().collect(),
            guests: lab.guests.values().map(|guest| of_guest(lab, guest)).collect(),
            pools: lab.pools.clone(),
            files: files
                .map(|volume| SeedFile {
                    volid: volume.volid.clone(),
                    node: volume.node.clone(),
                    size_bytes: volume.size_bytes,
                })
                .collect(),
            backup_jobs: lab.backup_jobs.clone(),
            replication_jobs: lab.replication_jobs.clone(),
            options: lab.options.clone(),
        }
    }
}

fn age_s(now_s: i64, then_s: i64) -> u32 {
    u32::try_from(now_s.saturating_sub(then_s).max(0)).unwrap_or(u32::MAX)
}

fn gib(bytes: u64) -> u32 {
    u32::try_from(bytes >> 30).unwrap_or(u32::MAX)
}

fn of_node(node: &Node, now_ms: i64) -> SeedNode {
    SeedNode {
        name: node.name.clone(),
        address: node.address.clone(),
        cpus: node.cpus,
        memory_gib: gib(node.memory_bytes),
        disk_gib: gib(node.disk_bytes),
        uptime_s: age_s(now_ms / 1000, node.booted_ms / 1000),
        processor: node.processor.clone(),
    }
}

fn lines(config: &BTreeMap<String, String>) -> BTreeMap<String, Value> {
    config.iter().map(|(key, value)| (key.clone(), json!(value))).collect()
}

fn of_guest(lab: &Lab, guest: &Guest) -> SeedGuest {
    let now_s = lab.now_s();
    let managed = lab.ha.get(&service_id(guest.kind, guest.vmid));
    let backups = lab.volumes.values().filter(|volume| volume.content == "backup");
    SeedGuest {
        vmid: guest.vmid,
        kind: guest.kind,
        node: guest.node.clone(),
        name: guest.name(),
        running: guest.power.is_up(),
        paused: matches!(guest.power, Power::Paused { .. }),
        uptime_s: guest.power.process().map_or(0, |(since_ms, _)| age_s(now_s, since_ms / 1000)),
        age_s: super::a_year(),
        config: lines(&guest.config),
        agent: guest.agent,
        addresses: guest
            .interfaces
            .iter()
            .find(|card| card.name != "lo")
            .map_or_else(Vec::new, |card| card.addresses.clone()),
        pool: lab.pool_of_guest.get(&guest.vmid).cloned(),
        ha: managed.map(ha_word),
        snapshots: guest
            .snapshots
            .iter()
            .map(|(name, snapshot)| of_snapshot(name, snapshot, now_s))
            .collect(),
        backups: backups
            .filter(|volume| volume.vmid == Some(guest.vmid))
            .map(|volume| SeedBackup {
                storage: volume.storage().to_owned(),
                age_s: age_s(now_s, volume.made_s),
                protected: volume.protected,
            })
            .collect(),
        linked_to: None,
        verbatim: true,
        digest: Some(guest.digest()),
        pending: guest.pending.iter().map(|(key, value)| (key.clone(), json!(value))).collect(),
    }
}

/// What was asked of the manager, unless it has a word of its own for a guest that is to run.
fn ha_word(resource: &HaResource) -> String {
    let is_plain = resource.wanted != "started" || matches!(resource.state.as_str(), "started" | "stopped");
    if is_plain { &resource.wanted } else { &resource.state }.clone()
}

fn of_snapshot(name: &str, snapshot: &Snapshot, now_s: i64) -> SeedSnapshot {
    SeedSnapshot {
        name: name.to_owned(),
        age_s: age_s(now_s, snapshot.taken_s),
        description: snapshot.description.clone(),
        config: lines(&snapshot.config),
        whole: true,
        parent: snapshot.parent.clone(),
        memory: snapshot.with_memory,
    }
}
