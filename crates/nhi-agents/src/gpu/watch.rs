//! The loop of the publisher: look, have it judged, show it. What others said here counts at once; what takes time
//! (reports, models, memory) happens elsewhere, so that a game is never seen late.

use super::{
    Options,
    book::{Book, Loaded, Shown},
    here,
};
use nhi_bus::cx::Cx;
use nhi_decide::semaphore::{self, CardSight, Memory, Sight};
use nhi_host::{CardReading, Reading, Sensor, Settings};
use nhi_model::{
    Timestamp,
    gpu::{CardGauges, FreedBy, GpuSaid, Light},
};
use std::{convert::Infallible, sync::Arc, thread, time::Duration};
use tokio::{
    sync::{Mutex, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// How often what was said on this machine itself is looked at.
const HERE: Duration = Duration::from_millis(100);
/// How often commands on this machine are told that we live, when nothing changes.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// How long one look may take; it takes milliseconds, and a driver that hangs takes for ever.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// The machine's senses; one look at a time.
#[derive(Clone, Debug)]
pub(super) struct Senses(Arc<Mutex<Sensor>>);

impl Senses {
    pub(super) fn open(settings: Settings) -> Self {
        Self(Arc::new(Mutex::new(Sensor::open(settings))))
    }

    /// Looks. A look that takes too long, or panics, saw nothing but that; none begins before the last one is over.
    pub(super) async fn look(&self) -> Reading {
        let looked = timeout(LOOK_MAX, self.look_unlimited()).await;
        let limit = || format!("the machine cannot be looked at: a look takes longer than {LOOK_MAX:?}");
        looked
            .unwrap_or_else(|_| Err(limit()))
            .unwrap_or_else(|trouble| Reading { troubles: vec![trouble], ..Reading::default() })
    }

    async fn look_unlimited(&self) -> Result<Reading, String> {
        let mut sensor = self.0.clone().lock_owned().await;
        let (tell, told) = oneshot::channel();
        // A thread of its own: a process waits for those of the runtime when it ends, and one that hangs never does.
        let look = move || {
            let reading = sensor.read();
            drop(sensor);
            // Whoever asked may have given up.
            let _ = tell.send(reading);
        };
        let begun = thread::Builder::new().name("gpu look".to_owned()).spawn(look);
        begun.map_err(|error| format!("the machine cannot be looked at: {error}"))?;
        told.await.map_err(|_| "the machine cannot be looked at: the look failed".to_owned())
    }
}

/// Looks again and again.
async fn look_on(senses: Senses, pace: Duration, seen: watch::Sender<Reading>) -> Infallible {
    let mut looks = interval(pace);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        seen.send_replace(senses.look().await);
    }
}

/// Looks until the context stops.
pub(super) async fn run(cx: Cx, options: Arc<Options>, senses: Senses, book: Book) {
    let mut watcher = Watcher { options, book, reading: None, told: None };
    let mut words = interval(HERE);
    words.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Beside everything else: words are heard while a look takes its time.
    let (seen, mut readings) = watch::channel(Reading::default());
    let looking = look_on(senses, watcher.options.look, seen);
    tokio::pin!(looking);
    let mut said = watcher.book.said.subscribe();
    loop {
        tokio::select! {
            () = cx.cancelled() => break,
            never = &mut looking => match never {},
            Ok(()) = readings.changed() => {
                watcher.reading = Some(readings.borrow_and_update().clone());
                watcher.judge(Timestamp::now());
            }
            _ = words.tick() => {
                if let Some(word) = here::said(&watcher.options.run_dir) {
                    watcher.book.hear(word);
                }
            }
            changed = said.changed() => {
                if changed.is_err() {
                    break;
                }
                watcher.keep_word();
                // What was seen last is judged anew: a lock needs no look.
                watcher.judge(Timestamp::now());
            }
        }
    }
    here::forget(&watcher.options.run_dir);
}

struct Watcher {
    options: Arc<Options>,
    book: Book,
    /// What was seen last. Before the first look nothing is judged: the light is red.
    reading: Option<Reading>,
    /// What commands on this machine were told last, and when.
    told: Option<(Arc<Shown>, Instant)>,
}

impl Watcher {
    fn judge(&mut self, now: Timestamp) {
        let Some(reading) = &self.reading else { return };
        let loaded = self.book.loaded.borrow().clone();
        let said = self.book.said.borrow().clone();
        let sight = sight(reading, said, loaded.as_deref(), self.book.counts.running());
        let was = self.book.shown.borrow().clone();
        let memory = semaphore::step(now, &self.options.thresholds, &sight, &was.memory);
        if (memory.light, memory.reason) != (was.memory.light, was.memory.reason) {
            tracing::info!(agent = "gpu", light = %memory.light, reason = memory.reason.as_str(), "light changed");
        }
        let shown = Arc::new(shown(reading, &was, loaded.as_deref(), memory));
        if !is_red(&shown) {
            // Before anybody hears that they may come in again.
            self.book.cut.send_if_modified(std::mem::take);
        }
        self.book.shown.send_if_modified(|current| {
            let is_news = *current != shown;
            *current = shown.clone();
            is_news
        });
        self.tell_here(shown);
    }

    /// For commands on this machine, which work without the mesh.
    fn tell_here(&mut self, shown: Arc<Shown>) {
        let is_known = self.told.as_ref().is_some_and(|(told, at)| {
            let same = (&told.memory.light, &told.memory.text) == (&shown.memory.light, &shown.memory.text);
            same && at.elapsed() < SIGN_OF_LIFE
        });
        let said = self.book.said.borrow().clone();
        if is_known && here::is_told(&self.options.run_dir, said.as_ref()) {
            return;
        }
        let here = here::Here {
            host: self.options.host.to_string(),
            at: Timestamp::now(),
            said,
            relay: self.book.relay.borrow().clone(),
            gauges: self.book.gauges(),
        };
        if let Err(error) = here::tell(&self.options.run_dir, &here) {
            tracing::debug!(agent = "gpu", err = %error, "commands on this machine not told");
        }
        self.told = Some((shown, Instant::now()));
    }

    /// A word of the mesh outlives our restart.
    fn keep_word(&self) {
        // One that was left here this very moment is not lost under it.
        if let Some(word) = here::said(&self.options.run_dir) {
            self.book.hear(word);
        }
        let said = self.book.said.borrow().clone();
        if let Some(said) = said.filter(|said| here::said(&self.options.run_dir).as_ref() != Some(said))
            && let Err(error) = here::keep(&self.options.run_dir, &said)
        {
            tracing::warn!(agent = "gpu", err = %error, "word about a lock not kept");
        }
    }
}

/// What the light is judged by.
fn sight(reading: &Reading, said: Option<GpuSaid>, loaded: Option<&[Loaded]>, running: u32) -> Sight {
    let alone = reading.cards.len() == 1;
    let card = |card: &CardReading| CardSight {
        utilization_percent: card.utilization_percent,
        utilization_ours_percent: card.utilization_ours_percent,
        memory_used_bytes: card.vram_used_bytes,
        memory_ours_bytes: ours(card, alone, loaded),
        temperature_c: card.temperature_c,
    };
    Sight {
        lock: said.and_then(|said| said.lock),
        game: reading.game.as_ref().map(nhi_host::Game::text),
        remote_desktop: reading.remote_desktop.map(|port| format!("port {port}")),
        idle_ms: reading.idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        cards: reading.cards.iter().map(card).collect(),
        unreadable: reading.troubles.first().cloned(),
        running,
    }
}

/// What our own inference takes of a card: by the driver, else, where there is one card alone, by the model server.
fn ours(card: &CardReading, alone: bool, loaded: Option<&[Loaded]>) -> Option<u64> {
    let by_server = || loaded?.iter().try_fold(0_u64, |sum, model| Some(sum + model.vram_bytes?));
    card.vram_ours_bytes.or_else(|| if alone { by_server() } else { None })
}

fn shown(reading: &Reading, was: &Shown, loaded: Option<&[Loaded]>, memory: Memory) -> Shown {
    let alone = reading.cards.len() == 1;
    let gauges =
        |card: &CardReading| CardGauges { vram_ours_bytes: ours(card, alone, loaded), ..card.gauges() };
    // A card that cannot be read now was not taken out.
    let is_lost = reading.cards.is_empty() && !reading.troubles.is_empty();
    let (cards, driver) = if is_lost {
        (was.cards.clone(), was.driver.clone())
    } else {
        (reading.cards.iter().map(|card| card.card.clone()).collect(), reading.driver.clone())
    };
    Shown {
        seen: true,
        memory,
        cards,
        driver,
        gauges: reading.cards.iter().map(gauges).collect(),
        idle_s: reading.idle.map(|idle| idle.as_secs()),
    }
}

/// Whether our own inference holds memory of the cards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) is_held: bool,
    /// How much, where the driver tells.
    pub(super) bytes: Option<u64>,
    pub(super) by: FreedBy,
}

