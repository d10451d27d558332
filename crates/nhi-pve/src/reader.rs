//! The reading half of the API: one method per call. It turns answers into rows and nothing more.

mod acting;

use crate::{
    cluster::{
        ClusterResources, ClusterStatus, HaResource, HaStatus, NotBackedUp, Permissions, Pool, Version,
    },
    config::GuestConfig,
    endpoint::Endpoint,
    error::{Kind, PveError},
    fields::{as_text, split_words},
    guest::{GuestKind, Interface, LxcRow, NodeGuest, QemuRow, Snapshot},
    node::{BackupVolume, LogLine, NodeRow, NodeState, Storage, Task},
    rows::{Misshapen, Rows, Unknown, many, one},
    transport::{AddressState, Answered, Call, STATUS, Transport},
    trust::{TrustError, TrustedAs},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use acting::{GuestNow, MigrateCheck, TaskNow};

/// Names come from answers, so everything that could leave its place in a path or query is encoded.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// Reads one cluster or stand-alone host with a read-only token. Cheap to clone; clones share connections, limits
/// and counters. Every method is cancel safe: dropping its future closes the connection it used.
#[derive(Clone, Debug)]
pub struct Reader {
    transport: Arc<Transport>,
}

/// What part of a node's task log is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskQuery<'a> {
    /// Only tasks that started at or after this, seconds since 1970 UTC.
    pub since: Option<u64>,
    /// Only tasks of this type (`vzdump`).
    pub kind: Option<&'a str>,
    /// At most so many. Proxmox's own default is 50; as many rows as asked for means there may be more.
    pub limit: u32,
}

