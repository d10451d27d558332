//! Which addresses refused the token, and since when nothing is sent to them. It sends nothing itself.

use super::lock;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
    time::Duration,
};
use tokio::{
    sync::{Mutex as Turnstile, MutexGuard},
    time::Instant,
};

/// The pause after a 401. Each refused try costs a node three seconds, so during a pause an address that refused is
/// not asked, and one that has not been heard yet is asked by one call at a time.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    pause: Mutex<Option<Pause>>,
    probe: Turnstile<()>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    /// What each address said that refused the token.
    refused: BTreeMap<usize, String>,
    /// Addresses that answered something else since.
    answered: BTreeSet<usize>,
}

impl Refusals {
    /// The address refused the token: the pause begins, again if there is one.
    pub(crate) fn refuse(&self, address: usize, text: &str, pause: Duration) {
        let until = Instant::now() + pause;
        let mut current = self.current();
        let current = current.get_or_insert_with(|| Pause {
            until,
            refused: BTreeMap::new(),
            answered: BTreeSet::new(),
        });
        current.until = until;
        current.refused.insert(address, text.to_owned());
        current.answered.remove(&address);
    }

    /// The address answered anything but a 401.
    pub(crate) fn answered(&self, address: usize) {
        if let Some(pause) = &mut *self.current() {
            pause.answered.insert(address);
        }
    }

    /// What the address said, when it is not to be asked now.
    pub(crate) fn refusal(&self, address: usize) -> Option<String> {
        self.current().as_ref()?.refused.get(&address).cloned()
    }

    /// Waits until this call may find out whether the address takes the token that another one refused; the others
    /// wait as long as the guard lives. `None` when that is known, or nothing was refused. Cancel safe.
    pub(crate) async fn probe(&self, address: usize) -> Option<MutexGuard<'_, ()>> {
        if !self.is_in_doubt(address) {
            return None;
        }
        let alone = self.probe.lock().await;
        // Who waited may find it decided.
        self.is_in_doubt(address).then_some(alone)
    }

    /// Ends the pause.
    pub(crate) fn clear(&self) {
        *lock(&self.pause) = None;
    }

    fn is_in_doubt(&self, address: usize) -> bool {
        let is_heard =
            |pause: &Pause| pause.refused.contains_key(&address) || pause.answered.contains(&address);
        self.current().as_ref().is_some_and(|pause| !is_heard(pause))
    }

    /// The pause, unless it is over.
    fn current(&self) -> std::sync::MutexGuard<'_, Option<Pause>> {
        let mut pause = lock(&self.pause);
        pause.take_if(|pause| Instant::now() >= pause.until);
        pause
    }
}
