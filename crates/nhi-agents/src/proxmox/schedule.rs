//! Which guests a pass reads one by one: configurations in turn, addresses with back-off. It reads nothing
//! and has no clock; randomness comes in as a number.

use nhi_decide::observation::GuestRef;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// No configuration is older than this, in a lab that answers.
const CONFIG_AGE_MAX: Duration = Duration::from_secs(300);
/// Addresses move seldom, and asking costs one of a node's few workers.
const ADDRESS_AGE_MAX: Duration = Duration::from_secs(120);
/// First wait after a guest's agent did not answer: a booting guest has one within this or twice this.
const BACK_OFF_MIN: Duration = Duration::from_secs(15);
/// Longest wait: each try with a silent agent holds one of three workers of a node for five seconds.
const BACK_OFF_MAX: Duration = Duration::from_secs(900);

/// What to ask one guest for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Guests whose configuration and snapshots are read.
    pub(crate) configs: BTreeSet<GuestRef>,
    /// Guests whose addresses are read.
    pub(crate) addresses: BTreeSet<GuestRef>,
}

/// When each guest was last asked.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    guests: BTreeMap<GuestRef, Asked>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    config_at: Option<Instant>,
    /// What the configuration says about a guest agent; `None` until it was read.
    has_agent: Option<bool>,
    address_at: Option<Instant>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Schedule {
    /// The work of a full pass that comes every `period`, over all guests and whether each runs.
    pub(crate) fn full(&self, now: Instant, period: Duration, guests: &BTreeMap<GuestRef, bool>) -> Work {
        let mut by_age: Vec<_> = guests.keys().map(|g| (self.asked(*g).config_at, *g)).collect();
        by_age.sort();
        // So many that all are read within the limit when the last of them waits one more period.
        let rounds = (CONFIG_AGE_MAX.as_secs() / period.as_secs().max(1)).saturating_sub(1).max(1);
        let share = by_age.len().div_ceil(usize::try_from(rounds).unwrap_or(usize::MAX));
        let configs = by_age
            .iter()
            .enumerate()
            .filter(|(place, (read_at, _))| {
                *place < share || read_at.is_none_or(|at| now.duration_since(at) + period >= CONFIG_AGE_MAX)
            })
            .map(|(_, (_, guest))| *guest)
            .collect();
        let addresses =
            guests.iter().filter(|(g, runs)| **runs && self.address_due(**g, now)).map(|(g, _)| *g);
        Work { configs, addresses: addresses.collect() }
    }

    /// Guests whose agent failed and whose wait is over: they need not wait for a full pass.
    pub(crate) fn retries(&self, now: Instant) -> BTreeSet<GuestRef> {
        let due =
            |asked: &Asked| asked.retry_at.is_some_and(|at| at <= now) && asked.has_agent != Some(false);
        self.guests.iter().filter(|(_, asked)| due(asked)).map(|(guest, _)| *guest).collect()
    }

    /// Whether a guest is known to have no agent, so that nobody needs to be asked.
    pub(crate) fn has_no_agent(&self, guest: GuestRef) -> bool {
        self.asked(guest).has_agent == Some(false)
    }

    /// A guest changed: whatever was known about when to ask it is void.
    pub(crate) fn changed(&mut self, guest: GuestRef) {
        let asked = self.guests.entry(guest).or_default();
        *asked = Asked { has_agent: asked.has_agent, ..Asked::default() };
    }

    /// A configuration was read.
    pub(crate) fn config_read(&mut self, guest: GuestRef, now: Instant, has_agent: Option<bool>) {
        let asked = self.guests.entry(guest).or_default();
        asked.config_at = Some(now);
        if asked.has_agent != has_agent {
            asked.retry_at = None;
            asked.address_at = None;
        }
        asked.has_agent = has_agent;
    }

    /// A guest told its addresses.
    pub(crate) fn addresses_read(&mut self, guest: GuestRef, now: Instant) {
        let asked = self.guests.entry(guest).or_default();
        asked.address_at = Some(now);
        asked.failures = 0;
        asked.retry_at = None;
    }

    /// A guest did not tell its addresses. `jitter` is a random number from 0 to 1, so that guests that fail
    /// together do not come back together.
    pub(crate) fn addresses_failed(&mut self, guest: GuestRef, now: Instant, jitter: f64) {
        let asked = self.guests.entry(guest).or_default();
        let wait = BACK_OFF_MIN.saturating_mul(1 << asked.failures.min(10)).min(BACK_OFF_MAX);
        asked.address_at = Some(now);
        asked.failures = asked.failures.saturating_add(1);
        asked.retry_at = Some(now + wait.mul_f64(0.75 + 0.5 * jitter.clamp(0.0, 1.0)));
    }

    /// A guest stopped: nothing is due until it runs again.
    pub(crate) fn stopped(&mut self, guest: GuestRef) {
        if let Some(asked) = self.guests.get_mut(&guest) {
            asked.address_at = None;
            asked.failures = 0;
            asked.retry_at = None;
        }
    }

    /// Forgets guests that are no longer there.
    pub(crate) fn keep(&mut self, there: &BTreeMap<GuestRef, bool>) {
        self.guests.retain(|guest, _| there.contains_key(guest));
    }

    fn asked(&self, guest: GuestRef) -> Asked {
        self.guests.get(&guest).copied().unwrap_or_default()
    }

    fn address_due(&self, guest: GuestRef, now: Instant) -> bool {
        let asked = self.asked(guest);
        match asked.retry_at {
            Some(at) => at <= now,
            None => asked.address_at.is_none_or(|at| now.duration_since(at) >= ADDRESS_AGE_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::guest::GuestKind;

    const PERIOD: Duration = Duration::from_secs(60);

    fn guest(vmid: u32) -> GuestRef {
        GuestRef { kind: GuestKind::Qemu, vmid }
    }

    fn lab(count: u32) -> BTreeMap<GuestRef, bool> {
        (1..=count).map(|vmid| (guest(vmid), true)).collect()
    }

    #[test]
    fn the_first_pass_reads_all_and_later_ones_their_share() {
        let mut schedule = Schedule::default();
        let lab = lab(20);
        let start = Instant::now();
        let mut read_at: BTreeMap<GuestRef, Instant> = BTreeMap::new();
        for round in 0..50 {
            let now = start + PERIOD * round;
            let work = schedule.full(now, PERIOD, &lab);
            assert_eq!(work.configs.len(), if round == 0 { 20 } else { work.configs.len() });
            for guest in work.configs {
                schedule.config_read(guest, now, Some(true));
                read_at.insert(guest, now);
            }
            for (guest, at) in &read_at {
                assert!(now.duration_since(*at) <= CONFIG_AGE_MAX, "{guest:?} in round {round}");
            }
        }
        let work = schedule.full(start + PERIOD * 50, PERIOD, &lab);
        assert!(work.configs.len() <= 10, "{}", work.configs.len());
    }

    #[test]
    fn a_changed_guest_is_asked_at_once() {
        let mut schedule = Schedule::default();
        let lab = lab(40);
        let now = Instant::now();
        for guest in lab.keys() {
            schedule.config_read(*guest, now, Some(true));
            schedule.addresses_read(*guest, now);
        }
        assert!(!schedule.full(now + PERIOD, PERIOD, &lab).configs.contains(&guest(40)));
        schedule.changed(guest(40));
        let work = schedule.full(now + PERIOD, PERIOD, &lab);
        assert!(work.configs.contains(&guest(40)) && work.addresses.contains(&guest(40)));
    }

    #[test]
    fn a_silent_agent_is_asked_ever_less() {
        let mut schedule = Schedule::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..12 {
            schedule.addresses_failed(guest(1), now, 0.5);
            assert!(schedule.retries(now).is_empty());
            let asked = schedule.asked(guest(1));
            waits.push(asked.retry_at.unwrap().duration_since(now).as_secs());
            now = asked.retry_at.unwrap();
            assert_eq!(schedule.retries(now), BTreeSet::from([guest(1)]));
        }
        assert_eq!(waits[..4], [15, 30, 60, 120]);
        assert_eq!(waits.last(), Some(&900));
        schedule.addresses_read(guest(1), now);
        assert!(schedule.retries(now + BACK_OFF_MAX).is_empty());
    }

    #[test]
    fn a_guest_without_agent_and_a_stopped_one_are_not_asked() {
        let mut schedule = Schedule::default();
        let now = Instant::now();
        schedule.addresses_failed(guest(1), now, 0.0);
        schedule.stopped(guest(1));
        assert!(schedule.retries(now + BACK_OFF_MAX).is_empty());
        schedule.config_read(guest(2), now, Some(false));
        assert!(schedule.has_no_agent(guest(2)) && !schedule.has_no_agent(guest(1)));
    }
}
