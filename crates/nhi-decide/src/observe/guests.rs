//! Guests: which sight of each counts, and what the absence of one means.

use super::{Known, Pass, bounds, merge, reason_of};
use crate::observation::{Gone, GuestRef, GuestSight, IndexRow, List, Part};
use nhi_model::{
    guest::{Guest, GuestKind, GuestStatus},
    key::Key,
    source::{Coverage, Source},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// The sight of a guest that counts, and where it was.
type Sights<'a> = BTreeMap<GuestRef, (&'a str, &'a GuestSight)>;

/// Why a guest is stale whose configuration failed: its protection and identity are as they were before. It stays
/// so until the configuration is read, so the beginning of the reason is also the mark to know it by.
const UNREAD: &str = "its configuration could not be read";
/// Why a guest is stale that has another name on its list while its configuration was not read since: it may be
/// another guest under the same number, and a new name beside an old identity and protection would be a lie.
const RENAMED: &str = "it has another name, and its configuration was not read since";

pub(super) fn apply(pass: &mut Pass<'_>) {
    let sights = sights(pass);
    for (guest, (node, sight)) in &sights {
        take(pass, *guest, node, sight);
    }
    for (guest, node) in unseen(pass, &sights) {
        let key = key_of(pass, guest);
        let known = &pass.known[&key];
        if is_proven_gone(pass, guest, &node, known) {
            pass.draft.retire(&key);
        } else if let Some(reason) = why_missing(pass, guest, &node) {
            pass.draft.stale(&key, &reason);
        }
    }
    for row in pass.rows.clone().into_values() {
        take_row(pass, row, &sights);
    }
}

pub(super) fn missing(pass: &Pass<'_>) -> Vec<(GuestRef, String)> {
    unseen(pass, &sights(pass))
        .into_iter()
        .filter(|(guest, node)| is_off_its_list(pass, *guest, node) && !is_indexed(pass, *guest))
        .collect()
}

fn key_of(pass: &Pass<'_>, guest: GuestRef) -> Key {
    Key::guest(guest.kind, &pass.seen.cluster, guest.vmid)
}

/// Every guest the pass saw, each at one place.
fn sights<'a>(pass: &Pass<'a>) -> Sights<'a> {
    let seen = pass.seen;
    let mut out = Sights::new();
    for (node, on_node) in &seen.nodes {
        for sight in &on_node.guests {
            let guest = GuestRef { kind: sight.guest.kind, vmid: sight.guest.vmid };
            if !pass.covers_node(node) && !pass.covers_guest(guest.kind, guest.vmid) {
                continue;
            }
            let better = match out.get(&guest) {
                Some((other, held)) => rank(pass, node, sight) > rank(pass, other, held),
                None => true,
            };
            if better {
                out.insert(guest, (node.as_str(), sight));
            }
        }
    }
    out
}

/// Two nodes show one guest when it moves while we look. The one without the migration's lock was read later
/// or is where it arrived; then the one where it runs, then the one the index names.
fn rank(pass: &Pass<'_>, node: &str, sight: &GuestSight) -> (bool, bool, bool, bool) {
    let guest = &sight.guest;
    (
        sight.read.contains(&Part::List),
        guest.lock.as_deref() != Some("migrate"),
        guest.status == GuestStatus::Running,
        row_of(pass, GuestRef { kind: guest.kind, vmid: guest.vmid }).is_some_and(|row| row.node == node),
    )
}

fn row_of<'a>(pass: &Pass<'a>, guest: GuestRef) -> Option<&'a IndexRow> {
    pass.rows.get(&guest).copied()
}

fn take(pass: &mut Pass<'_>, guest: GuestRef, node: &str, sight: &GuestSight) {
    let key = key_of(pass, guest);
    let known = pass.known.get(&key);
    if known.is_none() && sight.read.is_empty() {
        return;
    }
    let before: Option<Guest> = known.and_then(Known::typed);
    // A host that fell out of its cluster may have made a guest of its own under the same number since.
    if pass.alone && before.as_ref().is_some_and(|before| before.node != node) {
        pass.draft.stale(&key, super::ALONE);
        return;
    }
    if before.as_ref().is_some_and(|before| merge::may_be_another(before, sight)) {
        pass.draft.stale(&key, RENAMED);
        return;
    }
    note_cut(pass, sight);
    let scene = merge::Scene {
        cluster: &pass.seen.cluster,
        node,
        at: pass.seen.at,
        watched: known.is_none() && pass.source.as_ref().is_some_and(|source| was_whole(source, node)),
    };
    let merged = merge::merge(before, sight, &scene);
    if let Some(reason) = why_config_unread(known, sight) {
        pass.draft.put_stale(key, &merged, &reason);
        return;
    }
    if sight.read.contains(&Part::List) {
        pass.draft.fresh(key, &merged);
        return;
    }
    // Its status was not read, so whatever made it stale, or makes it so now, still holds.
    let reason = match pass.covers_node(node).then(|| pass.why_unseen(node)).flatten() {
        Some(reason) => Some(reason),
        None => match known {
            Some(known) => known.stale.as_ref().map(|stale| stale.reason.clone()),
            None => Some("its status was not read yet".to_owned()),
        },
    };
    match reason {
        Some(reason) => pass.draft.put_stale(key, &merged, &reason),
        None => pass.draft.fresh(key, &merged),
    }
}

