//! Which guests a text means. An ambiguous one is refused with its candidates; nothing is guessed.

use crate::{clean, observe::Known};
use nhi_model::{
    guest::GuestKind,
    intent::{GuestRef, Reference},
    key::Key,
    refusal::{Refusal, RefusalCode},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

/// Candidates that are listed in a refusal; more would not be read.
const CANDIDATES_MAX: usize = 20;

/// A guest's row in the roster, read from its record without judging the rest of it.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its cluster.
    pub cluster: Cow<'a, str>,
    /// Its name as recorded; empty when the record has none.
    pub name: &'a str,
    /// Its record.
    pub known: &'a Known,
}

impl Row<'_> {
    /// A text field of the record.
    pub fn text(&self, field: &str) -> Option<&str> {
        self.known.record.get(field).and_then(Value::as_str)
    }

    /// The guest in words: `VM 105 (mongodb)`.
    pub fn label(&self) -> String {
        format!("{} ({})", crate::fact::named(self.key), clean::text(self.name, 64))
    }
}

/// All guests there are records of, made once for a decision.
#[derive(Debug)]
pub struct Roster<'a> {
    rows: Vec<Row<'a>>,
    by_name: HashMap<Cow<'a, str>, Vec<usize>>,
    clusters: BTreeSet<Cow<'a, str>>,
    known: &'a BTreeMap<Key, Known>,
}

impl<'a> Roster<'a> {
    /// The roster of a state.
    pub fn new(known: &'a BTreeMap<Key, Known>) -> Self {
        let mut rows = Vec::new();
        let mut by_name: HashMap<Cow<'a, str>, Vec<usize>> = HashMap::new();
        let mut clusters = BTreeSet::new();
        for (key, known) in known {
            let Some(kind) = kind_of(key) else { continue };
            let text = |field| known.record.get(field).and_then(Value::as_str);
            let cluster = match text("cluster") {
                Some(cluster) => Cow::Borrowed(cluster),
                None => Cow::Owned(key.tokens().into_iter().next().unwrap_or_default()),
            };
            let name = text("name").unwrap_or_default();
            if !clusters.contains(&cluster) {
                clusters.insert(cluster.clone());
            }
            by_name.entry(lower(name)).or_default().push(rows.len());
            rows.push(Row { key, kind, cluster, name, known });
        }
        Self { rows, by_name, clusters, known }
    }

    /// All guests, in key order.
    pub fn rows(&self) -> &[Row<'a>] {
        &self.rows
    }

    /// The clusters that have guests.
    pub fn clusters(&self) -> &BTreeSet<Cow<'a, str>> {
        &self.clusters
    }

    /// The guest under a key.
    pub fn get(&self, key: &Key) -> Option<&Row<'a>> {
        self.rows.binary_search_by(|row| row.key.cmp(key)).ok().map(|at| &self.rows[at])
    }

    /// Every guest of a name, without regard to case.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Row<'a>> {
        self.by_name.get(lower(name).as_ref()).into_iter().flatten().map(|at| &self.rows[*at])
    }

    /// Every guest a text could mean.
    pub fn all(&self, reference: &GuestRef) -> Vec<&Row<'a>> {
        match reference.reference() {
            Reference::Key(key) => self.get(&key).into_iter().collect(),
            Reference::Vmid { cluster, vmid } => self.numbered(cluster.as_deref(), vmid),
            Reference::Name { cluster, name } => {
                let here = |row: &&Row<'_>| cluster.as_ref().is_none_or(|cluster| row.cluster == *cluster);
                let found: Vec<_> = self.named(&name).filter(here).collect();
                // Names that differ in case alone are two names to whoever writes one of them.
                let exact: Vec<_> = found.iter().copied().filter(|row| row.name == name).collect();
                if exact.is_empty() { found } else { exact }
            }
            Reference::Tag(tag) => self.rows.iter().filter(|row| has_tag(&row.known.record, &tag)).collect(),
        }
    }

    fn numbered(&self, cluster: Option<&str>, vmid: u32) -> Vec<&Row<'a>> {
        let mut found = Vec::new();
        for name in self.clusters.iter().filter(|name| cluster.is_none_or(|cluster| **name == cluster)) {
            let keys = [GuestKind::Qemu, GuestKind::Lxc].map(|kind| Key::guest(kind, name, vmid));
            let rows: Vec<_> = keys.iter().filter_map(|key| self.get(key)).collect();
            // A number belongs to one guest of its cluster: of two records the stale one is of its predecessor.
            let fresh: Vec<_> = rows.iter().copied().filter(|row| row.known.stale.is_none()).collect();
            found.extend(if fresh.len() == 1 { fresh } else { rows });
        }
        found
    }

    /// The guests a text means: one, or all that have a tag.
    ///
    /// # Errors
    /// `unknown-guest`, or `ambiguous-guest` with the candidates.
    pub fn some(&self, reference: &GuestRef) -> Result<Vec<&'a Key>, Refusal> {
        match reference.reference() {
            Reference::Tag(_) => {
                let found = self.all(reference);
                if found.is_empty() {
                    Err(unknown(reference))
                } else {
                    Ok(found.iter().map(|row| row.key).collect())
                }
            }
            Reference::Key(_) | Reference::Vmid { .. } | Reference::Name { .. } => {
                self.one(reference).map(|key| vec![key])
            }
        }
    }

    /// The one guest a text means.
    ///
    /// # Errors
    /// `unknown-guest`, or `ambiguous-guest` with the candidates.
    pub fn one(&self, reference: &GuestRef) -> Result<&'a Key, Refusal> {
        let found = self.all(reference);
        match found.as_slice() {
            [] => Err(unknown(reference)),
            [row] => Ok(row.key),
            several => Err(ambiguous(reference, several)),
        }
    }

    /// The records it was made of.
    pub fn known(&self) -> &'a BTreeMap<Key, Known> {
        self.known
    }
}

