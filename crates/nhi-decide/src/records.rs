//! The records of one state together with what is found out about all of them, so that who decides often finds it out
//! once. Which guests have which name, and which service needs which, are read when they are first asked for, and kept
//! as long as no record they were read from changes. It decides nothing.
//!
//! Records and findings are one value, and only [`Records::put`] and [`Records::remove`] change it: what was found out
//! about other records cannot be asked by mistake.

use crate::{
    observe::Known,
    resolve::{Guests, name_of},
    services::Links,
};
use nhi_model::key::Key;
use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{Arc, OnceLock},
};

/// Every record of a state. It is read as the map it is.
#[derive(Clone, Debug, Default)]
pub struct Records {
    known: BTreeMap<Key, Known>,
    pub(crate) guests: OnceLock<Arc<Guests>>,
    pub(crate) links: OnceLock<Arc<Links>>,
}

impl Records {
    /// The records of a state.
    pub const fn new(known: BTreeMap<Key, Known>) -> Self {
        Self { known, guests: OnceLock::new(), links: OnceLock::new() }
    }

    /// A record is new, or another.
    pub fn put(&mut self, key: Key, record: Known) {
        self.forget(&key, Some(&record));
        self.known.insert(key, record);
    }

    /// A record is no more.
    pub fn remove(&mut self, key: &Key) {
        self.forget(key, None);
        self.known.remove(key);
    }

    /// What was read from a record that changes is read again.
    fn forget(&mut self, key: &Key, after: Option<&Known>) {
        let before = self.known.get(key);
        if *key == Key::graph() {
            self.links = OnceLock::new();
        }
        let name = |known| name_of(key, known);
        if before.and_then(name) != after.and_then(name) {
            self.guests = OnceLock::new();
        }
    }
}

impl Deref for Records {
    type Target = BTreeMap<Key, Known>;

    fn deref(&self) -> &Self::Target {
        &self.known
    }
}

/// Where something is found out once: for this decision alone, or where it is kept with the records.
#[derive(Debug)]
pub(crate) enum Once<'a, T> {
    Here(OnceLock<Arc<T>>),
    Kept(&'a OnceLock<Arc<T>>),
}

impl<T> Once<'_, T> {
    pub(crate) const fn here() -> Self {
        Self::Here(OnceLock::new())
    }

    pub(crate) fn get_or_find(&self, find: impl FnOnce() -> T) -> &T {
        let place = match self {
            Self::Here(place) => place,
            Self::Kept(place) => place,
        };
        place.get_or_init(|| Arc::new(find()))
    }
}

#[cfg(test)]
mod tests;