/// Whether everything on the node was in sight before, as far as a source's record tells.
fn was_whole(source: &Source, node: &str) -> bool {
    source.parts.get(node).is_some_and(Coverage::is_complete)
        && !source.missing_rights.contains_key("VM.Audit")
}

/// Remembers whether too much was told of a guest. Only a pass that read all that can be too much knows that it no
/// longer is.
fn note_cut(pass: &mut Pass<'_>, sight: &GuestSight) {
    let (_, cut) = bounds::bounded(&sight.guest);
    let parts = [Part::List, Part::Config, Part::Addresses];
    if cut || parts.iter().all(|part| sight.read.contains(part)) {
        let any = pass.cut.entry(sight.guest.vmid).or_default();
        *any |= cut;
    }
}

/// Why its configuration is not what it is now: it failed in this pass, or in one before and nobody asked since.
fn why_config_unread(known: Option<&Known>, sight: &GuestSight) -> Option<String> {
    if let Some(why) = &sight.unread_config {
        return Some(reason_of(&format!("{UNREAD}: {why}")));
    }
    let before = known.and_then(|known| known.stale.as_ref()).map(|stale| &stale.reason);
    before.filter(|reason| reason.starts_with(UNREAD) && !sight.read.contains(&Part::Config)).cloned()
}

/// Known guests of covered nodes that no node showed, with the node they were last on.
fn unseen(pass: &Pass<'_>, sights: &Sights<'_>) -> Vec<(GuestRef, String)> {
    let mut out = Vec::new();
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        for (key, known) in pass.mine(kind.section()) {
            let vmid = key.tokens().pop().and_then(|number| number.parse().ok());
            // Read without its type: a guest that an older program wrote goes stale like any other.
            let node = known.record.get("node").and_then(Value::as_str);
            let (Some(vmid), Some(node)) = (vmid, node) else { continue };
            let guest = GuestRef { kind, vmid };
            if !sights.contains_key(&guest) && pass.covers_node(node) {
                out.push((guest, node.to_owned()));
            }
        }
    }
    out
}

const fn list_of(kind: GuestKind) -> List {
    match kind {
        GuestKind::Qemu => List::Qemu,
        GuestKind::Lxc => List::Lxc,
    }
}

/// Whether the node's list of such guests was read to its end (and, `guest` being unseen, does not name it).
fn is_off_its_list(pass: &Pass<'_>, guest: GuestRef, node: &str) -> bool {
    pass.seen.nodes.get(node).is_some_and(|sight| sight.lists.contains(&list_of(guest.kind)))
}

/// Whether the index names it. An index that was not read names everything.
fn is_indexed(pass: &Pass<'_>, guest: GuestRef) -> bool {
    pass.seen.index.is_none() || row_of(pass, guest).is_some()
}

/// Nothing else explains the absence: rights, quorum and reach are in order, the cluster-wide index and the
/// node's own list do not name it, and the node says that it has no such configuration (or left the cluster).
fn is_proven_gone(pass: &Pass<'_>, guest: GuestRef, node: &str, known: &Known) -> bool {
    let denied = pass.seen.gone.contains(&Gone { guest, node: node.to_owned() });
    pass.doubt.is_none()
        && !is_indexed(pass, guest)
        && (is_off_its_list(pass, guest, node) && denied || pass.node_gone(node, known))
}

/// Why an unseen guest is stale; `None` when the pass did not look for it.
fn why_missing(pass: &Pass<'_>, guest: GuestRef, node: &str) -> Option<String> {
    let place = row_of(pass, guest).map_or(node, |row| row.node.as_str());
    if !is_off_its_list(pass, guest, node) {
        return pass.why_unseen(node);
    }
    if place != node && !is_off_its_list(pass, guest, place) {
        return pass.why_unseen(place).map(|why| format!("it moved to node {place}: {why}"));
    }
    if row_of(pass, guest).is_some() {
        return Some("the cluster knows it, but no node lists it".to_owned());
    }
    let doubt = pass.doubt.as_deref().unwrap_or("its node did not confirm that it is gone");
    Some(format!("no longer listed by node {node}, which proves nothing: {doubt}"))
}

/// A guest nobody knew, on a node that was not seen: the index is all there is.
fn take_row(pass: &mut Pass<'_>, row: &IndexRow, sights: &Sights<'_>) {
    let guest = GuestRef { kind: row.kind, vmid: row.vmid };
    let key = key_of(pass, guest);
    let looked = pass.covers_node(&row.node) && !is_off_its_list(pass, guest, &row.node);
    if !looked || sights.contains_key(&guest) || pass.known.contains_key(&key) {
        return;
    }
    if let Some(reason) = pass.why_unseen(&row.node) {
        pass.draft.put_stale(key, &merge::from_index(row, &pass.seen.cluster), &reason);
    }
}
