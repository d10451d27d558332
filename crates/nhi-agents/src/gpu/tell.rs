//! Tells the mesh: at once when the light or the lock changes, else every few seconds, and hears what the mesh says. A
//! mesh that does not answer keeps nobody here waiting: its silence makes the GPU unavailable to others, not to us.

use super::{Options, book::Book};
use nhi_bus::{
    call::{self, Timeout},
    commands::{Command, Commands},
    connect::Bus,
    cx::Cx,
};
use nhi_model::{
    call::{StateReport, StateReported},
    gpu::{Gpu, GpuReport, GpuSaid},
};
use std::{collections::BTreeMap, error::Error as _, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep_until};

/// How long a report may take; the next one tells more.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// How soon it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Tells until the context stops.
pub(super) async fn run(cx: Cx, bus: Bus, options: Arc<Options>, book: Book) {
    let mut commands = match Commands::open(&bus).await {
        Ok(commands) => commands,
        Err(error) => {
            let source = error.source().map(ToString::to_string);
            tracing::error!(agent = "gpu", err = %error, source, "commands not heard");
            return;
        }
    };
    let (mut shown, mut said, mut link) = (book.shown.subscribe(), book.said.subscribe(), bus.link());
    let (mut loaded, mut freed) = (book.loaded.subscribe(), book.freed.subscribe());
    let mut light = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            () = cx.cancelled() => return,
            command = commands.next() => match command {
                Some(command) => hear(&book, &command),
                None => return,
            },
            changed = shown.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = { let shown = shown.borrow_and_update(); (shown.memory.light, shown.memory.reason) };
                if light.replace(now) != Some(now) {
                    next = Instant::now();
                }
            }
            // The book is ours, so these never end.
            Ok(()) = said.changed() => next = Instant::now(),
            Ok(()) = loaded.changed() => next = Instant::now(),
            Ok(()) = freed.changed() => next = Instant::now(),
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                if link.borrow_and_update().is_up() {
                    next = Instant::now();
                }
            }
            () = sleep_until(next) => {
                let is_told = tokio::select! {
                    () = cx.cancelled() => return,
                    told = report(&bus, &options, &book) => told,
                };
                next = Instant::now() + if is_told { options.report } else { RETRY };
            }
        }
    }
}

/// `lock`: what somebody just said to the mesh.
fn hear(book: &Book, command: &Command) {
    match (command.what.as_str(), serde_json::from_slice::<GpuSaid>(&command.payload)) {
        ("lock", Ok(said)) => {
            book.hear(said);
        }
        (what, _) => tracing::debug!(agent = "gpu", what, "command not understood"),
    }
}

/// Reports once; whether it was taken.
async fn report(bus: &Bus, options: &Options, book: &Book) -> bool {
    let shown = book.shown.borrow().clone();
    let relay = book.relay.borrow().clone();
    let gpu = Gpu {
        host: options.host.to_string(),
        cards: shown.cards.clone(),
        driver: shown.driver.clone(),
        relay,
        ..Gpu::default()
    };
    let gpu = gpu.saying(book.said.borrow().clone());
    let report = StateReport {
        os: Some(std::env::consts::OS.to_owned()),
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        facts: BTreeMap::new(),
        gauges: BTreeMap::new(),
        gpu: Some(GpuReport { gpu, gauges: book.gauges() }),
    };
    let body = serde_json::to_vec(&report).expect("a report is JSON");
    let answer = call::call_raw(bus, "state", "report", body.into(), Timeout::of(ANSWER_MAX)).await;
    match answer.map(|answer| serde_json::from_slice::<StateReported>(&answer)) {
        Ok(Ok(StateReported { gpu, .. })) => {
            let told = gpu.unwrap_or_default();
            book.admit(told.routers);
            if let Some(said) = told.said {
                book.hear(said);
            }
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(agent = "gpu", err = %error, "answer to a report not understood");
            true
        }
        Err(error) => {
            tracing::debug!(agent = "gpu", err = %error, "report not taken");
            false
        }
    }
}
