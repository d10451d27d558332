//! What pvestatd tells the cluster every ten seconds, and how long that is believed. `/cluster/resources` is
//! made from this, not from the guests: hence its staleness.

use super::{
    Lab,
    fault::Fault,
    guest::{Guest, Kind},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// How often pvestatd tells.
pub const TELL_MS: i64 = 10_000;
/// How long a row is believed.
pub const KEEP_MS: i64 = 300_000;

/// Rows by owner, with the time they were told.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Rows of guests.
    pub guests: BTreeMap<u32, (i64, GuestRow)>,
    /// Rows of nodes.
    pub nodes: BTreeMap<String, (i64, NodeRow)>,
    /// Rows of storages by node and name: used and total bytes.
    pub storages: BTreeMap<(String, String), (i64, (u64, u64))>,
    next_ms: i64,
}

/// A guest's row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestRow {
    /// Its name.
    pub name: String,
    /// Whether its process ran.
    pub running: bool,
    /// Whether it is a template.
    pub template: bool,
    /// Processors.
    pub cpus: u64,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// First disk, bytes.
    pub disk_bytes: u64,
    /// Moving numbers.
    pub gauges: Gauges,
}

/// Numbers that move all the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Gauges {
    /// Seconds.
    pub uptime_s: u64,
    /// Share of its processors, 0..1.
    pub cpu: f64,
    /// Bytes.
    pub memory_used: u64,
    /// Bytes used of a container's root; 0 for virtual machines.
    pub disk_used: u64,
    /// Bytes.
    pub net_in: u64,
    /// Bytes.
    pub net_out: u64,
    /// Bytes.
    pub disk_read: u64,
    /// Bytes.
    pub disk_written: u64,
}

/// A node's row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NodeRow {
    /// Seconds.
    pub uptime_s: u64,
    /// 0..1.
    pub cpu: f64,
    /// Bytes.
    pub memory_used: u64,
    /// Bytes.
    pub disk_used: u64,
}

impl Statistics {
    /// Nothing told yet.
    pub fn new(now_ms: i64) -> Self {
        Self {
            guests: BTreeMap::new(),
            nodes: BTreeMap::new(),
            storages: BTreeMap::new(),
            next_ms: now_ms + TELL_MS,
        }
    }
}

impl Lab {
    /// Lets pvestatd tell as of the last of its moments up to `until_ms`; the earlier ones would be
    /// overwritten anyway, because nothing happens between two events.
    pub(super) fn tell_statistics(&mut self, until_ms: i64) {
        if until_ms < self.statistics.next_ms {
            return;
        }
        let rounds = (until_ms - self.statistics.next_ms) / TELL_MS;
        let at_ms = self.statistics.next_ms + rounds * TELL_MS;
        self.statistics.next_ms = at_ms + TELL_MS;
        self.tell_at(at_ms);
    }

    /// Lets pvestatd tell at once.
    pub fn tell_statistics_now(&mut self) {
        self.tell_at(self.now_ms);
    }

    fn tell_at(&mut self, at_ms: i64) {
        let names: Vec<String> = self.nodes.keys().filter(|node| self.is_online(node)).cloned().collect();
        for node in names {
            let row = self.node_row(&node, at_ms);
            self.statistics.nodes.insert(node.clone(), (at_ms, row));
            let stuck = self
                .faults
                .any(|fault| matches!(fault, Fault::StatsStuck { node: name, .. } if *name == node));
            if stuck {
                continue;
            }
            let rows: Vec<(u32, GuestRow)> = self
                .guests
                .values()
                .filter(|guest| guest.node == node)
                .map(|guest| (guest.vmid, guest_row(guest, at_ms)))
                .collect();
            for (vmid, row) in rows {
                self.statistics.guests.insert(vmid, (at_ms, row));
            }
            let storages: Vec<String> = self
                .storages
                .values()
                .filter(|storage| {
                    storage.is_on(&node) && !storage.disabled && self.storage_is_active(&storage.id, &node)
                })
                .map(|storage| storage.id.clone())
                .collect();
            for storage in storages {
                let space = self.space_of(&storage, &node);
                self.statistics.storages.insert((node.clone(), storage), (at_ms, space));
            }
        }
        let horizon = at_ms - KEEP_MS;
        self.statistics.guests.retain(|_, (told_ms, _)| *told_ms >= horizon);
        self.statistics.nodes.retain(|_, (told_ms, _)| *told_ms >= horizon);
        self.statistics.storages.retain(|_, (told_ms, _)| *told_ms >= horizon);
    }

