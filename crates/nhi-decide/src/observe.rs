//! From an observation to changes of the state: the only place that retires a record or marks it stale.
//!
//! Absence needs proof. Whatever a pass should have seen and did not becomes stale, with the reason and the time
//! of the first such pass; it is retired only when nothing else can explain its absence. It never reads a clock
//! (all time comes with the observation) and writes nothing.

mod alerts;
mod bounds;
mod guests;
mod merge;
mod places;
mod source;
pub mod unconfigured;

pub use crate::draft::Known;

use crate::{
    change::Change,
    clean,
    draft::Draft,
    observation::{GuestRef, GuestSight, IndexRow, Observation, Part, Scope, source_key},
};
use nhi_model::{
    guest::{Guest, GuestKind},
    key::{Key, Section},
    source::{Coverage, Source},
};
use std::collections::BTreeMap;

/// The changes an observation means for what is known. Each key occurs once; equal inputs give none.
///
/// `known` may hold the whole state; records of other clusters and writers are left alone.
pub fn changes(known: &BTreeMap<Key, Known>, seen: &Observation) -> Vec<Change> {
    let mut pass = Pass::new(known, seen);
    if pass.stranger {
        // Not one fact about this cluster: nothing is taken from it.
        for section in [Section::Node, Section::Vm, Section::Lxc, Section::Storage] {
            for (key, _) in pass.mine(section) {
                pass.draft.stale(key, STRANGER);
            }
        }
    } else {
        guests::apply(&mut pass);
        places::apply(&mut pass);
    }
    source::apply(&mut pass);
    alerts::apply(&mut pass);
    pass.draft.finish()
}

/// Known guests that the pass should have seen and did not, with the node to ask for their configuration.
///
/// Only an answer "does not exist" (put into [`Observation::gone`]) lets [`changes`] retire them.
pub fn missing(known: &BTreeMap<Key, Known>, seen: &Observation) -> Vec<(GuestRef, String)> {
    guests::missing(&Pass::new(known, seen))
}

/// Why everything is stale when the address leads to a lab that was never seen.
const STRANGER: &str = "another cluster answers at this address";

/// What one call of [`changes`] works on.
struct Pass<'a> {
    known: &'a BTreeMap<Key, Known>,
    seen: &'a Observation,
    /// The source's record before.
    source: Option<Source>,
    /// Whether the cluster that answers is not the known one.
    stranger: bool,
    /// Whether what was a cluster of several nodes answers as a single host now.
    alone: bool,
    /// Why absence proves nothing in this pass; `None` when it may.
    doubt: Option<String>,
    /// The index by guest; empty when it was not read.
    rows: BTreeMap<GuestRef, &'a IndexRow>,
    /// Whether too much was told of a guest, by its number; only those of which this pass can tell.
    cut: BTreeMap<u32, bool>,
    /// Certificates that are not the pinned ones, as the source's record tells them after this pass; `None` when the
    /// pass does not write it.
    rotated: Option<BTreeMap<String, String>>,
    draft: Draft<'a>,
}

impl<'a> Pass<'a> {
    fn new(known: &'a BTreeMap<Key, Known>, seen: &'a Observation) -> Self {
        let rows = seen.index.iter().flatten();
        Self {
            known,
            seen,
            source: source_of(known, seen),
            stranger: stranger(known, seen),
            alone: alone(known, seen),
            doubt: doubt(known, seen),
            rows: rows.map(|row| (GuestRef { kind: row.kind, vmid: row.vmid }, row)).collect(),
            cut: BTreeMap::new(),
            rotated: None,
            draft: Draft::new(known, seen.at),
        }
    }

    /// The known records of a section that belong to the observed cluster.
    fn mine(&self, section: Section) -> impl Iterator<Item = (&'a Key, &'a Known)> + use<'a> {
        of_cluster(self.known, section, &self.seen.cluster)
    }

    /// Whether the pass set out to read this node.
    fn covers_node(&self, node: &str) -> bool {
        match &self.seen.scope {
            Scope::Full => true,
            Scope::Only { nodes, .. } => nodes.contains(node),
        }
    }

    /// Whether the pass set out to read this guest by itself.
    fn covers_guest(&self, kind: GuestKind, vmid: u32) -> bool {
        match &self.seen.scope {
            Scope::Full => true,
            Scope::Only { guests, .. } => guests.contains(&GuestRef { kind, vmid }),
        }
    }

    /// Whether the cluster told twice that it does not have this node, which this known record belongs to: one
    /// answer may come from a member that was separated a moment ago.
    fn node_gone(&self, node: &str, known: &Known) -> bool {
        let told = left_reason(node);
        self.doubt.is_none()
            && self.node_left(node)
            && known.stale.as_ref().is_some_and(|stale| stale.reason == told)
    }

    /// Whether the cluster told all its nodes and this one is none of them.
    fn node_left(&self, node: &str) -> bool {
        self.seen.scope == Scope::Full
            && self.seen.reach.is_complete()
            && !self.seen.nodes.contains_key(node)
            && self.seen.index.is_some()
            && self.rows.values().all(|row| row.node != node)
    }

    /// Why a node was not seen whole, in words fit for a record; `None` when it was, or nobody looked.
    fn why_unseen(&self, node: &str) -> Option<String> {
        match (self.seen.nodes.get(node).map(|sight| &sight.coverage), &self.seen.reach) {
            (Some(Coverage::Partial { reason } | Coverage::Unseen { reason }), _)
            | (None, Coverage::Partial { reason } | Coverage::Unseen { reason }) => Some(reason_of(reason)),
            (Some(Coverage::Complete), _) => None,
            (None, Coverage::Complete) => self.covers_node(node).then(|| match &self.doubt {
                Some(doubt) => reason_of(&format!("{}, which proves nothing: {doubt}", unlisted(node))),
                None if self.node_left(node) => left_reason(node),
                None => unlisted(node),
            }),
        }
    }
}

