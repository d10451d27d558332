//! Turns at a node's privileged workers, first come first served per node. It knows no connection.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// At most so many calls per node at once.
///
/// A call to the node we talk to, whose name we may not know yet, counts for every node: it could be any. Why not a
/// semaphore per node? It could not count one call for several.
#[derive(Debug)]
pub(crate) struct Gate {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: BTreeMap<Option<String>, usize>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    id: u64,
    node: Option<String>,
    admitted: Arc<Notify>,
}

/// A turn, or a place in the queue for one. Dropping it gives both back.
#[derive(Debug)]
pub(crate) struct Ticket<'a> {
    gate: &'a Gate,
    id: u64,
    node: Option<String>,
}

impl Gate {
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), state: Mutex::default() }
    }

    /// Waits for a turn at this node; `None` is a node whose name is not known. Cancel safe.
    pub(crate) async fn enter(&self, node: Option<String>) -> Ticket<'_> {
        let admitted = Arc::new(Notify::new());
        let ticket = {
            let mut state = self.lock();
            let id = state.next;
            state.next += 1;
            state.waiting.push_back(Waiting { id, node: node.clone(), admitted: admitted.clone() });
            state.admit(self.max);
            Ticket { gate: self, id, node }
        };
        admitted.notified().await;
        ticket
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket<'_> {
    /// Whether it is a turn at this node's workers. One at a node without a name is one everywhere.
    pub(crate) fn counts_for(&self, node: Option<&str>) -> bool {
        self.node.is_none() || self.node.as_deref() == node
    }
}

impl State {
    /// Lets everybody in who fits and has nobody before it at the same node.
    fn admit(&mut self, max: usize) {
        let mut passed_over: Vec<Waiting> = Vec::new();
        for waiting in std::mem::take(&mut self.waiting) {
            let has_predecessor = passed_over.iter().any(|before| overlap(&before.node, &waiting.node));
            if has_predecessor || self.load(&waiting.node) >= max {
                passed_over.push(waiting);
                continue;
            }
            *self.running.entry(waiting.node).or_default() += 1;
            waiting.admitted.notify_one();
        }
        self.waiting = passed_over.into();
    }

    /// How many calls may be running on this node.
    fn load(&self, node: &Option<String>) -> usize {
        let nameless = self.running.get(&None).copied().unwrap_or(0);
        let named = match node {
            Some(_) => self.running.get(node).copied().unwrap_or(0),
            None => self
                .running
                .iter()
                .filter(|(node, _)| node.is_some())
                .map(|(_, count)| *count)
                .max()
                .unwrap_or(0),
        };
        nameless + named
    }

    fn leave(&mut self, node: &Option<String>) {
        if let Some(count) = self.running.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(node);
            }
        }
    }
}

fn overlap(one: &Option<String>, other: &Option<String>) -> bool {
    one.is_none() || other.is_none() || one == other
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        match state.waiting.iter().position(|waiting| waiting.id == self.id) {
            Some(place) => {
                state.waiting.remove(place);
            }
            None => state.leave(&self.node),
        }
        state.admit(self.gate.max);
    }
}

#[cfg(test)]
mod tests;
