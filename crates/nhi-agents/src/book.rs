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
use nhi_model::{
    Timestamp,
    ai::{AiUsage, LedgerEntry, UsageRow},
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc, watch};

/// Lines that wait for the ledger: minutes of a busy house.
const WAITING_MAX: usize = 8192;
/// Tries of one line while the store is away; then it is counted as lost, and told.
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

/// `pause.<provider>`: all routers leave a backend alone that one was told to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    pub(crate) until: Timestamp,
    pub(crate) text: String,
}

/// What is written behind everybody's back.
#[derive(Debug)]
enum Job {
    Done(Box<Done>),
    Pause(String, Pause),
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
        let writer = Writer { bus: bus.clone(), counts, lost: lost.clone() };
        cx.spawn("ledger", writer.run(cx.clone(), jobs));
        Self { queue, lost, bus: bus.clone(), sums: Arc::default() }
    }

    fn close(&self, done: Done) {
        if self.queue.try_send(Job::Done(Box::new(done))).is_err() {
            self.lost.send_modify(|lost| *lost += 1);
            tracing::error!(agent = "route", "line of the ledger lost: too many wait");
        }
    }

    /// Tells all routers to leave a backend alone.
    pub(crate) fn pause(&self, provider: &str, pause: &Pause) {
        if self.queue.try_send(Job::Pause(provider.to_owned(), pause.clone())).is_err() {
            tracing::debug!(agent = "route", backend = provider, "pause not shared: too much waits");
        }
    }

    /// Lines that could not be written since the start.
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
}

impl Writer {
    /// What is over when the router stops is still written, once.
    async fn run(self, stop: Cx, mut jobs: mpsc::Receiver<Job>) {
        loop {
            tokio::select! {
                biased;
                next = jobs.recv() => match next {
                    Some(job) => self.work(job, &stop).await,
                    None => return,
                },
                () = stop.cancelled() => break,
            }
        }
        while let Ok(job) = jobs.try_recv() {
            self.work(job, &stop).await;
        }
    }

    async fn work(&self, job: Job, stop: &Cx) {
        match job {
            Job::Done(done) => self.write(*done, stop).await,
            Job::Pause(provider, pause) => self.counts.pause(provider, &pause).await,
        }
    }

    async fn write(&self, Done { entry, settles }: Done, stop: &Cx) {
        for settle in settles {
            let Settle { taken, requests, tokens, microdollars } = settle;
            let real = |name: &str, _: u64| match name {
                name if name.starts_with("requests") => requests,
                name if name.starts_with("tokens") => tokens,
                _ => microdollars,
            };
            self.counts.settle(taken, real).await;
        }
        let once = uuid::Uuid::now_v7().simple().to_string();
        let mut pause = PAUSE;
        for attempt in 1..=TRIES_MAX {
            let Err(error) = ledger::append(&self.bus, &once, &entry).await else { return };
            tracing::debug!(agent = "route", err = %error, attempt, "line of the ledger not written");
            if stop.is_cancelled() || attempt == TRIES_MAX {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = pause.saturating_mul(2);
        }
        self.lost.send_modify(|lost| *lost += 1);
        tracing::error!(agent = "route", req = entry.id, "line of the ledger lost: its store is away");
    }
}