impl Reader {
    /// Connects to nothing yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, TrustError> {
        Ok(Self { transport: Arc::new(Transport::new(endpoint)?) })
    }

    /// The same connections, limits and pauses as the transport's other users.
    pub(crate) fn over(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    /// The addresses it reads from, in the order of asking: those of the settings, and behind them those the cluster
    /// told of its nodes ([`Reader::cluster_status`]).
    pub fn addresses(&self) -> Vec<AddressState> {
        self.transport.addresses()
    }

    /// Requests sent since it was made, retries among them.
    pub fn requests(&self) -> u64 {
        self.transport.requests()
    }

    /// Fields seen that are not known or not readable, as `row.field` → how often. At most 256 names.
    pub fn unknown_fields(&self) -> BTreeMap<String, u64> {
        self.transport.unknown().names().clone()
    }

    /// Why the certificate of the newest connection is believed.
    pub fn trusted_as(&self) -> TrustedAs {
        self.transport.trusted_as()
    }

    /// Ends the pause after a 401 at once, because somebody corrected the token's rights.
    pub fn reset(&self) {
        self.transport.reset();
    }

    /// The address that gave the newest [`Reader::cluster_status`] cannot speak for the cluster, because it is in a
    /// minority: later calls begin with the next one. Nothing happens when calls begin with another already or there
    /// is only one.
    pub fn demote(&self) {
        self.transport.demote_source_of_status();
    }

    /// `/version`.
    pub async fn version(&self) -> Result<Version, PveError> {
        self.read(free("/version"), one).await
    }

    /// `/access/permissions`: the token's own rights. Unprivileged and cheap.
    pub async fn access_permissions(&self) -> Result<Permissions, PveError> {
        self.read(free("/access/permissions"), |data, _| Permissions::read(data)).await
    }

    /// The token's own rights as they are for one path: also where nothing holds, which the whole map leaves out.
    pub async fn permissions_on(&self, path: &str) -> Result<Permissions, PveError> {
        let call = free("/access/permissions").with("path", path);
        self.read(call, |data, _| Permissions::read(data)).await
    }

    /// The registered tags of `/cluster/options`. Needs Sys.Audit on /: without it Proxmox shows none.
    pub async fn registered_tags(&self) -> Result<BTreeSet<String>, PveError> {
        self.read(free("/cluster/options"), |data, _| match data.get("registered-tags") {
            None | Some(Value::Null) => Ok(BTreeSet::new()),
            Some(Value::String(text)) => Ok(split_words(text)),
            Some(Value::Array(tags)) => Ok(tags.iter().filter_map(as_text).collect()),
            Some(_) => Err(Misshapen { expected: "a list of tags" }),
        })
        .await
    }

    /// `/cluster/status`: quorum and nodes. Needs Sys.Audit on /. The nodes' addresses are asked from then on when
    /// those of the settings do not answer.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, PveError> {
        let (status, address) = self.read_from(protected(STATUS), ClusterStatus::read).await?;
        self.transport.learn_status(address, &status);
        Ok(status)
    }

    /// `/cluster/resources`: the cached index of everything the token may see.
    pub async fn cluster_resources(&self) -> Result<ClusterResources, PveError> {
        self.read(free("/cluster/resources"), ClusterResources::read).await
    }

    /// `/nodes`. The certificates it tells are believed at the addresses the cluster tells of those nodes.
    pub async fn nodes(&self) -> Result<Rows<NodeRow>, PveError> {
        let (nodes, address): (Rows<NodeRow>, _) = self.read_from(free("/nodes"), many).await?;
        self.transport.learn_nodes(address, &nodes.rows);
        Ok(nodes)
    }

    /// `/nodes/{node}/status`. Needs Sys.Audit on the node.
    pub async fn node_status(&self, node: &str) -> Result<NodeState, PveError> {
        self.read(at_node(node, "/status"), one).await
    }

    /// `/nodes/{node}/qemu`: live.
    pub async fn node_qemu(&self, node: &str) -> Result<Rows<NodeGuest>, PveError> {
        self.read(at_node(node, "/qemu").protected(), guests::<QemuRow>).await
    }

    /// The same with `qmpstatus`, at the cost of asking each running machine.
    pub async fn node_qemu_full(&self, node: &str) -> Result<Rows<NodeGuest>, PveError> {
        self.read(at_node(node, "/qemu").protected().with("full", "1"), guests::<QemuRow>).await
    }

    /// `/nodes/{node}/lxc`: live.
    pub async fn node_lxc(&self, node: &str) -> Result<Rows<NodeGuest>, PveError> {
        self.read(at_node(node, "/lxc").protected(), guests::<LxcRow>).await
    }

    /// A virtual machine's configuration as it is now, not what is pending.
    pub async fn qemu_config(&self, node: &str, vmid: u32) -> Result<GuestConfig, PveError> {
        self.guest_config(GuestKind::Qemu, node, vmid).await
    }

    /// A container's configuration as it is now, not what is pending.
    pub async fn lxc_config(&self, node: &str, vmid: u32) -> Result<GuestConfig, PveError> {
        self.guest_config(GuestKind::Lxc, node, vmid).await
    }

    /// A guest's configuration as it is now, not what is pending. Unprivileged; the one way to prove that a guest
    /// is not on that node ([`Kind::Gone`]).
    pub async fn guest_config(
        &self,
        kind: GuestKind,
        node: &str,
        vmid: u32,
    ) -> Result<GuestConfig, PveError> {
        let call = at_guest(kind, node, vmid, "/config").with("current", "1");
        self.read(call, |data, _| {
            GuestConfig::of(kind, data).ok_or(Misshapen { expected: "a configuration" })
        })
        .await
    }

    /// What the guest agent of a virtual machine says its interfaces are.
    pub async fn qemu_agent_interfaces(&self, node: &str, vmid: u32) -> Result<Rows<Interface>, PveError> {
        let call = at_guest(GuestKind::Qemu, node, vmid, "/agent/network-get-interfaces").protected();
        self.read(call, |mut data, unknown| match data.get_mut("result") {
            Some(result) => many(result.take(), unknown),
            None => Err(Misshapen { expected: "the agent's result" }),
        })
        .await
    }

    /// A container's interfaces; `None` when it does not run. Since Proxmox VE 8.
    pub async fn lxc_interfaces(&self, node: &str, vmid: u32) -> Result<Option<Rows<Interface>>, PveError> {
        let call = at_guest(GuestKind::Lxc, node, vmid, "/interfaces").protected();
        self.read(call, |data, unknown| if data.is_null() { Ok(None) } else { many(data, unknown).map(Some) })
            .await
    }

    /// A guest's snapshots, without the pseudo entry `current`.
    pub async fn snapshots(
        &self,
        kind: GuestKind,
        node: &str,
        vmid: u32,
    ) -> Result<Rows<Snapshot>, PveError> {
        let call = at_guest(kind, node, vmid, "/snapshot").protected();
        self.read(call, |mut data, unknown| {
            if let Some(rows) = data.as_array_mut() {
                rows.retain(|row| row["name"] != "current");
            }
            many(data, unknown)
        })
        .await
    }

    /// `/nodes/{node}/storage`. Slow when one of them hangs.
    pub async fn node_storage(&self, node: &str) -> Result<Rows<Storage>, PveError> {
        self.read(at_node(node, "/storage").protected(), many).await
    }

    /// The backups on a storage that the token may see.
    pub async fn storage_content_backups(
        &self,
        node: &str,
        storage: &str,
    ) -> Result<Rows<BackupVolume>, PveError> {
        let call = at_node(node, &format!("/storage/{}/content", segment(storage)));
        self.read(call.protected().with("content", "backup"), many).await
    }

    /// `/cluster/ha/status/current`.
    pub async fn ha_status(&self) -> Result<HaStatus, PveError> {
        self.read(free("/cluster/ha/status/current"), HaStatus::read).await
    }

    /// `/cluster/ha/resources`.
    pub async fn ha_resources(&self) -> Result<Rows<HaResource>, PveError> {
        self.read(free("/cluster/ha/resources"), many).await
    }

    /// `/pools`, those the token may see.
    pub async fn pools(&self) -> Result<Rows<Pool>, PveError> {
        self.read(free("/pools"), many).await
    }

    /// Guests that no backup job covers. Needs Sys.Audit on /.
    pub async fn cluster_backup_not_backed_up(&self) -> Result<Rows<NotBackedUp>, PveError> {
        self.read(protected("/cluster/backup-info/not-backed-up"), many).await
    }

    /// A node's task log, running tasks among them, those the token may see.
    pub async fn node_tasks(&self, node: &str, query: &TaskQuery<'_>) -> Result<Rows<Task>, PveError> {
        self.read(tasks(node, query), many).await
    }

    /// The first lines of a task's log. Needs Sys.Audit on the node, unless the token began the task itself.
    pub async fn task_log(&self, node: &str, upid: &str, lines_max: u32) -> Result<Rows<LogLine>, PveError> {
        let call = at_node(node, &format!("/tasks/{}/log", segment(upid)));
        self.read(call.protected().with("limit", &lines_max.to_string()), many).await
    }

    async fn read<T>(
        &self,
        call: Call,
        parse: impl FnOnce(Value, &mut Unknown) -> Result<T, Misshapen>,
    ) -> Result<T, PveError> {
        self.read_from(call, parse).await.map(|(read, _)| read)
    }

    /// The same, and which address answered.
    async fn read_from<T>(
        &self,
        call: Call,
        parse: impl FnOnce(Value, &mut Unknown) -> Result<T, Misshapen>,
    ) -> Result<(T, usize), PveError> {
        let Answered { data, address } = self.transport.get(&call).await?;
        // Parsed apart from the shared count, so that a long list holds no lock.
        let mut unknown = Unknown::default();
        let parsed = parse(data, &mut unknown);
        self.transport.unknown().merge(unknown);
        let malformed = |Misshapen { expected }| {
            let text = format!("Proxmox answered with data that is not {expected}");
            self.transport.error(&call, address, Kind::Malformed, text)
        };
        Ok((parsed.map_err(malformed)?, address))
    }
}

