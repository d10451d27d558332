//! The state as decisions take it: every record and the dependency graph, made once for a revision and shared by all who
//! decide on it. It follows nothing itself and decides nothing; [`View`] does the one, `nhi-decide` the other.

use nhi_bus::view::{Entry, Snapshot, View};
use nhi_decide::observe::Known;
use nhi_model::{graph::Graph, key::Key};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// The state at one revision.
#[derive(Debug)]
pub(crate) struct Lab {
    /// It.
    pub(crate) revision: u64,
    /// Every record.
    pub(crate) known: BTreeMap<Key, Known>,
    graph: OnceLock<Graph>,
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
        // Where nobody decides on the last one any more, only what changed is taken anew.
        let old = last.take().and_then(|lab| Arc::try_unwrap(lab).ok());
        let lab = Arc::new(Lab::at(&snapshot, old));
        *last = Some(lab.clone());
        Ok(lab)
    }
}

impl Lab {
    fn at(snapshot: &Snapshot, old: Option<Self>) -> Self {
        let (mut known, graph) = old.map_or_else(Default::default, |old| (old.known, old.graph));
        let of_graph = |known: &BTreeMap<Key, Known>| known.get(&Key::graph()).map(|graph| graph.revision);
        let before = of_graph(&known);
        known.retain(|key, _| snapshot.records.contains_key(key));
        for (key, entry) in &snapshot.records {
            if known.get(key).is_none_or(|known| known.revision != entry.revision) {
                known.insert(key.clone(), known_as(entry));
            }
        }
        let graph = if before == of_graph(&known) { graph } else { OnceLock::new() };
        Self { revision: snapshot.revision, known, graph }
    }

    /// The dependency graph among the records; empty when there is none.
    pub(crate) fn graph(&self) -> &Graph {
        self.graph.get_or_init(|| {
            let record = self.known.get(&Key::graph()).map(|known| known.record.clone());
            record.and_then(|record| serde_json::from_value(record).ok()).unwrap_or_default()
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
        let old = Lab::at(&snapshot(3, &first), None);
        assert!(old.graph().services.contains_key("one"));
        let anew = Lab::at(&snapshot(6, &next), None);
        let lab = Lab::at(&snapshot(6, &next), Some(old));
        assert_eq!((lab.revision, &lab.known), (6, &anew.known));
        assert_eq!(lab.graph(), anew.graph());
        assert!(lab.graph().services.contains_key("two"));
        let same = Lab::at(&snapshot(7, &[next[0].clone()]), Some(lab));
        assert!(same.graph.get().is_some(), "a graph that did not change is not read again");
    }
}
