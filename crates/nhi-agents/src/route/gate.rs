//! Who may ask a backend now: as many at a time as it works on, the others in order of their class. It forgets whoever
//! stops waiting.

use nhi_model::ai::Priority;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot;

/// One backend's gate. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Gate(Arc<Mutex<Line>>);

#[derive(Debug)]
struct Line {
    places: u32,
    running: u32,
    next: u64,
    /// By class, then by when they came.
    waiting: BTreeMap<(Priority, u64), oneshot::Sender<Place>>,
}

/// A place at a backend; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Place(Gate);

/// Somebody who waits; dropping it leaves the line.
struct Waiting<'a> {
    gate: &'a Gate,
    key: (Priority, u64),
}

impl Gate {
    pub(super) fn new(places: u32) -> Self {
        Self(Arc::new(Mutex::new(Line { places, running: 0, next: 0, waiting: BTreeMap::new() })))
    }

    /// Waits for a place. Cancel safe: whoever goes has no place.
    pub(super) async fn enter(&self, priority: Priority) -> Place {
        loop {
            let (waiting, turn) = {
                let mut line = self.line();
                if line.running < line.places && line.waiting.is_empty() {
                    line.running += 1;
                    return Place(self.clone());
                }
                let (give, turn) = oneshot::channel();
                let key = (priority, line.next);
                line.next += 1;
                line.waiting.insert(key, give);
                (Waiting { gate: self, key }, turn)
            };
            let place = turn.await;
            drop(waiting);
            // The sender is dropped only together with the line, which `self` keeps.
            if let Ok(place) = place {
                return place;
            }
        }
    }

    /// Requests that are worked on, and those that wait.
    pub(super) fn load(&self) -> (u32, u32) {
        let line = self.line();
        (line.running, u32::try_from(line.waiting.len()).unwrap_or(u32::MAX))
    }

    fn line(&self) -> std::sync::MutexGuard<'_, Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.line().waiting.remove(&self.key);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = {
            let mut line = self.0.line();
            match line.waiting.pop_first() {
                Some((_, next)) => next,
                None => {
                    line.running -= 1;
                    return;
                }
            }
        };
        // One who has just gone gives the place back by dropping it, outside the lock.
        drop(next.send(Self(self.0.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn the_better_class_goes_first_and_who_leaves_blocks_nobody() {
        let gate = Gate::new(1);
        let first = gate.enter(Priority::Bulk).await;
        let mut bulk = Box::pin(gate.enter(Priority::Bulk));
        let mut gone = Box::pin(gate.enter(Priority::Autocomplete));
        let mut chat = Box::pin(gate.enter(Priority::Chat));
        for waiting in [&mut bulk, &mut gone, &mut chat] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        assert_eq!(gate.load(), (1, 3));
        drop(gone);
        drop(first);
        let second = chat.as_mut().now_or_never().expect("it is chat's turn");
        assert!(bulk.as_mut().now_or_never().is_none());
        drop(second);
        drop(bulk.as_mut().now_or_never().expect("it is the last one's turn"));
        assert_eq!(gate.load(), (0, 0));
    }

    #[tokio::test]
    async fn a_place_given_to_somebody_who_has_gone_is_not_lost() {
        let gate = Gate::new(1);
        let first = gate.enter(Priority::Chat).await;
        let mut second = Box::pin(gate.enter(Priority::Chat));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        assert_eq!(gate.load(), (0, 0));
        drop(gate.enter(Priority::Chat).await);
    }
}
