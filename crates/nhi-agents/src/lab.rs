//! The state as decisions take it: every record, the dependency graph and the guests the mesh itself runs on, made once
//! for a revision and shared by all who decide on it. It follows nothing itself and decides nothing; [`View`] does the
//! one, `nhi-decide` the other.

use crate::ourselves::Marks;
use nhi_bus::view::{Entry, Snapshot, View};
use nhi_decide::{observe::Known, records::Records};
use nhi_model::{graph::Graph, key::Key};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// The state at one revision.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lab {
    /// It.
    pub(crate) revision: u64,
    /// Every record, with what was found out about them.
    pub(crate) known: Records,
    graph: OnceLock<Arc<Graph>>,
    ourselves: Ourselves,
}

/// The guests the mesh itself runs on. A record that did not change is not read again for it.
#[derive(Clone, Debug, Default)]
struct Ourselves {
    /// What they were, by records that did not change since.
    before: BTreeSet<Key>,
    /// Records that were not read for it yet.
    unread: BTreeSet<Key>,
    now: OnceLock<BTreeSet<Key>>,
}

/// The state now, kept until the next revision.
#[derive(Debug)]
pub(crate) struct Labs {
    view: View,
    last: Mutex<Option<Arc<Lab>>>,
}

impl Labs {
    pub(crate) fn new(view: View) -> Self {
        Self { view, last: Mutex::default() }
    }

    /// The state as it is now, or why it may be out of date.
    pub(crate) fn now(&self) -> Result<Arc<Lab>, String> {
        let snapshot = self.view.read();
        if let Some(stale) = &snapshot.stale {
            return Err(stale.reason.clone());
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lab) = last.as_ref().filter(|lab| lab.revision == snapshot.revision) {
            return Ok(lab.clone());
        }
        // Only what changed is taken anew. Where somebody decides on the last one still, that stays as it is.
        let old = last.take().map(Arc::unwrap_or_clone).unwrap_or_default();
        let lab = Arc::new(old.at(&snapshot));
        *last = Some(lab.clone());
        Ok(lab)
    }
}

impl Lab {
    /// What it is at another revision.
    fn at(mut self, snapshot: &Snapshot) -> Self {
        let (mut gone, mut fresh) = (Vec::new(), Vec::new());
        // Both are in the order of their keys.
        let mut old = self.known.iter().peekable();
        for (key, entry) in &snapshot.records {
            while let Some((key, _)) = old.next_if(|(other, _)| *other < key) {
                gone.push(key.clone());
            }
            let before = old.next_if(|(other, _)| *other == key);
            if before.is_none_or(|(_, known)| known.revision != entry.revision) {
                fresh.push((key, entry));
            }
        }
        gone.extend(old.map(|(key, _)| key.clone()));
        for key in &gone {
            self.forget(key);
            self.ourselves.unread.remove(key);
            self.known.remove(key);
        }
        for (key, entry) in fresh {
            self.forget(key);
            self.ourselves.unread.insert(key.clone());
            self.known.put(key.clone(), known_as(entry));
        }
        Self { revision: snapshot.revision, ..self }
    }

    /// What was made of a record that changes does not hold any more.
    fn forget(&mut self, key: &Key) {
        if *key == Key::graph() {
            self.graph = OnceLock::new();
        }
        let ourselves = &mut self.ourselves;
        if let Some(now) = ourselves.now.take() {
            (ourselves.before, ourselves.unread) = (now, BTreeSet::new());
        }
        ourselves.before.remove(key);
    }

    /// The guests the mesh itself runs on; the marks are the same each time.
    pub(crate) fn ourselves(&self, marks: &Marks) -> &BTreeSet<Key> {
        let Ourselves { before, unread, now } = &self.ourselves;
        now.get_or_init(|| {
            let unread = unread.iter().filter_map(|key| self.known.get_key_value(key));
            marks.among(unread).union(before).cloned().collect()
        })
    }

    /// The dependency graph among the records; empty when there is none.
    pub(crate) fn graph(&self) -> &Graph {
        self.graph.get_or_init(|| {
            let record = self.known.get(&Key::graph()).map(|known| known.record.clone());
            Arc::new(record.and_then(|record| serde_json::from_value(record).ok()).unwrap_or_default())
        })
    }
}