/// The kind of guest a key is of, without parsing all of it.
fn kind_of(key: &Key) -> Option<GuestKind> {
    let text = key.as_str();
    if text.starts_with("vm.") {
        Some(GuestKind::Qemu)
    } else if text.starts_with("lxc.") {
        Some(GuestKind::Lxc)
    } else {
        None
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.chars().any(char::is_uppercase) { Cow::Owned(name.to_lowercase()) } else { Cow::Borrowed(name) }
}

/// Whether a guest's record has a tag, without regard to case: Proxmox writes tags in lower case.
fn has_tag(record: &Value, tag: &str) -> bool {
    let tags = record.get("tags").and_then(Value::as_array);
    tags.into_iter().flatten().filter_map(Value::as_str).any(|own| own.eq_ignore_ascii_case(tag))
}

fn unknown(reference: &GuestRef) -> Refusal {
    let what = match reference.reference() {
        Reference::Tag(tag) => format!("no guest has the tag {:?}", clean::text(&tag, 80)),
        Reference::Key(_) | Reference::Vmid { .. } | Reference::Name { .. } => {
            format!("no guest is meant by {:?}", clean::text(reference.as_str(), 80))
        }
    };
    Refusal::new(
        RefusalCode::UnknownGuest,
        what,
        "List the guests with `nhi guest list` (or state.get), and name one by its number; after a change in Proxmox run `nhi scan` first.",
    )
}

fn ambiguous(reference: &GuestRef, found: &[&Row<'_>]) -> Refusal {
    let words = |row: &&Row<'_>| {
        let node = row.text("node").map(|node| format!(" on node {}", clean::text(node, 64)));
        format!("{} of cluster {}{}", row.label(), clean::text(&row.cluster, 64), node.unwrap_or_default())
    };
    let listed: Vec<String> = found.iter().take(CANDIDATES_MAX).map(words).collect();
    let keys: Vec<&str> = found.iter().take(CANDIDATES_MAX).map(|row| row.key.as_str()).collect();
    let text = clean::text(reference.as_str(), 80);
    Refusal::new(
        RefusalCode::AmbiguousGuest,
        format!("{text:?} means {} guests: {}", found.len(), listed.join("; ")),
        "Name one of them: by its number, as CLUSTER/NUMBER, or by its key.",
    )
    .with("candidates", keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(rows: &[(GuestKind, &str, u32, &str, &[&str])]) -> BTreeMap<Key, Known> {
        rows.iter()
            .map(|(kind, cluster, vmid, name, tags)| {
                let record = json!({"cluster": cluster, "name": name, "tags": tags, "node": "pve1"});
                (Key::guest(*kind, cluster, *vmid), Known { revision: 1, record, stale: None })
            })
            .collect()
    }

    #[test]
    fn a_text_means_one_guest_or_is_refused() {
        let known = known(&[
            (GuestKind::Qemu, "home", 105, "db", &["media"]),
            (GuestKind::Lxc, "home", 106, "DB", &[]),
            (GuestKind::Lxc, "home", 107, "web", &["Media"]),
            (GuestKind::Qemu, "away", 105, "web", &[]),
        ]);
        let roster = Roster::new(&known);
        let one = |text: &str| roster.one(&GuestRef::parse(text).unwrap());
        let key = |kind, cluster, vmid| Key::guest(kind, cluster, vmid);
        assert_eq!(one("db"), Ok(&key(GuestKind::Qemu, "home", 105)));
        assert_eq!(one("DB"), Ok(&key(GuestKind::Lxc, "home", 106)));
        assert_eq!(one("home/105"), Ok(&key(GuestKind::Qemu, "home", 105)));
        assert_eq!(one("away/web"), Ok(&key(GuestKind::Qemu, "away", 105)));
        assert_eq!(one("106"), Ok(&key(GuestKind::Lxc, "home", 106)));
        assert_eq!(one("lxc.home.107"), Ok(&key(GuestKind::Lxc, "home", 107)));
        for (text, code) in [
            ("105", RefusalCode::AmbiguousGuest),
            ("web", RefusalCode::AmbiguousGuest),
            ("Db", RefusalCode::AmbiguousGuest),
            ("nosuch", RefusalCode::UnknownGuest),
            ("name:105", RefusalCode::UnknownGuest),
            ("vm.home.107", RefusalCode::UnknownGuest),
            ("other/105", RefusalCode::UnknownGuest),
        ] {
            assert_eq!(one(text).unwrap_err().code, code, "{text}");
        }
        let candidates = &one("web").unwrap_err().details["candidates"];
        assert_eq!(*candidates, json!(["lxc.home.107", "vm.away.105"]));
        assert_eq!(roster.some(&GuestRef::parse("tag:media").unwrap()).unwrap().len(), 2);
    }
}
