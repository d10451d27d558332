//! Takes from quotas and budgets that all routers share, and gives back what was not used. While their store is away a
//! router goes by its share of what was last known to be left, so that all of them together never take more; what it took
//! so is written as soon as the store is back, before anything else is taken.

use super::{Pause, Pauses};
use nhi_bus::usage::{Rows, Step, Usage, UsageError};
use nhi_decide::quota::{Gone, Meter, Quota, Ticket, share};
use nhi_model::{Timestamp, ai::UsageKey};
use serde::Deserialize;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// How long a store that did not answer is left alone: each try of it may take seconds, and somebody waits.
const AWAY: Duration = Duration::from_secs(5);

/// How long somebody who waits for an answer waits for the store.
const TAKE_MAX: Duration = Duration::from_secs(2);

/// What was taken of one thing, by the meter's name.
pub(crate) type Meters = BTreeMap<String, Meter>;

/// One limit, and how much is to be taken of it.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) quota: Quota,
    pub(crate) amount: u64,
}

/// What was taken of one row, to be settled.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) key: UsageKey,
    pub(crate) tickets: Vec<(String, Ticket)>,
}

/// The shared counters of one router. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Counts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    usage: Usage,
    workers: u32,
    /// Rows as this router left them: the view may be behind.
    left: Mutex<BTreeMap<UsageKey, Meters>>,
    /// What this router took by itself while the store was away.
    alone: Mutex<BTreeMap<UsageKey, Alone>>,
    /// One at a time writes that.
    handing_in: tokio::sync::Mutex<()>,
    away_until: Mutex<Option<Instant>>,
    /// Why the store is away, when it is.
    trouble: watch::Sender<Option<String>>,
}

/// What one router has of a row while the store is away.
#[derive(Debug, Default)]
struct Alone {
    /// The most of each figure that was seen in the store since.
    seen: Meters,
    /// Taken here since.
    taken: Meters,
}

impl Counts {
    pub(crate) fn new(usage: Usage, workers: u32) -> Self {
        let trouble = watch::Sender::new(None);
        let (left, alone) = (Mutex::default(), Mutex::default());
        let (handing_in, away_until) = (Default::default(), Mutex::default());
        Self(Arc::new(Inner { usage, workers, left, alone, handing_in, away_until, trouble }))
    }

    /// The meters of a row, as far as is known: good for judging, not for taking.
    pub(crate) fn meters(&self, key: &UsageKey) -> Meters {
        read(self.0.usage.read().get(key))
    }

    /// The rows of budgets there are, without `spent.`
    pub(crate) fn spent(&self) -> Vec<String> {
        let rows = self.0.usage.read();
        let name = |key: &UsageKey| match key {
            UsageKey::Spent(name) => Some(name.clone()),
            UsageKey::Quota(_) | UsageKey::Pause(_) => None,
        };
        rows.keys().filter_map(name).collect()
    }

    /// Changes whenever anything is counted.
    pub(crate) fn changed(&self) -> watch::Receiver<Rows> {
        self.0.usage.changed()
    }

    /// Why the store is away; nothing while it is there.
    pub(crate) fn trouble(&self) -> watch::Receiver<Option<String>> {
        self.0.trouble.subscribe()
    }

    /// Takes from all limits of a row, or from none.
    pub(crate) async fn take(&self, key: UsageKey, lines: Vec<Line>, now: Timestamp) -> Result<Taken, Gone> {
        if lines.is_empty() {
            return Ok(Taken { key, tickets: Vec::new() });
        }
        if !self.is_away() && self.hand_in().await {
            let step = |row: Option<&Value>| {
                let mut meters = read(row);
                match reserve(&mut meters, &lines, now) {
                    Ok(tickets) => Step::Put(write(&meters), Ok((tickets, meters))),
                    Err(gone) => Step::Keep(Err(gone)),
                }
            };
            match self.change(&key, step).await {
                Ok(taken) => {
                    self.is_back();
                    let (tickets, meters) = taken?;
                    self.leave(&key, meters);
                    return Ok(Taken { key, tickets });
                }
                Err(error) => self.went_away(&error),
            }
        }
        self.take_alone(key, &lines, now)
    }

