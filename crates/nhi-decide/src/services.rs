//! The dependency graph laid over the guests: which guest carries which service, what needs a guest, and in which
//! order guests stop and start. The graph is read once for its record. It does not know what runs.

use crate::{observe::Known, resolve::Roster};
use nhi_model::{key::Key, policy::Policy};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

/// The graph's record, read: its services by number, and which needs which.
#[derive(Debug, Default)]
pub(crate) struct Links {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, usize>,
    /// From a service to what it needs.
    needs: Edges,
    /// From a service to what needs it.
    needed_by: Edges,
    /// Services whose name is not in lower case, so that a guest's may differ from it in case.
    odd: Vec<usize>,
}

/// The graph over the guests of one state.
#[derive(Debug)]
pub struct Services<'a> {
    links: &'a Links,
    /// Services that policy alone names. Their numbers follow those of the graph.
    added: Vec<&'a str>,
    /// Those of them whose name is not in lower case.
    added_odd: Vec<usize>,
    policy: &'a Policy,
    /// Revision of the graph's record; 0 when there is none.
    pub revision: u64,
    /// Why the graph may be out of date.
    pub stale: Option<&'a str>,
}

/// What needs a guest, the nearest first.
#[derive(Debug)]
pub struct Dependents<'s, 'a> {
    services: &'s Services<'a>,
    /// From each service to the one it needs on the way to the guest.
    through: Vec<Option<usize>>,
    /// Each of them.
    pub rows: Vec<Dependent<'a>>,
}

/// Something that needs a guest, directly or through others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dependent<'a> {
    /// The service.
    pub service: &'a str,
    number: usize,
    /// The guests that carry it; none when no guest is known to.
    pub guests: Vec<&'a Key>,
}

impl<'a> Dependents<'_, 'a> {
    /// The way from a service to the guest's own: what each needs is the next.
    pub fn chain(&self, from: &Dependent<'a>) -> impl Iterator<Item = &'a str> {
        let next = |at: &usize| self.through[*at];
        std::iter::successors(next(&from.number), next).map(|at| self.services.name(at))
    }

    /// Every guest that carries one of them.
    pub fn guests(&self) -> impl Iterator<Item = &'a Key> {
        self.rows.iter().flat_map(|row| &row.guests).copied()
    }
}

/// Numbered pairs, by their first.
#[derive(Debug, Default)]
struct Edges {
    starts: Vec<usize>,
    ends: Vec<usize>,
}

impl Edges {
    fn new(count: usize, pairs: impl Iterator<Item = (usize, usize)> + Clone) -> Self {
        let mut starts = vec![0; count + 1];
        for (from, _) in pairs.clone() {
            starts[from + 1] += 1;
        }
        for at in 0..count {
            starts[at + 1] += starts[at];
        }
        let mut ends = vec![0; starts[count]];
        let mut next = starts.clone();
        for (from, to) in pairs {
            ends[next[from]] = to;
            next[from] += 1;
        }
        Self { starts, ends }
    }

    /// None from what was not among them.
    fn of(&self, from: usize) -> &[usize] {
        let bound = |at: usize| self.starts.get(at).copied().unwrap_or(self.ends.len());
        &self.ends[bound(from)..bound(from + 1)]
    }
}

impl Links {
    /// Reads the graph's record. One of another shape has no services.
    pub(crate) fn of(known: &BTreeMap<Key, Known>) -> Self {
        let record = known.get(&Key::graph()).and_then(|known| known.record.get("services"));
        let Some(rows) = record.and_then(Value::as_object) else { return Self::default() };
        let mut names: Vec<Arc<str>> = rows.keys().map(|name| name.as_str().into()).collect();
        let mut numbers: HashMap<Arc<str>, usize> =
            names.iter().enumerate().map(|(number, name)| (name.clone(), number)).collect();
        let mut number_of = |name: &str| {
            numbers.get(name).copied().unwrap_or_else(|| {
                let (name, number): (Arc<str>, _) = (name.into(), names.len());
                names.push(name.clone());
                numbers.insert(name, number);
                number
            })
        };
        let mut pairs: Vec<(usize, usize)> = Vec::new();
        for (from, row) in rows.values().enumerate() {
            for needed in texts(row, "depends_on") {
                pairs.push((from, number_of(needed)));
            }
            for dependent in texts(row, "required_by") {
                pairs.push((number_of(dependent), from));
            }
        }
        Self {
            needs: Edges::new(names.len(), pairs.iter().copied()),
            needed_by: Edges::new(names.len(), pairs.iter().map(|(from, to)| (*to, *from))),
            odd: (0..names.len()).filter(|number| names[*number].bytes().any(is_odd)).collect(),
            names,
            numbers,
        }
    }
}

