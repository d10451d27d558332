//! Whose turn it is among the names that anybody may have made up: first come, first asked, some each round. It asks
//! nobody, and a name is all it knows.

use std::collections::{BTreeSet, VecDeque};

/// Names of no identity that are asked for in one round at most: a home starts a few services at a time.
pub(super) const NEWCOMERS_MAX: usize = 128;
/// Names that wait at most, so that the last is asked eight rounds later. One that finds no place is heard of again in
/// the next round; who adds an identity for their service needs none.
const WAITING_MAX: usize = 8 * NEWCOMERS_MAX;

/// The names that somebody gave and nobody was asked for yet. Keep it from one survey to the next.
#[derive(Clone, Debug, Default)]
pub struct Turns {
    queue: VecDeque<String>,
    waiting: BTreeSet<String>,
}

impl Turns {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Those whose turn it is: they wait no more.
    pub(super) fn take(&mut self) -> Vec<String> {
        let count = self.queue.len().min(NEWCOMERS_MAX);
        let due: Vec<String> = self.queue.drain(..count).collect();
        self.waiting.retain(|name| !due.contains(name));
        due
    }

    /// Somebody gave this name, and there was no time for it. Given again it keeps its place.
    pub(super) fn wait(&mut self, name: &str) {
        if self.queue.len() < WAITING_MAX && self.waiting.insert(name.to_owned()) {
            self.queue.push_back(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_place_is_asked_within_eight_rounds_however_many_names_are_made_up() {
        let mut turns = Turns::default();
        (1..WAITING_MAX).for_each(|n| turns.wait(&format!("early-{n}")));
        turns.wait("newcomer");
        let mut rounds = 0;
        while turns.waiting.contains("newcomer") {
            (0..2_000).for_each(|n| turns.wait(&format!("made-up-{rounds}-{n}")));
            turns.wait("newcomer");
            assert_eq!(turns.queue.len(), WAITING_MAX);
            assert_eq!(turns.take().len(), NEWCOMERS_MAX);
            rounds += 1;
        }
        assert_eq!(rounds, 8);
    }
}
