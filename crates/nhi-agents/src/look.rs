//! Looks at guests live, as planning and acting need it: where they are, what they are, whether they are there at all.
//! It keeps nothing, changes nothing, and decides nothing.

mod find;
mod read;
#[cfg(test)]
mod tests;

use futures::{StreamExt as _, future::join_all, stream};
use nhi_decide::sight::{GuestSight, NodeSight, Sight, StorageSight};
use nhi_model::{Timestamp, key::Key};
use nhi_pve::{
    Kind, PveError, Reader,
    cluster::{ClusterResources, ClusterStatus},
    guest::GuestResource,
    node::NodeStatus,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout_at};

/// How long a look may take. Whoever waits for a plan waits for it, and what was not seen by then is said to be so.
const LOOK_MAX: Duration = Duration::from_secs(30);
/// Guests asked for at a time. The reader lets two protected calls per node through; the others queue.
const GUESTS_IN_FLIGHT: usize = 8;

/// What is to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Guests, and the node each was on last, where that is known.
    pub guests: BTreeMap<Key, Option<String>>,
    /// Snapshots whose configuration is to be read too.
    pub snapshot_configs: BTreeSet<(Key, String)>,
    /// Guests of which it is to be asked where they could move.
    pub migrate: BTreeSet<Key>,
    /// Guests whose backups are to be listed.
    pub backups: BTreeSet<Key>,
    /// Whether the storages of all nodes are to be read.
    pub storages: bool,
}

/// What the cluster as a whole said.
#[derive(Debug)]
struct Frame {
    status: Result<ClusterStatus, PveError>,
    resources: Result<ClusterResources, PveError>,
}

/// One look.
#[derive(Debug)]
struct Look<'a> {
    reader: &'a Reader,
    wanted: &'a Wanted,
    frame: Frame,
    limit: Duration,
    /// Nodes that turned out not to answer.
    silent: Mutex<BTreeSet<String>>,
}

/// Looks. A guest that is not where it was is looked for on every node. It is [`GuestSight::Gone`] only when every node
/// that is there was asked and said so, the cluster has its quorum, and the cluster's own file system, which knows the
/// guests of nodes that are away too, has no guest of that number; in every other case it is
/// [`GuestSight::Unseen`] with the reason.
pub async fn look(reader: &Reader, cluster: &str, wanted: &Wanted, now: Timestamp) -> Sight {
    look_for(reader, cluster, wanted, now, LOOK_MAX).await
}

/// The same for another time.
async fn look_for(reader: &Reader, cluster: &str, wanted: &Wanted, now: Timestamp, limit: Duration) -> Sight {
    let until = Instant::now() + limit;
    let mut sight = Sight::nothing(cluster.to_owned(), now);
    let frame = match timeout_at(until, Frame::read(reader)).await {
        Ok(Ok(frame)) => frame,
        Ok(Err(error)) => {
            unseen(wanted, &mut sight, &format!("{cluster} does not answer: {}", error.text()));
            return sight;
        }
        Err(_) => {
            unseen(wanted, &mut sight, &late(limit));
            return sight;
        }
    };
    let look = Look { reader, wanted, frame, limit, silent: Mutex::default() };
    sight.quorate = look.frame.quorate();
    sight.nodes = look.frame.nodes();
    // The futures are made before they are streamed: made by the stream, they could not move between threads.
    let guests: Vec<_> =
        wanted.guests.iter().map(|(key, last)| look.by(until, key, last.as_deref())).collect();
    let guests = stream::iter(guests).buffer_unordered(GUESTS_IN_FLIGHT).collect();
    let (guests, storages) = tokio::join!(guests, look.storages(until));
    (sight.guests, sight.storages) = (guests, storages);
    for node in look.silent.into_inner().unwrap_or_else(PoisonError::into_inner) {
        if let Some(node) = sight.nodes.get_mut(&node) {
            node.online = false;
        }
    }
    sight
}

fn late(limit: Duration) -> String {
    format!("no answer within {} s", limit.as_secs_f64())
}

fn unseen(wanted: &Wanted, sight: &mut Sight, why: &str) {
    let unseen = |key: &Key| (key.clone(), GuestSight::Unseen { why: why.to_owned() });
    sight.guests = wanted.guests.keys().map(unseen).collect();
}

