//! Which guests a text means. An ambiguous one is refused with its candidates; nothing is guessed.

use crate::{
    clean,
    observe::Known,
    records::{Once, Records},
};
use nhi_model::{
    guest::GuestKind,
    intent::{GuestRef, Reference},
    key::{Key, decode, encode},
    refusal::{Refusal, RefusalCode},
};
use serde_json::Value;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::OnceLock,
};

/// Candidates that are listed in a refusal; more would not be read.
const CANDIDATES_MAX: usize = 20;

/// A guest's row in the roster. Its record is only read where it is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// Its key.
    pub key: &'a Key,
    /// Virtual machine or container.
    pub kind: GuestKind,
    /// Its record.
    pub known: &'a Known,
}

impl<'a> Row<'a> {
    fn new(key: &'a Key, known: &'a Known) -> Option<Self> {
        Some(Self { key, kind: kind_of(key)?, known })
    }

    /// A text field of the record.
    pub fn text(&self, field: &str) -> Option<&'a str> {
        self.known.record.get(field).and_then(Value::as_str)
    }

    /// Its name as recorded; empty when the record has none.
    pub fn name(&self) -> &'a str {
        self.text("name").unwrap_or_default()
    }

    /// Its cluster as it stands in its key.
    fn token(&self) -> &'a str {
        self.key.as_str().split('.').nth(1).unwrap_or_default()
    }

    /// Whether it is of a cluster.
    pub fn is_in(&self, cluster: &str) -> bool {
        self.token() == encode(cluster)
    }

    /// The guest in words: `VM 105 (mongodb)`.
    pub fn label(&self) -> String {
        format!("{} ({})", crate::fact::named(self.key), clean::text(self.name(), 64))
    }
}

/// The guests there are records of. What takes a look at each of them is done once, and only when it is needed: a lab
/// may have thousands.
#[derive(Debug)]
pub struct Roster<'a> {
    known: &'a BTreeMap<Key, Known>,
    rows: OnceLock<Vec<Row<'a>>>,
    guests: Once<'a, Guests>,
}

/// Guests by name in lower case, and their clusters: what is found out of keys and names alone, whatever else changes.
#[derive(Debug)]
pub(crate) struct Guests {
    /// In key order.
    keys: Vec<Key>,
    /// The first guest of each name.
    first: HashMap<String, usize>,
    /// From each guest to the next of the same name.
    next: Vec<Option<usize>>,
    clusters: BTreeSet<String>,
}

impl Guests {
    fn of(known: &BTreeMap<Key, Known>) -> Self {
        let rows: Vec<Row<'_>> = known.iter().filter_map(|(key, known)| Row::new(key, known)).collect();
        let mut first = HashMap::with_capacity(rows.len());
        let mut next = vec![None; rows.len()];
        // From the last to the first, so that guests of a name follow each other in key order.
        for (at, row) in rows.iter().enumerate().rev() {
            next[at] = first.insert(lower(row.name()).into_owned(), at);
        }
        let mut tokens: Vec<&str> = rows.iter().map(Row::token).collect();
        // Keys are sorted, so those of a cluster stand together.
        tokens.dedup();
        let clusters = tokens.into_iter().filter_map(decode).collect();
        Self { keys: rows.iter().map(|row| row.key.clone()).collect(), first, next, clusters }
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &Key> {
        let first = self.first.get(lower(name).as_ref()).copied();
        std::iter::successors(first, |at| self.next[*at]).map(|at| &self.keys[at])
    }
}

/// The name of a guest's record, empty when it has none; `None` for a record of something else.
pub(crate) fn name_of<'a>(key: &Key, known: &'a Known) -> Option<&'a str> {
    kind_of(key).map(|_| known.record.get("name").and_then(Value::as_str).unwrap_or_default())
}

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

impl<'a> Roster<'a> {
    /// The roster of a state.
    pub const fn new(known: &'a BTreeMap<Key, Known>) -> Self {
        Self { known, rows: OnceLock::new(), guests: Once::here() }
    }

    /// The roster of a state, with what was found out about it before.
    pub fn of(records: &'a Records) -> Self {
        Self { known: records, rows: OnceLock::new(), guests: Once::Kept(&records.guests) }
    }

    /// All guests, in key order.
    pub fn rows(&self) -> &[Row<'a>] {
        self.rows.get_or_init(|| self.known.iter().filter_map(|(key, known)| Row::new(key, known)).collect())
    }

    fn guests(&self) -> &Guests {
        self.guests.get_or_find(|| Guests::of(self.known))
    }

    /// The clusters that have guests.
    pub fn clusters(&self) -> &BTreeSet<String> {
        &self.guests().clusters
    }

    /// The guest under a key.
    pub fn get(&self, key: &Key) -> Option<Row<'a>> {
        self.known.get_key_value(key).and_then(|(key, known)| Row::new(key, known))
    }

    /// Every guest of a name, without regard to case.
    pub fn named(&self, name: &str) -> impl Iterator<Item = &Key> {
        self.guests().named(name)
    }

    /// Every guest a text could mean.
    pub fn all(&self, reference: &GuestRef) -> Vec<Row<'a>> {
        match reference.reference() {
            Reference::Key(key) => self.get(&key).into_iter().collect(),
            Reference::Vmid { cluster, vmid } => self.numbered(cluster, vmid),
            Reference::Name { cluster, name } => {
                let here = |row: &Row<'_>| cluster.as_ref().is_none_or(|cluster| row.is_in(cluster));
                let found: Vec<_> = self.named(&name).filter_map(|key| self.get(key)).filter(here).collect();
                // Names that differ in case alone are two names to whoever writes one of them.
                let exact: Vec<_> = found.iter().copied().filter(|row| row.name() == name).collect();
                if exact.is_empty() { found } else { exact }
            }
            Reference::Tag(tag) => {
                self.rows().iter().filter(|row| has_tag(&row.known.record, &tag)).copied().collect()
            }
        }
    }

    fn numbered(&self, cluster: Option<String>, vmid: u32) -> Vec<Row<'a>> {
        let named: Option<BTreeSet<String>> = cluster.map(|cluster| [cluster].into());
        let mut found = Vec::new();
        for name in named.as_ref().unwrap_or_else(|| self.clusters()) {
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
    pub const fn known(&self) -> &'a BTreeMap<Key, Known> {
        self.known
    }
}

fn lower(name: &str) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        Cow::Owned(name.to_lowercase())
    } else {
        Cow::Borrowed(name)
    }
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

fn ambiguous(reference: &GuestRef, found: &[Row<'_>]) -> Refusal {
    let words = |row: &Row<'_>| {
        let cluster = decode(row.token()).unwrap_or_default();
        let node = row.text("node").map(|node| format!(" on node {}", clean::text(node, 64)));
        format!("{} of cluster {}{}", row.label(), clean::text(&cluster, 64), node.unwrap_or_default())
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
