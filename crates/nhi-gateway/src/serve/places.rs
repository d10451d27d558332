//! Who of those that connect is served as usual, and who in a hurry: when all usual places are taken, or one machine has
//! too many of them, there are some more for questions about health, and in those the newest pushes out the oldest. So
//! whoever asks at once is answered, however many hold on. It speaks no HTTP.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
};

/// How many places there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections served as usual. Most of them are listeners to events, which have a limit below this one, so that they
    /// leave room for everybody else.
    pub(super) usual: usize,
    /// Of one machine, unless it is this one: all of a house may come through a proxy here.
    pub(super) each: usize,
    /// Connections served in a hurry.
    pub(super) hurried: usize,
}

/// The places.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    usual: Arc<Semaphore>,
    machines: Machines,
    /// The oldest first.
    hurried: VecDeque<AbortHandle>,
}

/// Connections by machine.
type Machines = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

/// How a connection is served.
#[derive(Debug)]
pub(super) enum Place {
    Usual(#[expect(dead_code, reason = "held for its end")] Usual),
    Hurried,
}

/// A usual place. It is given back when dropped.
#[derive(Debug)]
pub(super) struct Usual {
    #[expect(dead_code, reason = "held for its end")]
    permit: OwnedSemaphorePermit,
    machines: Machines,
    machine: IpAddr,
}

impl Drop for Usual {
    fn drop(&mut self) {
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let left = machines.get(&self.machine).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            machines.remove(&self.machine);
        } else {
            machines.insert(self.machine, left);
        }
    }
}

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        let usual = Arc::new(Semaphore::new(limits.usual));
        Self { limits, usual, machines: Machines::default(), hurried: VecDeque::new() }
    }

    /// The place of somebody who connects from there.
    pub(super) fn take(&self, peer: IpAddr) -> Place {
        let machine = machine(peer);
        let Ok(permit) = self.usual.clone().try_acquire_owned() else { return Place::Hurried };
        let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let count = machines.entry(machine).or_insert(0);
        if *count >= self.limits.each && !machine.is_loopback() {
            return Place::Hurried;
        }
        *count += 1;
        Place::Usual(Usual { permit, machines: self.machines.clone(), machine })
    }

    /// Whether most places are taken, so that nobody should hold one for nothing.
    pub(super) fn is_crowded(&self) -> bool {
        2 * self.usual.available_permits() < self.limits.usual
    }

    /// Notes one that is served in a hurry; the oldest make room.
    pub(super) fn hurry(&mut self, connection: AbortHandle) {
        self.hurried.retain(|other| !other.is_finished());
        while self.hurried.len() >= self.limits.hurried {
            if let Some(oldest) = self.hurried.pop_front() {
                oldest.abort();
            }
        }
        self.hurried.push_back(connection);
    }
}

/// What counts as one machine: it has all addresses of its network of version 6.
fn machine(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_leaves_room_for_others() {
        let places = Places::new(Limits { usual: 5, each: 3, hurried: 1 });
        let take = |peer: &str| places.take(peer.parse().unwrap());
        let mut taken: Vec<Place> =
            ["2001:db8::1", "2001:db8::2", "2001:db8::3"].into_iter().map(take).collect();
        assert!(taken.iter().all(|place| matches!(place, Place::Usual(_))) && places.is_crowded());
        assert!(matches!(take("2001:db8::4"), Place::Hurried), "the same machine under yet another address");
        taken.push(take("2001:db8:0:1::1"));
        taken.push(take("::ffff:192.0.2.1"));
        assert!(taken.iter().all(|place| matches!(place, Place::Usual(_))), "the control: {taken:?}");
        assert!(matches!(take("192.0.2.2"), Place::Hurried), "all are taken");
        drop(taken);
        assert!(places.machines.lock().unwrap().is_empty() && !places.is_crowded(), "given back");
        let here: Vec<Place> = (0..5).map(|_| take("127.0.0.1")).collect();
        assert!(here.iter().all(|place| matches!(place, Place::Usual(_))), "a proxy here brings everybody");
    }

    #[tokio::test]
    async fn the_newest_in_a_hurry_push_out_the_oldest() {
        let mut places = Places::new(Limits { usual: 0, each: 0, hurried: 2 });
        let mut tasks = tokio::task::JoinSet::new();
        let handles: Vec<AbortHandle> = (0..4).map(|_| tasks.spawn(std::future::pending::<()>())).collect();
        for handle in &handles {
            places.hurry(handle.clone());
        }
        for _ in 0..2 {
            assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
        }
        let is_over: Vec<bool> = handles.iter().map(AbortHandle::is_finished).collect();
        assert_eq!(is_over, [true, true, false, false], "the last two stay");
    }
}
