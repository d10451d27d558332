//! What each request came to: a line in the ledger, and what it did not use goes back. It is written behind the caller's
//! back, so that nobody waits for it, and also when the caller has gone. It sums the ledger for who asks.

mod budget;
mod counts;
mod note;
mod sums;

pub(crate) use self::{
    budget::{DOLLARS, caller_row, dollars_used, everybody_row, low, needs, project_row},
    counts::{Counts, Line, Meters, Taken},
    note::{Note, Settle, micro},
};

use self::sums::Sums;
use nhi_bus::{connect::Bus, cx::Cx, ledger};
use nhi_decide::route::Health;
use nhi_model::{
    Timestamp,
    ai::{AiUsage, LedgerEntry, UsageRow},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep_until},
};

/// Lines that wait for the ledger: minutes of a busy house.
const WAITING_MAX: usize = 8192;
/// Lines of one message.
const LINES_MAX: usize = 256;
/// Between two messages: each is a write the server syncs, so what comes in the meantime goes together.
const GATHER: Duration = Duration::from_millis(100);
/// Tries of one message while the store is away; then its lines are counted as lost, and told.
const TRIES_MAX: u32 = 5;
/// First pause between tries, doubled each time.
const PAUSE: Duration = Duration::from_millis(250);

/// The ledger's desk. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    queue: mpsc::Sender<Job>,
    lost: watch::Sender<u64>,
    bus: Bus,
    sums: Arc<Mutex<Sums>>,
}

/// `pause.<provider>`: all routers leave alone what one was told to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pauses {
    /// Of all of its models; routers of an earlier version tell no model.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    models: BTreeMap<String, Pause>,
}

/// Of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    pub(crate) until: Timestamp,
    pub(crate) text: String,
}

impl Pauses {
    /// One more; nothing when a longer one stands there: of two routers one may have been told of a minute and the other
    /// one of the day. Those that are over go.
    pub(crate) fn with(mut self, now: Timestamp, model: &str, pause: &Pause) -> Option<Self> {
        let of_model = self.models.get(model).map(|known| known.until);
        if self.until.max(of_model) >= Some(pause.until) {
            return None;
        }
        self.models.retain(|_, known| known.until > now);
        self.models.insert(model.to_owned(), pause.clone());
        Some(self)
    }

    /// Counts for the backend.
    pub(crate) fn hold(self, now: Timestamp, health: &mut Health) {
        if let Some(until) = self.until.filter(|until| *until > now) {
            health.cooling_until = health.cooling_until.max(Some(until));
            health.cooling_text = self.text;
        }
        for (model, pause) in self.models.into_iter().filter(|(_, pause)| pause.until > now) {
            health.pause(&model, pause.until, pause.text);
        }
    }
}

/// What is written behind everybody's back.
#[derive(Debug)]
enum Job {
    Done(Box<Done>),
    Pause { provider: String, model: String, pause: Pause },
}

/// A request that is over.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) entry: LedgerEntry,
    pub(crate) settles: Vec<Settle>,
}

impl Book {
    pub(crate) fn start(cx: &Cx, bus: &Bus, counts: Counts) -> Self {
        let (queue, jobs) = mpsc::channel(WAITING_MAX);
        let lost = watch::Sender::new(0);
        let lines = Vec::new();
        let writer = Writer { bus: bus.clone(), counts, lost: lost.clone(), lines, due: Instant::now() };
        cx.spawn("ledger", writer.run(cx.clone(), jobs));
        Self { queue, lost, bus: bus.clone(), sums: Arc::default() }
    }

    fn close(&self, done: Done) {
        if self.queue.try_send(Job::Done(Box::new(done))).is_err() {
            self.lost.send_modify(|lost| *lost += 1);
            tracing::error!(agent = "route", "line of the ledger lost: too many wait");
        }
    }

    /// Tells all routers to leave a model of a backend alone.
    pub(crate) fn pause(&self, provider: &str, model: &str, pause: Pause) {
        let job = Job::Pause { provider: provider.to_owned(), model: model.to_owned(), pause };
        if self.queue.try_send(job).is_err() {
            tracing::debug!(agent = "route", backend = provider, "pause not shared: too much waits");
        }
    }

    /// Lines that could not be written since the start, at most: of the last try nobody knows.
    pub(crate) fn lost(&self) -> watch::Receiver<u64> {
        self.lost.subscribe()
    }

    /// Sums of the last days.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) async fn rows(&self, ask: &AiUsage) -> Result<Vec<UsageRow>, ledger::LedgerError> {
        let mut sums = self.sums.lock().await;
        sums.rows(&self.bus, ask).await
    }
}

