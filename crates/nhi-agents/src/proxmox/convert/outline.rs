//! What a cheap look shows, and where it shows something new. It reads nothing closer.

use super::{NodeFacts, index_row};
use crate::proxmox::answers::Answer;
use nhi_decide::observation::{GuestRef, IndexRow};
use nhi_model::guest::{GuestKind, GuestStatus};
use nhi_pve::{
    cluster::{ClusterResources, ClusterStatus},
    guest::GuestResource,
};
use std::collections::{BTreeMap, BTreeSet};

/// What a cheap look shows of a cluster: enough to see that something may have happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outline {
    /// The guests.
    pub(crate) guests: BTreeMap<GuestRef, Face>,
    /// Whether each node is there, as far as the cluster says.
    pub(crate) nodes: BTreeMap<String, Option<bool>>,
}

/// What a cheap look shows of a guest. Beside its row, what another guest under its number would hardly share: a
/// number is used again with the same name when somebody makes a guest anew.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Face {
    pub(crate) row: IndexRow,
    template: Option<bool>,
    cpus: Option<f64>,
    memory_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    uptime_s: Option<u64>,
}

impl Face {
    fn of(row: &GuestResource) -> Self {
        Self {
            row: index_row(row),
            template: row.template,
            cpus: row.usage.maxcpu,
            memory_bytes: row.usage.maxmem,
            disk_bytes: row.usage.maxdisk,
            uptime_s: row.usage.uptime,
        }
    }

    /// Whether it may be another guest than `before`, or the same one that was changed or started again. What the
    /// statistics do not tell says nothing.
    fn is_news_after(&self, before: &Self) -> bool {
        self.row != before.row
            || differ(self.template, before.template)
            || differ(self.cpus, before.cpus)
            || differ(self.memory_bytes, before.memory_bytes)
            || self.has_other_disk(before)
            || self.has_started_after(before)
    }

    fn has_other_disk(&self, before: &Self) -> bool {
        match self.row.kind {
            GuestKind::Qemu => differ(self.disk_bytes, before.disk_bytes),
            // Of a running container it is what its file system says, and on ZFS that moves with its neighbours.
            GuestKind::Lxc => {
                let both = self.disk_bytes.zip(before.disk_bytes);
                both.is_some_and(|(now, was)| now.abs_diff(was) > was / 8)
            }
        }
    }

    fn has_started_after(&self, before: &Self) -> bool {
        let runs = |face: &Self| face.row.status == GuestStatus::Running;
        let both = self.uptime_s.zip(before.uptime_s);
        runs(self) && runs(before) && both.is_some_and(|(now, was)| now < was)
    }
}

fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

impl Outline {
    pub(crate) fn of(resources: &Answer<ClusterResources>, status: &Answer<ClusterStatus>) -> Self {
        let facts = NodeFacts::of_index(resources, status);
        let names = facts.rows.keys().chain(facts.members.keys());
        let faces = resources.iter().flat_map(|index| &index.guests).map(Face::of);
        Self {
            guests: faces.map(|face| (GuestRef { kind: face.row.kind, vmid: face.row.vmid }, face)).collect(),
            nodes: names.map(|name| ((*name).to_owned(), facts.online(name))).collect(),
        }
    }

    /// Guests that are new or look different than `before`, and the nodes to read for them and for what
    /// happened to nodes.
    pub(crate) fn news(&self, before: &Self) -> (BTreeSet<GuestRef>, BTreeSet<String>) {
        let mut guests = BTreeSet::new();
        let mut nodes = BTreeSet::new();
        for guest in self.guests.keys().chain(before.guests.keys()) {
            let (was, is) = (before.guests.get(guest), self.guests.get(guest));
            let is_same = was.zip(is).is_some_and(|(was, is)| !is.is_news_after(was));
            if !is_same {
                nodes.extend(was.into_iter().chain(is).map(|face| face.row.node.clone()));
                guests.extend(is.map(|_| *guest));
            }
        }
        let moved = self.nodes.iter().filter(|(node, is)| before.nodes.get(*node) != Some(is));
        nodes.extend(moved.map(|(node, _)| node.clone()));
        (guests, nodes)
    }
}

#[cfg(test)]
mod tests;
