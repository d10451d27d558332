//! The signals that end a long-running command: once in good order, twice at once.

use std::time::Duration;
#[cfg(unix)]
use std::{
    future::poll_fn,
    task::{Context, Poll},
};
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// `timeout` and some shells send each signal to the process and then to its group: that is one wish, not two.
const REPEATED: Duration = Duration::from_millis(300);

/// Ctrl-C, all there is elsewhere.
#[cfg(not(unix))]
pub(crate) async fn stop() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// Told to stop a second time.
#[cfg(not(unix))]
pub(crate) async fn insisted() {
    stop().await;
    tokio::time::sleep(REPEATED).await;
    stop().await;
}

/// Ctrl-C, SIGTERM, or the terminal that was closed.
#[cfg(unix)]
pub(crate) async fn stop() {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
    if !hangup_is_ignored() {
        kinds.push(SignalKind::hangup());
    }
    any(&kinds).await;
}

/// Told to stop a second time. A terminal that closes is no second time: it says so more than once.
#[cfg(unix)]
pub(crate) async fn insisted() {
    stop().await;
    tokio::time::sleep(REPEATED).await;
    any(&[SignalKind::interrupt(), SignalKind::terminate()]).await;
}

#[cfg(unix)]
async fn any(kinds: &[SignalKind]) {
    let mut signals: Vec<Signal> = kinds.iter().filter_map(|kind| signal(*kind).ok()).collect();
    let look = |cx: &mut Context<'_>| {
        let came = signals.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
        if came { Poll::Ready(()) } else { Poll::Pending }
    };
    poll_fn(look).await;
}

/// Whether we were started to outlive the terminal (`nohup nhi up &`), which a handler of ours would undo. Where
/// the system does not tell, closing the terminal ends us.
#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    const HANGUP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & HANGUP != 0)
}