struct Writer {
    bus: Bus,
    counts: Counts,
    lost: watch::Sender<u64>,
    /// Lines of one day that wait to be written.
    lines: Vec<LedgerEntry>,
    /// When they are.
    due: Instant,
}

impl Writer {
    /// What is over when the router stops is still written, once.
    async fn run(mut self, stop: Cx, mut jobs: mpsc::Receiver<Job>) {
        loop {
            tokio::select! {
                biased;
                () = sleep_until(self.due), if !self.lines.is_empty() => self.write(&stop).await,
                next = jobs.recv() => match next {
                    Some(job) => self.work(job, &stop).await,
                    None => break,
                },
                () = stop.cancelled() => break,
            }
        }
        while let Ok(job) = jobs.try_recv() {
            self.work(job, &stop).await;
        }
        self.write(&stop).await;
    }

    async fn work(&mut self, job: Job, stop: &Cx) {
        match job {
            Job::Done(done) => self.close(*done, stop).await,
            Job::Pause { provider, model, pause } => self.counts.pause(provider, &model, &pause).await,
        }
    }

    /// What was not used goes back at once; its line is written with others.
    async fn close(&mut self, Done { entry, settles }: Done, stop: &Cx) {
        for settle in settles {
            let Settle { taken, requests, tokens, microdollars } = settle;
            let real = |name: &str, _: u64| match name {
                name if name.starts_with("requests") => requests,
                name if name.starts_with("tokens") => tokens,
                _ => microdollars,
            };
            self.counts.settle(taken, real).await;
        }
        let is_of_another_day =
            self.lines.last().is_some_and(|line| ledger::day_of(line) != ledger::day_of(&entry));
        if is_of_another_day || self.lines.len() >= LINES_MAX {
            self.write(stop).await;
        }
        self.lines.push(entry);
    }

    /// Writes the lines that wait.
    async fn write(&mut self, stop: &Cx) {
        let lines = std::mem::take(&mut self.lines);
        if lines.is_empty() {
            return;
        }
        let once = uuid::Uuid::now_v7().simple().to_string();
        let mut pause = PAUSE;
        for attempt in 1..=TRIES_MAX {
            let Err(error) = ledger::append(&self.bus, &once, &lines).await else {
                self.due = Instant::now() + GATHER;
                return;
            };
            tracing::debug!(agent = "route", err = %error, attempt, "lines of the ledger not written");
            if stop.is_cancelled() || attempt == TRIES_MAX {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = pause.saturating_mul(2);
        }
        self.lost.send_modify(|lost| *lost += lines.len() as u64);
        tracing::error!(agent = "route", lines = lines.len(), "lines of the ledger lost: its store is away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: u32) -> Timestamp {
        format!("2026-07-01T12:00:{second:02}Z").parse().expect("it is a time")
    }

    fn pause(second: u32) -> Pause {
        Pause { until: at(second), text: format!("until {second}") }
    }

    fn held(pauses: &Pauses, model: &str) -> Option<Timestamp> {
        let mut health = Health::default();
        pauses.clone().hold(at(0), &mut health);
        health.cooling(model, at(0)).map(|(until, _)| until)
    }

    #[test]
    fn one_model_rests_and_a_row_of_an_earlier_version_holds_for_all() {
        let pauses = Pauses::default().with(at(0), "m", &pause(9)).expect("it is new");
        assert_eq!((held(&pauses, "m"), held(&pauses, "n")), (Some(at(9)), None));
        assert_eq!(pauses.clone().with(at(0), "m", &pause(5)), None, "the longer one stays");
        let written = serde_json::to_value(&pauses).expect("it is made of JSON types");
        assert_eq!(Pauses::deserialize(written).expect("it is read again"), pauses);
        let both = pauses.with(at(0), "n", &pause(20)).expect("it is new");
        assert_eq!((held(&both, "m"), held(&both, "n")), (Some(at(9)), Some(at(20))));
        let later = both.with(at(10), "o", &pause(30)).expect("it is new");
        assert_eq!(later.models.keys().collect::<Vec<_>>(), ["n", "o"], "those that are over go");

        let row = json!({ "until": at(15).to_string(), "text": "its limit of the day is reached" });
        let earlier = Pauses::deserialize(row).expect("it is read");
        assert_eq!((held(&earlier, "m"), held(&earlier, "n")), (Some(at(15)), Some(at(15))));
        assert_eq!(earlier.clone().with(at(0), "m", &pause(9)), None);
        let more = earlier.with(at(0), "m", &pause(40)).expect("it is longer");
        assert_eq!((held(&more, "m"), held(&more, "n")), (Some(at(40)), Some(at(15))));
    }
}
