//! A bounded set of things found by fingerprint: the least recently used one makes room, and one that is in use never
//! does. It reads no clock and closes nothing; what it gives back, the caller closes.

use crate::credential::Fingerprint;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// The set. Lookups compare with every entry, so that time tells nothing about the fingerprints that are there.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    slots_max: usize,
}

#[derive(Debug)]
struct Slot<T> {
    fingerprint: Fingerprint,
    thing: Arc<T>,
    last_used: Instant,
}

impl<T> Slot<T> {
    /// Whether nobody but the set holds it.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.thing) == 1
    }
}

/// What became of a thing that was put in.
#[derive(Debug)]
pub(crate) enum Put<T> {
    /// It is in; another may have made room.
    Done { evicted: Option<Arc<T>> },
    /// One of the same fingerprint came first.
    Lost { kept: Arc<T> },
    /// All are in use.
    Full,
}

impl<T> Slots<T> {
    pub(crate) const fn new(slots_max: usize) -> Self {
        Self { slots: Vec::new(), slots_max }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Finds one and marks it used.
    pub(crate) fn get(&mut self, fingerprint: &Fingerprint, now: Instant) -> Option<Arc<T>> {
        let mut found = None;
        for slot in &mut self.slots {
            if slot.fingerprint == *fingerprint {
                slot.last_used = now;
                found = Some(slot.thing.clone());
            }
        }
        found
    }

    /// Puts one in.
    pub(crate) fn put(&mut self, fingerprint: Fingerprint, thing: Arc<T>, now: Instant) -> Put<T> {
        if let Some(kept) = self.get(&fingerprint, now) {
            return Put::Lost { kept };
        }
        let mut evicted = None;
        if self.slots.len() >= self.slots_max {
            let idle = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_idle());
            let Some((oldest, _)) = idle.min_by_key(|(_, slot)| slot.last_used) else { return Put::Full };
            evicted = Some(self.slots.swap_remove(oldest).thing);
        }
        self.slots.push(Slot { fingerprint, thing, last_used: now });
        Put::Done { evicted }
    }

    /// Takes out this very thing, in use or not.
    pub(crate) fn remove(&mut self, thing: &Arc<T>) -> Option<Arc<T>> {
        let at = self.slots.iter().position(|slot| Arc::ptr_eq(&slot.thing, thing))?;
        Some(self.slots.swap_remove(at).thing)
    }

    /// Takes out what nobody used for `idle`, and what `is_dead`.
    pub(crate) fn sweep(
        &mut self,
        now: Instant,
        idle: Duration,
        is_dead: impl Fn(&T) -> bool,
    ) -> Vec<Arc<T>> {
        let is_over = |slot: &mut Slot<T>| {
            is_dead(&slot.thing) || (slot.is_idle() && now.duration_since(slot.last_used) >= idle)
        };
        self.slots.extract_if(.., is_over).map(|slot| slot.thing).collect()
    }

    /// Takes out everything.
    pub(crate) fn drain(&mut self) -> Vec<Arc<T>> {
        self.slots.drain(..).map(|slot| slot.thing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::keys::Seed;

    const IDLE: Duration = Duration::from_secs(600);

    fn fingerprint() -> Fingerprint {
        Fingerprint::of(&Seed::generate())
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (a, b, c) = (fingerprint(), fingerprint(), fingerprint());
        let mut slots = Slots::new(2);
        assert!(matches!(slots.put(a, Arc::new("a"), at(0)), Put::Done { evicted: None }));
        assert!(matches!(slots.put(b, Arc::new("b"), at(1)), Put::Done { evicted: None }));
        assert_eq!(slots.get(&a, at(2)).as_deref(), Some(&"a"));
        let Put::Done { evicted: Some(evicted) } = slots.put(c, Arc::new("c"), at(3)) else {
            panic!("no room")
        };
        assert_eq!(*evicted, "b");
        assert!(slots.get(&b, at(4)).is_none() && slots.len() == 2);
    }

    #[test]
    fn what_is_in_use_stays() {
        let now = Instant::now();
        let (a, b) = (fingerprint(), fingerprint());
        let mut slots = Slots::new(1);
        let held = Arc::new("a");
        slots.put(a, held.clone(), now);
        assert!(matches!(slots.put(b, Arc::new("b"), now), Put::Full));
        assert!(slots.sweep(now + IDLE, IDLE, |_| false).is_empty());
        assert!(matches!(slots.put(a, Arc::new("twin"), now), Put::Lost { kept } if *kept == "a"));
        drop(held);
        assert!(matches!(slots.put(b, Arc::new("b"), now), Put::Done { evicted: Some(_) }));
    }

    #[test]
    fn idle_and_dead_ones_are_swept() {
        let start = Instant::now();
        let mut slots = Slots::new(4);
        for (word, age) in [("old", 0), ("new", 1), ("dead", 1)] {
            slots.put(fingerprint(), Arc::new(word), start + Duration::from_secs(age));
        }
        let swept: Vec<&str> =
            slots.sweep(start + IDLE, IDLE, |w| *w == "dead").iter().map(|w| **w).collect();
        assert_eq!(swept, ["old", "dead"]);
        assert_eq!(slots.drain().len(), 1);
    }

    #[test]
    fn only_the_very_thing_is_removed() {
        let now = Instant::now();
        let mut slots = Slots::new(2);
        let thing = Arc::new("a");
        slots.put(fingerprint(), thing.clone(), now);
        assert!(slots.remove(&Arc::new("a")).is_none());
        assert!(slots.remove(&thing).is_some() && slots.len() == 0);
    }
}
