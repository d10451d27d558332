//! Nodes and storages.

use super::{Known, Pass};
use crate::{
    clean,
    observation::{List, Scope},
};
use nhi_model::{
    key::{Key, Section},
    lab::{Node, NodeStatus, Storage},
    source::Coverage,
};
use std::collections::BTreeSet;

pub(super) fn apply(pass: &mut Pass<'_>) {
    for node in pass.seen.nodes.keys() {
        if pass.covers_node(node) {
            take_node(pass, node);
            take_storages(pass, node);
        }
    }
    leave_nodes(pass);
    leave_storages(pass);
}

fn take_node(pass: &mut Pass<'_>, name: &str) {
    let key = Key::node(&pass.seen.cluster, name);
    let known: Option<Node> = pass.known.get(&key).and_then(Known::typed);
    let seen = pass.seen.nodes[name].record.as_ref();
    let reason = pass.why_unseen(name);
    if seen.is_none() && reason.is_none() {
        // Its lists were read, the node itself was not asked about.
        return;
    }
    let told = seen.is_some_and(|seen| seen.status != NodeStatus::Unknown);
    let mut node = known.unwrap_or_else(|| blank(&pass.seen.cluster, name));
    if let Some(seen) = seen {
        fill(&mut node, seen);
    }
    match reason {
        Some(reason) if !told => pass.draft.put_stale(key, &node, &reason),
        Some(_) | None => pass.draft.fresh(key, &node),
    }
}

fn blank(cluster: &str, name: &str) -> Node {
    Node {
        cluster: cluster.to_owned(),
        node: name.to_owned(),
        status: NodeStatus::Unknown,
        address: None,
        cpus: None,
        memory_bytes: None,
        disk_bytes: None,
        pve_version: None,
        kernel: None,
        ssl_fingerprint: None,
        level: String::new(),
    }
}

/// Takes what the pass could tell; an offline node keeps what it was made of.
fn fill(node: &mut Node, seen: &Node) {
    let text = |raw: &Option<String>| raw.as_ref().map(|raw| clean::text(raw, clean::NAME_CHARS_MAX));
    if seen.status != NodeStatus::Unknown {
        node.status = seen.status;
    }
    node.address = text(&seen.address).or(node.address.take());
    node.cpus = seen.cpus.or(node.cpus);
    node.memory_bytes = seen.memory_bytes.or(node.memory_bytes);
    node.disk_bytes = seen.disk_bytes.or(node.disk_bytes);
    node.pve_version = text(&seen.pve_version).or(node.pve_version.take());
    node.kernel = text(&seen.kernel).or(node.kernel.take());
    node.ssl_fingerprint = text(&seen.ssl_fingerprint).or(node.ssl_fingerprint.take());
    // An empty level is how an offline node looks as well as one without a subscription.
    if seen.status == NodeStatus::Online {
        node.level = clean::text(&seen.level, clean::NAME_CHARS_MAX);
    }
}

fn leave_nodes(pass: &mut Pass<'_>) {
    for (key, known) in pass.mine(Section::Node) {
        let name = key.tokens().pop().expect("a node's key ends with its name");
        if pass.seen.nodes.contains_key(&name) || !pass.covers_node(&name) {
            continue;
        }
        if pass.node_gone(&name, known) {
            pass.draft.retire(key);
        } else if let Some(reason) = pass.why_unseen(&name) {
            pass.draft.stale(key, &reason);
        }
    }
}

fn take_storages(pass: &mut Pass<'_>, node: &str) {
    let mut taken = BTreeSet::new();
    for seen in &pass.seen.nodes[node].storages {
        let key = Key::storage(&pass.seen.cluster, node, &seen.storage);
        if !taken.insert(key.clone()) {
            continue;
        }
        let known: Option<Storage> = pass.known.get(&key).and_then(Known::typed);
        let mut storage = seen.clone();
        storage.cluster.clone_from(&pass.seen.cluster);
        node.clone_into(&mut storage.node);
        storage.content.sort();
        storage.content.dedup();
        if let Some(known) = known {
            storage.kind = storage.kind.or(known.kind);
            storage.active = storage.active.or(known.active);
            storage.enabled = storage.enabled.or(known.enabled);
        }
        pass.draft.fresh(key, &storage);
    }
}

fn leave_storages(pass: &mut Pass<'_>) {
    for (key, known) in pass.mine(Section::Storage) {
        let [_, node, storage] = key.tokens().try_into().expect("a storage's key has three tokens");
        let sight = pass.seen.nodes.get(&node);
        let seen = sight.is_some_and(|sight| sight.storages.iter().any(|seen| seen.storage == storage));
        if seen || !pass.covers_node(&node) {
            continue;
        }
        // A pass of narrow scope asks for guests alone: a gap elsewhere is no news of storages.
        let dark = sight.is_some_and(|sight| matches!(sight.coverage, Coverage::Unseen { .. }));
        let asked = pass.seen.scope == Scope::Full || dark;
        let listed = sight.filter(|sight| sight.lists.contains(&List::Storage));
        let reason = format!("no longer listed by node {node}");
        // No second source denies a storage as a configuration denies a guest, so two passes must agree; and an
        // empty list proves nothing, because a node without any storage does not occur.
        let confirmed = known.stale.as_ref().is_some_and(|stale| stale.reason == reason)
            && listed.is_some_and(|sight| !sight.storages.is_empty());
        let visible = pass.seen.rights.as_ref().is_some_and(|rights| rights.sees_all_storages);
        if pass.doubt.is_none() && (confirmed && visible || pass.node_gone(&node, known)) {
            pass.draft.retire(key);
        } else if listed.is_some() {
            let doubt = match &pass.doubt {
                Some(doubt) => format!("{reason}, which proves nothing: {doubt}"),
                None if !visible => {
                    format!("{reason}, which proves nothing: the token may not see all storages")
                }
                None => reason,
            };
            pass.draft.stale(key, &doubt);
        } else if asked && let Some(reason) = pass.why_unseen(&node) {
            pass.draft.stale(key, &reason);
        }
    }
}
