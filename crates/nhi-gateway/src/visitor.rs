//! Whoever sent a request: its connection, the session it came over, and its place among all requests. It decides
//! nothing about rights.

use crate::{connections::Caller, session::Hold};
use nhi_model::fault::{Fault, FaultCode};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Requests under way at once; below the number of connections, so that others can come and be told that it is full.
const ALL_MAX: usize = 2_240;
/// Of one identity, so that one cannot take all.
const EACH_MAX: usize = 1_280;
/// Listeners are fewer, so that whoever listens much can still call: some pages on each device of a house, and a hundred
/// programs besides, would not reach a tenth.
const LISTENING_ALL_MAX: usize = 2_000;
const LISTENING_EACH_MAX: usize = 1_200;
/// When to come again, for who came when there was no room.
const RETRY_SECONDS: u64 = 5;
/// How often a long answer marks its session as used.
const TOUCH: Duration = Duration::from_secs(60);

/// Whoever sent a request. Long answers keep it until their end, so that the connection stays, and the place taken.
#[derive(Debug)]
pub(crate) struct Visitor {
    pub(crate) caller: Arc<Caller>,
    /// The session, when the credential was its cookie.
    hold: Option<Hold>,
    place: Place,
}

impl Visitor {
    /// Returns when the session it came over is over; with a key, never. Whoever waits here uses the session. Cancel
    /// safe.
    pub(crate) async fn over(&mut self) {
        let Some(hold) = &mut self.hold else { return std::future::pending().await };
        loop {
            hold.touch();
            tokio::select! {
                () = hold.over() => return,
                () = tokio::time::sleep(TOUCH) => {}
            }
        }
    }

    /// Whether there is room for it to listen on and on.
    pub(crate) fn may_listen(&self) -> Result<(), Fault> {
        let (own, all) = self.place.counts();
        if own <= LISTENING_EACH_MAX && all <= LISTENING_ALL_MAX {
            return Ok(());
        }
        let room = format!("{LISTENING_EACH_MAX} listeners of one caller and {LISTENING_ALL_MAX} in all");
        Err(full(format!("there is room for {room}")))
    }
}

/// The places of all requests under way, by public key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Places(Arc<Mutex<BTreeMap<String, usize>>>);

/// One of them. It is given back when dropped.
#[derive(Debug)]
struct Place {
    places: Places,
    key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.with(|counts| {
            let left = counts.get(&self.key).map_or(0, |count| count.saturating_sub(1));
            if left == 0 {
                counts.remove(&self.key);
            } else {
                counts.insert(self.key.clone(), left);
            }
        });
    }
}

impl Place {
    /// How many the same identity has, and all have.
    fn counts(&self) -> (usize, usize) {
        self.places.with(|counts| (counts.get(&self.key).copied().unwrap_or(0), counts.values().sum()))
    }
}

impl Places {
    /// Lets somebody in, when there is room.
    pub(crate) fn admit(&self, caller: Arc<Caller>, hold: Option<Hold>) -> Result<Visitor, Fault> {
        let place = self.take(&caller.public_key).ok_or_else(|| {
            full(format!("there is room for {EACH_MAX} requests of one caller and {ALL_MAX} in all at once"))
        })?;
        Ok(Visitor { caller, hold, place })
    }

    fn take(&self, key: &str) -> Option<Place> {
        let has_room = self.with(|counts| {
            let own = counts.get(key).copied().unwrap_or(0);
            let has_room = own < EACH_MAX && counts.values().sum::<usize>() < ALL_MAX;
            if has_room {
                counts.insert(key.to_owned(), own + 1);
            }
            has_room
        });
        has_room.then(|| Place { places: self.clone(), key: key.to_owned() })
    }

    fn with<R>(&self, work: impl FnOnce(&mut BTreeMap<String, usize>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who came when there was no room, and when to come again.
pub(crate) fn full(message: String) -> Fault {
    Fault::new(FaultCode::TooMany, message, format!("try again in {RETRY_SECONDS} s"))
        .with("retry_after_s", RETRY_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_identity_leaves_room_for_others_and_all_for_health() {
        let places = Places::default();
        let take =
            |key: &str, count: usize| -> Vec<Place> { (0..count).map_while(|_| places.take(key)).collect() };
        let mut greedy = take("a", 10_000);
        assert_eq!(greedy.len(), EACH_MAX);
        let others: Vec<Place> = (0..100).flat_map(|n| take(&format!("b{n}"), 100)).collect();
        assert_eq!(greedy.len() + others.len(), ALL_MAX);
        assert!(places.take("c").is_none(), "all are taken");
        greedy.pop();
        let last = places.take("c").unwrap();
        assert_eq!(last.counts(), (1, ALL_MAX));
        drop((greedy, others, last));
        assert!(places.with(|counts| counts.is_empty()), "every place was given back");
    }
}