    /// The row of a guest that is still believed.
    pub fn believed_guest(&self, vmid: u32) -> Option<&GuestRow> {
        let node = &self.guests.get(&vmid)?.node;
        let expired = self
            .faults
            .any(|fault| matches!(fault, Fault::StatsStuck { node: name, expired: true } if name == node));
        let (told_ms, row) = self.statistics.guests.get(&vmid)?;
        (!expired && self.now_ms - told_ms <= KEEP_MS).then_some(row)
    }

    /// The row of a node that is still believed.
    pub fn believed_node(&self, node: &str) -> Option<&NodeRow> {
        let (told_ms, row) = self.statistics.nodes.get(node)?;
        (self.now_ms - told_ms <= KEEP_MS).then_some(row)
    }

    /// The row of a storage that is still believed.
    pub fn believed_storage(&self, node: &str, storage: &str) -> Option<(u64, u64)> {
        let (told_ms, row) = self.statistics.storages.get(&(node.to_owned(), storage.to_owned()))?;
        (self.now_ms - told_ms <= KEEP_MS).then_some(*row)
    }

    /// Used and total bytes of a storage.
    pub fn space_of(&self, storage: &str, node: &str) -> (u64, u64) {
        let Some(definition) = self.storages.get(storage) else { return (0, 0) };
        let volumes: u64 = self
            .volumes
            .values()
            .filter(|volume| {
                volume.storage() == storage && volume.node.as_deref().is_none_or(|at| at == node)
            })
            // Thin provisioning: about a third of what is promised is really there.
            .map(
                |volume| {
                    if volume.content == "images" { volume.size_bytes / 3 } else { volume.size_bytes / 2 }
                },
            )
            .sum();
        ((definition.used_bytes + volumes).min(definition.total_bytes), definition.total_bytes)
    }

    /// A node's numbers at a time.
    pub fn node_row(&self, node: &str, at_ms: i64) -> NodeRow {
        let Some(node) = self.nodes.get(node) else {
            return NodeRow { uptime_s: 0, cpu: 0.0, memory_used: 0, disk_used: 0 };
        };
        let mut memory_used = node.memory_bytes / 16;
        let mut load = 0.02;
        for guest in self.guests.values().filter(|guest| guest.node == node.name && guest.power.is_up()) {
            let gauges = gauges(guest, at_ms);
            memory_used += gauges.memory_used;
            load += gauges.cpu * guest.cpus() as f64 / f64::from(node.cpus.max(1));
        }
        NodeRow {
            uptime_s: seconds(at_ms - node.booted_ms),
            cpu: load.min(1.0),
            memory_used: memory_used.min(node.memory_bytes),
            disk_used: node.disk_bytes / 8,
        }
    }
}

fn guest_row(guest: &Guest, at_ms: i64) -> GuestRow {
    GuestRow {
        name: guest.name(),
        running: guest.power.is_up(),
        template: guest.is_template(),
        cpus: guest.cpus(),
        memory_bytes: guest.memory_bytes(),
        disk_bytes: guest.disk_bytes(),
        gauges: gauges(guest, at_ms),
    }
}

/// A guest's moving numbers: invented, but the same for the same guest and moment, growing where real ones
/// grow, and zero when nothing runs.
pub fn gauges(guest: &Guest, at_ms: i64) -> Gauges {
    let disk_used = match guest.kind {
        Kind::Qemu => 0,
        Kind::Lxc if guest.power.is_up() => guest.disk_bytes() / 5 * 2,
        Kind::Lxc => 0,
    };
    let Some((since_ms, _)) = guest.power.process() else { return Gauges { disk_used, ..Gauges::default() } };
    let uptime_s = seconds(at_ms - since_ms);
    // A slow wave with another phase per guest.
    let phase = (at_ms as f64 / 60_000.0 + f64::from(guest.vmid) * 1.7).sin().mul_add(0.5, 0.5);
    let busy = f64::from(guest.vmid % 7 + 1) / 40.0;
    let share = (35 + u64::from(guest.vmid % 5) * 10) * 10 + (phase * 40.0).round() as u64;
    Gauges {
        uptime_s,
        cpu: (busy * phase * 1_000_000.0).round() / 1_000_000.0,
        memory_used: guest.memory_bytes() / 1000 * share,
        disk_used,
        net_in: uptime_s * 8_192,
        net_out: uptime_s * 3_072,
        disk_read: uptime_s * 20_480,
        disk_written: uptime_s * 12_288,
    }
}

fn seconds(ms: i64) -> u64 {
    u64::try_from(ms.div_euclid(1000)).unwrap_or(0)
}
