//! What has to be read before and after acting: one guest as it is this moment, what could be done to it, and how a
//! task stands. It writes nothing.

use super::{Reader, TaskQuery, at_guest, at_node, free, segment, tasks};
use crate::{
    config::GuestConfig,
    error::PveError,
    fields::{Fields, as_text},
    guest::{GuestKind, NodeGuest},
    node::{BackupVolume, Task},
    rows::{Misshapen, Row, Rows, many, one},
    upid::Upid,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of a task list that are asked for: about as many as Proxmox keeps.
const TASKS_MAX: u32 = 1000;

/// `/nodes/{node}/{kind}/{vmid}/status/current`: live.
#[derive(Clone, Debug, PartialEq)]
pub struct GuestNow {
    /// What a list of its node tells too.
    pub guest: NodeGuest,
    /// HA's own word for its state (`started`, `stopped`, `error`, …), "" where it has none; absent when HA does not
    /// manage it.
    pub ha: Option<String>,
}

impl Row for GuestNow {
    const WHAT: &'static str = "guest-now";

    fn read(fields: &mut Fields) -> Option<Self> {
        for uninteresting in
            ["agent", "spice", "clipboard", "nics", "blockstat", "proxmox-support", "balloon"]
        {
            let _ = fields.take(uninteresting);
        }
        let ha = fields.object("ha").and_then(|mut ha| {
            let state = ha.text("state").unwrap_or_default();
            ha.flag("managed").unwrap_or(false).then_some(state)
        });
        Some(Self { guest: NodeGuest::read(GuestKind::Qemu, fields)?, ha })
    }

    fn keep(&mut self, rest: Map<String, Value>) {
        self.guest.rest = rest;
    }
}

/// What stands against moving a guest (`GET …/migrate`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrateCheck {
    /// Whether it runs.
    pub running: bool,
    /// Nodes it may go to; absent when Proxmox did not sort them (older versions do not for a running machine).
    pub allowed: Option<BTreeSet<String>>,
    /// Nodes it may not go to, with the reason in Proxmox's words.
    pub refused: BTreeMap<String, String>,
    /// Volumes that lie on its node alone.
    pub local_disks: BTreeSet<String>,
    /// Devices of its node that it uses (`hostpci0`, `usb0`).
    pub local_resources: Vec<String>,
}

impl MigrateCheck {
    fn of(data: Value) -> Result<Self, Misshapen> {
        let mut fields = Fields::of(data).ok_or(Misshapen { expected: "a check of a migration" })?;
        let texts =
            |list: Option<Vec<Value>>| list.map(|list| list.iter().filter_map(as_text).collect::<Vec<_>>());
        // Containers' keys have hyphens, machines' mostly underscores.
        let allowed = texts(fields.list("allowed_nodes").or_else(|| fields.list("allowed-nodes")));
        let refused = fields.object("not_allowed_nodes").or_else(|| fields.object("not-allowed-nodes"));
        let disks = fields.list("local_disks").unwrap_or_default();
        let volume = |disk: &Value| disk.get("volid").and_then(as_text);
        Ok(Self {
            running: fields.flag("running").unwrap_or(false),
            allowed: allowed.map(BTreeSet::from_iter),
            refused: refused.map(|nodes| nodes.rest().into_iter().map(reasons).collect()).unwrap_or_default(),
            local_disks: disks.iter().filter_map(volume).collect(),
            local_resources: texts(fields.list("local_resources")).unwrap_or_default(),
        })
    }
}

/// A node and, in one text, why a guest may not go there.
fn reasons((node, why): (String, Value)) -> (String, String) {
    let Value::Object(why) = why else {
        return (node, "it is not allowed there".to_owned());
    };
    let list = |values: &Vec<Value>| {
        let name = |value: &Value| as_text(value).or_else(|| as_text(value.get("sid")?));
        values.iter().filter_map(name).collect::<Vec<_>>().join(", ")
    };
    let said = why.iter().map(|(cause, what)| {
        let what = what.as_array().map(list).or_else(|| as_text(what)).unwrap_or_default();
        format!("{}: {what}", cause.replace(['_', '-'], " "))
    });
    (node, crate::error::clean(&said.collect::<Vec<_>>().join("; ")))
}

/// How a task stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskNow {
    /// It runs.
    Running,
    /// It ended: `OK`, `WARNINGS: n`, `unexpected status` (its worker died, so its outcome is not known), or the error.
    /// "" where Proxmox does not say.
    Ended(String),
}

