//! Takes from quotas and budgets that all routers share, and gives back what was not used. While their store is away a
//! router goes by its share of what was last known to be left, so that all of them together never take more.

use nhi_bus::usage::{Rows, Step, Usage, UsageError};
use nhi_decide::quota::{Gone, Meter, Quota, Ticket, share};
use nhi_model::{Timestamp, ai::UsageKey};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
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
    /// What this router took by itself while the store was away.
    alone: Mutex<BTreeMap<UsageKey, Alone>>,
    away_until: Mutex<Option<Instant>>,
    /// Why the store is away, when it is.
    trouble: watch::Sender<Option<String>>,
}

/// What one router has of a row while the store is away.
#[derive(Debug)]
struct Alone {
    /// As the store was last seen.
    seen: Meters,
    /// Taken here since.
    taken: Meters,
}

impl Counts {
    pub(crate) fn new(usage: Usage, workers: u32) -> Self {
        let (alone, away_until) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { usage, workers, alone, away_until, trouble: watch::Sender::new(None) }))
    }

    /// The meters of a row, as far as is known: good for judging, not for taking.
    pub(crate) fn meters(&self, key: &UsageKey) -> Meters {
        read(self.0.usage.read().get(key))
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
        if !self.is_away() {
            let step = |row: Option<&Value>| {
                let mut meters = read(row);
                match reserve(&mut meters, &lines, now) {
                    Ok(tickets) => Step::Put(write(&meters), Ok(tickets)),
                    Err(gone) => Step::Keep(Err(gone)),
                }
            };
            // A change that is given up may have been made: rather too much counted than too little.
            let change = tokio::time::timeout(TAKE_MAX, self.0.usage.change(&key, step));
            match change.await.unwrap_or(Err(UsageError::Crowded { key: key.clone() })) {
                Ok(taken) => {
                    self.is_back();
                    return taken.map(|tickets| Taken { key, tickets });
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

    /// Replaces a row that is no meter: until when a backend is left alone.
    pub(crate) async fn put(&self, key: &UsageKey, value: &Value) {
        if self.is_away() {
            return;
        }
        if let Err(error) = self.0.usage.change(key, |_| Step::Put(value.clone(), ())).await {
            self.went_away(&error);
        }
    }

    /// A row that is no meter.
    pub(crate) fn row(&self, key: &UsageKey) -> Option<Value> {
        self.0.usage.read().get(key).cloned()
    }

    fn take_alone(&self, key: UsageKey, lines: &[Line], now: Timestamp) -> Result<Taken, Gone> {
        let mut alone = self.0.alone.lock().unwrap_or_else(PoisonError::into_inner);
        let known = alone
            .entry(key.clone())
            .or_insert_with(|| Alone { seen: self.meters(&key), taken: Meters::default() });
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
            self.0.alone.lock().unwrap_or_else(PoisonError::into_inner).clear();
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
        if self.0.usage.change(&key, |_| Step::Keep(())).await.is_ok() {
            self.is_back();
        }
    }
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
