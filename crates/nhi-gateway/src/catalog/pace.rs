//! How often there is a closer look, and how often others are told of what it showed: at once when something changes now
//! and then, and less often when it changes on and on. It looks at nothing itself.

use super::Offered;
use nhi_bus::discover::Presence;
use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How often all is asked although the same are there: a service may add an endpoint later.
const FULL: Duration = Duration::from_secs(30);
/// How long after a change all is asked each time: services add their endpoints one after the other.
const SETTLING: Duration = Duration::from_secs(10);

/// Things that may be done a few times in a row, and on average only so often.
#[derive(Debug)]
struct Bucket {
    left: u32,
    most: u32,
    every: Duration,
    filled: Instant,
}

impl Bucket {
    const fn new(most: u32, every: Duration, now: Instant) -> Self {
        Self { left: most, most, every, filled: now }
    }

    /// Whether it may be done now; then it was.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < self.most && now.saturating_duration_since(self.filled) >= self.every {
            self.left += 1;
            self.filled += self.every;
        }
        if self.left == self.most {
            self.filled = now;
        }
        let is_left = self.left > 0;
        self.left -= u32::from(is_left);
        is_left
    }
}

/// When all are asked what they offer.
#[derive(Debug)]
pub(super) struct Pace {
    /// Who was there at the last look.
    present: Option<BTreeSet<Presence>>,
    full_at: Instant,
    settled_at: Instant,
    is_wished: bool,
    /// For looks because of a change.
    changes: Bucket,
    /// For looks that somebody wishes, which costs them nothing.
    wishes: Bucket,
}

impl Pace {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            present: None,
            full_at: now,
            settled_at: now,
            is_wished: false,
            changes: Bucket::new(24, Duration::from_secs(10), now),
            wishes: Bucket::new(8, Duration::from_secs(5), now),
        }
    }

    /// Somebody saw that things are not as they were told.
    pub(super) const fn wish(&mut self) {
        self.is_wished = true;
    }

    /// Whether it is time for a look, with these there.
    pub(super) fn is_due(&mut self, present: &BTreeSet<Presence>, now: Instant) -> bool {
        let has_changed = self.present.as_ref() != Some(present);
        if has_changed {
            self.settled_at = now + SETTLING;
        }
        let is_wished = mem::take(&mut self.is_wished) && self.wishes.take(now);
        let is_unsettled = has_changed || now < self.settled_at;
        now >= self.full_at || is_wished || (is_unsettled && self.changes.take(now))
    }

    /// There was a look, begun then.
    pub(super) fn looked(&mut self, present: BTreeSet<Presence>, began: Instant) {
        self.present = Some(present);
        self.full_at = began + FULL;
    }
}

/// When others are told that the offer changed.
#[derive(Debug)]
pub(super) struct News {
    /// What they know; nothing before the first time.
    told: Option<Arc<Vec<Offered>>>,
    bucket: Bucket,
}

impl News {
    pub(super) const fn new(now: Instant) -> Self {
        Self { told: None, bucket: Bucket::new(8, Duration::from_secs(30), now) }
    }

    /// Whether to tell now, with this on offer. What cannot be told now is told later.
    pub(super) fn is_due(&mut self, services: &Arc<Vec<Offered>>, now: Instant) -> bool {
        let is_known = self.told.as_ref().is_some_and(|told| is_same(told, services));
        let is_due = !is_known && self.bucket.take(now);
        if is_due {
            self.told = Some(services.clone());
        }
        is_due
    }
}

/// Whether the same can be called. Which instances there are, and what is odd about them, makes no difference to that.
fn is_same(before: &[Offered], after: &[Offered]) -> bool {
    let is_alike = |(a, b): (&Offered, &Offered)| {
        (&a.name, &a.version, &a.description) == (&b.name, &b.version, &b.description)
            && a.endpoints == b.endpoints
    };
    before.len() == after.len() && before.iter().zip(after).all(is_alike)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pace of the roll call.
    const ROUND: Duration = Duration::from_secs(2);

    fn present(id: u32) -> BTreeSet<Presence> {
        let presence =
            |name: &str, id: String| Presence { name: name.to_owned(), id, version: "1".to_owned() };
        BTreeSet::from([presence("kettle", "k".to_owned()), presence("flap", id.to_string())])
    }

    fn offered(id: u32, description: &str) -> Arc<Vec<Offered>> {
        Arc::new(vec![Offered {
            name: "flap".to_owned(),
            version: "1".to_owned(),
            description: description.to_owned(),
            instances: vec![id.to_string()],
            endpoints: Vec::new(),
            problems: vec![format!("odd {id}")],
        }])
    }

    /// Looks in ten minutes with these there.
    fn looks(mut id: impl FnMut(u32) -> u32, is_wished: bool) -> u32 {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut count = 0;
        for round in 0..300 {
            let (now, present) = (start + round * ROUND, present(id(round)));
            if is_wished {
                pace.wish();
            }
            if pace.is_due(&present, now) {
                count += 1;
                pace.looked(present, now);
            }
        }
        count
    }

    #[test]
    fn a_service_that_flaps_is_not_looked_at_on_and_on() {
        let flapping = looks(|round| round, false);
        assert!(flapping <= 24 + 60 + 20, "{flapping}");
        let wished = looks(|_| 0, true);
        assert!(wished <= 8 + 120 + 20 + 5, "{wished}");
        // The controls: a quiet mesh, and one change in it, which is looked at until it settles.
        let quiet = looks(|_| 0, false);
        assert!((20..=26).contains(&quiet), "{quiet}");
        let once = looks(|round| u32::from(round > 150), false);
        assert!((quiet + 3..=quiet + 6).contains(&once), "{once}");
    }

    #[test]
    fn a_change_is_looked_at_at_once() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!(pace.is_due(&present(0), start), "the first look");
        pace.looked(present(0), start);
        assert!(pace.is_due(&present(1), start + ROUND));
        pace.looked(present(1), start + ROUND);
        assert!(pace.is_due(&present(1), start + 2 * ROUND), "its endpoints may come one after the other");
        pace.looked(present(1), start + 2 * ROUND);
        assert!(!pace.is_due(&present(1), start + 10 * ROUND), "settled");
    }

    #[test]
    fn others_are_told_what_makes_a_difference_and_not_too_often() {
        let start = Instant::now();
        let mut news = News::new(start);
        assert!(news.is_due(&offered(0, "a"), start), "the first look, whatever it showed");
        let ids = (1..300_u32).filter(|n| news.is_due(&offered(*n, "a"), start + *n * ROUND)).count();
        assert_eq!(ids, 0, "instances come and go, and the same can be called");
        let start = start + 300 * ROUND;
        let words =
            (0..300_u32).filter(|n| news.is_due(&offered(0, &format!("b{n}")), start + *n * ROUND)).count();
        assert!((8..=8 + 20).contains(&words), "{words}");
        let end = start + 300 * ROUND;
        let late = (0..20_u32).filter(|n| news.is_due(&offered(0, "last"), end + *n * ROUND)).count();
        assert_eq!(late, 1, "what was not told at once is told later");
        let mut empty = News::new(start);
        assert!(empty.is_due(&Arc::default(), start) && !empty.is_due(&Arc::default(), start));
    }
}
