//! What happens behind the door when the light turns red: what runs is cut or ends, models are unloaded, and the memory
//! is looked at until it is free. It needs no mesh. It loads nothing: that is what requests do.

use super::{
    OnRed, RelayOptions,
    backend::Backend,
    book::Book,
    watch::{self, Held, Senses},
};
use nhi_bus::cx::Cx;
use nhi_model::gpu::Freed;
use std::{convert::Infallible, time::Duration};
use tokio::{
    sync::watch as channel,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

/// How long requests may go on where they may end.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// How long cut requests may take to be gone: dropping a connection takes no time.
const GONE_MAX: Duration = Duration::from_millis(500);
/// How long the server may take to be told once, before the memory is looked at all the same.
const TOLD_MAX: Duration = Duration::from_millis(700);
/// Between two looks at what still runs, and at memory that is not free.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at memory that is, and between two times models are told.
const AGAIN: Duration = Duration::from_millis(500);
/// How soon the memory is to be free. Later is told as a problem.
const FREE_WITHIN: Duration = Duration::from_secs(2);
/// How long it is looked after: a model that was being loaded when its request was cut comes up only later. Past it,
/// what somebody at the machine loads is not ours to end, and what never went goes only when somebody sees to it.
const FREE_MAX: Duration = Duration::from_secs(50);
/// Memory that counts as free where the server has no model in it: one that stays keeps some hundred megabytes.
const FREE_BYTES_MAX: u64 = 768 << 20;
/// How often the server is asked what it has in memory, and how often it is looked whether it came free at last.
const FOLLOW: Duration = Duration::from_secs(5);

/// Follows which models are in memory.
pub(super) async fn follow(cx: Cx, backend: Backend, book: Book) {
    let mut pace = interval(FOLLOW);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cx.cancelled() => return,
            _ = pace.tick() => ask(&backend, &book).await,
        }
    }
}

/// A server that does not answer has nothing in memory that it could tell of.
async fn ask(backend: &Backend, book: &Book) {
    let mut loaded = backend.loaded().await.unwrap_or_else(|error| {
        tracing::trace!(agent = "gpu", backend = %backend, err = %error, "models in memory not told");
        None
    });
    backend.contexts(loaded.as_deref_mut().unwrap_or_default()).await;
    book.loaded.send_if_modified(|current| {
        let is_news = *current != loaded;
        *current = loaded;
        is_news
    });
}

/// Frees the machine each time the light turns red. Before the first look the light is red, and nobody knows why.
pub(super) async fn run(cx: Cx, options: RelayOptions, senses: Senses, book: Book) {
    let mut shown = book.shown.subscribe();
    loop {
        let since = tokio::select! {
            () = cx.cancelled() => return,
            red = shown.wait_for(|shown| shown.seen && watch::is_red(shown)) => match red {
                Ok(red) => red.memory.since,
                Err(_) => return,
            },
        };
        tokio::select! {
            () = cx.cancelled() => return,
            // Green again while we were at it: what was begun is begun, the rest may stay. Or red anew.
            over = shown.wait_for(|shown| !watch::is_red(shown) || shown.memory.since != since) => {
                if over.is_err() {
                    return;
                }
            }
            never = free(&options, &senses, &book) => match never {},
        }
        book.cut.send_replace(false);
    }
}

async fn free(options: &RelayOptions, senses: &Senses, book: &Book) -> Infallible {
    book.freed.send_replace(None);
    if options.on_red == OnRed::Finish {
        let _ended = timeout(FINISH_MAX, idle(book)).await;
    }
    let began = Instant::now();
    book.cut.send_replace(true);
    let _gone = timeout(GONE_MAX, idle(book)).await;
    // A server that hangs keeps nobody from looking.
    let _told = timeout(TOLD_MAX, let_go(&options.backend, book)).await;
    tend(&options.backend, senses, book, began).await
}

/// Looks after the memory for its time, and from then on only whether it came free.
async fn tend(backend: &Backend, senses: &Senses, book: &Book, began: Instant) -> Infallible {
    let held = channel::Sender::new(true);
    let telling = insist(backend, book, held.subscribe());
    tokio::select! {
        never = telling => match never {},
        () = look_after(senses, book, began, &held) => {}
    }
    // Nobody is told to let go any more, and whoever does it all the same is believed.
    loop {
        sleep(FOLLOW).await;
        if book.freed.borrow().as_ref().is_some_and(|freed| freed.free) {
            continue;
        }
        if let Some(seen) = look(senses, book).await.filter(|seen| !seen.is_held) {
            publish(book, seen, began.elapsed());
        }
    }
}

async fn let_go(backend: &Backend, book: &Book) {
    if let Err(error) = backend.unload().await {
        tracing::debug!(agent = "gpu", %backend, err = %error, "models not unloaded");
    }
    ask(backend, book).await;
}

/// Has models unloaded again while memory is held: one may have been loading when it was asked.
async fn insist(backend: &Backend, book: &Book, mut held: channel::Receiver<bool>) -> Infallible {
    loop {
        sleep(AGAIN).await;
        if held.wait_for(|held| *held).await.is_err() {
            return std::future::pending().await;
        }
        let_go(backend, book).await;
    }
}

/// Looks whether the memory is free, and goes on looking whether it stays so.
async fn look_after(senses: &Senses, book: &Book, began: Instant, held: &channel::Sender<bool>) {
    while began.elapsed() < FREE_MAX {
        let seen = look(senses, book).await;
        let is_held = seen.is_some_and(|seen| seen.is_held);
        held.send_if_modified(|held| std::mem::replace(held, is_held) != is_held);
        if let Some(seen) = seen {
            publish(book, seen, began.elapsed());
        }
        sleep(if is_held { PAUSE } else { AGAIN }).await;
    }
}

/// Whether it is held, by who can tell.
async fn look(senses: &Senses, book: &Book) -> Option<Held> {
    let reading = senses.look().await;
    let loaded = book.loaded.borrow().clone();
    watch::held(&reading, loaded.as_deref(), FREE_BYTES_MAX)
}

/// Tells that it is free, or that it is not although it should be.
fn publish(book: &Book, seen: Held, elapsed: Duration) {
    let free = !seen.is_held;
    let is_known = book.freed.borrow().as_ref().is_some_and(|freed| freed.free == free);
    if is_known || (!free && elapsed < FREE_WITHIN) {
        return;
    }
    let after_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    let by = seen.by.as_str();
    if free {
        tracing::info!(agent = "gpu", elapsed_ms = after_ms, by, "memory of the gpu is free");
    } else {
        tracing::warn!(
            agent = "gpu",
            elapsed_ms = after_ms,
            by,
            bytes = seen.bytes,
            "the model server keeps its memory"
        );
    }
    book.freed.send_replace(Some(Freed { free, after_ms, by: seen.by, held_bytes: seen.bytes }));
}

/// Returns when nothing of ours runs.
async fn idle(book: &Book) {
    while book.counts.running() > 0 {
        sleep(PAUSE).await;
    }
}

#[cfg(all(test, unix))]
mod tests;