/// Whether our own inference holds memory of the cards worth speaking of; `None` where nobody can tell.
pub(super) fn held(reading: &Reading, loaded: Option<&[Loaded]>, bytes_max: u64) -> Option<Held> {
    let cards = Some(&reading.cards).filter(|cards| !cards.is_empty());
    let sum =
        |of: fn(&CardReading) -> Option<u64>| cards?.iter().try_fold(0, |sum, card| Some(sum + of(card)?));
    // One that runs on the processor alone is in nobody's way.
    let is_there = |model: &Loaded| model.vram_bytes != Some(0);
    let is_loaded = loaded.map(|loaded| loaded.iter().any(is_there));
    if let Some(bytes) = sum(|card| card.vram_ours_bytes) {
        let is_held = bytes > bytes_max || (bytes > 0 && is_loaded == Some(true));
        return Some(Held { is_held, bytes: Some(bytes), by: FreedBy::Driver });
    }
    if sum(|card| card.processes_ours.map(|count| count as u64)) == Some(0) {
        return Some(Held { is_held: false, bytes: None, by: FreedBy::Processes });
    }
    is_loaded.map(|is_held| Held { is_held, bytes: None, by: FreedBy::Server })
}

/// Whether nothing of ours may go on.
pub(super) fn is_red(shown: &Shown) -> bool {
    shown.memory.light == Light::Red
}

#[cfg(test)]
mod tests;
