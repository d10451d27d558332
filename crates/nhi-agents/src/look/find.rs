//! Finds out where a guest is, or that it is nowhere.

use super::Look;
use futures::future::join_all;
use nhi_decide::sight::GuestSight;
use nhi_model::key::{Key, Section};
use nhi_pve::{GuestKind, Kind, PveError, config::GuestConfig};
use std::collections::BTreeSet;

/// A guest's place and what it is.
pub(super) struct Found {
    pub(super) node: String,
    pub(super) config: GuestConfig,
}

/// Kind and number of the guest a key names.
pub(super) fn guest_of(key: &Key) -> Option<(GuestKind, u32)> {
    let kind = match key.section() {
        Section::Vm => GuestKind::Qemu,
        Section::Lxc => GuestKind::Lxc,
        Section::Node
        | Section::Storage
        | Section::Source
        | Section::Host
        | Section::Gpu
        | Section::Docker
        | Section::Project
        | Section::Provider
        | Section::Graph
        | Section::Alert => return None,
    };
    Some((kind, key.tokens().last()?.parse().ok()?))
}

pub(super) fn unseen(why: impl Into<String>) -> GuestSight {
    GuestSight::Unseen { why: why.into() }
}

impl Look<'_> {
    /// The node a guest is on and its configuration, or what can be said of it instead.
    ///
    /// The index says which node's folder has the configuration, also of nodes that are away: it is the cluster's own
    /// file system that says so. It is filtered by rights, so what it does not say is no proof.
    pub(super) async fn find(
        &self,
        kind: GuestKind,
        vmid: u32,
        last: Option<&str>,
    ) -> Result<Found, GuestSight> {
        let listed = self.frame.row(kind, vmid).map(|row| row.node.as_str());
        let mut asked = BTreeSet::new();
        if let Some(home) = listed.or(last) {
            match self.reader.guest_config(kind, home, vmid).await {
                Ok(config) => return Ok(Found { node: home.to_owned(), config }),
                Err(error) => {
                    self.note(home, &error);
                    let is_elsewhere = match error.kind() {
                        Kind::Gone | Kind::NoSuchNode => true,
                        Kind::NodeUnreachable { .. } => listed.is_none(),
                        _ => false,
                    };
                    if !is_elsewhere {
                        return Err(unseen(unread(home, &error)));
                    }
                }
            }
            asked.insert(home.to_owned());
        }
        self.sweep(kind, vmid, last, &asked).await
    }

    /// Asks the nodes that are left.
    async fn sweep(
        &self,
        kind: GuestKind,
        vmid: u32,
        last: Option<&str>,
        asked: &BTreeSet<String>,
    ) -> Result<Found, GuestSight> {
        let (online, all_known) = self.frame.online();
        let answers = online
            .difference(asked)
            .map(async |node| (node.clone(), self.reader.guest_config(kind, node, vmid).await));
        let mut doubt = None;
        for (node, answer) in join_all(answers).await {
            match answer {
                Ok(config) => return Ok(Found { node, config }),
                Err(error) if *error.kind() == Kind::Gone => {}
                Err(error) => {
                    self.note(&node, &error);
                    doubt = doubt.or_else(|| Some(unread(&node, &error)));
                }
            }
        }
        Err(match doubt {
            Some(why) => unseen(why),
            None if !all_known => {
                unseen("nobody told all nodes of the cluster, and it is on none of the others")
            }
            None => self.nowhere(vmid, last).await,
        })
    }

    /// Every node that is there said that it has no such guest.
    async fn nowhere(&self, vmid: u32, last: Option<&str>) -> GuestSight {
        // A member whose cluster file system runs alone speaks for itself only, and calls itself quorate.
        if let Some(last) = last.filter(|last| self.frame.stands_alone_without(last)) {
            return unseen(format!("whoever answered stands alone, and the guest was on node {last}"));
        }
        if self.frame.quorate() != Some(true) {
            return unseen("it is on no node that answers, and without quorum that proves nothing");
        }
        if let Some(other) = self.frame.rows().find(|row| row.vmid == vmid) {
            let kind = match other.kind {
                GuestKind::Qemu => "a virtual machine",
                GuestKind::Lxc => "a container",
            };
            return unseen(format!("number {vmid} is listed as {kind} on node {}", other.node));
        }
        match self.reader.vmid_is_free(vmid).await {
            Ok(true) => GuestSight::Gone,
            Ok(false) => unseen(format!("number {vmid} is in use, and no node that answers has the guest")),
            Err(error) => {
                unseen(format!("whether number {vmid} is in use could not be read: {}", error.text()))
            }
        }
    }
}

fn unread(node: &str, error: &PveError) -> String {
    format!("its configuration could not be read from node {node}: {}", error.text())
}
