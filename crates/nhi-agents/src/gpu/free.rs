//! What happens behind the door when the light turns red: what runs is cut or ends, models are unloaded, and the memory
//! is looked at until it is free. It needs no mesh. It loads nothing: that is what requests do.

use super::{
    OnRed, RelayOptions,
    backend::{Backend, Server},
    book::Book,
    watch::{self, Senses},
};
use nhi_bus::cx::Cx;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How long requests may go on where they may end.
const FINISH_MAX: Duration = Duration::from_secs(30);
/// How long cut requests may take to be gone: dropping a connection takes no time.
const GONE_MAX: Duration = Duration::from_millis(500);
/// Between two looks at what still runs, and at the memory.
const PAUSE: Duration = Duration::from_millis(50);
/// After how long without memory coming free models are told again: one may have been loading when it was asked.
const AGAIN: Duration = Duration::from_millis(500);
/// How long it is tried. Whoever still holds memory then is not ours to end.
const FREE_MAX: Duration = Duration::from_secs(20);
/// Memory that counts as free: a server that stays keeps some hundred megabytes for itself.
const FREE_BYTES_MAX: u64 = 768 << 20;
/// How often the server is asked what it has in memory.
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
    let loaded = backend.loaded().await.unwrap_or_else(|error| {
        tracing::trace!(agent = "gpu", backend = %backend, err = %error, "models in memory not told");
        None
    });
    book.loaded.send_if_modified(|current| {
        let is_news = *current != loaded;
        *current = loaded;
        is_news
    });
}

/// Frees the machine each time the light turns red.
pub(super) async fn run(cx: Cx, options: RelayOptions, senses: Senses, book: Book) {
    let mut shown = book.shown.subscribe();
    loop {
        tokio::select! {
            () = cx.cancelled() => return,
            red = shown.wait_for(|shown| watch::is_red(shown)) => if red.is_err() { return },
        }
        let freeing = async {
            free(&options, &senses, &book).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = cx.cancelled() => return,
            // Green again while we were at it: what was begun is begun, the rest may stay.
            over = shown.wait_for(|shown| !watch::is_red(shown)) => if over.is_err() { return },
            () = freeing => {}
        }
        book.cut.send_replace(false);
    }
}

async fn free(options: &RelayOptions, senses: &Senses, book: &Book) {
    let began = Instant::now();
    match options.on_red {
        OnRed::Cut => {}
        OnRed::Finish => {
            let _ended = timeout(FINISH_MAX, idle(book)).await;
        }
    }
    book.cut.send_replace(true);
    let _gone = timeout(GONE_MAX, idle(book)).await;
    let mut told_at: Option<Instant> = None;
    loop {
        if told_at.is_none_or(|at| at.elapsed() >= AGAIN) {
            told_at = Some(Instant::now());
            if let Err(error) = options.backend.unload().await {
                tracing::debug!(agent = "gpu", backend = %options.backend, err = %error, "models not unloaded");
            }
            ask(&options.backend, book).await;
        }
        let reading = senses.look().await;
        let loaded = book.loaded.borrow().clone();
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        match watch::holds(&reading, loaded.as_deref(), FREE_BYTES_MAX) {
            Some(false) => {
                tracing::info!(agent = "gpu", elapsed_ms, "memory of the gpu is free");
                return;
            }
            None => {
                tracing::debug!(agent = "gpu", elapsed_ms, "nobody tells whether the memory is free");
                return;
            }
            Some(true)
                if began.elapsed() > FREE_MAX + FINISH_MAX || options.backend.server == Server::Other =>
            {
                tracing::warn!(agent = "gpu", elapsed_ms, backend = %options.backend, "the model server keeps its memory");
                return;
            }
            Some(true) => sleep(PAUSE).await,
        }
    }
}

/// Returns when nothing of ours runs.
async fn idle(book: &Book) {
    while book.counts.running() > 0 {
        sleep(PAUSE).await;
    }
}