fn guests<T: crate::rows::Row + Into<NodeGuest>>(
    data: Value,
    unknown: &mut Unknown,
) -> Result<Rows<NodeGuest>, Misshapen> {
    let Rows { rows, unreadable } = many::<T>(data, unknown)?;
    Ok(Rows { rows: rows.into_iter().map(Into::into).collect(), unreadable })
}

impl From<QemuRow> for NodeGuest {
    fn from(row: QemuRow) -> Self {
        row.0
    }
}

impl From<LxcRow> for NodeGuest {
    fn from(row: LxcRow) -> Self {
        row.0
    }
}

fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

fn free(path: &str) -> Call {
    Call { path: path.to_owned(), query: String::new(), node: None, protected: false }
}

fn protected(path: &str) -> Call {
    free(path).protected()
}

fn at_node(node: &str, below: &str) -> Call {
    let path = format!("/nodes/{}{below}", segment(node));
    Call { path, query: String::new(), node: Some(node.to_owned()), protected: false }
}

fn tasks(node: &str, query: &TaskQuery<'_>) -> Call {
    let mut call = at_node(node, "/tasks").with("source", "all").with("limit", &query.limit.to_string());
    if let Some(since) = query.since {
        call = call.with("since", &since.to_string());
    }
    if let Some(kind) = query.kind {
        call = call.with("typefilter", kind);
    }
    call
}

fn at_guest(kind: GuestKind, node: &str, vmid: u32, below: &str) -> Call {
    at_node(node, &format!("/{}/{vmid}{below}", kind.as_str()))
}

impl Call {
    /// A call that Proxmox runs in one of its privileged workers.
    fn protected(mut self) -> Self {
        self.protected = true;
        self
    }

    fn with(mut self, key: &str, value: &str) -> Self {
        let separator = if self.query.is_empty() { '?' } else { '&' };
        self.query.push_str(&format!("{separator}{key}={}", segment(value)));
        self
    }
}
