//! The lab as the plan's steps so far will leave it: the live sight, and over it what each step is expected to bring.

use super::config::{Lines, write};
use crate::sight::{GuestSight, Seen, Sight};
use nhi_model::key::Key;
use std::collections::BTreeMap;

/// The sight, and what changes on it.
#[derive(Debug)]
pub(super) struct World<'a> {
    sight: &'a Sight,
    changed: BTreeMap<Key, GuestSight>,
    /// Lines the steps wrote to machines that run, in force when these have stopped.
    waiting: BTreeMap<Key, Lines>,
}

/// What is known of one guest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Look<'a> {
    Seen(&'a Seen),
    Gone,
    Unseen(&'a str),
    NotLooked,
}

impl<'a> World<'a> {
    pub(super) const fn new(sight: &'a Sight) -> Self {
        Self { sight, changed: BTreeMap::new(), waiting: BTreeMap::new() }
    }

    pub(super) const fn sight(&self) -> &'a Sight {
        self.sight
    }

    pub(super) fn look(&self, guest: &Key) -> Look<'_> {
        match self.changed.get(guest).or_else(|| self.sight.guests.get(guest)) {
            Some(GuestSight::Seen(seen)) => Look::Seen(seen),
            Some(GuestSight::Gone) => Look::Gone,
            Some(GuestSight::Unseen { why }) => Look::Unseen(why),
            None if self.sight.absent_is_gone => Look::Gone,
            None => Look::NotLooked,
        }
    }

    pub(super) fn seen(&self, guest: &Key) -> Option<&Seen> {
        match self.look(guest) {
            Look::Seen(seen) => Some(seen),
            Look::Gone | Look::Unseen(_) | Look::NotLooked => None,
        }
    }

    /// Whether a step changed it.
    pub(super) fn is_changed(&self, guest: &Key) -> bool {
        self.changed.contains_key(guest)
    }

    /// The guest after a step.
    pub(super) fn change(&mut self, guest: &Key, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.seen(guest) {
            let mut seen = seen.clone();
            // Whatever a step does, Proxmox writes the configuration anew, and its digest is not known beforehand.
            seen.digest = None;
            change(&mut seen);
            self.changed.insert(guest.clone(), GuestSight::Seen(Box::new(seen)));
        }
    }

    /// Notes lines that wait until the guest has stopped.
    pub(super) fn wait(&mut self, guest: &Key, lines: Lines) {
        if !lines.is_empty() {
            self.waiting.entry(guest.clone()).or_default().extend(lines);
        }
    }

    /// The guest has stopped, if only for a moment: what waited for that is in force. Says which lines these are.
    pub(super) fn take_over(&mut self, guest: &Key) -> Lines {
        let lines = self.waiting.remove(guest).unwrap_or_default();
        self.change(guest, |seen| write(seen, &lines));
        lines
    }

    /// What waits is lost: the guest goes back to a configuration without it.
    pub(super) fn give_up_waiting(&mut self, guest: &Key) {
        self.waiting.remove(guest);
    }

    /// A guest that a step makes.
    pub(super) fn add(&mut self, guest: &Key, seen: Seen) {
        self.changed.insert(guest.clone(), GuestSight::Seen(Box::new(seen)));
    }

    /// A guest that a step removes.
    pub(super) fn remove(&mut self, guest: &Key) {
        self.changed.insert(guest.clone(), GuestSight::Gone);
    }
}