impl<'a> Services<'a> {
    /// Lays the graph that was read of these records over their guests.
    pub(crate) fn new(links: &'a Links, known: &'a BTreeMap<Key, Known>, policy: &'a Policy) -> Self {
        let record = known.get(&Key::graph());
        let named = policy.services.keys().map(String::as_str);
        let added: Vec<&str> = named.filter(|name| !links.numbers.contains_key(*name)).collect();
        let odd = (0..added.len()).filter(|at| added[*at].bytes().any(is_odd));
        Self {
            links,
            added_odd: odd.map(|at| links.names.len() + at).collect(),
            added,
            policy,
            revision: record.map_or(0, |known| known.revision),
            stale: record.and_then(|known| known.stale.as_ref()).map(|stale| stale.reason.as_str()),
        }
    }

    /// How many there are.
    fn count(&self) -> usize {
        self.links.names.len() + self.added.len()
    }

    fn name(&self, number: usize) -> &'a str {
        let links = self.links;
        links.names.get(number).map_or_else(|| self.added[number - links.names.len()], |name| &**name)
    }

    fn number(&self, name: &str) -> Option<usize> {
        let links = self.links;
        let added = || self.added.iter().position(|added| *added == name).map(|at| links.names.len() + at);
        links.numbers.get(name).copied().or_else(added)
    }

    /// The service of a name: as it is written, or the only one that differs in case alone.
    pub fn find(&self, name: &str) -> Option<&'a str> {
        if let Some(number) = self.number(name) {
            return Some(self.name(number));
        }
        let all = (0..self.count()).map(|number| self.name(number));
        let mut alike = all.filter(|known| known.eq_ignore_ascii_case(name));
        alike.next().filter(|_| alike.next().is_none())
    }

    /// The guests that carry a service: those policy names, else those of its name.
    pub fn carriers(&self, service: &str, roster: &'a Roster<'a>) -> Vec<&'a Key> {
        match self.policy.services.get(service) {
            None => roster.named(service).collect(),
            Some(references) => {
                let found = references.iter().flat_map(|reference| roster.all(reference));
                found.map(|row| row.key).collect::<BTreeSet<_>>().into_iter().collect()
            }
        }
    }

    /// The services a guest carries.
    fn carried(&self, guest: &Key, roster: &'a Roster<'a>) -> Vec<usize> {
        let name = roster.get(guest).map(|row| row.name()).unwrap_or_default();
        let lower = name.to_lowercase();
        let odd = self.links.odd.iter().chain(&self.added_odd).copied();
        let alike = odd.filter(|number| self.name(*number).to_lowercase() == lower);
        let mut own: BTreeSet<usize> = alike.chain(self.number(&lower)).collect();
        own.retain(|number| !self.policy.services.contains_key(self.name(*number)));
        let named = self.policy.services.keys().filter_map(|service| Some((service, self.number(service)?)));
        own.extend(
            named.filter(|(service, _)| self.carriers(service, roster).contains(&guest)).map(|(_, at)| at),
        );
        own.into_iter().collect()
    }

    /// Everything that needs a guest, the nearest first. What the guest itself carries is left out.
    pub fn dependents(&self, guest: &Key, roster: &'a Roster<'a>) -> Dependents<'_, 'a> {
        let mut todo: VecDeque<usize> = self.carried(guest, roster).into();
        let mut out = Dependents { services: self, through: Vec::new(), rows: Vec::new() };
        if todo.is_empty() {
            return out;
        }
        out.through = vec![None; self.count()];
        let mut seen = vec![false; self.count()];
        todo.iter().for_each(|service| seen[*service] = true);
        while let Some(needed) = todo.pop_front() {
            for number in self.links.needed_by.of(needed).iter().copied() {
                if !std::mem::replace(&mut seen[number], true) {
                    out.through[number] = Some(needed);
                    todo.push_back(number);
                    let service = self.name(number);
                    let mut guests = self.carriers(service, roster);
                    guests.retain(|carrier| *carrier != guest);
                    out.rows.push(Dependent { service, number, guests });
                }
            }
        }
        out
    }

    /// A service and everything it needs, directly or through others.
    pub fn needed(&self, service: &str) -> Vec<&'a str> {
        self.needed_from(self.number(service))
    }

    /// Everything the services of a guest need, directly or through others.
    pub fn needed_by_guest(&self, guest: &Key, roster: &'a Roster<'a>) -> Vec<&'a str> {
        self.needed_from(self.carried(guest, roster))
    }

    fn needed_from(&self, from: impl IntoIterator<Item = usize>) -> Vec<&'a str> {
        let mut seen = vec![false; self.count()];
        let mut todo: VecDeque<usize> = from.into_iter().collect();
        todo.iter().for_each(|service| seen[*service] = true);
        let mut found = Vec::new();
        while let Some(service) = todo.pop_front() {
            found.push(self.name(service));
            for needed in self.links.needs.of(service) {
                if !std::mem::replace(&mut seen[*needed], true) {
                    todo.push_back(*needed);
                }
            }
        }
        found
    }

    /// Guests in the order in which they stop: what needs another goes before it. Guests that need each other in a
    /// circle (each carrying something the other needs) come last, by key.
    pub fn stop_order(&self, guests: &BTreeSet<Key>, roster: &'a Roster<'a>) -> Vec<Key> {
        // Two points for each service, before and after its carriers, so that what needs it stops before all of them
        // and what it needs after all of them; without carriers it only passes the order on.
        let count = self.count();
        let members: Vec<&Key> = guests.iter().collect();
        let numbers: BTreeMap<&Key, usize> = members.iter().enumerate().map(|(at, key)| (*key, at)).collect();
        let (before, after, member) = (|s: usize| s, |s: usize| count + s, |g: usize| 2 * count + g);
        let mut pairs = Vec::new();
        for service in 0..count {
            pairs.extend(self.links.needs.of(service).iter().map(|needed| (after(service), before(*needed))));
            let carriers = self.carriers(self.name(service), roster);
            let mut carriers = carriers.iter().filter_map(|key| numbers.get(key)).peekable();
            if carriers.peek().is_none() {
                pairs.push((before(service), after(service)));
            }
            for guest in carriers {
                pairs.push((before(service), member(*guest)));
                pairs.push((member(*guest), after(service)));
            }
        }
        let total = 2 * count + members.len();
        let edges = Edges::new(total, pairs.iter().copied());
        let mut waits_for = vec![0_usize; total];
        pairs.iter().for_each(|(_, to)| waits_for[*to] += 1);
        let mut ready: VecDeque<usize> = (0..total).filter(|point| waits_for[*point] == 0).collect();
        let mut order = Vec::new();
        let mut placed = vec![false; members.len()];
        while let Some(point) = ready.pop_front() {
            if let Some(guest) = point.checked_sub(2 * count) {
                placed[guest] = true;
                order.push(members[guest].clone());
            }
            for next in edges.of(point) {
                waits_for[*next] -= 1;
                if waits_for[*next] == 0 {
                    ready.push_back(*next);
                }
            }
        }
        order.extend(
            members.iter().zip(&placed).filter(|(_, placed)| !**placed).map(|(key, _)| (*key).clone()),
        );
        order
    }
}

fn texts<'a>(row: &'a Value, field: &str) -> impl Iterator<Item = &'a str> {
    row.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

const fn is_odd(byte: u8) -> bool {
    byte.is_ascii_uppercase() || !byte.is_ascii()
}

#[cfg(test)]
mod tests;