impl TaskNow {
    fn of(data: Value) -> Result<Self, Misshapen> {
        let mut fields = Fields::of(data).ok_or(Misshapen { expected: "the status of a task" })?;
        match fields.text("status").as_deref() {
            Some("running") => Ok(Self::Running),
            Some("stopped") => {
                Ok(Self::Ended(crate::error::clean(&fields.text("exitstatus").unwrap_or_default())))
            }
            Some(_) | None => Err(Misshapen { expected: "the status of a task" }),
        }
    }
}

impl Reader {
    /// One guest as its node sees it this moment, with QEMU's own word and HA's.
    pub async fn guest_status(&self, kind: GuestKind, node: &str, vmid: u32) -> Result<GuestNow, PveError> {
        let call = at_guest(kind, node, vmid, "/status/current").protected();
        let mut now: GuestNow = self.read(call, one).await?;
        now.guest.kind = kind;
        Ok(now)
    }

    /// Whether the guest's storages can do this (`snapshot`, `clone`, `copy`).
    pub async fn guest_feature(
        &self,
        kind: GuestKind,
        node: &str,
        vmid: u32,
        feature: &str,
    ) -> Result<bool, PveError> {
        let call = at_guest(kind, node, vmid, "/feature").protected().with("feature", feature);
        self.read(call, |data, _| {
            let has = Fields::of(data).and_then(|mut fields| fields.flag("hasFeature"));
            has.ok_or(Misshapen { expected: "a feature's answer" })
        })
        .await
    }

    /// What stands against moving the guest. Needs VM.Migrate; for containers since Proxmox VE 9.1
    /// ([`crate::Kind::NotImplemented`] before).
    pub async fn migrate_check(
        &self,
        kind: GuestKind,
        node: &str,
        vmid: u32,
    ) -> Result<MigrateCheck, PveError> {
        self.read(at_guest(kind, node, vmid, "/migrate").protected(), |data, _| MigrateCheck::of(data)).await
    }

    /// Whether no guest in the whole cluster has this number, those on nodes that are away and those the token may not
    /// see among them: it stands in the cluster's own file system. A node without quorum may be behind.
    pub async fn vmid_is_free(&self, vmid: u32) -> Result<bool, PveError> {
        match self.read(free("/cluster/nextid").with("vmid", &vmid.to_string()), |_, _| Ok(())).await {
            Ok(()) => Ok(true),
            Err(error) if error.fields().get("vmid").is_some_and(|text| text.contains("already exists")) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A guest's backups on a storage, those the token may see ([`BackupVolume`]).
    pub async fn guest_backups(
        &self,
        node: &str,
        storage: &str,
        vmid: u32,
    ) -> Result<Rows<BackupVolume>, PveError> {
        let call = at_node(node, &format!("/storage/{}/content", segment(storage))).protected();
        self.read(call.with("content", "backup").with("vmid", &vmid.to_string()), many).await
    }

    /// The configuration a snapshot keeps. Unprivileged.
    pub async fn snapshot_config(
        &self,
        kind: GuestKind,
        node: &str,
        vmid: u32,
        snapshot: &str,
    ) -> Result<GuestConfig, PveError> {
        let call = at_guest(kind, node, vmid, "/config").with("snapshot", snapshot);
        self.read(call, |data, _| {
            GuestConfig::of(kind, data).ok_or(Misshapen { expected: "a configuration" })
        })
        .await
    }

    /// How a task stands. [`crate::Kind::InvalidParameter`] when its node no longer knows it.
    pub async fn task_status(&self, upid: &Upid) -> Result<TaskNow, PveError> {
        let call = at_node(&upid.node, &format!("/tasks/{}/status", segment(upid.as_str())));
        self.read(call.protected(), |data, _| TaskNow::of(data)).await
    }

    /// Tasks about this guest on this node, running ones too, that began at or after `since_s` by *that node's* clock
    /// (seconds since 1970 UTC, [`Reader::node_clock`]). Those the token may see: its own, and with Sys.Audit on the
    /// node everybody's.
    pub async fn guest_tasks(&self, node: &str, vmid: u32, since_s: u64) -> Result<Rows<Task>, PveError> {
        let query = TaskQuery { since: Some(since_s), kind: None, limit: TASKS_MAX };
        self.read(tasks(node, &query).with("vmid", &vmid.to_string()), many).await
    }

    /// The node's clock, seconds since 1970 UTC. Needs Sys.Audit on the node.
    pub async fn node_clock(&self, node: &str) -> Result<u64, PveError> {
        self.read(at_node(node, "/time"), |data, _| {
            let time = Fields::of(data).and_then(|mut fields| fields.whole("time"));
            time.ok_or(Misshapen { expected: "a time" })
        })
        .await
    }
}

#[cfg(test)]
mod tests;