/// Records as decisions take them.
pub(crate) fn known<'a>(records: impl IntoIterator<Item = (&'a Key, &'a Entry)>) -> BTreeMap<Key, Known> {
    records.into_iter().map(|(key, entry)| (key.clone(), known_as(entry))).collect()
}

fn known_as(entry: &Entry) -> Known {
    let stored = &entry.stored;
    Known { revision: entry.revision, record: stored.record.clone(), stale: stored.stale.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::{
        Timestamp,
        envelope::{OpId, Stored},
        intent::GuestRef,
    };
    use serde_json::{Value, json};

    fn snapshot(revision: u64, records: &[(&str, u64, Value)]) -> Snapshot {
        let entry = |(key, revision, record): &(&str, u64, Value)| {
            let op = OpId("op".to_owned());
            let stored = Stored { v: 1, op, at: Timestamp::UNIX_EPOCH, stale: None, record: record.clone() };
            (Key::parse(key).unwrap(), Entry { revision: *revision, stored: Arc::new(stored) })
        };
        Snapshot { revision, records: records.iter().map(entry).collect(), ..Snapshot::default() }
    }

    #[test]
    fn what_is_made_of_the_last_one_is_what_is_made_anew() {
        let graph = |name: &str| json!({ "services": { name: { "depends_on": [] } } });
        let first = [
            ("graph", 1, graph("one")),
            ("vm.home.101", 2, json!({ "name": "a" })),
            ("vm.home.102", 3, json!({})),
        ];
        let next = [
            ("graph", 5, graph("two")),
            ("vm.home.101", 4, json!({ "name": "b" })),
            ("vm.home.103", 6, json!({})),
        ];
        let old = Lab::default().at(&snapshot(3, &first));
        assert!(old.graph().services.contains_key("one"));
        let anew = Lab::default().at(&snapshot(6, &next));
        let lab = old.at(&snapshot(6, &next));
        assert_eq!((lab.revision, &*lab.known), (6, &*anew.known));
        assert_eq!(lab.graph(), anew.graph());
        assert!(lab.graph().services.contains_key("two"));
        let same = lab.at(&snapshot(7, &[next[0].clone()]));
        assert!(same.graph.get().is_some(), "a graph that did not change is not read again");
        assert_eq!(same.known.keys().collect::<Vec<_>>(), [&Key::graph()]);
    }

    #[test]
    fn who_we_are_follows_the_records() {
        let guest = |vmid: u32, name: &str| {
            json!({
                "cluster": "home", "vmid": vmid, "kind": "qemu", "name": name, "node": "pve1", "status": "running",
                "template": false, "address_source": { "kind": "not-read" }, "backups": { "kind": "not-visible" },
                "identity": {},
            })
        };
        let marks = Marks::read(vec![GuestRef::parse("name:nas").unwrap()], "");
        let first = [("vm.home.101", 1, guest(101, "nas")), ("vm.home.102", 2, guest(102, "web"))];
        let renamed = [("vm.home.101", 3, guest(101, "old")), first[1].clone()];
        let mut lab = Lab::default();
        // Asked at some revisions only: what changed at the others is not lost.
        for (revision, records, ours) in [
            (2, &first[..], Some(&["vm.home.101"][..])),
            (3, &renamed[..], Some(&[][..])),
            (4, &[renamed[0].clone(), ("vm.home.102", 4, guest(102, "nas"))][..], None),
            (
                5,
                &[("vm.home.102", 4, guest(102, "nas")), ("vm.home.103", 5, guest(103, "nas"))][..],
                Some(&["vm.home.102", "vm.home.103"][..]),
            ),
            (6, &[("vm.home.102", 6, guest(102, "nas"))][..], Some(&["vm.home.102"][..])),
            (7, &[][..], None),
            (8, &first[..], Some(&["vm.home.101"][..])),
        ] {
            lab = lab.at(&snapshot(revision, records));
            if let Some(ours) = ours {
                let found: Vec<&str> = lab.ourselves(&marks).iter().map(Key::as_str).collect();
                assert_eq!(found, ours, "at {revision}");
            }
        }
    }
}
