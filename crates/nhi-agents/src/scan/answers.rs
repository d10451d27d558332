//! What one pass got from Proxmox, in its own types, before anything is made of it. It asks nothing.

use nhi_decide::observation::{GuestRef, Scope};
use nhi_model::Timestamp;
use nhi_pve::{
    PveError, Rows,
    cluster::{ClusterResources, ClusterStatus, HaResource, Permissions},
    config::GuestConfig,
    guest::{Interface, NodeGuest, Snapshot},
    node::{BackupVolume, NodeRow, NodeState, Storage},
};
use std::collections::BTreeMap;

/// An answer or why there is none.
pub(super) type Answer<T> = Result<T, PveError>;

/// The answers of one pass. `None` means "not asked in this pass".
#[derive(Clone, Debug)]
pub(super) struct Answers {
    /// When the pass began, UTC.
    pub(super) at: Timestamp,
    pub(super) cluster: String,
    /// The URL asked, without credentials.
    pub(super) place: String,
    pub(super) scope: Scope,
    pub(super) resources: Answer<ClusterResources>,
    pub(super) status: Answer<ClusterStatus>,
    pub(super) permissions: Answer<Permissions>,
    /// `/nodes`; only a full pass asks.
    pub(super) node_rows: Option<Answer<Rows<NodeRow>>>,
    /// What HA manages; only a full pass asks. The state of each is in the index.
    pub(super) ha_resources: Option<Answer<Rows<HaResource>>>,
    /// By node: those that were asked.
    pub(super) nodes: BTreeMap<String, NodeAnswers>,
    /// By guest: those that were asked one by one.
    pub(super) guests: BTreeMap<GuestRef, GuestAnswers>,
    /// By storage: its backups; `None` when the pass did not look for backups.
    pub(super) backups: Option<BTreeMap<String, Answer<Rows<BackupVolume>>>>,
}

/// What one node answered.
#[derive(Clone, Debug)]
pub(super) struct NodeAnswers {
    /// Only a full pass asks.
    pub(super) state: Option<Answer<NodeState>>,
    pub(super) qemu: Answer<Rows<NodeGuest>>,
    pub(super) lxc: Answer<Rows<NodeGuest>>,
    /// Only a full pass asks.
    pub(super) storage: Option<Answer<Rows<Storage>>>,
}

/// What was answered about one guest.
#[derive(Clone, Debug)]
pub(super) struct GuestAnswers {
    /// The node that was asked.
    pub(super) node: String,
    pub(super) config: Option<Answer<GuestConfig>>,
    pub(super) snapshots: Option<Answer<Rows<Snapshot>>>,
    pub(super) addresses: Option<AddressAnswer>,
}

/// What a guest, or its configuration, says about its addresses.
#[derive(Clone, Debug)]
pub(super) enum AddressAnswer {
    /// It has no agent, so nobody was asked.
    NoAgent,
    /// The guest agent of a virtual machine was asked.
    Agent(Answer<Rows<Interface>>),
    /// A container's interfaces were asked for; `None` when it does not run.
    Container(Answer<Option<Rows<Interface>>>),
}