/// Why everything else is stale when one host answers for a cluster.
const ALONE: &str = "what was a cluster answers as a single host";

fn unlisted(node: &str) -> String {
    format!("the cluster no longer lists node {node}")
}

/// Why the records of a node that seems to have left are stale until the next full pass says so again; the same
/// words are the mark that one has.
fn left_reason(node: &str) -> String {
    format!("{}, nor anything on it", unlisted(node))
}

/// A reason in one clean sentence.
fn reason_of(raw: &str) -> String {
    clean::text(raw, clean::REASON_CHARS_MAX)
}

/// The known records of a section that belong to one cluster.
fn of_cluster<'a>(
    known: &'a BTreeMap<Key, Known>,
    section: Section,
    cluster: &str,
) -> impl Iterator<Item = (&'a Key, &'a Known)> + use<'a> {
    let prefix = format!("{}.{}.", section.as_str(), nhi_model::key::encode(cluster));
    known.iter().filter(move |(key, _)| key.as_str().starts_with(&prefix))
}

/// The source's record as it is known.
fn source_of(known: &BTreeMap<Key, Known>, seen: &Observation) -> Option<Source> {
    known.get(&source_key(&seen.cluster)).and_then(Known::typed)
}

/// Why absence proves nothing in this pass, whatever is absent.
fn doubt(known: &BTreeMap<Key, Known>, seen: &Observation) -> Option<String> {
    if !seen.reach.is_complete() {
        return Some("the cluster was not seen whole".to_owned());
    }
    if seen.index.is_none() {
        return Some("the cluster's index was not read".to_owned());
    }
    if alone(known, seen) {
        return Some(ALONE.to_owned());
    }
    if seen.quorate != Some(true) {
        return Some("the cluster has no quorum, or could not tell".to_owned());
    }
    let Some(rights) = &seen.rights else {
        return Some("the token's rights were not read".to_owned());
    };
    if !rights.sees_all_guests {
        return Some("the token may not see all guests".to_owned());
    }
    if source_of(known, seen).and_then(|source| source.rights_digest).as_ref() != Some(&rights.digest) {
        return Some("the token's rights changed since the pass before".to_owned());
    }
    None
}

/// Whether one host answers for what was a cluster of several. Somebody who really dissolved it takes another name
/// for what is left; a cluster of which one node remains still answers as one.
fn alone(known: &BTreeMap<Key, Known>, seen: &Observation) -> bool {
    seen.clustered == Some(false) && of_cluster(known, Section::Node, &seen.cluster).nth(1).is_some()
}

/// Whether the address leads to another cluster now: no node that answers was known, and no guest either.
fn stranger(known: &BTreeMap<Key, Known>, seen: &Observation) -> bool {
    let mut nodes = of_cluster(known, Section::Node, &seen.cluster).peekable();
    seen.scope == Scope::Full
        && seen.reach.is_complete()
        && nodes.peek().is_some()
        && nodes.all(|(key, _)| !seen.nodes.keys().any(|node| *key == Key::node(&seen.cluster, node)))
        && !seen.nodes.values().flat_map(|node| &node.guests).any(|sight| is_old_friend(known, seen, sight))
}

/// Whether a guest proves that a renamed host is still the same lab.
fn is_old_friend(known: &BTreeMap<Key, Known>, seen: &Observation, sight: &GuestSight) -> bool {
    let guest = &sight.guest;
    let known: Option<Guest> =
        known.get(&Key::guest(guest.kind, &seen.cluster, guest.vmid)).and_then(Known::typed);
    sight.read.contains(&Part::Config) && known.is_some_and(|known| merge::is_surely_same(&known, guest))
}
