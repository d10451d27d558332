//! What one pass got from Proxmox, in its own types, before anything is made of it. It asks nothing.

use nhi_decide::observation::{CertificateSight, Detour, GuestRef, Scope};
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
pub(crate) type Answer<T> = Result<T, PveError>;

/// The answers of one pass. `None` means "not asked in this pass".
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    /// When the pass began, UTC.
    pub(crate) at: Timestamp,
    pub(crate) cluster: String,
    /// The URL asked, without credentials.
    pub(crate) place: String,
    pub(crate) scope: Scope,
    pub(crate) resources: Answer<ClusterResources>,
    pub(crate) status: Answer<ClusterStatus>,
    pub(crate) permissions: Answer<Permissions>,
    /// `/nodes`; only a full pass asks.
    pub(crate) node_rows: Option<Answer<Rows<NodeRow>>>,
    /// What HA manages; only a full pass asks. The state of each is in the index.
    pub(crate) ha_resources: Option<Answer<Rows<HaResource>>>,
    /// By node: those that were asked.
    pub(crate) nodes: BTreeMap<String, NodeAnswers>,
    /// By guest: those that were asked one by one.
    pub(crate) guests: BTreeMap<GuestRef, GuestAnswers>,
    /// By storage: its backups; `None` when the pass did not look for backups.
    pub(crate) backups: Option<BTreeMap<String, Answer<Rows<BackupVolume>>>>,
    /// By guest's number: when its newest backup began that the task logs tell of, seconds since 1970; `None` when
    /// the pass did not look there.
    pub(crate) backup_log: Option<BTreeMap<u32, u64>>,
    /// The certificate at each address of the settings.
    pub(crate) certificates: BTreeMap<String, CertificateSight>,
    /// The address that is asked in their place.
    pub(crate) detour: Option<Detour>,
}

/// What one node answered.
#[derive(Clone, Debug)]
pub(crate) struct NodeAnswers {
    /// Only a full pass asks.
    pub(crate) state: Option<Answer<NodeState>>,
    pub(crate) qemu: Answer<Rows<NodeGuest>>,
    pub(crate) lxc: Answer<Rows<NodeGuest>>,
    /// Only a full pass asks.
    pub(crate) storage: Option<Answer<Rows<Storage>>>,
}

/// What was answered about one guest.
#[derive(Clone, Debug)]
pub(crate) struct GuestAnswers {
    /// The node that was asked.
    pub(crate) node: String,
    pub(crate) config: Option<Answer<GuestConfig>>,
    pub(crate) snapshots: Option<Answer<Rows<Snapshot>>>,
    pub(crate) addresses: Option<AddressAnswer>,
}

/// What a guest, or its configuration, says about its addresses.
#[derive(Clone, Debug)]
pub(crate) enum AddressAnswer {
    /// It has no agent, so nobody was asked.
    NoAgent,
    /// The guest agent of a virtual machine was asked.
    Agent(Answer<Rows<Interface>>),
    /// A container's interfaces were asked for; `None` when it does not run.
    Container(Answer<Option<Rows<Interface>>>),
}