impl Frame {
    /// # Errors
    /// When neither the state of the cluster nor its index could be read, nothing can be.
    async fn read(reader: &Reader) -> Result<Self, PveError> {
        let both = async || tokio::join!(reader.cluster_status(), reader.cluster_resources());
        let (mut status, mut resources) = both().await;
        if is_minority(&status) {
            // It was separated from the majority and speaks for nobody. Another address may be on the other side.
            reader.demote();
            let other;
            (other, resources) = both().await;
            if other.as_ref().is_ok_and(|other| other.quorate() == Some(true)) {
                status = other;
            }
        }
        match (status, resources) {
            (Err(error), Err(_)) => Err(error),
            (status, resources) => Ok(Self { status, resources }),
        }
    }

    fn quorate(&self) -> Option<bool> {
        self.status.as_ref().ok()?.quorate()
    }

    /// The nodes, and whether they are there. The index has them too, where the state of the cluster may not be read.
    fn nodes(&self) -> BTreeMap<String, NodeSight> {
        let rows = self.resources.iter().flat_map(|index| &index.nodes);
        let mut nodes: BTreeMap<String, NodeSight> = rows
            .map(|row| {
                let memory_free_bytes = row.maxmem.zip(row.mem).map(|(all, used)| all.saturating_sub(used));
                (row.node.clone(), NodeSight { online: row.status == NodeStatus::Online, memory_free_bytes })
            })
            .collect();
        for row in self.status.iter().flat_map(|status| &status.nodes.rows) {
            let blank = NodeSight { online: false, memory_free_bytes: None };
            let node = nodes.entry(row.name.clone()).or_insert(blank);
            // What the index says of a node is minutes old; the one that answers is there.
            node.online = row.online.unwrap_or(node.online) || row.local;
        }
        nodes
    }

    /// Whether a host that is in no cluster answered, and is not this one.
    fn stands_alone_without(&self, node: &str) -> bool {
        self.status.as_ref().is_ok_and(|status| {
            status.cluster.is_none() && status.nodes.rows.iter().all(|row| row.name != node)
        })
    }

    /// Nodes to ask, and whether these are all that could have the guest or be known to be away.
    fn online(&self) -> (BTreeSet<String>, bool) {
        let online = self.nodes().into_iter().filter(|(_, node)| node.online).map(|(name, _)| name).collect();
        (online, self.status.as_ref().is_ok_and(|status| status.nodes.unreadable == 0))
    }

    fn row(&self, kind: nhi_pve::GuestKind, vmid: u32) -> Option<&GuestResource> {
        self.rows().find(|row| row.kind == kind && row.vmid == vmid)
    }

    fn rows(&self) -> impl Iterator<Item = &GuestResource> {
        self.resources.iter().flat_map(|index| &index.guests)
    }
}

fn is_minority(status: &Result<ClusterStatus, PveError>) -> bool {
    status.as_ref().is_ok_and(|status| status.quorate() == Some(false))
}

impl Look<'_> {
    /// Remembers that a node does not answer.
    fn note(&self, node: &str, error: &PveError) {
        if matches!(error.kind(), Kind::NodeUnreachable { .. }) {
            self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned());
        }
    }

    /// One guest, or that it could not be seen in time.
    async fn by(&self, until: Instant, key: &Key, last: Option<&str>) -> (Key, GuestSight) {
        let seen = timeout_at(until, self.guest(key, last)).await;
        (key.clone(), seen.unwrap_or_else(|_| GuestSight::Unseen { why: late(self.limit) }))
    }

    async fn storages(&self, until: Instant) -> BTreeMap<(String, String), StorageSight> {
        if !self.wanted.storages {
            return BTreeMap::new();
        }
        let (online, _) = self.frame.online();
        let asked = online.into_iter().map(async |node| {
            let rows = timeout_at(until, self.reader.node_storage(&node)).await;
            let Ok(Ok(rows)) = rows.map(|rows| rows.inspect_err(|error| self.note(&node, error))) else {
                return Vec::new();
            };
            let of_row = |row: nhi_pve::node::Storage| {
                let sight = StorageSight {
                    kind: row.kind,
                    content: row.content,
                    shared: row.shared,
                    active: row.active == Some(true) && row.enabled != Some(false),
                    free_bytes: row.space.free,
                };
                ((node.clone(), row.storage), sight)
            };
            rows.into_iter().map(of_row).collect()
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
