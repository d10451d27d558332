//! What needs a guest: the dependency graph over the guests, read from the records themselves. Made once for a plan, and
//! only for one that interrupts something.

use super::Scene;
use crate::sight::GuestSight;
use nhi_model::{
    graph::Graph,
    intent::{GuestRef, Reference},
    key::{Key, Section},
};
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Which guests need which.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    /// From a service to what needs it.
    needed_by: HashMap<&'a str, Vec<&'a str>>,
    /// Guests that carry each service.
    carriers: HashMap<&'a str, BTreeSet<&'a Key>>,
}

/// Reads the graph's record.
///
/// # Errors
/// The sentence when there is one that cannot be read: then nobody knows what needs what.
pub(super) fn graph(scene: &Scene<'_>) -> Result<Graph, String> {
    match scene.known.get(&Key::graph()) {
        None => Ok(Graph::default()),
        Some(known) => known.typed().ok_or_else(|| "the dependency graph's record cannot be read".to_owned()),
    }
}

impl<'a> Needs<'a> {
    pub(super) fn new(graph: &'a Graph, scene: &'a Scene<'a>) -> Self {
        let mut needed_by: HashMap<&str, Vec<&str>> = HashMap::new();
        for (name, service) in &graph.services {
            for needed in &service.depends_on {
                needed_by.entry(needed).or_default().push(name);
            }
            for dependent in &service.required_by {
                needed_by.entry(name).or_default().push(dependent);
            }
        }
        let names: HashSet<&str> = graph
            .services
            .keys()
            .map(String::as_str)
            .chain(needed_by.iter().flat_map(|(needed, by)| by.iter().copied().chain([*needed])))
            .collect();
        let guests = Guests::new(scene);
        let carriers = names.into_iter().map(|name| (name, guests.carriers(name, scene))).collect();
        Self { needed_by, carriers }
    }

    /// The guests that need this one, directly or through others.
    pub(super) fn dependents(&self, guest: &Key) -> BTreeSet<&'a Key> {
        let own = self.carriers.iter().filter(|(_, guests)| guests.contains(guest)).map(|(name, _)| *name);
        let mut todo: VecDeque<&str> = own.collect();
        let mut reached: HashSet<&str> = todo.iter().copied().collect();
        let mut out = BTreeSet::new();
        while let Some(service) = todo.pop_front() {
            for dependent in self.needed_by.get(service).into_iter().flatten() {
                if reached.insert(dependent) {
                    out.extend(
                        self.carriers.get(dependent).into_iter().flatten().filter(|key| **key != guest),
                    );
                    todo.push_back(dependent);
                }
            }
        }
        out
    }
}

/// All guests by what names them, as they are recorded and as they were seen.
#[derive(Default)]
struct Guests<'a> {
    by_name: HashMap<String, Vec<&'a Key>>,
    by_tag: HashMap<String, Vec<&'a Key>>,
}

impl<'a> Guests<'a> {
    fn new(scene: &'a Scene<'a>) -> Self {
        let mut guests = Self::default();
        for (key, known) in scene.known {
            if matches!(key.section(), Section::Vm | Section::Lxc) {
                let name = known.record.get("name").and_then(Value::as_str).unwrap_or_default();
                let tags = known.record.get("tags").and_then(Value::as_array);
                guests.add(key, name, tags.into_iter().flatten().filter_map(Value::as_str));
            }
        }
        for (key, guest) in &scene.sight.guests {
            match guest {
                GuestSight::Seen(seen) => {
                    let tags = seen.tags();
                    guests.add(key, &seen.name, tags.iter().map(String::as_str));
                }
                GuestSight::Gone | GuestSight::Unseen { .. } => {}
            }
        }
        guests
    }

    fn add<'t>(&mut self, key: &'a Key, name: &str, tags: impl Iterator<Item = &'t str>) {
        self.by_name.entry(name.to_ascii_lowercase()).or_default().push(key);
        for tag in tags {
            self.by_tag.entry(tag.to_ascii_lowercase()).or_default().push(key);
        }
    }

    /// The guests that carry a service: those policy names, else those of its name.
    fn carriers(&self, service: &str, scene: &Scene<'_>) -> BTreeSet<&'a Key> {
        match scene.policy.services.get(service) {
            None => self.named(service).collect(),
            Some(references) => references.iter().flat_map(|reference| self.meant(reference)).collect(),
        }
    }

    fn named(&self, name: &str) -> impl Iterator<Item = &'a Key> {
        self.by_name.get(&name.to_ascii_lowercase()).into_iter().flatten().copied()
    }

    fn meant(&self, reference: &GuestRef) -> Vec<&'a Key> {
        let of = |cluster: &Option<String>, key: &Key| {
            cluster.as_ref().is_none_or(|cluster| key.tokens().first() == Some(cluster))
        };
        let all = self.by_name.values().flatten().copied();
        match reference.reference() {
            Reference::Tag(tag) => {
                self.by_tag.get(&tag.to_ascii_lowercase()).into_iter().flatten().copied().collect()
            }
            Reference::Name { cluster, name } => self.named(&name).filter(|key| of(&cluster, key)).collect(),
            Reference::Vmid { cluster, vmid } => {
                let number = vmid.to_string();
                all.filter(|key| key.tokens().last() == Some(&number) && of(&cluster, key)).collect()
            }
            Reference::Key(wanted) => all.filter(|key| key.tokens() == wanted.tokens()).collect(),
        }
    }
}
