//! The lab's numbers, from the records and gauges of `state.get`. What a record does not say is left out: an unknown is
//! no zero.

use super::{
    family::Family,
    page::{Labels, Page},
};
use nhi_model::{
    alert::{Alert, Severity},
    call::{SourceAge, StateRecord},
    guest::{Guest, GuestStatus},
    key::{Key, Section},
    lab::{Node, NodeStatus, Storage},
    live::{Gauges, SourceGauges, StorageGauges},
};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// What of a record's status is shown while the scanner does not see it.
const STALE: &str = "stale";

/// Sections that are read; the others have no number here and may be large.
pub(super) const SECTIONS: [Section; 7] = [
    Section::Node,
    Section::Vm,
    Section::Lxc,
    Section::Storage,
    Section::Source,
    Section::Provider,
    Section::Alert,
];

/// Counts and shows records as they come.
#[derive(Debug, Default)]
pub(super) struct Lab {
    page: Page,
    sections: BTreeMap<&'static str, u64>,
    nodes: BTreeMap<(String, &'static str), u64>,
    guests: BTreeMap<(String, &'static str, &'static str), u64>,
    alerts: [u64; SEVERITIES.len()],
    unreadable: u64,
}

const SEVERITIES: [(Severity, &str); 3] =
    [(Severity::Info, "info"), (Severity::Warning, "warning"), (Severity::Critical, "critical")];

impl Lab {
    /// One record.
    pub(super) fn add(&mut self, key: &Key, record: &StateRecord) {
        let section = key.section();
        *self.sections.entry(section.as_str()).or_default() += 1;
        let known = match section {
            Section::Node => read(record).map(|node| self.node(&node, record)),
            Section::Vm | Section::Lxc => read(record).map(|guest| self.guest(&guest, record)),
            Section::Storage => read(record).map(|storage| self.storage(&storage, record)),
            Section::Alert => read(record).map(|alert| self.alert(key, &alert)),
            Section::Source => {
                let seconds = live::<SourceGauges>(record).map(|gauges| seconds(gauges.duration_ms));
                self.page.known(Family::SourcePass, &[("source", &name(key))], seconds);
                Some(())
            }
            Section::Provider
            | Section::Host
            | Section::Gpu
            | Section::Docker
            | Section::Project
            | Section::Graph => Some(()),
        };
        self.unreadable += u64::from(known.is_none());
    }

    /// All of them were added.
    pub(super) fn page(mut self, revision: u64, sources: &BTreeMap<String, SourceAge>) -> Page {
        let page = &mut self.page;
        page.set(Family::Revision, &[], revision);
        for (source, age) in sources {
            let labels: Labels<'_> = &[("source", source)];
            page.known(Family::SourceAge, labels, age.age_s);
            page.flag(Family::SourceComplete, labels, age.coverage.is_complete() && age.stale.is_none());
        }
        for section in SECTIONS.map(Section::as_str) {
            let count = self.sections.get(section).copied().unwrap_or(0);
            page.set(Family::Records, &[("section", section)], count);
        }
        for ((cluster, status), count) in &self.nodes {
            page.set(Family::Nodes, &[("cluster", cluster), ("status", status)], count);
        }
        for ((cluster, kind, status), count) in &self.guests {
            page.set(Family::Guests, &[("cluster", cluster), ("kind", kind), ("status", status)], count);
        }
        for ((_, severity), count) in SEVERITIES.iter().zip(self.alerts) {
            page.set(Family::Alerts, &[("severity", severity)], count);
        }
        page.set(Family::Unreadable, &[], self.unreadable);
        self.page
    }

    fn node(&mut self, node: &Node, record: &StateRecord) {
        let is_stale = record.stale.is_some();
        let status = if is_stale { STALE } else { node.status.as_str() };
        *self.nodes.entry((node.cluster.clone(), status)).or_default() += 1;
        let labels: Labels<'_> = &[("cluster", &node.cluster), ("node", &node.node)];
        let up = match node.status {
            NodeStatus::Online => Some(1),
            NodeStatus::Offline => Some(0),
            NodeStatus::Unknown => None,
        };
        let page = &mut self.page;
        page.known(Family::NodeUp, labels, up.filter(|_| !is_stale));
        page.known(Family::NodeMemory, labels, node.memory_bytes);
        page.known(Family::NodeDisk, labels, node.disk_bytes);
        if let Some(gauges) = live::<Gauges>(record) {
            page.known(Family::NodeCpu, labels, gauges.cpu);
            page.known(Family::NodeMemoryUsed, labels, gauges.mem);
            page.known(Family::NodeDiskUsed, labels, gauges.disk);
            page.known(Family::NodeUptime, labels, gauges.uptime);
        }
    }

    fn guest(&mut self, guest: &Guest, record: &StateRecord) {
        if guest.template {
            return;
        }
        let is_stale = record.stale.is_some();
        let (status, kind) = (if is_stale { STALE } else { guest.status.as_str() }, guest.kind.as_str());
        *self.guests.entry((guest.cluster.clone(), kind, status)).or_default() += 1;
        let vmid = guest.vmid.to_string();
        let who: [(&'static str, &str); 5] = [
            ("cluster", &guest.cluster),
            ("node", &guest.node),
            ("kind", kind),
            ("vmid", &vmid),
            ("name", &guest.name),
        ];
        let onboot = guest.onboot.map_or("unknown", |onboot| if onboot { "true" } else { "false" });
        let mut running_labels = who.to_vec();
        running_labels.push(("onboot", onboot));
        let running = (guest.status != GuestStatus::Unknown).then_some(guest.status == GuestStatus::Running);
        let page = &mut self.page;
        page.known(Family::GuestRunning, &running_labels, running.filter(|_| !is_stale).map(u8::from));
        page.known(Family::GuestMemory, &who, guest.memory_bytes);
        if let Some(gauges) = live::<Gauges>(record) {
            page.known(Family::GuestCpu, &who, gauges.cpu);
            page.known(Family::GuestMemoryUsed, &who, gauges.mem);
        }
    }

    fn storage(&mut self, storage: &Storage, record: &StateRecord) {
        let labels: Labels<'_> =
            &[("cluster", &storage.cluster), ("node", &storage.node), ("storage", &storage.storage)];
        let active = storage.active.filter(|_| record.stale.is_none()).map(u8::from);
        self.page.known(Family::StorageActive, labels, active);
        if let Some(gauges) = live::<StorageGauges>(record) {
            self.page.known(Family::StorageUsed, labels, gauges.used);
            self.page.known(Family::StorageSize, labels, gauges.total);
        }
    }

    fn alert(&mut self, key: &Key, alert: &Alert) {
        let tokens = key.tokens();
        let [agent, id] = tokens.as_slice() else { return };
        for ((severity, word), count) in SEVERITIES.iter().zip(&mut self.alerts) {
            if *severity == alert.severity {
                *count += 1;
                self.page.set(Family::Alert, &[("agent", agent), ("id", id), ("severity", word)], 1);
            }
        }
    }
}

/// The record as its section's type.
fn read<T: DeserializeOwned>(record: &StateRecord) -> Option<T> {
    T::deserialize(&record.record).ok()
}

/// The gauges that still count.
fn live<T: DeserializeOwned>(record: &StateRecord) -> Option<T> {
    record.live.as_ref().and_then(|live| T::deserialize(&live.record).ok())
}

fn name(key: &Key) -> String {
    key.tokens().join(".")
}

/// Milliseconds as Prometheus wants them.
pub(super) fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}