    /// Puts what was really taken in place of what was reserved. What cannot be written stays reserved: rather too much
    /// counted than too little.
    pub(crate) async fn settle(&self, taken: Taken, real: impl Fn(&str, u64) -> u64) {
        let Taken { key, tickets } = taken;
        let open = |(name, ticket): &(String, Ticket)| real(name, ticket.amount) != ticket.amount;
        if self.is_away() || !tickets.iter().any(open) {
            return;
        }
        let step = |row: Option<&Value>| {
            let mut meters = read(row);
            for (name, ticket) in &tickets {
                if let Some(meter) = meters.get_mut(name) {
                    meter.settle(*ticket, real(name, ticket.amount));
                }
            }
            Step::Put(write(&meters), ())
        };
        if let Err(error) = self.0.usage.change(&key, step).await {
            self.went_away(&error);
        }
    }

    /// Tells all routers to leave a model of a backend alone.
    pub(crate) async fn pause(&self, provider: String, model: &str, pause: &Pause) {
        if self.is_away() {
            return;
        }
        let step = |row: Option<&Value>| {
            let known = row.and_then(|row| Pauses::deserialize(row).ok()).unwrap_or_default();
            match known.with(Timestamp::now(), model, pause) {
                None => Step::Keep(()),
                Some(pauses) => {
                    Step::Put(serde_json::to_value(pauses).expect("pauses are times and texts"), ())
                }
            }
        };
        if let Err(error) = self.0.usage.change(&UsageKey::Pause(provider), step).await {
            self.went_away(&error);
        }
    }

    /// A row that is no meter.
    pub(crate) fn row(&self, key: &UsageKey) -> Option<Value> {
        self.0.usage.read().get(key).cloned()
    }

    /// A change that is given up may have been made: rather too much counted than too little.
    async fn change<T>(
        &self,
        key: &UsageKey,
        step: impl FnMut(Option<&Value>) -> Step<T>,
    ) -> Result<T, UsageError> {
        let change = tokio::time::timeout(TAKE_MAX, self.0.usage.change(key, step));
        change.await.unwrap_or(Err(UsageError::Crowded { key: key.clone() }))
    }

    /// Writes what was taken alone; whether the store has all of it. What is written is forgotten only then: rather too
    /// much counted than too little.
    async fn hand_in(&self) -> bool {
        if self.alone().is_empty() {
            return true;
        }
        let _first = self.0.handing_in.lock().await;
        while !self.is_away() {
            let next = self.alone().first_key_value().map(|(key, alone)| (key.clone(), alone.taken.clone()));
            let Some((key, taken)) = next else { return true };
            let step = |row: Option<&Value>| {
                let meters = with(read(row), &taken);
                match taken.is_empty() {
                    true => Step::Keep(meters),
                    false => Step::Put(write(&meters), meters),
                }
            };
            match self.change(&key, step).await {
                Ok(meters) => self.leave(&key, meters),
                Err(error) => {
                    self.went_away(&error);
                    break;
                }
            }
            let mut alone = self.alone();
            // Somebody whose try had begun before may have taken more of it in the meantime.
            let rest = alone.remove(&key).map(|alone| without(alone.taken, &taken)).unwrap_or_default();
            if !rest.is_empty() {
                alone.insert(key.clone(), Alone { seen: self.seen(&key), taken: rest });
            }
        }
        false
    }

    fn leave(&self, key: &UsageKey, meters: Meters) {
        self.left().insert(key.clone(), meters);
    }

    fn left(&self) -> MutexGuard<'_, BTreeMap<UsageKey, Meters>> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row as far as is known: of each figure the larger one, because the view may be behind what was taken here, and
    /// what was taken here behind what others took.
    fn seen(&self, key: &UsageKey) -> Meters {
        let known = self.meters(key);
        self.left().get(key).map_or_else(|| known.clone(), |left| larger(known.clone(), left))
    }

    fn alone(&self) -> MutexGuard<'_, BTreeMap<UsageKey, Alone>> {
        self.0.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_alone(&self, key: UsageKey, lines: &[Line], now: Timestamp) -> Result<Taken, Gone> {
        let mut alone = self.alone();
        let known = alone.entry(key.clone()).or_default();
        // Others may still have the store: what is heard of them counts.
        known.seen = larger(self.seen(&key), &known.seen);
        let mut mine: Vec<Line> = lines.to_vec();
        for line in &mut mine {
            let left = known.seen.get(&line.name).cloned().unwrap_or_default().left(&line.quota, now);
            line.quota.limit = share(left, self.0.workers);
        }
        let mut taken = known.taken.clone();
        reserve(&mut taken, &mine, now)?;
        known.taken = taken;
        // Nothing is settled: the share is taken as it was reserved.
        Ok(Taken { key, tickets: Vec::new() })
    }

    fn is_away(&self) -> bool {
        let until = *self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }

    fn is_back(&self) {
        let was = self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner).take();
        if was.is_some() {
            self.0.trouble.send_replace(None);
        }
    }

    fn went_away(&self, error: &UsageError) {
        *self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + AWAY);
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        tracing::debug!(agent = "route", err = %error, "counters are away");
        self.0.trouble.send_if_modified(|trouble| {
            let was = trouble.is_some();
            *trouble = Some(format!("{error}{source}"));
            !was
        });
    }

    /// Whether the store answers again; asked while it is away, so that the alert goes without anybody's request.
    pub(crate) async fn probe(&self) {
        let key = UsageKey::Quota(String::new());
        if let Err(error) = self.change(&key, |_| Step::Keep(())).await {
            return self.went_away(&error);
        }
        if let Some(until) = self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *until = Instant::now();
        }
        if self.hand_in().await {
            self.is_back();
        }
    }
}

fn with(mut meters: Meters, more: &Meters) -> Meters {
    for (name, meter) in more {
        let slots = &mut meters.entry(name.clone()).or_default().slots;
        for (slot, amount) in &meter.slots {
            let sum = slots.entry(*slot).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }
    meters
}

fn larger(mut meters: Meters, other: &Meters) -> Meters {
    for (name, meter) in other {
        let slots = &mut meters.entry(name.clone()).or_default().slots;
        for (slot, amount) in &meter.slots {
            let known = slots.entry(*slot).or_default();
            *known = (*known).max(*amount);
        }
    }
    meters
}

fn without(mut meters: Meters, less: &Meters) -> Meters {
    for (name, meter) in &mut meters {
        let less = less.get(name);
        for (slot, amount) in &mut meter.slots {
            let written = less.and_then(|less| less.slots.get(slot)).copied().unwrap_or(0);
            *amount = amount.saturating_sub(written);
        }
        meter.slots.retain(|_, amount| *amount > 0);
    }
    meters.retain(|_, meter| !meter.slots.is_empty());
    meters
}

fn reserve(meters: &mut Meters, lines: &[Line], now: Timestamp) -> Result<Vec<(String, Ticket)>, Gone> {
    for line in lines {
        meters.entry(line.name.clone()).or_default().check(&line.quota, now, line.amount)?;
    }
    let take = |line: &Line| {
        let meter = meters.entry(line.name.clone()).or_default();
        meter.reserve(&line.quota, now, line.amount).map(|ticket| (line.name.clone(), ticket))
    };
    lines.iter().map(take).collect()
}

/// A row that cannot be read is counted anew.
fn read(row: Option<&Value>) -> Meters {
    row.and_then(|row| serde_json::from_value(row.clone()).ok()).unwrap_or_default()
}

fn write(meters: &Meters) -> Value {
    serde_json::to_value(meters).expect("meters are numbers by time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_bus::{
        cx::Cx,
        store::{StoreSettings, provision},
    };
    use nhi_decide::quota::{Per, What};
    use nhi_testkit::{Nats, wait_for};

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_router_without_the_store_heeds_what_it_hears_of_others() {
        let (nats, cx) = (Nats::start().await, Cx::new());
        provision(&nats.connect(&cx, "home").await, &StoreSettings { replicas: 1 }).await.unwrap();
        let [alone, other] = [nats.connect(&cx, "route").await, nats.connect(&cx, "route").await]
            .map(|bus| Counts::new(Usage::open(&cx, &bus), 2));
        let (key, now) = (UsageKey::Quota("limited".to_owned()), Timestamp::now());
        let quota = Quota::new(What::Requests, Per::Day, 10);
        let take = async |counts: &Counts, amount| {
            let line = Line { name: quota.key(), quota: quota.clone(), amount };
            counts.take(key.clone(), vec![line], now).await
        };
        let heard = async |amount| {
            wait_for("it to hear", SOON, async || {
                let meters = alone.meters(&key);
                let used = meters.get(&quota.key()).map_or(0, |meter| meter.used(&quota, now));
                if used == amount { Ok(()) } else { Err(used) }
            })
            .await;
        };
        take(&other, 2).await.unwrap();
        heard(2).await;
        *alone.0.away_until.lock().unwrap() = Some(Instant::now() + Duration::from_secs(3_600));
        take(&alone, 1).await.unwrap();
        take(&other, 6).await.unwrap();
        heard(8).await;
        // Of the four that were its share then three would be left, of the one that is its share now nothing.
        take(&alone, 1).await.unwrap_err();
        take(&other, 2).await.unwrap();
        cx.close().await;
    }
}
